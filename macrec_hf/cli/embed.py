"""`macrec embed`: items with text and photos → a folder of embeddings."""

import argparse
import re
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING

from .common import add_device_flag, add_overwrite_flag, make_output, named_device, process_state, seconds_since
from .inputs import (
    add_interaction_columns,
    add_shown_columns,
    add_until,
    interaction_columns,
    shown_columns,
    sold_before,
)
from .next_steps import after_embed
from .numbers import SEED, whole

if TYPE_CHECKING:
    import pandas as pd

    from ..catalogue.item_encoders import EmbeddedCatalogue

HELP = """Turns item texts and photos into embeddings, through any AutoModel or offline without weights; with
--interactions also what customers buy together."""

WORK = ("item_ids.json", "meta.json")
_USUAL = {"item_id", "title", "text", "image"}  # columns of every catalogue that is read
_WORD, _LONG_WORD = re.compile(r"[^\W\d_]{2,}"), re.compile(r"[^\W\d_]{3,}|[^\W\d_a-zA-Z]{2,}")
_LOOKED_AT = 1000  # items whose cells say what a column holds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", required=True, help="items file: .jsonl, .csv, .tsv or .parquet")
    add_interaction_columns(parser, "--items and --interactions")
    add_shown_columns(parser)
    parser.set_defaults(item_column=None, title_column=None, image_column=None)  # as --like has them
    add_until(parser, "words, components, mean and scale")
    parser.add_argument(
        "--co-purchases",
        action=argparse.BooleanOptionalAction,
        help="a further modality, purchases: embeddings of what customers bought near each other, of training "
        "purchases alone, all but each user's last two, or with --until those that macrec train --until learns from "
        "(default: yes where --interactions stands without --until; ours)",
    )
    parser.add_argument("--output", required=True, help="folder for the embeddings")
    add_overwrite_flag(parser)
    parser.add_argument(
        "--text-model",
        metavar="NAME",
        help="text model: a Hub name or a folder that AutoModel loads, 'offline' (hashed TF-IDF + SVD, no weights) "
        "or 'none' (default: offline; ours, so that a first run downloads nothing. The paper takes LLaMA)",
    )
    parser.add_argument(
        "--image-model",
        metavar="NAME",
        help="vision model, CLIP-like ones too: a Hub name or a folder, 'offline' (histograms of colours and edges) "
        "or 'none' (default: offline; ours, as above. The paper takes ViT-L/14)",
    )
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls", "pooler"),
        help="how a model's states become one vector (default: mean, and pooler for CLIP-like models, which is their "
        "own feature; ours)",
    )
    parser.add_argument(
        "--text-columns",
        metavar="LIST",
        help="columns joined into an item's text (default: those of --like, else of title,brand,category,text those "
        "that exist; ours)",
    )
    parser.add_argument("--batch-size", type=whole(1), default=32, help="items per step (default: 32; ours)")
    parser.add_argument(
        "--max-length", type=whole(1), default=256, help="tokens kept of a text, offline all (default: 256; ours)"
    )
    add_device_flag(parser, "auto, the accelerator if there is one")
    parser.add_argument(
        "--standardize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="centre a model's embeddings and scale them by one number to a mean square of 1, so that the quantizer's "
        "losses weigh every encoder alike; the offline encoders always do (default: yes; ours)",
    )
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the offline encoders' SVD (default: 0)")
    parser.add_argument(
        "--like",
        metavar="DIR",
        help="folder that this verb wrote: embed with its encoders into the same space, for items that arrive after "
        "training (default: none)",
    )


def run(args: argparse.Namespace) -> str:
    """Embeds and writes; returns the summary line."""
    from ..catalogue.co_purchases import add_co_purchases, nobody_bought
    from ..catalogue.encoders import TABLE_COLUMNS, load_encoders, make_encoders
    from ..catalogue.item_encoders import embed_items
    from ..data.learned_purchases import training_purchases
    from ..data.readers import ITEM_COLUMN, read_interactions, read_items

    _check(args)
    device, output = named_device(args), make_output(args.output, WORK, args.overwrite)
    state = process_state(device)
    if state.num_processes > 1:
        device = str(state.device)
    if args.like:
        encoders = load_encoders(args.like, device=device)
    else:
        encoders = make_encoders(
            _model(args.text_model),
            _model(args.image_model),
            args.pooling,
            args.max_length,
            device,
            args.seed,
            args.standardize,
        )
    _fill_columns(args)
    together = _co_purchases(args)
    sold = None if together and args.until is None else sold_before(args)[0]
    ids = (args.item_column, ITEM_COLUMN) if args.interactions else args.item_column  # as `macrec train` reads them
    items = read_items(args.items, ids, **shown_columns(args))
    if together:  # refused before the work
        interactions = read_interactions(args.interactions, **interaction_columns(args))
        training_purchases(interactions, {item: row for row, item in enumerate(items["item_id"])}, args.until)
    columns = args.text_columns.split(",") if args.text_columns else None
    embedded = embed_items(
        items, encoders, text_columns=columns, batch_size=args.batch_size, accelerator=state, learned_from=sold
    )
    if embedded is None:  # not the main process
        return ""
    if together:
        embedded = add_co_purchases(embedded, interactions, args.until, seed=args.seed)
    if args.like:
        embedded = nobody_bought(embedded, args.like)
    names = {name: getattr(args, name) for name in TABLE_COLUMNS}
    if args.item_column not in items.attrs["columns"]:
        names["item_column"] = ITEM_COLUMN
    embedded.save(output, dict.fromkeys(embedded.modalities, names))
    texts = columns_read(embedded, items)
    parts = [
        f"{len(items) - len(embedded.reasons[modality])} with {modality} (encoder {embedded.encoders[modality]}"
        + f", {size} number{'s' * (size != 1)} each"
        + (f", from {', '.join(texts)})" if modality == "text" else ")")
        for modality, size in embedded.modalities.items()
    ]
    made = f"{len(items)} items, {', '.join(parts)} in {seconds_since(args.started)}: {output}"
    if args.like:  # of later items, which get their IDs by `add_items`
        return made
    unread = columns_unread(items, [*texts, *names.values()]) if texts and not args.text_columns else []
    if unread:
        made += f"\nNot read: {', '.join(unread)}, which hold words too. To read all: --text-columns "
        made += shlex.quote(",".join([*texts, *unread]))
    return f"{made}\n{after_embed(args)}"


