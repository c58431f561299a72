"""Counts purchases: `count_purchases` for one group of customers, `add_counts` for several groups."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from ..model.purchase_counts import MAX_WINDOW, TOGETHER_WINDOW, UNIT, PurchaseCounts


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
        window: pairs of purchases of one customer at most so far apart count; 1 to 10.
        days: days since 1970 of the same purchases; None where they have no dates.

    Raises:
        ValueError: a window outside 1 to 10, or days of other purchases.
    """
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"window: expected 1 to {MAX_WINDOW} purchases, got {window}.")
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *histories]).astype(np.int64)
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    shape = (num_items, num_items)
    before, together = sparse.csr_matrix(shape, dtype=np.int64), sparse.csr_matrix(shape, dtype=np.int64)
    following = before
    bought = [np.zeros(0, dtype=np.int64)]  # customer, item, other as one number: sorted many times faster than rows
    for distance in range(1, window + 1):
        first, second = rows[:-distance], rows[distance:]
        pair = (users[:-distance] == users[distance:]) & (first != second)
        counted = (np.ones(int(pair.sum()), dtype=np.int64), (first[pair], second[pair]))
        found = sparse.coo_matrix(counted, shape=shape).tocsr()
        before = before + found * (UNIT // distance)
        low, high = np.sort([first[pair], second[pair]], axis=0)
        bought.append((users[:-distance][pair] * num_items + low) * num_items + high)
        following = found if distance == 1 else following
        together = together + found if distance <= TOGETHER_WINDOW else together
    of_customer = np.unique(np.concatenate(bought)) % num_items**2
    one, other = of_customer // num_items, of_customer % num_items
    customers = sparse.coo_matrix((np.ones(len(one), dtype=np.int64), (one, other)), shape=shape).tocsr()
    columns = {"before": before, "after": before.T, "next": following, "together": together + together.T}
    columns["customers"] = customers + customers.T
    counts = _counts_of(np.bincount(rows, minlength=num_items), columns, window)
    if days is None:
        return counts
    day = np.concatenate([np.zeros(0, dtype=np.int64), *days]).astype(np.int64)
    if len(day) != len(rows):
        raise ValueError(f"days: expected one for each of {len(rows):,} purchases, got {len(day):,}.")
    return _with_sales(counts, rows, day, np.ones(len(rows), dtype=np.int64))


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
    shape = (parts[0].num_items, parts[0].num_items)
    columns = {
        name: sum(
            (sparse.csr_matrix((getattr(part, name), part.others, part.starts), shape=shape) for part in parts[1:]),
            start=sparse.csr_matrix((getattr(parts[0], name), parts[0].others, parts[0].starts), shape=shape),
        )
        for name in ("before", "after", "next", "together", "customers")
    }
    counts = _counts_of(np.sum([part.popularity for part in parts], axis=0), columns, parts[0].window)
    if parts[0].sale_days is None:
        return counts
    sales = [part.sales() for part in parts]
    return _with_sales(counts, *(np.concatenate(column) for column in zip(*sales, strict=True)))


def _counts_of(popularity: np.ndarray, columns: dict[str, sparse.csr_matrix], window: int) -> PurchaseCounts:
    """One pattern of pairs for all columns: that of `before` and `after` together, which holds the others'."""
    num_items = len(popularity)
    pattern = (columns["before"] + columns["after"]).tocsr()
    pattern.eliminate_zeros()
    pattern.sort_indices()
    rows = np.repeat(np.arange(num_items), np.diff(pattern.indptr))
    keys = rows * num_items + pattern.indices
    values = {}
    for name, matrix in columns.items():
        column = matrix.tocoo()
        kept = column.data != 0
        place = np.searchsorted(keys, column.row[kept].astype(np.int64) * num_items + column.col[kept])
        values[name] = np.zeros(len(keys), dtype=np.int64)
        values[name][place] = column.data[kept]
    starts, others = pattern.indptr.astype(np.int64), pattern.indices.astype(np.int32)
    return PurchaseCounts(popularity.astype(np.int64), starts, others, **values, window=window)


def _with_sales(counts: PurchaseCounts, items: np.ndarray, days: np.ndarray, purchases: np.ndarray) -> PurchaseCounts:
    """The counts with the days on which each item was bought."""
    first = int(days.min(initial=0))  # below 0 for days before 1970
    span = int(days.max(initial=0)) - first + 1
    keys, where = np.unique(items * span + days - first, return_inverse=True)
    summed = np.zeros(len(keys), dtype=np.int64)
    np.add.at(summed, where, purchases)
    starts = np.searchsorted(keys // span, np.arange(counts.num_items + 1)).astype(np.int64)
    return replace(counts, sale_starts=starts, sale_days=(keys % span + first).astype(np.int32), sale_counts=summed)
