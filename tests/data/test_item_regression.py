"""Which neighbours explain an item, against the formula on dense matrices."""

import numpy as np
import pytest

import macrec_hf.data.item_regression as item_regression
from macrec_hf.data.histories import purchases_by_user
from macrec_hf.data.item_regression import item_weights, with_item_regression
from macrec_hf.data.purchase_counting import count_purchases, save_counts
from macrec_hf.data.readers import read_interactions
from macrec_hf.model.purchase_counts import WEIGHT_UNIT, PurchaseCounts

NUM_ITEMS = 90  # more than are solved at once


@pytest.fixture(scope="module")
def bought():
    generator = np.random.default_rng(1)
    chances = 1 / np.arange(1, NUM_ITEMS)  # the last item is never bought
    sizes = generator.integers(1, 15, size=400)
    return [generator.choice(NUM_ITEMS - 1, size=size, p=chances / chances.sum()) for size in sizes]


def dense(counts, values):
    matrix = np.zeros((counts.num_items, counts.num_items))
    matrix[np.repeat(np.arange(counts.num_items), np.diff(counts.starts)), counts.others] = values
    return matrix


def by_formula(counts, most):
    common = np.minimum(dense(counts, counts.together), np.minimum.outer(counts.popularity, counts.popularity))
    wanted = np.zeros_like(common)
    for item in range(counts.num_items):
        likeness = common[item] / np.sqrt(np.maximum(counts.popularity, 1))
        near = [other for other in np.argsort(-likeness, kind="stable") if common[item, other]][:most]
        gram = common[np.ix_(near, near)] + np.diag(counts.popularity[near] + 200.0)
        wanted[near, item] = np.linalg.solve(gram, common[near, item]) if near else 0
    return np.maximum(wanted, 0)


@pytest.mark.parametrize("most", [5, 200])
def test_weights_are_those_of_the_closed_form_on_the_neighbours_most_alike(bought, monkeypatch, most):
    monkeypatch.setattr(item_regression, "NEIGHBOURS", most)
    counts = count_purchases(bought, NUM_ITEMS)
    found = dense(counts, with_item_regression(counts).regression) / WEIGHT_UNIT
    wanted = by_formula(counts, most)
    assert np.abs(found - wanted).max() < 1e-9
    assert 0 < (found > 0).sum() < len(counts.others)  # some are below 0 and left out


def test_what_another_says_already_is_not_said_again():
    """Customers of a buy b, those of b buy c; who has a and c has b too. So b explains c, a adds nothing."""
    a, b, c = range(3)
    bought = [np.array([a, b])] * 300 + [np.array([b, c])] * 300 + [np.array([a, b, c])] * 60
    weights = dense(counts := with_item_regression(count_purchases(bought, 3)), counts.regression)
    assert counts.together[(np.repeat(np.arange(3), np.diff(counts.starts)) == a) & (counts.others == c)] == 60
    assert weights[b, c] > 0 and weights[a, c] == 0


@pytest.mark.parametrize("often", [125, 250, 480, 1000])  # eigenvalues of -52 to -414
def test_counts_that_are_no_gram_matrix_give_bounded_weights(often):
    """A neighbour as often with each of two others as alone, these never together."""
    common = {(0, 1): 10, (0, 2): 10, (0, 3): 10, (1, 2): often, (2, 3): often}
    pairs = sorted([*common, *((other, item) for item, other in common)])
    together = np.array([common[min(pair), max(pair)] for pair in pairs])
    starts = np.searchsorted([item for item, _ in pairs], range(5))
    weights = item_weights(starts, np.array([other for _, other in pairs]), together, np.array([50, *[often] * 3]))
    gram = often * np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    values, vectors = np.linalg.eigh(gram)
    penalty = -4 * values.min()
    assert penalty > 200
    wanted = np.linalg.solve(vectors @ np.diag(np.maximum(values, 0)) @ vectors.T + penalty * np.eye(3), [10, 10, 10])
    found = weights[[pairs.index((item, 0)) for item in (1, 2, 3)]] / WEIGHT_UNIT
    assert found == pytest.approx(np.maximum(wanted, 0), abs=1e-9) and (found > 0).any()


