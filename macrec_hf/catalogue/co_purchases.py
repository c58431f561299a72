"""What is bought together as a further modality: embeddings of co-occurrences, made from training purchases alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from ..data.learned_purchases import LEARNED_FROM, training_purchases
from ..data.purchase_counting import count_purchases
from ..data.time_split import Cut
from ..model.purchase_counts import UNIT, PurchaseCounts
from .embedding_store import META_NAME, read_meta
from .encoder_base import centre_and_scale
from .encoders import CO_PURCHASES
from .item_encoders import EmbeddedCatalogue

MODALITY = "purchases"
SIZE = 64  # numbers an item; ours


class CoPurchaseEncoder:
    """What `meta.json` says of the modality. Later items cannot be encoded: nobody has bought them yet.

    Args:
        settings: size, seed, and what was learned from.
    """

    name = CO_PURCHASES

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.state: dict[str, np.ndarray] = {}


def co_purchase_embeddings(
    sequences: Sequence[np.ndarray], num_items: int, size: int = SIZE, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of items by what was bought near them.

    Positive pointwise mutual information of items and their neighbours, log(n_ij N / (n_i n_j)) where that is above 0,
    factorised by a truncated singular value decomposition to U sqrt(S): Levy and Goldberg, "Neural Word Embedding as
    Implicit Matrix Factorization", NeurIPS 2014, with a shift of log 1 = 0. n_ij sums 1 / distance over the times that
    i and j stand within ten purchases of each other in a sequence (ours). LETTER (Wang et al., CIKM 2024) aligns its
    IDs with what is bought together, too, but takes the vectors of a trained recommender for it.

    Args:
        sequences: int arrays of rows, oldest first, a user each.
        num_items: of the catalogue.
        size: numbers an item; fewer where the catalogue has fewer items.
        seed: of the decomposition.

    Returns:
        float32 `(num_items, size)`, centred and scaled to a mean square of 1, zeros where an item was bought by nobody
        or beside nothing; bool `(num_items,)`, where there is an embedding.

    Raises:
        ValueError: no two items were bought by one user, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1 number an item, got {size}.")
    together = near_counts(count_purchases(sequences, num_items))
    bought = np.asarray(together.sum(axis=1)).ravel()
    if not bought.any():
        raise ValueError(
            f"co-purchases: expected users who bought two different items, got none among {len(sequences):,} training "
            "sequences. Leave the modality out: --no-co-purchases."
        )
    pairs = together.tocoo()
    information = np.log(pairs.data) + np.log(bought.sum()) - np.log(bought[pairs.row]) - np.log(bought[pairs.col])
    kept = information > 0
    matrix = sparse.csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=together.shape)
    svd = TruncatedSVD(min(size, num_items - 1), random_state=seed)
    rows = svd.fit_transform(matrix)
    rows /= np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    present = bought > 0
    rows[~present] = np.nan
    return np.nan_to_num(centre_and_scale(rows, {})), present


def near_counts(counts: PurchaseCounts) -> sparse.csr_matrix:
    """Symmetric `(num_items, num_items)`: 1 / distance of each two purchases that stand near each other, summed."""
    values = (counts.before + counts.after) / UNIT
    return sparse.csr_matrix((values, counts.others, counts.starts), shape=(counts.num_items, counts.num_items))


def add_co_purchases(
    embedded: EmbeddedCatalogue,
    interactions: pd.DataFrame,
    until: Cut | None = None,
    size: int = SIZE,
    seed: int = 0,
) -> EmbeddedCatalogue:
    """A catalogue with "purchases" as a further modality: embeddings of what training purchases say of its items.

    [`evaluate`] and `macrec train` refuse semantic IDs of these embeddings that know what is to be predicted: split
    and a fingerprint of the purchases go along, into `meta.json` and into the table of semantic IDs.

    Args:
        embedded: what [`embed_items`] returned.
        interactions: as [`read_interactions`] returns them.
        until: None: all but each user's last two purchases are learned from; a date: what `macrec train --until` that
            day learns from, the purchases before validation begins.
        size: numbers an item. Default 64 (ours).
        seed: of the singular value decomposition.

    Returns:
        A catalogue with all modalities; items that nobody bought lack this one.

    Raises:
        ValueError: purchases of an item that the catalogue lacks, no two items that one user bought, a size below 1,
            or a catalogue that has the modality.

    Example:

    ```python
    >>> add_co_purchases(embedded, read_interactions("interactions.csv")).modalities
    {'text': 256, 'image': 128, 'purchases': 64}
    ```
    """
    if MODALITY in embedded.modalities:
        raise ValueError(f"Expected embeddings without {MODALITY!r}, got {list(embedded.modalities)}: they are there.")
    row_of = {item: row for row, item in enumerate(embedded.item_ids)}
    sequences, about = training_purchases(interactions, row_of, until)
    rows, present = co_purchase_embeddings(sequences, len(embedded), size, seed)
    settings = {"size": rows.shape[1], "seed": seed, LEARNED_FROM: about}
    absent = {embedded.item_ids[row]: "bought beside no other item" for row in np.flatnonzero(~present)}
    return _joined(embedded, rows, settings, absent)


def nobody_bought(arrived: EmbeddedCatalogue, directory: str | Path) -> EmbeddedCatalogue:
    """Items that arrive later, with the modality where an earlier folder of embeddings has it: all of them lack it.

    Args:
        arrived: what [`embed_items`] made of them with that folder's encoders.
        directory: the folder, which `macrec embed` wrote.

    Raises:
        ValueError: its `meta.json` does not say how many numbers an item had.
    """
    _, about = read_meta(Path(directory) / META_NAME)
    entry = about.get(MODALITY, {})
    if entry.get("encoder") != CO_PURCHASES:
        return arrived
    size = entry.get("dimension")
    if type(size) is not int or size < 1:
        raise ValueError(
            f"{Path(directory) / META_NAME}: expected of {MODALITY} its dimension, a whole number above 0, got "
            f"{str(size)[:40]}. Was the file edited? Embed the catalogue again."
        )
    rows = np.zeros((len(arrived), size), dtype=np.float32)
    return _joined(
        arrived, rows, dict(entry.get("settings", {})), dict.fromkeys(arrived.item_ids, "bought by nobody yet")
    )


def _joined(
    embedded: EmbeddedCatalogue, rows: np.ndarray, settings: dict[str, Any], absent: dict[str, str]
) -> EmbeddedCatalogue:
    return EmbeddedCatalogue(
        {**embedded.arrays, MODALITY: rows},
        embedded.item_ids,
        {**embedded.item_encoders, MODALITY: CoPurchaseEncoder(settings)},
        {**embedded.reasons, MODALITY: absent},
    )
