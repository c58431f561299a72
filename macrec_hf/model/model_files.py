"""A model directory, and so a Hub repository, is whole: everything that turns a history into recommendations.

    config.json, generation_config.json, model.safetensors   the recommender
    tokenizer.json, tokenizer_config.json                    its tokens
    semantic_ids.safetensors, semantic_ids.json              the catalogue: which item has which codes
    item_counts.safetensors                                  how often each item was taken, for people without a past
    learned_histories.safetensors                            fingerprints of the histories that it was trained on
    item_titles.json                                         what people call the items
    purchase_counts.safetensors, blend.json                  what customers did, and the weights of the blend
    quantizer/                                               what gave the items their codes, to add items later
    checksums.json                                           of all that decides on lists, see `model/files.py`
    README.md, code_usage.png                                the model card and its picture
    *.py                                                     the model's code, for `trust_remote_code=True` alone

Counts, fingerprints, titles, quantizer, checksums, picture and code may be absent. Nothing is a pickle, and nothing of
it is run by this package: the code is for processes that lack it. Files are written beside and moved into place when
complete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from .blend import BLEND_NAME, MODEL, OF_DAYS, Blend
from .checksums import check_files, renew_checksums
from .configuration_macrec import MacRecConfig
from .files import follow_umask, hub_folder, read_json, reading
from .modeling_macrec import MacRecForConditionalGeneration, check_fingerprint
from .purchase_counts import COUNTS_NAME, PurchaseCounts
from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer

logger = logging.get_logger(__name__)

if TYPE_CHECKING:
    import numpy as np

    from .modeling_macrec_quantizer import MacRecQuantizer

ITEM_COUNTS_NAME = "item_counts.safetensors"
ITEM_TITLES_NAME = "item_titles.json"
LEARNED_NAME = "learned_histories.safetensors"
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
_READ = (
    *_PARTS,
    "model*.safetensors*",
    "generation_config.json",
    ITEM_COUNTS_NAME,
    ITEM_TITLES_NAME,
    LEARNED_NAME,
    COUNTS_NAME,
    BLEND_NAME,
)
_WITH_THE_MODEL = ("config.json", "model*", "quantizer/*")  # compared with the checksums when these are read
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
        left_out: what was kept back when the directory was written: "purchase_counts" or nothing.
        learned_histories: int64, `(num_histories,)`, of `data.fingerprints.history_fingerprints`, or None.
        directory: where it was read from.
    """

    table: SemanticIdTable
    item_counts: torch.Tensor | None
    item_titles: dict[str, str]
    card: str | None
    directory: Path
    purchase_counts: PurchaseCounts | None
    blend: Blend | None
    left_out: Sequence[str] = ()
    learned_histories: torch.Tensor | None = None

    def load_quantizer(self) -> "MacRecQuantizer | None":
        """The `MacRecQuantizer` of the directory, None where it has none. Recommending does not need it."""
        folder = self.directory / QUANTIZER_FOLDER
        if not folder.is_dir():
            return None
        from .modeling_macrec_quantizer import MacRecQuantizer

        with reading(self.directory, f"{QUANTIZER_FOLDER}/*"):
            return check_quantizer(MacRecQuantizer.from_pretrained(folder).eval(), self.table, folder)


@dataclass(kw_only=True)
class ModelParts(Catalogue):
    """What a model directory holds.

    Attributes:
        model: in eval mode, on the CPU.
    """

    model: MacRecForConditionalGeneration
    tokenizer: SemanticIdTokenizer


def load_model_directory(
    name_or_path: str | Path, *, dtype: str | torch.dtype = "auto", without: Sequence[str] = (), **hub_kwargs: Any
) -> ModelParts:
    """Reads a model directory, or fetches it from the Hub first.

    Args:
        name_or_path: a directory, or the id of a repository such as `user/macrec-shop`.
        dtype: of the weights, such as `torch.bfloat16` or `"bfloat16"`; "auto": as they were saved.
        without: names of files that are about to be replaced: they are not read, so that they may be damaged.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … for `snapshot_download`.

    Raises:
        FileNotFoundError: a directory that lacks a part.
        OSError: neither a directory nor a repository that can be reached; or its files are being replaced.
        ValueError: parts that are cut off, that do not belong together, or that a newer release wrote.
    """
    directory = local_directory(name_or_path, hub_kwargs)
    with reading(directory, *_TOGETHER):
        return _load_model_directory(directory, dtype, without)


