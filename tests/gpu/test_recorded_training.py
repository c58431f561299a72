"""A training of recorded steps is the one that it stands for; on a CPU, by the same path without graphs."""

import pytest
import recommender_training
import torch
from transformers import TrainerCallback

from macrec_hf.gpu.recorded_step import RecordedStep


class Norms(TrainerCallback):
    """Reads the gradients that an optimizer is about to take, and counts recordings."""

    trainer = None

    def __init__(self):
        self.seen, self.recorded = [], 0

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.trainer.recorded_step is not None:
            self.recorded = len(self.trainer.recorded_step.recordings.kept)
        self.seen.append(torch.stack([weight.grad.norm() for weight in model.parameters()]))


def trained(shop, folder, recorded, resume=False, **changes):
    norms, calm = Norms(), {"dropout_rate": 0.0}
    settings = dict(logging_steps=1, use_cpu_kernels=False, max_grad_norm=0.3, **changes)
    trainer = recommender_training.make_trainer(shop, folder, [norms], model_changes=calm, **settings)
    norms.trainer = trainer
    if recorded:
        trainer.recorded_step = RecordedStep("cpu", seen=0)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, norms


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return recommender_training.make_shop(tmp_path_factory.mktemp("shop"))


def lines(trainer):
    names = ("loss", "grad_norm", "generation_loss", "alignment_loss", "eval_loss", "eval_NDCG@10")
    return [{name: line[name] for name in names if name in line} for line in trainer.state.log_history]


@pytest.mark.parametrize("half", [False, True])
def test_losses_gradients_and_evaluations_are_those_of_plain_steps(shop, tmp_path, half):
    (plain, before), (fast, seen) = (trained(shop, tmp_path / str(way), way, bf16=half) for way in (False, True))
    assert seen.recorded and not fast.recorded_step.recordings.kept  # forgotten at the end
    for mine, theirs in zip(lines(fast), lines(plain), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for mine, theirs in zip(seen.seen, before.seen, strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(fast.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_resumed_training_ends_where_the_whole_one_did(shop, tmp_path):
    whole, _ = trained(shop, tmp_path / "whole", True)
    trained(shop, tmp_path / "cut", True, max_steps=whole.state.max_steps // 2, save_strategy="steps", save_steps=1)
    rest, seen = trained(shop, tmp_path / "cut", True, resume=True, save_strategy="steps", save_steps=1)
    assert rest.state.global_step == whole.state.global_step and seen.recorded


def test_an_optimizer_that_has_modes_is_told_of_the_step(shop, tmp_path):
    trainer, _ = trained(shop, tmp_path, True, max_steps=2)
    trainer.optimizer.train, told = (lambda: told.append(1)), []
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    assert told


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [({}, True), ({"gradient_accumulation_steps": 2}, False), ({"torch_empty_cache_steps": 5}, False)],
)
def test_only_steps_that_repeat_themselves_are_recorded(shop, tmp_path, changes, wanted):
    trainer = recommender_training.make_trainer(shop, tmp_path, **changes)
    assert trainer.recorded_step is None  # on a CPU
    assert trainer._repeats_itself() is wanted
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")  # what float16 brings, in whatever way it was asked for
    assert not trainer._repeats_itself()
