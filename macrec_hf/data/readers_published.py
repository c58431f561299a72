"""Research data as it is published, row by row: Amazon reviews and metadata, RecBole, MQL4GRec.

A layout turns files, gzipped or not, into `(user, item, time)` triples and rows of items without ever holding a whole
file. `docs/data_formats.md` shows every layout; Amazon and RecBole readers were verified on fixtures written by hand.
"""

import ast
import gzip
import html
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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


def find_files(layout: str, inputs: Sequence[str | Path]) -> tuple[Path, Path | None]:
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


# Lines


def _rows(path: Path, parse: Callable[[str], Any], needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Lines as dicts that have all needed fields. Some broken lines are counted and skipped, many are an error."""
    good, broken, first = 0, 0, (0, "")
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
            first = first if broken > 1 else (number, line[:80])
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


def _open(path: Path) -> IO[str]:
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
    """Rows with the needed columns and all that hold words: prices and ranks say little as text."""
    with _open(path) as lines:
        header = [column.partition(":")[::2] for column in next(lines, "").rstrip("\r\n").split("\t")]
    names = [name for name, _ in header]
    lacking = [name for name in needed if name not in names]
    if lacking:
        why = " Without it the order of the interactions is unknown." if "timestamp" in lacking else ""
        raise ValueError(f"{path}: expected the columns {', '.join(needed)}, got {names}.{why}")
    wanted = [name in needed or not kind.startswith("float") for name, kind in header]

    def parse(line: str) -> dict[str, str] | None:
        values = line.rstrip("\r\n").split("\t")
        if len(values) != len(names):
            return None
        return {name: value for name, value, use in zip(names, values, wanted, strict=True) if use}

    rows = _rows(path, parse, needed)
    next(rows)  # the header itself
    return rows


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
