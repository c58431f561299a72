"""The encoders of item texts and photos: chosen by name, or read from a folder of embeddings that they made.

Through any `AutoModel`, or offline without weights.
"""

from pathlib import Path
from typing import Any

from ..model.files import reading
from .embedding_store import FILES, META_NAME, read_meta
from .encoder_base import load_state
from .offline_encoders import OfflineImageEncoder, OfflineTextEncoder
from .transformer_encoders import TransformerImageEncoder, TransformerTextEncoder

OFFLINE = "offline"
CO_PURCHASES = "co-purchases"  # made of purchases (co_purchases.py): no encoder of items
SETTINGS = ("pooling", "max_length", "seed", "standardize")  # what make_encoders takes back from meta.json
TABLE_COLUMNS = ("item_column", "title_column", "image_column")
TextEncoder = OfflineTextEncoder | TransformerTextEncoder
ImageEncoder = OfflineImageEncoder | TransformerImageEncoder
Encoders = dict[str, TextEncoder | ImageEncoder]


def make_encoders(
    text_model: str | None = OFFLINE,
    image_model: str | None = OFFLINE,
    pooling: str | None = None,
    max_length: int = 256,
    device: str | None = None,
    seed: int = 0,
    standardize: bool = True,
) -> Encoders:
    """Encoders of texts and photos, for [`embed_items`].

    The paper takes LLaMA for texts and ViT-L/14 for photos (section 4.1); all defaults are ours, so that a first run
    downloads nothing.

    Args:
        text_model: a model that `AutoModel` loads, by its name on the Hub or by its folder; `"offline"`: hashed TF-IDF
            and a singular value decomposition, which need no weights; `None`: no text.
        image_model: the same for photos, CLIP-like models included; `"offline"`: histograms of colours and edges.
        pooling: how the states of a model become one vector: `"mean"`, `"cls"` or `"pooler"`. `None`: `"pooler"` for
            CLIP-like models, else `"mean"`. The offline encoders have none.
        max_length: tokens that a text model reads of a text; the offline encoder reads all.
        device: of the models, such as `"cuda:1"`; `None`: the accelerator if there is one.
        seed: of the offline encoders' decomposition.
        standardize: whether a model's embeddings are centred and scaled by one number to a mean square of 1, so that
            eq. 10 weighs the modalities alike. The offline encoders always do so.

    Returns:
        `{"text": encoder, "image": encoder}`, without what is `None`.

    Raises:
        OSError: no such model.
        ValueError: an unknown pooling, or a pooler that the checkpoint has no weights for.

    Example:

    ```python
    >>> make_encoders(text_model="sentence-transformers/all-MiniLM-L6-v2", image_model=None)
    ```
    """
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


def load_encoders(directory: str | Path, device: str | None = None) -> Encoders:
    """The encoders that made the embeddings in a folder, in the state that they had then: for items that arrive later.

    Args:
        directory: what [`embed_items`]`(…).save(directory)` or `macrec embed` wrote.
        device: as in [`make_encoders`].

    Returns:
        `{modality: encoder}`, for [`embed_items`]; none for embeddings of purchases, which later items do not have.

    Raises:
        FileNotFoundError: no `meta.json` there, or an offline encoder without its state.
        ValueError: the folder does not name its encoders.
    """
    with reading(directory, *FILES):
        return _load_encoders(directory, device)


def _load_encoders(directory: str | Path, device: str | None) -> Encoders:
    meta_file = Path(directory) / META_NAME
    if not meta_file.is_file():
        raise FileNotFoundError(f"{meta_file}: expected a folder that `macrec embed` wrote, found no meta.json.")
    _, entries = read_meta(meta_file)
    encoders: Encoders = {}
    for modality, entry in entries.items():
        if entry.get("encoder") == CO_PURCHASES:
            continue
        if modality not in ("text", "image") or not entry.get("encoder"):
            raise ValueError(
                f"{meta_file}: expected modalities 'text' and 'image' with their encoders, got {modality!r} by "
                f"{entry.get('encoder')!r}. These embeddings were made elsewhere: embed the new items there too."
            )
        name = {f"{modality}_model": entry["encoder"], f"{_other(modality)}_model": None}
        said: dict = entry["settings"] if isinstance(entry.get("settings"), dict) else {}
        settings = {key: said[key] for key in SETTINGS if key in said}
        encoder = make_encoders(**name, **settings, device=device)[modality]
        if not isinstance(encoder, TransformerTextEncoder | TransformerImageEncoder) or encoder.standardize:
            load_state(encoder, Path(directory) / f"{modality}_encoder.safetensors")
        if not isinstance(encoder, ImageEncoder):
            encoder.columns = _listed_columns(entry["settings"].get("columns"), meta_file)
        encoders[modality] = encoder
    return encoders


def _listed_columns(columns: Any, meta_file: Path) -> list[str] | None:
    if columns is None or (isinstance(columns, list) and columns and all(isinstance(name, str) for name in columns)):
        return columns
    raise ValueError(
        f"{meta_file}: expected the names of the text columns in 'columns', got {columns!r}. Was the file edited? "
        "Embed the catalogue again."
    )


def table_columns(directory: str | Path) -> dict[str, str]:
    """The names that the columns of ids, titles and photos had in the items table of a folder of embeddings.

    Returns:
        Some of `item_column`, `title_column` and `image_column`: those that `macrec embed` was told.
    """
    _, entries = read_meta(Path(directory) / META_NAME)
    settings = [entry.get("settings", {}) for entry in entries.values()]
    return {name: str(entry[name]) for entry in settings for name in TABLE_COLUMNS if name in entry}


def _other(modality: str) -> str:
    return "image" if modality == "text" else "text"
