"""Files and folders that are whole or not there: written beside and moved into place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes the place of `path` at the end.

    Until then a reader sees the old file or none; an error leaves the old one and nothing beside it.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def move_into_place(written: Path, place: Path) -> None:
    """Renames a folder or a file; a folder that stands at the place already goes first."""
    if place.is_dir():
        discard(place)
    written.replace(place)
    try:  # the renaming itself on the disk; not every file system lets a folder be opened
        handle = os.open(place.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    except OSError:
        pass


def discard(folder: Path) -> None:
    """Removes a folder, renamed first, so that a crash leaves no half of it under its name."""
    if folder.is_dir():
        aside = folder.parent / f".discarded-{folder.name.lstrip('.')}"
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
