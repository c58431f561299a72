"""Lists without the user's own items, against plain loops."""

import numpy as np
import pytest

from macrec_hf.evaluation.baselines import BASELINES, baseline_lists
from macrec_hf.evaluation.own_history import quoted, refilled, repeat_rate, without_own
from macrec_hf.model.ranked_lists import RankedLists

NUM_ITEMS = 40


@pytest.fixture(scope="module")
def histories():
    generator = np.random.default_rng(0)
    lengths = [0, 1, 3, 9, 10, 17, 30, 60, 2]
    return [generator.integers(0, NUM_ITEMS, size=length) for length in lengths]


def test_own_items_leave_the_list_and_the_others_move_up(histories):
    generator = np.random.default_rng(1)
    items = np.stack([generator.permutation(NUM_ITEMS)[:12] for _ in histories])
    items[4, 7:] = -1
    scores = np.where(items >= 0, -np.sort(generator.random(items.shape), axis=1), -np.inf)
    kept = without_own(RankedLists(items, scores), histories, width=5)
    assert kept.items.shape == kept.scores.shape == (len(histories), 5) and kept.leaf_ranks is None
    for row, history in enumerate(histories):
        expected = [
            (item, score)
            for item, score in zip(items[row].tolist(), scores[row].tolist(), strict=True)
            if item >= 0 and item not in history
        ][:5]
        expected += [(-1, -np.inf)] * (5 - len(expected))
        assert list(zip(kept.items[row].tolist(), kept.scores[row].tolist(), strict=True)) == expected
    whole = without_own(RankedLists(items, scores), histories)
    assert whole.items.shape == items.shape and (whole.items[:, :5] == kept.items).all()


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "random"])
def test_baselines_are_refilled_with_what_comes_next(histories, name):
    """Places that own items leave are taken by the next items of the list over the whole catalogue."""
    generator = np.random.default_rng(2)
    train = [generator.integers(0, NUM_ITEMS, size=8) for _ in range(30)]

    def make_lists(some, width):
        return {name: baseline_lists(train, some, NUM_ITEMS, width)[name]}

    found = refilled(make_lists, histories, 10)[name]
    everything = make_lists(histories, NUM_ITEMS)[name].items
    for row, history in enumerate(histories):
        expected = [item for item in everything[row].tolist() if item >= 0 and item not in history][:10]
        assert found.items[row].tolist() == expected + [-1] * (10 - len(expected))
        assert (np.diff(found.scores[row, : len(expected)]) < 0).all()


def test_random_lists_are_refilled_too(histories):
    lists = refilled(lambda some, width: baseline_lists([], some, NUM_ITEMS, width), histories, 10)["random"]
    for row, history in zip(lists.items.tolist(), histories, strict=True):
        free = min(10, NUM_ITEMS - len(set(history.tolist())))
        assert len(set(row) - {-1}) == free and not set(row) & set(history.tolist())


def test_the_repeat_rate_fixes_the_column():
    histories = [np.array([1, 2]), np.array([3]), np.array([], dtype=int), np.array([5, 5])]
    assert repeat_rate(histories, np.array([2, 1, 0, 5])) == 0.5
    assert [quoted(rate) for rate in (0.0, 0.0099, 0.01, 0.5)] == ["hidden", "hidden", "shown", "shown"]
