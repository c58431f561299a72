"""A date parts purchases: brute force over rows, what stays unread, and what is refused."""

import datetime
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from macrec_hf.data.time_split import Moments, histories_until, is_later, split_at

NUM_ITEMS = 12
ROW_OF = {f"i{row}": row for row in range(NUM_ITEMS)}
FIRST = np.datetime64("2020-01-01")


def purchases(seed=0, rows=120, users=15):
    """Random purchases over 60 days, in no order, as `read_interactions` returns them; the user named late is new."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in random.integers(users, size=rows)],
            "item_id": [f"i{row}" for row in random.integers(NUM_ITEMS, size=rows)],
            "timestamp": pd.to_datetime(FIRST + random.integers(60, size=rows).astype("timedelta64[D]"), utc=True),
        }
    )
    late = {"user_id": ["late", "late"], "item_id": ["i3", "i9"], "timestamp": [frame["timestamp"].max()] * 2}
    return pd.concat([frame, pd.DataFrame(late)], ignore_index=True)


def rows_of(frame):
    """`{user: item rows by time}`, users by their first row."""
    found = {}
    for user, item, _ in frame.sort_values("timestamp", kind="stable").itertuples(index=False):
        found.setdefault(user, []).append(ROW_OF[item])
    return {user: found[user] for user in frame["user_id"].unique()}


@pytest.mark.parametrize("cut", ["2020-02-10", datetime.date(2020, 2, 10)])
def test_purchases_of_the_cut_and_later_are_targets(cut):
    frame = purchases()
    early = frame["timestamp"] < pd.Timestamp("2020-02-10", tz="UTC")
    before, after = rows_of(frame[early]), rows_of(frame[~early])
    users = split_at(frame, ROW_OF, cut)
    assert users.user_ids == list(after) and users.cut == "2020-02-10"
    for place, user in enumerate(users.user_ids):
        assert users.histories[place].tolist() == before.get(user, [])
        assert users.targets[users.owners == place].tolist() == after[user]
    assert len(users.histories[users.user_ids.index("late")]) == 0
    assert sorted(map(list, users.counted)) == sorted(before.values())
    assert set(users.other_ids) == set(before) - set(after) and users.num_short == len(users.other_ids)
    sold = {row for rows in before.values() for row in rows}
    assert users.unseen.tolist() == [row not in sold for row in range(NUM_ITEMS)]
    assert set(users.days.tolist()) == {(datetime.date(2020, 2, 10) - datetime.date(1970, 1, 1)).days}
    assert list(map(len, users.counted_days)) == list(map(len, users.counted))


def test_some_users_keep_their_own_purchases():
    users = split_at(purchases(), ROW_OF, "2020-02-10")
    some = users.some(4)
    assert len(some) == 4 and users.some(None) is users and len(some.days) == 4
    for place, user in enumerate(some.user_ids):
        whole = users.user_ids.index(user)
        assert some.targets[some.owners == place].tolist() == users.targets[users.owners == whole].tolist()
        assert some.histories[place].tolist() == users.histories[whole].tolist()
    assert len(some.counted) == len(users.counted)
    with pytest.raises(ValueError, match="limit_users: expected at least 1 user, or None for all, got 0"):
        users.some(0)


def test_ways_of_counting_are_chosen_by_the_latest_fifth_of_what_is_counted():
    frame = purchases()
    users = split_at(frame, ROW_OF, "2020-02-10")
    learned, histories, targets, owners = users.validation()
    until = histories_until(frame, ROW_OF, "2020-02-10")
    assert sorted(map(list, learned)) == sorted(map(list, [*until.items, *until.short_items]))
    expected = [[*known, item] for known, later in zip(until.items, until.later, strict=True) for item in later]
    asked = [[*histories[owner], target] for owner, target in zip(owners, targets, strict=True)]
    assert sorted(asked) == sorted(expected)
    days = users.counted_days
    apart = {"counted": [np.array([1, 2]), np.array([3])], "counted_days": [np.array([0, 0]), np.array([9])]}
    one_day = {"counted_days": [np.zeros_like(each) for each in days]}
    for nothing in ({"counted_days": None}, one_day, apart):  # nobody of the last bought both before and after
        other = replace(users, **nothing)
        learned, histories, targets, owners = other.validation()
        assert learned is other.counted and not histories and not len(targets) and not len(owners)


def test_later_items_that_the_table_lacks_are_targets_beyond_it():
    frame = purchases()
    frame.loc[frame["timestamp"].idxmax(), "item_id"] = "new"
    users = split_at(frame, ROW_OF, "2020-02-10")
    assert users.unknown_ids == ["new"] and users.targets.max() == NUM_ITEMS and users.unseen[NUM_ITEMS]
    frame.loc[frame["timestamp"].idxmin(), "item_id"] = "old"
    with pytest.raises(ValueError, match="old"):
        split_at(frame, ROW_OF, "2020-02-10")


def test_a_fifth_of_the_purchases_before_the_date_validates():
    frame = purchases()
    histories = histories_until(frame, ROW_OF, "2020-02-20")
    known = frame[frame["timestamp"] < pd.Timestamp("2020-02-20", tz="UTC")]

    def distance(day):
        return abs((known["timestamp"] >= pd.Timestamp(day, tz="UTC")).mean() - 0.2)

    days = [str(FIRST + day) for day in range(1, 50)]
    assert distance(histories.validates_from) == min(map(distance, days)) and histories.until == "2020-02-20"
    early = known["timestamp"] < pd.Timestamp(histories.validates_from, tz="UTC")
    before, between = rows_of(known[early]), rows_of(known[~early])
    assert histories.user_ids == [user for user in before if user in between]
    assert histories.short_ids == [user for user in before if user not in between]
    for user, rows, later in zip(histories.user_ids, histories.items, histories.later, strict=True):
        assert rows.tolist() == before[user] and later.tolist() == between[user]
    known_rows, targets = histories.split("validation")
    owned = [(histories.user_ids[user], target) for user, target in zip(histories.owners, targets, strict=True)]
    assert owned == [(user, item) for user in histories.user_ids for item in between[user]]
    assert [rows.tolist() for rows in known_rows] == [before[user] for user, _ in owned]
    assert [rows.tolist() for rows in histories.short_items] == [before[user] for user in histories.short_ids]
    assert sorted(map(list, histories.counted)) == sorted(rows_of(known).values())


def test_purchases_from_the_date_on_are_not_looked_at():
    frame = purchases()
    late = (frame["timestamp"] >= pd.Timestamp("2020-02-20", tz="UTC")).to_numpy()
    changed = frame.copy()
    changed.loc[late, "item_id"] = "never heard of"
    changed.loc[late, "user_id"] = "somebody else"
    for other in (changed, frame[~late]):
        found, expected = (histories_until(one, ROW_OF, "2020-02-20") for one in (other, frame))
        assert found.user_ids == expected.user_ids and found.short_ids == expected.short_ids
        for name in ("items", "short_items", "counted", "later"):
            pairs = zip(getattr(found, name), getattr(expected, name), strict=True)
            assert all(np.array_equal(*pair) for pair in pairs)


def test_numbers_that_are_no_dates_are_compared_as_they_are():
    frame = purchases()
    frame["timestamp"] = np.arange(len(frame))
    users = split_at(frame, ROW_OF, "100")
    assert users.cut == "100" and users.days is None and users.counted_days is None
    assert sum(map(len, users.counted)) == 100 and len(users.targets) == len(frame) - 100
    seconds = pd.Series(1_580_000_000 + 86_400 * np.arange(5))
    assert Moments.of(seconds).name(Moments.of(seconds).at("2020-01-28")) == "2020-01-28"
    assert (Moments.of(seconds).values < Moments.of(seconds).at("2020-01-28")).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("one", "other", "later"),
    [
        ("2024-05-30", "2024-05-29", True),
        ("2024-05-30", "2024-05-30", False),
        ("99", "100", False),
        ("213.5", "213", True),
        ("213", "213.0", False),
        ("2024-12-31", "20240101", True),  # as text a hyphen comes before a digit
        ("20240101", "2024-12-31", True),  # of files that write moments differently nothing is known
    ],
)
def test_what_cannot_be_compared_may_be_later(one, other, later):
    assert is_later(one, other) is later


def test_what_is_refused():
    frame = purchases()
    for cut, message in (
        ("2020-13-01", "cut: expected a date such as 2020-03-01, got '2020-13-01'. The purchases are of 2020-01-01"),
        ("1581292800", "cut: expected a date such as 2020-03-01"),
        ("2019-01-01", "cut: expected purchases before 2019-01-01, got none: those of the file are of 2020-01-01 to"),
        ("2021-01-01", "cut: expected purchases from 2021-01-01 on, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            split_at(frame, ROW_OF, cut)
    with pytest.raises(ValueError, match="until: expected purchases of at least two days before 2020-01-02"):
        histories_until(frame, ROW_OF, "2020-01-02")
    alone = frame.drop_duplicates("user_id")
    with pytest.raises(ValueError, match="until: expected a customer who buys before .* and again before 2020-02-20"):
        histories_until(alone, ROW_OF, "2020-02-20")
    frame["timestamp"] = np.arange(len(frame))
    with pytest.raises(ValueError, match="cut: expected a number, as the timestamps are, got '2020-03-01'"):
        split_at(frame, ROW_OF, "2020-03-01")