def test_no_weight_is_above_1():
    """Of two that are nearly always bought together only one is bought with a third."""
    starts, others = np.array([0, 1, 3, 4]), np.array([1, 0, 2, 1], dtype=np.int32)
    weights = item_weights(starts, others, np.array([1000, 1000, 900, 900]), np.array([1000, 1000, 1000]))
    assert weights[1] / WEIGHT_UNIT == pytest.approx(1000 / 1200)  # alone
    starts, others = np.array([0, 2, 4, 6]), np.array([1, 2, 0, 2, 0, 1], dtype=np.int32)
    weights = item_weights(starts, others, np.array([1000, 1, 1000, 900, 1, 900]), np.array([1000, 1000, 1000]))
    assert np.linalg.solve([[1200, 900], [900, 1200]], [1000, 1]).max() > 1.9
    assert weights[2] == WEIGHT_UNIT


@pytest.mark.parametrize("cycle", [2, 3, 6])
def test_customers_who_buy_the_same_in_turns_change_little(bought, cycle):
    """Several of their purchases of one item stand within five of one of the other: more pairs than purchases."""
    counts = count_purchases([*bought, *[np.arange(250) % cycle] * 3], NUM_ITEMS)
    common, sold = dense(counts, counts.together), counts.popularity[:NUM_ITEMS]
    assert (common > np.minimum(sold[:, None], sold)).any()
    found = dense(counts, with_item_regression(counts).regression) / WEIGHT_UNIT
    assert np.abs(found - by_formula(counts, 200)).max() < 1e-9  # by the usual penalty, for every item


def test_of_more_purchases_nothing_is_made(bought, tmp_path, monkeypatch):
    counts = count_purchases(bought, NUM_ITEMS)
    purchases = int(counts.popularity.sum())
    monkeypatch.setattr(item_regression, "MOST_PURCHASES", purchases)
    assert with_item_regression(counts).regression is not None
    assert with_item_regression(counts, room=2).regression is None
    monkeypatch.setattr(item_regression, "MOST_PURCHASES", purchases - 1)
    assert (without := with_item_regression(counts)).regression is None
    assert "regression" not in without.neighbours([np.array([0, 1])]).values
    lines = [f"u{user},{item},{place}" for user, items in enumerate(bought) for place, item in enumerate(items)]
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    by_user = purchases_by_user(read_interactions(tmp_path / "i.csv"), {str(row): row for row in range(NUM_ITEMS)})
    save_counts(tmp_path, by_user, NUM_ITEMS)
    assert PurchaseCounts.load(tmp_path).regression is None


def test_weights_do_not_depend_on_the_window(bought):
    narrow, wide = (with_item_regression(count_purchases(bought, NUM_ITEMS, window=window)) for window in (3, 10))
    assert np.array_equal(dense(narrow, narrow.regression), dense(wide, wide.regression))
    assert len(narrow.others) < len(wide.others)


@pytest.mark.parametrize("search", [0, 10**9])
def test_weights_are_the_same_whether_pairs_are_read_or_searched_for(bought, monkeypatch, search):
    counts = count_purchases(bought, NUM_ITEMS)
    wanted = with_item_regression(counts).regression
    monkeypatch.setattr(item_regression, "_SEARCH", search)
    item_regression._LAST.clear()
    assert np.array_equal(with_item_regression(counts).regression, wanted)


def test_nothing_bought_explains_nothing():
    for histories in ([], [np.array([1, 1])]):
        assert not len(with_item_regression(count_purchases(histories, 3)).regression)


def test_a_changed_catalogue_keeps_the_weights_and_strangers_get_none(bought):
    counts = with_item_regression(count_purchases(bought, NUM_ITEMS))
    rows = np.array([*range(NUM_ITEMS - 1, 4, -1), -1])
    kept = rows[:-1]
    changed = dense(selected := counts.select(rows), selected.regression)
    assert np.array_equal(changed[:-1, :-1], dense(counts, counts.regression)[np.ix_(kept, kept)])
    assert not changed[-1].any() and counts.shareable().regression is None
