"""What the page of `macrec app` knows, without the page: a recommender and what people see of its items."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers.utils import logging

from ..catalogue.embedding_store import EmbeddingStore, read_meta
from ..catalogue.encoders import load_encoders
from ..data.readers import IMAGE_COLUMN, ITEM_COLUMN, TITLE_COLUMN, read_items
from ..data.shown_photos import note_no_photos, only_inside
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.recommender import MacRecRecommender
from .example_histories import example_histories
from .model_page import card_text, shop_name

logger = logging.get_logger(__name__)

YES, NO = ("true", "yes", "y", "in stock"), ("false", "no", "n", "out of stock", "sold out")


@dataclass(frozen=True)
class ShownItem:
    """An item as people see it.

    Attributes:
        photo: path of a file or its content, a URL or `data:` address; None: there is none.
        in_stock: None where nobody said.
        is_new: added by the visitor.
    """

    item_id: str
    title: str
    photo: str | bytes | None = None
    in_stock: bool | None = None
    is_new: bool = False


class Shop:
    """A recommender, with what people see of its items. All visitors share one.

    Args:
        recommender: of the catalogue.
        items: a table as `read_items` gives it: titles, photos and, if it has such a column, `in_stock`. None: the
            titles that the model directory keeps. Items that the recommender lacks are left out.
        encoders: `{"text": …, "image": …}` of `load_encoders`; None: no items can be added.
        name: of the shop, for the head of the page.
        card: the model card in Markdown, or its address; None: there is none.

    Attributes:
        items: `{item_id: ShownItem}` in the catalogue's order.
        examples: histories to click on, item ids, oldest first.
        knows_stock: whether any item is known to be in stock or not.

    Raises:
        ValueError: not one item of the table is the recommender's, or an `in_stock` that is neither yes nor no.
    """

    def __init__(
        self,
        recommender: MacRecRecommender,
        items: pd.DataFrame | None = None,
        encoders: Mapping[str, Any] | None = None,
        name: str = "",
        card: str | None = None,
    ):
        self.recommender, self.name, self.card = recommender, name, card
        self.encoders = dict(encoders or {})
        titles = recommender.item_titles
        self.items = {item: ShownItem(item, titles.get(item) or item) for item in recommender.table.item_ids}
        if items is not None:
            self._show(items)
        self.knows_stock = any(item.in_stock is not None for item in self.items.values())
        self._words = {item: f"{item}\n{shown.title}".casefold() for item, shown in self.items.items()}
        counts = recommender.item_counts
        order = range(len(self.items)) if counts is None else counts.argsort(descending=True, stable=True).tolist()
        self._order = [recommender.table.item_ids[row] for row in order]
        self.examples = example_histories(recommender)

    @classmethod
    def open(
        cls,
        model: str | Path,
        items: str | Path | None = None,
        encoders: str | Path | None = None,
        device: str | torch.device = "cpu",
        title: str | None = None,
        item_column: str = ITEM_COLUMN,
        title_column: str = TITLE_COLUMN,
        image_column: str = IMAGE_COLUMN,
        allow_outside: bool = False,
        **hub_kwargs: Any,
    ) -> "Shop":
        """Reads a model directory (or repository of the Hub), an items file and a folder of `macrec embed`.

        Args:
            encoders: the folder whose encoders made the semantic IDs; `meta.json` and `*_encoder.safetensors` suffice.
            title: of the page. Default: see `model_page.shop_name`.
            item_column, title_column, image_column: the columns of ids, titles and photos in the items file.
            allow_outside: whether photos may lie outside the items file's folder.

        Raises:
            FileNotFoundError, OSError, ValueError: one of them is not there, cannot be read, or the encoders are of
                other sizes than the quantizer.
        """
        table = None if items is None else read_items(items, item_column, title_column, image_column)
        recommender = MacRecRecommender.from_pretrained(model, device=device, **hub_kwargs)
        if table is not None and items is not None:
            if "image" in recommender.table.modalities:
                note_no_photos(table, items)
            if not allow_outside:
                table["image"] = pd.Series(only_inside(table["image"].tolist(), Path(items).parent), dtype=object)
        name = title or shop_name(model)
        card = card_text(model) if Path(model).is_dir() else f"https://huggingface.co/{model}"
        if encoders is None:
            return cls(recommender, table, name=name, card=card)
        _check_encoders(Path(encoders), recommender.quantizer, model)
        return cls(recommender, table, load_encoders(encoders, device=str(device)), name=name, card=card)

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.recommender.table.modalities

    @property
    def can_add(self) -> bool:
        """Whether new items can get semantic IDs: that takes the quantizer and an encoder."""
        return bool(self.encoders) and self.recommender.quantizer is not None

    def search(self, query: str) -> list[str]:
        """Ids of the items whose title or id holds all words, most popular first."""
        words = query.casefold().split()
        return [item for item in self._order if all(word in self._words[item] for word in words)]

    def _show(self, items: pd.DataFrame) -> None:
        known = items[items["item_id"].isin(self.items.keys())]
        if not len(known):
            raise ValueError(
                f"items: expected the items of the recommender, such as {list(self.items)[:3]}, got others, such as "
                f"{items['item_id'].tolist()[:3]}. Is the file of another catalogue?"
            )
        if len(known) < max(len(items), len(self.items)):
            logger.warning(
                f"{len(known):,} of the recommender's {len(self.items):,} items are in the items file; "
                f"{len(items) - len(known):,} of the file are not the recommender's and cannot be shown."
            )
        stock = known["in_stock"] if "in_stock" in known else [None] * len(known)
        for item, title, photo, in_stock in zip(known["item_id"], known["title"], known["image"], stock, strict=True):
            title = title or self.items[item].title
            if not isinstance(photo, bytes):
                photo = str(photo) if isinstance(photo, str | Path) else None  # pandas may have made NaN of None
            self.items[item] = ShownItem(item, title, photo, _in_stock(in_stock, item))
        # Reasons name items by the recommender's titles.
        self.recommender.item_titles.update({item: self.items[item].title for item in known["item_id"]})


def _in_stock(value: Any, item_id: str) -> bool | None:
    """True, false, yes, no or a number of pieces; None where the cell is empty."""
    word = "" if value is None or value != value else str(value).strip().casefold()
    if not word or word in ("nan", "none", "<na>"):
        return None
    if word in YES or word in NO:
        return word in YES
    try:
        return float(word) > 0
    except ValueError as error:
        raise ValueError(
            f"in_stock of item {item_id!r}: expected true, false, yes, no or a number of pieces, got {value!r}."
        ) from error


def _check_encoders(folder: Path, quantizer: MacRecQuantizer | None, model: str | Path) -> None:
    """Whether new items would land in the space that the quantizer knows."""
    if quantizer is None:
        raise ValueError(
            f"--encoders: expected a model directory with a quantizer, which gives new items their IDs, got {model} "
            "without one. `macrec train --semantic-ids ids/` keeps it where ids/ has one; or leave --encoders out."
        )
    if not (folder / "meta.json").is_file():
        raise FileNotFoundError(
            f"--encoders: expected a folder that `macrec embed` wrote, found no meta.json in {folder}."
        )
    _, entries = read_meta(folder / "meta.json")
    sizes = {name: entry.get("dimension") for name, entry in entries.items()}
    wanted = dict(quantizer.config.modalities)
    if not sizes.keys() & wanted.keys() or any(sizes[name] != wanted[name] for name in sizes.keys() & wanted.keys()):
        raise ValueError(
            f"--encoders {folder}: expected embeddings of the quantizer's sizes, {wanted}, got {sizes}. Name the "
            "folder that the quantizer was trained on."
        )
    learned = quantizer.config.embeddings_fingerprint
    if learned and (folder / "item_ids.json").is_file() and set(wanted) <= set(sizes):
        if EmbeddingStore.open(folder).select(list(wanted)).fingerprint() != learned:
            logger.warning(
                f"--encoders {folder}: the embeddings there are not those that the quantizer was trained on. New "
                "items get fitting IDs only if the same encoders made both."
            )
