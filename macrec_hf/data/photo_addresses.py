"""Which address of a photo the metadata of shops name, in all the layouts in which they are handed on."""

import ast
import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

SIZES = ("large", "hi_res", "thumb")  # of the pictures of 2023, the one that is wanted first
_HOST = re.compile(r"(?:[a-z0-9-]+\.)+(?:com|net|org|cn)/\S+", re.IGNORECASE)


def photo_address(value: Any) -> str | None:
    """The first address among a text, a list or an object of texts, or one of these that was written as a text.

    Returns:
        It with `http://` or `https://` in front, as it is to be fetched; None: there is none.
    """
    return next(filter(None, map(_address, texts_of(value))), None)


def main_photo(images: Any) -> str | None:
    """The main picture's `large` address, else that of the first picture which has one, else other sizes.

    Args:
        images: of the metadata of 2023: a list of pictures, each a dict of sizes, as the files have them; or a dict of
            lists, as `datasets` hands the same on; or either written as a text.
    """
    pictures = list(_pictures(opened(images)))
    for size in SIZES:
        found = [
            (picture.get("variant") != "MAIN", address)
            for picture in pictures
            if (address := photo_address(picture.get(size)))
        ]
        if found:
            return min(found, key=lambda pair: pair[0])[1]
    return photo_address(images)


def opened(value: Any) -> Any:
    """The list or dict that a text holds as JSON or as Python writes it; any other value as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list | dict) else value
    return value


def texts_of(value: Any) -> Iterator[str]:
    """All texts within lists of lists and objects, also where one was written as a text."""
    value = opened(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from texts_of(part)
    elif isinstance(value, str):
        yield value


def _pictures(images: Any) -> Iterator[dict[str, Any]]:
    if isinstance(images, dict):
        if any(isinstance(value, list) for value in images.values()):
            columns = [value if isinstance(value, list) else [] for value in images.values()]
            yield from (dict(zip(images, row, strict=True)) for row in zip_longest(*columns))
        else:
            yield images
    elif isinstance(images, list):
        for part in images:
            if isinstance(part, dict):
                yield part


def _address(text: str) -> str | None:
    text = text.strip().replace("&amp;", "&")
    if text.startswith("//") and len(text.split()) == 1:
        text = f"https:{text}"
    elif _HOST.fullmatch(text):
        text = f"https://{text}"
    return text if text.lower().startswith(("http://", "https://")) else None
