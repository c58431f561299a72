"""Photos for pages: small, upright, as `data:` addresses."""

import base64
from pathlib import Path

from ..data.photos import thumbnail


def data_address(photo: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(photo).decode()}"


def photo_source(path: str | Path) -> str:
    """The file itself as a `data:` address."""
    return data_address(Path(path).read_bytes(), "png" if str(path).endswith(".png") else "jpeg")


def thumbnail_source(photo: str | Path | bytes, side: int = 96) -> str | None:
    """A small photo as a `data:` address; None where there is no readable photo."""
    small = thumbnail(photo, side)
    return None if small is None else data_address(small)
