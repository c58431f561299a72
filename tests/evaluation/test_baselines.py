from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from macrec_hf.data.item_regression import with_item_regression
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.evaluation.baselines import (
    BASELINES,
    Counted,
    baseline_lists,
    best_window,
    co_visitation,
    co_visitation_new_items,
    item_regression,
    markov_chain,
    popularity,
    random_items,
    recent_then_popularity,
)
from macrec_hf.evaluation.ranking_metrics import hit_rate, tied_ranks
from macrec_hf.model.blend import SOURCES, BlendInputs, find_candidates

DATA = Path(__file__).parents[2].parent / "shared" / "data"

TRAIN = [np.array([0, 1, 2]), np.array([1, 2, 1]), np.array([3])]
# purchases: item 0 once, item 1 three times, item 2 twice, item 3 once, items 4 and 5 never


def test_popularity_by_hand():
    assert popularity(TRAIN, [np.array([0])], 6, 4).tolist() == [[1, 2, 0, 3]]  # 0 and 3 tie: the lower row first
    assert popularity(TRAIN, [np.array([0])] * 2, 6, 8).tolist() == [[1, 2, 0, 3, 4, 5, -1, -1]] * 2


def test_recent_items_then_popularity_by_hand():
    # last first, each once: 4, 2, 3; then the bestsellers that are not there yet: 1, 0
    assert recent_then_popularity(TRAIN, [np.array([3, 2, 3, 2, 4])], 6, 5).tolist() == [[4, 2, 3, 1, 0]]
    assert recent_then_popularity(TRAIN, [np.array([], dtype=int)], 6, 2).tolist() == [[1, 2]]


def test_co_visitation_by_hand():
    # neighbours of 0: item 1 and item 2, once each (first user); item 1 is more popular.
    # Of the history [0], the list is 1, 2, then the bestsellers 0, 3.
    assert co_visitation(TRAIN, [np.array([0])], 6, 4).tolist() == [[1, 2, 0, 3]]
    # neighbours of 2: item 1 three times, item 0 once. History [0, 2]: item 2 votes with weight 1, item 0 with 1/2:
    # item 1: 3 + 1/2, item 0: 1, item 2: 1/2, then the bestseller 3.
    assert co_visitation(TRAIN, [np.array([0, 2])], 6, 4).tolist() == [[1, 0, 2, 3]]
    assert co_visitation_new_items(TRAIN, [np.array([0, 2])], 6, 4).tolist() == [[1, 3, 4, 5]]


def test_the_markov_chain_equals_counting_with_loops():
    generator = np.random.default_rng(3)
    train = [generator.integers(0, 12, size=generator.integers(1, 15)) for _ in range(30)]
    histories = [generator.integers(0, 12, size=generator.integers(0, 25)) for _ in range(20)]
    followed = Counter((int(a), int(b)) for sequence in train for a, b in pairwise(sequence) if a != b)
    bought = Counter(int(item) for sequence in train for item in sequence)
    for history, found in zip(histories, markov_chain(train, histories, 12, 6), strict=True):
        last = int(history[-1]) if len(history) else None
        expected = sorted(range(12), key=lambda item: (-followed[last, item], -bought[item], item))[:6]
        assert found.tolist() == expected


def test_item_regression_by_hand():
    # Items 0 and 1 have three customers in common, 1 and 2 one: 1 says 3 / (4 + 200) of 0, and 1 / (4 + 200) of 2.
    train = [np.array([0, 1])] * 3 + [np.array([1, 2])] + [np.array([3])] * 5
    assert item_regression(train, [np.array([1])], 4, 4).tolist() == [[0, 2, 3, 1]]  # then the bestsellers
    assert item_regression(train, [np.array([3])], 4, 4).tolist() == [[3, 1, 0, 2]]


def test_of_too_many_purchases_no_regression_is_made(monkeypatch):
    monkeypatch.setattr("macrec_hf.data.item_regression.MOST_PURCHASES", 2 * sum(map(len, TRAIN)) - 1)
    found = baseline_lists(TRAIN, [np.array([0])], 6)
    assert list(found) == [name for name in BASELINES if name != "item_regression"]
    with pytest.raises(
        ValueError, match="item_regression: expected sequences of at most .* got 7. Its lists are left"
    ):
        item_regression(TRAIN, [np.array([0])], 6, 4)


