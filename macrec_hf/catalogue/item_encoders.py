"""Item texts and item photos to embeddings: through any `AutoModel`, or offline without weights.

An encoder has a `name`, its `settings`, and two steps: `batch_features(batch)` for each batch, and
`catalogue_embeddings(features)` once for all of them. `encode_texts` and `encode_photos` drive it; `embed_items` does
both for an items table.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
import scipy.sparse
from PIL import Image, ImageOps
from transformers.utils import logging

from .catalogue_batches import Processes, in_batches
from .embedding_store import EmbeddingStore
from .encoder_base import load_state, save_state
from .offline_encoders import OfflineImageEncoder, OfflineTextEncoder
from .transformer_encoders import TransformerImageEncoder, TransformerTextEncoder

logger = logging.get_logger(__name__)

OFFLINE = "offline"
SETTINGS = ("pooling", "max_length", "seed", "standardize")  # what make_encoders takes back from meta.json
TEXT_COLUMNS = ("title", "brand", "category", "text")
TextEncoder = OfflineTextEncoder | TransformerTextEncoder
ImageEncoder = OfflineImageEncoder | TransformerImageEncoder
Encoders = dict[str, TextEncoder | ImageEncoder]
Features: TypeAlias = np.ndarray | scipy.sparse.csr_matrix  # of a batch: (batch_size, num_features)


def encode_texts(
    texts: list[str],
    encoder: TextEncoder,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes | None = None,
) -> tuple[np.ndarray, dict[int, str]] | None:
    """Encodes texts, long ones first so that batches are of even length.

    Args:
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
    return _collect(encoder, rows, features, len(texts), reasons, "text")


def encode_photos(
    paths: Sequence[str | Path | None],
    encoder: ImageEncoder,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes | None = None,
) -> tuple[np.ndarray, dict[int, str]] | None:
    """Opens and encodes photos; returns and raises like `encode_texts`. A photo that cannot be read is missing."""
    reasons: dict[int, str] = {}
    rows: list[int] = []
    features: list[Features] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:

        def encode(batch: list[int]) -> tuple[list[int], dict[int, str], Features | None]:
            opened = dict(zip(batch, pool.map(_open_photo, [paths[row] for row in batch]), strict=True))
            good = {row: photo for row, photo in opened.items() if not isinstance(photo, str)}
            bad = {row: text for row, text in opened.items() if isinstance(text, str)}
            return list(good), bad, encoder.batch_features(list(good.values())) if good else None

        every = list(range(len(paths)))
        parts = in_batches(every, batch_size, encode, "image", processes=accelerator, progress=progress)
    if accelerator is not None and not accelerator.is_main_process:
        return None
    for good, bad, encoded in parts:
        rows += good
        reasons |= bad
        features += [] if encoded is None else [encoded]
    return _collect(encoder, rows, features, len(paths), reasons, "image")


def _open_photo(path: str | Path | None) -> Image.Image | str:
    """The photo upright in RGB on white, or why there is none."""
    if path is None:
        return "no photo named"
    if str(path).startswith(("http://", "https://")):
        return "a URL: download the photo and give its path"
    try:
        with Image.open(path) as file:
            image: Image.Image = ImageOps.exif_transpose(file)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # the decoders of pillow raise a dozen kinds; one bad file must not stop a catalogue
        return f"{type(error).__name__}: {error}".replace(str(path), Path(path).name)


def _collect(
    encoder: TextEncoder | ImageEncoder,
    rows: list[int],
    features: list[Features],
    num_items: int,
    reasons: dict[int, str],
    modality: str,
) -> tuple[np.ndarray, dict[int, str]]:
    if not rows:
        examples = "; ".join(sorted(set(reasons.values()))[:3])
        raise ValueError(
            f"{modality}: expected at least one item that can be encoded, got none of {num_items} ({examples}). Check "
            "the column and, for photos, that paths are given from the items file's folder; or leave the modality out."
        )
    stacked: Any = (
        scipy.sparse.vstack(features, "csr") if scipy.sparse.issparse(features[0]) else np.concatenate(features)
    )
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


@dataclass
class EmbeddedCatalogue:
    """What `embed_items` returns: the embeddings, and what it takes to embed further items in the same way.

    Attributes:
        store: the embeddings.
        encoders: `{modality: encoder}`.
        reasons: `{modality: {item_id: why it is missing}}`.
    """

    store: EmbeddingStore
    encoders: Encoders
    reasons: dict[str, dict[str, str]]

    def save(self, directory: str | Path) -> Path:
        """Writes the `emb/` directory, and what each encoder learned as `<modality>_encoder.safetensors`."""
        settings = {m: {**self.encoders[m].settings, "missing_reasons": self.reasons[m]} for m in self.encoders}
        directory = self.store.save(directory, settings)
        for modality, encoder in self.encoders.items():
            if encoder.state:
                save_state(encoder, directory / f"{modality}_encoder.safetensors")
        return directory


