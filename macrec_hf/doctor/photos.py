"""Photos for pages: small, upright, as bytes or as a `data:` address."""

import base64
from io import BytesIO
from pathlib import Path


def data_address(photo: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(photo).decode()}"


def photo_source(path: str | Path) -> str:
    """The file itself as a `data:` address."""
    return data_address(Path(path).read_bytes(), "png" if str(path).endswith(".png") else "jpeg")


def thumbnail(path: str | Path, side: int = 96) -> bytes | None:
    """A JPEG of at most `side` times `side` pixels, upright and on white; None where there is no readable photo."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as photo:
            small = ImageOps.exif_transpose(photo).convert("RGBA" if photo.has_transparency_data else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    written = BytesIO()
    small.save(written, "JPEG", quality=80)
    return written.getvalue()


def thumbnail_source(path: str | Path, side: int = 96) -> str | None:
    """`thumbnail` as a `data:` address."""
    small = thumbnail(path, side)
    return None if small is None else data_address(small)
