"""The photos of `macrec app`'s page: small copies, made when they are first shown."""

import hashlib
import os
from pathlib import Path

from ..data.photos import thumbnail
from ..data.shown_photos import is_address
from ..model.files import replacing
from .shop import ShownItem

THUMBNAIL = 240  # pixels: a tile is half of that wide, on screens with two pixels for one


class Thumbnails:
    """Small copies of the photos, made when they are first shown: the browser sees no other file.

    Args:
        folder: where they are written; the page may serve it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._known: dict[str | bytes, str | None] = {}

    def address(self, item: ShownItem) -> str | None:
        """Where the browser finds the item's photo; None where there is none."""
        if item.photo is None or is_address(item.photo):
            return item.photo
        if item.photo not in self._known:
            self._known[item.photo] = self._write(item.photo)
        return self._known[item.photo]

    def _write(self, photo: str | bytes) -> str | None:
        small = thumbnail(photo, THUMBNAIL)
        if small is None:
            return None
        path = self.folder / f"{hashlib.sha256(os.fsencode(photo)).hexdigest()[:24]}.jpg"
        with replacing(path) as beside:
            beside.write_bytes(small)
        return f"gradio_api/file={path}"
