"""Flags made from the fields of a Trainer's arguments, those of transformers included, with the fields' defaults.

Fields with a short name are spelled by it alone. Fields that a verb sets itself are refused, each with what to do.
"""

import argparse
import dataclasses
import json
import math
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from .common import add_device_flag, named_device, num_processes, read_bool
from .run_folder import CHECKPOINTS
from .tracking import add_tracking_flag, tracking_arguments

if TYPE_CHECKING:
    from transformers import TrainingArguments

SHORT = {  # field → the only flag that spells it
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "warmup_steps": "warmup",
    "generation_num_beams": "num_beams",
    "num_eval_users": "eval_users",
}
# Fields of transformers that everybody looks for first; they stand beside the fields of our classes.
COMMON = ("max_steps", "warmup_steps", "seed")
MEANINGS = {  # where the flag is not quite the field, or the words of transformers are not plain
    "num_eval_users": "validation users to rank, evenly spaced; 0 = all (ours)",
    "max_steps": "optimizer steps instead of epochs (transformers)",
    "warmup_steps": "share of the steps with a rising learning rate (ours)",
    "seed": "seed of everything random (ours)",
    "push_to_hub": "Upload the whole model directory at the end of the training",
    "hub_model_id": "The repository that is uploaded to, such as user/macrec-shop",
    "logging_steps": "Steps between two lines of the log",
}
OWN_DEFAULTS = {  # a verb is not a Trainer: it ranks often, and every verb's seed is 0
    "num_eval_users": 2000,
    "seed": 0,
    "save_total_limit": 2,
    "dataloader_pin_memory": False,
}
FOLLOWING = {  # fields whose default follows from other flags
    "per_device_eval_batch_size": "as --batch-size",
    "logging_steps": "a fifth of those between two evaluations",
    "run_name": "after the folder of --output",
    "project": "macrec_hf",
    "hub_model_id": "the folder name of --output",
}
_ELSEWHERE = {
    **{name: f"use --{flag.replace('_', '-')}" for name, flag in SHORT.items()},
    "output_dir": "use --output",
    "resume_from_checkpoint": "use --resume",
    "use_cpu": "use --device cpu",
    "gradient_checkpointing": "use --activation-checkpointing",
    "gradient_checkpointing_kwargs": "use --activation-checkpointing-kwargs",
    "hub_token": "the command line is kept in the model card: use the variable HF_TOKEN, or `hf auth login`",
    "local_rank": "use accelerate launch or torchrun",
    "parallelism_config": "use accelerate launch --config_file",
}
_BY_THE_VERB = (
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "remove_unused_columns", "label_names",
    "label_smoothing_factor", "length_column_name", "do_train", "do_eval", "do_predict", "prediction_loss_only",
    "include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object",
    "predict_with_generate", "generation_max_length", "generation_config", "sortish_sampler",
)  # fmt: skip
_MADE_ELSEWHERE = ("report_to",)  # by `tracking.add_tracking_flag`


class Refused(argparse.Action):
    """A flag that is no flag of the verb, with what to do instead; the help does not show it."""

    def __init__(self, option_strings: list[str], dest: str, remedy: str):
        super().__init__(option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.remedy = remedy

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise argparse.ArgumentError(None, f"{self.option_strings[0]} is no flag of {parser.prog}: {self.remedy}.")


def add_trainer_flags(
    parser: argparse.ArgumentParser,
    arguments_class: type["TrainingArguments"],
    elsewhere: Mapping[str, str],
    sized: Collection[str],
) -> None:
    """The flags that both training verbs have, and one for every field of a Trainer's arguments that is not refused.

    Args:
        elsewhere: further fields that are refused, each with what to do.
        sized: fields that follow `--size`: `None` where they are not given.
    """
    kinds = get_type_hints(arguments_class)
    fields = {field.name: field for field in dataclasses.fields(arguments_class) if field.init}
    by_verb = dict.fromkeys(_BY_THE_VERB, f"{parser.prog} sets this itself")
    refused = by_verb | _ELSEWHERE | dict(elsewhere)
    ours = _own_fields(arguments_class)
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    more = parser.add_argument_group("more arguments of transformers' Trainer")
    for name in [*(name for name in fields if name in ours), *(name for name in fields if name not in ours)]:
        field, flag = fields[name], "--" + name.replace("_", "-")
        if name in refused:
            parser.add_argument(flag, action=Refused, remedy=refused[name])
        if name in _MADE_ELSEWHERE or (name in refused and name not in SHORT):
            continue
        place = length if name in ("num_train_epochs", "max_steps") else group if name in ours else more
        meaning, source = _meaning(field, name in ours)
        default = _default(field)
        shown = ("by --size, or " if name in sized else "") + FOLLOWING.get(name, _shown(default)) + source
        place.add_argument(
            "--" + SHORT.get(name, name).replace("_", "-"),
            dest=SHORT.get(name, name),
            default=None
            if name in sized
            else default
            if name in ours and name not in FOLLOWING
            else argparse.SUPPRESS,
            help=f"{meaning} (default: {shown})".replace("%", "%%"),
            **_reading(kinds[name], field.metadata.get("choices")),
        )
    group.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --output (default: start anew)"
    )
    group.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep checkpoints/ of --output, so that --resume can make the run longer (default: removed at the end)",
    )
    add_device_flag(group, "auto, the accelerator if there is one")
    add_tracking_flag(group)