def _load_model_directory(directory: Path, dtype: str | torch.dtype, without: Sequence[str]) -> ModelParts:
    catalogue = load_catalogue(directory, without=without)  # first: it tells whether a newer release wrote it
    table = catalogue.table
    tokenizer = _load_tokenizer(directory, table)
    model = MacRecForConditionalGeneration.from_pretrained(directory, semantic_ids=table, dtype=dtype).eval()
    check_fingerprint(model.config, table, directory)
    try:
        check_parts(model, tokenizer, table)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    return ModelParts(**vars(catalogue), model=model, tokenizer=tokenizer)


def load_catalogue(name_or_path: str | Path, *, without: Sequence[str] = (), **hub_kwargs: Any) -> Catalogue:
    """Reads a model directory without its model; arguments and errors are those of `load_model_directory`."""
    directory = local_directory(name_or_path, hub_kwargs)
    with reading(directory, *_TOGETHER):
        return _load_catalogue(directory, without)


def _load_catalogue(directory: Path, without: Sequence[str]) -> Catalogue:
    _check_complete(directory)
    _check_readable(directory, without)
    table = SemanticIdTable.from_pretrained(directory)
    left_out = check_files(directory, without=(*without, *_WITH_THE_MODEL))
    counts_path, titles_path, card_path = (
        directory / name for name in (ITEM_COUNTS_NAME, ITEM_TITLES_NAME, CARD_NAME)
    )
    counts = _load_tensor(counts_path)
    titles = _load_titles(titles_path, table) if titles_path.is_file() else {}
    card = card_path.read_text(encoding="utf-8", errors="replace") if card_path.is_file() else None
    if (directory / COUNTS_NAME).is_file() and not (directory / BLEND_NAME).is_file() and not without:
        raise ValueError(
            f"{directory}: expected {BLEND_NAME} beside {COUNTS_NAME}, found none. Was the directory copied in part? "
            f"Copy it too, fit a blend anew by `macrec blend`, or remove {COUNTS_NAME} for the model's own lists."
        )
    if left_out:
        logger.warning(
            f"{directory}: the counts of purchases were left out when it was saved, so no blend serves: lists are the "
            "model's own. fit_blend(interactions), or `macrec blend`, brings it back."
        )
    blend = Blend.load(directory) if (directory / BLEND_NAME).is_file() and BLEND_NAME not in without else None
    purchases = None
    if blend is not None and COUNTS_NAME not in without:
        purchases = check_purchase_counts(PurchaseCounts.load(directory), table)
    try:
        bought = check_item_counts(counts, table)
    except ValueError as error:
        raise ValueError(f"{counts_path}: {error}") from error
    learned = _load_tensor(directory / LEARNED_NAME)
    return Catalogue(table, bought, titles, card, directory, purchases, blend, left_out, learned)


def save_tensor(path: Path, tensor: torch.Tensor) -> None:
    """Writes a file that holds one tensor, of the file's name."""
    save_file({path.stem: tensor}, path, metadata={"format": "pt"})
    follow_umask(path)
    renew_checksums(path.parent, path.name)


def _load_tensor(path: Path) -> torch.Tensor | None:
    """The whole numbers of a file of [`save_tensor`]; None where there is no file."""
    if not path.is_file():
        return None
    tensors = load_file(path)
    found = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    if list(tensors) != [path.stem] or tensors[path.stem].dtype != torch.int64 or tensors[path.stem].ndim != 1:
        raise ValueError(f"{path}: expected {path.stem}, int64 of one dimension, got {found}. Copy it again.")
    return tensors[path.stem]


def _load_titles(path: Path, table: SemanticIdTable) -> dict[str, str]:
    titles = read_json(path, dict, "an object {item id: title}")
    if wrong := [item for item, title in titles.items() if not isinstance(title, str)]:
        raise ValueError(f"{path}: expected an object {{item id: title}}, got no text as the title of {wrong[0]!r}.")
    if strange := [item for item in titles if item not in table.row_of]:
        raise ValueError(
            f"{path}: expected titles of the table's items, got those of others, such as {strange[:3]}. Was the file "
            "copied from another model? Copy the whole folder again, or remove the file: lists then show ids alone."
        )
    return titles


