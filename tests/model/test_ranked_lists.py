import itertools
import math

import numpy as np
import pytest

from macrec_hf.evaluation.ranking_metrics import (
    TiedRanks,
    bootstrap_interval,
    catalogue_coverage,
    hit_rate,
    ndcg,
    paired_bootstrap,
    tied_ranks,
    user_metrics,
)
from macrec_hf.model.ranked_lists import RankedLists, fuse, sort_lists, unique_rows


def brute_force(scores, target, k):
    """Mean hit and gain of `target` over every order of the items that their scores allow."""
    hits, gains = [], []
    for order in itertools.permutations(range(len(scores))):
        ranked = [scores[item] for item in order]
        if any(left < right for left, right in zip(ranked, ranked[1:], strict=False)):
            continue
        rank = order.index(target) + 1
        hits.append(rank <= k)
        gains.append(1 / math.log2(rank + 1) if rank <= k else 0.0)
    return np.mean(hits), np.mean(gains)


def test_hit_rate_and_ndcg_by_hand():
    # One item above, three tied: the target is at rank 2, 3 or 4 with a third each.
    ranks = TiedRanks(np.array([1]), np.array([3]))
    # HR@1: rank 1 is impossible: 0. HR@2: rank 2 of {2, 3, 4}: 1/3. HR@3: 2/3. HR@5: 1.
    assert [hit_rate(ranks, k)[0] for k in (1, 2, 3, 5)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    # NDCG@3: (1/log2(3) + 1/log2(4)) / 3 = (0.630930 + 0.5) / 3 = 0.376977; the third case, rank 4, gains nothing.
    assert ndcg(ranks, 3)[0] == pytest.approx(0.376977, abs=1e-6)
    # NDCG@5: (0.630930 + 0.5 + 1/log2(5) = 0.430677) / 3 = 0.520535
    assert ndcg(ranks, 5)[0] == pytest.approx(0.520535, abs=1e-6)


def test_without_ties_it_is_the_textbook_metric():
    items = np.array([[7, 3, 9, -1]])
    for place, target in enumerate([7, 3, 9]):
        ranks = tied_ranks(items, np.array([target]))
        for k in (1, 2, 5):
            assert hit_rate(ranks, k)[0] == (place < k)
            assert ndcg(ranks, k)[0] == pytest.approx(1 / math.log2(place + 2) if place < k else 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_ties_equal_the_mean_over_all_orders(seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 3, size=6).astype(np.float32)  # six items, three possible scores: many ties
    items, ordered = sort_lists(np.arange(6)[None], scores[None])
    for target in range(6):
        ranks = tied_ranks(items, np.array([target]), ordered)
        for k in range(1, 7):
            expected = brute_force(scores.tolist(), target, k)
            assert (hit_rate(ranks, k)[0], ndcg(ranks, k)[0]) == pytest.approx(expected)


def test_ties_do_not_depend_on_the_order_of_the_table():
    scores = np.array([[3.0, 2.0, 2.0, 2.0, 1.0]])
    for order in itertools.permutations((1, 2, 3)):
        items = np.array([[0, *order, 4]])
        assert hit_rate(tied_ranks(items, np.array([2]), scores), 2)[0] == pytest.approx(1 / 3)


def test_a_target_that_is_not_in_the_list_counts_nothing():
    items, scores = np.array([[1, 2, -1], [-1, -1, -1]]), np.array([[0.0, -1.0, -np.inf], [-np.inf] * 3])
    ranks = tied_ranks(items, np.array([5, -1]), scores)
    assert ranks.tied.tolist() == [0, 0]
    assert hit_rate(ranks, 10).tolist() == [0, 0] and ndcg(ranks, 10).tolist() == [0, 0]
    empty = tied_ranks(np.zeros((2, 0), dtype=int), np.array([1, 2]), np.zeros((2, 0)))
    assert hit_rate(empty, 10).tolist() == [0, 0]


def test_fusing_by_hand():
    scores = np.array([[-1.0, -2.0, -np.inf, -np.inf], [-3.0, -np.inf, -4.0, -np.inf]])
    # average: (-1 - 3) / 2 = -2; alone: -2; alone: -4; nobody knows the last
    assert fuse(scores).tolist() == [-2.0, -2.0, -4.0, -np.inf]
    # authors: in both lists (-1 - 3) / 2 + 1 = -1; in one list: its score
    assert fuse(scores, "authors").tolist() == [-1.0, -2.0, -4.0, -np.inf]
    # three lists: in all of them (-3 - 6 - 9) / 3 + 2 = -4
    assert fuse(np.array([[-3.0], [-6.0], [-9.0]]), "authors").tolist() == [-4.0]


def test_fusing_breaks_the_tie_of_a_shared_id():
    text, image = np.array([-1.0, -1.0, -5.0]), np.array([-4.0, -2.0, -3.0])
    items, _ = sort_lists(np.arange(3)[None], fuse(np.stack([text, image]))[None])
    assert items.tolist() == [[1, 0, 2]]


def test_sorting_keeps_empty_places_last_and_brings_the_others_along():
    items, scores = np.array([[4, -1, 2, 9]]), np.array([[-2.0, 5.0, -2.0, -1.0]], dtype=np.float32)
    items, scores, others = sort_lists(items, scores, np.array([[40, 0, 20, 90]]), width=3)
    assert items.tolist() == [[9, 2, 4]] and others.tolist() == [[90, 20, 40]]  # the tie goes by item number
    assert scores.tolist() == [[-1.0, -2.0, -2.0]] and scores.dtype == np.float32


def test_unique_rows():
    assert unique_rows(np.array([[3, 1, 3, -1], [2, 2, 2, 2]])).tolist() == [[1, 3], [2, -1]]
    assert unique_rows(np.full((2, 3), -1)).shape == (2, 0)


def test_coverage_counts_the_first_places_only():
    # Items 0, 1, 2 are shown in the first two places of ten items: 3 / 10
    assert catalogue_coverage(np.array([[0, 1, 5], [2, 1, 6], [-1, -1, -1]]), num_items=10, k=2) == pytest.approx(0.3)


def test_bootstrap_interval_is_seeded_and_close_to_the_normal_one():
    values = np.random.default_rng(0).random((400, 2))
    low, high = bootstrap_interval(values, num_resamples=4000, seed=1)
    again = bootstrap_interval(values, num_resamples=4000, seed=1)
    assert (low == again[0]).all() and (high == again[1]).all()
    half = 1.96 * values.std(axis=0) / np.sqrt(400)  # the mean of 400 draws is very nearly normal
    np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.15 * half.max())
    np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.15 * half.max())
    alone = bootstrap_interval(values[:, 0], num_resamples=4000, seed=1)
    np.testing.assert_allclose(alone, (low[0], high[0]))


