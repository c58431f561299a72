"""Fingerprints of histories: what a model has learned is recognised, whoever bought it.

They name no customer. But whoever guesses a short history can see whether it is among them, so they are customers'
data.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


def item_hashes(item_ids: Sequence[str]) -> np.ndarray:
    """A number for each item, by its id alone: uint64, `(num_items,)`."""
    digests = (hashlib.blake2b(item.encode(), digest_size=8).digest() for item in item_ids)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def history_fingerprints(histories: Sequence[np.ndarray], hashes: np.ndarray) -> np.ndarray:
    """A number for each history, whatever its customer is called: the sum of what was bought, so in any order.

    Args:
        histories: rows of the catalogue, a sequence a user.
        hashes: of the catalogue's items, of [`item_hashes`].

    Returns:
        int64, `(num_histories,)`, rising; empty histories have none.
    """
    bought = [rows for rows in histories if len(rows)]
    lengths = np.array([len(rows) for rows in bought], dtype=np.int64)
    return np.sort(beginnings(bought, hashes)[np.cumsum(lengths) - 1])


def beginnings(histories: Sequence[np.ndarray], hashes: np.ndarray) -> np.ndarray:
    """The fingerprints of a history's first purchase, its first two and so on, of one history after the other.

    Args:
        histories, hashes: as for [`history_fingerprints`].

    Returns:
        int64, `(num_purchases,)`.
    """
    lengths = np.array([len(rows) for rows in histories], dtype=np.int64)
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *histories]).astype(np.int64)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(hashes[rows], dtype=np.uint64)])
    before = np.repeat(sums[np.cumsum(lengths) - lengths], lengths)
    return (sums[1:] - before).view(np.int64)


def how_often(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each of some fingerprints stands among others: int64, `(num_values,)`."""
    among = np.sort(among)
    return np.searchsorted(among, values, "right") - np.searchsorted(among, values, "left")
