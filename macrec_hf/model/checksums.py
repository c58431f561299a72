"""The checksums of a folder: its files are those that were saved together, or loading says which is not."""

import json
import zlib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from mmap import ACCESS_READ, mmap
from os import PathLike
from pathlib import Path
from typing import Any

from .files import CHECKSUMS_NAME, folder_beside, read_json, replacing

_CHECKED = (  # what decides on lists; texts that people may edit are left out
    "config.json", "model*.safetensors", "model.safetensors.index.json", "semantic_ids.json",
    "semantic_ids.safetensors", "tokenizer.json", "tokenizer_config.json", "item_counts.safetensors",
    "learned_histories.safetensors", "purchase_counts.safetensors", "blend.json", "quantizer/config.json",
    "quantizer/model*.safetensors",
)  # fmt: skip


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
