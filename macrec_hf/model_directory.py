"""A model directory, and so a Hub repository, is whole: everything that turns a history into recommendations.

    config.json, generation_config.json, model.safetensors   the recommender
    tokenizer.json, tokenizer_config.json                    its tokens
    semantic_ids.safetensors, semantic_ids.json              the catalogue: which item has which codes
    item_counts.safetensors                                  how often each item was taken, for people without a past
    item_titles.json                                         what people call the items
    quantizer/                                               what gave the items their codes, to add items later
    README.md, code_usage.png                                the model card and its picture
    *.py                                                     the model's code, for `trust_remote_code=True` alone

Counts, titles, quantizer, picture and code may be absent. Nothing is a pickle, and nothing of it is run by this
package: the code is for processes that lack it. Files are written beside and moved into place when complete.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .code_usage_picture import code_usage_picture
from .configuration_macrec import MacRecConfig
from .model_card import PICTURE_NAME, model_card, with_results
from .modeling_macrec import MacRecForConditionalGeneration
from .remote_code import code_files, write_code
from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer

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
_NOT_OURS = ["checkpoint*"]  # folders that a Trainer may have left beside the model


@dataclass
class Catalogue:
    """What a model directory holds beside the model.

    Attributes:
        item_counts: long, `(num_items,)`, or None.
        item_titles: `{item_id: title}`, empty where none were kept.
        card: text of the model card, None where there is none.
        directory: where it was read from.
    """

    table: SemanticIdTable
    item_counts: torch.Tensor | None
    item_titles: dict[str, str]
    card: str | None
    directory: Path

    def load_quantizer(self):
        """The `MacRecQuantizer` of the directory, None where it has none. Recommending does not need it."""
        folder = self.directory / QUANTIZER_FOLDER
        if not folder.is_dir():
            return None
        from .modeling_macrec_quantizer import MacRecQuantizer

        return MacRecQuantizer.from_pretrained(folder).eval()


@dataclass
class ModelParts(Catalogue):
    """What a model directory holds.

    Attributes:
        model: in eval mode, on the CPU.
    """

    model: MacRecForConditionalGeneration
    tokenizer: SemanticIdTokenizer


def save_model_directory(
    directory: str | Path,
    *,
    model: MacRecForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    table: SemanticIdTable,
    quantizer=None,
    item_counts: torch.Tensor | None = None,
    item_titles: Mapping[str, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    license: str = "unknown",
    card: str | None = None,
    include_code: bool = True,
) -> Path:
    """Writes a whole model directory. Files of other purposes that are there already stay.

    Args:
        directory: made if it does not exist.
        quantizer: a `MacRecQuantizer`; None: none is kept, and one of an earlier save is removed.
        item_counts: integers, `(num_items,)`: how often each item was taken.
        item_titles: `{item_id: title}`, to show beside the ids.
        metrics: `{"ensemble": {"hr@10": …}, …}` as `evaluation.ranking_metrics` gives them, or the report of
            `macrec evaluate`, for the model card.
        training: what made the model, for the card: see `model_card.model_card`.
        license: of the weights, an identifier of the Hub such as `apache-2.0`, for the card.
        card: text of `README.md`, into which `metrics` are put; None: a card is written.
        include_code: whether the model's code goes along, so that `trust_remote_code=True` loads every part where
            `macrec_hf` is not installed.

    Returns:
        The directory.

    Raises:
        ValueError: the parts do not belong together.
    """
    check_parts(model, tokenizer, table)
    counts = check_item_counts(item_counts, table)
    with _moved_into_place(Path(directory)) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        table.save_pretrained(beside)
        if counts is not None:
            save_file({"item_counts": counts}, beside / ITEM_COUNTS_NAME, metadata={"format": "pt"})
        if item_titles:
            titles = {item: item_titles[item] for item in table.item_ids if item_titles.get(item)}
            (beside / ITEM_TITLES_NAME).write_text(json.dumps(titles, ensure_ascii=False), encoding="utf-8")
        if quantizer is not None:
            quantizer.save_pretrained(beside / QUANTIZER_FOLDER)
        write_code(beside, include_code)
        picture = code_usage_picture(table)
        if picture:
            (beside / PICTURE_NAME).write_bytes(picture)
        if card is None:
            shown, told = PICTURE_NAME if picture else None, {"training": training, "license": license}
            card = model_card(model, table, quantizer, picture=shown, code=include_code, **told)
        (beside / CARD_NAME).write_text(with_results(card, metrics) if metrics else card, encoding="utf-8")
    return Path(directory)


def load_model_directory(name_or_path: str | Path, **hub_kwargs) -> ModelParts:
    """Reads a model directory, or fetches it from the Hub first.

    Args:
        name_or_path: a directory, or the id of a repository such as `user/macrec-shop`.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … for `snapshot_download`.

    Raises:
        FileNotFoundError: a directory that lacks a part.
        OSError: neither a directory nor a repository that can be reached.
        ValueError: parts that are cut off, that do not belong together, or that a newer release wrote.
    """
    catalogue = load_catalogue(name_or_path, **hub_kwargs)  # first: the table knows whether a newer release wrote it
    directory, table = catalogue.directory, catalogue.table
    tokenizer = SemanticIdTokenizer.from_pretrained(directory)
    try:
        model = MacRecForConditionalGeneration.from_pretrained(directory).eval()
    except RuntimeError as error:  # transformers has logged which weights do not fit
        raise ValueError(
            f"Expected weights of the sizes that {directory / 'config.json'} names, got others. Were the two files "
            "copied from different models?"
        ) from error
    check_parts(model, tokenizer, table)
    return ModelParts(**vars(catalogue), model=model, tokenizer=tokenizer)


def load_catalogue(name_or_path: str | Path, **hub_kwargs) -> Catalogue:
    """Reads a model directory without its model; arguments and errors are those of `load_model_directory`."""
    directory = _local_directory(name_or_path, hub_kwargs)
    _check_complete(directory)
    _check_readable(directory)
    table = SemanticIdTable.from_pretrained(directory)
    counts_path, titles_path, card_path = (
        directory / name for name in (ITEM_COUNTS_NAME, ITEM_TITLES_NAME, CARD_NAME)
    )
    counts = load_file(counts_path)["item_counts"] if counts_path.is_file() else None
    titles = json.loads(titles_path.read_text(encoding="utf-8")) if titles_path.is_file() else {}
    card = card_path.read_text(encoding="utf-8") if card_path.is_file() else None
    return Catalogue(table, check_item_counts(counts, table), titles, card, directory)


def update_model_card(directory: str | Path, metrics: Mapping[str, Any]) -> None:
    """Puts results into the card of a model directory, in place of those before; the rest of the card stays.

    Raises:
        OSError: there is no card, or it cannot be written.
    """
    path = Path(directory) / CARD_NAME
    beside = path.with_name(f".{CARD_NAME}.partial")
    beside.write_text(with_results(path.read_text(encoding="utf-8"), metrics), encoding="utf-8")
    beside.replace(path)


def check_parts(model, tokenizer, table) -> None:
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


def check_item_counts(item_counts, table) -> torch.Tensor | None:
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


def _local_directory(name_or_path: str | Path, hub_kwargs: dict) -> Path:
    directory, name = Path(name_or_path), str(name_or_path)
    if directory.is_dir():
        return directory
    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS, ignore_patterns=_NOT_OURS, **hub_kwargs))
    except (OSError, ValueError) as error:
        raise OSError(
            f"Expected {name!r} to be a model directory or a repository of the Hub; there is no such directory, and "
            f"the Hub said: {error}"
        ) from error


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


def parts_that_may_be_absent() -> list[str]:
    """Patterns of what a new save must not leave of an earlier one, such as a quantizer of other codes."""
    code = [path.name for path in code_files()]
    return [ITEM_COUNTS_NAME, ITEM_TITLES_NAME, PICTURE_NAME, QUANTIZER_FOLDER, "model*.safetensors*", *code]


@contextmanager
def _moved_into_place(directory: Path) -> Iterator[Path]:
    """A folder to write into that becomes `directory` at the end, or leaves no trace if an error ends it."""
    exists = directory.is_dir()
    # On the same file system, so that moving is renaming; inside, if the parent may not be ours to write.
    name = f".macrec-{os.getpid()}.partial"
    beside = directory / name if exists else directory.absolute().parent / f".{directory.absolute().name}{name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if exists:
            _replace_files(beside, directory)
        else:
            beside.rename(directory)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace_files(beside: Path, directory: Path) -> None:
    written = {path.name for path in beside.iterdir()}
    for stale in [path for pattern in parts_that_may_be_absent() for path in directory.glob(pattern)]:
        name = stale.name
        if name not in written and stale.is_file():
            stale.unlink()
        elif stale.is_dir():
            shutil.rmtree(stale)
    for name in sorted(written, key=lambda name: (name == "config.json", name)):  # config.json last: it names the rest
        (beside / name).replace(directory / name)
