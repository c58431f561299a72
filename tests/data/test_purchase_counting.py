"""Counts of purchases against counting by hand, and that groups of customers add up."""

from collections import Counter
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from macrec_hf.data import purchase_counting
from macrec_hf.data.histories import Purchases
from macrec_hf.data.item_regression import with_item_regression
from macrec_hf.data.purchase_counting import add_counts, count_purchases, save_counts
from macrec_hf.model.purchase_counts import COUNTS_NAME, UNIT, PurchaseCounts


@pytest.fixture
def shop():
    """(histories of 40 customers over 9 items, their days)."""
    generator = np.random.default_rng(3)
    histories = [generator.integers(0, 9, size=generator.integers(0, 15)) for _ in range(40)]
    days = [np.sort(generator.integers(18_000, 18_100, size=len(history))) for history in histories]
    return histories, days


def by_hand(histories, window):
    """`{(item, other): [before, after, next, together, customers]}`, one pair of purchases at a time."""
    found, buyers = {}, {}
    for customer, history in enumerate(histories):
        for place, item in enumerate(history):
            for distance in range(1, max(window, 5) + 1):
                if place + distance >= len(history) or history[place + distance] == item:
                    continue
                other = history[place + distance]
                ahead, back = (found.setdefault(pair, [0, 0, 0, 0]) for pair in ((item, other), (other, item)))
                ahead[0] += UNIT // distance * (distance <= window)
                back[1] += UNIT // distance * (distance <= window)
                ahead[2] += distance == 1
                for values in (ahead, back):
                    values[3] += distance <= 5
                for pair in ((item, other), (other, item)):
                    buyers.setdefault(pair, set()).add(customer)
    return {pair: [*values, len(buyers[pair])] for pair, values in found.items()}


def in_one_row(histories, days=None):
    rows, starts = np.array([*chain(*histories)], dtype=np.int32), np.cumsum([0, *map(len, histories)])
    days = None if days is None else np.array([*chain(*days)], dtype=np.int32)
    return Purchases(pd.RangeIndex(len(histories)), rows, starts, days)


def pairs_of(counts):
    items = np.repeat(np.arange(counts.num_items), np.diff(counts.starts))
    values = zip(counts.before, counts.after, counts.next, counts.together, counts.customers, strict=True)
    return {pair: list(value) for pair, value in zip(zip(items, counts.others, strict=True), values, strict=True)}


@pytest.mark.parametrize("window", [1, 4, 10])
def test_pairs_are_counted_as_by_hand(shop, window):
    counts = count_purchases(shop[0], 9, window=window)
    assert pairs_of(counts) == by_hand(shop[0], window)
    assert counts.popularity.tolist() == [sum((history == item).sum() for history in shop[0]) for item in range(9)]


@pytest.mark.parametrize("earlier", [0, 18_050, 40_000])  # days before 1970 are below 0
def test_sales_of_a_day_are_counted_as_by_hand(shop, earlier):
    histories, days = shop[0], [day - earlier for day in shop[1]]
    counts = count_purchases(histories, 9, days=days)
    sales = Counter(
        (item, day)
        for history, of_it in zip(histories, days, strict=True)
        for item, day in zip(history, of_it, strict=True)
    )
    for item in range(9):
        for day in (day - earlier for day in (17_999, 18_000, 18_037, 18_100, 18_101, 30_000)):
            for last in (None, 7, 30):
                wanted = sum(
                    number
                    for (of, when), number in sales.items()
                    if of == item and when < day and (last is None or when >= day - last)
                )
                assert counts.sold(np.array([item]), np.array([day]), last) == [wanted]
            before = [when for of, when in sales if of == item and when < day]
            since = day - max(before) if before else np.inf
            assert counts.days_since_sale(np.array([item]), np.array([day])) == [since]


@pytest.mark.parametrize("earlier", [0, 18_050])
def test_groups_of_customers_add_up_to_all_of_them(shop, earlier):
    histories, days = shop[0], [day - earlier for day in shop[1]]
    whole = count_purchases(histories, 9, days=days)
    parts = [count_purchases(histories[a:b], 9, days=days[a:b]) for a, b in ((0, 7), (7, 30), (30, 40))]
    for order in ([0, 1, 2], [2, 0, 1]):
        added = add_counts([parts[place] for place in order])
        for name, value in vars(whole).items():
            assert np.array_equal(getattr(added, name), value), name


