"""What a history's neighbours say, against sums over dense matrices."""

import numpy as np
import pytest

from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.purchase_counts import UNIT, PurchaseCounts

NUM_ITEMS = 12


@pytest.fixture
def shop():
    generator = np.random.default_rng(5)
    purchases = [generator.integers(0, NUM_ITEMS - 1, size=size) for size in generator.integers(2, 12, size=30)]
    histories = [generator.integers(0, NUM_ITEMS, size=size) for size in (0, 1, 3, 25)]  # item 11 was never bought
    return count_purchases(purchases, NUM_ITEMS), histories


def dense(counts, values):
    matrix = np.zeros((NUM_ITEMS, NUM_ITEMS))
    matrix[np.repeat(np.arange(NUM_ITEMS), np.diff(counts.starts)), counts.others] = values
    return matrix


def test_votes_are_sums_over_the_last_twenty_items(shop):
    counts, histories = shop
    found = counts.neighbours(histories)
    norm = 1 / np.sqrt(counts.popularity + 1)
    matrices = {
        "before": dense(counts, counts.before) / UNIT,
        "after": dense(counts, counts.after) / UNIT,
        "near": dense(counts, counts.before + counts.after) / UNIT,
        "next": dense(counts, counts.next),
        "together": dense(counts, counts.together),
        "cosine": norm[:, None] * dense(counts, counts.together) * norm,
    }
    items = np.arange(NUM_ITEMS)
    for user, history in enumerate(histories):
        recent = history[::-1][:20]
        values = found.of(np.full(NUM_ITEMS, user), items)
        for name, matrix in matrices.items():
            wanted = sum((matrix[item] / place for place, item in enumerate(recent, 1)), start=np.zeros(NUM_ITEMS))
            assert np.allclose(values[name], wanted, atol=1e-8), name
        last = matrices["next"][recent[0]] if len(recent) else np.zeros(NUM_ITEMS)
        assert np.array_equal(values["last_next"], last)


def test_the_best_are_those_of_a_sorted_row(shop):
    counts, histories = shop
    found = counts.neighbours(histories)
    place = np.random.default_rng(0).permutation(NUM_ITEMS)
    for order in (None, place):
        best = found.best("together", len(histories), 5, order)
        for user in range(len(histories)):
            values = found.of(np.full(NUM_ITEMS, user), np.arange(NUM_ITEMS))["together"]
            ties = np.arange(NUM_ITEMS) if order is None else order
            wanted = [item for item in np.lexsort((ties, -values)) if values[item] > 0][:5]
            assert best[user].tolist() == wanted + [-1] * (5 - len(wanted))


def test_an_empty_place_knows_nobody(shop):
    counts, histories = shop
    values = counts.neighbours(histories).of(np.full((1, 2), 3), np.array([[-1, -1]]))
    assert all((value == 0).all() for value in values.values())


def test_a_file_of_another_release_is_refused(shop, tmp_path):
    from safetensors.numpy import save_file

    save_file({"popularity": np.zeros(3, dtype=np.int64)}, tmp_path / "purchase_counts.safetensors")
    with pytest.raises(ValueError, match="expected purchase counts of this release.*macrec refresh"):
        PurchaseCounts.load(tmp_path)
