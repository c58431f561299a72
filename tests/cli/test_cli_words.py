"""What the command line answers to words that are nearly right."""

import logging
import re
import shlex
import subprocess
import sys

import pytest
from hub_tools import train, trained_shop
from transformers import TrainerState

from macrec_hf.cli.history_flag import quotes_missing, read_history
from macrec_hf.cli.main import build_parser, main
from macrec_hf.cli.messages import _Notices, in_flags
from macrec_hf.cli.next_steps import (
    after_blend,
    after_doctor,
    after_embed,
    after_evaluate,
    after_quantize,
    after_recommend,
    after_refresh,
    after_train,
    best_checkpoint,
    without_next,
)
from macrec_hf.cli.yaml_flags import yaml_arguments


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return trained_shop(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("on_unknown='skip' leaves them out.", "--on-unknown skip leaves them out."),
        ("top_k: expected at least 1, got 0.", "--top-k: expected at least 1, got 0."),
        ("Raise num_beams or top_k=20.", "Raise --num-beams or --top-k 20."),
        ("With --item-column, or item_column in Python. And so on.", "With --item-column. And so on."),
        (
            "'item_column', a/top_k.csv, top_k/x and user_id stay",
            "'item_column', a/top_k.csv, top_k/x and user_id stay",
        ),
        ("modality: expected one", "--modality: expected one"),
        ("strange: expected one", "strange: expected one"),
    ],
)
def test_errors_name_flags(said, expected):
    assert in_flags(said, build_parser("recommend")) == expected


def test_a_part_of_an_argument_is_named_after_its_flag():
    said = "embeddings['text']: expected one row for each of the 2 item ids, got 3 rows."
    assert in_flags(said, build_parser("quantize")) == said.replace("embeddings['text']", "--embeddings text")


