"""What customers did, in sums: who bought what near what, how much of each item, and on which days.

`macrec_hf.data.purchase_counting` makes the counts. All sums are whole numbers, so that the counts of two
groups of customers add up to those of both, to the last bit, in whatever order. Axes: `num_items` rows of the table,
`num_pairs` pairs of two different items that somebody bought within `window` purchases of each other, or within five.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .checksums import renew_checksums
from .files import replacing
from .inference import joined_ranges, pad_rows, values_at
from .ranked_lists import least_of_best

COUNTS_NAME = "purchase_counts.safetensors"
UNIT = 2520  # one purchase at distance d is worth UNIT / d: a whole number for every d up to 10
MAX_WINDOW = 10
WEIGHT_UNIT = 10**9  # what a weight of 1 is in `regression`
TOGETHER_WINDOW = 5  # purchases between two that still count as bought together, whatever their distance; ours
HISTORY = 20  # the last items of a history that vote, as many as the recommender reads (authors' code)
_FIRST_DAY = -719_162  # days from 1970 to the year 1
_MOST = 10**15 - 1  # of a sum; more are a mistake, and would not add up in 64 bits
_ANEW = "`macrec refresh` makes them anew from the purchases."
FEW_CUSTOMERS = 5  # a pair of fewer is not shown to strangers
NEIGHBOUR_SCORES = ("before", "after", "next", "together", "cosine", "near", "last_next", "regression")
_UNITS = {"before": UNIT, "after": UNIT, "regression": WEIGHT_UNIT}
PAIR_COLUMNS = ("before", "after", "next", "together", "customers")


@dataclass(frozen=True)
class NeighbourScores:
    """What the items of each history say of other items; one entry for each user and item that any of them knows.

    Attributes:
        keys: int64, `(num_entries,)`, ascending: `user * num_items + item`.
        values: float64, `{name: (num_entries,)}`: the sums over the history of `PurchaseCounts.neighbours`.
    """

    num_items: int
    keys: np.ndarray
    values: dict[str, np.ndarray]

    def of(self, users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """The values of given pairs, 0 where nobody in the history knows the item; any shape, items of -1 are 0."""
        wanted = np.where(items >= 0, users * self.num_items + items, -1)
        _, found = values_at(self.keys, wanted, *self.values.values())
        return dict(zip(self.values, found, strict=True))

    def best(self, name: str, num_users: int, width: int, place: np.ndarray | None = None) -> np.ndarray:
        """The `width` items with the highest value for each user, best first.

        Args:
            place: int, `(num_items,)`, the order of equal ones; None: by row.

        Returns:
            int64, `(num_users, width)`, -1 where a user has fewer than `width` items with a value above 0.
        """
        values = self.values[name]
        some = np.flatnonzero(values > 0)
        values = values[some]
        users, items = np.divmod(self.keys[some], self.num_items)
        kept = values >= least_of_best(users, values, num_users, width)[users]
        users, items, values = users[kept], items[kept], values[kept]
        order = np.lexsort((items if place is None else place[items], -values, users))
        users, items = users[order], items[order]
        rank = np.arange(len(users)) - np.searchsorted(users, users)
        found = np.full((num_users, width), -1, dtype=np.int64)
        kept = rank < width
        found[users[kept], rank[kept]] = items[kept]
        return found


@dataclass(frozen=True)
class PurchaseCounts:
    """Sums over the purchases of customers, of which no customer can be named.

    Attributes:
        popularity: int64, `(num_items,)`, purchases of each item.
        starts: int64, `(num_items + 1,)`; the pairs of item `i` are `starts[i]` to `starts[i + 1]`.
        others: int32, `(num_pairs,)`, the other item of each pair, ascending for each item. Pairs stand both ways.
        before: int64, `(num_pairs,)`, UNIT / distance summed over how often the item came *before* the other, by at
            most `window` purchases.
        after: the same where it came after the other.
        next: int64, how often the other was the very next purchase.
        together: int64, how often the two stood within five purchases of each other, either way.
        customers: int64, customers who bought both so near to each other.
        window: the largest distance that `before` and `after` count, at most 10.
        sale_starts, sale_days, sale_counts: int64 `(num_items + 1,)`, int32 and int64 `(num_sales,)`: the days
            (since 1970) on which each item was bought, ascending, and how often. None without dates.
        regression: int64, `(num_pairs,)`, what a purchase of the item says of the other beside all others, in
            units of 1 / WEIGHT_UNIT: no sum, but made of these, see `macrec_hf.data.item_regression`; None: not made.
    """

    popularity: np.ndarray
    starts: np.ndarray
    others: np.ndarray
    before: np.ndarray
    after: np.ndarray
    next: np.ndarray
    together: np.ndarray
    customers: np.ndarray
    window: int
    sale_starts: np.ndarray | None = None
    sale_days: np.ndarray | None = None
    sale_counts: np.ndarray | None = None
    regression: np.ndarray | None = None

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.popularity)

    @property
    def last_day(self) -> int | None:
        """The last day with a purchase; None without dates."""
        return None if self.sale_days is None or not len(self.sale_days) else int(self.sale_days.max())

    def neighbours(
        self, histories: Sequence[np.ndarray], place_power: float = 1.0, names: Sequence[str] | None = None
    ) -> NeighbourScores:
        """What the last `HISTORY` items of each history say of the items that were bought near them.

        The j-th last item votes with weight `1 / j ** place_power`. Per voter and other item the values are `before`
        and `after` (in units of one purchase at distance 1), their sum `near`, `next`, `together`, `cosine`
        (`together` divided by the square root of both items' purchases), `last_next`: `next` of the last item
        alone, and `regression` where that was made. `names` says which; None: all.
        """
        if names is None:
            names = [name for name in NEIGHBOUR_SCORES if name != "regression" or self.regression is not None]
        recent, inside = pad_rows([np.asarray(history)[::-1][:HISTORY] for history in histories])
        users, places = np.nonzero(inside)
        voters, weights = recent[users, places], 1.0 / (places + 1.0) ** place_power
        voter, entry = joined_ranges(self.starts[voters], self.starts[voters + 1] - self.starts[voters])
        items, weight = self.others[entry], weights[voter]
        keys, where = np.unique(users[voter] * self.num_items + items, return_inverse=True)

        def worth(name: str) -> np.ndarray:
            if name == "near":
                return (self.before[entry] + self.after[entry]) / UNIT
            if name == "last_next":  # whose weight is 1
                return self.next[entry] * (places == 0)[voter]
            if name == "cosine":
                norm = 1.0 / np.sqrt(self.popularity + 1.0)
                return self.together[entry] * norm[voters][voter] * norm[items]
            return getattr(self, name)[entry] / _UNITS.get(name, 1)

        sums = {name: np.bincount(where, weights=weight * worth(name), minlength=len(keys)) for name in names}
        # Sums of 1 / j differ in the last bits by the order of addition: without rounding equal ones would not be.
        return NeighbourScores(self.num_items, keys, {name: np.round(values, 9) for name, values in sums.items()})

    def sales(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Item, day and number of purchases of each entry of the sales, `(num_sales,)` each.

        Raises:
            ValueError: counts without dates.
        """
        items = np.repeat(np.arange(self.num_items), np.diff(self._sale("starts")))
        return items, self._sale("days").astype(np.int64), self._sale("counts")

    def sold(self, items: np.ndarray, days: np.ndarray, last: int | None = None) -> np.ndarray:
        """Purchases of items before a day, of the `last` days before it or of all.

        Args:
            items: int, any shape.
            days: int, broadcast to that shape: the day up to which, itself left out, purchases count.
            last: how many days before it.
        """
        upto = self._sold_before(items, days)
        return upto if last is None else upto - self._sold_before(items, days - last)

    def days_since_sale(self, items: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Days since the last purchase of an item before a day, at least 1; inf where there is none."""
        place = self._sales_before(items, days)
        some = place > self._sale("starts")[items]
        last = self._sale("days")[np.maximum(place - 1, 0)] if len(self._sale("days")) else np.zeros_like(place)
        return np.where(some, days - last, np.inf)

    def _sold_before(self, items: np.ndarray, days: np.ndarray) -> np.ndarray:
        return self._sold_in_all[self._sales_before(items, days)] - self._sold_in_all[self._sale("starts")[items]]

    def _sales_before(self, items: np.ndarray, days: np.ndarray) -> np.ndarray:
        """The place behind each item's last sale before the day."""
        keys, span, first = self._sale_keys
        return np.searchsorted(keys, items * span + np.clip(days - first, 0, span - 1))

    def _sale(self, name: str) -> np.ndarray:
        values = getattr(self, f"sale_{name}")
        if values is None:
            raise ValueError(
                "purchases: expected counts with dates, got some without. Timestamps that are no dates, such as 0, 1, "
                "2, …, give an order and no days."
            )
        return values

    def select(self, rows: np.ndarray) -> "PurchaseCounts":
        """The counts of another catalogue: its row i is row `rows[i]` of this one, a new item where that is -1."""
        rows = np.asarray(rows, dtype=np.int64)
        new_row = np.full(self.num_items, -1, dtype=np.int64)
        new_row[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        first = np.repeat(np.arange(self.num_items), np.diff(self.starts))
        kept = np.flatnonzero((new_row[first] >= 0) & (new_row[self.others] >= 0))
        first, second = new_row[first[kept]], new_row[self.others[kept]]
        order = np.lexsort((second, first))
        names = PAIR_COLUMNS if self.regression is None else (*PAIR_COLUMNS, "regression")
        columns = {name: getattr(self, name)[kept][order] for name in names}
        popularity = np.where(rows >= 0, self.popularity[np.maximum(rows, 0)], 0) if self.num_items else rows * 0
        counts = replace(
            self,
            popularity=popularity,
            starts=_starts(first[order], len(rows)),
            others=second[order].astype(np.int32),
            **columns,
        )
        if self.sale_days is None:
            return counts
        item = np.repeat(np.arange(self.num_items), np.diff(self._sale("starts")))
        kept = np.flatnonzero(new_row[item] >= 0)
        kept = kept[np.argsort(new_row[item[kept]], kind="stable")]
        return replace(
            counts,
            sale_starts=_starts(new_row[item[kept]], len(rows)),
            sale_days=self._sale("days")[kept],
            sale_counts=self._sale("counts")[kept],
        )

    def grouped(self, groups: np.ndarray) -> "PurchaseCounts":
        """The sales of groups of items, without pairs; `groups` has the number of each item's, -1 for none."""
        num_groups, nothing = int(groups.max(initial=-1)) + 1, np.zeros(0, dtype=np.int64)
        inside = np.flatnonzero(groups >= 0)
        popularity = np.zeros(num_groups, dtype=np.int64)
        np.add.at(popularity, groups[inside], self.popularity[inside])
        starts, columns = np.zeros(num_groups + 1, dtype=np.int64), dict.fromkeys(PAIR_COLUMNS, nothing)
        counts = PurchaseCounts(popularity, starts, nothing.astype(np.int32), **columns, window=self.window)
        if self.sale_days is None:
            return counts
        items, days, purchases = self.sales()
        order = np.lexsort((days, groups[items]))
        order = order[groups[items[order]] >= 0]
        starts, days = _starts(groups[items[order]], num_groups), days[order].astype(np.int32)
        return replace(counts, sale_starts=starts, sale_days=days, sale_counts=purchases[order])

    def near_items(self, items: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`before` and `after` of given pairs in units of one purchase at distance 1; any shape, 0 for rows of -1."""
        wanted = np.where((items >= 0) & (others >= 0), items * self.num_items + others, -1)
        _, (before, after) = values_at(self._pairs, wanted, self.before, self.after)
        return before / UNIT, after / UNIT

    # Of the size of the catalogue, so once and not for every request.
    @cached_property
    def places(self) -> np.ndarray:
        """Each item's place among the bestsellers, from 0, equal ones by row: int64, `(num_items,)`."""
        return np.argsort(np.argsort(-self.popularity, kind="stable"))

    @cached_property
    def _pairs(self) -> np.ndarray:
        return np.repeat(np.arange(self.num_items), np.diff(self.starts)) * self.num_items + self.others

    @cached_property
    def _sale_keys(self) -> tuple[np.ndarray, int, int]:
        items, days, _ = self.sales()
        first = int(days.min(initial=0))  # below 0 for days before 1970
        span = int(days.max(initial=0)) - first + 2
        return items * span + days - first, span, first

    @cached_property
    def _sold_in_all(self) -> np.ndarray:
        return np.concatenate([[0], self._sale("counts").cumsum()])

    def shareable(self, customers: int = FEW_CUSTOMERS) -> "PurchaseCounts":
        """Without pairs of fewer customers, what was made of these, and days: what may be shown to strangers."""
        kept = self.customers >= customers
        first = np.repeat(np.arange(self.num_items), np.diff(self.starts))[kept]
        columns = {name: getattr(self, name)[kept] for name in PAIR_COLUMNS}
        without = replace(self, starts=_starts(first, self.num_items), others=self.others[kept], **columns)
        return replace(without, sale_starts=None, sale_days=None, sale_counts=None, regression=None)

    def save(self, directory: str | Path) -> None:
        """Writes `purchase_counts.safetensors` into a directory, beside and moved into place."""
        save_in_parts(self, {}, directory)

    @classmethod
    def load(cls, directory: str | Path) -> "PurchaseCounts":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, holds what no purchases add up to, or a newer release wrote it.
        """
        path = Path(directory) / COUNTS_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: expected the counts that the weights in blend.json are for, found none. Was the directory "
                "copied in part? Copy the file too, or count anew by `macrec refresh`."
            )
        try:
            with safe_open(path, "np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
                about = json.loads((file.metadata() or {}).get("about", "{}"))
        except (SafetensorError, ValueError, OSError, RecursionError, TypeError) as error:  # numpy lacks some types
            raise ValueError(
                f"{path}: expected purchase counts, but they cannot be read: {error}. Was the file cut off? {_ANEW}"
            ) from error
        lacking = [name for name in ("popularity", "starts", "others", *PAIR_COLUMNS) if name not in arrays]
        if lacking or not isinstance(about, dict) or about.get("unit") != UNIT:
            raise ValueError(
                f"{path}: expected purchase counts of this release, found no {lacking or 'unit of ' + str(UNIT)}. "
                f"{_ANEW}"
            )
        if wrong := _what_is_wrong(arrays, about.get("window")):
            raise ValueError(f"{path}: expected {wrong}. Was the file damaged? {_ANEW}")
        return cls(**arrays, window=about["window"])


def save_in_parts(counts: PurchaseCounts, kept: Mapping[str, IO[bytes]], directory: str | Path) -> None:
    """Writes counts of which some columns of pairs are kept in files, as safetensors writes them: no copy in memory.

    Args:
        kept: `{column: file}`, its numbers one after the other; these columns of `counts` itself are empty.
    """
    values = {field.name: getattr(counts, field.name) for field in fields(counts)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    num_pairs, place = int(counts.starts[-1]), 0
    # One entry: of several the order would be another in every process, and so would be the bytes.
    header: dict[str, Any] = {"__metadata__": {"about": json.dumps({"window": counts.window, "unit": UNIT})}}
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):  # wide numbers first, so all lie even
        length = num_pairs if name in kept else len(arrays[name])
        end = place + length * arrays[name].itemsize
        header[name] = {"dtype": f"I{8 * arrays[name].itemsize}", "shape": [length], "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(Path(directory) / COUNTS_NAME) as beside:
        with beside.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in list(header)[1:]:
                if name in kept:
                    kept[name].seek(0)
                    copyfileobj(kept[name], file, 2**20)
                else:
                    file.write(np.ascontiguousarray(arrays[name]).data)
    renew_checksums(directory, COUNTS_NAME)


def _what_is_wrong(arrays: dict[str, np.ndarray], window: object) -> str | None:
    """What counts should be and are not, in words; None where they are as `count_purchases` makes them."""
    sales = ("sale_starts", "sale_days", "sale_counts")
    if type(window) is not int or not 1 <= window <= MAX_WINDOW:
        return f"a window from 1 to {MAX_WINDOW}, got {str(window)[:40]}"
    if unknown := set(arrays) - {field.name for field in fields(PurchaseCounts)}:
        return f"no tensor {min(unknown)!r}"
    if 0 < len(set(sales) & set(arrays)) < len(sales):
        return f"all of {', '.join(sales)} or none"
    for name, array in arrays.items():
        dtype = np.int32 if name in ("others", "sale_days") else np.int64
        if array.ndim != 1 or array.dtype != dtype:
            return f"{name} as {np.dtype(dtype)} in one row, got {array.dtype} of shape {array.shape}"
        least = _FIRST_DAY if name == "sale_days" else 0
        if len(array) and (array.min() < least or array.max() > _MOST):
            return f"numbers from {least:,} to {_MOST:,} in {name}, got {array.min():,} to {array.max():,}"
    num_items = len(arrays["popularity"])
    of_pairs = ("others", *PAIR_COLUMNS, *({"regression"} & set(arrays)))
    for starts, columns in (("starts", of_pairs), ("sale_starts", sales[1:])):
        if starts in arrays:
            begins, lengths = arrays[starts], {len(arrays[name]) for name in columns}
            good = len(begins) == num_items + 1 and begins[0] == 0 and (np.diff(begins) >= 0).all()
            if not good or lengths != {int(begins[-1])}:
                return f"{starts} of {num_items + 1:,} places that rise from 0 to the length of {', '.join(columns)}"
            rows = np.repeat(np.arange(num_items), np.diff(begins)) * 2**31 + arrays[columns[0]]
            if not (np.diff(rows) > 0).all():
                return f"{columns[0]} that rise for each item"
    if len(arrays["others"]) and arrays["others"].max() >= num_items:
        return f"rows below {num_items:,} in others, got {arrays['others'].max():,}"
    if "sale_starts" in arrays:
        sold = np.concatenate([[0], arrays["sale_counts"].cumsum()])
        if (np.diff(sold[arrays["sale_starts"]]) != arrays["popularity"]).any():
            return "as many purchases of each item in popularity as in sale_counts"
    return None


def _starts(rows: np.ndarray, num_items: int) -> np.ndarray:
    """Where each row begins among ascending ones, int64 `(num_items + 1,)`."""
    return np.searchsorted(rows, np.arange(num_items + 1)).astype(np.int64)
