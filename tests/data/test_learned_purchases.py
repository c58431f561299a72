"""Which purchases IDs were made from: their fingerprint, and who is refused."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from macrec_hf.data.learned_purchases import (
    LearnedHere,
    check_unseen,
    history_fingerprints,
    in_either,
    learned_here,
    training_purchases,
)

ROW_OF = {f"i{item}": item for item in range(12)}


def purchases(days=False):
    """Ten users buy six items, a day after the other over the end of January; a short one buys two."""
    rows = [(f"u{user}", f"i{(3 * user + time) % 10}", time) for user in range(10) for time in range(6)]
    frame = pd.DataFrame([*rows, ("short", "i11", 0), ("short", "i0", 1)], columns=["user_id", "item_id", "timestamp"])
    if days:
        dates = pd.to_datetime([f"2020-0{1 + time // 4}-{1 + time % 4:02}" for time in frame["timestamp"]])
        frame["timestamp"] = dates.as_unit("s").astype("int64")
    return frame


def test_what_training_learns_and_nothing_else_makes_the_fingerprint():
    frame = purchases()
    sequences, about = training_purchases(frame, ROW_OF)
    assert [len(rows) for rows in sequences] == [4] * 10 + [2] and about["split"] == "leave-one-out"
    late, short = frame["timestamp"] >= 4, frame["user_id"] == "short"
    other_tests = frame.assign(item_id=frame["item_id"].mask(late, "i10"))
    other_short = frame.assign(item_id=frame["item_id"].mask(short, "i10"))
    assert training_purchases(other_tests, ROW_OF)[1] == about
    assert training_purchases(frame[::-1], ROW_OF)[1] == about
    assert training_purchases(other_short, ROW_OF)[1] != about
    # Another order of the table's rows says the same of the purchases.
    turned = {item: 11 - row for item, row in ROW_OF.items()}
    assert training_purchases(frame, turned)[1] == about


def test_by_time_what_validates_is_not_learned():
    sequences, about = training_purchases(purchases(days=True), ROW_OF, "2020-02-02")
    assert sorted(len(rows) for rows in sequences) == [2] + [4] * 10  # 2020-02-01 validates
    assert (about["split"], about["until"]) == ("time", "2020-02-02")


def reports(interactions, until=None):
    _, about = training_purchases(interactions, ROW_OF, until)
    return {"text": {"num_items": 3}, "purchases": {"learned_from": about}}


def test_ids_that_know_what_is_predicted_are_refused():
    plain, dated = purchases(), purchases(days=True)
    check_unseen(reports(plain), plain, ROW_OF, None)
    check_unseen(reports(plain), plain.sample(frac=1, random_state=0), ROW_OF, None)
    check_unseen(reports(dated, "2020-02-02"), dated, ROW_OF, "2020-02-02")
    check_unseen(reports(dated, "2020-02-02"), dated, ROW_OF, "2020-03-01")
    check_unseen({"text": {}}, dated, ROW_OF, "2020-02-02")
    with pytest.raises(
        ValueError, match="purchases: expected semantic IDs made from purchases before 2020-02-01.*--until"
    ):
        check_unseen(reports(dated, "2020-02-02"), dated, ROW_OF, "2020-02-01")
    with pytest.raises(ValueError, match="made from purchases before 2020-02-01"):  # the same day, written otherwise
        check_unseen(reports(dated, "2020-02-02"), dated, ROW_OF, "20200201")
    with pytest.raises(
        ValueError, match="made from purchases before 2020-02-02.*got IDs made from all but each user's"
    ):
        check_unseen(reports(dated), dated, ROW_OF, "2020-02-02")
    with pytest.raises(
        ValueError, match="made from all but each user's last two.*got IDs made from --until 2020-02-02"
    ):
        check_unseen(reports(dated, "2020-02-02"), dated, ROW_OF, None)
    grown = pd.concat([plain, pd.DataFrame({"user_id": ["u0"], "item_id": ["i1"], "timestamp": [9]})])
    with pytest.raises(ValueError, match="the purchases that train here.*Was the file exchanged, or did it grow"):
        check_unseen(reports(plain), grown, ROW_OF, None)


ITEMS = [f"i{item}" for item in range(6)]


def bag(rows):
    """A history as what was bought, without its order."""
    return tuple(sorted(int(row) for row in rows))


def by_hand(learned, known, tested):
    """[`learned_here`] with bags in place of fingerprints."""
    begun = Counter(bag(rows[: end + 1]) for rows in known for end in range(len(rows)))
    missing = Counter(map(bag, learned)) - begun
    beyond = {bag([*before, *later[: end + 1]]) for before, later in tested for end in range(len(later))}
    tested_too = sum(count for rows, count in missing.items() if rows in beyond and len(rows) > 1)
    return LearnedHere(len(learned), sum(missing.values()), tested_too)


@pytest.mark.parametrize("seed", range(40))
def test_learned_histories_are_found_as_by_hand(seed):
    random = np.random.default_rng(seed)

    def histories(count, longest):
        return [random.integers(len(ITEMS), size=random.integers(1, longest)) for _ in range(count)]

    whole = histories(12, 5)
    cuts = [random.integers(len(rows) + 1) for rows in whole]
    known = [rows[:cut] for rows, cut in zip(whole, cuts, strict=True)]
    tested = [(rows[:cut], rows[cut:]) for rows, cut in zip(whole, cuts, strict=True) if cut < len(rows)]
    learned = [rows[: random.integers(1, len(rows) + 1)] for rows in whole[::2]] + histories(3, 4)
    found = learned_here(history_fingerprints(learned, ITEMS), known, tested, ITEMS)
    assert found == by_hand(learned, known, tested)


def test_fingerprints_name_nobody_and_look_at_item_ids_not_rows():
    rows = [np.array([0, 1, 1, 4]), np.array([], dtype=np.int64), np.array([5])]
    found = history_fingerprints(rows, ITEMS)
    assert found.dtype == np.int64 and len(found) == 2
    turned = history_fingerprints([5 - part[::-1] for part in rows], ITEMS[::-1])
    assert np.array_equal(found, turned)
    assert history_fingerprints([], ITEMS).shape == (0,)
    assert learned_here(found, [], [], ITEMS) == LearnedHere(2, 2, 0)


def test_a_training_that_goes_on_keeps_what_the_first_has_learned():
    first = history_fingerprints([np.array([0, 1]), np.array([0, 1]), np.array([2])], ITEMS)
    second = history_fingerprints([np.array([0, 1]), np.array([2, 3])], ITEMS)
    both = in_either(first, second)
    assert np.array_equal(both, history_fingerprints([*map(np.array, ([0, 1], [0, 1], [2], [2, 3]))], ITEMS))
    known = [np.array([0, 1]), np.array([0, 1, 5]), np.array([2, 3])]
    assert learned_here(both, known, [], ITEMS) == LearnedHere(4, 0, 0)
