"""A model directory, and so a Hub repository, is whole: everything that turns a history into recommendations.

    config.json, generation_config.json, model.safetensors   the recommender
    tokenizer.json, tokenizer_config.json                    its tokens
    semantic_ids.safetensors, semantic_ids.json              the catalogue: which item has which codes
    item_counts.safetensors                                  how often each item was taken, for people without a past
    item_titles.json                                         what people call the items
    purchase_counts.safetensors, blend.json                  what customers did, and the weights of the blend
    quantizer/                                               what gave the items their codes, to add items later
    README.md, code_usage.png                                the model card and its picture
    *.py                                                     the model's code, for `trust_remote_code=True` alone

Counts, titles, quantizer, picture and code may be absent. Nothing is a pickle, and nothing of it is run by this
package: the code is for processes that lack it. Files are written beside and moved into place when complete.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from .blend import BLEND_NAME, Blend
from .configuration_macrec import MacRecConfig
from .files import hub_folder, reading
from .modeling_macrec import MacRecForConditionalGeneration
from .purchase_counts import COUNTS_NAME, PurchaseCounts
from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer

if TYPE_CHECKING:
    import numpy as np

    from .modeling_macrec_quantizer import MacRecQuantizer

ITEM_COUNTS_NAME = "item_counts.safetensors"
ITEM_TITLES_NAME = "item_titles.json"
CARD_NAME = "README.md"
QUANTIZER_FOLDER = "quantizer"
_PARTS = {
    "config.json": "the model's configuration",
    "model.safetensors": "the weights",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "the tokenizer's modalities",
    "semantic_ids.safetensors": "the items' codes",
    "semantic_ids.json": "the items' ids",
}
_PATTERNS = ["*.json", "*.safetensors", CARD_NAME]  # what is fetched from the Hub: no code
# Of one writing while they are read. People edit the card, and a training begins by removing its log.
_TOGETHER = ("*.safetensors", "*config.json", "model*.json", "tokenizer.json", "semantic_ids.json", "item_titles.json",
             BLEND_NAME, f"{QUANTIZER_FOLDER}/*")  # fmt: skip
_NOT_OURS = ["checkpoint*"]  # folders that a Trainer may have left beside the model


@dataclass
class Catalogue:
    """What a model directory holds beside the model.

    Attributes:
        item_counts: long, `(num_items,)`, or None.
        item_titles: `{item_id: title}`, empty where none were kept.
        purchase_counts, blend: what customers did and the weights of the blend; None unless both are there.
        card: text of the model card, None where there is none.
        directory: where it was read from.
    """

    table: SemanticIdTable
    item_counts: torch.Tensor | None
    item_titles: dict[str, str]
    card: str | None
    directory: Path
    purchase_counts: PurchaseCounts | None
    blend: Blend | None

    def load_quantizer(self) -> "MacRecQuantizer | None":
        """The `MacRecQuantizer` of the directory, None where it has none. Recommending does not need it."""
        folder = self.directory / QUANTIZER_FOLDER
        if not folder.is_dir():
            return None
        from .modeling_macrec_quantizer import MacRecQuantizer

        with reading(self.directory, f"{QUANTIZER_FOLDER}/*"):
            return MacRecQuantizer.from_pretrained(folder).eval()


@dataclass
class ModelParts(Catalogue):
    """What a model directory holds.

    Attributes:
        model: in eval mode, on the CPU.
    """

    model: MacRecForConditionalGeneration
    tokenizer: SemanticIdTokenizer


def load_model_directory(
    name_or_path: str | Path, *, dtype: str | torch.dtype = "auto", **hub_kwargs: Any
) -> ModelParts:
    """Reads a model directory, or fetches it from the Hub first.

    Args:
        name_or_path: a directory, or the id of a repository such as `user/macrec-shop`.
        dtype: of the weights, such as `torch.bfloat16` or `"bfloat16"`; "auto": as they were saved.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … for `snapshot_download`.

    Raises:
        FileNotFoundError: a directory that lacks a part.
        OSError: neither a directory nor a repository that can be reached; or its files are being replaced.
        ValueError: parts that are cut off, that do not belong together, or that a newer release wrote.
    """
    directory = local_directory(name_or_path, hub_kwargs)
    with reading(directory, *_TOGETHER):
        return _load_model_directory(directory, dtype)


def _load_model_directory(directory: Path, dtype: str | torch.dtype) -> ModelParts:
    catalogue = load_catalogue(directory)  # first: the table knows whether a newer release wrote it
    table = catalogue.table
    tokenizer = SemanticIdTokenizer.from_pretrained(directory)
    try:
        model = MacRecForConditionalGeneration.from_pretrained(directory, semantic_ids=table, dtype=dtype).eval()
    except RuntimeError as error:  # transformers has logged which weights do not fit
        raise ValueError(
            f"Expected weights of the sizes that {directory / 'config.json'} names, got others. Were the two files "
            "copied from different models?"
        ) from error
    check_parts(model, tokenizer, table)
    return ModelParts(**vars(catalogue), model=model, tokenizer=tokenizer)


def load_catalogue(name_or_path: str | Path, **hub_kwargs: Any) -> Catalogue:
    """Reads a model directory without its model; arguments and errors are those of `load_model_directory`."""
    directory = local_directory(name_or_path, hub_kwargs)
    with reading(directory, *_TOGETHER):
        return _load_catalogue(directory)


def _load_catalogue(directory: Path) -> Catalogue:
    _check_complete(directory)
    _check_readable(directory)
    table = SemanticIdTable.from_pretrained(directory)
    counts_path, titles_path, card_path = (
        directory / name for name in (ITEM_COUNTS_NAME, ITEM_TITLES_NAME, CARD_NAME)
    )
    counts = load_file(counts_path)["item_counts"] if counts_path.is_file() else None
    titles = json.loads(titles_path.read_text(encoding="utf-8")) if titles_path.is_file() else {}
    card = card_path.read_text(encoding="utf-8") if card_path.is_file() else None
    purchases, blend = None, None
    if (directory / BLEND_NAME).is_file() and (directory / COUNTS_NAME).is_file():
        purchases, blend = check_purchase_counts(PurchaseCounts.load(directory), table), Blend.load(directory)
    return Catalogue(table, check_item_counts(counts, table), titles, card, directory, purchases, blend)


def check_parts(model: MacRecForConditionalGeneration, tokenizer: SemanticIdTokenizer, table: SemanticIdTable) -> None:
    """Raises ValueError unless model, tokenizer and table speak of the same codes."""
    in_tokenizer = (tuple(tokenizer.modalities), tokenizer.num_levels, tokenizer.codebook_size)
    in_table = (tuple(table.modalities), table.num_levels, table.codebook_size)
    if in_tokenizer != in_table:
        raise ValueError(
            "Expected tokenizer and table of the same (modalities, num_levels, codebook_size), got "
            f"{in_tokenizer} and {in_table}. Were they made for different catalogues? "
            "SemanticIdTokenizer.from_table(table) makes one that fits, but the model must have been trained with it."
        )
    if model.config.vocab_size < len(tokenizer):
        raise ValueError(
            f"Expected a model with a vocabulary of {len(tokenizer)} tokens, as the tokenizer has, got vocab_size "
            f"{model.config.vocab_size}. Make it with MacRecConfig(vocab_size=len(tokenizer))."
        )


def check_item_counts(item_counts: "torch.Tensor | np.ndarray | None", table: SemanticIdTable) -> torch.Tensor | None:
    """The counts as a long tensor on the CPU; ValueError unless there is one for each item, none below zero."""
    if item_counts is None:
        return None
    counts = torch.as_tensor(item_counts)
    if counts.is_floating_point() or tuple(counts.shape) != (table.num_items,) or (counts < 0).any():
        raise ValueError(
            "item_counts: expected whole numbers of at least 0, one for each of the table's "
            f"{table.num_items} items, got {counts.dtype} of shape "
            f"{tuple(counts.shape)}. np.bincount(rows, minlength=table.num_items) makes them."
        )
    return counts.detach().to("cpu", torch.long).contiguous()


def check_purchase_counts(counts: PurchaseCounts, table: SemanticIdTable) -> PurchaseCounts:
    """The counts; ValueError unless they are of the table's items."""
    if counts.num_items != table.num_items:
        raise ValueError(
            f"purchase_counts: expected those of the table's {table.num_items} items, got those of "
            f"{counts.num_items}. `macrec refresh` counts anew."
        )
    return counts


