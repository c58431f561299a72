"""Research data as it is published → `items.jsonl` and `interactions.csv`: Amazon reviews, RecBole, MQL4GRec.

Files are read line by line, gzipped or not. Of the interactions only three numbers each stay in memory, of the items
only their ids, so that dumps of many gigabytes fit. `docs/data_formats.md` shows every layout; the readers of the
Amazon layouts were verified on fixtures written by hand.
"""

import ast
import csv
import gzip
import html
import json
import logging
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

Triple = tuple[str, str, float]
"""User id, item id, time; the unit of time is the source's, only the order counts."""
K_CORE = 5  # every user and every item with at least five interactions: how the paper's Table 1 was filtered


@dataclass(frozen=True)
class Layout:
    """One published format: which of its files is which, and how to read them.

    Attributes:
        interactions, items: regular expressions of the two files' names.
        read_interactions, read_items: path → triples; path → rows with `item_id` and what is known of it.
        k_core: the filter that is applied unless another is asked for.
    """

    interactions: str
    items: str
    read_interactions: Callable[[Path], Iterable[Triple]]
    read_items: Callable[[Path], Iterable[dict[str, Any]]]
    k_core: int = K_CORE


@dataclass
class Prepared:
    """What `prepare` wrote and what it left out."""

    num_users: int
    num_items: int
    num_interactions: int
    without_metadata: int
    repeats: int
    outside_core: int


def prepare(layout: str, inputs: list[str | Path], output: str | Path, k_core: int | None = None) -> Prepared:
    """Reads published data and writes `items.jsonl` and `interactions.csv` into a folder.

    Interactions with items that the metadata lack are left out, then exact repeats (same user, item and time), then
    whatever is outside the k-core. Rows are written by user and time, so that the next stage need not sort.

    Args:
        layout: a key of `LAYOUTS`.
        inputs: a folder, or the file of interactions and, if there is one, that of items.
        output: folder, made if need be; both files appear in it when they are complete.
        k_core: every user and item kept has at least so many interactions; 1 keeps all. Default: the layout's.

    Raises:
        FileNotFoundError: no interactions among the inputs.
        ValueError: unknown layout, several files that fit, lines in another layout, nothing left after filtering.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"format: expected one of {list(LAYOUTS)}, got {layout!r}.")
    chosen, output = LAYOUTS[layout], Path(output)
    least = chosen.k_core if k_core is None else k_core
    if least < 1:
        raise ValueError(f"k-core: expected at least 1, got {least}.")
    interactions_path, items_path = find_files(layout, inputs)
    output.mkdir(parents=True, exist_ok=True)
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
        _write_items(everything if items_path else None, wanted, output / "items.jsonl")
    finally:
        everything.unlink(missing_ok=True)
    users = len(np.unique(table.users[kept]))
    return Prepared(users, len(wanted), int(kept.sum()), strangers, repeats, int((~kept).sum()))


def find_files(layout: str, inputs: list[str | Path]) -> tuple[Path, Path | None]:
    """The file of interactions and that of items (`None` if there is none) among paths and folders."""
    chosen, files = LAYOUTS[layout], []
    for path in map(Path, inputs):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder.")
        files += sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
    found = []
    for kind, pattern in (("interactions", chosen.interactions), ("items", chosen.items)):
        fitting = [path for path in files if re.fullmatch(pattern, path.name)]
        if len(fitting) > 1:
            raise ValueError(
                f"{layout}: expected one file of {kind}, got {[path.name for path in fitting]}. Name the one file of "
                "interactions and the one of items instead of the folder."
            )
        found.append(fitting[0] if fitting else None)
    if found[0] is None:
        raise FileNotFoundError(
            f"{layout}: expected a file of interactions (its name fits {chosen.interactions!r}), got "
            f"{[path.name for path in files][:10]}. Is this the right format?"
        )
    if found[1] is None:
        logger.warning(f"No file of items (a name that fits {chosen.items!r}): items.jsonl will hold ids only.")
    return found[0], found[1]


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
    beside = path.with_name(path.name + ".partial")
    with open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["user_id", "item_id", "timestamp"])
        for row in rows:
            moment = table.times[row]
            moment = int(moment) if moment.is_integer() else float(moment)
            writer.writerow([table.user_ids[table.users[row]], table.item_ids[table.items[row]], moment])
    beside.replace(path)


def _spool(rows: Iterable[dict[str, Any]], path: Path) -> set[str]:
    """Writes all items, the first of each id, to be filtered when the core is known: metadata are parsed only once."""
    known: set[str] = set()
    with open(path, "w", encoding="utf-8") as file:
        for row in tqdm(rows, desc="items", unit=" rows", unit_scale=True):
            if row["item_id"] not in known:
                known.add(row["item_id"])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return known


def _write_items(spooled: Path | None, wanted: set[str], path: Path) -> None:
    beside = path.with_name(path.name + ".partial")
    with open(beside, "w", encoding="utf-8") as file:
        if spooled is None:
            file.writelines(json.dumps({"item_id": item}, ensure_ascii=False) + "\n" for item in sorted(wanted))
        else:
            with open(spooled, encoding="utf-8") as lines:
                file.writelines(line for line in lines if json.loads(line)["item_id"] in wanted)
    beside.replace(path)


# Lines


def _rows(path: Path, parse: Callable[[str], Any], needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Lines as dicts that have all needed fields. Some broken lines are counted and skipped, many are an error."""
    good = broken = 0
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = parse(line)
            if isinstance(row, dict) and all(row.get(name) not in (None, "") for name in needed):
                good += 1
                yield row
                continue
            broken += 1
            first = (number, line[:80]) if broken == 1 else first
            if broken > 100 + good // 100:
                break
    if not good or broken > 100 + good // 100:
        where = f"line {first[0]}: {first[1]!r}" if broken else "the file is empty"
        raise ValueError(
            f"{path}: expected lines with the fields {', '.join(needed)}, got {broken:,} without among the first "
            f"{good + broken:,} ({where}). Is --format right?"
        )
    if broken:
        logger.warning(f"{path}: skipped {broken:,} broken lines, first line {first[0]}: {first[1]!r}.")


