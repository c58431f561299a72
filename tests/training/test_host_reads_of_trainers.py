"""A step of a whole training waits for nothing but what transformers itself waits for, which is named here."""

import pytest
import quantizer_training
import recommender_training
from host_reads import OF_TRANSFORMERS, Reads

# Once an epoch and once at the end of a training: the seed of the loader, the longest batch, the loss that is told.
OF_TRAINER = {"trainer.py", "trainer_pt_utils.py"}
QUIET = dict(eval_strategy="no", save_strategy="no", logging_steps=1000, use_cpu_kernels=False)


def steps_and_reads(trainer):
    with Reads() as reads:
        trainer.train()
    return trainer.state.global_step, reads.found


def test_no_step_of_a_recommender_waits_for_the_device(tmp_path):
    shop = recommender_training.make_shop(tmp_path)

    def trained(epochs):
        return steps_and_reads(
            recommender_training.make_trainer(shop, tmp_path / "run", num_train_epochs=epochs, **QUIET)
        )

    steps, found = trained(1)
    twice, again = trained(2)
    assert twice == 2 * steps > 2
    assert set(again) <= OF_TRAINER | OF_TRANSFORMERS
    assert {asking for asking, reads in (again - found).items() if reads >= steps} <= OF_TRANSFORMERS


@pytest.mark.parametrize("epochs", [1, 3])
def test_no_step_of_a_quantizer_waits_for_the_device(epochs, tmp_path):
    """But for one read of the host's own generator, whose seed is a tensor of the CPU; every item has all modalities.

    Where some lack one, the rows that have it are picked, which waits.
    """
    trainer = quantizer_training.make_trainer(tmp_path, num_train_epochs=epochs, **QUIET)
    steps, found = steps_and_reads(trainer)
    assert found.pop("losses.py") == steps
    assert (
        found.pop("modeling_macrec_quantizer.py") <= 3
    )  # before the first step: is every number finite, every code set
    assert set(found) <= OF_TRAINER
