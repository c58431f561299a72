"""Folders in which a training failed or was interrupted: nothing finished is lost, and verbs say what lies there."""

import shutil

import pytest
from hub_tools import quantize, train, trained_shop

from macrec_hf.cli.main import main
from macrec_hf.cli.run_folder import EXAMPLES, is_finished

DIVERGES = ["--learning-rate", "1e30", "--warmup", "0"]  # ends in the middle of the training
READERS = {
    "evaluate": "evaluate --model {model} --interactions {shop}/interactions.csv --num-beams 2",
    "recommend": "recommend --model {model} --history i1",
    "doctor": "doctor {model} --map none --output {shop}/page.html",
    "blend": "blend {model} --interactions {shop}/interactions.csv",
    "refresh": "refresh {model} --interactions {shop}/interactions.csv",
    "app": "app {model} --space {shop}/space",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A finished model; another whose second training stopped half-way; and a training that left no model yet."""
    folder = trained_shop(tmp_path_factory.mktemp("shop"))
    older, none = (["--output", str(folder / name)] for name in ("older", "none"))
    shutil.copytree(folder / "model", folder / "older")
    assert train(folder, *older, *DIVERGES, "--overwrite") == 1 and train(folder, *none, *DIVERGES) == 1
    return folder


@pytest.mark.parametrize("verb", READERS)
def test_a_training_that_was_not_finished_is_named(shop, capfd, caplog, verb):
    words = READERS[verb].format(model=shop / "none", shop=shop).split()
    assert main(words) == 1
    said = capfd.readouterr().err
    assert "the training was not finished" in said and "--resume" in said
    assert main([*READERS[verb].format(model=shop / "older", shop=shop).split()]) == 0
    assert "this is the older model" in caplog.text and "--resume" in caplog.text
    caplog.clear()
    assert main([*READERS[verb].format(model=shop / "model", shop=shop).split()]) == 0
    assert "older model" not in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interactions", "{shop}/bad.csv"], "unknown items"),
        (["--tasks", "no_such_task"], "tasks: expected"),
        (["--start-from", "{shop}/nowhere"], "Expected"),
        (["--until", "1", "--start-from", "{shop}/model"], "before 1"),
    ],
)
def test_a_training_that_does_not_begin_leaves_the_folder_as_it_was(shop, capfd, words, message):
    (shop / "bad.csv").write_text("user_id,item_id,timestamp\nu,nothing,1\nu,i1,2\nu,i2,3\n")
    before = {path: path.stat().st_mtime_ns for path in (shop / "model").rglob("*")}
    assert train(shop, "--overwrite", *[word.format(shop=shop) for word in words]) == 1
    assert message in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (shop / "model").rglob("*")} == before
    assert is_finished(shop / "model")


def test_examples_go_where_the_training_does_not_begin(shop, capfd):
    """Checkpoints of other settings are found once the examples are made."""
    kept = ["--output", str(shop / "kept"), "--keep-checkpoints"]
    assert train(shop, *kept) == 0
    assert train(shop, *kept, "--resume", "--dropout-rate", "0.5") == 1
    assert "--dropout-rate was" in capfd.readouterr().err
    assert not (shop / "kept" / EXAMPLES).exists() and is_finished(shop / "kept")


@pytest.mark.parametrize("verb", [quantize, train])
def test_nothing_to_resume_is_said(shop, caplog, verb):
    assert verb(shop, "--output", str(shop / f"new-{verb.__name__}"), "--resume") == 0
    assert "nothing to resume" in caplog.text
