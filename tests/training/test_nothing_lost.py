"""Kills, full disks, damaged files and NaN: what is there afterwards, and what is said."""

import logging
import os
import sys
from pathlib import Path

import killing
import pytest
import torch
from forks import run_alone
from full_disk import files_of_at_most
from quantizer_training import make_store, make_trainer

from macrec_hf.training.checkpoints import (
    SAVING,
    SEAL,
    checkpoints_in,
    last_intact_checkpoint,
    remove_checkpoints,
    seal,
    what_is_wrong,
)


def kill_and_resume(stage, folder, kills, in_saves, in_ids):
    """Runs `killing.py`, which raises unless every resumed run ends bit-identical; its report."""
    done = run_alone(lambda: killing.run(stage, folder, kills, in_saves, in_ids), TOKENIZERS_PARALLELISM="false")
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_run_killed_inside_a_save_resumes_to_the_same_bits(tmp_path):
    report = kill_and_resume("quantize", tmp_path, 1, 1, 0)  # the recommender: test_twenty_kills
    assert ": inside a checkpoint save" in report and "bit-identical" in report


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    reports = [
        kill_and_resume("quantize", tmp_path / "q", 12, 4, 3),
        kill_and_resume("train", tmp_path / "t", 10, 4, 0),
    ]
    assert sum(report.count(" kill ") for report in reports) >= 20
    assert sum(report.count("inside a checkpoint save") for report in reports) >= 6
    assert sum(report.count("while IDs were written (") for report in reports) >= 3


def trained(folder, **changes):
    trainer = make_trainer(folder, **changes)
    trainer.train()
    return trainer


def test_checkpoints_are_sealed_and_nothing_is_left_beside(tmp_path):
    named = dict(metric_for_best_model="collision_rate", greater_is_better=False)
    trainer = trained(tmp_path, save_total_limit=2, **named)
    found = checkpoints_in(tmp_path)
    names = {path.name for path in found}  # of three the newest, and the best where it is another
    assert len(found) == 2 and {"checkpoint-9", Path(trainer.state.best_model_checkpoint).name} <= names
    assert all((path / SEAL).is_file() and what_is_wrong(path) is None for path in found)
    names = {path.name for path in tmp_path.iterdir()}
    assert not any((tmp_path / SAVING).glob("*")) and not any(name.startswith(".discarded") for name in names)


def test_the_best_checkpoint_is_named_by_its_place_and_kept(tmp_path):
    trainer = trained(tmp_path, save_total_limit=2, load_best_model_at_end=True, learning_rate=0.0)
    best = Path(trainer.state.best_model_checkpoint)  # nothing is learnt, so the first stays the best
    assert best == tmp_path / "checkpoint-3" and what_is_wrong(best) is None
    assert {path.name for path in checkpoints_in(tmp_path)} == {"checkpoint-3", "checkpoint-9"}


