"""What the page of `macrec app` takes from a model directory beside the model: the shop's name and the model card."""

import re
from pathlib import Path

from ..hub.model_card import NAME

CARD = "README.md"
GENERIC = ("model", "models", "output", "final")  # folders that say nothing of the shop: the one above may


def shop_name(model: str | Path) -> str:
    """A heading for the page: the heading of the model's card where people changed it, else the folder or repository.

    `shops/our-shop/model` and the repository `user/our-shop` are both "Our shop".
    """
    heading = re.search(r"^# +(.+?)\s*$", card_text(model) or "", re.M)
    if heading is not None and heading[1] != NAME:
        return heading[1]
    folder = Path(model).resolve() if Path(model).is_dir() else Path(model)
    name = folder.parent.name if folder.name.casefold() in GENERIC and folder.parent.name else folder.name
    words = re.sub(r"[-_\s]+", " ", name).strip() or name
    return words[:1].upper() + words[1:]


def card_text(model: str | Path) -> str | None:
    """The card of a model directory in Markdown, without its metadata and its pictures, which stand in other files.

    None where there is none, and for a repository of the Hub, where it can be read.
    """
    path = Path(model) / CARD
    if not path.is_file():
        return None
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.S)
    return re.sub(r"^!\[.*\]\(.*\)$", "", text, flags=re.M).strip()
