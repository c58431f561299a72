"""Lists of other libraries: how they are read, and everything that is wrong with them."""

import gzip
import json

import numpy as np
import pytest

from macrec_hf.evaluation.outside_lists import is_long_enough, read_lists, write_lists

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
    assert not is_long_enough(found, num_items=4) and is_long_enough(found, num_items=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(("u", ["a"]), ("7", []), ("x", ["a"])), "line 3: unknown user 'x'"),
        (lines(("u", ["a"])), r"a list for each of the 2 users that are evaluated, 1 have none, such as \['7'\]"),
        (lines(("u", ["a"]), ("u", ["b"])), "line 2: expected one line a user, got a second one of 'u'"),
        (lines(("u", ["a", "1"])), "line 1: unknown item '1'.*leading zeros"),
        (lines(("u", ["a", 3])), "line 1: unknown item 3"),
        (lines(("u", ["a", "b", "a"])), "line 1: expected each item once, got 'a' twice"),
        ("u: a, b", "line 1: expected .* got 'u: a, b'"),
        ('["u", "a"]', "line 1: expected"),
        ('{"user_id": "u"}', "line 1: expected"),
        (lines(("u", "ab")), "expected a user id and a list of item ids, got 'u' and 'ab'"),
        (lines((1.5, ["a"])), "expected a user id and a list of item ids, got 1.5"),
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
