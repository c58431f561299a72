"""No verb writes over what it reads, a model, or other people's files; a damaged file beside stops nothing."""

import json
import os
import shutil

import pytest
from hub_tools import quantize, quantized_shop, train, trained_shop

from macrec_hf import SemanticIdTable
from macrec_hf.cli.main import main


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return trained_shop(tmp_path_factory.mktemp("shop"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize(
    "words, message",
    [
        ("--output interactions.csv", "expected the name of a result, got a file of interactions.csv, which is read"),
        ("--output ./ids/../interactions.csv", "got a file of interactions.csv, which is read"),
        (
            "--output model/config.json",
            "--output model/config.json: expected the name of a result, got a file of model",
        ),
        ("--predictions model/model.safetensors", "got a file of model, which is read. Choose another name"),
        ("--predictions model/README.md", "got a file of model"),
        ("--lists o=o.jsonl --predictions o.jsonl", "got a file of o.jsonl, which is read"),
        ("--output same.json --predictions ./same.json", "expected a file of its own, got that of --predictions"),
        ("--output pipe", "pipe: expected the name of a file to write, got a device or a pipe. Name a file."),
        ("--output ids", "ids: expected the name of a file to write, got a folder"),
    ],
)
def test_a_result_takes_the_place_of_nothing_that_is_read(shop, tmp_path, monkeypatch, capsys, words, message):
    folder = shutil.copytree(shop, tmp_path / "shop")
    (folder / "o.jsonl").write_text('{"user_id": "u0", "items": ["i1"]}')
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert call("evaluate", "model", "--interactions", "interactions.csv", *words.split()) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert contents(folder) == before and (folder / "pipe").is_fifo()


def test_other_verbs_too(shop, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(shop, tmp_path / "shop")
    (folder / "users.jsonl").write_text('{"user_id": "a", "history": ["i1"]}')
    monkeypatch.chdir(folder)
    before = contents(folder)
    for words in (
        "recommend model --histories users.jsonl --output users.jsonl",
        "doctor ids --output ids/semantic_ids.json",
        "doctor ids --embeddings emb --output emb/text.npy",
        "quantize --embeddings emb --output new --health-page emb/text.npy",
    ):
        assert call(*words.split()) == 1
        assert "which is read. Choose another name." in capsys.readouterr().err
    assert contents(folder) == before and not (folder / "new").exists()


@pytest.mark.parametrize(
    "name", ["model/metrics.json", "model/report.json", "model/meta.json", "test", "emb/new.json"]
)
def test_a_result_may_lie_beside_and_be_written_again(shop, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(shutil.copytree(shop, tmp_path / "shop"))
    words = ["evaluate", "model", "--interactions", "interactions.csv", "--output", name]
    for _ in range(2):
        assert call(*words) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "shop" / name).read_text())["split"] == "test"


def test_the_models_of_several_seeds_are_kept_too(shop, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(shop, tmp_path / "shop")
    monkeypatch.chdir(folder)
    for seed in (0, 1):
        shutil.copytree(folder / "model", folder / "runs" / f"seed-{seed}")
    before = contents(folder)
    words = ["evaluate", "runs", "--interactions", "interactions.csv"]
    for more, message in (
        (["--output", "runs/seed-0/config.json"], "got a file of runs, which is read"),
        (["--predictions", "p.jsonl", "--output", "p.seed-0.jsonl"], "got that of a seed's --predictions"),
        (["--predictions", "p.jsonl", "--lists", "o=p.seed-1.jsonl"], "got that of a seed's --predictions"),
    ):
        assert call(*words, *more) == 1
        assert message in capsys.readouterr().err and contents(folder) == before


def test_parts_without_checksums_are_kept_too(shop, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(shop, tmp_path / "shop")
    monkeypatch.chdir(folder)
    SemanticIdTable.from_pretrained("ids").save_pretrained("plain")
    (folder / "model" / "checksums.json").unlink()
    before = contents(folder)
    for words in (
        "doctor plain --output plain/semantic_ids.json",
        "evaluate model --interactions interactions.csv --output model/config.json",
        "evaluate model --interactions interactions.csv --predictions model/model.safetensors",
        "evaluate model --interactions interactions.csv --output model/generation_config.json",
    ):
        assert call(*words.split()) == 1
        assert "which is read" in capsys.readouterr().err and contents(folder) == before


@pytest.mark.parametrize("verb", [quantize, train])
@pytest.mark.parametrize(
    "name", ["greedy", "reduce_lr_on_plateau", "cosine_with_restarts", "inverse_sqrt", "constant"]
)
def test_schedules_of_every_kind_train(tmp_path, capsys, verb, name):
    shop = quantized_shop(tmp_path / "shop")
    assert verb(shop, "--lr-scheduler-type", name, "--output", str(tmp_path / "out")) == 0, capsys.readouterr().err


def test_a_missing_file_of_another_flag_is_not_put_down_to_accelerate(tmp_path, capsys):
    shop = quantized_shop(tmp_path / "shop")
    assert train(shop, "--fsdp", "true", "--fsdp-config", "/nosuch.json") == 1
    said = capsys.readouterr().err
    assert "/nosuch.json" in said and "accelerator-config" not in said


def test_a_folder_of_seeds_may_hold_notes(tmp_path, capsys):
    shop = quantized_shop(tmp_path / "shop")
    words = ["--output", str(tmp_path / "runs"), "--max-steps", "1"]
    assert train(shop, *words, "--seeds", "1") == 0
    (tmp_path / "runs" / "README.md").write_text("mine")
    assert train(shop, *words, "--seeds", "2", "--resume") == 0, capsys.readouterr().err
    assert (tmp_path / "runs" / "README.md").read_text() == "mine"
    (tmp_path / "out").mkdir()
    for name in ("train_all.py", "tokenizer_notes.json", "other.safetensors"):  # nothing of that name is written
        (tmp_path / "out" / name).write_text("mine")
    assert train(shop, "--output", str(tmp_path / "out"), "--max-steps", "1") == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "losses.py",
        "tokenizer.json",
        "checksums.json",
        "model-00001-of-00002.safetensors",
        "item_counts.safetensors",
        "training_log.json",
    ],
)
def test_a_folder_of_other_people_is_no_output(tmp_path, capsys, name):
    shop = quantized_shop(tmp_path / "shop")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / name).write_text("mine")
    (tmp_path / "project" / "notes.md").write_text("mine")
    for verb in (train, *([quantize] if name == "checksums.json" else [])):
        assert verb(shop, "--output", str(tmp_path / "project")) == 1
        said = capsys.readouterr().err
        assert f"other files that would be replaced, found {name}" in said and "--overwrite replaces it" in said
    assert contents(tmp_path / "project") == {tmp_path / "project" / one: b"mine" for one in (name, "notes.md")}
    assert train(shop, "--output", str(shop / "ids")) == 1  # where the semantic IDs lie that it reads
    assert "found semantic_ids.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda card: card.encode().replace(b"# ", "# Café ".encode("cp1252"), 1),
            "expected text in UTF-8, got the byte 0xe9",
        ),
        (lambda card: b"\xff\xfe" + card.encode(), "expected text in UTF-8, got the byte 0xff at place 0"),
        (lambda card: card.encode().replace(b"---\n", b"---\nfoo: [\n", 1), "in YAML between the lines ---"),
        (lambda card: b"---\ntags: 7\n---\n\n# Mine\n", "in YAML between the lines ---"),
        (lambda card: b"---\n1: 2\n---\n\n# Mine\n", "in YAML between the lines ---"),
        (lambda card: b"---\n- a\n- b\n---\n\n# Mine\n", "in YAML between the lines ---"),
    ],
)
def test_a_card_that_cannot_be_read_costs_no_figures(shop, tmp_path, capsys, caplog, change, message):
    folder = shutil.copytree(shop, tmp_path / "shop")
    card = folder / "model" / "README.md"
    card.write_bytes(change(card.read_text(encoding="utf-8")))
    before = card.read_bytes()
    words = [
        "evaluate",
        folder / "model",
        "--interactions",
        folder / "interactions.csv",
        "--output",
        tmp_path / "m.json",
    ]
    assert call(*words) == 0
    assert f"{folder / 'model'} was left as it is" in caplog.text and message in caplog.text
    assert "Verdict" in capsys.readouterr().out and card.read_bytes() == before
    assert json.loads((tmp_path / "m.json").read_text())["num_users"] == 12


