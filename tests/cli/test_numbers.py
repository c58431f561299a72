"""Numbers of flags, YAML's spelling, and paths with equals signs, all through the command line."""

import json
import re

import pytest
import yaml

from macrec_hf import MacRecQuantizerTrainingArguments, MacRecTrainingArguments
from macrec_hf.cli.inputs import read_pairs
from macrec_hf.cli.main import build_parser, main
from macrec_hf.cli.yaml_flags import yaml_arguments
from macrec_hf.training.bounds import BOUNDS, Bounds

NEEDED = {
    "embed": ["--items", "i.jsonl", "--output", "o"],
    "quantize": ["--embeddings", "e", "--output", "o"],
    "train": ["--interactions", "i.csv", "--semantic-ids", "ids", "--output", "o"],
    "evaluate": ["m", "--interactions", "i.csv", "--output", "o.json"],
    "recommend": ["m", "--history", "i1"],
    "prepare": ["--format", "recbole", "--input", "x", "--output", "o"],
    "app": ["m"],
    "demo": [],
}
WRONG = [
    ("quantize", "--batch-size 0"),
    ("quantize", "--batch-size -1"),
    ("quantize", "--max-steps 0"),
    ("quantize", "--max-steps -5"),
    ("quantize", "--epochs 0"),
    ("quantize", "--epochs -1"),
    ("quantize", "--epochs nan"),
    ("quantize", "--warmup 5"),
    ("quantize", "--warmup -0.1"),
    ("quantize", "--evaluations 0"),
    ("quantize", "--patience -1"),
    ("quantize", "--hidden-sizes ,"),
    ("quantize", "--hidden-sizes 8,,4"),
    ("quantize", "--contrastive-weights nan,0,0"),
    ("quantize", "--seed -1"),
    ("quantize", "--learning-rate 0"),
    ("quantize", "--weight-decay -1"),
    ("quantize", "--per-device-eval-batch-size 0"),
    ("train", "--batch-size 0"),
    ("train", "--max-steps 0"),
    ("train", "--max-steps -2"),
    ("train", "--epochs -1"),
    ("train", "--eval-every 0"),
    ("train", "--eval-users -1"),
    ("train", "--num-beams 0"),
    ("train", "--seeds 0"),
    ("train", "--learning-rate inf"),
    ("train", "--embedding-learning-rate -1"),
    ("train", "--cross-modal-rate 0"),
    ("train", "--adam-beta1 1"),
    ("train", "--gradient-accumulation-steps 0"),
    ("train", "--dataloader-num-workers -1"),
    ("train", "--save-total-limit 0"),
    ("train", "--max-grad-norm -1"),
    ("train", "--dropout-rate nan"),
    ("evaluate", "--batch-size -1"),
    ("evaluate", "--num-beams 0"),
    ("evaluate", "--limit-users 0"),
    ("evaluate", "--max-history 0"),
    ("recommend", "--top-k 0"),
    ("recommend", "--top-k 2.5"),
    ("recommend", "--batch-size 0"),
    ("embed", "--batch-size 0"),
    ("embed", "--max-length 0"),
    ("embed", "--seed 1.5"),
    ("prepare", "--k-core 0"),
    ("prepare", "--workers 0"),
    ("prepare", "--retries -1"),
    ("prepare", "--timeout 0"),
    ("app", "--port 70000"),
    ("app", "--port 0"),
    ("demo", "--num-items 3"),
    ("demo", "--num-customers 0"),
]


