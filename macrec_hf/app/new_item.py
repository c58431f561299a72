"""An item that the quantizer has never seen gets its semantic IDs: for the page of `macrec app`, without the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..catalogue.embedding_store import EmbeddingStore
from ..catalogue.indexing import encode_catalogue
from ..catalogue.item_encoders import encode_photos, encode_texts, item_texts
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.recommender import MacRecRecommender
from ..model.semantic_ids import SemanticIdTable, token_name

NEIGHBOURS = 6


@dataclass(frozen=True)
class Neighbour:
    """An item of the catalogue whose ID begins like the new one's.

    Attributes:
        shared: how many codes they have in common, counted from the first.
    """

    item_id: str
    shared: int


@dataclass(frozen=True)
class Place:
    """Where a new item stands in one modality.

    Attributes:
        tokens: its ID; empty where it has none.
        missing: why it has none, else None.
        natural: what the quantizer chose before collisions were resolved.
        holders: the items that had that ID already; empty: it was free, and `tokens` is `natural`.
        neighbours: those that share most of its codes, at most `NEIGHBOURS`, none that shares no code.
        num_sharing: for each prefix length, from 1, how many items of the catalogue share it.
    """

    tokens: list[str]
    missing: str | None = None
    natural: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    num_sharing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Landing:
    """What became of a new item: its id and, in each modality, its `Place`."""

    item_id: str
    places: Mapping[str, Place]


def place_item(
    recommender: MacRecRecommender,
    encoders: Mapping[str, Any],
    item_id: str,
    title: str,
    text: str = "",
    photo: str | Path | None = None,
) -> Landing:
    """Adds one item to a recommender's catalogue through the encoders and the frozen quantizer.

    Args:
        recommender: with its quantizer; the item goes into its table's last row.
        encoders: `{"text": …, "image": …}` of `load_encoders`, those that the quantizer was
            trained on.
        item_id: not in the table.
        title: what people call it; with `text` it is what the text encoder reads.
        photo: path of a file, or None.

    Returns:
        Where it landed.

    Raises:
        ValueError: no title, nothing that an encoder can read, no quantizer, or embeddings that are not of its sizes.
    """
    if not title.strip():
        raise ValueError("The new item has no title: expected a few words, because the title is what its text says.")
    table, quantizer = recommender.table, recommender.quantizer
    if quantizer is None:
        raise ValueError(
            "Items cannot be added: expected a recommender with the quantizer that made its semantic IDs, got none. "
            "Load a model directory that has a folder quantizer/."
        )
    embeddings, reasons = _embeddings(quantizer, encoders, title, text, photo)
    if len(reasons) == len(embeddings):
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"Expected at least one modality that can be encoded, got none ({why}).")
    store = EmbeddingStore(embeddings, [item_id], missing={name: [item_id] for name in reasons})
    natural = encode_catalogue(quantizer, store)
    recommender.add_items(store, titles={item_id: title})
    grown = recommender.table
    places = {
        name: Place([], missing=reasons[name]) if name in reasons else _place(table, grown, name, natural[name][0])
        for name in table.modalities
    }
    return Landing(item_id, places)


def _embeddings(
    quantizer: MacRecQuantizer, encoders: Mapping[str, Any], title: str, text: str, photo: str | Path | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`{modality: (1, embedding_size)}` in the quantizer's order, and why some are zeros."""
    table = pd.DataFrame({"title": [title], "text": [text]})
    columns = getattr(encoders.get("text"), "columns", None) or []  # of the catalogue's texts
    words = item_texts(table, [column for column in columns if column in table] or None)
    given: dict[str, list] = {"text": words, "image": [None if photo is None else Path(photo)]}
    encode: dict[str, Callable] = {"text": encode_texts, "image": encode_photos}
    embeddings: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    for name, size in dict(quantizer.config.modalities).items():
        embeddings[name] = np.zeros((1, size), dtype=np.float32)
        if name not in encoders or name not in encode:
            reasons[name] = "there is no encoder for it"
        elif name == "image" and photo is None:
            reasons[name] = "no photo was given"
        else:
            embeddings[name], missing = encode[name](given[name], encoders[name], progress=False)
            if missing:
                reasons[name] = missing[0]
    return embeddings, reasons


def _place(table: SemanticIdTable, grown: SemanticIdTable, modality: str, natural: torch.Tensor) -> Place:
    codes, given = table.codes[modality], grown.codes[modality][-1]
    # Codes in common from the first on: a product along the levels is 1 as long as all before were alike.
    alike = (codes == given).long().cumprod(1).sum(1)
    nearest = alike.argsort(descending=True, stable=True)[:NEIGHBOURS]
    neighbours = [Neighbour(table.item_ids[row], int(alike[row])) for row in nearest.tolist() if alike[row] > 0]
    index = table.modalities.index(modality)
    chosen = tuple(token_name(index, modality, level, code) for level, code in enumerate(natural.tolist()))
    return Place(
        grown.tokens(grown.item_ids[-1], modality),
        natural=chosen,
        holders=tuple(table.items(natural.tolist(), modality)),
        neighbours=tuple(neighbours),
        num_sharing=tuple(int((alike >= length).sum()) for length in range(1, table.num_levels + 1)),
    )
