"""`macrec blend`: weighs what the model says and what customers did, on validation purchases."""

import argparse
import json
from pathlib import Path

from .common import add_device_flag, ranking_device, seconds_since
from .inputs import add_interaction_columns, add_model, interaction_columns
from .next_steps import after_blend
from .run_folder import check_finished

HELP = """Fits the weights of the blend into a model directory, and counts all purchases to serve with. `macrec train`
does this at its end; do it again when the purchases have changed much. For new purchases alone: `macrec refresh`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "model directory of `macrec train`, which takes up the blend")
    parser.add_argument(
        "--interactions",
        required=True,
        help="the purchases that the model was trained on: interactions.csv/.jsonl/.parquet, or X.inter.json",
    )
    add_interaction_columns(parser)
    add_device_flag(parser, "auto, a GPU of CUDA if there is one")


def run(args: argparse.Namespace) -> str:
    from accelerate import Accelerator

    from ..data.readers import read_interactions
    from ..training.blend_fitting import blend_directory, blend_line

    check_finished(args.model)
    interactions = read_interactions(args.interactions, **interaction_columns(args))
    accelerator = Accelerator(cpu=ranking_device(args) == "cpu")
    blend = blend_directory(Path(args.model), interactions, accelerator, progress=True)
    if not accelerator.is_main_process:
        return ""
    until = json.loads((Path(args.model) / "config.json").read_text(encoding="utf-8")).get("trained_until")
    return f"{blend_line(blend)} in {seconds_since(args.started)}: {args.model}\n{after_blend(args, until)}"
