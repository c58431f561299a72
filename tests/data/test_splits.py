"""Which users a split evaluates, what may be counted for it, and the two halves of the validation users."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from macrec_hf.data.histories import Histories
from macrec_hf.data.splits import split_users, validation_halves

HISTORIES = Histories(
    ["u", "v", "x"],
    [np.array([4, 2, 7, 5]), np.array([1, 1, 3]), np.array([2, 6, 0, 9, 8])],
    ["w", "y"],
    [np.array([6, 4]), np.array([3])],
)


@pytest.mark.parametrize(
    ("split", "known", "targets"),
    [("test", [[4, 2, 7], [1, 1], [2, 6, 0, 9]], [5, 3, 8]), ("validation", [[4, 2], [1], [2, 6, 0]], [7, 1, 9])],
)
def test_all_but_the_last_two_purchases_may_be_counted(split, known, targets):
    users = split_users(HISTORIES, split)
    assert [rows.tolist() for rows in users.histories] == known and users.targets.tolist() == targets
    assert [rows.tolist() for rows in users.counted] == [[4, 2], [1], [2, 6, 0], [6, 4], [3]]
    assert (len(users), users.user_ids, users.num_short) == (3, ["u", "v", "x"], 2)
    some = users.some(2)
    assert (some.user_ids, some.targets.tolist()) == (["u", "x"], [targets[0], targets[2]])
    assert some.counted is users.counted and some.num_short == 2 and users.some(None) is users


def test_what_split_users_refuses():
    with pytest.raises(ValueError, match="Expected split 'validation' or 'test', got 'train'"):
        split_users(HISTORIES, "train")
    with pytest.raises(ValueError, match="limit_users: expected at least 1 user, or None for all, got -2"):
        split_users(HISTORIES, "test").some(-2)


def test_halves_depend_on_the_id_alone():
    ids = [f"user-{number}" for number in range(2000)]
    first, second = validation_halves(ids)
    assert sorted([*first, *second]) == list(range(2000)) and 900 < len(first) < 1100
    assert all(zlib.crc32(ids[place].encode()) % 2 == 0 for place in first)
    chosen = {ids[place] for place in first}
    others = ["stranger", *ids[::-3]]  # other users, in another order: each stays in the half that it was in
    half = {others[place] for place in validation_halves(others)[0]}
    assert half & set(ids) == chosen & set(others)
    code = "from macrec_hf.data.splits import validation_halves; print(*validation_halves(list('abcdefgh'))[0])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert seen == {" ".join(map(str, validation_halves(list("abcdefgh"))[0])) + "\n"}


def test_a_half_is_never_empty():
    first, second = validation_halves(["lonely"])
    assert first.tolist() == second.tolist() == [0]


def test_halves_of_nobody_are_refused():
    with pytest.raises(ValueError, match="expected at least one validation user, got none"):
        validation_halves([])