def _load_tokenizer(directory: Path, table: SemanticIdTable) -> SemanticIdTokenizer:
    """The tokenizer of a directory; ValueError unless it is that of the table."""
    expected, again = SemanticIdTokenizer.from_table(table), "Copy the whole folder again."
    try:
        tokenizer = SemanticIdTokenizer.from_pretrained(directory)
        kind = (tokenizer.modalities, tokenizer.num_levels, tokenizer.codebook_size)
        vocabulary = tokenizer.get_vocab()
    except Exception as error:  # the library of tokenizers raises bare ones
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"{directory}: expected tokenizer.json and tokenizer_config.json as SemanticIdTokenizer writes them, but "
            f"they cannot be read: {said}. {again}"
        ) from error
    if kind == (expected.modalities, expected.num_levels, expected.codebook_size):  # else `check_parts` tells more
        ends = [(token.pad_token_id, token.eos_token_id, token.unk_token_id) for token in (tokenizer, expected)]
        if vocabulary != expected.get_vocab() or ends[0] != ends[1]:
            raise ValueError(
                f"{directory}: expected in tokenizer.json the tokens of the semantic IDs, in their order, got others. "
                f"Was the tokenizer of another model copied? {again}"
            )
    return tokenizer


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


def check_quantizer(quantizer: "MacRecQuantizer", table: SemanticIdTable, where: str | Path) -> "MacRecQuantizer":
    """The quantizer; ValueError unless it gives IDs of the table's kind."""
    config = quantizer.config
    found = (tuple(config.embedding_sizes), config.num_levels, config.codebook_size)
    expected = (tuple(table.modalities), table.num_levels, table.codebook_size)
    if found != expected:
        raise ValueError(
            f"{where}: expected the quantizer of the semantic IDs, (modalities, num_levels, codebook_size) "
            f"{expected}, got one of {found}. Was the folder copied from another model? Copy both from one."
        )
    return quantizer


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


def check_purchase_counts(
    counts: PurchaseCounts, table: SemanticIdTable, blend: Blend | None = None
) -> PurchaseCounts:
    """The counts; ValueError unless they are of the table's items.

    With a blend, a notice where it goes by an item regression that they lack. Days may have been left out on purpose.
    """
    if counts.num_items != table.num_items:
        raise ValueError(
            f"purchase_counts: expected those of the table's {table.num_items} items, got those of "
            f"{counts.num_items}. `macrec refresh` counts anew."
        )
    if blend is not None:
        tell_of_lost_terms(blend, counts.regression is not None)
    return counts


def tell_of_lost_terms(blend: Blend, regression: bool, days: bool = True, newcomers: bool = True) -> None:
    """Notices where lists are weighed by more than the counts hold.

    Args:
        regression: whether they hold an item regression.
        days: whether they know the days of the purchases.
        newcomers: whether lists are made for some who have no history, for whom a blend has a term of its own.
    """
    if blend.serves == MODEL:
        return
    names = {name for name, weight in blend.serving_weights.items() if weight}
    if not regression and any(name.startswith("regression_") for name in names):
        logger.warning(
            "No item regression was made of the counts, which are of too many purchases for it, or of an earlier "
            "release. The blend goes by one: without it its lists are worse. `macrec blend` fits it anew."
        )
    names |= {str(newcomers and blend.about.get("without_history"))}
    if not days and (of_days := sorted(name for name in names if name.startswith(OF_DAYS))):
        logger.warning(
            f"No day of the purchases is known: their times are none, or numbers that are no dates. The blend goes by "
            f"{', '.join(of_days)}, all of them unknown now: its lists are worse so. Write times as 2024-03-01 "
            "or 2024-03-01T15:22, or let `macrec blend` fit it anew without days."
        )


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


def _check_readable(directory: Path, without: Sequence[str]) -> None:
    """Reads JSON files and the heads of the weights: files cut off in a copy are found before anything is built."""
    content: dict[str, Any] = {}
    for path in sorted({path for pattern in _READ for path in directory.glob(pattern)}):
        if path.name in without:
            continue
        if path.suffix == ".json":
            content = read_json(path, dict, "a part of a model directory, a JSON object")
        else:
            try:
                with safe_open(path, "pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{path}: expected a part of a model directory, but it cannot be read: {error}. Was it cut off "
                    "while it was copied? Copy it again."
                ) from error
        if path.name == "config.json" and content.get("model_type") != MacRecConfig.model_type:
            raise ValueError(
                f"{path}: expected model_type {MacRecConfig.model_type!r}, got {content.get('model_type')!r}: another "
                "kind of model, or one of a newer release. Upgrade macrec_hf, or name a folder of `macrec train`."
            )
