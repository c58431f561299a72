"""What both trainers promise: one run whatever interrupts it, one clear error for what cannot go on, one GPU alone."""

import logging
from pathlib import Path

import pytest
import quantizer_training
import recommender_training
import torch
from full_disk import files_of_at_most
from safetensors.torch import load_file
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from macrec_hf.training.checkpoints import SAVING, checkpoints_in, what_is_wrong


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return recommender_training.make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(params=["quantize", "train"])
def make(request, tmp_path):
    """`make(folder, callbacks=None, **arguments)`: a tiny trainer of each stage; evaluates and saves every 2 steps."""
    every = dict(eval_strategy="steps", save_strategy="steps", eval_steps=2, save_steps=2, logging_steps=2)

    def stage(folder, **changes):
        changes = every | changes
        if request.param == "quantize":
            return quantizer_training.make_trainer(tmp_path / folder, **changes)
        return recommender_training.make_trainer(request.getfixturevalue("shop"), tmp_path / folder, **changes)

    stage.folder, stage.name = tmp_path, request.param
    return stage


def assert_same_weights(one, other):
    for (name, a), (_, b) in zip(one.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


class StopAt(TrainerCallback):
    """Stops a run at a step, as a person at the keyboard would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


# ---- resuming ----


def test_a_run_that_made_its_last_step_makes_no_further_one(make):
    whole = make("a", max_steps=5, save_total_limit=2)  # in the middle of an epoch
    whole.train()
    again = make("a", max_steps=5)
    again.train(resume_from_checkpoint=True)
    assert whole.state.global_step == again.state.global_step == 5
    assert_same_weights(whole, again)
    assert {path.name for path in checkpoints_in(make.folder / "a")} >= {"checkpoint-5"}
    longer = make("a", max_steps=7)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 7


def test_patience_goes_on_counting_after_a_resumption(make):
    still = dict(max_steps=12, learning_rate=0.0, load_best_model_at_end=True)  # the first evaluation stays the best
    whole = make("a", callbacks=[EarlyStoppingCallback(2)], **still)
    whole.train()
    assert whole.state.global_step == 6
    make("b", callbacks=[EarlyStoppingCallback(2), StopAt(4)], **still).train()
    rest = make("b", callbacks=[EarlyStoppingCallback(2)], **still)
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == 6
    assert rest.state.best_metric == whole.state.best_metric
    again = make("b", callbacks=[EarlyStoppingCallback(2)], **still)
    again.train(resume_from_checkpoint=True)  # it had been stopped: there is nothing more to do
    assert again.state.global_step == 6
    patient = make("b", callbacks=[EarlyStoppingCallback(3)], **still)
    patient.train(resume_from_checkpoint=True)  # the arguments of the run that goes on count
    assert patient.state.global_step == 8


def test_a_callback_may_join_at_a_resumption(make):
    make("a", max_steps=2).train()
    rest = make("a", max_steps=4, callbacks=[EarlyStoppingCallback(5)], load_best_model_at_end=True)
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == 4


# ---- a damaged best checkpoint ----


class Damage(TrainerCallback):
    """Cuts the weights of checkpoints short once the last one is written."""

    def __init__(self, last_step, everything=False):
        self.last_step, self.everything = last_step, everything

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.last_step:
            found = checkpoints_in(args.output_dir) if self.everything else [Path(state.best_model_checkpoint)]
            for path in found:
                weights = path / "model.safetensors"
                weights.write_bytes(weights.read_bytes()[:-100])


def test_where_the_best_checkpoint_is_damaged_the_best_of_the_others_is_taken(make, caplog):
    trainer = make("a", max_steps=6, load_best_model_at_end=True, callbacks=[Damage(6)])
    with caplog.at_level(logging.WARNING):
        trainer.train()
    name = f"eval_{trainer.args.metric_for_best_model}"
    logged = {line["step"]: line[name] for line in trainer.state.log_history if name in line}
    whole = {
        path: logged[int(path.name[11:])] for path in checkpoints_in(make.folder / "a") if not what_is_wrong(path)
    }
    assert len(logged) == 3 and len(whole) == 2
    value = (max if trainer.args.greater_is_better else min)(whole.values())
    taken = Path(trainer.state.best_model_checkpoint)
    assert trainer.state.best_metric == value == whole[taken]
    for key, weight in load_file(taken / "model.safetensors").items():
        assert torch.equal(weight, trainer.model.state_dict()[key]), key
    assert "cannot be loaded: its model.safetensors has" in caplog.text and f"{taken} is taken instead" in caplog.text


def test_the_best_weights_come_back_without_alarm_about_tied_ones(make, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        make("a", max_steps=4, load_best_model_at_end=True).train()
    assert "missing keys" not in caplog.text


def test_where_no_checkpoint_is_left_the_last_weights_stay(make, caplog):
    trainer = make("a", max_steps=6, load_best_model_at_end=True, callbacks=[Damage(6, everything=True)])
    with caplog.at_level(logging.WARNING):
        trainer.train()
    whole = make("b", max_steps=6)
    whole.train()
    assert_same_weights(trainer, whole)
    assert trainer.state.best_model_checkpoint is None and "The last weights stay instead" in caplog.text
    with pytest.raises(ValueError, match="expected at least one whole checkpoint to resume from, got none"):
        make("a", max_steps=8).train(resume_from_checkpoint=True)


# ---- what cannot go on ----


def test_a_full_disk_leaves_the_last_good_checkpoint(make):
    # Weights of more than the limit, which holds for pytest's own files too.
    wide = {"hidden_sizes": (512,)} if make.name == "quantize" else {"d_ff": 512}
    make("a", max_steps=2, model_changes=wide).train()
    with files_of_at_most(60_000):
        with pytest.raises(
            OSError, match="checkpoint-4 could not be written.*Is the disk full.*last good state is .*-2"
        ):
            make("a", max_steps=4, model_changes=wide).train(resume_from_checkpoint=True)
    assert what_is_wrong(make.folder / "a" / "checkpoint-2") is None and not (make.folder / "a" / SAVING).exists()
    rest = make("a", max_steps=4, model_changes=wide)
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == 4 and what_is_wrong(make.folder / "a" / "checkpoint-4") is None


def test_an_output_that_is_no_folder_is_one_clear_error(make):
    (make.folder / "file").write_text("")
    with pytest.raises(OSError, match="File exists: .*file"):
        make("file", max_steps=2).train()
    assert (make.folder / "file").read_text() == ""


class Poison(TrainerCallback):
    """Makes one weight NaN before a step, as an overflow would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            next(iter(model.parameters())).data.view(-1)[0] = float("nan")


def test_a_nan_loss_stops_at_once_and_names_the_last_good_checkpoint(make):
    with pytest.raises(RuntimeError, match="the loss of step 3 is nan.*last good state is .*checkpoint-2"):
        make("a", max_steps=6, learning_rate=0.0, callbacks=[Poison(3)]).train()
    assert [path.name for path in checkpoints_in(make.folder / "a")] == ["checkpoint-2"]
    rest = make("a", max_steps=4, learning_rate=0.0)
    rest.train(resume_from_checkpoint=True)
    assert all(torch.isfinite(weight).all() for weight in rest.model.parameters())


def test_a_loss_that_was_not_looked_at_in_its_step_ends_the_training_at_the_next_log_line(make):
    """As on a GPU, where a look in each step would be a wait."""
    trainer = make("a", max_steps=4)
    assert trainer.args.logging_nan_inf_filter is False  # nor does Trainer look
    trainer._unseen = [(step, torch.tensor(loss)) for step, loss in enumerate((2.0, float("inf"), float("nan")), 1)]
    with pytest.raises(RuntimeError, match="the loss of step 2 is inf.*No checkpoint was written before"):
        trainer.log({"loss": 1.0})
    trainer.log({"loss": 1.0})  # a loss is looked at once


# ---- several micro-batches, several GPUs ----


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_warning_when_in_batch_losses_meet_accumulation(make, caplog, accumulation):
    trainer = make("a", max_steps=1, gradient_accumulation_steps=accumulation)
    rows = trainer.args.train_batch_size
    with caplog.at_level(logging.WARNING):
        trainer.train()
    found = f"compare items with their batch-mates, and see the {rows} rows of a micro-batch, not the {2 * rows}"
    assert (found in caplog.text) == (accumulation > 1)
    caplog.clear()
    without = {"alignment_weight": 0.0, "contrastive_weights": (0.0,) * 3}
    without = without if make.name == "quantize" else {"implicit_alignment_weight": 0.0}
    with caplog.at_level(logging.WARNING):
        make("b", max_steps=1, gradient_accumulation_steps=2, model_changes=without).train()
    assert "batch-mates" not in caplog.text


def test_many_gpus_and_one_process_use_one_gpu_and_say_so(make, caplog, monkeypatch):
    alone = make("a", max_steps=3)
    alone.train()
    # What Trainer goes by. Without GPUs its copies all fall on the CPU, but the batches would be twice as large.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with caplog.at_level(logging.WARNING):
        trainer = make("b", max_steps=3, use_cpu=False)
    assert "has 2 GPUs, and one process uses one of them" in caplog.text and "accelerate launch" in caplog.text
    trainer.train()
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == trainer.args.per_device_train_batch_size
    assert not isinstance(trainer.model_wrapped, nn.DataParallel)
    if not torch.cuda.is_available():
        assert_same_weights(alone, trainer)
