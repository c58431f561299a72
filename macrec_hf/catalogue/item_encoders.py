"""Item texts and item photos to embeddings.

An encoder (`encoders.py`) has a `name`, its `settings`, and two steps: `batch_features(batch)` for each batch, and
`catalogue_embeddings(features)` once for all of them. One of texts keeps the `columns` that its first texts came from,
one of photos has the `photo_size` they are opened with. `encode_texts` and `encode_photos` drive it; `embed_items`
does both for an items table.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, TypeAlias, cast, overload

import numpy as np
import pandas as pd
import scipy.sparse
from transformers.utils import logging

from ..data.cells import holds_numbers, plain_text
from ..data.learned_purchases import LEARNED_FROM
from ..data.photos import read_photo
from ..data.text_files import shortened
from .catalogue_batches import Processes, in_batches
from .embedding_store import EmbeddingStore
from .encoder_base import save_state
from .encoders import OFFLINE, Encoders, ImageEncoder, TextEncoder

logger = logging.get_logger(__name__)

TEXT_COLUMNS = ("title", "brand", "category", "text")
Features: TypeAlias = np.ndarray | scipy.sparse.csr_matrix  # of a batch: (batch_size, num_features)


def encode_texts(
    texts: list[str],
    encoder: TextEncoder,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes | None = None,
    learned_from: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[int, str]] | None:
    """Encodes texts, long ones first so that batches are of even length.

    Args:
        learned_from: bool (num_items,), which items an encoder that is new may learn from; None: all.
        accelerator: an `accelerate.Accelerator`: its processes take the batches in turn.

    Returns (None in other processes than the main one):
        embeddings: float32 (num_items, embedding_size), zeros where missing.
        reasons: `{row: why it is missing}`.

    Raises:
        ValueError: not one text to encode, or an encoder that gives NaN or infinity.
    """
    reasons = {row: "empty text" for row, text in enumerate(texts) if not text.strip()}
    rows = sorted((row for row in range(len(texts)) if row not in reasons), key=lambda row: -len(texts[row]))

    def encode(batch: list[int]) -> Features:
        return encoder.batch_features([texts[row] for row in batch])

    features = in_batches(rows, batch_size, encode, "text", processes=accelerator, progress=progress)
    if accelerator is not None and not accelerator.is_main_process:
        return None
    return _collect(encoder, rows, features, len(texts), reasons, "text", learned_from)


def encode_photos(
    photos: Sequence[str | Path | bytes | None],
    encoder: ImageEncoder,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes | None = None,
    learned_from: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[int, str]] | None:
    """Opens and encodes photos; returns and raises like `encode_texts`. A photo that cannot be read is missing.

    Args:
        photos: paths of files, or their contents; None: there is none.
    """
    reasons: dict[int, str] = {}
    rows: list[int] = []
    features: list[Features] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:

        def encode(batch: list[int]) -> tuple[list[int], dict[int, str], Features | None]:
            named = [photos[row] for row in batch]
            opened = dict(zip(batch, pool.map(read_photo, named, repeat(encoder.photo_size)), strict=True))
            good = {row: photo for row, photo in opened.items() if not isinstance(photo, str)}
            bad = {row: text for row, text in opened.items() if isinstance(text, str)}
            return list(good), bad, encoder.batch_features(list(good.values())) if good else None

        every = list(range(len(photos)))
        parts = in_batches(every, batch_size, encode, "image", processes=accelerator, progress=progress)
    if accelerator is not None and not accelerator.is_main_process:
        return None
    for good, bad, encoded in parts:
        rows += good
        reasons |= bad
        features += [] if encoded is None else [encoded]
    return _collect(encoder, rows, features, len(photos), reasons, "image", learned_from, photos)


def _collect(
    encoder: TextEncoder | ImageEncoder,
    rows: list[int],
    features: list[Features],
    num_items: int,
    reasons: dict[int, str],
    modality: str,
    learned_from: np.ndarray | None,
    photos: Sequence[str | Path | bytes | None] = (),
) -> tuple[np.ndarray, dict[int, str]]:
    if not rows:
        examples = "; ".join(sorted(set(reasons.values()))[:3])
        named = next((photo for photo in photos if isinstance(photo, str | Path)), "")
        examples += f", such as {shortened(str(named), 200)}" * bool(named)
        raise ValueError(
            f"{modality}: expected at least one item that can be encoded, got none of {num_items} ({examples}). Check "
            "the column and, for photos, that paths are given from the items file's folder; or leave the modality out "
            "(--text-model none, --image-model none)."
        )
    stacked: Any = (
        scipy.sparse.vstack(features, "csr") if scipy.sparse.issparse(features[0]) else np.concatenate(features)
    )
    if learned_from is not None:
        first = np.flatnonzero(learned_from[rows])
        if not len(first):
            raise ValueError(
                f"{modality}: expected at least one item to learn from that can be encoded, got none of "
                f"{learned_from.sum()}. Choose a later --until, or leave the modality out."
            )
        encoder.catalogue_embeddings(stacked[first])  # learns; a second call does not
    encoded = encoder.catalogue_embeddings(stacked)
    finite = np.isfinite(encoded).all(axis=1)
    if not finite.all():
        if encoder.name != OFFLINE:
            raise ValueError(
                f"{modality}: expected finite embeddings from {encoder.name}, got NaN or infinity for "
                f"{(~finite).sum()} items. Probably half precision overflowed: use the CPU (--device cpu), which "
                "computes in float32."
            )
        reasons.update({rows[index]: "no word known to the encoder" for index in np.flatnonzero(~finite)})
        encoded[~finite] = 0
    embeddings = np.zeros((num_items, encoded.shape[1]), dtype=np.float32)
    embeddings[rows] = encoded
    return embeddings, dict(sorted(reasons.items()))


class EmbeddedCatalogue(EmbeddingStore):
    """What `embed_items` returns: the embeddings, and what it takes to embed further items in the same way.

    Args:
        arrays: `{modality: float32 (num_items, embedding_size)}`.
        item_ids: one a row.
        item_encoders: `{modality: encoder}`, kept as an attribute.
        reasons: `{modality: {item_id: why it is missing}}`, kept as an attribute.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        item_ids: Sequence[str],
        item_encoders: Mapping[str, Any],
        reasons: Mapping[str, Mapping[str, str]],
    ):
        names = {modality: encoder.name for modality, encoder in item_encoders.items()}
        super().__init__(arrays, item_ids, {modality: list(missing) for modality, missing in reasons.items()}, names)
        self.item_encoders, self.reasons = item_encoders, reasons
        kept = {modality: encoder.settings for modality, encoder in item_encoders.items()}
        self.learned_from = {name: said[LEARNED_FROM] for name, said in kept.items() if LEARNED_FROM in said}

    def _write(self, directory: Path, settings: Mapping[str, dict] | None) -> None:
        """What each encoder has learned goes into `<modality>_encoder.safetensors`."""
        about = {
            modality: {
                **encoder.settings,
                "missing_reasons": self.reasons[modality],
                **(settings or {}).get(modality, {}),
            }
            for modality, encoder in self.item_encoders.items()
        }
        super()._write(directory, about)
        for modality, encoder in self.item_encoders.items():
            if encoder.state:
                save_state(encoder, directory / f"{modality}_encoder.safetensors")