@pytest.mark.parametrize("log", ["[1]", '{"a": 1}', "[{", '[{"settings": []}]'])
def test_a_damaged_log_of_the_quantizer_stops_no_training(tmp_path, capsys, caplog, log):
    shop = quantized_shop(tmp_path / "shop")
    (shop / "ids" / "training_log.json").write_text(log)
    assert train(shop, "--until", "4") == 0, capsys.readouterr().err
    is_log = log.startswith('[{"')
    assert (
        "expected the log of a training, found none: the model card goes without its losses" in caplog.text
    ) is not is_log


def test_ids_that_say_nonsense_of_their_purchases(shop, tmp_path, capsys):
    folder = shutil.copytree(shop, tmp_path / "shop")
    (folder / "model" / "checksums.json").unlink()
    path = folder / "model" / "semantic_ids.json"
    head = json.loads(path.read_text())
    for said in ("x", {"until": 3}, []):
        head["report"]["text"]["learned_from"] = said
        path.write_text(json.dumps(head))
        assert call("evaluate", folder / "model", "--interactions", folder / "interactions.csv") == 1
        assert "expected in the report of text under 'learned_from' split, until" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb, folder, name", [(quantize, "ids", "semantic_ids.json"), (train, "model", "config.json")]
)
@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--lr-scheduler-kwargs", '{"foo": 1}'],
            "--lr-scheduler-kwargs: expected settings of the schedule",
        ),
        (["--accelerator-config", '{"foo": 1}'], "--accelerator-config: expected fields of accelerate's, got"),
        (["--accelerator-config", "[1]"], "--accelerator-config: expected fields of accelerate's, got"),
        (
            ["--lr-scheduler-type", "polynomial", "--lr-scheduler-kwargs", '{"lr_end": 0.5}'],
            "schedule polynomial, got",
        ),
        (["--lr-scheduler-type", "cosine", "--lr-scheduler-kwargs", '{"num_cycles": "a"}'], "schedule cosine, got"),
        (["--lr-scheduler-type", "inverse_sqrt", "--lr-scheduler-kwargs", '{"timescale": 0}'], "inverse_sqrt, got"),
        (["--optim", "adamw_8bit"], "bitsandbytes"),
        (
            ["--optim-args", "foo"],
            "--optim-args: expected pairs such as rank=8,eps=1e-6, of adamw_torch_fused, got 'foo'",
        ),
    ],
)
def test_what_no_trainer_can_do_is_refused_before_anything_is_lost(
    tmp_path, capsys, verb, folder, name, words, message
):
    shop = trained_shop(tmp_path / "shop")
    before = contents(shop)
    assert verb(shop, *words, "--overwrite") == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert contents(shop) == before and (shop / folder / name).is_file()
