"""One cell of a table: whether it is empty, its text, and the photo that it names or holds."""

import ast
import base64
import binascii
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
import pandas as pd

from .text_files import parse_json, shortened

MOSTLY = 0.95  # of the cells that are not empty; ours
# How base64 of the common formats begins: JPEG, PNG, GIF, WebP.
_BASE64_PICTURE = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/\s]{60,}={0,2}\s*")


def is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value) or (
        isinstance(value, (str, bytes)) and not value
    )  # fmt: skip


def plain_text(value: Any) -> str:
    """The text of a cell: of a list its parts, of an object its values, with blanks between; empty where missing."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return " ".join(text for part in value if (text := plain_text(part).strip()))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if is_missing(value) else str(value)


def holds_numbers(values: Iterable[Any]) -> bool:
    """Whether nearly all cells that are not empty are numbers, also as prices and dates: digits and no letter."""
    texts = [text for value in values if (text := plain_text(value).strip())]
    numbers = sum(any(map(str.isdigit, text)) and not any(map(str.isalpha, text)) for text in texts)
    return bool(texts) and numbers >= MOSTLY * len(texts)


def photo_source(value: Any, folder: Path, where: str) -> str | bytes | None:
    """The photo that a cell names or holds.

    Args:
        value: a path, a `file://` address or a URL; the picture itself as bytes, as a `data:` address or as base64; an
            object with `bytes`, `path` or `url`, as `datasets.Image` has it; or a list of these (also written as
            text), of which the first counts.
        folder: that relative paths start from.
        where: the cell, for the message.

    Returns:
        A path below `folder` or an absolute one, an http(s) URL as it stands, the picture's bytes, or None.

    Raises:
        ValueError: something else.
    """
    if is_missing(value):
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, dict) and value.keys() & {"bytes", "path", "url"}:
        return next((photo_source(value[key], folder, where) for key in ("bytes", "path", "url")
                     if not is_missing(value.get(key))), None)  # fmt: skip
    if isinstance(value, (list, tuple, np.ndarray)):
        return next((photo_source(entry, folder, where) for entry in value if not is_missing(entry)), None)
    if isinstance(value, Path):
        return str(folder / value)
    if isinstance(value, str):
        return _named(value, folder, where)
    raise ValueError(
        f"Expected a path or a URL in 'image', got {shortened(value)} ({type(value).__name__}) in {where}. A picture "
        "may also stand there itself: as bytes, as base64 or as datasets.Image writes it."
    )


def _named(value: str, folder: Path, where: str) -> str | bytes | None:
    bare = value.strip()
    if not bare:
        return None
    head = bare[:8].lower()
    if head.startswith(("http://", "https://")):
        return bare
    if head.startswith("data:"):
        return _unpacked(bare)
    if _BASE64_PICTURE.fullmatch(bare):
        return _decoded(bare.encode())
    if head.startswith("file:"):
        address = urllib.parse.urlsplit(bare)
        host = "" if address.netloc.lower() == "localhost" else address.netloc  # some write a folder there
        return str(folder / (urllib.parse.unquote(host) + url2pathname(address.path)))
    if bare[0] == "[" and bare[-1] == "]" and (listed := _list(bare)) is not None:
        return photo_source(listed, folder, where)
    return _path(value, folder)


def _unpacked(address: str) -> bytes:
    """The bytes of a `data:` address; where they cannot be read its text, which no reader takes for a picture."""
    head, _, content = address.partition(",")
    raw = urllib.parse.unquote_to_bytes(content)
    return _decoded(raw) if head.lower().endswith(";base64") else raw


def _decoded(raw: bytes) -> bytes:
    """Of base64, also of some that was cut off; anything else as it is."""
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        return raw


def _list(text: str) -> list[Any] | None:
    for read in (parse_json, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, list) else None
    return None


def _path(value: str, folder: Path) -> str:
    """The path as it stands; where no file is there and one is as another system writes the name, that one."""
    exact = folder / value
    others = [value.strip(), value.strip().replace("\\", "/")]
    others += [unicodedata.normalize(form, others[-1]) for form in ("NFC", "NFD")]
    for other in dict.fromkeys(others):
        if other != value and not _is_file(exact) and _is_file(folder / other):
            return str(folder / other)
    return str(exact)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a NUL
        return False