def item_texts(items: pd.DataFrame, columns: Sequence[str] | None = None) -> list[str]:
    """One text per item: title, brand, category and text, those that exist, joined with ". ".

    Args:
        items: pandas.DataFrame as `read_items` gives it.
        columns: which columns to join instead, in order.

    Raises:
        ValueError: a column named that the table does not have.
    """
    unknown = [column for column in columns or () if column not in items]
    if unknown:
        raise ValueError(f"text_columns: expected columns of the items, {list(items.columns)}, got also {unknown}.")
    chosen = columns or [column for column in TEXT_COLUMNS if column in items]
    parts = [[plain_text(cell).strip() for cell in items[column]] for column in chosen]
    if not parts:
        return [""] * len(items)
    return [". ".join(text for text in row if text) for row in zip(*parts, strict=True)]


def _columns(items: pd.DataFrame, given: Sequence[str] | None, encoder: TextEncoder | None) -> list[str]:
    """The columns that become an item's text; those of the first time stay with the encoder."""
    known = None if encoder is None else encoder.columns
    if known and given and list(given) != known:
        logger.warning(f"text_columns: {list(given)} are read, the earlier items were embedded by {known}.")
    columns = list(given or known or [column for column in TEXT_COLUMNS if column in items])
    if not given and (lacking := [column for column in columns if column not in items]):
        columns = [column for column in columns if column not in lacking]
        if not columns:
            raise ValueError(
                f"text_columns: expected {known}, by which the earlier items were embedded, got "
                f"{list(items.columns)}. Name the columns with --text-columns, or text_columns in Python."
            )
        logger.warning(f"text_columns: the table has no {lacking}, by which the earlier items were embedded too.")
    empty = [column for column in given or () if not any(item_texts(items, [column]))]  # refuses unknown ones
    if 0 < len(empty) < len(columns) and len(items):
        named = ", ".join(map(repr, empty))
        logger.warning(f"text_columns: no item has a word in {named}, so texts are made of the others alone.")
    if encoder is not None and encoder.columns is None:
        encoder.columns = columns
        _warn_of_numbers(items, columns)
    return columns