def _co_purchases(args: argparse.Namespace) -> bool:
    """Whether there are embeddings of purchases."""
    if args.co_purchases and args.interactions is None:
        raise ValueError("--co-purchases: expected purchases to learn from, got no --interactions FILE.")
    return (args.interactions is not None and args.until is None) if args.co_purchases is None else args.co_purchases


def columns_read(embedded: "EmbeddedCatalogue", items: "pd.DataFrame") -> list[str]:
    """Columns of which the texts were made, without those that are empty everywhere, as a file's missing `text` is."""
    from ..catalogue.item_encoders import item_texts

    chosen = getattr(embedded.item_encoders.get("text"), "columns", None) or []
    return [column for column in chosen if column in items and any(item_texts(items, [column]))]


def columns_unread(items: "pd.DataFrame", known: Collection[str]) -> list[str]:
    """Columns that were left out though most of their cells are words: no numbers, paths, addresses or keys."""
    from ..data.cells import plain_text

    found = []
    for column in (column for column in map(str, items.columns) if column not in _USUAL | {*known}):
        if column not in items or "," in column or column.startswith("Unnamed:"):
            continue
        cells = [text for value in items[column][:_LOOKED_AT] if (text := plain_text(value).strip())]
        is_key = len(set(cells)) == len(cells) and not any(" " in text for text in cells)
        is_switch = {text.casefold() for text in cells} <= {"true", "false", "yes", "no"}
        if 2 * sum(map(_is_words, cells)) > len(cells) and len(set(cells)) > 1 and not is_key and not is_switch:
            found.append(column)
    return found


def _is_words(text: str) -> bool:
    """Whether a cell says something of an item: not a price, a date, a key, a path or an address."""
    if not _LONG_WORD.search(text):
        return False
    has_digit = any(map(str.isdigit, text))
    if " " not in text:
        return not has_digit and not any(sign in text for sign in ".@\\:_#")
    return not has_digit or len(_WORD.findall(text)) > 1


def _fill_columns(args: argparse.Namespace) -> None:
    """The columns that were not named: those of the earlier folder, else the usual ones."""
    from ..catalogue.encoders import table_columns
    from ..data.readers import IMAGE_COLUMN, ITEM_COLUMN, TITLE_COLUMN

    usual = {"item_column": ITEM_COLUMN, "title_column": TITLE_COLUMN, "image_column": IMAGE_COLUMN}
    if args.like:
        usual |= table_columns(args.like)
    for name, column in usual.items():
        setattr(args, name, getattr(args, name) or column)


def _model(name: str | None) -> str | None:
    return {None: "offline", "none": None}.get(name, name)


def _check(args: argparse.Namespace) -> None:
    if args.like and (args.co_purchases or (args.interactions and not args.until)):
        raise ValueError(
            "--like embeds items that arrive later, which nobody has bought: expected neither --interactions nor "
            "--co-purchases beside it. Leave them away; these items get no ID in the modality purchases."
        )
    if args.like and args.until:
        raise ValueError(
            "--like takes encoders that have learned already: expected no --until beside it. Leave one of them away."
        )
    if args.like and (args.text_model or args.image_model or args.pooling):
        raise ValueError(
            "--like takes models and pooling from the earlier folder: expected no --text-model, --image-model or "
            "--pooling beside it. Leave them away."
        )
    if args.like and (args.max_length, args.seed, args.standardize) != (256, 0, True):
        raise ValueError(
            "--like takes length, seed and standardising from the earlier folder: expected no --max-length, --seed or "
            "--no-standardize beside it. Leave them away."
        )
    if args.pooling and {args.text_model, args.image_model} <= {None, "offline", "none"}:
        raise ValueError(
            "--pooling says how a model's states become one vector: expected --text-model or --image-model with a "
            "model beside it, got the offline encoders, which have no states. Leave it away."
        )
    if args.text_model == args.image_model == "none":
        raise ValueError("--text-model none --image-model none: expected at least one modality to embed.")