@pytest.mark.parametrize("at_a_time", [1, 30, 10**6])
def test_counts_are_the_same_whatever_is_sorted_at_a_time(shop, tmp_path, monkeypatch, at_a_time):
    """Counted in memory, through the disk, and added up from two groups: the bytes that safetensors itself writes."""
    histories, days = shop
    wanted = {
        name: value
        for name, value in vars(with_item_regression(count_purchases(histories, 9, days=days))).items()
        if name != "window"
    }
    save_file(wanted, tmp_path / "wanted", metadata={"about": '{"window": 10, "unit": 2520}'})
    monkeypatch.setattr(purchase_counting, "_AT_A_TIME", at_a_time)
    ways = [tmp_path / way for way in ("memory", "disk", "groups")]
    for folder in ways:
        folder.mkdir()
    with_item_regression(count_purchases(histories, 9, days=days)).save(ways[0])
    assert save_counts(ways[1], in_one_row(histories, days), 9) == sum(map(len, histories))
    groups = [count_purchases(histories[a:b], 9, days=days[a:b]) for a, b in ((0, 25), (25, 40))]
    with_item_regression(add_counts(groups)).save(ways[2])
    for folder in ways:
        assert [path.name for path in folder.iterdir()] == [COUNTS_NAME]
        assert (folder / COUNTS_NAME).read_bytes() == (tmp_path / "wanted").read_bytes()


@pytest.mark.parametrize("histories", [[], [np.array([1])], [np.array([1, 1])]])
def test_nothing_to_pair_gives_no_pairs(histories, tmp_path):
    counts = count_purchases(histories, 3)
    assert not len(counts.others) and counts.starts.tolist() == [0] * 4
    save_counts(tmp_path, in_one_row(histories), 3)
    assert np.array_equal(PurchaseCounts.load(tmp_path).popularity, counts.popularity)


@pytest.mark.parametrize("earlier", [0, 18_050])
def test_counts_come_back_as_they_were_saved(shop, tmp_path, earlier):
    counts = with_item_regression(count_purchases(shop[0], 9, days=[day - earlier for day in shop[1]], window=4))
    counts.save(tmp_path)
    again = PurchaseCounts.load(tmp_path)
    for name, value in vars(counts).items():
        assert np.array_equal(getattr(again, name), value), name


def test_a_grown_and_shrunk_catalogue_keeps_the_counts_of_what_stays(shop):
    """Item 2 goes, two new items come; the same as counting purchases of the others with their old distances."""
    counts = count_purchases(shop[0], 9, days=shop[1])
    rows = np.array([8, 0, 1, -1, 3, 4, 5, 6, 7, -1])
    changed = counts.select(rows)
    old = pairs_of(counts)
    wanted = {
        (new, other): old[(rows[new], rows[other])]
        for new in range(10)
        for other in range(10)
        if rows[new] >= 0 and rows[other] >= 0 and (rows[new], rows[other]) in old
    }
    assert pairs_of(changed) == wanted
    assert changed.popularity.tolist() == [0 if row < 0 else counts.popularity[row] for row in rows]
    day = np.array([18_060])
    for new, row in enumerate(rows):
        wanted_sales = 0 if row < 0 else counts.sold(np.array([row]), day)[0]
        assert changed.sold(np.array([new]), day) == [wanted_sales]


@pytest.mark.parametrize("window", [0, 11])
def test_a_window_that_cannot_be_counted_in_whole_numbers_is_refused(window):
    with pytest.raises(ValueError, match=f"window: expected 1 to 10 purchases, got {window}"):
        count_purchases([np.array([0, 1])], 2, window=window)


def test_days_of_other_purchases_are_refused():
    with pytest.raises(ValueError, match="days: expected one for each of 2 purchases, got 1"):
        count_purchases([np.array([0, 1])], 2, days=[np.array([3])])


def test_parts_of_different_catalogues_are_refused():
    with pytest.raises(ValueError, match="expected parts of one catalogue"):
        add_counts([count_purchases([], 2), count_purchases([], 3)])


def test_counts_without_dates_know_no_days():
    with pytest.raises(ValueError, match="expected counts with dates"):
        count_purchases([np.array([0, 1])], 2).sold(np.array([0]), np.array([1]))


def test_what_is_shown_to_strangers_has_no_pair_of_few_customers(shop):
    counts = count_purchases(shop[0], 9, days=shop[1])
    shown = counts.shareable(customers=10)
    assert pairs_of(shown) == {pair: values for pair, values in pairs_of(counts).items() if values[4] >= 10}
    assert 0 < len(shown.others) < len(counts.others)
    assert shown.sale_days is None


@pytest.mark.parametrize("window", [3, 10])
def test_together_does_not_depend_on_the_window(shop, window):
    counts, wider = (count_purchases(shop[0], 9, window=some) for some in (window, 5))
    assert {pair: values[3] for pair, values in pairs_of(counts).items() if values[3]} == {
        pair: values[3] for pair, values in pairs_of(wider).items()
    }
