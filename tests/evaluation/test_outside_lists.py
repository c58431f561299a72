"""Lists of other libraries: how they are read, and everything that is wrong with them."""

import gzip
import json

import numpy as np
import pytest

from macrec_hf.evaluation.outside_lists import is_long_enough, read_lists, write_lists
from macrec_hf.evaluation.own_history import without_own
from macrec_hf.evaluation.ranking_metrics import user_metrics
from macrec_hf.model.ranked_lists import RankedLists

ROW_OF = {"a": 0, "b": 1, "01": 2, "c": 3}
USERS, OTHERS = ["u", "7"], ["u", "7", "v"]


def lines(*rows):
    return "\n".join(json.dumps({"user_id": user, "items": items}) for user, items in rows)


def test_lists_in_the_order_of_the_users(tmp_path):
    text = lines((7, ["c", "01"]), ("v", ["a"]), ("u", ["b", "a", "01"])) + "\n\n"
    (tmp_path / "lists.jsonl").write_text(text)
    with gzip.open(tmp_path / "lists.jsonl.gz", "wt") as file:
        file.write(text)
    for name in ("lists.jsonl", "lists.jsonl.gz"):
        found = read_lists(tmp_path / name, USERS, OTHERS, ROW_OF)
        assert found.items.tolist() == [[1, 0, 2], [3, 2, -1]]
        assert found.scores[0, 0] > found.scores[0, 1] > found.scores[0, 2] > found.scores[1, 2] == -float("inf")
    nothing = [np.zeros(0, dtype=np.int64)] * 2
    assert not is_long_enough(found, found, nothing, num_items=4)
    assert is_long_enough(found, found, nothing, num_items=2)


def test_whole_numbers_in_lists_are_their_texts(tmp_path):
    (tmp_path / "lists.jsonl").write_text(lines((7, [5, "6"])))
    assert read_lists(tmp_path / "lists.jsonl", ["7"], [], {"6": 0, "5": 1}).items.tolist() == [[1, 0]]


def test_a_list_that_its_history_takes_up_is_not_long_enough():
    """Sixty items, fifty in the list, of which the user has had all or some."""
    lists = RankedLists(np.arange(50)[None], -np.arange(50.0)[None])
    for bought, expected in ((40, True), (41, False), (50, False)):
        history = [np.arange(bought)]
        assert is_long_enough(lists, without_own(lists, history), history, num_items=60) == expected
    everything = [np.arange(50)]
    assert is_long_enough(lists, without_own(lists, everything), everything, num_items=50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(("u", ["a"]), ("7", []), ("x", ["a"])), "line 3: unknown user 'x'"),
        (lines(("u", ["a"])), r"a list for each of the 2 users that are evaluated, 1 have none, such as \['7'\]"),
        (lines(("u", ["a"]), ("u", ["b"])), "line 2: expected one line a user, got a second one of 'u'"),
        (lines(("u", ["a", "1"])), "line 1: unknown item '1'.*leading zeros"),
        (lines(("u", ["a", 3])), "line 1: unknown item '3'"),
        (lines(("u", ["a", True])), "line 1: expected .*: item True is neither a text nor a whole number"),
        (lines(("u", [["a"] * 9_999])), "line 1: expected .{1,250}: item .{1,80} is neither a text nor .*number.$"),
        (lines(("u", ["z" * 9_999])), "line 1: unknown item 'z{1,80}…: "),
        (lines(("u", ["a", "b", "a"])), "line 1: expected each item once, got 'a' twice"),
        ("u: a, b", "line 1: expected .* got 'u: a, b'"),
        ('["u", "a"]', "line 1: expected"),
        ('{"user_id": "u"}', "line 1: expected .*: no items"),
        ('{"items": ["a"]}', "line 1: expected .*: no user_id"),
        (lines(("u", "ab")), "line 1: expected .*: no list of items"),
        (lines((1.5, ["a"])), "line 1: expected .*: user_id 1.5 is neither a text nor a whole number"),
        (f'{{"user_id": "u", "items": [{"7" * 5_000}]}}', "line 1: expected .*: .*digits"),
    ],
)
def test_refusals(tmp_path, text, message):
    (tmp_path / "lists.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_lists(tmp_path / "lists.jsonl", USERS, OTHERS, ROW_OF)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl: no such file. Expected lists, one"):
        read_lists(tmp_path / "none.jsonl", USERS, OTHERS, ROW_OF)


def test_lists_that_were_written_are_read_as_they_were(tmp_path):
    path, ids = tmp_path / "lists.jsonl", ["é", "02", "2"]
    write_lists(path, ["u1", "7", "u3"], np.array([[2, 0, -1], [1, 2, 0], [-1, -1, -1]]), ids)
    found = read_lists(path, ["7", "u3", "u1"], [], {item: row for row, item in enumerate(ids)})
    assert found.items.tolist() == [[1, 2, 0], [-1, -1, -1], [2, 0, -1]]


def test_lists_of_others_are_not_written(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text("old")
    with pytest.raises(ValueError, match="expected one for each of 2 users, got 1"):
        write_lists(path, ["u1", "u2"], np.array([[0]]), ["i1"])
    with pytest.raises(ValueError, match="expected rows of 1 items, got 3"):
        write_lists(path, ["u1"], np.array([[0, 3]]), ["i1"])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("in_order", [True, False])
def test_equal_scores_are_ties_unless_the_order_counts(in_order):
    lists = RankedLists(np.array([[3, 4]] * 2), np.zeros((2, 2)), order_counts=in_order).rows(np.array([0, 1]))
    found = user_metrics(lists, np.array([3, 4]), [1])["hr@1"]
    assert found.tolist() == ([1.0, 0.0] if in_order else [0.5, 0.5])
