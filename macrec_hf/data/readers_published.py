"""Research data as it is published, row by row: Amazon reviews and metadata, RecBole, MQL4GRec.

A layout turns files, gzipped or not, into `(user, item, time)` triples and rows of items without ever holding a whole
file. `docs/data_formats.md` shows every layout; Amazon and RecBole readers were verified on fixtures written by hand.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .photo_addresses import main_photo, opened, photo_address
from .plain_text import plain_text, whole_letters
from .published_lines import Row, as_id, checked_rows, json_or_literal
from .text_files import TOLERATED, TOLERATED_SHARE, json_object, read_json, shortened, text_lines

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
        files += sorted(path.iterdir()) if path.is_dir() else [path]
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


# Texts


def clean_text(value: Any) -> str:
    """Nested lists of HTML as one line of plain text: entities resolved, tags and repeated entries removed."""
    return plain_text(" ".join(dict.fromkeys(_flat(value))))


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    elif (
        isinstance(value, str)
        or (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and math.isfinite(value))
    ):  # NaN is missing
        yield str(value)


def _join(value: Any, separator: str) -> str:
    if isinstance(found := opened(value), list) and all(isinstance(part, str) for part in found):
        value = found
    return separator.join(dict.fromkeys(text for part in _flat(value) if (text := clean_text(part))))


def _item(item_id: str, title: Any, brand: Any, category: Any, text: Any, image: str | None) -> Row:
    return {
        "item_id": item_id,
        "title": clean_text(title),
        "brand": clean_text(brand),
        "category": _join(category, ", "),
        "text": _join(text, " "),
        "image": None if image is None else whole_letters(image),
    }


# Amazon (McAuley lab), three generations


def _reviews(user: str, item: str, moment: str) -> Callable[[Path], Iterator[Triple]]:
    def read(path: Path) -> Iterator[Triple]:
        for row in checked_rows(path, json_object, (user, item, moment), moment):
            yield row[user], row[item], row[moment]

    return read


_PHOTOS = ("imageURLHighRes", "imageURL", "image", "imUrl")  # the last two in older copies


def _photo(row: Row) -> str | None:
    return next((photo for name in _PHOTOS if (photo := main_photo(row.get(name)))), None)


def _items_2014(path: Path) -> Iterator[Row]:
    for row in checked_rows(path, json_or_literal, ("asin",)):
        get, photo = row.get, _photo(row)
        yield _item(row["asin"], get("title"), get("brand"), get("categories"), get("description"), photo)


def _items_2018(path: Path) -> Iterator[Row]:
    for row in checked_rows(path, json_or_literal, ("asin",)):
        get, photo = row.get, _photo(row)
        yield _item(row["asin"], get("title"), get("brand"), get("category"), get("description"), photo)


def _items_2023(path: Path) -> Iterator[Row]:
    for row in checked_rows(path, json_or_literal, ("parent_asin",)):
        get, photo = row.get, main_photo(row.get("images"))
        text = [part for name in ("features", "description") for part in _flat(opened(get(name)))]
        yield _item(row["parent_asin"], get("title"), get("store"), get("categories"), text, photo)


# RecBole's atomic files: tab-separated, a header of `name:type`


def _atomic(path: Path, needed: tuple[str, ...], moment: str | None = None) -> Iterator[Row]:
    """Rows with the needed columns and all that hold words: prices and ranks say little as text."""
    line = next((line for _, line in islice(text_lines(path, "surrogateescape"), 1)), "") or ""
    header = [column.strip().partition(":")[::2] for column in line.rstrip("\r\n").split("\t")]
    names = [name for name, _ in header]
    lacking = [name for name in needed if name not in names]
    if lacking:
        why = " Without it the order of the interactions is unknown." if "timestamp" in lacking else ""
        raise ValueError(f"{path}: expected the columns {', '.join(needed)}, got {shortened(names, 300)}.{why}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}, line 1: expected every column once, got {twice!r} twice. Rename or remove one.")
    wanted = [name in needed or not kind.startswith("float") for name, kind in header]
    first = True

    def parse(line: str) -> Row:
        nonlocal first
        values = line.rstrip("\r\n").split("\t")
        if len(values) != len(names):
            raise ValueError(f"{len(values)} fields, the header has {len(names)}")
        if first:  # the header itself: no broken line, although it has no time
            first = False
            return dict.fromkeys(needed, "0")
        return {name: value for name, value, use in zip(names, values, wanted, strict=True) if use}

    return islice(checked_rows(path, parse, needed, moment), 1, None)


def _interactions_recbole(path: Path) -> Iterator[Triple]:
    for row in _atomic(path, ("user_id", "item_id", "timestamp"), "timestamp"):
        yield row["user_id"], row["item_id"], row["timestamp"]


def _items_recbole(path: Path) -> Iterator[Row]:
    for row in _atomic(path, ("item_id",)):
        title = next((name for name in row if "title" in name.lower() or name.lower() == "name"), "")
        photos = {name: photo for name, value in row.items() if name != "item_id" and (photo := photo_address(value))}
        image = next(iter(photos), "")
        category = next((name for name in row if "categor" in name.lower() or name.lower() in ("class", "genre")), "")
        used = {"item_id", title, image, category, "brand"}
        text = [value for name, value in row.items() if name not in used]
        get = row.get
        yield _item(row["item_id"], get(title), get("brand"), get(category), text, photos.get(image))


# MQL4GRec and LC-Rec


def _interactions_mql4grec(path: Path) -> Iterator[Triple]:
    for user, items in _entries(path, list):
        for place, item in enumerate(items):
            yield user, item, float(place)


def _items_mql4grec(path: Path) -> Iterator[Row]:
    for item, row in _entries(path, dict):
        get, photo = row.get, main_photo(row.get("image"))
        yield _item(item, get("title"), get("brand"), get("categories"), get("description"), photo)


def _entries(path: Path, kind: type) -> Iterator[tuple[str, Any]]:
    """The entries of an object that are of a kind, list or dict; the others are skipped and counted."""
    content = read_json(path)
    shape = "one JSON object as in X.inter.json or X.item.json"
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {shape}, got {shortened(content)}. Is --format right?")
    good, broken = [], []
    for key, value in content.items():
        try:
            if not isinstance(value, kind):
                raise ValueError(f"no {kind.__name__} but {shortened(value)}")
            good.append((as_id("id", key), _ids(value) if isinstance(value, list) else value))
        except ValueError as error:
            broken.append(f"{shortened(key)}: {error}")
    if not good or (broken and (len(broken) >= len(good) or len(broken) > TOLERATED + TOLERATED_SHARE * len(good))):
        found = f"{len(broken):,} broken entries, the first is {broken[0]}" if broken else "none"
        raise ValueError(f"{path}: expected {shape}, got {found}. Is --format right?")
    if broken:
        logger.warning(f"{path}: skipped {len(broken):,} broken entries. The first is {broken[0]}.")
    yield from good


def _ids(values: list[Any]) -> list[str]:
    return [as_id("item", value) for value in values]


_REVIEWS, _META = r"(?!meta).*\.jsonl?(\.gz)?", r"meta.*\.jsonl?(\.gz)?"
LAYOUTS = {
    "amazon2018": Layout(_REVIEWS, _META, _reviews("reviewerID", "asin", "unixReviewTime"), _items_2018),
    "amazon2014": Layout(_REVIEWS, _META, _reviews("reviewerID", "asin", "unixReviewTime"), _items_2014),
    "amazon2023": Layout(_REVIEWS, _META, _reviews("user_id", "parent_asin", "timestamp"), _items_2023),
    "recbole": Layout(r".*\.inter", r".*\.item", _interactions_recbole, _items_recbole),
    # These files are filtered already: the paper's own split must stay as it is.
    "mql4grec": Layout(r".*\.inter\.json", r".*\.item\.json", _interactions_mql4grec, _items_mql4grec, k_core=1),
}