def make_encoders(
    text_model: str | None = OFFLINE,
    image_model: str | None = OFFLINE,
    pooling: str | None = None,
    max_length: int = 256,
    device: str | None = None,
    seed: int = 0,
    standardize: bool = True,
) -> Encoders:
    """`{modality: encoder}` by name, path or `"offline"`; `None` leaves a modality out."""
    encoders: Encoders = {}
    if text_model == OFFLINE:
        encoders["text"] = OfflineTextEncoder(seed=seed)
    elif text_model is not None:
        encoders["text"] = TransformerTextEncoder(text_model, pooling, max_length, device, standardize)
    if image_model == OFFLINE:
        encoders["image"] = OfflineImageEncoder(seed=seed)
    elif image_model is not None:
        encoders["image"] = TransformerImageEncoder(image_model, pooling, device, standardize)
    return encoders


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
        raise ValueError(f"text columns: {unknown} are not in the items table, which has {list(items.columns)}.")
    chosen = columns or [column for column in TEXT_COLUMNS if column in items]
    parts = [items[column].fillna("").map(_as_text) for column in chosen]
    if not parts:
        return [""] * len(items)
    return [". ".join(text for text in row if text) for row in zip(*parts, strict=True)]


def _as_text(value: object) -> str:
    return " ".join(map(str, value)).strip() if isinstance(value, (list, tuple, np.ndarray)) else str(value).strip()


def load_encoders(directory: str | Path, device: str | None = None) -> Encoders:
    """`{modality: encoder}` as they stood when `macrec embed` wrote `directory`: for items that arrive later.

    Raises:
        FileNotFoundError: no `meta.json` there, or an offline encoder without its state.
        ValueError: the folder does not name its encoders.
    """
    meta_file = Path(directory) / "meta.json"
    if not meta_file.is_file():
        raise FileNotFoundError(f"{meta_file}: expected a folder that `macrec embed` wrote, found no meta.json.")
    entries = json.loads(meta_file.read_text())["modalities"]
    encoders: Encoders = {}
    for modality, entry in entries.items():
        if modality not in ("text", "image") or not entry.get("encoder"):
            raise ValueError(
                f"{meta_file}: expected modalities 'text' and 'image' with their encoders, got {modality!r} by "
                f"{entry.get('encoder')!r}. These embeddings were made elsewhere: embed the new items there too."
            )
        name = {f"{modality}_model": entry["encoder"], f"{_other(modality)}_model": None}
        settings = {key: entry["settings"][key] for key in SETTINGS if key in entry["settings"]}
        encoder = make_encoders(**name, **settings, device=device)[modality]
        if not isinstance(encoder, TransformerTextEncoder | TransformerImageEncoder) or encoder.standardize:
            load_state(encoder, Path(directory) / f"{modality}_encoder.safetensors")
        encoders[modality] = encoder
    return encoders


def _other(modality: str) -> str:
    return "image" if modality == "text" else "text"


def embed_items(
    items: pd.DataFrame,
    encoders: Encoders,
    *,
    text_columns: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    accelerator: Processes | None = None,
) -> EmbeddedCatalogue | None:
    """Embeds an items table with `encoders` (of `make_encoders` or `load_encoders`), in their order.

    Args:
        items: pandas.DataFrame as `read_items` gives it; `image` holds paths or None.
        encoders: `{"text": ..., "image": ...}`. A modality that no item has (no `image` at all, every text empty) is
            left out.
        text_columns: see `item_texts`.
        accelerator: an `accelerate.Accelerator`: its processes share the work; the main one returns the catalogue,
            the others None.

    Raises:
        ValueError: nothing to embed, or items that name photos of which not one can be read.
    """
    # pandas may have made NaN of None
    photos = [path if isinstance(path, (str, Path)) else None for path in items["image"]] if "image" in items else []
    texts = item_texts(items, text_columns)
    has_any = {"text": any(text.strip() for text in texts), "image": any(photos)}
    encoders = {modality: encoder for modality, encoder in encoders.items() if has_any[modality]}
    if not encoders:
        raise ValueError(
            f"Expected items with text or photos to embed, got {len(items)} items with neither. Text comes from the "
            f"columns {', '.join(TEXT_COLUMNS)}, photos from the paths in 'image'; the table has "
            f"{list(items.columns)}."
        )
    arrays, reasons = {}, {}
    for modality, encoder in encoders.items():
        if modality == "text":
            encoded = encode_texts(texts, cast(TextEncoder, encoder), batch_size, progress, accelerator)
        else:
            encoded = encode_photos(photos, cast(ImageEncoder, encoder), batch_size, progress, accelerator)
        if encoded is None:
            continue
        arrays[modality], missing = encoded
        reasons[modality] = {str(items["item_id"].iloc[row]): reason for row, reason in missing.items()}
        _report_missing(modality, reasons[modality])
    if not arrays:  # another process than the main one
        return None
    names = {modality: encoder.name for modality, encoder in encoders.items()}
    store = EmbeddingStore(arrays, items["item_id"].tolist(), {m: list(r) for m, r in reasons.items()}, names)
    return EmbeddedCatalogue(store, encoders, reasons)


def _report_missing(modality: str, reasons: Mapping[str, str]) -> None:
    if reasons:
        shown = "; ".join(f"{item}: {reason}" for item, reason in list(reasons.items())[:10])
        rest = f"; and {len(reasons) - 10} more, all in meta.json" if len(reasons) > 10 else ""
        logger.warning(f"{len(reasons)} items have no {modality} embedding ({shown}{rest}).")