@pytest.mark.parametrize("verb, words", WRONG)
def test_a_number_that_cannot_be_is_one_line(verb, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flag, _, value = words.partition(" ")
    with pytest.raises(SystemExit) as stopped:
        main([verb, *NEEDED[verb], f"{flag}={value}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert f"argument {flag}: expected " in error and f"got {value!r}" in error
    assert not list(tmp_path.iterdir())


def test_whoever_wants_no_cross_modal_examples_is_told_of_the_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["train", *NEEDED["train"], "--cross-modal-rate", "0"])
    assert "got '0'. To leave the tasks between modalities out, name the others: --tasks" in capsys.readouterr().err


def test_numbers_at_the_edge_are_taken():
    parser = build_parser("train")
    words = ["--max-steps", "-1", "--warmup", "0", "--eval-users", "0", "--patience", "0", "--seed", "4294967295"]
    args = parser.parse_args([*NEEDED["train"], *words])
    assert (args.max_steps, args.warmup, args.eval_users, args.patience, args.seed) == (-1, 0.0, 0, 0, 2**32 - 1)


@pytest.mark.parametrize("arguments_class", [MacRecTrainingArguments, MacRecQuantizerTrainingArguments])
@pytest.mark.parametrize(
    "wrong",
    [
        {"per_device_train_batch_size": 0},
        {"max_steps": 0},
        {"num_train_epochs": -1.0},
        {"learning_rate": float("nan")},
        {"gradient_accumulation_steps": 0},
        {"seed": -1},
        {"save_total_limit": 0},
        {"warmup_steps": -1},
        {"per_device_eval_batch_size": True},
        {"num_train_epochs": "3"},
    ],
)
def test_arguments_with_such_a_number_are_refused(arguments_class, wrong, tmp_path):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"^{name}: expected a number .*, got {value!r}"):
        arguments_class(str(tmp_path), **wrong)


def test_every_bound_is_of_a_field_and_holds_its_default(tmp_path):
    fields = vars(MacRecTrainingArguments(str(tmp_path)))
    assert not BOUNDS.keys() - fields.keys()
    assert all(bounds.hold(fields[name]) for name, bounds in BOUNDS.items() if fields[name] is not None)


def test_bounds_say_what_they_are():
    assert str(Bounds(0, above=True)) == "a number above 0" and str(Bounds(1, besides=-1)).endswith("1, or -1")
    assert not Bounds(0).hold(float("inf")) and not Bounds(0, 1, below=True).hold(1)


def words_of(tmp_path, verb, content):
    (tmp_path / "flags.yaml").write_text(content, encoding="utf-8")
    return yaml_arguments(str(tmp_path / "flags.yaml"), build_parser(verb))


@pytest.mark.parametrize(
    "written, history",
    [
        ("history: 0111565", "0111565"),
        ("history: [0111565, 010]", "0111565,010"),
        ("history: 1_000", "1_000"),
        ("history: [1e3, 0x1F, 12:30:45, yes, 2020-01-01, .5, +7]", "1e3,0x1F,12:30:45,yes,2020-01-01,.5,+7"),
        ("history:\n- 007\n- '08'\n- \"9\"", "007,08,9"),
        ("\ufeffhistory: 00", "00"),
        ("history: -5", "-5"),
    ],
)
def test_ids_of_a_yaml_file_keep_their_spelling(tmp_path, written, history):
    args = build_parser("recommend").parse_args(["m", *words_of(tmp_path, "recommend", written)])
    assert args.history == history


def test_switches_numbers_and_objects_of_a_yaml_file(tmp_path):
    content = "json: yes\nexclude_history: false\ntop-k: 5\nitems: ~\nverbose: off\n"
    args = build_parser("recommend").parse_args(["m", "--history=a", *words_of(tmp_path, "recommend", content)])
    assert (args.json, args.exclude_history, args.top_k, args.items, args.verbose) == (True, False, 5, None, False)
    args = build_parser("recommend").parse_args(
        ["m", "--history=a", *words_of(tmp_path, "recommend", "no_exclude_history: no")]
    )
    assert args.exclude_history
    assert words_of(tmp_path, "recommend", "no-exclude-history: true") == ["--no-exclude-history"]
    assert (
        words_of(tmp_path, "evaluate", "lists: []") == words_of(tmp_path, "evaluate", "lists: {}") == []
    )  # as an empty value: the default
    content = "<<: {top-k: 3, json: yes}\ntop-k: 04\n"  # a merge: the file's own keys win
    assert sorted(words_of(tmp_path, "recommend", content)) == ["--json", "--top-k=04"]
    content = (
        "lr_scheduler_kwargs: {last_epoch: 010, deep: [1.5, yes]}\nsemantic_ids: {text: a=b.json, image: c.json}\n"
    )
    args = build_parser("train").parse_args([*NEEDED["train"], *words_of(tmp_path, "train", content)])
    assert (
        args.lr_scheduler_kwargs
        == yaml.safe_load(content)["lr_scheduler_kwargs"]
        == {"last_epoch": 8, "deep": [1.5, True]}
    )
    assert read_pairs(args.semantic_ids) == {"text": "a=b.json", "image": "c.json"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("history: [a\n", "line 2: expected YAML such as"),
        ("\ttop-k: 3", "line 1: expected YAML"),
        ("top-k: 3\ntop-k: 4\n", "line 2: .* 'top-k' stands twice"),
        ("- a\n- b", "expected a mapping of flags"),
        ("json: maybe", "json: expected true or false, got 'maybe'"),
        ("history: [a, null]", "history: expected texts"),
        ("modality: ['a,b']", "expected texts without commas, got 'a,b'"),
        ("history: [[a]]", "got \\['a'\\]"),
        ("5: 3", "'5' is no flag"),
        ("config: other.yaml", "expected flags of the work itself, got 'config'. Take it out"),
        ("help: true", "got 'help'"),
        ("top_k: 5\ntop-k: 6", "expected each flag once, got top_k and top-k"),
        ("exclude_history: true\nno_exclude_history: true", "got exclude_history and no_exclude_history"),
        ("<<: 5", "line 1: expected YAML .* expected a mapping or list of mappings for merging"),
        ("top-k: !!python/object/apply:os.getpid []", "expected YAML"),
    ],
)
def test_what_no_flag_can_have_is_refused_with_its_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        words_of(tmp_path, "recommend", content)


