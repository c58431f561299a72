"""Where the photo is that a table names, also as other systems write paths; and which photos a page may show."""

import logging
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

logger = logging.getLogger(__name__)

OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def photo_path(text: str, folder: str | Path) -> str:
    """The path of a photo, relative to a folder or absolute, as a path of this system.

    `images\\a.jpg`, `file:///shop/a%20b.jpg`, blanks around a path and accents that another system composes otherwise
    are understood where the path as it is written leads to no file. A path of Windows with a drive is kept as it is,
    for there is no such file here; a URL is kept too.

    Args:
        text: as it stands in the table.
        folder: of the table.
    """
    if is_address(text):
        return text
    spellings = list(dict.fromkeys(_spellings(text)))
    paths = [str(Path(folder) / spelling) for spelling in spellings]
    odd = len(paths) > 1 or OF_WINDOWS.match(spellings[0])
    found = next((path for path in paths if os.path.lexists(path)), None) if odd else None
    windows = next((spelling for spelling in spellings if os.name != "nt" and OF_WINDOWS.match(spelling)), None)
    return found or windows or paths[0]


def is_address(photo: Any) -> TypeGuard[str]:
    """Whether a photo is a URL or a `data:` address, which a browser opens by itself."""
    return isinstance(photo, str) and photo.lower().startswith(("http://", "https://", "data:"))


def _spellings(text: str) -> Iterator[str]:
    if text.strip().lower().startswith("file:"):
        address = text.strip()[len("file:") :]
        address = re.sub(r"^//(localhost(?=/))?", "", address, flags=re.IGNORECASE)
        yield re.sub(r"^/(?=[A-Za-z]:)", "", urllib.parse.unquote(address))
        return
    yield text
    text = text.strip()
    yield text
    if "%" in text:
        yield urllib.parse.unquote(text)
    if not text.isascii():
        yield unicodedata.normalize("NFC", text)
        yield unicodedata.normalize("NFD", text)
    if "\\" in text:
        yield text.replace("\\", "/")


def only_inside(photos: Sequence[Any], folder: str | Path) -> list[Any]:
    """Photos without those that lie outside a folder, which a page or a Space would show to everybody.

    Links are followed, so that a link out of the folder is outside. A notice counts what is left out.

    Args:
        photos: paths, URLs, contents of files or None.
        folder: of the items file.

    Returns:
        The same, None in the place of each photo outside; paths with their links resolved.
    """
    root = Path(os.path.realpath(folder))
    kept = [_inside(photo, root) for photo in photos]
    outside = [photo for photo, found in zip(photos, kept, strict=True) if found is None and _is_path(photo)]
    if outside:
        logger.warning(
            f"{len(outside):,} photos lie outside the folder of the items file, {folder}, such as {outside[0]}: they "
            "are not shown. If everybody who sees the page may see them, give --allow-outside."
        )
    return kept


def _is_path(photo: Any) -> bool:
    return isinstance(photo, Path) or (isinstance(photo, str) and not is_address(photo))


def _inside(photo: Any, root: Path) -> Any:
    if not _is_path(photo):
        return photo
    try:
        real = Path(os.path.realpath(photo))
    except (OSError, ValueError):
        return None
    return str(real) if real.is_relative_to(root) else None
