"""Which purchases IDs were made from: their fingerprint, and who is refused."""

import pandas as pd
import pytest

from macrec_hf.data.learned_purchases import check_unseen, training_purchases

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