def test_a_notice_stands_once_on_the_screen_and_names_flags(tmp_path):
    code = """if True:
        import logging, sys
        from macrec_hf.cli.main import build_parser
        from macrec_hf.cli.messages import show_notices
        show_notices(build_parser("recommend"), verbose=False)
        for name in ("macrec_hf.data.x", "macrec_hf.data.x", "macrec_hf.model.y"):
            logging.getLogger(name).warning("%s: raise top_k=20.", "a.csv")
        logging.getLogger("macrec_hf.data.x").warning("another")
        logging.getLogger("library").warning("top_k")
        for _ in range(2):
            logging.getLogger("library").error("broken")
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert said.splitlines() == [
        "notice: a.csv: raise --top-k 20.",
        "notice: another",
        "WARNING library: top_k",
        "ERROR library: broken",
        "ERROR library: broken",
    ]


def test_a_training_says_what_follows_with_the_columns_that_it_was_given():
    words = ["--interactions", "my orders.csv", "--semantic-ids", "ids", "--output", "model"]
    plain = build_parser("train").parse_args(words)
    assert after_train(plain).startswith("Next: macrec evaluate --model model --interactions 'my orders.csv' says")
    named = build_parser("train").parse_args([*words, "--user-column", "customer", "--item-column", "sku"])
    line = after_train(named)
    assert "--user-column customer --item-column sku says" in line and "--time-column" not in line
    told = line.removeprefix("Next: macrec ").partition(" says")[0]
    evaluate = build_parser("evaluate").parse_args(shlex.split(told)[1:])
    assert (evaluate.interactions, evaluate.user_column) == ("my orders.csv", "customer")
    assert "macrec recommend --model model --history ID,ID" in line


def test_each_stage_says_what_follows(tmp_path):
    embed = build_parser("embed").parse_args(["--items", "items.jsonl", "--output", "my shop/emb"])
    assert "macrec quantize --embeddings 'my shop/emb' --output 'my shop/ids' gives" in after_embed(embed)
    words = ["--embeddings", "text=a.npy", "--item-ids", "ids.json", "--output", "ids"]
    line = after_quantize(build_parser("quantize").parse_args(words))
    assert "macrec doctor ids --embeddings text=a.npy --item-ids ids.json says" in line
    told = re.search(r"macrec train (.*) trains", line)[1]
    train_args = build_parser("train").parse_args(shlex.split(told))
    assert (train_args.interactions, train_args.semantic_ids, train_args.output) == (
        "interactions.csv",
        "ids",
        "model",
    )


def test_a_day_goes_from_stage_to_stage():
    bought = ["--interactions", "i.csv", "--user-column", "who", "--until", "2024-05-01"]
    embed = build_parser("embed").parse_args(["--items", "items.jsonl", "--output", "emb", *bought])
    line = after_embed(embed).removeprefix("Next: macrec quantize ").partition(" gives")[0]
    quantize = build_parser("quantize").parse_args(shlex.split(line))
    told = re.search(r"macrec train (.*) trains", after_quantize(quantize))[1]
    train = build_parser("train").parse_args(shlex.split(told))
    for args in (quantize, train):
        assert (args.interactions, args.user_column, args.until) == ("i.csv", "who", "2024-05-01")


def test_several_seeds_are_evaluated_together_and_one_of_them_recommends():
    words = [
        "--interactions",
        "i.csv",
        "--semantic-ids",
        "ids",
        "--output",
        "m",
        "--seeds",
        "2",
        "--until",
        "2024-05-01",
    ]
    line = after_train(build_parser("train").parse_args([*words, "--seed", "3"]))
    assert "macrec evaluate --model m --interactions i.csv --split time --cut 2024-05-01 says" in line
    assert "macrec recommend --model m/seed-3 --history ID,ID" in line


ODD = [
    "-1",
    "a b",
    "a,b",
    '"quoted"',
    '5" disk',
    "--json",
    "x=1",
    "größe",
    " padded ",
    "it's",
    "a;b$c",
    '0,"1',
    "тест",
]


@pytest.mark.parametrize("first", range(len(ODD)))
def test_a_history_that_is_printed_can_be_given_whatever_the_ids_hold(first):
    items = ODD[first:] + ODD[:first]
    line = after_train(build_parser("train").parse_args(
        ["--interactions", "i.csv", "--semantic-ids", "ids", "--output", "m"]
    ), items)  # fmt: skip
    told = line.partition(" says how good it is, macrec ")[2].removesuffix(" recommends.")
    verb, *words = shlex.split(told)
    parser = build_parser(verb)
    parser.check_flags(words)
    assert read_history(parser.parse_args(words).history) == items


def test_pieces_of_an_id_are_told_from_items_that_nobody_knows():
    known = ["a", "01", "art,01", "x,y,z", "b, c"]
    asked = '--history \'a,"art,01",nobody,"x,y,z","b, c"\'.'
    assert quotes_missing(["a", "art", "01", "nobody", "x", "y", "z", "b", "c"], known).endswith(asked)
    assert quotes_missing(["a", "nobody", "01"], known) == "" == quotes_missing([], known)


def test_a_history_as_people_type_it(capsys):
    assert read_history(" i1, i7 ,,i3,") == ["i1", "i7", "i3"] and read_history(" , ") == []
    assert read_history('a"b,"c"d') == ['a"b', '"c"d']
    with pytest.raises(SystemExit):
        build_parser("recommend").parse_args(["m", "--history", "-x,i7"])
    assert "begins with a dash, write --history=-1,i7" in capsys.readouterr().err


def test_a_history_of_a_yaml_file_may_hold_commas(tmp_path):
    (tmp_path / "c.yaml").write_text("history: ['a,b', -1, 007]\n")
    (word,) = yaml_arguments(str(tmp_path / "c.yaml"), build_parser("recommend"))
    assert read_history(word.removeprefix("--history=")) == ["a,b", "-1", "007"]


def test_what_follows_when_there_is_a_model():
    def parsed(line, *, ends):
        told = [part.partition(ends)[0] for part in line.split("macrec ")[1:]]
        return [vars(build_parser(verb).parse_args(words)) for verb, *words in map(shlex.split, told)]

    bought = ["my model", "--interactions", "i.csv", "--user-column", "who"]
    for until, split in ((None, ("test", None)), ("2024-05-01", ("time", "2024-05-01"))):
        line = after_blend(build_parser("blend").parse_args(bought), until)
        evaluate, refresh = parsed(line.replace(" counts new", " says"), ends=" says")
        assert (evaluate["split"], evaluate["cut"]) == split and refresh["model"] == "my model"
        assert {args["user_column"] for args in (evaluate, refresh)} == {"who"}
    (recommend,) = parsed(after_refresh(build_parser("refresh").parse_args(bought), ["a,b", "-1"]), ends=" recommends")
    assert recommend["model"] == "my model" and read_history(recommend["history"]) == ["a,b", "-1"]
    asked = build_parser("recommend").parse_args(["my model", "--history", "a", "--items", "i.jsonl"])
    (app,) = parsed(after_recommend(asked), ends=" shows")
    assert (app["model"], app["items"]) == ("my model", "i.jsonl")
    judged = build_parser("evaluate").parse_args(["my model", "--interactions", "i.csv"])
    (app,) = parsed(after_evaluate(judged.model, "time"), ends=" shows")
    assert app["model"] == "my model"
    examined = build_parser("doctor").parse_args(["shop/ids"])
    (train,) = parsed(after_doctor(examined, is_model=False), ends=" trains")
    assert (train["semantic_ids"], train["output"]) == ("shop/ids", "shop/model")
    (app,) = parsed(after_doctor(examined, is_model=True), ends=" shows")
    assert app["model"] == "shop/ids"
    advice = "Look at the rows."
    assert after_doctor(examined, False, advice).startswith("Next: before training, mend that. Look at the rows. Then")
    (train,) = parsed(after_doctor(examined, False, advice), ends=" trains")
    assert train["semantic_ids"] == "shop/ids"
    (app,) = parsed(after_doctor(examined, True, advice), ends=" shows")
    assert app["model"] == "shop/ids" and advice in after_doctor(examined, True, advice)


def test_a_verb_inside_another_leaves_to_it_what_follows():
    assert without_next("300 items in 3 s: emb\nNext: macrec quantize …") == "300 items in 3 s: emb"


@pytest.mark.parametrize(
    ("best", "step", "said"),
    [
        (0.25, 900, ", best checkpoint step 900 of 1,200 with NDCG@10 0.2500 on the validation users who choose it"),
        (0.25, None, ", best checkpoint with NDCG@10 0.2500 on the validation users who choose it"),
        (None, None, ""),
    ],
)
def test_the_checkpoint_that_is_kept_is_named(best, step, said):
    assert best_checkpoint(TrainerState(best_metric=best, best_global_step=step, max_steps=1200)) == said


def test_a_field_is_named_by_the_flag_that_spells_it():
    parser = build_parser("train")
    assert in_flags("num_train_epochs: expected more, not warmup_steps=3", parser) == (
        "--epochs: expected more, not --warmup 3"
    )
    assert "push_to_hub_x" in in_flags("push_to_hub_x and label_names", parser)


def test_the_model_in_its_place_or_as_a_flag(shop, capfd, tmp_path):
    model, rest = str(shop / "model"), ["--history", "i1", "--top-k", "1"]
    config = tmp_path / "flags.yaml"
    config.write_text("model: nowhere\ntop-k: 1\n")
    evaluate = ["--interactions", str(shop / "interactions.csv"), "--num-beams", "2"]
    for words in (["recommend", model, *rest], ["recommend", *rest, model], ["recommend", *rest, "--model", model],
                  ["recommend", model, "--history", "i1", "--config", str(config)],
                  ["blend", model, *evaluate[:2]], ["refresh", *evaluate[:2], "--model", model],
                  ["refresh", model, *evaluate[:2]], ["evaluate", model, *evaluate],
                  ["evaluate", *evaluate, "--model", model]):  # fmt: skip
        assert main(words) == 0, capfd.readouterr().err
        out = capfd.readouterr().out
        assert words[0] != "recommend" or "1 recommendation for 1 user in" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("recommend m --history 00001 00007", "commas between them: --history 00001,00007"),
        ("recommend --model m --history 00001 00007", "expected one MODEL, got m and 00007. Ids .*00001,00007"),
        ("evaluate m --model n --interactions x", "expected one MODEL, got m and n"),
        ("recommend --history i1", "required: MODEL"),
        ("evaluate --interactions x", "required: MODEL"),
    ],
)
def test_a_model_named_twice_or_not_at_all(capfd, words, message):
    with pytest.raises(SystemExit):
        main(words.split())
    assert re.search(message, capfd.readouterr().err)


def test_an_id_without_its_zeros(shop, capfd):
    assert main(["recommend", str(shop / "model"), "--history", "0i3"]) == 1
    assert "--on-unknown skip leaves such items out. Did you mean 'i3'?" in capfd.readouterr().err
    assert main(["recommend", str(shop / "model"), "--history", "z"]) == 1
    assert "Did you mean" not in capfd.readouterr().err


def test_verbs(capfd):
    assert main(["trian"]) == 2 and "Did you mean train?" in capfd.readouterr().err
    assert main(["xyz"]) == 2 and "Did you mean" not in capfd.readouterr().err
    assert main(["--help"]) == 0
    usage = capfd.readouterr().out
    assert main(["help"]) == 0 and capfd.readouterr().out == usage
    with pytest.raises(SystemExit):
        main(["help", "recommend"])
    assert "usage: macrec recommend MODEL" in capfd.readouterr().out


def test_a_failed_verb_leaves_no_empty_folder(shop, tmp_path):
    (tmp_path / "kept").mkdir()
    for output in ("new/deeper", "kept"):
        words = ["--items", str(tmp_path / "none.csv"), "--output", str(tmp_path / output)]
        assert main(["embed", *words]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert train(shop, "--output", str(tmp_path / "two"), "--seeds", "2", "--tasks", "none") == 1
    assert not (tmp_path / "two").exists()


LOADING = """
import os, signal, sys, builtins
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
sys.argv = ["macrec", "evaluate", "m", "--interactions", "x.csv"]
before = builtins.__import__
def importing(name, *rest, **more):
    if name == "torch":
        os.kill(os.getpid(), signal.SIGINT)
    return before(name, *rest, **more)
