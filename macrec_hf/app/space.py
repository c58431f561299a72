"""Writes the folder of a Hugging Face Space that serves the page of `macrec app`: code, model, photos, encoders."""

import hashlib
import json
import shutil
from pathlib import Path

from transformers.utils import logging

from ..data.output_folder import output_folder
from ..data.photos import thumbnail
from ..data.shown_photos import is_address
from ..doctor.html_page import render
from .shop import Shop, ShownItem

logger = logging.get_logger(__name__)

PHOTO_SIDE = 320  # pixels; a tile shows 240
GRADIO = "6.31.0"  # what constraints.txt pins: the version that the page was tested with
# As in setup.py, which the tests hold it to. The package itself is copied: no index need have it.
REQUIREMENTS = "app/templates/space_requirements.txt"
_COUNTS = {
    "none": "no counts of purchases",
    "rounded": "rounded counts of purchases",
    "all": "all counts of purchases",
}
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = ("model", "photos", "encoders", _PACKAGE.name)  # of an earlier Space, with what is not sold any more


def write_space(
    folder: str | Path, shop: Shop, model: str | Path, encoders: str | Path | None = None, counts: str = "none"
) -> str:
    """Writes the Space of a shop, with the package's own code.

    Args:
        folder: made if it does not exist. A Space there is replaced: no photo, model or encoder of it stays; other
            files do.
        shop: as `Shop.open(model, …)` gives it.
        model: a directory is copied into the Space; a repository of the Hub is named in it.
        encoders: the folder of `macrec embed`: what the encoders learned is copied, the embeddings are not.
        counts: of the purchases, which go along with a directory: "none", "rounded" or "all", as `save_pretrained`
            takes it. A repository holds what it was uploaded with.

    Returns:
        What was written, in a few words.

    Raises:
        ValueError: other `counts`.
        OSError: the folder cannot be written, or another process writes there.
    """
    with output_folder(folder, last="app.py", stale=_FOLDERS) as beside:
        return _write_space(beside, shop, model, encoders, counts)


def _write_space(folder: Path, shop: Shop, model: str | Path, encoders: str | Path | None, counts: str) -> str:
    local = Path(model).is_dir()
    shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    if local:
        shop.recommender.save_pretrained(folder / "model", include_code=False, counts=counts)
    for name, content in space_files('HERE / "model"' if local else json.dumps(str(model)), shop.name).items():
        (folder / name).write_text(content, encoding="utf-8")
    num_photos = _write_items(folder, list(shop.items.values()))
    parts = ["the model" if local else f"the address of {model}", f"{num_photos:,} photos"]
    if local and shop.recommender.blend is not None:
        parts.append(_COUNTS[counts])
    if encoders is not None and _write_encoders(folder / "encoders", Path(encoders), shop):
        parts.append("encoders for new items")
    return f"A Space with {', '.join(parts)}"


def space_files(model: str, title: str) -> dict[str, str]:
    """`{name: text}` of the files that are the same for every shop.

    Args:
        model: a Python expression, such as `"user/macrec-shop"` with its quotes.
    """
    title = json.dumps(title, ensure_ascii=False)  # a string of Python and of YAML alike
    return {
        "app.py": render("app/templates/space_app.py.jinja", model=model, title=title),
        "README.md": render("app/templates/space_README.md.jinja", title=title, gradio=GRADIO),
        "requirements.txt": (_PACKAGE / REQUIREMENTS).read_text(encoding="utf-8"),
    }


def _write_items(folder: Path, items: list[ShownItem]) -> int:
    """`items.jsonl` and small photos; returns how many there are."""
    (folder / "photos").mkdir(exist_ok=True)
    lines, num_photos = [], 0
    for item in items:
        row = {"item_id": item.item_id, "title": item.title}
        if is_address(item.photo):
            row["image"] = item.photo
        elif item.photo is not None and (small := thumbnail(item.photo, PHOTO_SIDE)) is not None:
            # Ids may hold characters that are none for a file name.
            row["image"] = f"photos/{hashlib.sha256(item.item_id.encode()).hexdigest()[:24]}.jpg"
            (folder / row["image"]).write_bytes(small)
        num_photos += "image" in row
        lines.append(
            json.dumps(row | ({} if item.in_stock is None else {"in_stock": item.in_stock}), ensure_ascii=False)
        )
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return num_photos


def _write_encoders(folder: Path, encoders: Path, shop: Shop) -> bool:
    """Copies what the encoders learned; False where one of them is a folder that a Space does not have."""
    here = [encoder.name for encoder in shop.encoders.values() if Path(encoder.name).is_dir()]
    if here:
        logger.warning(
            f"The encoder {here[0]} is a folder of this machine, which the Space cannot load: encoders are left out, "
            "so that no items can be added there. Embed with its name on the Hub instead."
        )
        return False
    folder.mkdir(exist_ok=True)
    for path in [encoders / "meta.json", *encoders.glob("*_encoder.safetensors")]:
        shutil.copyfile(path, folder / path.name)
    return True
