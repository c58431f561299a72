"""The folder of a training: whether the run in it is finished, where it goes on, and what is left of it at the end."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .common import make_output, write_json

if TYPE_CHECKING:
    import argparse

    from accelerate import Accelerator, PartialState
    from transformers import Trainer

logger = logging.getLogger(__name__)

FINISHED = "training_log.json"  # written last; its last line holds the settings
CHECKPOINTS = "checkpoints"
EXAMPLES = ".examples"  # what `macrec train` learns from, as token ids, for as long as it runs
# Settings that stand for what a file holds, and the flags that name the files.
_CONTENTS = {
    "interactions": "interactions", "semantic_ids": "semantic-ids", "quantizer": "semantic-ids",
    "embeddings": "embeddings", "every_embedding": "embeddings", "start_from": "start-from",
}  # fmt: skip
_LENGTHS = ("epochs", "max_steps")
_BEFORE_THERE_WAS_ONE = {"cross_modal_rate": 1.0}  # what trainings did before a flag was added


def is_finished(folder: Path) -> bool:
    """Whether a training got to its end there."""
    return (folder / FINISHED).is_file()


def check_finished(model: str | Path, verb: str = "train") -> None:
    """Looks whether a training was interrupted in a folder; warns where an older model lies there.

    Args:
        model: a folder; anything else is passed over.
        verb: that trains into it.

    Raises:
        FileNotFoundError: there is no older model.
    """
    folder = Path(model)
    begun = [path.stat().st_mtime for name in (CHECKPOINTS, EXAMPLES) if (path := folder / name).is_dir()]
    if not begun or is_finished(folder):
        return
    older, remedy = folder / "semantic_ids.json", f"Run it again with --resume: `macrec {verb} … --resume`."
    if not older.is_file():
        raise FileNotFoundError(f"{folder}: the training was not finished. {remedy}")
    if older.stat().st_mtime < max(begun):
        logger.warning("%s: the latest training was not finished: this is the older model. %s", folder, remedy)


@contextmanager
def preparing(examples: Path, state: "PartialState") -> Iterator[None]:
    """Before a training begins: if it fails, the examples that were made for it go again."""
    from datasets.exceptions import DatasetGenerationError

    from ..model.files import told_where

    there = examples.is_dir()
    try:
        with told_where(examples):
            try:
                yield
            except DatasetGenerationError as error:  # it says that something went wrong; what did is its cause
                raise error.__cause__ or error from None
    except BaseException:
        if not there and state.is_main_process:
            from ..training.checkpoints import discard

            discard(examples)
        raise


def open_run(args: "argparse.Namespace", output: Path, result: str, others: Sequence[str] = ()) -> Path:
    """Makes the folder of a training and keeps other writers out.

    Args:
        result: the file of it that says that there is a result.
        others: patterns of further files that the run replaces, or that other verbs or people may have there.

    Raises:
        ValueError: there is one, or checkpoints, or another file that would be replaced, and `--overwrite` was not
            given; nor `--resume`, which goes on only with what a run has left.
        OSError: it cannot be written, or another process trains there.
    """
    work, remedy = [result, f"{CHECKPOINTS}/checkpoint-*", *others], "--resume goes on with the run that made it; "
    if args.resume:
        begun = is_finished(output) or any((output / name).is_dir() for name in (CHECKPOINTS, EXAMPLES))
        work, remedy = ([] if begun else [result, *others]), "No training has left it, so that --resume cannot go on; "
    return make_output(output, work, args.overwrite, remedy)


def begin(output: Path, state: "PartialState", checkpoint: str | None) -> None:
    """The folder counts as unfinished from here on; a new run's checkpoints are not to be taken for another's."""
    from ..training.checkpoints import forget_checkpoints

    if state.is_main_process:
        (output / FINISHED).unlink(missing_ok=True)
        if checkpoint is None:
            forget_checkpoints(output / CHECKPOINTS)


@contextmanager
def model_written(output: Path, accelerator: "Accelerator") -> Iterator[Path]:
    """A folder that takes the place of a model directory's files at the end; every process has to call it."""
    from accelerate.utils import broadcast_object_list

    from ..data.output_folder import output_folder
    from ..hub.saving import parts_that_may_be_absent

    with ExitStack() as stack:
        told: list[Path | None] = [None]
        if accelerator.is_main_process:
            told = [stack.enter_context(output_folder(output, "config.json", stale=parts_that_may_be_absent()))]
        yield cast(Path, broadcast_object_list(told)[0])
        accelerator.wait_for_everyone()


def finished_before(
    output: Path, settings: Mapping[str, Any], resume: bool, state: "PartialState", further: str = ""
) -> bool:
    """Whether `--resume` finds this very run finished.

    Every process has to call it. The main process looks, so that all come to one answer.

    Args:
        settings: `{flag: value}` of everything that decides on the result, as JSON has it.
        resume: whether `--resume` was given.
        further: what to do, besides, with a finished model that should be trained longer, for the error.

    Raises:
        ValueError: a run with other settings was finished there, and has no checkpoints to go on from.
    """
    from accelerate.utils import broadcast_object_list

    finished, error = False, None
    if state.is_main_process and resume and is_finished(output):
        finished, error = _compare(output, settings, further)
    finished, error = broadcast_object_list([finished, error])
    if error:
        raise ValueError(error)
    return bool(finished)


