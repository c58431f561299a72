"""What a verb says beside its result: notices, errors, how to go on."""

import argparse
import logging
import re
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any, TextIO

_NAME = re.compile(r"""(?<![\w/.'"`-])([a-z]+(?:_[a-z0-9]+)+)(?:=('?)([\w.]+)\2)?(?![\w/'"`(=]|\.\w)""")

_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # what follows is shown from right to left


def for_terminal(text: str) -> str:
    """Text of somebody's data as a terminal shows it, on one line.

    Escape sequences in a title could clear the screen or write what looks like an answer of ours: control characters,
    changes of direction and halves of emoji are spelled as Python and JSON spell them, `\\u001b`.
    """
    return "".join(
        f"\\u{ord(letter):04x}"
        if letter in _TURNS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
        else letter
        for letter in text
    )


def in_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """A message of the library with its arguments spelled as the verb's flags, on one line."""
    flags = {}
    for option, action in parser._option_string_actions.items():
        remedy = getattr(action, "remedy", None)  # a field that another flag spells
        told = option if remedy is None else remedy.removeprefix("use ")
        if option.startswith("--") and re.fullmatch(r"--[\w-]+", told):
            flags[option[2:].replace("-", "_")] = told

    def flag(found: re.Match) -> str:
        name, value = found[1], found[3]
        if name not in flags:
            return found[0]
        return flags[name] if value is None else f"{flags[name]} {value}"

    def begun(found: re.Match) -> str:
        flag, part = flags.get(found[1]), found[2][2:-2]
        return found[0] if flag is None else f"{flag} {part}".rstrip()

    message = re.sub(r",? or [\w ]+ in Python\b", "", " ".join(message.split()))
    message = re.sub(r"^(\w+)((?:\['[^']*'\])?)(?=: expected)", begun, message)
    return _NAME.sub(flag, message)


def resumed(verb: str, args: argparse.Namespace | None) -> str:
    """What goes on from where a training ended; empty where nothing does."""
    output = getattr(args, "output", None)
    if verb in ("train", "quantize") and output is not None:
        places = ("checkpoints/checkpoint-*", "seed-*/checkpoints/checkpoint-*")
        if any(next(Path(output).glob(place), None) for place in places):
            return " The same command with --resume goes on from the last checkpoint."
    return ""


def goes_on(message: str, verb: str, args: argparse.Namespace | None) -> str:
    """[`resumed`], for an error that is gone when there is space on the disk again."""
    return resumed(verb, args) if "Is the disk full" in message and "--resume" not in message else ""


def of_both_tables(message: str, args: argparse.Namespace | None) -> str:
    """The way out where two tables have different names for a column that one flag names; empty for other errors."""
    if "--item-column" not in message or not (getattr(args, "items", None) and getattr(args, "interactions", None)):
        return ""
    return (
        " --item-column names the ids of both tables: where these call them differently, rename that column in one of "
        "the files, or call it item_id in --items."
    )


class _Notices(logging.Formatter):
    """Notices of this package spelled for the command line; other libraries' lines with their level and name."""

    def __init__(self, parser: argparse.ArgumentParser):
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self.parser = parser

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno == logging.WARNING and record.name.startswith("macrec_hf."):
            return f"notice: {for_terminal(in_flags(record.getMessage(), self.parser))}"
        return super().format(record)


class _Once(logging.Filter):
    """Leaves out a warning that stands on the screen already: several stages of a verb read the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        new = record.getMessage() not in self.said
        self.said.add(record.getMessage())
        return new


class PlainLines:
    """A stream for progress bars where no terminal draws them: now and then the state of a bar is a line of its own.

    tqdm goes back to the beginning of the line by a carriage return, which a file keeps, and draws a bar again below
    whatever else is written.

    Args:
        stream: that everything goes to; its other attributes are this one's.
        every: seconds between two such lines; the end of a bar is shown in any case.
    """

    def __init__(self, stream: TextIO, every: float = 30.0):
        self.stream, self.every = stream, every
        self.after_bar, self.last, self.place = False, float("-inf"), ""

    def write(self, text: str) -> int:
        state = text.strip("\r\n ").replace("\x1b[A", "")
        if text.startswith("\r"):
            now, place = time.monotonic(), state.partition("[")[0]
            is_end = "100%" in place and place != self.place
            if state and "[00:00<" not in state and (is_end or now - self.last >= self.every):  # else it is no news
                self.stream.write(f"{state}\n")
                self.last, self.place = now, place
            self.after_bar = True
        elif state or not self.after_bar:
            self.stream.write(text)
            self.after_bar = False
        return len(text)  # the ends of bars and the moves between them are left out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def show_notices(parser: argparse.ArgumentParser, verbose: bool) -> None:
    """Sends what is logged to the screen, each warning once.

    Args:
        parser: of the verb, whose flags notices name.
        verbose: whether other log lines are shown too.
    """
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(_Notices(parser))
    screen.addFilter(_Once())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[screen])
