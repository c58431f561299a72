"""`macrec refresh`: new purchases, new counts, seconds."""

import argparse
from pathlib import Path

from .common import seconds_since
from .inputs import add_interaction_columns, interaction_columns

HELP = """Counts all purchases anew for the blend of a model directory. Nothing is trained or weighed, so it can run
every day. It needs the whole file of purchases, not the new ones alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="model directory that has a blend")
    parser.add_argument(
        "--interactions", required=True, help="all purchases: interactions.csv/.jsonl/.parquet, or X.inter.json"
    )
    add_interaction_columns(parser)


def run(args: argparse.Namespace) -> str:
    from ..data.readers import read_interactions
    from ..training.blend_fitting import refresh_directory

    interactions = read_interactions(args.interactions, **interaction_columns(args))
    counts = refresh_directory(Path(args.model), interactions)
    purchases = f"{int(counts.popularity.sum()):,} purchases of {counts.num_items:,} items"
    return f"{purchases} counted in {seconds_since(args.started)}: {args.model}"
