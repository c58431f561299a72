"""What several verbs share: flags made from a config's fields, progress lines, output folders."""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fields import fields_of
from .numbers import ANY, Number, whole

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from ..model.ensemble import Decoding


def add_config_flags(
    parser: argparse.ArgumentParser, config_class: str, names: Iterable[str], title: str, sized: Collection[str] = ()
) -> None:
    """One flag per config field, with its default and source in the help.

    Args:
        config_class: its name; it is not loaded where `fields` knows it.
        sized: fields that follow `--size`.
    """
    readers: dict[str, Callable[[str], Any]] = {
        "numbers": read_numbers,
        "bool": read_bool,
        "int": Number(ANY, is_whole=True),
        "float": Number(ANY, is_whole=False),
        "text": str,
    }
    group, fields = parser.add_argument_group(title), {field.name: field for field in fields_of(config_class)}
    for name in names:
        field = fields[name]
        shown = "see there" if field.default is None else field.default
        if isinstance(field.default, list):
            shown = ",".join(map(str, field.default))
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            type=readers[field.kind],
            default=None,
            metavar="LIST" if field.kind == "numbers" else "VALUE",
            help=f"{field.meaning} (default: {'by --size, or ' if name in sized else ''}{shown}; {field.source})",
        )


def read_bool(text: str) -> bool:
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def read_numbers(text: str) -> tuple:
    """`512,256` or `0,0,0.1` → a tuple of numbers."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"expected numbers with commas between them, got {text!r}")
    return tuple(int(value) if value.is_integer() and "." not in text else value for value in values)


def chosen_fields(args: argparse.Namespace, names: Iterable[str]) -> dict:
    """The config fields that the user named."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def add_device_flag(parser: "argparse.ArgumentParser | argparse._ArgumentGroup", auto: str) -> None:
    """`--device`.

    Args:
        auto: what the default is.
    """
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help=f"where to compute (default: {auto})"
    )


def named_device(args: argparse.Namespace) -> str | None:
    """What `--device` names; `None` for auto.

    Raises:
        ValueError: this machine has no such device.
    """
    import torch

    there = ["cpu", *(kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available())]
    if args.device not in ("auto", *there):
        raise ValueError(
            f"--device {args.device}: expected a device that is there, {' or '.join(there)}, got none of that kind. "
            "Is the driver installed, and torch a build for it? Leave the flag out to take what there is."
        )
    return None if args.device == "auto" else str(args.device)


def ranking_device(args: argparse.Namespace) -> str:
    """Where lists are made: what `--device` names, or else a GPU of CUDA if there is one."""
    import torch

    return named_device(args) or ("cuda" if torch.cuda.is_available() else "cpu")


_FILES_WRITTEN = ("output", "predictions", "health_page")  # dests of flags; an output that is a folder is no file
_READ = ("model", "interactions", "items", "semantic_ids", "embeddings", "item_ids", "histories", "lists", "encoders",
         "like", "start_from", "config")  # fmt: skip
_MARKS = ("checksums.json", "semantic_ids.json", "config.json")
# Of a folder with one of them; what else decides on lists is in its checksums.
_PARTS = (*_MARKS, "README.md", "training_log.json", "generation_config.json", "tokenizer.json",
          "tokenizer_config.json", "item_titles.json", "blend.json", "code_usage.png")  # fmt: skip
_MADE: list[contextlib.ExitStack] = []  # of each verb that runs: what it has locked, and folders that it made


