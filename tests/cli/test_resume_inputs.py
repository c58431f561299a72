"""`--resume` goes on from a checkpoint, and calls a run finished, only where its inputs and settings are the same."""

import json
import shutil

import numpy as np
import pytest
from hub_tools import quantize, tiny_shop, train

from macrec_hf import EmbeddingStore, SemanticIdTable
from macrec_hf.cli.main import main
from macrec_hf.cli.run_folder import CHECKPOINTS, FINISHED
from macrec_hf.training.checkpoints import SETTINGS, checkpoints_in, seal

STAGES = {"ids": quantize, "model": train}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Both stages with checkpoints; and other inputs of the same sizes."""
    folder = tiny_shop(tmp_path_factory.mktemp("shop"))
    assert quantize(folder, "--keep-checkpoints") == 0 and train(folder, "--keep-checkpoints") == 0
    store = EmbeddingStore.open(folder / "emb")
    arrays = {name: np.array(array) for name, array in store.arrays.items()}
    arrays["text"][3, 2] += 0.5
    EmbeddingStore(arrays, store.item_ids).save(folder / "emb_other")
    table = SemanticIdTable.from_pretrained(folder / "ids")
    turned = {name: codes.roll(1, dims=0) for name, codes in table.codes.items()}
    SemanticIdTable(table.item_ids, turned, table.codebook_size).save_pretrained(folder / "ids_other")
    rows = (folder / "interactions.csv").read_text()
    (folder / "more.csv").write_text(f"{rows}\nu1,i1,99\n")
    return folder


CHANGES = [
    ("ids", "--embeddings {shop}/emb_other", "--embeddings has other contents"),
    ("ids", "--learning-rate 0.5", "--learning-rate was 0.001, is 0.5"),
    ("ids", "--batch-size 3", "--batch-size was "),
    ("ids", "--seed 4", "--seed was 0, is 4"),
    ("ids", "--weight-decay 0.3", "--weight-decay was not given, is 0.3"),
    ("ids", "--bf16 true", "--bf16 was not given, is True"),
    ("ids", "--max-steps 2", "--max-steps was 6, is 2"),
    ("model", "--semantic-ids {shop}/ids_other", "--semantic-ids has other contents"),
    ("model", "--interactions {shop}/more.csv", "--interactions has other contents"),
    ("model", "--tasks text_to_text,image_to_image", "--tasks was not given, is text_to_text,image_to_image"),
    ("model", "--learning-rate 0.5", "--learning-rate was "),
    ("model", "--gradient-accumulation-steps 2", "--gradient-accumulation-steps was not given, is 2"),
    ("model", "--max-grad-norm 3", "--max-grad-norm was not given, is 3.0"),
    ("model", "--history-dropout-rate 0.3", "--history-dropout-rate was 0.0, is 0.3"),
    ("model", "--batch-size 16", "--batch-size was 32, is 16"),
    ("model", "--max-steps 3", "--max-steps was 4, is 3"),
]


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("stage", "words", "message"), CHANGES)
def test_other_inputs_and_settings_are_refused_by_their_flags(shop, tmp_path, capsys, stage, words, message, finished):
    output = tmp_path / stage
    shutil.copytree(shop / stage, output)
    if not finished:
        (output / FINISHED).unlink()
    before = files_of(output)
    assert STAGES[stage](shop, "--output", str(output), "--resume", *words.format(shop=shop).split()) == 1
    error = capsys.readouterr().err
    assert "--resume: expected the settings that" in error and message in error and error.count("\n") == 1
    assert files_of(output) == before


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_inputs_elsewhere_are_the_same(shop, tmp_path, capsys, stage):
    output, inputs = tmp_path / stage, tmp_path / "inputs"
    shutil.copytree(shop / stage, output)
    inputs.mkdir()
    for name in ("emb", "interactions.csv"):
        (shutil.copytree if (shop / name).is_dir() else shutil.copy)(shop / name, inputs / name)
    shutil.copytree(shop / "ids", inputs / "ids")
    assert STAGES[stage](inputs, "--output", str(output), "--resume") == 0
    assert "Finished before" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_a_longer_run_goes_on(shop, tmp_path, stage):
    output = tmp_path / stage
    shutil.copytree(shop / stage, output)
    assert STAGES[stage](shop, "--output", str(output), "--resume", "--max-steps", "8", "--keep-checkpoints") == 0
    assert int(checkpoints_in(output / CHECKPOINTS)[0].name.removeprefix("checkpoint-")) == 8


def test_a_checkpoint_of_an_earlier_release_is_compared_by_its_sizes(shop, tmp_path, capsys, caplog):
    output = tmp_path / "model"
    shutil.copytree(shop / "model", output)
    for checkpoint in checkpoints_in(output / CHECKPOINTS):
        (checkpoint / SETTINGS).unlink()
        seal(checkpoint)
    (output / FINISHED).unlink()
    assert train(shop, "--output", str(output), "--resume", "--d-ff", "12") == 1
    assert "--d-ff was 8, is 12" in capsys.readouterr().err
    assert train(shop, "--output", str(output), "--resume") == 0
    assert "does not say what inputs it was made from" in caplog.text


def test_a_checkpoint_from_before_there_was_a_rate_saw_all_examples(shop, tmp_path, capsys):
    output = tmp_path / "model"
    shutil.copytree(shop / "model", output)
    for checkpoint in checkpoints_in(output / CHECKPOINTS):
        settings = json.loads((checkpoint / SETTINGS).read_text())
        del settings["cross_modal_rate"]
        (checkpoint / SETTINGS).write_text(json.dumps(settings))
        seal(checkpoint)
    (output / FINISHED).unlink()
    assert train(shop, "--output", str(output), "--resume", "--cross-modal-rate", "0.5") == 1
    assert "--cross-modal-rate was 1.0, is 0.5" in capsys.readouterr().err
    assert train(shop, "--output", str(output), "--resume", "--cross-modal-rate", "1") == 0


@pytest.mark.parametrize("content", ["[]", "[[]]", '[{"settings": 3}]', "{}", "[1", "null"])
def test_a_damaged_log_of_a_finished_run_is_named(shop, tmp_path, capsys, content):
    output = tmp_path / "ids"
    shutil.copytree(shop / "ids", output)
    (output / FINISHED).write_text(content)
    assert quantize(shop, "--output", str(output), "--resume") == 1
    error = capsys.readouterr().err
    assert f"{FINISHED}: expected the log of a training" in error and error.count("\n") == 1


def test_a_model_is_trained_further_on_the_ids_that_it_has_learned(shop, tmp_path, capsys):
    words = ["train", "--interactions", str(shop / "interactions.csv"), "--start-from", str(shop / "model"),
             "--max-steps", "1", "--num-beams", "2", "--batch-size", "32"]  # fmt: skip
    assert main([*words, "--semantic-ids", str(shop / "ids_other"), "--output", str(tmp_path / "a")]) == 1
    assert "expected semantic IDs that the model has learned, but only " in capsys.readouterr().err
    assert main([*words, "--semantic-ids", str(shop / "ids"), "--output", str(tmp_path / "b")]) == 0
    settings = json.loads((tmp_path / "b" / FINISHED).read_text())[-1]["settings"]
    assert len(settings["start_from"]) == 16
