"""Flags from a YAML file as words of the command line: one parser checks both, and every value stays as written.

YAML reads `0111565` as 37749, `1_000` as 1000 and `no` as false. Here a value is its letters, so that ids keep theirs.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .history_flag import history_text

if TYPE_CHECKING:
    from .main import _Parser

logger = logging.getLogger(__name__)
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _AsWritten(yaml.SafeLoader):
    """Plain scalars are texts, but for null and the merge key `<<`; a key that stands twice is refused."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue  # the mapping's own keys win over those it takes over
            name = self.construct_object(key, deep=True)
            if str(name) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", key.start_mark)
            seen.add(str(name))
        return super().construct_mapping(node, deep=deep)


_AsWritten.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)])
}


def yaml_arguments(path: str, parser: "_Parser", words: Sequence[str] = ()) -> list[str]:
    """`{key: value}` of a YAML file as command-line words.

    Args:
        words: of the command line, which wins: a key is left out where its opposite was given there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, not a mapping, a key that is no flag of any verb, two of one flag, or a value that no flag
            can have. Flags of other verbs are left out with a notice: one file may serve several.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--config: expected a YAML file, found none at {path}.")
    text = _text(path)
    content, typed = _parsed(path, text, _AsWritten), _parsed(path, text, yaml.SafeLoader)
    flags = {option: action for action in parser._actions for option in action.option_strings}
    if of_file := {"config", "help"}.intersection(map(str, content)):
        raise ValueError(f"--config {path}: expected flags of the work itself, got {min(of_file)!r}. Take it out.")
    given = {flags[flag] for word in words if (flag := word.partition("=")[0]) in flags}
    beaten = {action for group in parser._mutually_exclusive_groups if given & set(group._group_actions)
              for action in group._group_actions}  # fmt: skip
    made: list[str] = []
    names: dict[argparse.Action, str] = {}
    of_others: list[str] = []
    for (key, value), of_yaml in zip(content.items(), typed.values(), strict=True):
        flag = "--" + str(key).replace("_", "-")
        if flag not in flags:
            if not _is_of_another_verb(flag):
                raise ValueError(f"--config {path}: {key!r} is no flag of {parser.prog}{parser.meant(flag)}")
            of_others.append(str(key))
            continue
        if earlier := names.get(flags[flag]):
            raise ValueError(f"--config {path}: expected each flag once, got {earlier} and {key}.")
        names[flags[flag]] = str(key)
        in_place = flag == "--model" and bool(words) and not words[0].startswith("-")
        if flags[flag] not in beaten and not in_place and value is not None:
            made += _words(flag, flags[flag], value, of_yaml, f"--config {path}: {key}")
    if of_others:
        logger.warning("--config %s: left out %s, of other verbs than %s.", path, ", ".join(of_others), parser.prog)
    return made


def _is_of_another_verb(flag: str) -> bool:
    from .main import VERBS, build_parser

    return any(flag in build_parser(verb)._option_string_actions for verb in VERBS)


def _text(path: str) -> str:
    """
    Raises:
        ValueError: another encoding than UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--config {path}: expected text in UTF-8, got the byte {error.object[error.start]:#x} at place "
            f"{error.start}. Save it as UTF-8."
        ) from error


def _parsed(path: str, text: str, loader: type[yaml.SafeLoader]) -> dict:
    """
    Raises:
        ValueError: no YAML, or no mapping.
    """
    try:
        content = yaml.load(text, Loader=loader)  # noqa: S506  # both are safe loaders
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2020-99-99
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(
            f"--config {path}{line}: expected YAML such as `top-k: 10`, a flag a line, got: {problem}."
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"--config {path}: expected a mapping of flags to values, got {type(content).__name__}.")
    return content


def _words(flag: str, action: argparse.Action, value: Any, of_yaml: Any, where: str) -> list[str]:
    """One key as words of the command line.

    Args:
        value: its letters, or a list or mapping of such.
        of_yaml: the same with YAML's types.
    """
    if isinstance(action, argparse.BooleanOptionalAction):
        positive = flag if flag in action.option_strings[:1] else "--" + flag.removeprefix("--no-")
        return [positive if _switch(value, where) == (flag == positive) else "--no-" + positive[2:]]
    if action.nargs == 0:
        return [flag] if _switch(value, where) else []
    if isinstance(of_yaml, dict) and action.metavar == "JSON":
        return [flag, json.dumps(of_yaml)]
    if isinstance(value, dict):
        if not value and action.nargs in ("+", "*"):
            return []
        parts = {str(name): entry for name, entry in value.items()}
        return [f"{flag}={','.join(f'{name}={_entry(entry, where)}' for name, entry in parts.items())}"]
    if isinstance(value, list):
        if flag == "--history" and all(isinstance(entry, str) for entry in value):
            return [f"{flag}={history_text(value)}"]
        entries = [_entry(entry, where) for entry in value]
        if action.nargs in ("+", "*"):
            return [flag, *entries] if entries else []
        return [f"{flag}={','.join(entries)}"]
    return [f"{flag}={value}"]  # in one word: a value may begin with a dash


def _switch(value: Any, where: str) -> bool:
    """
    Raises:
        ValueError: neither true nor false.
    """
    word = str(value).lower()
    if word not in (*_TRUE, *_FALSE):
        raise ValueError(f"{where}: expected true or false, got {value!r}.")
    return word in _TRUE


def _entry(entry: Any, where: str) -> str:
    """
    Raises:
        ValueError: an entry that cannot stand in a list with commas between.
    """
    if not isinstance(entry, str) or "," in entry:
        raise ValueError(f"{where}: expected texts without commas, got {entry!r}. Put the id null into quotes.")
    return entry
