"""Files and folders that are whole or not there: written beside and moved into place, or read from the Hub.

A name is a folder by its path or the id of a repository; where it is neither there is a quick answer.
"""

import difflib
import inspect
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from transformers.utils import cached_file

_Content = TypeVar("_Content", dict, list)


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


CHECKSUMS_NAME = "checksums.json"
_CHECKED = (  # what decides on lists; texts that people may edit are left out
    "config.json", "model*.safetensors", "model.safetensors.index.json", "semantic_ids.json",
    "semantic_ids.safetensors", "tokenizer.json", "tokenizer_config.json", "item_counts.safetensors",
    "purchase_counts.safetensors", "blend.json", "quantizer/config.json", "quantizer/model*.safetensors",
)  # fmt: skip


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


def write_checksums(folder: Path, left_out: Sequence[str] = ()) -> None:
    """Writes `checksums.json`: size and CRC-32 of what decides on lists, as they are now.

    Args:
        left_out: what was kept back when the folder was written, for whoever reads it.
    """
    found = {path.relative_to(folder).as_posix(): checksum(path) for path in _files(folder, _CHECKED)}
    with replacing(folder / CHECKSUMS_NAME) as beside:
        beside.write_text(json.dumps({"files": found, "left_out": list(left_out)}, indent=1), encoding="utf-8")


def renew_checksums(folder: str | Path, *patterns: str) -> None:
    """Writes the lines of these files anew, after they were replaced, in a folder that has checksums."""
    folder = Path(folder)
    if not (folder / CHECKSUMS_NAME).is_file():
        return
    content = _read_checksums(folder)
    kept = {name: value for name, value in content["files"].items() if not _is_among(name, patterns)}
    fresh = {path.relative_to(folder).as_posix(): checksum(path) for path in _files(folder, patterns)}
    with replacing(folder / CHECKSUMS_NAME) as beside:
        beside.write_text(json.dumps(content | {"files": kept | fresh}, indent=1), encoding="utf-8")


def check_files(
    folder: str | Path, patterns: Sequence[str] = _CHECKED, *, without: Sequence[str] = (), whole: bool = True
) -> list[str]:
    """Compares files with the folder's `checksums.json`; nothing is compared where there is none.

    Args:
        patterns: of the files to compare.
        without: patterns of files that are not looked at.
        whole: whether each file that is listed has to be there; of a repository only some may have been fetched.

    Returns:
        What was left out when the folder was written.

    Raises:
        ValueError: a file that was changed, removed or added since.
    """
    folder = Path(folder)
    if not (folder / CHECKSUMS_NAME).is_file():
        return []
    content = _read_checksums(folder)
    listed = {name: value for name, value in content["files"].items() if _is_among(name, patterns)}
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder, patterns)}
    for name in sorted({*listed, *there}):
        if _is_among(name, without) or (name not in there and not whole):
            continue
        wrong = None
        if name not in there:
            wrong = "it is gone"
        elif name not in listed:
            wrong = "it was not there"
        elif there[name].stat().st_size != listed[name][0]:
            wrong = f"it has {there[name].stat().st_size:,} bytes instead of {listed[name][0]:,}"
        elif checksum(there[name]) != listed[name]:
            wrong = "its bytes have changed"
        if wrong:
            raise ValueError(
                f"{folder / name}: expected the file that was saved with {folder / CHECKSUMS_NAME}, but {wrong}. Was "
                "it damaged, copied from another folder, or a verb stopped while it wrote? Copy the whole folder "
                f"again, or run that verb again; if you changed it on purpose, remove {CHECKSUMS_NAME}, and nothing "
                "is compared any more."
            )
    return content["left_out"]


def _read_checksums(folder: Path) -> dict[str, Any]:
    path = folder / CHECKSUMS_NAME
    expected = '{"files": {name: [bytes, CRC-32]}, "left_out": [names]}'
    content = read_json(path, dict, expected)
    files, left_out = content.get("files"), content.get("left_out")
    pairs = list(files.values()) if isinstance(files, dict) else [None]
    good = all(isinstance(pair, list) and [type(number) for number in pair] == [int, int] for pair in pairs)
    if not good or not isinstance(left_out, list) or not all(isinstance(name, str) for name in left_out):
        raise ValueError(f"{path}: expected {expected}, got something else. Copy the whole folder again.")
    return content


def _is_among(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def checksum(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file."""
    size = path.stat().st_size
    if not size:
        return [0, 0]
    with path.open("rb") as file, mmap(file.fileno(), size, access=ACCESS_READ) as content:
        return [size, zlib.crc32(content)]


def check_beside(name_or_path: str | PathLike[str], patterns: Sequence[str], **hub_kwargs: Any) -> None:
    """[`check_files`] of the folder that a model is loaded from, a folder or a repository.

    Args:
        **hub_kwargs: of [`folder_beside`].
    """
    folder = folder_beside(name_or_path, (CHECKSUMS_NAME,), **hub_kwargs)
    if folder is not None:
        check_files(folder, patterns, whole=False)
