"""Outputs of several files: model directories, embeddings, semantic IDs, prepared data, Spaces.

Whatever kills a process, a reader that uses `model.files.reading` gets the files that were there before, the new ones,
or an error. New files are written into a hidden folder inside the output. Once they are whole it is renamed to a
journal, and its files are moved into place. Until that is done readers refuse, and whoever writes there next does it
first. The file that nobody can do without goes first and comes last, so that other programs refuse too.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..model.files import (
    JOURNAL,
    PARTIAL,
    beside_of,
    is_partial,
    move_all,
    remove,
    take_checksums_along,
    told_where,
    what_moves,
)

try:
    import fcntl
except ImportError:  # Windows: no writer is kept out
    fcntl = None  # type: ignore[assignment]

PLAN = ".plan.json"  # in the journal: names of what goes and of what comes
LOCK = ".macrec-lock"
_HELD: dict[Path, tuple[int, int]] = {}  # folder → (open lock file, thread) of this process


@contextmanager
def output_folder(folder: str | Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A folder to write files and folders into, which take their places in `folder` together at the end.

    Other files of `folder` stay. An error leaves all as it was.

    Args:
        folder: made if it does not exist. Only one process at a time writes there, see [`locked`].
        last: the file that readers cannot do without.
        stale: patterns of what goes too if it is not written anew.

    Raises:
        OSError: the disk is full, or another process writes there.
    """
    folder = Path(folder)
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if is_partial(folder):
        yield folder  # a part of what is moved by whoever writes the whole
        return
    try:
        with locked(folder):
            beside = beside_of(folder / ".macrec")
            try:
                with told_where(folder):
                    beside.mkdir()
                    take_checksums_along(folder, beside)
                    yield beside
                    _keep(beside, *what_moves(beside, folder, last, stale))
                    beside.rename(folder / JOURNAL)
                finish_moving(folder)
            except BaseException:
                finish_moving(folder)  # where Ctrl-C arrived while files were moved
                sweep(folder, str(os.getpid()))
                raise
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()  # where nothing is in it
        raise


def _keep(beside: Path, old: list[str], new: list[str]) -> None:
    """Writes down what is to be moved; all of it is on the disk afterwards."""
    (beside / PLAN).write_text(json.dumps([old, new]), encoding="utf-8")
    for path in {*beside.iterdir(), *beside.rglob("*.safetensors")}:
        if path.is_file() and os.name != "nt":  # Windows wants it open for writing
            with path.open("rb") as file:
                os.fsync(file.fileno())


def finish_moving(folder: Path) -> None:
    """Moves what lies in the journal of a folder into place, wherever an earlier attempt was stopped."""
    journal = folder / JOURNAL
    if not journal.is_dir():
        return
    move_all(journal, folder, *json.loads((journal / PLAN).read_text(encoding="utf-8")))
    sync(folder)
    done = beside_of(folder / ".macrec")
    journal.rename(done)  # from here on the folder can be read
    shutil.rmtree(done, ignore_errors=True)


def sync(folder: Path) -> None:
    """What was renamed in a folder is on the disk afterwards."""
    with suppress(OSError):  # not every file system lets a folder be opened
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def sweep(folder: Path, process: str = "*") -> None:
    """Removes what killed writers, or this one process, had begun in a folder that nobody else writes into."""
    for path in folder.glob(f".*-{process}-????????{PARTIAL}"):  # as `beside_of` names them
        with suppress(OSError):
            remove(path)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile; readers are not kept out. What a killed writer left is finished.

    The kernel holds the lock, so that it goes with its process, whatever ends it. A thread that has it may take it
    again. There are no such locks on Windows and on some file systems of a network: there nobody is kept out.

    Raises:
        OSError: another process writes there.
    """
    folder = Path(folder).resolve()
    holder = _HELD.get(folder)
    if is_partial(folder) or (holder is not None and holder[1] == threading.get_ident()):
        yield
        return
    handle = _lock(folder)
    if handle is None:
        finish_moving(folder)
        yield
        return
    _HELD[folder] = (handle, threading.get_ident())
    try:
        finish_moving(folder)
        sweep(folder)
        yield
    finally:
        if _HELD.pop(folder, None) is not None:  # else this is a fork, which has no lock
            try:
                (folder / LOCK).unlink(missing_ok=True)
            except KeyboardInterrupt:
                (folder / LOCK).unlink(missing_ok=True)
                raise
            finally:
                os.close(handle)


def _lock(folder: Path) -> int | None:
    """Opens and locks the lock file of a folder."""
    if fcntl is None:
        return None
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                break
        except BlockingIOError as error:
            writer = os.read(handle, 20).decode() or "unknown"
            os.close(handle)
            raise OSError(
                f"{folder}: expected to be the only one that writes there, but process {writer} does. Wait until it "
                "has ended, or choose another folder."
            ) from error
        except OSError:  # a file system without locks
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        os.close(handle)  # whoever had it has removed it meanwhile
    with suppress(OSError):  # a full disk: then the process has no number
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
    return handle


def _forget_locks() -> None:
    """In a fork: the lock is its parent's alone."""
    while _HELD:
        _, (handle, _) = _HELD.popitem()
        os.close(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