def test_every_baseline_but_chance_is_a_source_of_the_blend():
    """The lists by which the blend has to prove itself are those that an evaluation prints."""
    generator = np.random.default_rng(1)
    train = [generator.integers(0, 40, size=generator.integers(1, 9)) for _ in range(25)]
    histories = [generator.integers(0, 40, size=generator.integers(1, 12)) for _ in range(30)]
    counts = with_item_regression(count_purchases(train, 40, window=best_window(train, 40, histories)))
    candidates = find_candidates(BlendInputs(counts), histories, {})
    assert set(SOURCES) == set(BASELINES) - {"random"}
    for name, weights in SOURCES.items():
        wanted = BASELINES[name](train, histories, 40, 10)
        assert candidates.ranked(weights, 10).items.tolist() == wanted.tolist(), name


def test_sources_are_the_baselines_also_where_most_items_are_no_candidates():
    generator = np.random.default_rng(4)
    chances = 1 / np.arange(1, 1001)
    train = [generator.choice(1000, size=generator.integers(1, 40), p=chances / chances.sum()) for _ in range(600)]
    histories = [generator.choice(1000, size=generator.integers(0, 40), p=chances / chances.sum()) for _ in range(60)]
    counts = with_item_regression(count_purchases(train, 1000, window=best_window(train, 1000, histories)))
    candidates = find_candidates(BlendInputs(counts), histories, {})
    assert (candidates.items >= 0).sum(axis=1).max() < 500
    for name, weights in SOURCES.items():
        wanted = BASELINES[name](train, histories, 1000, 10)
        assert candidates.ranked(weights, 10).items.tolist() == wanted.tolist(), name


def test_co_visitation_equals_counting_with_loops():
    generator = np.random.default_rng(0)
    train = [generator.integers(0, 12, size=generator.integers(1, 15)) for _ in range(30)]
    histories = [generator.integers(0, 12, size=generator.integers(0, 25)) for _ in range(20)]
    together = Counter()
    for sequence in train:
        for i in range(len(sequence)):
            for j in range(len(sequence)):
                if i != j and abs(i - j) <= 5 and sequence[i] != sequence[j]:
                    together[sequence[i], sequence[j]] += 1
    bought = Counter(int(item) for sequence in train for item in sequence)
    for hide, function in ((False, co_visitation), (True, co_visitation_new_items)):
        lists = function(train, histories, 12, 6)
        for history, found in zip(histories, lists, strict=True):
            score = {item: 0.0 for item in range(12) if not (hide and item in history)}
            for item in score:
                for back, voter in enumerate(history[::-1][:20], start=1):
                    score[item] += together[voter, item] / back
            expected = sorted(score, key=lambda item: (-round(score[item], 9), -bought[item], item))[:6]
            assert found[found >= 0].tolist() == expected


def test_random_items_are_seeded_distinct_and_even():
    lists = random_items(TRAIN, [np.array([0])] * 3000, 6, 3, seed=1)
    assert (lists == random_items(TRAIN, [np.array([0])] * 3000, 6, 3, seed=1)).all()
    assert all(len(set(row)) == 3 for row in lists.tolist())
    assert np.bincount(lists.ravel(), minlength=6) / 9000 == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_gives_full_lists_without_repeats(name):
    histories = [np.array([1, 2, 2]), np.array([], dtype=int), np.array([5])]
    lists = BASELINES[name](TRAIN, histories, 6, 9, seed=0)
    assert lists.shape == (3, 9) and lists.dtype == np.int64
    for row, history in zip(lists.tolist(), histories, strict=True):
        found = [item for item in row if item >= 0]
        hidden = set(history.tolist()) if name == "co_visitation_new_items" else set()
        assert sorted(found) == sorted(set(range(6)) - hidden) and row[len(found) :] == [-1] * (9 - len(found))
    assert BASELINES[name](TRAIN, [], 6, 9, seed=0).shape == (0, 9)


def hit_rate_at_10(name, histories, num_items):
    train, known = [items[:-2] for items in histories], [items[:-1] for items in histories]
    targets = np.array([items[-1] for items in histories])
    lists = BASELINES[name](train, known, num_items, 10, seed=0)
    return hit_rate(tied_ranks(lists, targets), 10).mean()


