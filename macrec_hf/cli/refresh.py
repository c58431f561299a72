"""`macrec refresh`: new purchases, new counts, seconds."""

import argparse
from pathlib import Path

from .common import seconds_since
from .inputs import add_interaction_columns, add_model, interaction_columns
from .next_steps import after_refresh
from .run_folder import check_finished

HELP = """Counts all purchases anew for the blend of a model directory. Nothing is trained or weighed, so it can run
every day. It needs the whole file of purchases, not the new ones alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "model directory that has a blend")
    parser.add_argument(
        "--interactions", required=True, help="all purchases: interactions.csv/.jsonl/.parquet, or X.inter.json"
    )
    add_interaction_columns(parser)
    parser.add_argument(
        "--on-unknown", choices=("raise", "skip"), default="raise",
        help="purchases of items that the catalogue lacks: stop, or leave them out (default: raise; ours)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> str:
    from accelerate import Accelerator

    from ..data.readers import read_interactions
    from ..model.semantic_ids import SemanticIdTable
    from ..training.serving_counts import refresh_directory

    check_finished(args.model)
    interactions = read_interactions(args.interactions, **interaction_columns(args))
    known = SemanticIdTable.from_pretrained(args.model).item_ids
    left_out = ""
    if args.on_unknown == "skip":
        is_known = interactions["item_id"].isin(known)
        unknown = interactions["item_id"][~is_known]
        if 0 < len(unknown) < len(interactions):  # of a file that knows none of them the error says more
            left_out = f" ({len(unknown):,} of {unknown.nunique():,} unknown items left out)"
            interactions = interactions[is_known]
    accelerator = Accelerator(cpu=True)
    try:
        purchases, items = refresh_directory(Path(args.model), interactions, accelerator)
    except ValueError as error:
        hint = " --on-unknown skip counts without them; MacRecRecommender.add_items gives new items IDs."
        raise ValueError(f"{error}{hint if 'unknown items' in str(error) else ''}") from error
    if not accelerator.is_main_process:
        return ""
    counted = f"{purchases:,} purchases of {items:,} items counted{left_out} in {seconds_since(args.started)}"
    return f"{counted}: {args.model}\n{after_refresh(args, known[:2])}"