def _warn_of_numbers(items: pd.DataFrame, columns: Sequence[str]) -> None:
    """A price or a stock count counts as words of the text, which are rare or shared by items that are not alike."""
    if numbers := [column for column in columns if holds_numbers(items[column])]:
        words = ",".join(column for column in columns if column not in numbers) or "NAME"
        logger.warning(
            f"text_columns: nearly all values of {', '.join(map(repr, numbers))} are numbers, which say little of "
            f"what an item is and spoil its text codes. Name columns of words alone: --text-columns {words}, or "
            "text_columns in Python."
        )


@overload
def embed_items(
    items: pd.DataFrame,
    encoders: Encoders,
    *,
    text_columns: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: None = None,
    learned_from: Collection[str] | None = None,
) -> EmbeddedCatalogue: ...


@overload
def embed_items(
    items: pd.DataFrame,
    encoders: Encoders,
    *,
    text_columns: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes,
    learned_from: Collection[str] | None = None,
) -> EmbeddedCatalogue | None: ...


def embed_items(
    items: pd.DataFrame,
    encoders: Encoders,
    *,
    text_columns: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes | None = None,
    learned_from: Collection[str] | None = None,
) -> EmbeddedCatalogue | None:
    """Embeds the texts and photos of a catalogue.

    Args:
        items: pandas.DataFrame as [`read_items`] gives it; `image` holds paths, contents of files or None.
        encoders: of [`make_encoders`], or of [`load_encoders`] for items that arrive after training. A modality that
            no item has (no `image` at all, every text empty) is left out.
        text_columns: columns that are joined into an item's text. Default: those that the text encoder read the first
            time, else title, brand, category and text, those that exist (ours).
        batch_size: items that an encoder reads at a time. Default 32 (ours).
        progress: whether a bar is shown where there are many batches.
        accelerator: an `accelerate.Accelerator`: its processes share the work; the main one returns the embeddings,
            the others None.
        learned_from: ids of the items that new encoders learn from (words, components, mean and scale), such as those
            sold before a date; the others are embedded as if they arrived later. None: all.

    Returns:
        An [`EmbeddingStore`], float32 (num_items, embedding_size) a modality in the order of `encoders`, rows in the
        order of `items`. Beside the rest, `item_encoders` are the encoders, `reasons` says which items lack a modality
        and why, `{modality: {item_id: reason}}`, and `save` keeps both.

    Raises:
        ValueError: a table without `item_id`, a modality other than text and image, nothing to embed or to learn from,
            items that name
            photos of which not one can be read, a text column that is not there, a repeated item, or an encoder that
            gives NaN or infinity.

    Example:

    ```python
    >>> embeddings = embed_items(read_items("items.jsonl"), make_encoders())
    >>> embeddings.save("emb")
    >>> embeddings.modalities
    {'text': 256, 'image': 128}
    ```
    """
    _check_embeddable(items, encoders)
    # pandas may have made NaN of None
    photos = [photo if isinstance(photo, str | Path | bytes) else None for photo in items.get("image", [])]
    texts = item_texts(items, _columns(items, text_columns, cast(TextEncoder | None, encoders.get("text"))))
    has_any = {"text": any(text.strip() for text in texts), "image": any(photos)}
    left_out = [modality for modality in encoders if not has_any[modality]]
    encoders = {modality: encoder for modality, encoder in encoders.items() if has_any[modality]}
    if not encoders:
        raise ValueError(
            f"Expected items with text or photos to embed, got {len(items)} items with neither. {_sources(items)}"
        )
    for modality in left_out:
        what = {"text": "text", "image": "photo"}[modality]
        logger.warning(f"No item has a {what}: embeddings without {modality}. {_sources(items)}")
    if "text" in encoders and not text_columns and not any(map(any, (items.get("title", []), items.get("text", [])))):
        columns = cast(TextEncoder, encoders["text"]).columns or []
        if not set(columns) - set(TEXT_COLUMNS):  # the usual ones, not those that an earlier catalogue was given
            logger.warning(f"No item has a title or a text: what is left of an item is little. {_sources(items)}")
    first = None if learned_from is None else items["item_id"].isin(set(learned_from)).to_numpy()
    how = (batch_size, progress, accelerator, first)
    arrays, reasons = {}, {}
    for modality, encoder in encoders.items():
        if modality == "text":
            encoded = encode_texts(texts, cast(TextEncoder, encoder), *how)
        else:
            encoded = encode_photos(photos, cast(ImageEncoder, encoder), *how)
        if encoded is None:
            continue
        arrays[modality], missing = encoded
        reasons[modality] = {str(items["item_id"].iloc[row]): reason for row, reason in missing.items()}
        _report_missing(modality, reasons[modality])
    if not arrays:  # another process than the main one
        return None
    return EmbeddedCatalogue(arrays, items["item_id"].tolist(), encoders, reasons)