def test_refusals():
    with pytest.raises(ValueError, match="one target a user"):
        tied_ranks(np.zeros((2, 3), dtype=int), np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="one score an item"):
        tied_ranks(np.zeros((2, 3), dtype=int), np.zeros(2, dtype=int), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="fusion: expected one of average, authors"):
        fuse(np.zeros((2, 3)), "borda")
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_interval(np.zeros(0))
    with pytest.raises(ValueError, match=r"one figure a user from either method, got shapes \(3,\) and \(4,\)"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least one user"):
        paired_bootstrap(np.zeros(0), np.zeros(0))
    for odd in (np.nan, np.inf):  # a p-value of 0.0001 otherwise
        with pytest.raises(ValueError, match=f"finite figure of every user, got {odd} of user 1"):
            paired_bootstrap(np.array([1.0, odd]), np.zeros(2))
    for level in (0, 1, -1, np.nan):
        with pytest.raises(ValueError, match="level: expected a share between 0 and 1"):
            bootstrap_interval(np.ones(3), level)
    lists = RankedLists(np.array([[1, 0], [0, 1]]), np.array([[0.0, -1.0], [0.0, -1.0]]))
    for targets in ([0.5, 1], [np.nan, 1], [None, 1], [True, False]):
        with pytest.raises(ValueError, match="targets: expected rows of the catalogue"):
            user_metrics(lists, targets)
    for ks in ((), (0,), (-1,), (2.5,), ("5",), (True,)):
        with pytest.raises(ValueError, match="ks: expected cut-offs such as"):
            user_metrics(lists, [0, 1], ks)


def test_paired_bootstrap_agrees_with_all_resamples_of_three_users():
    first, second = np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    # The mean difference is 1/3; of the 27 equally likely resamples of (1, 1, -1) the means are 1 (8 of them), 1/3
    # (12), -1/3 (6) and -1 (1). Means at least 1/3 away from 1/3: 1, -1/3 and -1, so 15 of 27.
    found = paired_bootstrap(first, second, num_resamples=40_000)
    assert found.difference == pytest.approx(1 / 3) and (found.low, found.high) == (-1.0, 1.0)
    assert found.p_value == pytest.approx(15 / 27, abs=0.01)


def test_paired_bootstrap_is_close_to_the_paired_t_test():
    random = np.random.default_rng(0)
    easy = random.normal(0, 3, 2000)  # what both methods share hides the difference unless users are paired
    first, second = easy + random.normal(0.05, 0.5, 2000), easy + random.normal(0, 0.5, 2000)
    gaps = first - second
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    found = paired_bootstrap(first, second, seed=1)
    assert (found.low, found.high) == pytest.approx((gaps.mean() - 1.96 * error, gaps.mean() + 1.96 * error), abs=2e-3)
    assert found.p_value == pytest.approx(math.erfc(gaps.mean() / error / math.sqrt(2)), rel=0.3, abs=2e-3)
    back = paired_bootstrap(second, first, seed=1)
    assert (back.difference, back.low, back.p_value) == pytest.approx((-found.difference, -found.high, found.p_value))
    same = paired_bootstrap(first, first)
    assert same == (0.0, 0.0, 0.0, 1.0)