def _open(path: Path):
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return open(path, encoding="utf-8", errors="replace")


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _json_or_literal(line: str) -> Any:
    """The metadata of 2014 are Python literals; strict copies of them are JSON."""
    row = _json(line)
    if row is None:
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError):
            return None
    return row


def _triples(rows: Iterable[dict[str, Any]], user: str, item: str, moment: str) -> Iterator[Triple]:
    for row in rows:
        try:
            time = float(row[moment])
        except (TypeError, ValueError):
            time = math.nan
        if not math.isfinite(time):
            raise ValueError(
                f"missing timestamps: expected a number in {moment!r}, got {row[moment]!r} from user {row[user]!r}."
            )
        yield str(row[user]), str(row[item]), time


def clean_text(value: Any) -> str:
    """Nested lists of HTML as one line of plain text: entities resolved, tags and repeated entries removed."""
    parts = list(dict.fromkeys(_flat(value)))
    text = re.sub(r"<[^<>]*>", " ", html.unescape(" ".join(parts)))
    return re.sub(r"\s+", " ", text).strip()


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    elif value is not None and not isinstance(value, dict):
        yield str(value)


def _join(value: Any, separator: str) -> str:
    return separator.join(dict.fromkeys(text for part in _flat(value) if (text := clean_text(part))))


def _item(item_id: Any, title: Any, brand: Any, category: Any, text: Any, image: Any) -> dict[str, Any]:
    address = image if isinstance(image, str) and image.startswith(("http://", "https://")) else None
    return {
        "item_id": str(item_id),
        "title": clean_text(title),
        "brand": clean_text(brand),
        "category": _join(category, ", "),
        "text": _join(text, " "),
        "image": address,
    }


# Amazon (McAuley lab), three generations


def _reviews(user: str, item: str, moment: str) -> Callable[[Path], Iterator[Triple]]:
    return lambda path: _triples(_rows(path, _json, (user, item, moment)), user, item, moment)


def _items_2014(path: Path) -> Iterator[dict[str, Any]]:
    for row in _rows(path, _json_or_literal, ("asin",)):
        get = row.get
        yield _item(get("asin"), get("title"), get("brand"), get("categories"), get("description"), get("imUrl"))