def _sources(items: pd.DataFrame) -> str:
    return (
        f"Text comes from the columns {', '.join(TEXT_COLUMNS)}, photos from the paths in 'image'; the table has "
        f"{items.attrs.get('columns', list(items.columns))}. Name others with --title-column, --text-columns and "
        "--image-column, or arguments of these names in Python."
    )


def _check_embeddable(items: pd.DataFrame, encoders: Mapping[str, Any]) -> None:
    if "item_id" not in items:
        raise ValueError(
            f"items: expected a table with a column 'item_id', got {list(items.columns)}. read_items gives such a "
            "table."
        )
    unknown = [modality for modality in encoders if modality not in ("text", "image")]
    if unknown:
        raise ValueError(
            f"encoders: expected some of 'text' and 'image', got {unknown}. Embed other modalities elsewhere and put "
            "all of them into one EmbeddingStore."
        )


def _report_missing(modality: str, reasons: Mapping[str, str]) -> None:
    if reasons:
        shown = "; ".join(f"{item}: {reason}" for item, reason in list(reasons.items())[:10])
        count = f"{len(reasons)} items have" if len(reasons) > 1 else "1 item has"
        rest = f"; and {len(reasons) - 10} more, all in meta.json" if len(reasons) > 10 else ""
        logger.warning(f"{count} no {modality} embedding ({shown}{rest}).")
