"""Fingerprints of histories: of what was bought, by the items' ids, in any order."""

import numpy as np

from macrec_hf.data.fingerprints import beginnings, history_fingerprints, how_often, item_hashes

ITEMS = [f"i{item}" for item in range(6)]


def fingerprints(*histories):
    return history_fingerprints([np.array(rows, dtype=np.int64) for rows in histories], item_hashes(ITEMS))


def test_they_name_nobody_and_look_at_item_ids_and_not_at_rows():
    found = fingerprints([0, 1, 1, 4], [], [5])
    assert found.dtype == np.int64 and len(found) == 2
    turned = history_fingerprints([np.array([1, 4, 4, 5]), np.array([0])], item_hashes(ITEMS[::-1]))
    assert np.array_equal(found, turned)
    assert len(set(fingerprints([0], [0, 0], [0, 1], [1], [0, 1, 1]).tolist())) == 5
    assert fingerprints().shape == (0,)


def test_beginnings_are_the_fingerprints_of_what_was_bought_so_far():
    hashes, histories = item_hashes(ITEMS), [np.array([3, 1, 3]), np.array([], dtype=np.int64), np.array([2, 0])]
    found = beginnings(histories, hashes)
    begun = [rows[: end + 1] for rows in histories for end in range(len(rows))]
    assert found.tolist() == [history_fingerprints([rows], hashes)[0] for rows in begun]


def test_how_often_counts_each():
    among = fingerprints([0, 1], [2], [0, 1], [3])
    assert how_often(fingerprints([0, 1], [2], [4]), among).sum() == 3
    assert how_often(fingerprints([4]), among).tolist() == how_often(fingerprints([4]), among[:0]).tolist() == [0]
