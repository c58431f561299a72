"""Catalogue embeddings → [`SemanticIdTable`]: encode, resolve collisions, add and remove items."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast, overload

import numpy as np
import torch
from accelerate import Accelerator
from transformers.utils import logging

from ..cpu import accelerated
from ..data.learned_purchases import FITTED_UNTIL, LEARNED_FROM
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import SemanticIdTable, check_item_ids
from ..model.vector_quantization import check_not_collapsed, code_keys, collision_rate
from .catalogue_batches import catalogue_latents, finite_rows, in_batches
from .collision_resolution import (
    CollisionResolution,
    check_space,
    quantization_distance,
    resolve_collisions,
    shared_rows,
)
from .embedding_store import EmbeddingStore

logger = logging.get_logger(__name__)

NewCodes = tuple[dict[str, torch.Tensor], dict[str, dict]]  # codes and report, by modality
Embeddings = EmbeddingStore | Mapping[str, np.ndarray | torch.Tensor]


@overload
def build_semantic_ids(
    quantizer: MacRecQuantizer,
    embeddings: Embeddings,
    item_ids: Sequence[str] | None = None,
    *,
    modality_mask: Mapping[str, np.ndarray | torch.Tensor] | None = None,
    batch_size: int = 1024,
    accelerator: None = None,
) -> SemanticIdTable: ...


@overload
def build_semantic_ids(
    quantizer: MacRecQuantizer,
    embeddings: Embeddings,
    item_ids: Sequence[str] | None = None,
    *,
    modality_mask: Mapping[str, np.ndarray | torch.Tensor] | None = None,
    batch_size: int = 1024,
    accelerator: Accelerator,
) -> SemanticIdTable | None: ...


def build_semantic_ids(
    quantizer: MacRecQuantizer,
    embeddings: Embeddings,
    item_ids: Sequence[str] | None = None,
    *,
    modality_mask: Mapping[str, np.ndarray | torch.Tensor] | None = None,
    batch_size: int = 1024,
    accelerator: Accelerator | None = None,
) -> SemanticIdTable | None:
    """Semantic IDs of a whole catalogue, no two items alike in any modality (paper section 3.1).

    An item with codes of its own keeps them; see [`resolve_collisions`] for the rule for the others. Runs on the
    quantizer's device; memory-mapped embeddings are read a batch at a time.

    Args:
        quantizer: the trained quantizer.
        embeddings: an [`EmbeddingStore`], or `{modality: float (num_items, embedding_size)}` with every modality of
            the quantizer.
        item_ids: one per row, distinct. Default: the store's own.
        modality_mask: `{modality: bool (num_items,)}`, False = the item has none and gets no ID there. A store knows
            this by itself.
        batch_size: items encoded at a time. Default 1024 (paper, implementation details).
        accelerator: an `accelerate.Accelerator`: its processes share the encoding, the main one resolves and returns
            the table, the others None.

    Returns:
        The table, in the order of the rows. `table.report[modality]` holds `num_items` (that have an ID),
        `collision_rate_before`, `collision_rate_after` (0.0), `num_shared` (items in shared IDs), `num_moved`,
        `mean_distance` (Euclidean, latent to quantized sum, before) and `mean_distance_increase` (after minus before),
        both over the moved items; 0.0 where none moved.

    Raises:
        ValueError: repeated item ids, wrong sizes, a modality too many or too few, NaN, a code space that cannot
            hold the items (with how many are missing and what to enlarge), or codes that hardly tell them apart
            ([`check_not_collapsed`]).

    Example:
        >>> table = build_semantic_ids(quantizer, {"text": text, "image": image}, item_ids)
        >>> table.report["text"]["collision_rate_after"]
        0.0
    """
    store = _as_store(embeddings, item_ids, modality_mask, quantizer)
    levels = quantizer.config.num_levels
    nothing = {m: torch.empty(0, levels, dtype=torch.long) for m in quantizer.config.embedding_sizes}
    new = _new_codes(quantizer, store, nothing, batch_size, accelerator)
    if new is None:
        return None
    codes, report = new
    table = SemanticIdTable(store.item_ids, codes, quantizer.config.codebook_size)
    table.report = {name: part | _kept({LEARNED_FROM: store.learned_from.get(name)}) for name, part in report.items()}
    return table


def add_items(
    table: SemanticIdTable,
    quantizer: MacRecQuantizer,
    embeddings: Embeddings,
    item_ids: Sequence[str] | None = None,
    *,
    modality_mask: Mapping[str, np.ndarray | torch.Tensor] | None = None,
    batch_size: int = 1024,
) -> SemanticIdTable:
    """A new table with further items after the old ones, whose IDs stay exactly as they are.

    The quantizer is not trained: new items get the codes that it gives them, or the nearest free ones.

    Args:
        table: the catalogue so far, left as it is.
        quantizer: the one that the table was made with.
        embeddings: of the new items only, as in [`build_semantic_ids`].
        item_ids: ids of the new items, none of them in the table. Default: the store's own.
        modality_mask: as in [`build_semantic_ids`], for the new items.
        batch_size: items encoded at a time. Default 1024 (paper, implementation details).

    Returns:
        The new table; its `report` is about the new items; only its collision rates are the whole table's.

    Raises:
        ValueError: a new id is in the table already, table and quantizer do not belong together, and all that
            [`build_semantic_ids`] raises.
    """
    _check_same_geometry(table, quantizer)
    store = _as_store(embeddings, item_ids, modality_mask, quantizer)
    known = [item for item in store.item_ids if item in table.row_of]
    if known:
        raise ValueError(
            f"Expected new items, got {len(known)} that the table has already, e.g. {known[:3]}. Leave them out, or "
            "remove_items them first to give them new IDs."
        )
    codes, report = cast(
        NewCodes, _new_codes(quantizer, store, table.codes, batch_size)
    )  # None is for other processes
    grown = SemanticIdTable(
        table.item_ids + store.item_ids,
        {m: torch.cat([table.codes[m], codes[m]]) for m in table.modalities},
        table.codebook_size,
    )
    grown.report = {name: part | _kept(table.report.get(name, {})) for name, part in report.items()}
    return grown


def remove_items(table: SemanticIdTable, item_ids: Iterable[str]) -> SemanticIdTable:
    """A new table without these items; the others keep their order and IDs, and the freed IDs may be given again.

    Args:
        table: the catalogue so far, left as it is.
        item_ids: of the items that go; one that stands twice goes once.

    Raises:
        ValueError: an item that the table does not have, or a single string where a list of ids belongs.
    """
    if isinstance(item_ids, str):
        raise ValueError(f"Expected a list of item ids, got the string {item_ids!r}. Write [{item_ids!r}].")
    leaving = set(check_item_ids(list(item_ids)))
    unknown = sorted(leaving - table.row_of.keys())
    if unknown:
        raise ValueError(f"Expected items of the table, got {len(unknown)} that it does not have, e.g. {unknown[:3]}.")
    rows = torch.tensor([row for row, item in enumerate(table.item_ids) if item not in leaving], dtype=torch.long)
    codes = {m: table.codes[m][rows] for m in table.modalities}
    smaller = SemanticIdTable([table.item_ids[row] for row in rows.tolist()], codes, table.codebook_size)
    smaller.report = {name: kept for name, part in table.report.items() if (kept := _kept(part))}
    return smaller


def _kept(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a modality's report stays true of every later table: which purchases and items its IDs know."""
    return {name: report[name] for name in (LEARNED_FROM, FITTED_UNTIL) if report.get(name)}


