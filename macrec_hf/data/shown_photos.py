"""Which photos a page may show: those in the folder of the items file."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def is_address(photo: Any) -> TypeGuard[str]:
    """Whether a photo is a URL or a `data:` address, which a browser opens by itself."""
    return isinstance(photo, str) and photo.lower().startswith(("http://", "https://", "data:"))


def note_no_photos(items: "pd.DataFrame", path: str | Path) -> None:
    """A notice that a page will show no photos, where the file has none in a column that it names otherwise.

    Args:
        items: as `read_items` gives them.
        path: of the file.
    """
    columns = items.attrs["columns"]
    if "image" not in columns and not any(items["image"]):
        logger.warning(
            f"{path}: no photos to show: expected them in a column 'image', the table has {columns}. Name the right "
            "one with --image-column, or image_column in Python."
        )


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
