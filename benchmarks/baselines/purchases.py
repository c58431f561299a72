"""Purchases read, split and answered without macrec_hf, so that programs of other environments share it.

The split is macrec_hf's: users with three purchases or more are evaluated, the last one tests, the one before
validates; the purchases of all others train too. `tests/benchmarks/test_purchases.py` holds the two together.
"""

import csv
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PLACES = 100  # of a list: enough where 50 are to be left once a user's own items are out
K = 10


@dataclass
class Purchases:
    """A shop's purchases as rows of `item_ids`, oldest first.

    Attributes:
        item_ids: of everything that is sold, in the order in which it first occurs.
        user_ids: of the users who are evaluated.
        histories: int arrays, their purchases.
        others: int arrays, the purchases of users with fewer than three.
    """

    item_ids: list[str]
    user_ids: list[str]
    histories: list[np.ndarray]
    others: list[np.ndarray]

    def training(self) -> list[np.ndarray]:
        """What may be learned: all but the last two purchases of those who are evaluated."""
        return [*(history[:-2] for history in self.histories), *self.others]

    def asked(self, split: str) -> tuple[list[np.ndarray], np.ndarray]:
        """The histories before the target and the targets, of "validation" or "test"."""
        left_out = {"validation": 2, "test": 1}[split]
        targets = np.array([history[-left_out] for history in self.histories])
        return [history[:-left_out] for history in self.histories], targets

    def repeat_rate(self) -> float:
        """The share of the users whose validation purchase stands in their history."""
        histories, targets = self.asked("validation")
        return float(np.mean([target in history for history, target in zip(histories, targets, strict=True)]))

    def choosing(self) -> np.ndarray:
        """Places of the users whose validation purchase may choose; the other half is for fits (CRC-32, as ours)."""
        odd = np.array([zlib.crc32(user.encode()) % 2 for user in self.user_ids], dtype=bool)
        return np.arange(len(odd)) if odd.all() or not odd.any() else np.flatnonzero(~odd)


def read_purchases(path: Path) -> Purchases:
    """A CSV with user_id, item_id and timestamp, or the published `{user: [items, oldest first]}` as JSON."""
    if path.suffix == ".json":
        sequences = {user: [str(item) for item in items] for user, items in json.loads(path.read_text()).items()}
    else:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        sequences = {}
        for line in lines:
            sequences.setdefault(line["user_id"], []).append((moment(line["timestamp"]), line["item_id"]))
        by_time = {user: sorted(bought, key=lambda pair: pair[0]) for user, bought in sequences.items()}
        sequences = {user: [item for _, item in bought] for user, bought in by_time.items()}
    row_of = {}
    rows = {user: np.array([row_of.setdefault(item, len(row_of)) for item in items], dtype=np.int64)
            for user, items in sequences.items()}  # fmt: skip
    long = {user: history for user, history in rows.items() if len(history) > 2}
    others = [history for history in rows.values() if 0 < len(history) < 3]
    return Purchases(list(row_of), list(long), list(long.values()), others)


def moment(text: str) -> float | str:
    """Seconds as a number; a date as its text, which sorts as dates do."""
    try:
        return float(text)
    except ValueError:
        return text


def in_pieces(history: np.ndarray, length: int) -> list[np.ndarray]:
    """A history cut into pieces of at most `length` purchases that share one, so that every pair trains once.

    From the end: the latest piece is whole, and one of a single purchase teaches nothing.
    """
    pieces, end = [], len(history)
    while end > 1:
        pieces.append(history[max(0, end - length) : end])
        end -= length - 1
    return pieces[::-1]


def without_own(lists: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
    """The lists with the users' own items out and the next ones moved up, -1 behind."""
    kept = np.array([[row not in seen for row in rows] for rows, seen in zip(lists.tolist(), map(set, histories),
                                                                             strict=True)])  # fmt: skip
    order = np.argsort(~kept, axis=1, kind="stable")
    return np.where(np.take_along_axis(kept, order, axis=1), np.take_along_axis(lists, order, axis=1), -1)


def ndcg(lists: np.ndarray, targets: np.ndarray) -> float:
    """NDCG@10 of lists `(users, places)` without ties."""
    hits = lists[:, :K] == targets[:, None]
    return float((hits / np.log2(np.arange(hits.shape[1]) + 2.0)).sum(axis=1).mean())


def hit_rate(lists: np.ndarray, targets: np.ndarray) -> float:
    """HR@10 of the same."""
    return float((lists[:, :K] == targets[:, None]).any(axis=1).mean())


def bestsellers(training: list[np.ndarray], num_items: int) -> np.ndarray:
    """All rows, the most bought first."""
    bought = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *training]), minlength=num_items)
    return np.argsort(-bought, kind="stable")


def write_lists(path: Path, purchases: Purchases, lists: list[np.ndarray]) -> None:
    """One line a user, as `macrec evaluate --lists NAME=FILE` takes it; bestsellers fill what is shorter."""
    order = bestsellers(purchases.training(), len(purchases.item_ids))
    with path.open("w", encoding="utf-8") as file:
        for user, rows in zip(purchases.user_ids, lists, strict=True):
            seen = dict.fromkeys(int(row) for row in rows if row >= 0)
            seen |= dict.fromkeys(order[: PLACES + len(seen)].tolist())
            items = [purchases.item_ids[row] for row in list(seen)[:PLACES]]
            file.write(json.dumps({"user_id": user, "items": items}, ensure_ascii=False) + "\n")