@contextlib.contextmanager
def outputs() -> Iterator[None]:
    """While a verb runs, nobody else writes into its outputs. Those that it made go again where nothing is in them."""
    with contextlib.ExitStack() as stack:
        _MADE.append(stack)
        try:
            yield
        finally:
            _MADE.remove(stack)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def add_overwrite_flag(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    parser.add_argument(
        "--overwrite", action="store_true", help="replace finished work in --output (default: it is refused)"
    )


def make_output(path: str | Path, work: Iterable[str] = (), overwrite: bool = False, remedy: str = "") -> Path:
    """Makes the output folder now, so that an unwritable one is found before any work, and keeps other writers out.

    Args:
        work: patterns of files that an earlier run would be sorry to lose.
        overwrite: whether they may be lost.
        remedy: what else to do with them, for the error.

    Raises:
        ValueError: there is such work, and it may not be lost.
        OSError: it cannot be made or written, or another process writes there.
    """
    directory = Path(path)
    for place in reversed([place for place in (directory, *directory.parents) if not place.exists()]):
        for stack in _MADE[-1:]:
            stack.callback(_remove_if_empty, place)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".writable-{os.getpid()}"  # a name of its own: other processes probe too
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"--output {path}: expected a folder that can be written, got: {error}. Choose another place or free it."
        ) from error
    if _MADE and os.environ.get("RANK", "0") == "0":  # one process writes for all
        from ..data.output_folder import locked

        _MADE[-1].enter_context(locked(directory))
    found = [place for pattern in work for place in sorted(directory.glob(pattern))] if not overwrite else []
    if found:
        raise ValueError(
            f"--output {path}: expected a folder without finished work or other files that would be replaced, found "
            f"{found[0].relative_to(directory)}. {remedy}--overwrite replaces it; or choose another --output."
        )
    return directory


def check_writable(path: str | None) -> None:
    """Finds out before the work whether a file can be written at its end.

    Raises:
        FileNotFoundError: no folder to write it into.
        ValueError: the path of a folder.
        OSError: a place that cannot be written.
    """
    if path is None:
        return
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: expected a folder {Path(path).parent} to write into, found none: make it.")
    if Path(path).is_dir():
        raise ValueError(f"{path}: expected the name of a file to write, got a folder.")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path}: expected the name of a file to write, got a device or a pipe. Name a file.")
    probe = Path(path).with_name(f".writable-{os.getpid()}")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{path}: expected a place that can be written, got: {error}. Choose another place.") from error


def check_apart(args: "argparse.Namespace") -> None:
    """Refuses to write a file over another one of the same call: what is read, a part of a model, or a second result.

    Raises:
        ValueError: with the flag, which `in_flags` names.
    """
    given = {name: getattr(args, name, None) for name in _FILES_WRITTEN}
    written = {name: Path(path) for name, path in given.items() if path and not Path(path).is_dir()}
    for name, path in written.items():
        flag = f"--{name.replace('_', '-')} {path}"
        same = [other for other in written if other != name and written[other].resolve() == path.resolve()]
        if same:
            raise ValueError(
                f"{flag}: expected a file of its own, got that of --{same[0].replace('_', '-')}. Choose another name."
            )
        if path.is_file() and (
            lost := next((place for place in _places_read(args) if _is_part_of(path, place)), None)
        ):
            raise ValueError(
                f"{flag}: expected the name of a result, got a file of {lost}, which is read. Choose another name."
            )


def _places_read(args: "argparse.Namespace") -> Iterator[Path]:
    """What exists of the files and folders that flags name."""
    from .inputs import read_pairs

    values = [getattr(args, name, None) for name in _READ]
    for word in (word for value in values for word in (value if isinstance(value, list) else [value]) if word):
        with contextlib.suppress(ValueError, OSError):
            yield from (place for path in (read_pairs(word) or {"": word}).values() if (place := Path(path)).exists())


def _is_part_of(path: Path, place: Path) -> bool:
    """Whether a file is the one that lies at a place, or one that a verb has written into a folder there or below."""
    if place.is_file():
        return path.samefile(place)
    top, file = place.resolve(), path.resolve()
    if not file.is_relative_to(top):
        return False
    for folder in (above for above in file.parents if above.is_relative_to(top)):
        sums, name = folder / "checksums.json", file.relative_to(folder).as_posix()
        if any((folder / mark).is_file() for mark in _MARKS):  # a model, a quantizer or semantic IDs
            listed = sums.is_file() and json.dumps(name) in sums.read_text(encoding="utf-8", errors="replace")
            is_report = name == "report.json" and not (folder / "config.json").is_file()  # of `macrec quantize`
            return listed or is_report or name in _PARTS or file.suffix in (".py", ".safetensors")
        if (folder / "meta.json").is_file() and (folder / "item_ids.json").is_file():  # embeddings
            return name in ("meta.json", "item_ids.json") or file.suffix == ".npy"
    return False


