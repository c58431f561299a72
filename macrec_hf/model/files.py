"""Files and folders that are whole or not there: written beside and moved into place, or read from the Hub.

Several files that belong together are read in [`reading`].

A name is a folder by its path or the id of a repository; where it is neither there is a quick answer.
"""

import difflib
import errno
import inspect
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers.utils import cached_file

_Content = TypeVar("_Content", dict, list)
CHECKSUMS_NAME = "checksums.json"  # of `checksums.py`
PARTIAL = ".partial"  # the ending of what is being written
JOURNAL = ".macrec-moving"  # of `data.output_folder`: files that are whole and not all in their places yet
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes the place of `path` at the end.

    Until then a reader sees the old file or none; an error leaves the old one and nothing beside it.
    """
    with replacing_together(path) as (beside,):
        yield beside


@contextmanager
def replacing_together(*paths: str | Path) -> Iterator[list[Path]]:
    """Paths beside `paths` to write to, which take their places at the end: never an old file beside a new one.

    All old files go before the first new one comes, the last of `paths` first of all; it also comes last.
    """
    places = [Path(path) for path in paths]
    besides = [beside_of(place) for place in places]
    try:
        with told_where(*places):
            yield besides
            try:
                _take_places(besides, places)
            except KeyboardInterrupt:
                _take_places(besides, places)
                raise
    finally:
        for beside in besides:
            beside.unlink(missing_ok=True)


def _take_places(besides: Sequence[Path], places: Sequence[Path]) -> None:
    """Moves files whose names change, wherever an earlier attempt was stopped."""
    left = [(beside, place) for beside, place in zip(besides, places, strict=True) if beside.exists()]
    for _, place in reversed(left) if len(left) > 1 else ():
        place.unlink(missing_ok=True)
    for beside, place in left:
        beside.replace(place)


@contextmanager
def replacing_files(folder: str | Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A folder to write files and folders into, which take their places in `folder` at the end.

    Never an old file beside a new one: all old ones go before the first new one comes. Other files of `folder` stay.
    An error leaves all as it was. Whole outputs are written by `data.output_folder`, which loses nothing to a kill.

    Args:
        folder: made if it does not exist.
        last: the file that readers cannot do without. It goes first and comes last.
        stale: patterns of what goes too if it is not written anew.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if is_partial(folder):
        yield folder  # a part of what is moved by whoever writes the whole
        return
    beside = beside_of(folder / ".macrec")
    try:
        with told_where(folder):
            beside.mkdir()
            take_checksums_along(folder, beside)
            yield beside
            move_all(beside, folder, *what_moves(beside, folder, last, stale))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def take_checksums_along(folder: Path, beside: Path) -> None:
    """What replaces some files of a folder replaces their checksums with them."""
    if (folder / CHECKSUMS_NAME).is_file():
        shutil.copyfile(folder / CHECKSUMS_NAME, beside / CHECKSUMS_NAME)


def is_partial(folder: Path) -> bool:
    """Whether a folder is being written, so that nobody reads it yet."""
    return any(part.startswith(".macrec-") and part.endswith(PARTIAL) for part in folder.parts)


def what_moves(beside: Path, folder: Path, last: str, stale: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of old files that go, and of new ones that come, both in order; arguments as in [`replacing_files`]."""
    new = sorted((path.name for path in beside.iterdir()), key=lambda name: (name == last, name))
    gone = {path.name for pattern in stale for path in folder.glob(pattern)} - set(new)
    return [*new[-1:], *sorted(gone), *new[:-1]], new


def move_all(beside: Path, folder: Path, old: Sequence[str], new: Sequence[str]) -> None:
    """Removes old files and moves new ones into their place, wherever an earlier attempt was stopped."""
    for name in old:
        if name not in new or (beside / name).exists():  # else the new one is there already
            remove(folder / name)
    for name in new:
        if (beside / name).exists():
            (beside / name).replace(folder / name)


@contextmanager
def told_where(*places: Path) -> Iterator[None]:
    """Full disks are told in many ways, most of them without the name of the file."""
    try:
        yield
    except Exception as error:
        if any(is_partial(place) for place in places):
            raise  # whoever writes the whole tells
        of_many = isinstance(error, shutil.Error)
        text = str(error.args[0][0][-1] if of_many else error)  # of many files the first says it all
        python = isinstance(error, OSError) and (error.errno in _NO_SPACE or "requested and" in text)
        rust = (isinstance(error, SafetensorError) or type(error) is Exception) and "os error" in text
        if not (of_many or python or rust):
            raise
        raise OSError(
            f"{', '.join(map(str, places))} could not be written: {text}. Is the disk full? What was there before is "
            "as it was."
        ) from error


def beside_of(place: Path) -> Path:
    """A hidden name beside it that no other writer takes."""
    return place.with_name(f".{place.name.lstrip('.')[:60]}-{os.getpid()}-{os.urandom(4).hex()}{PARTIAL}")


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def reading(folder: str | Path, *patterns: str) -> Iterator[None]:
    """Whoever reads several files of a folder reads them in here: they are of one writing, or there is an error.

    Args:
        folder: that [`replacing_files`] writes; anything else is passed over.
        patterns: of the files that are read.

    Raises:
        OSError: they are being replaced, or were replaced meanwhile.
    """
    folder = Path(folder)
    before = _stamps(folder, patterns)
    try:
        yield
    except Exception as error:
        if _stamps(folder, patterns) != before:
            raise OSError(_REPLACED.format(folder=folder)) from error
        raise
    if _stamps(folder, patterns) != before:
        raise OSError(_REPLACED.format(folder=folder))


_REPLACED = "{folder}: expected files that stay as they are while they are read, but they were replaced. Try again."


