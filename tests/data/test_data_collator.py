"""The collator: its docstring, a batch by hand, a plain loop as the reference, and the model's forward."""

import doctest

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from macrec_hf.data import data_collator
from macrec_hf.data.data_collator import RecommendationCollator


def item_tokens(modalities: int, items: int = 30, levels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 90, (modalities, items, levels)).astype(np.int32)


def random_rows(count: int, seed: int = 1) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {
            "input_ids": random.integers(3, 90, random.integers(1, 12)).tolist() + [1],
            "labels": random.integers(3, 90, 3).tolist(),
            "length": 0,
            "item": int(random.integers(0, 30)),
        }
        for _ in range(count)
    ]


def test_the_worked_batch_of_the_docstring():
    outcome = doctest.testmod(data_collator)
    assert outcome.attempted >= 7 and outcome.failed == 0


@pytest.mark.parametrize("pad", [0, 5])
def test_against_a_plain_loop(pad):
    rows, tokens = random_rows(17), item_tokens(2)
    batch = RecommendationCollator(tokens, pad_token_id=pad)(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    for place, row in enumerate(rows):
        gap = longest - len(row["input_ids"])
        assert batch["input_ids"][place].tolist() == row["input_ids"] + [pad] * gap
        assert batch["attention_mask"][place].tolist() == [1] * len(row["input_ids"]) + [0] * gap
        assert batch["labels"][place].tolist() == row["labels"]
    unique = sorted({row["item"] for row in rows})
    assert len(unique) < len(rows)
    expected = [[tokens[modality][item].tolist() for item in unique] for modality in range(2)]
    assert batch["alignment_input_ids"].tolist() == expected
    assert {value.dtype for value in batch.values()} == {torch.long}


def test_one_modality_has_nothing_to_align():
    rows = [{"input_ids": [4, 1], "labels": [5, 6, 7]}]  # and needs no item
    assert set(RecommendationCollator(item_tokens(1))(rows)) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("as_array", [np.array, torch.tensor])
def test_rows_of_a_formatted_dataset(as_array):
    rows = random_rows(5)
    formatted = [{name: as_array(value) for name, value in row.items()} for row in rows]
    collator = RecommendationCollator(item_tokens(2))
    expected, found = collator(rows), collator(formatted)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_at_most_so_many_items_are_aligned():
    rows, tokens = random_rows(25), item_tokens(3)
    collator = RecommendationCollator(tokens, max_alignment_items=4)
    everything = RecommendationCollator(tokens, max_alignment_items=25)(rows)["alignment_input_ids"].tolist()
    known = list(zip(*everything, strict=True))
    drawn = set()
    torch.manual_seed(3)
    for _ in range(50):
        items = collator(rows)["alignment_input_ids"]
        assert items.shape == (3, 4, 3)
        places = [known.index(tuple(columns)) for columns in zip(*items.tolist(), strict=True)]
        assert places == sorted(set(places))  # distinct items of the batch, in table order
        drawn |= set(places)
    assert drawn == set(range(len(known)))  # each has its turn
    torch.manual_seed(3)
    first = collator(rows)["alignment_input_ids"]
    torch.manual_seed(3)
    assert torch.equal(collator(rows)["alignment_input_ids"], first)  # Trainer's seed decides


@pytest.mark.parametrize("column", ["input_ids", "labels", "item"])
def test_a_column_that_trainer_dropped(column):
    rows = [{name: value for name, value in row.items() if name != column} for row in random_rows(2)]
    with pytest.raises(ValueError, match=f"without '{column}'.*remove_unused_columns=False"):
        RecommendationCollator(item_tokens(2))(rows)


def test_it_travels_to_the_workers_of_a_loader():
    rows = random_rows(6)
    loader = DataLoader(rows, batch_size=3, num_workers=1, collate_fn=RecommendationCollator(item_tokens(2)))
    assert sum(len(batch["labels"]) for batch in loader) == 6


def test_its_batches_are_what_forward_takes():
    from macrec_hf.model.configuration_macrec import MacRecConfig
    from macrec_hf.model.modeling_macrec import MacRecForConditionalGeneration

    config = MacRecConfig(vocab_size=90, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2)
    model = MacRecForConditionalGeneration(config)
    out = model(**RecommendationCollator(item_tokens(2))(random_rows(8)))
    assert torch.isfinite(out.loss) and torch.isfinite(out.alignment_loss)
