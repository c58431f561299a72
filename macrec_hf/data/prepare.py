"""Published research data → `items.jsonl` and `interactions.csv`, filtered to the k-core.

Of the interactions only three numbers each stay in memory (and every id once), of the items only their ids, so that
dumps of many gigabytes fit.
"""

import csv
import json
import logging
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .output_folder import output_folder
from .readers_published import LAYOUTS, Layout, Triple, find_files

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """What `prepare` wrote and what it left out; `without_photo` counts items that name none."""

    num_users: int
    num_items: int
    num_interactions: int
    without_metadata: int
    repeats: int
    outside_core: int
    without_photo: int


def prepare(layout: str, inputs: Sequence[str | Path], output: str | Path, k_core: int | None = None) -> Prepared:
    """Reads published data and writes `items.jsonl` and `interactions.csv` into a folder.

    Interactions with items that the metadata lack are left out, then exact repeats (same user, item and time), then
    whatever is outside the k-core. Rows are written by user and time, so that the next stage need not sort.

    Args:
        layout: a key of `LAYOUTS`.
        inputs: a folder, or the file of interactions and, if there is one, that of items.
        output: folder, made if need be; both files appear in it together.
        k_core: every user and item kept has at least so many interactions; 1 keeps all. Default: the layout's.

    Raises:
        FileNotFoundError: no interactions among the inputs.
        ValueError: unknown layout, several files that fit, lines in another layout, nothing left after filtering.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"format: expected one of {list(LAYOUTS)}, got {layout!r}.")
    chosen = LAYOUTS[layout]
    least = chosen.k_core if k_core is None else k_core
    if least < 1:
        raise ValueError(f"k-core: expected at least 1, got {least}.")
    interactions_path, items_path = find_files(layout, inputs)
    with output_folder(output, last="interactions.csv") as folder:
        return _prepare(chosen, interactions_path, items_path, folder, least)


def _prepare(chosen: Layout, interactions_path: Path, items_path: Path | None, output: Path, least: int) -> Prepared:
    everything = output / ".all_items.partial"
    try:
        known = _spool(chosen.read_items(items_path), everything) if items_path else None
        table, strangers = _collect(chosen.read_interactions(interactions_path), known)
        table, repeats = _drop_repeats(table)
        kept = k_core_mask(table.users, table.items, least)
        if not kept.any():
            raise ValueError(
                f"{interactions_path}: nothing is left of {len(kept):,} interactions ({strangers:,} more name items "
                f"without metadata): none is in the {least}-core. Do both files belong together? Lower --k-core?"
            )
        _write_interactions(table, kept, output / "interactions.csv")
        wanted = {table.item_ids[item] for item in np.unique(table.items[kept])}
        without_photo = _write_items(everything if items_path else None, wanted, output / "items.jsonl")
    finally:
        everything.unlink(missing_ok=True)
    users = len(np.unique(table.users[kept]))
    return Prepared(users, len(wanted), int(kept.sum()), strangers, repeats, int((~kept).sum()), without_photo)


def k_core_mask(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Which interactions are in the k-core: the largest part in which every user and every item has k of them.

    Args:
        users, items: non-negative integers, (num_interactions,).

    Returns:
        bool, (num_interactions,).
    """
    kept = np.ones(len(users), dtype=bool)
    while kept.any():
        user_counts, item_counts = np.bincount(users[kept]), np.bincount(items[kept])
        good = np.zeros_like(kept)
        good[kept] = (user_counts[users[kept]] >= k) & (item_counts[items[kept]] >= k)
        if (good == kept).all():
            break
        kept = good
    return kept


@dataclass
class _Table:
    user_ids: list[str]
    item_ids: list[str]
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray


def _collect(triples: Iterable[Triple], known: set[str] | None) -> tuple[_Table, int]:
    """All interactions with known items as three arrays (16 bytes each), and how many name other items."""
    user_rows: dict[str, int] = {}
    item_rows: dict[str, int] = {}
    users, items, times, strangers = array("i"), array("i"), array("d"), 0
    for user, item, moment in tqdm(triples, desc="interactions", unit=" rows", unit_scale=True):
        if known is not None and item not in known:
            strangers += 1
            continue
        users.append(user_rows.setdefault(user, len(user_rows)))
        items.append(item_rows.setdefault(item, len(item_rows)))
        times.append(moment)
    if strangers:
        logger.warning(f"Left out {strangers:,} interactions with items that the metadata lack.")
    columns = np.array(users, dtype=np.int32), np.array(items, dtype=np.int32), np.array(times, dtype=np.float64)
    return _Table(list(user_rows), list(item_rows), *columns), strangers


def _drop_repeats(table: _Table) -> tuple[_Table, int]:
    order = np.lexsort((table.times, table.items, table.users))  # stable: the first of equal rows stays
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in (table.users, table.items, table.times):
        same &= np.diff(column[order]) == 0
    first = np.ones(len(order), dtype=bool)
    first[order[1:]] = ~same
    columns = (table.users[first], table.items[first], table.times[first])
    return _Table(table.user_ids, table.item_ids, *columns), int(same.sum())


def _write_interactions(table: _Table, kept: np.ndarray, path: Path) -> None:
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((table.times[rows], table.users[rows]))]  # stable within equal times
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["user_id", "item_id", "timestamp"])
        for row in rows:
            moment = table.times[row]
            moment = int(moment) if moment.is_integer() else float(moment)
            writer.writerow([table.user_ids[table.users[row]], table.item_ids[table.items[row]], moment])


def _spool(rows: Iterable[dict[str, Any]], path: Path) -> set[str]:
    """Writes all items, the first of each id, to be filtered when the core is known: metadata are parsed only once."""
    known: set[str] = set()
    with open(path, "w", encoding="utf-8") as file:
        for row in tqdm(rows, desc="items", unit=" rows", unit_scale=True):
            if row["item_id"] not in known:
                known.add(row["item_id"])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return known


def _write_items(spooled: Path | None, wanted: set[str], path: Path) -> int:
    """Writes the wanted items; returns how many name no photo."""
    without = len(wanted)
    with open(path, "w", encoding="utf-8") as file:
        if spooled is None:
            file.writelines(json.dumps({"item_id": item}, ensure_ascii=False) + "\n" for item in sorted(wanted))
        else:
            with open(spooled, encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    if row["item_id"] in wanted:
                        file.write(line)
                        without -= row["image"] is not None
    return without
