"""Histories: grouped, sorted, counted; leave-one-out by hand; interactions with items that nobody knows."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.data.histories import Histories, purchases_by_user, user_histories
from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.splits import leave_one_out
from macrec_hf.data.time_split import histories_until

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def test_the_file_is_named(tmp_path):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\nu,x,1\n")
    with pytest.raises(ValueError, match="i.csv: The interactions name 1 unknown items"):
        user_histories(read_interactions(tmp_path / "i.csv"), {"a": 0})
    with pytest.raises(ValueError, match="i.csv: Expected at least one user with 3 interactions"):
        user_histories(read_interactions(tmp_path / "i.csv"), {"x": 0})


def test_unknown_items_are_named():
    table = pd.DataFrame({"user_id": ["u"] * 4, "item_id": ["a", "x", "x", "y"], "timestamp": range(4)})
    with pytest.raises(
        ValueError, match=r"2 unknown items \(in 3 interactions\).*the 1 of the.*\['x', 'y'\].*same export"
    ):
        user_histories(table, {"a": 0})


def test_lost_leading_zeros_are_recognised():
    table = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["108775"] * 3, "timestamp": range(3)})
    with pytest.raises(ValueError, match=r"'108775'.*only by leading zeros"):
        user_histories(table, {"0108775": 0})


def test_no_user_with_enough_interactions():
    table = pd.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a"] * 3, "timestamp": range(3)})
    with pytest.raises(ValueError, match="got none among 2 users, the longest history has 2"):
        user_histories(table, {"a": 0})


def test_unsorted_interactions_are_sorted_with_a_notice(caplog):
    """v's times fall from 9 to 1; u is in order although the users alternate; equal times keep their order."""
    rows = [("u", "d", 1), ("v", "a", 9), ("u", "c", 2), ("v", "b", 1), ("u", "a", 2), ("v", "c", 9), ("u", "b", 2)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    with caplog.at_level(logging.WARNING):
        histories = user_histories(table, {"a": 0, "b": 1, "c": 2, "d": 3})
    assert histories.user_ids == ["u", "v"] and histories.short_ids == []
    assert [items.tolist() for items in histories.items] == [[3, 2, 0, 1], [1, 0, 2]]
    assert all(items.dtype == np.int32 for items in histories.items)
    assert "The interactions of 1 users were not in time order" in caplog.text


def test_sorted_interactions_are_not_mentioned(caplog):
    table = pd.DataFrame({"user_id": list("uvuvuv"), "item_id": list("aaabbb"), "timestamp": [5, 1, 5, 2, 6, 3]})
    with caplog.at_level(logging.WARNING):
        user_histories(table, {"a": 0, "b": 1})
    assert not caplog.records


def test_short_histories_stand_apart(caplog):
    table = pd.DataFrame({"user_id": list("uuvwww"), "item_id": list("aaaaba"), "timestamp": range(6)})
    with caplog.at_level(logging.WARNING):
        histories = user_histories(table, {"a": 0, "b": 1})
    assert (histories.user_ids, histories.short_ids, len(histories)) == (["w"], ["u", "v"], 1)
    assert histories.items[0].tolist() == [0, 1, 0]
    assert [items.tolist() for items in histories.short_items] == [[0, 0], [0]]
    assert "2 of 3 users have fewer than 3 interactions: they train and are counted" in caplog.text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40))
def test_histories_against_a_plain_loop(rows):
    table = pd.DataFrame([(f"u{user}", f"i{item}", time) for user, item, time in rows])
    table.columns = ["user_id", "item_id", "timestamp"]
    row_of = {f"i{item}": 10 - item for item in range(5)}
    expected: dict[str, list] = {}
    for user, item, time in rows:
        expected.setdefault(f"u{user}", []).append((time, 10 - item))
    expected = {
        user: [item for _, item in sorted(pairs, key=lambda pair: pair[0])] for user, pairs in expected.items()
    }
    kept = {user: items for user, items in expected.items() if len(items) >= 3}
    if not kept:
        with pytest.raises(ValueError, match="Expected at least one user"):
            user_histories(table, row_of)
        return
    histories = user_histories(table, row_of)
    assert dict(zip(histories.user_ids, [items.tolist() for items in histories.items], strict=True)) == kept
    assert histories.user_ids == list(kept)
    short = dict(zip(histories.short_ids, [items.tolist() for items in histories.short_items], strict=True))
    assert short == {user: items for user, items in expected.items() if user not in kept}