def _items_2018(path: Path) -> Iterator[dict[str, Any]]:
    for row in _rows(path, _json, ("asin",)):
        get = row.get
        image = next(_flat([get("imageURLHighRes"), get("imageURL")]), None)
        yield _item(get("asin"), get("title"), get("brand"), get("category"), get("description"), image)


def _items_2023(path: Path) -> Iterator[dict[str, Any]]:
    for row in _rows(path, _json, ("parent_asin",)):
        get = row.get
        text = [get("features"), get("description")]
        yield _item(get("parent_asin"), get("title"), get("store"), get("categories"), text, _large(get("images")))


def _large(images: Any) -> str | None:
    """The main picture's `large` address, or that of the first picture which has one."""
    entries = [entry for entry in images or [] if isinstance(entry, dict) and entry.get("large")]
    main = [entry for entry in entries if entry.get("variant") == "MAIN"]
    return (main or entries or [{"large": None}])[0]["large"]


# RecBole's atomic files: tab-separated, a header of `name:type`


def _atomic(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with _open(path) as lines:
        header = [column.split(":")[0] for column in next(lines, "").rstrip("\r\n").split("\t")]
    lacking = [name for name in needed if name not in header]
    if lacking:
        why = " Without it the order of the interactions is unknown." if "timestamp" in lacking else ""
        raise ValueError(f"{path}: expected the columns {', '.join(needed)}, got {header}.{why}")
    rows = _rows(path, lambda line: _split(line, header), needed)
    next(rows)  # the header itself
    return rows


def _split(line: str, header: list[str]) -> dict[str, str] | None:
    values = line.rstrip("\r\n").split("\t")
    return dict(zip(header, values, strict=True)) if len(values) == len(header) else None


def _interactions_recbole(path: Path) -> Iterator[Triple]:
    columns = ("user_id", "item_id", "timestamp")
    return _triples(_atomic(path, columns), *columns)


def _items_recbole(path: Path) -> Iterator[dict[str, Any]]:
    for row in _atomic(path, ("item_id",)):
        title = next((name for name in row if "title" in name.lower() or name.lower() == "name"), "")
        image = next((name for name in row if row[name].startswith(("http://", "https://"))), "")
        category = next((name for name in row if "categor" in name.lower() or name.lower() in ("class", "genre")), "")
        used = {"item_id", title, image, category, "brand"}
        text = [value for name, value in row.items() if name not in used]
        get = row.get
        yield _item(get("item_id"), get(title), get("brand"), get(category), text, get(image))


# MQL4GRec and LC-Rec


def _interactions_mql4grec(path: Path) -> Iterator[Triple]:
    users = _json_object(path)
    for user, items in users.items():
        for place, item in enumerate(items):
            yield user, str(item), float(place)


def _items_mql4grec(path: Path) -> Iterator[dict[str, Any]]:
    for item, row in _json_object(path).items():
        get = row.get
        yield _item(item, get("title"), get("brand"), get("categories"), get("description"), get("image"))


def _json_object(path: Path) -> dict[str, Any]:
    with _open(path) as file:
        content = _json(file.read())
    if not isinstance(content, dict) or not all(isinstance(value, (list, dict)) for value in content.values()):
        raise ValueError(f"{path}: expected one JSON object as in X.inter.json or X.item.json. Is --format right?")
    return content


_REVIEWS, _META = r"(?!meta).*\.jsonl?(\.gz)?", r"meta.*\.jsonl?(\.gz)?"
LAYOUTS = {
    "amazon2018": Layout(_REVIEWS, _META, _reviews("reviewerID", "asin", "unixReviewTime"), _items_2018),
    "amazon2014": Layout(_REVIEWS, _META, _reviews("reviewerID", "asin", "unixReviewTime"), _items_2014),
    "amazon2023": Layout(_REVIEWS, _META, _reviews("user_id", "parent_asin", "timestamp"), _items_2023),
    "recbole": Layout(r".*\.inter", r".*\.item", _interactions_recbole, _items_recbole),
    # These files are filtered already: the paper's own split must stay as it is.
    "mql4grec": Layout(r".*\.inter\.json", r".*\.item\.json", _interactions_mql4grec, _items_mql4grec, k_core=1),
}
