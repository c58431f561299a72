"""A share of the cross-modal examples in an epoch: all of the others, each of these in its turn."""

import numpy as np
import pytest
import recommender_training
import torch
from datasets import Dataset

from macrec_hf import MacRecTrainingArguments
from macrec_hf.hub.model_card import trainer_facts
from macrec_hf.training.cross_modal_rows import cross_modal_rows, examples_of_an_epoch
from macrec_hf.training.global_batches import GlobalBatches

RARE = [3, 4, 7, 11, 12, 13, 20, 21, 30, 42]


def epochs(count, **changes):
    """The rows of each epoch."""
    batches, found = GlobalBatches(43, 8, rare=RARE, **changes), []
    for epoch in range(count):
        batches.set_epoch(epoch)
        found.append([row for batch in batches for row in batch])
        assert len(found[-1]) == batches.num_rows and len(batches) == -(-batches.num_rows // 8)
    return found


@pytest.mark.parametrize("lengths", [None, [row % 7 for row in range(43)]])
def test_an_epoch_has_all_other_rows_and_the_next_of_the_rare_ones(lengths):
    found = epochs(4, share=0.25, lengths=lengths)  # 3 of 10
    others = sorted(set(range(43)) - set(RARE))
    for rows in found:
        assert len(set(rows)) == len(rows) == 33 + 3 and set(others) < set(rows)
    rare = [set(rows) & set(RARE) for rows in found]
    assert set.union(*rare) == set(RARE) and not (rare[0] & rare[1] | rare[1] & rare[2])
    assert found == epochs(4, share=0.25, lengths=lengths) != epochs(4, share=0.25, lengths=lengths, seed=1)


def test_a_share_of_all_is_an_epoch_without_rare_rows():
    plain = GlobalBatches(43, 8)
    for epoch, rows in enumerate(epochs(3, share=1.0)):
        plain.set_epoch(epoch)
        assert rows == [row for batch in plain for row in batch]


def test_processes_share_the_epoch():
    alone = epochs(1, share=0.3)[0]
    parts = [list(GlobalBatches(43, 4, rare=RARE, share=0.3, rank=rank, num_processes=2)) for rank in (0, 1)]
    together = [row for pair in zip(*parts, strict=True) for part in pair for row in part]
    assert sorted(together) == sorted(alone)


def test_a_training_goes_through_a_share_of_the_tasks_between_two_modalities(tmp_path):
    shop = recommender_training.make_shop(tmp_path)
    changes = dict(eval_strategy="no", save_strategy="no", num_train_epochs=2)
    trainer = recommender_training.make_trainer(shop, tmp_path / "run", cross_modal_rate=0.5, **changes)
    tasks = np.array(trainer.train_dataset["task"][:])
    modalities = trainer.table.modalities
    rare = cross_modal_rows(trainer.train_dataset, modalities)
    assert rare.tolist() == np.flatnonzero(tasks >= 2).tolist() and 0 < len(rare) < len(tasks)
    expected = len(tasks) - len(rare) + -(-len(rare) // 2)
    assert examples_of_an_epoch(trainer.train_dataset, modalities, 0.5) == expected
    seen = sum(len(batch["labels"]) for batch in trainer.get_train_dataloader())
    assert seen == expected == trainer.num_examples(trainer.get_train_dataloader())
    trainer.train()
    assert trainer.state.max_steps == 2 * len(trainer.get_train_dataloader())
    told = trainer_facts(trainer)
    assert told["settings"]["cross-modal examples in an epoch"] == "0.5 of them"
    assert told["data"]["training examples"] == len(tasks)


def test_a_run_resumed_amid_an_epoch_goes_on_to_the_same_bits(tmp_path):
    shop, changes = recommender_training.make_shop(tmp_path), dict(eval_strategy="no", num_train_epochs=3)
    changes |= dict(cross_modal_rate=0.3, save_strategy="steps", gradient_accumulation_steps=2)
    whole = recommender_training.make_trainer(shop, tmp_path / "run", save_steps=4, **changes)
    whole.train()
    steps = whole.state.max_steps // 3  # of an epoch
    assert steps < 4 < 2 * steps
    again = recommender_training.make_trainer(shop, tmp_path / "again", save_steps=4, **changes)
    again.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-4")
    weights = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert again.state.global_step == 3 * steps and all(torch.equal(*pair) for pair in weights)


def test_what_it_cannot_follow_is_refused(tmp_path):
    for rate in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="cross_modal_rate: expected a number above 0 and at most 1.* --tasks"):
            MacRecTrainingArguments(str(tmp_path), cross_modal_rate=rate)
    with pytest.raises(ValueError, match="cross_modal_rate: expected 1 beside train_.* Give a rate of 1"):
        MacRecTrainingArguments(str(tmp_path), cross_modal_rate=0.5, train_sampling_strategy="batch_rebalance")
    with pytest.raises(ValueError, match="has no column 'task'"):
        cross_modal_rows(Dataset.from_dict({"labels": [[1]]}), ["text", "image"])
    streamed = Dataset.from_dict({"task": [0, 2]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="expected 1 for a train_dataset that is streamed"):
        cross_modal_rows(streamed, ["text", "image"])
    shop = recommender_training.make_shop(tmp_path)
    changes = dict(cross_modal_rate=0.5, eval_strategy="no", max_steps=2)
    trainer = recommender_training.make_trainer(shop, tmp_path / "run", **changes)
    trainer.train_dataset = streamed
    with pytest.raises(ValueError, match="expected 1 for a train_dataset that is streamed"):
        trainer.get_train_dataloader()
    trainer.table = None
    with pytest.raises(ValueError, match="cross_modal_rate: expected 1 without a table"):
        trainer.get_train_dataloader()
