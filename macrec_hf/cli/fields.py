"""The fields that the flags of both training verbs are made from, known without loading transformers or torch.

`fields.json`, beside this file, holds them as they are with one release of transformers. With another release they are
read from the classes themselves, which costs the seconds that loading transformers takes. `make flags` writes the file
anew; a test holds it to the classes. What transformers says of its own fields does not stand in the file: it is read
from the installed library's source, which is not run.
"""

import ast
import dataclasses
import json
import re
import textwrap
from collections.abc import Sequence
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

FILE = Path(__file__).with_name("fields.json")
ARGUMENTS = ("MacRecTrainingArguments", "MacRecQuantizerTrainingArguments")
CONFIGS = ("MacRecConfig", "MacRecQuantizerConfig")
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


class Field(NamedTuple):
    """A field as JSON can hold it."""

    name: str
    kind: str  # how a value of it is read: a key of `trainer_flags.READERS`, or "numbers"
    default: Any
    meaning: str
    source: str | None  # of the default; None where transformers chose it
    choices: Sequence[str] | None = None


def fields_of(class_name: str) -> list[Field]:
    """The fields of one of the four classes, in its order."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    if content["transformers"] != version("transformers"):
        return read_class(class_name)
    theirs = transformers_texts() if class_name in ARGUMENTS else {}
    return [
        Field(**{"meaning": shortened(theirs.get(field["name"], "")), **field})
        for field in content["fields"][class_name]
    ]


@cache
def transformers_texts() -> dict[str, str]:
    """The help texts of the fields of transformers' training arguments, `{name: text}`, from the source files."""
    spec = find_spec("transformers")
    found: dict[str, str] = {}
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for file in ("training_args.py", "training_args_seq2seq.py"):
            for node in ast.walk(ast.parse((Path(folder) / file).read_text(encoding="utf-8"))):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found |= dict.fromkeys([node.target.id], next(iter(_help_texts(node)), ""))
    return found


def _help_texts(node: ast.AST) -> list[str]:
    """The texts under "help" in the dictionaries of an expression."""
    return [
        value.value
        for part in ast.walk(node)
        if isinstance(part, ast.Dict)
        for key, value in zip(part.keys, part.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "help"
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]


def read_class(class_name: str) -> list[Field]:
    """The same from the class itself."""
    loaded = getattr(import_module("..", __package__), class_name)
    if class_name in CONFIGS:
        return [_config_field(field) for field in dataclasses.fields(loaded) if "source" in field.metadata]
    kinds, ours = get_type_hints(loaded), own_fields(loaded)
    return [
        _argument(field, kinds[field.name], field.name in ours) for field in dataclasses.fields(loaded) if field.init
    ]


def own_fields(arguments_class: type) -> set[str]:
    """Names of the fields that stand first in a help: those that the class itself sets, and [`COMMON`]."""
    return {*vars(arguments_class)["__annotations__"], *COMMON}


def default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def write() -> None:
    """Writes `fields.json` for the transformers that is installed, a line a field.

    Raises:
        TypeError: a default that JSON cannot hold.
    """
    blocks = []
    for name in (*ARGUMENTS, *CONFIGS):
        ours = {*MEANINGS, *own_fields(getattr(import_module("..", __package__), name))} if name in ARGUMENTS else None
        lines = [
            json.dumps(_filled(field, ours is not None and field.name not in ours), ensure_ascii=False)
            for field in read_class(name)
        ]
        blocks.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
    text = f'{{\n"transformers": "{version("transformers")}",\n"fields": {{\n' + ",\n".join(blocks) + "\n}\n}\n"
    FILE.write_text(text, encoding="utf-8")


def _filled(field: Field, of_transformers: bool) -> dict[str, Any]:
    left_out = {"choices"} if field.choices is None else set()
    if of_transformers:
        left_out.add("meaning")
    return {name: value for name, value in field._asdict().items() if name not in left_out}


def _config_field(field: dataclasses.Field) -> Field:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    kind = {bool: "bool", str: "text", int: "int"}.get(type(default), "float")
    kind = "numbers" if "tuple" in str(field.type) else kind
    return Field(field.name, kind, default, field.metadata["help"], field.metadata["source"])


def _argument(field: dataclasses.Field, hint: Any, ours: bool) -> Field:
    default = default_of(field)
    default = default.value if isinstance(default, Enum) else default
    kind, choices = _kind_and_choices(hint, field.metadata.get("choices"))
    meaning, source = _meaning(field, ours)
    return Field(field.name, kind, default, meaning, source, choices)


def _meaning(field: dataclasses.Field, ours: bool) -> tuple[str, str | None]:
    """What a field means, and where its default comes from; transformers' long texts are cut to a sentence."""
    text = " ".join(MEANINGS.get(field.name, field.metadata.get("help", "")).split())
    if ours:  # "meaning (source)", see training_args
        meaning, _, source = text.removesuffix(")").rpartition(" (")
        return meaning, source
    return shortened(text), None


def shortened(text: str) -> str:
    """The first sentence, without what stands in brackets."""
    sentence = re.sub(r" \([^()]*\)", "", re.split(r"\.(?= [A-Z`])|\.$", " ".join(text.split()))[0])
    return textwrap.shorten(sentence, 110, placeholder=" …")


def _kind_and_choices(hint: Any, choices: Any) -> tuple[str, list[str] | None]:
    """How a field of that type is read."""
    parts = [part for part in (get_args(hint) if _is_union(hint) else (hint,)) if part is not NoneType]
    kinds = {get_origin(part) or part for part in parts}
    enums = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    if enums:
        choices = [member.value for member in enums[0]]
    if choices:
        return "text", list(choices)
    if dict in kinds:
        return "json", None
    if bool in kinds or Literal in kinds:
        return "bool or text" if str in kinds else "bool", None
    if list in kinds:
        return "list", None
    return next((name for name, kind in (("int", int), ("float", float)) if kind in kinds), "text"), None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)
