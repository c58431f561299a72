"""`--size`: fields that the user did not name follow the data, or are the paper's."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from .trainer_flags import SHORT

SIZES = ("auto", "paper")


def add_size_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="auto",
        help="where flags that are not given come from: auto, the numbers of items, users and purchases; paper, the "
        "default that each flag names (default: auto; ours)",
    )


def with_sizes(args: argparse.Namespace, auto: Mapping[str, Any], paper: Mapping[str, Any]) -> argparse.Namespace:
    """The flags with those filled in that the user did not give; those that `paper` lacks are the configuration's.

    Args:
        auto: `{field: value}` from the data.
        paper: `{field: value}` of the training arguments' defaults.
    """
    filled = {SHORT.get(name, name): value for name, value in (auto if args.size == "auto" else paper).items()}
    given = {name: value for name, value in vars(args).items() if value is not None}
    return argparse.Namespace(**{**vars(args), **filled, **given})


def sizes_line(args: argparse.Namespace, given: argparse.Namespace, names: Iterable[str], data: str) -> str:
    """What was chosen, and from what.

    Args:
        args: with all sizes.
        given: as the user gave them.
        names: fields that have a size.
        data: the numbers that it was chosen from, in words.
    """
    flags = [SHORT.get(name, name) for name in names]
    chosen = [name for name in flags if getattr(given, name) is None and getattr(args, name, None) is not None]
    source = f"by {data}" if args.size == "auto" else "the paper's"
    named = ", ".join(f"{name} {_text(getattr(args, name))}" for name in chosen)
    own = ", ".join(f"{name} {_text(value)}" for name in flags if (value := getattr(given, name)) is not None)
    return f"Sizes, {source}: {named or 'none'}." + (f" Yours: {own}." if own else "")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
