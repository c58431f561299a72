"""A batch cut out of arrays is the batch of the same rows, one by one."""

import datasets
import numpy as np
import pytest
import recommender_training
import torch
from torch.utils.data import DataLoader

from macrec_hf.data import task_rows
from macrec_hf.data.data_collator import RecommendationCollator
from macrec_hf.data.task_rows import TaskRows
from macrec_hf.gpu.buckets import bucket_of


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return recommender_training.make_shop(tmp_path_factory.mktemp("shop"))


def collator(shop, **changes):
    table, tokenizer, _ = shop
    tokens = np.stack([tokenizer.item_token_ids(table, name) for name in table.modalities])
    return RecommendationCollator(tokens, **changes)


@pytest.mark.parametrize("changes", [{}, {"pad_token_id": 7}, {"in_buckets": True}])
def test_batches_are_those_of_rows(shop, changes):
    train, collate = shop[2]["train"], collator(shop, **changes)
    arrays = TaskRows.of(train)
    assert len(arrays) == len(train)
    for seed in range(5):
        chosen = np.random.default_rng(seed).permutation(len(train))[: 1 + 9 * seed].tolist()
        expected = collate([train[row] for row in chosen])
        found = collate(arrays.__getitems__(chosen))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert values.dtype == found[name].dtype and torch.equal(values, found[name]), name


def test_a_loader_with_workers_gives_them_too(shop):
    train, collate = shop[2]["train"], collator(shop)
    loaders = [DataLoader(rows, 16, collate_fn=collate, num_workers=2) for rows in (TaskRows.of(train), train)]
    for found, expected in zip(*loaders, strict=True):
        assert all(torch.equal(found[name], values) for name, values in expected.items())


def test_a_table_of_many_chunks_or_a_slice_of_one(shop):
    train = shop[2]["train"]
    many = datasets.concatenate_datasets([train.select(range(start, start + 7)) for start in range(3, 31, 7)])
    for part in (many, train.select(range(5, 20))):
        arrays, collate = TaskRows.of(part), collator(shop)
        rows = [len(part) - 1, 0, 8]
        expected = collate([part[row] for row in rows])
        assert all(torch.equal(collate(arrays.__getitems__(rows))[name], values) for name, values in expected.items())


def test_other_data_sets_are_read_row_by_row(shop, monkeypatch):
    train = shop[2]["train"]
    assert TaskRows.of(train) is not None
    assert TaskRows.of(train.select([4, 2, 9])) is None
    assert TaskRows.of(train.with_format("numpy")) is None
    assert TaskRows.of(train.remove_columns("item")) is None
    assert (
        TaskRows.of(datasets.Dataset.from_list([dict(input_ids=[1], labels=[2] * n, item=0) for n in (1, 2)])) is None
    )
    assert TaskRows.of([{"input_ids": [1], "labels": [2], "item": 0}]) is None
    monkeypatch.setattr(task_rows, "MEMORY", 100)
    assert TaskRows.of(train) is None


def test_in_buckets_the_loss_stays(shop):
    rows = [shop[2]["train"][row] for row in range(20)]
    plain, padded = (collator(shop, in_buckets=wide)(rows) for wide in (False, True))
    assert padded["input_ids"].shape[1] == bucket_of(plain["input_ids"].shape[1]) > plain["input_ids"].shape[1]
    assert padded["alignment_input_ids"].shape[1] > plain["alignment_input_ids"].shape[1]
    trainer_model = recommender_training.make_trainer(shop, "unused", model_changes={"dropout_rate": 0.0}).model.eval()
    first, second = (trainer_model(**batch) for batch in (plain, padded))
    for name in ("generation_loss", "alignment_loss", "loss"):
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6)