def training_steps(args: argparse.Namespace, num_rows: int) -> tuple[int, int]:
    """Steps of one epoch and of the whole training, over all processes.

    Args:
        num_rows: rows of an epoch.
    """
    batches = num_rows / (args.batch_size * num_processes())
    batches = math.floor(batches) if getattr(args, "dataloader_drop_last", False) else math.ceil(batches)
    of_an_epoch = max(1, math.ceil(batches / getattr(args, "gradient_accumulation_steps", 1)))
    return of_an_epoch, args.max_steps if args.max_steps > 0 else math.ceil(of_an_epoch * args.epochs)


def settings_of_run(args: argparse.Namespace, arguments_class: type["TrainingArguments"]) -> dict[str, Any]:
    """`{flag: value}` of what decides on the result of a training, as far as both verbs have it."""
    names = [SHORT.get(name, name) for name in sorted(_own_fields(arguments_class))]
    settings = {name: getattr(args, name) for name in [*names, "patience"] if name in args}
    length = {"epochs": None} if args.max_steps > 0 else {"max_steps": None}  # the one that does not count
    return settings | length


def training_settings(
    args: argparse.Namespace, arguments_class: type["TrainingArguments"], output: Path, num_rows: int, every: int
) -> dict[str, Any]:
    """What the flags of both training verbs say, as arguments of their class.

    Args:
        output: folder of the verb.
        num_rows: rows of an epoch.
        every: steps between evaluations, and between checkpoints.
    """
    _, steps = training_steps(args, num_rows)
    names = {field.name: SHORT.get(field.name, field.name) for field in dataclasses.fields(arguments_class)}
    return {
        "output_dir": str(output / CHECKPOINTS),
        "per_device_eval_batch_size": args.batch_size,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        **{name: OWN_DEFAULTS[name] for name in names if name in OWN_DEFAULTS},
        **tracking_arguments(args, output),
        **{name: getattr(args, flag) for name, flag in names.items() if flag in args},
        "warmup_steps": round(steps * args.warmup),
        "use_cpu": named_device(args) == "cpu",
    }


def defaults_of(arguments_class: type["TrainingArguments"], names: Iterable[str]) -> dict[str, Any]:
    """`{field: default}` of those of the fields that the arguments have."""
    fields = {field.name: field for field in dataclasses.fields(arguments_class)}
    return {name: _default(fields[name]) for name in names if name in fields}


def _own_fields(arguments_class: type) -> set[str]:
    return {*vars(arguments_class)["__annotations__"], *COMMON}


def _default(field: dataclasses.Field) -> Any:
    if field.name in OWN_DEFAULTS:
        return OWN_DEFAULTS[field.name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _meaning(field: dataclasses.Field, ours: bool) -> tuple[str, str]:
    """What a flag means, and where its default comes from; transformers' long texts are cut to a sentence."""
    text = " ".join(MEANINGS.get(field.name, field.metadata.get("help", "")).split())
    if ours:  # "meaning (source)", see training_args
        meaning, _, source = text.removesuffix(")").rpartition(" (")
        return meaning, f"; {source}"
    sentence = re.sub(r" \([^()]*\)", "", re.split(r"\.(?= [A-Z`])|\.$", text)[0])
    return textwrap.shorten(sentence, 110, placeholder=" …"), ""


def _shown(default: Any) -> str:
    if default in (None, "", []):
        return "none"
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _reading(kind: Any, choices: Any) -> dict[str, Any]:
    """How argparse reads a field of that type."""
    parts = [part for part in (get_args(kind) if _is_union(kind) else (kind,)) if part is not NoneType]
    kinds = {get_origin(part) or part for part in parts}
    enums = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    if enums:
        choices = [member.value for member in enums[0]]
    if choices:
        words = list(choices)
        return {"choices": words, "metavar": "|".join(words) if len(words) < 5 else "NAME"}
    if dict in kinds:
        return {"type": _read_json, "metavar": "JSON"}
    if bool in kinds or Literal in kinds:
        return {"type": _bool_or_text if str in kinds else read_bool, "metavar": "true|false"}
    if list in kinds:
        return {"type": _text_or_list, "metavar": "LIST"}
    if int in kinds:
        return {"type": int, "metavar": "N"}
    return {"type": float, "metavar": "X"} if float in kinds else {"type": str, "metavar": "TEXT"}


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _read_json(text: str) -> Any:
    """A JSON object, or the path of a file with one."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object or the path of one, got {text!r}") from error


def _bool_or_text(text: str) -> bool | str:
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def _text_or_list(text: str) -> str | list[str]:
    return [part.strip() for part in text.split(",")] if "," in text else text
