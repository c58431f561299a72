"""What verbs read: folders of an earlier verb, or other people's files by name."""

import argparse
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..catalogue.embedding_store import EmbeddingStore
    from ..model.modeling_macrec_quantizer import MacRecQuantizer
    from ..model.semantic_ids import SemanticIdTable

logger = logging.getLogger(__name__)

_COLUMNS = {"user": "user_id", "item": "item_id", "time": "timestamp"}
_SHOWN = {"item_id": "item_column", "title": "title_column", "image": "image_column"}  # which a flag can name
_PAIR = re.compile(r"\s*[^\W\d][\w.-]*\s*=")  # a folder before the sign, `runs/lr=`, is no name
_NEXT_PAIR = re.compile(r",(?=\s*[^\W\d][\w.-]*\s*=)")


def read_pairs(text: str) -> dict[str, str] | None:
    """`text=a.npy,image=b.npy` → a dict in that order; None where it is a plain path.

    What exists is a path, also `lr=0.001/ids`. A path in a pair may hold commas and equals signs; a comma before
    `name=` begins the next pair.

    Raises:
        ValueError: a name without a path, or twice.
    """
    if not _PAIR.match(text) or os.path.lexists(text):
        return None
    pairs = [[word.strip() for word in part.partition("=")] for part in _NEXT_PAIR.split(text)]
    if not all(name and path for name, _, path in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise ValueError(f"Expected pairs such as text=a,image=b, each name once, got {text!r}.")
    return {name: path for name, _, path in pairs}


class _Once(argparse.Action):
    """`MODEL`, by its place or by `--model`."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        if (before := getattr(namespace, "model", None)) is not None:
            hint = " Ids of a history stand with commas between them: --history 00001,00007." * hasattr(
                namespace, "history"
            )
            raise argparse.ArgumentError(None, f"expected one MODEL, got {before} and {value}.{hint}")
        namespace.model = value
        for action in parser._actions:
            if action.dest == "model":
                action.required = False


def add_model(parser: argparse.ArgumentParser, what: str) -> None:
    """`MODEL`, which `--model` may name too."""
    parser.add_argument("model", metavar="MODEL", action=_Once, help=what)
    parser.add_argument("--model", metavar="MODEL", dest="model", action=_Once, help="the same, as a flag")


def open_embeddings(args: argparse.Namespace) -> "EmbeddingStore":
    """The store behind `--embeddings`, which `check_embeddings` has found, of `--modalities`, every number checked."""
    from ..catalogue.embedding_store import EmbeddingStore

    pairs = read_pairs(args.embeddings)
    if pairs is None:
        store = EmbeddingStore.open(args.embeddings)
    elif args.item_ids is None:
        raise ValueError("--embeddings text=….npy needs --item-ids: a JSON list with the item id of each row.")
    else:
        store = EmbeddingStore.from_files(pairs, args.item_ids)
    if args.modalities:
        store = store.select(args.modalities.split(","))
    return store.check_finite()


def check_embeddings(args: argparse.Namespace) -> None:
    """Refuses `--embeddings` where nothing is, before libraries are loaded, which takes seconds.

    Raises:
        FileNotFoundError: neither a folder nor any of the files.
    """
    if (given := getattr(args, "embeddings", None)) is None:
        return
    files = (read_pairs(given) or {"": given}).values()
    if not any(Path(file).exists() for file in files):
        raise FileNotFoundError(
            f"--embeddings: expected a folder of `macrec embed` or pairs such as text=a.npy,image=b.npy, got "
            f"{given!r}, where nothing is."
        )


def digest_of_weights(folder: str | Path | None) -> str | None:
    """A hash of a model's weights, of one that is trained further or of a quantizer; None where there is none."""
    from ..data.table_files import file_digest

    weights = [] if folder is None else sorted(Path(folder).glob("model*.safetensors"))
    return " ".join(file_digest(path)[:16] for path in weights) or None


def quantizer_folder(semantic_ids: str) -> Path | None:
    """Where the quantizer stands in a folder of `macrec quantize`; None for other people's IDs."""
    folder = None if read_pairs(semantic_ids) else Path(semantic_ids) / "quantizer"
    return folder if folder is not None and folder.is_dir() else None


def log_of_quantizer(semantic_ids: str) -> list[dict[str, Any]]:
    """The lines of `training_log.json` in a folder of `macrec quantize`; none for other people's IDs, or damaged."""
    log = Path(semantic_ids) / "training_log.json"
    try:
        lines = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else []
    except ValueError:
        lines = None
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        logger.warning("%s: expected the log of a training, found none: the model card goes without its losses.", log)
        return []
    return lines


def sold_part(store: "EmbeddingStore", args: argparse.Namespace) -> tuple["EmbeddingStore", str | None]:
    """The items of a store sold before `--until`, and the day by its one name; all and None without the flag."""
    sold, day = sold_before(args)
    if sold is None:
        return store, None
    rows = [row for row, item in enumerate(store.item_ids) if item in sold]
    if not rows:
        raise ValueError(
            f"--until {args.until}: expected embeddings of items that were sold before, such as {sorted(sold)[:3]}, "
            f"got those of others, such as {store.item_ids[:3]}. Do the files belong to one shop?"
        )
    return store.take(rows), day


def open_semantic_ids(argument: str) -> "SemanticIdTable":
    """The table behind `--semantic-ids`."""
    from ..model.semantic_ids import SemanticIdTable

    pairs = read_pairs(argument)
    if pairs is None and Path(argument).is_file():
        raise ValueError(
            f"--semantic-ids: expected a folder or index files with the names of their modalities, got the file "
            f"{argument}. Is it text={argument}?"
        )
    if pairs is None:
        return SemanticIdTable.from_pretrained(argument)
    return SemanticIdTable.from_index_json(codebook_size=None, **pairs)


def add_item_column(parser: argparse.ArgumentParser, of: str = "--items") -> None:
    """`--item-column`.

    Args:
        of: the flags of the tables that have the column.
    """
    parser.add_argument(
        "--item-column", metavar="NAME", default="item_id", help=f"column of item ids in {of} (default: item_id)"
    )


def add_title_column(parser: argparse.ArgumentParser) -> None:
    """`--title-column`."""
    parser.add_argument(
        "--title-column", metavar="NAME", default="title", help="column of titles in --items (default: title)"
    )


def add_shown_columns(parser: argparse.ArgumentParser) -> None:
    """`--title-column` and `--image-column`."""
    add_title_column(parser)
    parser.add_argument(
        "--image-column", metavar="NAME", default="image", help="column of photos in --items (default: image)"
    )


def add_allow_outside(parser: argparse.ArgumentParser) -> None:
    """`--allow-outside`."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="show photos outside the folder of --items too, also by links out of it (default: leave them out)",
    )


def shown_columns(args: argparse.Namespace) -> dict[str, str]:
    """The names of both, as arguments of `read_items`."""
    return {name: getattr(args, name) for name in ("title_column", "image_column")}


def add_interaction_columns(parser: argparse.ArgumentParser, of: str = "--interactions") -> None:
    """`--user-column`, `--item-column` and `--time-column`.

    Args:
        of: the flags of the tables that have an item column.
    """
    parser.add_argument(
        "--user-column", metavar="NAME", default="user_id",
        help="column of user ids in --interactions (default: user_id)",
    )  # fmt: skip
    add_item_column(parser, of)
    parser.add_argument(
        "--time-column", metavar="NAME", default="timestamp",
        help="column of --interactions that says when, numbers or ISO 8601 dates (default: timestamp)",
    )  # fmt: skip


def interaction_columns(args: argparse.Namespace) -> dict[str, str]:
    """The columns' names, as arguments of `read_interactions` and of the builders."""
    return {name: getattr(args, name) for name in ("user_column", "item_column", "time_column")}


def add_until(parser: argparse.ArgumentParser, what: str) -> None:
    """`--interactions` and `--until`, for a verb that learns from items.

    Args:
        what: that is learned from the items.
    """
    parser.add_argument(
        "--interactions", metavar="FILE",
        help="interactions.csv/.jsonl/.parquet, or X.inter.json: says which items were sold before --until (default: "
        "none)",
    )  # fmt: skip
    parser.add_argument(
        "--until", metavar="DATE",
        help=f"learn {what} from the items sold before that day alone, for an evaluation by time (default: all items)",
    )  # fmt: skip


def sold_before(args: argparse.Namespace) -> tuple[set[str] | None, str | None]:
    """Ids of the items sold before `--until`, and the day by its one name, as 2020-03-01 for 20200301; or None."""
    if args.until is None:
        if args.interactions is not None:
            logger.warning("--interactions changes nothing without --until: all items are learned from.")
        return None, None
    if args.interactions is None:
        raise ValueError("Expected --interactions with --until: purchases say which items were sold by then.")
    from ..data.readers import read_interactions
    from ..data.time_split import Moments, items_before

    interactions = read_interactions(args.interactions, **interaction_columns(args))
    moments = Moments.of(interactions["timestamp"])
    return items_before(interactions, args.until), moments.name(moments.at(args.until, "until"))


def check_tables(args: argparse.Namespace) -> None:
    """Refuses tables that are not there or lack a column before libraries and models are loaded, which takes seconds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown format, or a column that is missing.
    """
    items, bought = (getattr(args, name, None) for name in ("items", "interactions"))
    if items is None and bought is None:
        return
    from ..data.readers import IMAGE_COLUMN, ITEM_COLUMN, TITLE_COLUMN, check_interaction_columns, check_item_columns
    from ..data.table_files import table_columns

    if items is not None and (columns := table_columns(Path(items))) and not getattr(args, "like", None):
        named = {name: getattr(args, name, None) for name in ("item_column", "title_column", "image_column")}
        ids = [named["item_column"] or ITEM_COLUMN, *([ITEM_COLUMN] if bought is not None else [])]
        shown = (named["title_column"] or TITLE_COLUMN, named["image_column"] or IMAGE_COLUMN)
        check_item_columns(Path(items), columns, ids, *shown)
        texts = given.split(",") if (given := getattr(args, "text_columns", None)) else []
        renamed = {name for name, flag in _SHOWN.items() if named.get(flag) in columns}
        if lacking := [text for text in texts if text not in {*columns, *renamed}]:
            raise ValueError(f"--text-columns: expected columns of the items, {columns}, got also {lacking}.")
    if bought is not None and not str(bought).lower().endswith((".json", ".json.gz")):
        if columns := table_columns(Path(bought)):
            names = {name: getattr(args, f"{name}_column") or usual for name, usual in _COLUMNS.items()}
            check_interaction_columns(Path(bought), columns, **names)


def read_titles(
    path: str | None,
    item_column: str | Sequence[str],
    title_column: str = "title",
    known: Sequence[str] | None = None,
    needed: bool = False,
) -> dict[str, str]:
    """`{item_id: title}` of an items file, of the items that have one; empty without a file.

    Args:
        known: ids of the catalogue; a warning says so where the file has none of them.
        needed: whether a file without titles is refused, where a warning would be read too late.

    Raises:
        ValueError: no titles where they are needed, and whatever [`read_items`] finds wrong.
    """
    if path is None:
        return {}
    from ..data.ids import likely_cause
    from ..data.readers import read_items

    items = read_items(path, item_column, title_column)
    titles = {item: title for item, title in zip(items["item_id"], items["title"], strict=True) if title}
    if not titles:
        told = (
            f"{path}: no titles: expected them in a column {title_column!r}, the table has {items.attrs['columns']}. "
            "Name the right one with --title-column"
        )
        if needed:
            raise ValueError(f"{told}, or leave --items out.")
        logger.warning("%s.", told)
    elif known is not None and titles.keys().isdisjoint(known):
        logger.warning(
            "%s: none of its ids, such as %s, is of the catalogue, which has such as %s. %s",
            path, items["item_id"].tolist()[:3], list(known[:3]), likely_cause(titles, known),
        )  # fmt: skip
    return titles


def table_and_quantizer(semantic_ids: str) -> tuple["SemanticIdTable", "MacRecQuantizer | None"]:
    """The table, and the quantizer that made it in a folder of `macrec quantize`; None for other people's IDs."""
    from ..model.files import reading
    from ..model.model_files import check_quantizer
    from ..model.modeling_macrec_quantizer import MacRecQuantizer

    with reading(semantic_ids, "semantic_ids.*", "quantizer/*"):
        try:
            table, folder = open_semantic_ids(semantic_ids), quantizer_folder(semantic_ids)
        except OSError as error:  # which names a file, as several flags could
            raise OSError(f"--semantic-ids: {re.sub('^Expected', 'expected', str(error))}") from error
        if folder is None:
            return table, None
        return table, check_quantizer(MacRecQuantizer.from_pretrained(folder), table, folder)