def test_what_only_a_resumed_run_reads_is_removed(tmp_path):
    trained(tmp_path / "alone")
    (tmp_path / "alone" / SAVING / "checkpoint-12").mkdir(parents=True)
    remove_checkpoints(tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    remove_checkpoints(tmp_path / "alone")  # nothing there, nothing to do
    for name in ("runs", "checkpoint-old", ".discarded-checkpoint-3"):
        (tmp_path / "shared" / name).mkdir(parents=True)
    trained(tmp_path / "shared")
    (tmp_path / "shared" / "checkpoint-notes.txt").write_text("mine")
    remove_checkpoints(tmp_path / "shared")
    found = {path.name for path in (tmp_path / "shared").iterdir()}
    assert found == {"runs", "checkpoint-old", "checkpoint-notes.txt"}


@pytest.mark.parametrize("damage, message", [
    (lambda path: (path / "optimizer.pt").write_bytes((path / "optimizer.pt").read_bytes()[:-7]), "bytes instead of"),
    (lambda path: (path / "model.safetensors").unlink(), "is gone"),
    (lambda path: flip(path / "model.safetensors"), "have changed since they were written"),
    (lambda path: (path / SEAL).write_text("{"), "cannot be read"),
    (lambda path: ((path / SEAL).unlink(), (path / "trainer_state.json").unlink()), "written in part"),
])  # fmt: skip
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, damage, message):
    for step in (3, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
            (folder / name).write_bytes(os.urandom(40))
        seal(folder)
    damage(tmp_path / "checkpoint-6")
    with caplog.at_level(logging.WARNING):
        assert last_intact_checkpoint(tmp_path).name == "checkpoint-3"
    assert message in caplog.text and "checkpoint-6 is passed over" in caplog.text
    damage(tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match="expected at least one whole checkpoint"):
        last_intact_checkpoint(tmp_path)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_half_written_checkpoint_is_named(tmp_path, caplog):
    (tmp_path / SAVING / "checkpoint-6").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert last_intact_checkpoint(tmp_path) is None
    assert "checkpoint-6 was cut short while it was being written" in caplog.text


def test_resuming_from_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    trained(tmp_path)
    flip(tmp_path / "checkpoint-9" / "model.safetensors")
    with pytest.raises(ValueError, match="expected a whole checkpoint, but the bytes of its model.safetensors"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    with pytest.raises(ValueError, match="expected a checkpoint to resume from, found none"):
        make_trainer(tmp_path / "other").train(resume_from_checkpoint=True)


def test_a_full_disk_is_one_clear_error_and_keeps_the_last_good_checkpoint(tmp_path):
    wide = {"hidden_sizes": (512,)}  # weights of 115 kB: more than the limit, which holds for pytest's own files too
    trained(tmp_path, num_train_epochs=1, model_changes=wide)
    trainer = make_trainer(tmp_path, num_train_epochs=2, model_changes=wide)
    with files_of_at_most(60_000):
        with pytest.raises(OSError, match="checkpoint-6 could not be written.*Is the disk full") as raised:
            trainer.train(resume_from_checkpoint=True)
    assert "last good state is" in str(raised.value) and "checkpoint-3" in str(raised.value)
    assert what_is_wrong(tmp_path / "checkpoint-3") is None and not (tmp_path / SAVING).exists()
    make_trainer(tmp_path, num_train_epochs=2, model_changes=wide).train(resume_from_checkpoint=True)
    assert what_is_wrong(tmp_path / "checkpoint-6") is None


def test_a_nan_loss_stops_before_the_weights_change(tmp_path):
    store = make_store()
    trainer = make_trainer(tmp_path, store=store)
    collate = trainer.data_collator
    seen = []

    def poisoned(rows):
        batch = collate(rows)
        seen.append(None)
        if len(seen) == 5:  # in the second epoch
            batch["embeddings"]["text"][0, 0] = float("nan")
        return batch

    trainer.prepare_catalogue()
    trainer.data_collator = poisoned
    with pytest.raises(RuntimeError, match="the loss of step 5 is nan.*last good state is .*checkpoint-3"):
        trainer.train()
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())
    assert what_is_wrong(tmp_path / "checkpoint-3") is None


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    trainer.train()
    trainer.model.codebooks["text"].data[0, 0, 0] = float("inf")
    with pytest.raises(RuntimeError, match="the weights .*codebooks hold NaN or infinity"):
        trainer._save_checkpoint(trainer.model, None)
    assert what_is_wrong(tmp_path / "checkpoint-3") is None


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_warning_when_in_batch_losses_meet_accumulation(tmp_path, caplog, accumulation):
    trainer = make_trainer(tmp_path, num_train_epochs=1, gradient_accumulation_steps=accumulation)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").propagate = True
        trainer.train()
    found = "compare items with their batch-mates, and see the 32 rows of a micro-batch" in caplog.text
    assert found == (accumulation > 1)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, second = (trained(tmp_path / name, model_changes={"dropout": 0.1}) for name in "ab")
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = trained(tmp_path / "c", model_changes={"dropout": 0.1}, seed=1)
    assert not torch.equal(other.model.codebooks["text"], first.model.codebooks["text"])
