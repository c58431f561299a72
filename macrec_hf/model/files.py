"""Files and folders that are whole or not there: written beside and moved into place, or read from the Hub.

A name is a folder by its path or the id of a repository; where it is neither there is a quick answer.
"""

import difflib
import inspect
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers.utils import cached_file


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