def encode_catalogue(
    quantizer: MacRecQuantizer, store: EmbeddingStore, batch_size: int = 1024, accelerator: Accelerator | None = None
) -> dict[str, torch.Tensor]:
    """The quantizer's own codes of every item, those that items share included; without dropout.

    Args:
        accelerator: an `accelerate.Accelerator`: its processes share the encoding, and each returns all codes.

    Returns:
        `{modality: long (num_items, num_levels)}` on the CPU, in the quantizer's order, rows of -1 where an item has
        no embedding.

    Raises:
        ValueError: modalities or sizes that are not the quantizer's, NaN.
    """
    _check_modalities_of(store, quantizer)
    names = list(quantizer.config.embedding_sizes)

    def encode(rows: np.ndarray) -> dict[str, torch.Tensor]:
        batch = {name: finite_rows(quantizer, store, name, rows) for name in names}
        mask = {name: torch.from_numpy(store.present[name][rows]).to(quantizer.device) for name in names}
        return {name: codes.cpu() for name, codes in quantizer.encode(batch, modality_mask=mask).items()}

    with accelerated(quantizer):  # as in training: the same products give the same codes now and when items arrive
        parts = in_batches(np.arange(len(store)), batch_size, encode, "Encoding items", processes=accelerator)
    return {name: torch.cat([codes[name] for codes in parts]) for name in names}


def _as_store(
    embeddings: Embeddings,
    item_ids: Sequence[str] | None,
    modality_mask: Mapping[str, np.ndarray | torch.Tensor] | None,
    quantizer: MacRecQuantizer,
) -> EmbeddingStore:
    """The embeddings as a store whose modalities are the quantizer's."""
    ids = None if item_ids is None else check_item_ids(item_ids)
    if isinstance(embeddings, EmbeddingStore):
        if modality_mask is not None:
            raise ValueError("Expected no modality_mask with an EmbeddingStore: its own `missing` says the same.")
        if ids is not None and ids != embeddings.item_ids:
            raise ValueError("Expected the item ids of the EmbeddingStore in its order, or None, got other ids.")
        store = embeddings
    elif ids is None:
        raise ValueError(
            "Expected item_ids, one per row of the embeddings, got None: only an EmbeddingStore has its own."
        )
    else:
        arrays = {m: a.detach().float() if isinstance(a, torch.Tensor) else a for m, a in embeddings.items()}
        store = EmbeddingStore(arrays, ids, missing=_missing_ids(modality_mask or {}, ids))
    _check_modalities_of(store, quantizer)
    return store


