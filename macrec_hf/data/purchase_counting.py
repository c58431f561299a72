"""Counts purchases: `count_purchases` for one group of customers, `add_counts` for several groups.

Pairs are counted for some items at a time, so that besides the counts themselves no more than the pairs of these is in
memory; `save_counts` does not even keep the counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from ..model.purchase_counts import MAX_WINDOW, PAIR_COLUMNS, TOGETHER_WINDOW, UNIT, PurchaseCounts, save_in_parts
from .histories import Purchases
from .item_regression import NEEDED, is_made, item_weights

_AT_A_TIME = 4_000_000  # pairs of purchases that are sorted at once: some 200 MB; ours


@dataclass(frozen=True)
class _Pairs:
    """The pairs of some items that follow each other in the table.

    Attributes:
        lengths: int64, `(num_items of these,)`, pairs of each.
        columns: `{name: (num_pairs,)}`, "others" as int32 and the columns of `PurchaseCounts` as int64.
    """

    lengths: np.ndarray
    columns: dict[str, np.ndarray]


def count_purchases(
    histories: Sequence[np.ndarray],
    num_items: int,
    *,
    window: int = MAX_WINDOW,
    days: Sequence[np.ndarray] | None = None,
) -> PurchaseCounts:
    """The counts of customers' purchases.

    Args:
        histories: table rows of each customer's purchases, oldest first.
        num_items: items of the catalogue.
        window: pairs of purchases of one customer at most so far apart count as near; 1 to 10. Whether they stand
            within five purchases of each other counts besides, whatever it is.
        days: days since 1970 of the same purchases; None where they have no dates.

    Raises:
        ValueError: a window outside 1 to 10, or days of other purchases.
    """
    rows, day = _joined(histories), None if days is None else _joined(days)
    starts = np.cumsum([0, *(len(history) for history in histories)])
    counts, pairs = _counted(rows, starts, day, num_items, window)
    return _with_pairs(counts, pairs)


def counts_of(purchases: Purchases, num_items: int, *, window: int = MAX_WINDOW) -> PurchaseCounts:
    """[`count_purchases`] of purchases that stand in one row."""
    counts, pairs = _counted(purchases.items, purchases.starts, purchases.days, num_items, window)
    return _with_pairs(counts, pairs)


def save_counts(directory: str | Path, purchases: Purchases, num_items: int, *, window: int = MAX_WINDOW) -> int:
    """Writes what `with_item_regression(counts_of(…)).save(directory)` writes, byte for byte.

    Its pairs are never all in memory, but for two of their columns where the regression is made, which is so for at
    most `item_regression.MOST_PURCHASES`. Meanwhile they lie on the disk, where twice the size of the file is needed.

    Args:
        num_items, window: as for `count_purchases`, with its errors.

    Returns:
        How many purchases were counted.
    """
    counts, pairs = _counted(purchases.items, purchases.starts, purchases.days, num_items, window)
    with ExitStack() as open_files:
        kept = {name: open_files.enter_context(TemporaryFile(dir=directory)) for name in ("others", *PAIR_COLUMNS)}
        lengths = [np.zeros(1, dtype=np.int64)]
        for some in pairs:
            lengths.append(some.lengths)
            for name, file in kept.items():
                file.write(some.columns[name].data)
        counts = replace(counts, starts=np.concatenate(lengths).cumsum())
        if is_made(counts.popularity):
            of_pairs = {name: _read_back(kept[name], np.int32 if name == "others" else np.int64) for name in NEEDED}
            weights = item_weights(counts.starts, popularity=counts.popularity, **of_pairs)
            kept["regression"] = open_files.enter_context(TemporaryFile(dir=directory))
            kept["regression"].write(weights.data)
            counts = replace(counts, regression=weights[:0])
        save_in_parts(counts, kept, directory)
    return int(counts.popularity.sum())


def _read_back(file: IO[bytes], dtype: type) -> np.ndarray:
    file.seek(0)
    return np.frombuffer(file.read(), dtype=dtype)


def add_counts(parts: Sequence[PurchaseCounts]) -> PurchaseCounts:
    """The counts of all customers from those of several groups: equal, byte for byte, to counting them at once.

    Raises:
        ValueError: no parts, or parts of other catalogues or windows.
    """
    if len({(part.num_items, part.window, part.sale_days is None) for part in parts}) != 1:
        raise ValueError(
            "counts: expected parts of one catalogue and window, all with dates or all without, got (items, window) "
            f"{[(part.num_items, part.window) for part in parts]}."
        )
    counts = _without_pairs(np.sum([part.popularity for part in parts], axis=0), parts[0].window)
    if parts[0].sale_days is not None:
        sales = [part.sales() for part in parts]
        counts = _with_sales(counts, *(np.concatenate(column) for column in zip(*sales, strict=True)))
    return _with_pairs(counts, _added(parts))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int32), *parts]).astype(np.int32)


def _counted(
    rows: np.ndarray, starts: np.ndarray, days: np.ndarray | None, num_items: int, window: int
) -> tuple[PurchaseCounts, Iterator[_Pairs]]:
    """Counts without pairs, and the pairs.

    Args:
        rows, starts, days: as in `Purchases`.
    """
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"window: expected 1 to {MAX_WINDOW} purchases, got {window}.")
    counts = _without_pairs(np.bincount(rows, minlength=num_items), window)
    if days is not None:
        if len(days) != len(rows):
            raise ValueError(f"days: expected one for each of {len(rows):,} purchases, got {len(days):,}.")
        counts = _with_sales(counts, rows, days)
    users = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    return counts, _counted_pairs(rows, users, counts.popularity, window)


def _counted_pairs(rows: np.ndarray, users: np.ndarray, popularity: np.ndarray, window: int) -> Iterator[_Pairs]:
    """The pairs of all items, of some at a time.

    Args:
        rows, users: int32, `(num_purchases,)`, the item and the customer of each, those of a customer together.
    """
    reach = max(window, TOGETHER_WINDOW)
    num_items, distances = len(popularity), [*range(-reach, 0), *range(1, reach + 1)]
    order = np.argsort(rows, kind="stable").astype(np.int32)  # each item's purchases, customer by customer
    ends = np.concatenate([[0], popularity.cumsum()])
    ahead = np.array(distances) > 0
    near = np.abs(distances)
    worth = {  # of a pair at each distance, in the columns that are sums
        "before": UNIT // near * (ahead & (near <= window)),
        "after": UNIT // near * (~ahead & (near <= window)),
        "next": (np.array(distances) == 1).astype(np.int64),
        "together": (near <= TOGETHER_WINDOW).astype(np.int64),
    }
    for first, last in _blocks(ends * len(distances), num_items):
        places = order[ends[first] : ends[last]]
        item = (rows[places] - np.int64(first)) * num_items
        size = max(1, int(places.size * len(distances) - 1).bit_length())
        packed = []  # the pair and, in its last bits, where it was found: sorted together, which is fastest
        for column, distance in enumerate(distances):
            other = places + distance
            found = np.flatnonzero((other >= 0) & (other < len(rows)))
            other = other[found]
            found = found[(users[other] == users[places[found]]) & (rows[other] != rows[places[found]])]
            pair = item[found] + rows[places[found] + distance]
            packed.append((pair << size) | (found * len(distances) + column))
        ordered = np.sort(np.concatenate(packed))
        pairs, places_of = ordered >> size, ordered & ((1 << size) - 1)
        begins = np.flatnonzero(np.diff(pairs, prepend=-1))
        columns = {name: _sums(of_pair[places_of % len(distances)], begins) for name, of_pair in worth.items()}
        buyer = users[places[places_of // len(distances)]]
        another = np.diff(buyer, prepend=-1) != 0
        another[begins] = True
        columns["customers"] = _sums(another.astype(np.int64), begins)
        yield _of_keys(pairs[begins], columns, last - first, num_items)


def _added(parts: Sequence[PurchaseCounts]) -> Iterator[_Pairs]:
    """The pairs of several counts, of some items at a time."""
    num_items = parts[0].num_items
    for first, last in _blocks(np.sum([part.starts for part in parts], axis=0), num_items):
        blocks = [slice(part.starts[first], part.starts[last]) for part in parts]
        keys = np.concatenate([
            np.repeat(np.arange(last - first), np.diff(part.starts[first : last + 1])) * num_items + part.others[block]
            for part, block in zip(parts, blocks, strict=True)
        ])  # fmt: skip
        order = np.argsort(keys, kind="stable")
        begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
        columns = {}
        for name in PAIR_COLUMNS:
            values = [getattr(part, name)[block] for part, block in zip(parts, blocks, strict=True)]
            columns[name] = _sums(np.concatenate(values)[order], begins)
        yield _of_keys(keys[order][begins], columns, last - first, num_items)


def _blocks(ends: np.ndarray, num_items: int) -> Iterator[tuple[int, int]]:
    """First and last rows of items that together have at most `_AT_A_TIME` pairs, or of one item that has more.

    Args:
        ends: int64, `(num_items + 1,)`, pairs of all items before each.
    """
    most = max(1, 2**61 // _AT_A_TIME // max(1, num_items))  # so that pair and place fit into 63 bits
    first = 0
    while first < num_items:
        last = int(np.searchsorted(ends, ends[first] + _AT_A_TIME, side="right")) - 1
        last = min(max(last, first + 1), first + most, num_items)
        yield first, last
        first = last


def _of_keys(keys: np.ndarray, columns: dict[str, np.ndarray], rows: int, num_items: int) -> _Pairs:
    """Pairs from `item * num_items + other`, ascending, items counted from 0 to `rows`."""
    lengths = np.bincount(keys // num_items, minlength=rows)
    return _Pairs(lengths, {"others": (keys % num_items).astype(np.int32)} | columns)


def _sums(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, begins) if len(begins) else np.zeros(0, dtype=np.int64)


def _without_pairs(popularity: np.ndarray, window: int) -> PurchaseCounts:
    nothing = np.zeros(0, dtype=np.int64)
    columns = dict.fromkeys(PAIR_COLUMNS, nothing)
    starts = np.zeros(len(popularity) + 1, dtype=np.int64)
    return PurchaseCounts(popularity.astype(np.int64), starts, nothing.astype(np.int32), **columns, window=window)


def _with_pairs(counts: PurchaseCounts, pairs: Iterable[_Pairs]) -> PurchaseCounts:
    found = list(pairs)
    lengths = [np.zeros(1, dtype=np.int64), *(some.lengths for some in found)]
    columns: dict[str, Any] = {}
    for name in ("others", *PAIR_COLUMNS):  # a column at a time, so that only one is there twice
        parts = [some.columns.pop(name) for some in found]
        columns[name] = np.concatenate([getattr(counts, name), *parts])
    return replace(counts, starts=np.concatenate(lengths).cumsum(), **columns)


def _with_sales(
    counts: PurchaseCounts, items: np.ndarray, days: np.ndarray, purchases: np.ndarray | None = None
) -> PurchaseCounts:
    """The counts with the days on which each item was bought.

    Args:
        purchases: of each entry; None: one.
    """
    first = int(days.min(initial=0))  # below 0 for days before 1970
    span = int(days.max(initial=0)) - first + 1
    keys = items.astype(np.int64) * span + (days - first)
    if purchases is None:
        keys, summed = np.unique(keys, return_counts=True)
    else:
        order = np.argsort(keys, kind="stable")
        begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
        keys, summed = keys[order][begins], _sums(purchases[order], begins)
    starts = np.searchsorted(keys, np.arange(counts.num_items + 1) * span).astype(np.int64)
    return replace(counts, sale_starts=starts, sale_days=(keys % span + first).astype(np.int32), sale_counts=summed)