def _stamps(folder: Path, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """What tells the files from those of another writing.

    Raises:
        OSError: the files are being moved.
    """
    if (folder / JOURNAL).is_dir():
        raise OSError(
            f"{folder}: expected whole files, found some that are being moved into place. Try again; if nobody writes "
            "there, a process was stopped meanwhile: run the command again that wrote them."
        )
    found = {}
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        with suppress(FileNotFoundError):
            about = path.stat()
            found[str(path)] = (about.st_ino, about.st_mtime_ns)
    return found


def follow_umask(*weights: Path) -> None:
    """Gives files of weights the permissions that a new file gets in their place.

    safetensors writes through temporary files, which only their owner may read.
    """
    for path in weights:
        fresh = path.with_name(path.name + ".new")
        fresh.touch()
        try:
            path.chmod(fresh.stat().st_mode & 0o777)
        except OSError:  # a file system that keeps no permissions
            pass
        finally:
            fresh.unlink()


def folder_beside(name_or_path: str | PathLike[str], names: Sequence[str], **hub_kwargs: Any) -> Path | None:
    """The folder of files that may lie beside a model's weights, fetched if need be.

    Args:
        name_or_path: where the model was loaded from.
        names: of the files, the one first that says whether they are there.
        **hub_kwargs: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, … of `from_pretrained`.

    Returns:
        `None` where the first file is absent, or cannot be had offline.

    Raises:
        OSError: the first file is there and another is not.
    """
    first, *others = names
    absent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(name_or_path, first, **absent, **hub_kwargs)
    if found is None:
        return None
    for name in others:
        cached_file(name_or_path, name, **hub_kwargs)
    return Path(found).parent


def package_part(name: str, what_it_does: str) -> ModuleType:
    """A module of the package that does not travel with a model, such as "hub.saving".

    Raises:
        RuntimeError: the package is not installed: the process has only what came from a repository.
    """
    if not package_is_installed():
        raise RuntimeError(
            f"Expected the package macrec_hf, which {what_it_does}, found only what travels with a model. "
            "Install it: pip install macrec-hf."
        )
    return import_module(f"macrec_hf.{name}")


def package_is_installed() -> bool:
    """Whether there is more than what travels with a model."""
    return find_spec("macrec_hf") is not None


def check_hub_arguments(given: Iterable[str], others: Sequence[str] = ()) -> None:
    """Whether `snapshot_download` takes these arguments, so that none is ignored where a folder is local.

    Args:
        others: further arguments of the caller, for the message.

    Raises:
        TypeError: it does not take one of them, or it is not for the caller to choose.
    """
    if not (names := set(given)):
        return
    from huggingface_hub import snapshot_download

    ours = {"repo_id", "repo_type", "allow_patterns", "ignore_patterns", "dry_run"}
    known = [*others, *(name for name in inspect.signature(snapshot_download).parameters if name not in ours)]
    if unknown := sorted(names - set(known)):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise TypeError(f"Expected arguments among {', '.join(known)}, got {', '.join(unknown)}.{meant}")


def hub_folder(
    name_or_path: str | PathLike[str],
    patterns: Sequence[str],
    expected: str,
    *,
    ignored: list[str] | None = None,
    **hub_kwargs: Any,
) -> Path:
    """The folder of that path as it is, or that of a repository, fetched if need be.

    Args:
        name_or_path: a folder, or the id of a repository such as `user/macrec-shop`.
        patterns: of the files that are fetched.
        expected: what it should be, for the error, such as "a model directory or a repository of the Hub".
        ignored: patterns of files that are left out again.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … for `snapshot_download`.

    Raises:
        TypeError: an argument that `snapshot_download` does not take.
        FileNotFoundError: no such folder, and nothing that could be the id of a repository. The Hub is not asked.
        OSError: no such folder, and no such repository that can be reached. Without a network this is known at once.
    """
    check_hub_arguments(hub_kwargs)
    directory, name = Path(name_or_path), str(name_or_path)
    if directory.is_dir():
        return directory
    absent = f"Expected {name!r} to be {expected}; there is no such directory"
    if name.startswith((".", "~")) or name.endswith("/") or name.count("/") > 1 or directory.is_absolute():
        raise FileNotFoundError(f"{absent}, and a repository has an id of the form user/name.{_meant(directory)}")
    from huggingface_hub import snapshot_download  # here, because most folders are local

    try:
        # Not file by file: without a network each would be tried again for half a minute.
        found = snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=ignored, **hub_kwargs)
    except (OSError, ValueError) as error:
        raise OSError(f"{absent}, and the Hub said: {error}{_meant(directory)}") from error
    return Path(found)


def _meant(directory: Path) -> str:
    """A folder beside it whose name is nearly the same."""
    if not directory.parent.is_dir():
        return ""
    beside = [path.name for path in directory.parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(directory.name, beside, n=1)
    return f" Did you mean {directory.parent / close[0]}?" if close else ""


def read_json(path: str | Path, kind: type[_Content], expected: str) -> _Content:
    """The object or list of a JSON file.

    Args:
        kind: dict or list.
        expected: what it should hold, for the error.

    Raises:
        ValueError: no JSON, or of another shape.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # other tools begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected {expected} in UTF-8, but it cannot be read: {error}. Was it saved in another encoding, "
            "or damaged while it was copied? Save it as UTF-8, or copy it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected {expected}, but it cannot be read: {error}. Was it cut off while it was copied? Copy "
            "it again."
        ) from error
    if not isinstance(content, kind):
        raise ValueError(
            f"{path}: expected {expected}, got a JSON {type(content).__name__}. Was another file saved under its "
            "name? Copy it again."
        )
    return content