def local_directory(name_or_path: str | Path, hub_kwargs: Mapping[str, Any] | None = None) -> Path:
    """A model directory as it is, or that of a repository; errors are those of `model.files.hub_folder`."""
    expected = "a model directory or a repository of the Hub"
    return hub_folder(name_or_path, _PATTERNS, expected, ignored=_NOT_OURS, **(hub_kwargs or {}))


def _check_complete(directory: Path) -> None:
    shards = (directory / "model.safetensors.index.json").is_file()
    missing = [
        f"{name} ({what})"
        for name, what in _PARTS.items()
        if not (directory / name).is_file() and not (shards and name == "model.safetensors")
    ]
    if missing:
        raise FileNotFoundError(
            f"Expected a whole model directory in {directory}, found no {', no '.join(missing)}. Was the directory "
            "copied in part, or is it a checkpoint of the Trainer? `macrec train` and "
            "MacRecRecommender.save_pretrained write whole ones."
        )


def _check_readable(directory: Path) -> None:
    """Reads JSON files and the heads of the weights: files cut off in a copy are found before anything is built."""
    for path in sorted([*directory.glob("*.json"), *directory.glob("*.safetensors")]):
        try:
            if path.suffix == ".json":
                content = json.loads(path.read_text(encoding="utf-8"))
            else:
                with safe_open(path, "pt"):
                    pass
        except (ValueError, SafetensorError) as error:
            raise ValueError(
                f"{path}: expected a part of a model directory, but it cannot be read: {error}. Was it cut off while "
                "it was copied? Copy it again."
            ) from error
        if path.name == "config.json" and content.get("model_type") != MacRecConfig.model_type:
            raise ValueError(
                f"{path}: expected model_type {MacRecConfig.model_type!r}, got {content.get('model_type')!r}: another "
                "kind of model, or one of a newer release. Upgrade macrec_hf, or name a folder of `macrec train`."
            )