def test_a_yaml_file_in_another_encoding(tmp_path):
    (tmp_path / "flags.yaml").write_bytes("history: é".encode("latin-1"))
    with pytest.raises(ValueError, match="expected text in UTF-8, got the byte 0xe9 at place 9. Save it as UTF-8"):
        yaml_arguments(str(tmp_path / "flags.yaml"), build_parser("recommend"))


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("text=a,image=b", "date=2020-06-26/emb", "lr=0.001"):
        (tmp_path / folder).mkdir(parents=True)
        assert read_pairs(folder) is None, folder
    (tmp_path / "x=1.json").write_text("{}")
    assert read_pairs("x=1.json") is None


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("text=a.npy,image=b.npy", {"text": "a.npy", "image": "b.npy"}),
        ("text=a,b/emb/text.npy,image=lr=0.1/c.npy", {"text": "a,b/emb/text.npy", "image": "lr=0.1/c.npy"}),
        ("text = a , image = b", {"text": "a", "image": "b"}),
        ("runs/lr=0.001/emb", None),
        ("./date=1/emb", None),
        ("/x/y=2", None),
        ("plain", None),
        ("3=a", None),
    ],
)
def test_pairs_are_told_from_paths(text, pairs):
    assert read_pairs(text) == pairs


@pytest.mark.parametrize("text", ["text=", "text=a,text=b", "text=a,image="])
def test_pairs_without_a_path_or_twice_are_refused(text):
    with pytest.raises(ValueError, match="Expected pairs such as text=a,image=b, each name once"):
        read_pairs(text)


def test_a_folder_with_an_equals_sign_goes_through_the_verbs(tmp_path, capsys):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"item_id": f"i{n}", "title": f"red lamp {n}"}) + "\n" for n in range(30)))
    emb, ids = tmp_path / "lr=0.1,b=2" / "emb", tmp_path / "run=1"
    assert main(["embed", "--items", str(items), "--output", str(emb)]) == 0
    sizes = ["--num-levels", "3", "--codebook-size", "8"]
    words = ["--method", "residual-kmeans", "--embeddings", str(emb), "--output", str(ids), *sizes]
    assert main(["quantize", *words]) == 0
    assert main(["doctor", str(ids), "--output", str(tmp_path / "page.html")]) == 0
    assert "error" not in capsys.readouterr().err


def test_words_of_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\n")
    for words, message in (
        (
            "quantize --embeddings a=b/emb --output q",
            "expected a folder of `macrec embed` or pairs .*where nothing is",
        ),
        ("train --interactions i.csv --semantic-ids x.json --output m", "got the file x.json. Is it text=x.json"),
        ("train --interactions i.csv --semantic-ids s --output m --max-history 2.5", "a whole number, got '2.5'"),
    ):
        with pytest.raises(SystemExit):
            raise SystemExit(main(words.split()))
        assert re.search(message, capsys.readouterr().err), words
