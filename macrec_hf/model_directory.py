"""A model directory, and so a Hub repository, is whole: everything that turns a history into recommendations.

    config.json, generation_config.json, model.safetensors   the recommender
    tokenizer.json, tokenizer_config.json                    its tokens
    semantic_ids.safetensors, semantic_ids.json              the catalogue: which item has which codes
    item_counts.safetensors                                  how often each item was taken, for people without a past
    item_titles.json                                         what people call the items
    quantizer/                                               what gave the items their codes, to add items later
    README.md                                                the model card

Counts, titles and quantizer may be absent. Nothing is a pickle. Files are written beside and moved into place when
complete.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file

from .model_card import model_card
from .modeling_macrec import MacRecForConditionalGeneration
from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer

ITEM_COUNTS_NAME = "item_counts.safetensors"
ITEM_TITLES_NAME = "item_titles.json"
QUANTIZER_FOLDER = "quantizer"
_PARTS = {
    "config.json": "the model's configuration",
    "model.safetensors": "the weights",
    "tokenizer.json": "the tokenizer",
    "semantic_ids.safetensors": "the items' codes",
    "semantic_ids.json": "the items' ids",
}
_PATTERNS = ["*.json", "*.safetensors", "README.md"]  # what is fetched from the Hub: no code
_NOT_OURS = ["checkpoint*"]  # folders that a Trainer may have left beside the model


@dataclass
class ModelParts:
    """What a model directory holds.

    Attributes:
        model: in eval mode, on the CPU.
        item_counts: long, `(num_items,)`, or None.
        item_titles: `{item_id: title}`, empty where none were kept.
        directory: where it was read from.
    """

    model: MacRecForConditionalGeneration
    tokenizer: SemanticIdTokenizer
    table: SemanticIdTable
    item_counts: torch.Tensor | None
    item_titles: dict[str, str]
    directory: Path

    def load_quantizer(self):
        """The `MacRecQuantizer` of the directory, None where it has none. Recommending does not need it."""
        folder = self.directory / QUANTIZER_FOLDER
        if not folder.is_dir():
            return None
        from .modeling_macrec_quantizer import MacRecQuantizer

        return MacRecQuantizer.from_pretrained(folder).eval()


def save_model_directory(
    directory: str | Path,
    *,
    model: MacRecForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    table: SemanticIdTable,
    quantizer=None,
    item_counts: torch.Tensor | None = None,
    item_titles: Mapping[str, str] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    card: str | None = None,
) -> Path:
    """Writes a whole model directory. Files of other purposes that are there already stay.

    Args:
        directory: made if it does not exist.
        quantizer: a `MacRecQuantizer`; None: none is kept, and one of an earlier save is removed.
        item_counts: integers, `(num_items,)`: how often each item was taken.
        item_titles: `{item_id: title}`, to show beside the ids.
        metrics: `{"ensemble": {"hr@10": …}, …}` as `evaluation.ranking_metrics` gives them, for the model card.
        card: text of `README.md`; None: a card is written.

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
        text = card if card is not None else model_card(model, table, quantizer, metrics)
        (beside / "README.md").write_text(text, encoding="utf-8")
    return Path(directory)


def load_model_directory(name_or_path: str | Path, **hub_kwargs) -> ModelParts:
    """Reads a model directory, or fetches it from the Hub first.

    Args:
        name_or_path: a directory, or the id of a repository such as `user/macrec-shop`.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … for `snapshot_download`.

    Raises:
        FileNotFoundError: a directory that lacks a part.
        OSError: neither a directory nor a repository that can be reached.
        ValueError: parts that do not belong together, or that a newer release wrote.
    """
    directory = _local_directory(name_or_path, hub_kwargs)
    _check_complete(directory)
    table = SemanticIdTable.from_pretrained(directory)  # first: it knows whether a newer release wrote it
    tokenizer = SemanticIdTokenizer.from_pretrained(directory)
    model = MacRecForConditionalGeneration.from_pretrained(directory).eval()
    check_parts(model, tokenizer, table)
    counts_path = directory / ITEM_COUNTS_NAME
    counts = load_file(counts_path)["item_counts"] if counts_path.is_file() else None
    titles_path = directory / ITEM_TITLES_NAME
    titles = json.loads(titles_path.read_text(encoding="utf-8")) if titles_path.is_file() else {}
    return ModelParts(model, tokenizer, table, check_item_counts(counts, table), titles, directory)


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
    ours = [ITEM_COUNTS_NAME, ITEM_TITLES_NAME, QUANTIZER_FOLDER]
    ours += [path.name for path in directory.glob("model*.safetensors*")]
    for name in ours:  # of an earlier save: weights in another number of files, a quantizer of other codes
        stale = directory / name
        if name not in written and stale.is_file():
            stale.unlink()
        elif stale.is_dir():
            shutil.rmtree(stale)
    for name in sorted(written, key=lambda name: (name == "config.json", name)):  # config.json last: it names the rest
        (beside / name).replace(directory / name)