def _missing_ids(modality_mask: Mapping[str, np.ndarray | torch.Tensor], item_ids: list[str]) -> dict[str, list[str]]:
    missing = {}
    for modality, given in modality_mask.items():
        values = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
        if not np.isin(values, (0, 1)).all():
            odd = values[~np.isin(values, (0, 1))].ravel()[0]
            raise ValueError(f"Expected modality_mask[{modality!r}] of true and false, or of 1 and 0, got {odd}.")
        mask = values.astype(bool)
        if mask.shape != (len(item_ids),):
            raise ValueError(f"Expected modality_mask[{modality!r}] of shape ({len(item_ids)},), got {mask.shape}.")
        missing[modality] = [item_ids[row] for row in np.flatnonzero(~mask)]
    return missing


def _check_modalities_of(store: EmbeddingStore, quantizer: MacRecQuantizer) -> None:
    expected = quantizer.config.embedding_sizes
    if store.modalities != expected:
        raise ValueError(
            f"Expected embeddings with the quantizer's modalities and sizes, {expected}, got {store.modalities}. "
            "Embed the items with the encoders that the quantizer was trained on; items that lack a modality are "
            "marked as missing (modality_mask, or `missing` of an EmbeddingStore)."
        )


def _check_same_geometry(table: SemanticIdTable, quantizer: MacRecQuantizer) -> None:
    config = quantizer.config
    expected = (tuple(config.embedding_sizes), config.num_levels, config.codebook_size)
    got = (table.modalities, table.num_levels, table.codebook_size)
    if got != expected:
        raise ValueError(
            f"Expected a table of the quantizer's modalities, levels and codebook size {expected}, got {got}: the "
            "table was made with another quantizer, whose codes mean other things."
        )


def _new_codes(
    quantizer: MacRecQuantizer,
    store: EmbeddingStore,
    taken: Mapping[str, torch.Tensor],
    batch_size: int,
    accelerator: Accelerator | None = None,
) -> NewCodes | None:
    """Codes of the store's items, distinct and apart from the `taken` ones: `({modality: codes}, report)`.

    None in other processes than the main one.
    """
    codes = encode_catalogue(quantizer, store, batch_size, accelerator)
    if accelerator is not None and not accelerator.is_main_process:
        return None
    report: dict[str, dict] = {}
    for modality, given in codes.items():
        present = torch.from_numpy(np.flatnonzero(store.present[modality]))
        others = taken[modality][taken[modality][:, 0] >= 0]
        resolution, report[modality] = _resolve(
            quantizer, store, modality, present, given[present], others, batch_size
        )
        given[present] = resolution.codes
    return codes, report


def _resolve(
    quantizer: MacRecQuantizer,
    store: EmbeddingStore,
    modality: str,
    rows: torch.Tensor,
    codes: torch.Tensor,
    taken: torch.Tensor,
    batch_size: int,
) -> tuple[CollisionResolution, dict]:
    """Resolves one modality; `rows` are the store's rows that `codes` belong to."""
    codebooks, before = quantizer.codebooks[modality].detach().float().cpu(), torch.cat([taken, codes])
    with _naming(modality):  # before any work on codes that cannot become IDs
        check_space(len(codes), 0, len(codebooks), len(codebooks[0]))
        check_not_collapsed(len(before), len(torch.unique(code_keys(before, len(codebooks[0])))))
    shared = shared_rows(codes, len(codebooks[0]), taken)
    latents = catalogue_latents(quantizer, store, modality, rows[shared].numpy(), batch_size)
    with _naming(modality):
        resolution = resolve_collisions(codes, codebooks, latents, rows=shared, taken=taken)
    after = torch.cat([taken, resolution.codes])
    moved = torch.isin(shared, resolution.moved)
    distance = quantization_distance(latents[moved], codes[resolution.moved], codebooks)
    report = {
        "num_items": len(codes),
        "collision_rate_before": collision_rate(before, len(codebooks[0])),
        "collision_rate_after": collision_rate(after, len(codebooks[0])),
        "num_shared": len(shared),
        "num_moved": len(resolution.moved),
        "mean_distance": _mean(distance),
        "mean_distance_increase": _mean(resolution.distance_increase),
    }
    logger.info(
        f"{modality}: collision rate {report['collision_rate_before']:.4f} -> {report['collision_rate_after']:.4f}, "
        f"{report['num_moved']} of {report['num_items']} items moved, their mean distance grew from "
        f"{report['mean_distance']:.4g} by {report['mean_distance_increase']:.4g}"
    )
    return resolution, report


@contextmanager
def _naming(modality: str) -> Iterator[None]:
    """Errors inside say which modality they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Modality {modality!r}: {error}") from error


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
