"""Checkpoints that are complete, or recognised as incomplete: `complete.json` lists size and checksum of every file.

A checkpoint is written into `.saving/` beside the others, sealed with `complete.json`, and moved into place by one
renaming. Files that a crash leaves in `.saving/` are never read. A checkpoint whose files differ from its
`complete.json` is skipped with a warning.
"""

import json
import logging
import os
import re
import shutil
from pathlib import Path

from ..data.output_folder import sync
from ..model.checksums import checksum

logger = logging.getLogger(__name__)

SAVING = ".saving"
SEAL = "complete.json"
SETTINGS = "settings.json"  # of the run: everything that the checkpoint depends on, the inputs by their contents
PSEUDO_LABELS = "pseudo_labels.npz"  # computed once for a quantizer's run, read back when it is resumed
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt")  # of checkpoints that a plain Trainer wrote


def seal(folder: Path) -> None:
    """Writes `complete.json`, `{file: [bytes, crc32]}`, once every file is on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    content = {str(path.relative_to(folder)): checksum(path) for path in files}
    (folder / SEAL).write_text(json.dumps(content, indent=1))
    for path in [*files, folder / SEAL]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def what_is_wrong(folder: str | Path) -> str | None:
    """Why a checkpoint cannot be trusted, in words; None where it can."""
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / SEAL).is_file():
        missing = [name for name in _NEEDED if not (folder / name).is_file()]
        return f"it has no {missing[0]}: it was written in part" if missing else None
    try:
        for name, (size, value) in json.loads((folder / SEAL).read_text()).items():
            path = folder / name
            if not path.is_file():
                return f"its {name} is gone"
            if path.stat().st_size != size:
                return f"its {name} has {path.stat().st_size} bytes instead of {size}"
            if checksum(path)[1] != value:
                return f"the bytes of its {name} have changed since they were written"
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:  # JSON of another shape too
        return f"it cannot be read ({error})"
    return None


def checkpoints_in(directory: str | Path) -> list[Path]:
    """All `checkpoint-N` folders, newest first."""
    found = [(int(match[1]), path) for path in Path(directory).glob("checkpoint-*")
             if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))]  # fmt: skip
    return [path for _, path in sorted(found, reverse=True)]


def last_intact_checkpoint(directory: str | Path) -> Path | None:
    """The newest checkpoint that is whole; warns about each that is not. None where there is none at all.

    Raises:
        ValueError: there are checkpoints, but not one is whole.
    """
    directory, broken = Path(directory), []
    for path in sorted((directory / SAVING).glob("checkpoint-*")):
        logger.warning("%s was cut short while it was being written: it is passed over.", path.name)
    for path in checkpoints_in(directory):
        wrong = what_is_wrong(path)
        if wrong is None:
            return path
        broken.append(f"{path.name}: {wrong}")
        logger.warning("%s is passed over: %s.", path, wrong)
    if broken:
        raise ValueError(
            f"{directory}: expected at least one whole checkpoint to resume from, got none ({'; '.join(broken)}). "
            "Restore one from a copy, or start anew without --resume."
        )
    return None


def keep_newest(directory: Path, limit: int | None, best: str | None) -> None:
    """Removes the oldest checkpoints beyond `limit`; the newest and the best always stay."""
    for leftover in directory.glob(".discarded-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = checkpoints_in(directory)
    if not limit or limit < 1 or len(found) <= limit:
        return
    kept = {found[0]} | {path for path in found if best and path.resolve() == Path(best).resolve()}
    for path in found[1:]:
        if len(kept) < limit:
            kept.add(path)
    for path in found:
        if path not in kept:
            discard(path)


def move_into_place(written: Path, place: Path) -> None:
    """Renames a checkpoint; one that stands at the place already goes first."""
    discard(place)
    written.replace(place)
    sync(place.parent)


def discard(folder: Path) -> None:
    """Removes a folder, renamed first, so that a crash leaves no half of it under its name."""
    if folder.is_dir():
        aside = folder.parent / f".discarded-{folder.name.lstrip('.')}"
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def forget_checkpoints(directory: Path) -> None:
    """Removes all checkpoints of a folder."""
    for path in [*checkpoints_in(directory), directory / SAVING, *directory.glob(".discarded-*")]:
        discard(path)


def remove_checkpoints(directory: Path) -> None:
    """Removes what only a resumed run reads, and the folder where nothing else is in it, such as a tracker's logs."""
    forget_checkpoints(directory)
    (directory / PSEUDO_LABELS).unlink(missing_ok=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