def write_json(path: Path, content: Any) -> None:
    """A reader never sees half a file."""
    from ..model.files import replacing

    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2))


def seconds_since(start: float) -> str:
    """`3.2 s`, `4 min 10 s`.

    Args:
        start: by `time.monotonic()`, which never goes backwards. `args.started` is when the process started, or the
            verb where one process runs several.
    """
    seconds = time.monotonic() - start
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `evaluate` and `recommend` share."""
    parser.add_argument(
        "--num-beams", type=whole(1), default=20, help="IDs kept per user and modality (default: 20; authors' code)"
    )
    parser.add_argument(
        "--fusion", choices=("blend", "average", "authors"),
        help="of the ensemble: model and purchases weighed on validation, the mean of exact log-probabilities, or the "
        "rule of the authors' code (default: blend where the model directory holds one, else average; ours)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=whole(1), help="users at a time (default: 64 on a CPU, up to 512 on a GPU; ours)"
    )
    parser.add_argument(
        "--max-history", type=whole(1), help="last items of a history to read (default: as the model was trained)"
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="of the model's layers; scores stay float32. bfloat16 is faster on a GPU and keeps 97 %% of the first "
        "ten places (default: auto, as they were saved; ours)",
    )  # fmt: skip


def chosen_decoding(args: argparse.Namespace) -> "Decoding":
    """What the flags of [`add_decoding_arguments`] ask for, and `--top-k` and `--modality` where the verb has them."""
    from ..model.ensemble import Decoding

    fields = [field.name for field in dataclasses.fields(Decoding)]
    flags = {name: getattr(args, name) for name in fields if name in args}
    return Decoding(**flags | {"fusion": "average" if flags["fusion"] in (None, "blend") else flags["fusion"]})


def num_processes() -> int:
    """Processes of `accelerate launch`, told by the environment before any of them talks to another."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_state(device: str | None = None) -> "PartialState":
    """This process among those of `accelerate launch`; alone without it.

    Args:
        device: what `--device` names.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu if device is None else device == "cpu")


def follow(
    trainer: "Trainer", shown: Iterable[str], num_examples: int, patience: int, sizes: str, faster: str
) -> None:
    """A header, a progress bar with one short line per evaluation in place of Trainer's dumps, and `--patience`.

    Args:
        shown: figures of the log to show.
        num_examples: of an epoch.
        patience: evaluations without progress after which the training ends, in its last fifth; 0: never.
        sizes: the header's line of the sizes.
        faster: what makes a long run shorter, by flags.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from ..training.progress import Announcement, LateStopping

    wanted = list(shown)

    class ShortProgress(ProgressCallback):
        def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
            if sys.stderr.isatty():  # in a file the bar of an evaluation is a line that says nothing
                super().on_prediction_step(*args, **kwargs)

        def on_log(
            self,
            args: "TrainingArguments",
            state: "TrainerState",
            control: "TrainerControl",
            logs: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            if state.is_world_process_zero and self.training_bar is not None and logs:
                values = {name: logs[name] for name in wanted if name in logs}
                if any(name.startswith("eval_") for name in values):
                    text = ", ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in values.items())
                    self.training_bar.write(f"epoch {logs.get('epoch', 0):.1f}: {text}")
                elif "loss" in logs:
                    self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ShortProgress())
    trainer.add_callback(Announcement(sizes, num_examples, patience, faster))
    if patience:
        trainer.add_callback(LateStopping(patience))
