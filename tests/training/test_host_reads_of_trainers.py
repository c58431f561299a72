"""A step of a whole training waits for nothing but what transformers itself waits for, which is named here."""

import pytest
import quantizer_training
import recommender_training
from host_reads import OF_TRANSFORMERS, Reads

QUIET = dict(eval_strategy="no", save_strategy="no", logging_steps=1000, use_cpu_kernels=False)


def steps_and_reads(trainer):
    with Reads() as reads:
        trainer.train()
    return trainer.state.global_step, reads.found


def reads_of_a_step(train):
    """How often each file reads in every step, by the difference between `train(epochs)` and twice as many epochs.

    On a CPU the trainer looks at the loss of each step; on a GPU it does so at a log line (`_check_losses`).
    """
    shorter, longer = train(2), train(4)
    (steps, once), (twice, again) = steps_and_reads(shorter), steps_and_reads(longer)
    assert twice == 2 * steps > 2
    found = {asking: reads // steps for asking, reads in (again - once).items() if reads >= steps}
    assert found.pop("trainer_base.py") == shorter.args.gradient_accumulation_steps
    return found


@pytest.mark.parametrize("accumulated", [1, 3])
def test_no_step_of_a_recommender_waits_for_the_device(accumulated, tmp_path):
    shop = recommender_training.make_shop(tmp_path)

    def trainer(epochs):
        changes = QUIET | dict(gradient_accumulation_steps=accumulated, num_train_epochs=epochs)
        return recommender_training.make_trainer(shop, tmp_path / "run", **changes)

    of_trainer = {"trainer_pt_utils.py"} if accumulated > 1 else set()
    assert set(reads_of_a_step(trainer)) <= OF_TRANSFORMERS | of_trainer


@pytest.mark.parametrize("missing", [(), range(0, 96, 3)], ids=["complete", "photos missing"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_no_step_of_a_quantizer_waits_for_the_device(accumulated, missing, tmp_path):
    """But for one read of the host's own generator, whose seed is a tensor of the CPU."""
    store = quantizer_training.make_store(missing=missing)

    def trainer(epochs):
        changes = QUIET | dict(gradient_accumulation_steps=accumulated, num_train_epochs=epochs)
        changes["per_device_train_batch_size"] = 16
        return quantizer_training.make_trainer(tmp_path / "run", store, **changes)

    assert reads_of_a_step(trainer) == {"losses.py": accumulated}
