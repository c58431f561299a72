"""What a verb ends with: the command that follows, ready to be copied; and what a training has come to."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .history_flag import history_words
from .seeds import seed_folder

_NEXT = "Next: "
_COLUMNS = {"user_column": "user_id", "item_column": "item_id", "time_column": "timestamp"}
_OF_ITEMS = {"item_column": "item_id", "title_column": "title"}
_USUAL = "interactions.csv"  # as `macrec prepare` names it


def after_prepare(output: Path) -> str:
    embed = _command("embed", "--items", output / "items.jsonl", "--output", "emb")
    return f"{_NEXT}{embed} turns texts and photos into embeddings."


def after_embed(args: argparse.Namespace) -> str:
    """Args of `macrec embed`."""
    until = [] if args.until is None else ["--interactions", args.interactions, *_named_columns(args), *_until(args)]
    quantize = _command("quantize", "--embeddings", args.output, "--output", _beside(args.output, "ids"), *until)
    return f"{_NEXT}{quantize} gives every item its semantic IDs."


def after_quantize(args: argparse.Namespace) -> str:
    """Args of `macrec quantize`."""
    embeddings = ["--embeddings", args.embeddings, *(["--item-ids", args.item_ids] if args.item_ids else [])]
    doctor = _command("doctor", args.output, *embeddings)
    bought = ["--interactions", args.interactions or _USUAL, *_named_columns(args)]
    model = _beside(args.output, "model")
    train = _command("train", *bought, *_until(args), "--semantic-ids", args.output, "--output", model)
    return f"{_NEXT}{doctor} says whether they are any good, {train} trains a recommender."


def after_train(args: argparse.Namespace, items: Sequence[str] = ("ID", "ID"), has_later: bool = True) -> str:
    """Args of `macrec train`, with the columns that it was given, and two items for a history.

    Args:
        has_later: whether the file has purchases from `--until` on, which an evaluation by time needs.
    """
    bought = ["--interactions", args.interactions, *_named_columns(args)]
    evaluate = _command("evaluate", "--model", args.output, *bought, *_cut(args.until))
    model = args.output if args.seeds is None else seed_folder(Path(args.output), args.seed)
    recommend = _command("recommend", "--model", model, *history_words(items))
    when = "" if has_later else f" once the file has purchases from {args.until} on"
    return f"{_NEXT}{evaluate} says how good it is{when}, {recommend} recommends."


def after_blend(args: argparse.Namespace, until: str | None) -> str:
    """Args of `macrec blend`, and the day before which the model has learned all purchases, if there is one."""
    bought = ["--interactions", args.interactions, *_named_columns(args)]
    evaluate = _command("evaluate", args.model, *bought, *_cut(until))
    refresh = _command("refresh", args.model, *bought)
    return f"{_NEXT}{evaluate} says what the blend is worth, {refresh} counts new purchases, every day."


def after_refresh(args: argparse.Namespace, items: Sequence[str] = ("ID", "ID")) -> str:
    """Args of `macrec refresh`, and two items for a history."""
    return f"{_NEXT}{_command('recommend', args.model, *history_words(items))} recommends by the new counts."


def after_evaluate(model: str | Path, split: str) -> str:
    """The model that `macrec evaluate` has judged, of several the first, and how."""
    later = (
        "" if split == "time" else " Purchases of later months may be harder: train --until, evaluate --split time."
    )
    return f"{_NEXT}{_command('app', model)} shows such lists beside a catalogue to click on.{later}"


def after_recommend(args: argparse.Namespace) -> str:
    """Args of `macrec recommend`."""
    page = _command(
        "app", args.model, *(["--items", args.items, *_named_columns(args, _OF_ITEMS)] if args.items else [])
    )
    photos = "photos" if args.items else "with --items photos"
    return f"{_NEXT}{page} shows such lists beside a catalogue to click on, {photos} too."


def after_doctor(args: argparse.Namespace, is_model: bool, mend: str = "") -> str:
    """Args of `macrec doctor`.

    Args:
        is_model: whether a model directory was examined, or semantic IDs before a training.
        mend: advice on what should be mended before a training; empty where nothing is that grave.
    """
    if is_model:
        first = f"before another training, mend that. {mend} Meanwhile " if mend else ""
        return f"{_NEXT}{first}{_command('app', args.semantic_ids)} shows what the model recommends."
    output = "model" if "=" in args.semantic_ids else _beside(args.semantic_ids, "model")
    train = _command("train", "--interactions", _USUAL, "--semantic-ids", args.semantic_ids, "--output", output)
    first = f"before training, mend that. {mend} Then " if mend else ""
    return f"{_NEXT}{first}{train} trains a recommender on {'the new' if mend else 'these'} IDs."


def without_next(summary: str) -> str:
    """A summary of a verb that another one runs, which knows itself what follows."""
    return "\n".join(line for line in summary.split("\n") if not line.startswith(_NEXT))


def best_checkpoint(state: Any) -> str:
    """Which of a training's checkpoints is kept, of its `TrainerState`; empty where none was compared."""
    if state.best_metric is None:
        return ""
    at = f" step {state.best_global_step:,} of {state.max_steps:,}" if state.best_global_step else ""
    return f", best checkpoint{at} with NDCG@10 {state.best_metric:.4f} on the validation users who choose it"


def _named_columns(args: argparse.Namespace, columns: Mapping[str, str] = _COLUMNS) -> list[str]:
    """The flags of columns that have other names than the usual ones."""
    given = {name: getattr(args, name) for name, usual in columns.items() if getattr(args, name) not in (usual, None)}
    return [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]


def _until(args: argparse.Namespace) -> list[str]:
    return [] if args.until is None else ["--until", args.until]


def _cut(until: str | None) -> list[str]:
    """The flags of an evaluation by time; none of one that leaves purchases out."""
    return [] if until is None else ["--split", "time", "--cut", until]


def _beside(folder: str, name: str) -> Path:
    return Path(folder).parent / name


def _command(*words: str | Path) -> str:
    return shlex.join(["macrec", *map(str, words)])