def test_leave_one_out():
    """The last item tests, with the validation item in its history; the one before validates; the rest trains."""
    histories = Histories(["u", "v"], [np.array([4, 2, 7, 5]), np.array([1, 1, 3])], ["w"], [np.array([6, 4])])
    rows, targets = leave_one_out(histories, "test")
    assert [row.tolist() for row in rows] == [[4, 2, 7], [1, 1]] and targets.tolist() == [5, 3]
    rows, targets = leave_one_out(histories, "validation")
    assert [row.tolist() for row in rows] == [[4, 2], [1]] and targets.tolist() == [7, 1]
    rows, targets = leave_one_out(histories, "train")
    assert [row.tolist() for row in rows] == [[4, 2], [1], [6, 4]] and targets is None  # w only trains


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_gaps_in_a_table_made_by_hand_are_refused(column):
    whole = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": [3.0, 1.0, 2.0]})
    with pytest.raises(ValueError, match=f"Expected the columns user_id, .* found no {column}"):
        user_histories(whole.drop(columns=column), {"a": 0})
    with pytest.raises(ValueError, match=f"a {column} in every row, found none in row 1"):
        user_histories(whole.assign(**{column: [whole[column][0], None, whole[column][2]]}), {"a": 0})


def test_leave_one_out_refuses():
    histories = Histories(["u", "v"], [np.array([4, 2, 7]), np.array([1, 1])])
    with pytest.raises(ValueError, match="Expected split 'train', 'validation' or 'test', got 'dev'"):
        leave_one_out(histories, "dev")
    with pytest.raises(ValueError, match=r"1 users have fewer, such as \['v'\]"):
        leave_one_out(histories, "test")


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not here")
def test_real_data():
    items = read_items(DATA / "hm" / "items.jsonl")
    interactions = read_interactions(DATA / "hm" / "interactions.csv")
    histories = user_histories(interactions, {item: row for row, item in enumerate(items["item_id"])})
    assert (len(items), len(interactions), len(histories)) == (2615, 16686, 917)
    assert items["item_id"].str.startswith("0").any() and all(Path(path).is_file() for path in items["image"])
    # Several purchases share a day: the order of the file decides.
    first = interactions[interactions["user_id"] == histories.user_ids[0]]
    assert [items["item_id"][row] for row in histories.items[0]] == first["item_id"].tolist()
    instruments = read_interactions(DATA / "instruments" / "Instruments.inter.json")
    histories = user_histories(instruments, {str(number): number for number in range(6250)})
    assert (len(instruments), len(histories), len(histories.short_ids)) == (136226, 17112, 0)


def test_nothing_to_group_is_refused():
    with pytest.raises(ValueError, match="Expected at least one interaction, got none"):
        purchases_by_user(pd.DataFrame({"user_id": [], "item_id": [], "timestamp": []}), {"a": 0})


@pytest.mark.parametrize(
    ("customers", "shared", "second", "is_said"),
    [(60, 300, 5, True), (60, 70, 5, False), (600, 200, 66, True), (600, 200, 67, False), (600, 900, 899, True)],
)
def test_an_account_of_many_people_is_named_once(caplog, tmp_path, customers, shared, second, is_said):
    """Customers with five purchases each but for one, and one account with the purchases of guests; by time too."""
    users = [f"u{user}" for user in range(1, customers) for _ in range(5)] + ["second"] * second + ["GUEST"] * shared
    rows = pd.DataFrame(
        {"user_id": users, "item_id": "i", "timestamp": np.random.default_rng(0).permutation(len(users))}
    )
    rows.to_csv(tmp_path / "orders.csv", index=False)
    interactions = read_interactions(tmp_path / "orders.csv")
    for learned_from in (
        lambda: user_histories(interactions, {"i": 0}),
        lambda: histories_until(interactions, {"i": 0}, 250),
    ):
        learned_from()
    assert caplog.text.count(f"'GUEST' has {shared} of the {len(users):,} interactions") == is_said
    assert caplog.text.count("account of many people") == is_said