def test_measured_figures_of_the_fashion_shop():
    if not (DATA / "hm").is_dir():
        pytest.skip("needs the fashion shop's data in ../shared/data/hm")
    from macrec_hf.data.histories import user_histories
    from macrec_hf.data.readers import read_interactions, read_items

    row_of = {item_id: row for row, item_id in enumerate(read_items(DATA / "hm" / "items.jsonl")["item_id"])}
    histories = user_histories(read_interactions(DATA / "hm" / "interactions.csv"), row_of).items
    assert (len(histories), len(row_of)) == (917, 2615)
    figures = {name: hit_rate_at_10(name, histories, len(row_of)) for name in BASELINES}
    assert figures["popularity"] == pytest.approx(0.0425, abs=5e-5)
    assert figures["recent_then_popularity"] == pytest.approx(0.107, abs=5e-4)
    assert figures["co_visitation_new_items"] == pytest.approx(0.062, abs=1e-3)
    assert figures["co_visitation"] > figures["recent_then_popularity"]  # 12 % of the last purchases are repeats
    assert figures["random"] == pytest.approx(10 / 2615, abs=0.006)


def test_measured_popularity_of_the_instruments():
    if not (DATA / "instruments").is_dir():
        pytest.skip("needs the instruments' data in ../shared/data/instruments")
    from macrec_hf.data.histories import user_histories
    from macrec_hf.data.readers import read_interactions

    interactions = read_interactions(DATA / "instruments" / "Instruments.inter.json")
    histories = user_histories(interactions, {str(row): row for row in range(6250)}).items
    assert hit_rate_at_10("popularity", histories, 6250) == pytest.approx(0.0638, abs=5e-5)


def test_the_window_is_chosen_on_validation_purchases_where_histories_hold_them():
    """In training an item is followed by its partner at once, in validation after four others."""
    random, train, tested = np.random.default_rng(5), [], []
    for _ in range(200):
        item, others = int(random.integers(0, 20)), random.integers(40, 400, size=4)
        tail = [item, *others, item + 20] if len(train) % 2 else [item, item + 20]
        train.append(np.array([*random.integers(40, 400, size=6), *tail]))
    for _ in range(100):
        item = int(random.integers(0, 20))
        known = np.array([item, *random.integers(40, 400, size=4)])
        train.append(known)
        tested.append(np.append(known, item + 20))
    assert best_window(train, 400) == best_window(train, 400, train) == best_window(train, 400, tested[:0])

    def found(window):
        lists = co_occurrence_of(train, [history[:-1] for history in tested], window)
        hits = lists == np.array([history[-1] for history in tested])[:, None]
        return (hits / np.log2(np.arange(10) + 2)).sum()

    assert best_window(train, 400, tested) == max((3, 5, 10), key=found)
    assert best_window(train, 400, tested) > best_window(train, 400)
    known, targets = [history[:-1] for history in tested], np.array([history[-1] for history in tested])
    assert best_window(train, 400, known, targets) == best_window(train, 400, tested)
    # Given by themselves they count also where somebody has bought exactly so before.
    assert best_window([*train, *tested], 400, known[::-1], targets, np.arange(100)[::-1]) > best_window(train, 400)


def co_occurrence_of(train, histories, window):
    return Counted(train, 400, window).votes(histories, 10, ["co_occurrence"])["co_occurrence"]


def test_counts_that_several_calls_share_give_the_lists_of_each_call():
    random = np.random.default_rng(2)
    train = [random.integers(0, 40, size=random.integers(12, 20)) for _ in range(25)]
    histories = [
        random.integers(0, 40, size=random.integers(0, 12)) for _ in range(600)
    ]  # several blocks, none in train
    counted = Counted(train, 40)
    for some, width, num_items in ((histories, 10, 40), (histories[:3], 50, 40), ([], 5, 40), (histories[:3], 45, 60)):
        shared, alone = (baseline_lists(of, some, num_items, width) for of in (counted, train))
        assert list(shared) == list(BASELINES)
        for name, lists in shared.items():
            assert np.array_equal(lists.items, alone[name].items), name
            assert np.array_equal(lists.items, BASELINES[name](train, some, num_items, width)), name
