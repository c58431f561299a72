"""Parses `macrec VERB …` and calls the verb's file."""

import argparse
import logging
import os
import platform
import shlex
import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

VERBS = {
    "prepare": "raw data → items.jsonl, interactions.csv",
    "embed": "items → embeddings per modality",
    "quantize": "embeddings → semantic IDs and the quantizer that made them",
    "train": "interactions + semantic IDs → a recommender",
    "evaluate": "a recommender + interactions → HR@K, NDCG@K by full ranking",
    "recommend": "histories → ranked items",
    "doctor": "semantic IDs → a page that says how healthy they are",
    "app": "a recommender → a page to try it, in the browser",
    "demo": "all of it on a shop made from a seed",
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=110)


def build_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb; its file is imported only now."""
    module = import_module(f"..{verb}", __name__)
    parser = argparse.ArgumentParser(
        prog=f"macrec {verb}", description=module.HELP, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    module.add_arguments(parser)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="YAML file with any of these flags; the command line wins"
    )
    parser.add_argument("--verbose", action="store_true", help="show the libraries' log lines and full error traces")
    parser.set_defaults(run=module.run)
    return parser


def yaml_arguments(path: str, parser: argparse.ArgumentParser) -> list[str]:
    """`{key: value}` of a YAML file as command-line words, so that one parser checks both.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a mapping, or a key that is no flag of the verb.
    """
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"--config: expected a YAML file, found none at {path}.")
    content = yaml.safe_load(Path(path).read_text()) or {}
    if not isinstance(content, dict):
        raise ValueError(f"--config {path}: expected a mapping of flags to values, got {type(content).__name__}.")
    flags = {option: action for action in parser._actions for option in action.option_strings}
    words: list[str] = []
    for key, value in content.items():
        flag = "--" + str(key).replace("_", "-")
        if flag not in flags:
            raise ValueError(f"--config {path}: {key!r} is no flag of {parser.prog}; it has {sorted(flags)}.")
        if isinstance(flags[flag], argparse.BooleanOptionalAction):
            words.append(flag if value else "--no-" + flag[2:])
        elif flags[flag].nargs == 0:
            words += [flag] if value else []
        elif isinstance(value, dict):
            words += [flag, ",".join(f"{name}={entry}" for name, entry in value.items())]
        elif isinstance(value, list):
            words += [flag, ",".join(str(entry) for entry in value)]
        elif value is not None:
            words += [flag, str(value)]
    return words


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


def _be_quiet() -> None:
    """Of many processes one shows progress and warnings; errors come from whoever has them."""
    from transformers.utils import logging as library

    library.set_verbosity_error()
    library.disable_progress_bar()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--version"]:
        from .. import __version__

        below = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch"))
        sys.stdout.write(f"macrec_hf {__version__} ({below}, Python {platform.python_version()})\n")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_usage() + "\n")
        return 0 if argv else 2
    verb, words = argv[0], argv[1:]
    if verb not in VERBS:
        sys.stderr.write(f"macrec: error: {verb!r} is no verb.\n{_usage()}\n")
        return 2
    parser = build_parser(verb)
    verbose = "--verbose" in words
    if os.environ.get("RANK", "0") != "0":
        _be_quiet()
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        if "--config" in words and words.index("--config") + 1 < len(words):
            words = yaml_arguments(words[words.index("--config") + 1], parser) + words
        args = parser.parse_args(words)
        args.command = shlex.join(["macrec", *argv])
        summary = args.run(args)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        if verbose:
            traceback.print_exc()
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        sys.stderr.write(f"macrec {verb}: error: {' '.join(message.split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"macrec {verb}: stopped.\n")
        return 130
    if summary:
        sys.stdout.write(summary + "\n")
    return 0
