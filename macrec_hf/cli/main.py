"""Parses `macrec VERB …` and calls the verb's file."""

import argparse
import difflib
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn, TextIO, cast

from .common import check_apart, outputs
from .inputs import check_embeddings, check_tables
from .messages import PlainLines, for_terminal, goes_on, in_flags, of_both_tables, resumed, show_notices
from .next_steps import without_next
from .stopping import stoppable

# A process of the command line starts here, before any library is loaded.
_STARTED = time.monotonic()

VERBS = {
    "prepare": "raw data → items.jsonl, interactions.csv",
    "embed": "items → embeddings per modality",
    "quantize": "embeddings → semantic IDs and the quantizer that made them",
    "train": "interactions + semantic IDs → a recommender",
    "blend": "a recommender + interactions → weights of the model and of what customers did",
    "refresh": "new interactions → new counts for the blend, in seconds",
    "evaluate": "a recommender + interactions → HR@K, NDCG@K by full ranking",
    "recommend": "histories → ranked items",
    "doctor": "semantic IDs → a page that says how healthy they are",
    "app": "a recommender → a page to try it, in the browser",
    "demo": "all of it on a shop made from a seed",
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=110)


class _Parser(argparse.ArgumentParser):
    """An error is one line, and a flag that the verb lacks is answered with the one that was meant."""

    def error(self, message: str) -> NoReturn:
        if "unrecognized arguments" in message and "--history" in self._option_string_actions:
            message += ". Ids of a history stand with commas between them: --history 00001,00007"
        if message == "argument --history: expected one argument":
            message += ". Where the first id begins with a dash, write --history=-1,i7"
        self.exit(2, f"{self.prog}: error: {message}\n")

    def check_flags(self, words: Sequence[str]) -> None:
        """Before anything else is found missing: a misspelt flag may be why it is."""
        for word in words:
            if word == "--":
                return
            flag = word.partition("=")[0]
            if word.startswith("--") and " " not in flag and flag not in self._option_string_actions:
                self.error(f"{flag} is no flag of {self.prog}{self.meant(flag)}")

    def meant(self, flag: str) -> str:
        """The end of the sentence that a flag is unknown: the flag that is nearest to it."""
        flags = [name for name in self._option_string_actions if name.startswith("--")]
        close = difflib.get_close_matches(flag.replace("_", "-"), flags, n=1)
        if not close:
            return f". `{self.prog} --help` lists them all."
        action = self._option_string_actions[close[0]]
        remedy = getattr(action, "remedy", None)  # a field of a Trainer that the verb does not take
        return f": {remedy}." if remedy else f". Did you mean {close[0]}?"


def build_parser(verb: str) -> _Parser:
    """The parser of one verb; its file is imported only now."""
    module = import_module(f"..{verb}", __name__)
    parser = _Parser(
        prog=f"macrec {verb}", description=module.HELP, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    module.add_arguments(parser)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="YAML file with any of these flags; the command line wins"
    )
    parser.add_argument("--verbose", action="store_true", help="show the libraries' log lines and full error traces")
    parser.set_defaults(run=module.run)
    parser.usage = _usage_line(parser)
    return parser


def _usage_line(parser: argparse.ArgumentParser) -> str:
    """What a verb cannot do without; the flags themselves are listed below it."""
    needed = [f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"
              for action in parser._actions if action.required and action.option_strings]  # fmt: skip
    for group in parser._mutually_exclusive_groups:
        if group.required:
            flags = (f"{action.option_strings[0]} {action.metavar}" for action in group._group_actions)
            needed.append(f"({' | '.join(flags)})")
    places = [str(action.metavar) for action in parser._actions if not action.option_strings]
    return " ".join([parser.prog, *places, *needed, "[flags]"])


def config_file(words: Sequence[str]) -> str | None:
    """The value of `--config`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        return parser.parse_known_args(words)[0].config
    except argparse.ArgumentError:  # without a file: the verb's own parser says so
        return None


def _usage() -> str:
    lines = [f"  {verb:<10} {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: macrec VERB [flags]",
            "",
            "verbs:",
            *lines,
            "",
            "`macrec VERB --help` lists a verb's flags with their defaults.",
        ]
    )


def _be_quiet(everything: bool) -> None:
    """Hides the libraries' bars, which speak of shards and weights; downloads keep theirs.

    Args:
        everything: whether downloads and warnings are hidden too: of many processes one shows them. Errors come from
            whoever has them.
    """
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as library

    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    library.disable_progress_bar()
    if everything:
        library.set_verbosity_error()
    else:
        enable_progress_bars()


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status.

    Args:
        argv: the words after `macrec`. None: this process is the command line, and its own words count.
    """
    try:
        return _main(argv)
    except KeyboardInterrupt:  # while libraries were loaded
        if argv is not None:
            raise
        sys.stderr.write("macrec: stopped.\n")
        return 130


def _main(argv: list[str] | None) -> int:
    started = time.monotonic()
    if argv is None:
        argv, started = sys.argv[1:], _STARTED
        # Waiting threads sleep instead of spinning, unless the user has chosen. Beside other work on the same cores,
        # spinning makes small steps ten times slower. The thread library reads this once, when a verb loads torch.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if not sys.stderr.isatty():  # tqdm reads these as it is loaded
            os.environ.setdefault("TQDM_MININTERVAL", "30")
            os.environ.setdefault("TQDM_BAR_FORMAT", "{l_bar} {n_fmt} of {total_fmt} [{elapsed}<{remaining}{postfix}]")
            sys.stderr = cast(TextIO, PlainLines(sys.stderr))
    argv = list(argv)
    if argv[:1] == ["--version"]:
        from .. import __version__

        below = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch"))
        sys.stdout.write(f"macrec_hf {__version__} ({below}, Python {platform.python_version()})\n")
        return 0
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_usage() + "\n")
        return 0 if argv else 2
    verb, words = argv[0], argv[1:]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        sys.stderr.write(f"macrec: error: {verb!r} is no verb.{meant}\n{_usage()}\n")
        return 2
    parser, args = build_parser(verb), None
    verbose = "--verbose" in words
    show_notices(parser, verbose)
    summary, said, status = None, "", 0
    with stoppable() as stop:
        try:
            parser.check_flags(words)
            if (file := config_file(words)) is not None:
                from .yaml_flags import yaml_arguments

                words = yaml_arguments(file, parser, words) + words
            args = parser.parse_args(words)
            args.started = started
            args.command = shlex.join(["macrec", *argv])
            check_apart(args)
            check_tables(args)
            check_embeddings(args)
            is_main = os.environ.get("RANK", "0") == "0"
            if verb != "prepare" and not (verbose and is_main):
                _be_quiet(everything=not is_main)
            with outputs():
                summary = args.run(args)
            if summary and stop is None:  # the verb that runs this one says what follows
                summary = without_next(summary)
        except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
            if verbose:
                traceback.print_exc()
            message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            hint = goes_on(message, verb, args) + of_both_tables(message, args)
            said, status = f"error: {for_terminal(in_flags(message, parser))}{hint}", 1
        except KeyboardInterrupt:
            if stop is None:  # the verb that runs this one answers
                raise
            said, status = f"stopped.{resumed(verb, args)}", stop.status
    # Out here the exception is gone, and with it the progress bars of where it came from.
    if said and (status == 1 or os.environ.get("RANK", "0") == "0"):
        sys.stderr.write(f"macrec {verb}: {said}\n")
    if summary:
        sys.stdout.write(summary + "\n")
    return status
