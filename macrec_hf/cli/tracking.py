"""`--report-to`: the losses and the codebook health of a run in TensorBoard, Trackio or Weights & Biases."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

# tracker → the package that it takes
TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


class Tracking(TypedDict):
    """Trainer's arguments of that name."""

    report_to: str
    run_name: str
    project: str


def add_tracking_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--report-to",
        choices=("none", *TRACKERS),
        default="none",
        help="where to follow losses, metrics and codebook health; tensorboard reads checkpoints/runs/ in --output "
        "(default: none)",
    )


def tracking_arguments(args: argparse.Namespace, output: Path) -> Tracking:
    """Trainer's arguments for `--report-to`; the run is named after the output folder.

    Raises:
        ValueError: the tracker is not installed.
    """
    package = TRACKERS.get(args.report_to)
    if package is not None and find_spec(package) is None:
        raise ValueError(
            f"--report-to {args.report_to}: expected the package {package} to be installed, found none. "
            f"pip install {package}, or leave the flag out: the figures are in the JSON files of --output too."
        )
    output = output.absolute()
    return {"report_to": args.report_to, "run_name": f"{output.parent.name}-{output.name}", "project": "macrec_hf"}