def _compare(output: Path, settings: Mapping[str, Any], further: str) -> tuple[bool, str | None]:
    """Whether the finished run had these settings, and why it cannot go on where it had others."""
    from ..training.checkpoints import checkpoints_in, remove_checkpoints

    last, before = _finished_settings(output)
    changed = _changed(before, settings)
    if not changed:
        if not last.get("keep_checkpoints"):  # a kill may have left some
            remove_checkpoints(output / CHECKPOINTS)
        return True, None
    if checkpoints_in(output / CHECKPOINTS):
        return False, None
    remedy = (
        f"{further}A run with --keep-checkpoints can be made longer by --resume."
        if _is_longer(changed)
        else "Repeat the flags of that run, choose another --output, or leave --resume out to train anew."
    )
    return False, (
        f"--resume: expected the settings that the finished run in {output} was made with, or checkpoints to go on "
        f"from, got others and no checkpoints: {_told(changed)}. {remedy}"
    )


def _finished_settings(output: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last line of a finished run's log, and the settings in it."""
    from ..model.files import read_json

    path = output / FINISHED
    expected = "the log of a training, whose last line holds its settings"
    lines = read_json(path, list, expected)
    last = lines[-1] if lines else None
    if not isinstance(last, dict) or not isinstance(last.get("settings"), dict):
        raise ValueError(f"{path}: expected {expected}, found none. Leave --resume out to train anew.")
    return last, last["settings"]


def _changed(before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{setting: (before, now)}` of those that differ; one that an earlier release did not keep is not compared."""
    now = json.loads(json.dumps(settings))
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def differences(folder: Path, other: Path) -> str:
    """How two finished runs differ beside their seeds, from the first to the other, as flags; "" where they do not.

    Nor where a log says nothing, as one of an earlier release.
    """
    try:
        before, now = (_finished_settings(run)[1] for run in (folder, other))
    except (OSError, ValueError):
        return ""
    changed = _changed(before, now)
    return _told({name: values for name, values in changed.items() if name not in ("seed", "precision")})


def _is_longer(changed: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether the run is to be longer and nothing else."""
    (name, (was, is_now)), *others = changed.items()
    return not others and name in _LENGTHS and None not in (was, is_now) and is_now > was


def _told(changed: Mapping[str, tuple[Any, Any]]) -> str:
    told = []
    for name, values in changed.items():
        was, is_now = ("not given" if value is None else value for value in values)
        flag = f"--{_CONTENTS.get(name, name.replace('_', '-'))}"
        has = name in _CONTENTS and None not in values
        told.append(f"{flag} has other contents" if has else f"{flag} was {was}, is {is_now}")
    return "; ".join(dict.fromkeys(told))


def finish(output: Path, trainer: "Trainer", settings: Mapping[str, Any], keep_checkpoints: bool) -> None:
    """Writes the log, which says that the run is finished, and removes its checkpoints unless they are kept.

    Every process has to call it, once the main process has written everything else: nothing is removed while another
    process still reads.
    """
    from ..hub.model_card import precision
    from ..training.checkpoints import remove_checkpoints

    if trainer.is_world_process_zero():
        state = trainer.state
        # The precision follows the machine where no flag says it.
        made = dict(settings) | {"precision": precision(trainer.args)}
        end = {"step": state.global_step, "epoch": state.epoch, "settings": made}
        write_json(output / FINISHED, [*state.log_history, end | {"keep_checkpoints": keep_checkpoints}])
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero() and not keep_checkpoints:
        remove_checkpoints(output / CHECKPOINTS)


def last_checkpoint(output: Path, resume: bool, settings: Mapping[str, Any]) -> str | None:
    """The newest whole checkpoint of a run if `--resume` asks for one and there is one.

    Args:
        settings: of the run that goes on, as in [`finished_before`].

    Raises:
        ValueError: the checkpoint was made with other settings or inputs, or none is whole.
    """
    from ..training.checkpoints import last_intact_checkpoint

    directory = output / CHECKPOINTS
    found = last_intact_checkpoint(directory) if resume and directory.is_dir() else None
    if found is not None:
        changed = _changed(_settings_of(found), settings)
        if changed and not _is_longer(changed):
            raise ValueError(
                f"--resume: expected the settings that {found} was made with, got others: {_told(changed)}. Repeat "
                "the flags of the run that goes on, choose another --output, or leave --resume out to start anew."
            )
    if found is None and resume and os.environ.get("RANK", "0") == "0":
        logger.warning("--resume: nothing to resume in %s: the training starts anew.", output)
    return None if found is None else str(found)


def _settings_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint was made with; of one of an earlier release the fields of its configuration."""
    from ..model.files import read_json
    from ..training.checkpoints import SETTINGS

    if (checkpoint / SETTINGS).is_file():
        return _BEFORE_THERE_WAS_ONE | read_json(checkpoint / SETTINGS, dict, "the settings of a training")
    if not (checkpoint / "config.json").is_file():
        return {}
    logger.warning("%s does not say what inputs it was made from: only its sizes are compared.", checkpoint)
    config = read_json(checkpoint / "config.json", dict, "a model's configuration")
    return {name: value for name, value in config.items() if name != "use_cache"}  # a flag of that name is a Trainer's