builtins.__import__ = importing
from macrec_hf.cli import main
sys.exit(main())
"""


def test_ctrl_c_while_libraries_are_loaded(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id,timestamp\n")
    words = [sys.executable, "-c", LOADING]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 130 and done.stderr.endswith("stopped.\n") and "Traceback" not in done.stderr


def interrupted(*_):
    raise KeyboardInterrupt  # no signal: a worker of the tests may ignore it


def test_ctrl_c_names_resume_where_there_is_a_checkpoint(shop, capfd, monkeypatch):
    assert train(shop, "--output", str(shop / "kept"), "--keep-checkpoints") == 0
    for output, expected in (("kept", "--resume goes on from the last checkpoint"), ("fresh", "stopped.\n")):
        monkeypatch.setattr("macrec_hf.cli.train.begin", interrupted)
        assert train(shop, "--output", str(shop / output), "--overwrite") == 130
        assert expected in capfd.readouterr().err


def test_a_notice_cannot_write_to_the_terminal():
    record = logging.makeLogRecord(
        {"name": "macrec_hf.data.ids", "levelno": logging.WARNING, "msg": "users such as ['\x1b[2J', 'a']"}
    )
    assert _Notices(build_parser("train")).format(record) == "notice: users such as ['\\u001b[2J', 'a']"
