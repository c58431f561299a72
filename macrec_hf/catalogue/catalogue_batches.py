"""From rows of the embedding store to the quantizer's batches, and whole catalogues through it in batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch.utils.data import Dataset
from transformers.utils import logging

from ..cpu import accelerated
from ..model.inference import eval_mode
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from .embedding_store import EmbeddingStore

Processes: TypeAlias = Accelerator | PartialState
Rows = TypeVar("Rows", np.ndarray, list[int])
Part = TypeVar("Part")

_SHOW_PROGRESS_FROM = 50  # batches: below that the bar would be gone before it is read


class CatalogueRows(Dataset):
    """Row numbers of a store; the collator reads a whole batch of rows from the memory map at once."""

    def __init__(self, store: EmbeddingStore):
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> int:
        return row

    def __getitems__(self, rows: list[int]) -> list[int]:
        return rows


class CatalogueCollator:
    """Rows → `{"embeddings", "pseudo_labels", "modality_mask"}`, each `{modality: tensor}`.

    `pseudo_labels` is there once they are computed, `modality_mask` where the catalogue lacks any embedding.

    Example:

    ```python
    >>> batch = CatalogueCollator(EmbeddingStore({"text": np.zeros((9, 4), dtype=np.float32)}))([0, 5])
    >>> batch["embeddings"]["text"].shape
    torch.Size([2, 4])
    ```
    """

    def __init__(self, store: EmbeddingStore, labels: Mapping[str, np.ndarray] | None = None):
        self.store, self.labels = store, labels

    def __call__(self, rows: Sequence[int] | np.ndarray) -> dict[str, dict[str, torch.Tensor]]:
        """Row numbers of the store → float (batch_size, embedding_size), long and bool (batch_size,), by modality."""
        places = np.asarray(rows)
        batch = {"embeddings": {name: torch.from_numpy(values) for name, values in self.store[places].items()}}
        if self.labels is not None:
            batch["pseudo_labels"] = {name: torch.from_numpy(labels[places]) for name, labels in self.labels.items()}
        if not all(present.all() for present in self.store.present.values()):
            batch["modality_mask"] = {
                name: torch.from_numpy(present[places]) for name, present in self.store.present.items()
            }
        return batch


def in_batches(
    rows: Rows,
    batch_size: int,
    work: Callable[[Rows], Part],
    title: str,
    *,
    processes: Processes | None = None,
    progress: bool | None = None,
) -> list[Part]:
    """`work(batch)` of every batch of the rows, in their order.

    Args:
        title: stands before the progress bar.
        processes: an `accelerate.Accelerator` or `PartialState`: its processes take whole batches in turn, so that
            the results are those of one process, to the bit; every process gets all of them.
        progress: whether to show a bar; None: from 50 batches on.

    Raises:
        ValueError: a `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"Expected a batch_size of at least 1, got {batch_size}.")
    rank, count = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    mine = range(0, len(rows), batch_size)[rank::count]
    shown = len(mine) >= _SHOW_PROGRESS_FROM if progress is None else progress
    starts = logging.tqdm(mine, desc=title, unit="batch", disable=not shown or rank > 0)
    done = [(start, work(rows[start : start + batch_size])) for start in starts]
    if count > 1:
        done = sorted(gather_object(done), key=lambda pair: pair[0])
    return [part for _, part in done]


def catalogue_latents(
    quantizer: MacRecQuantizer, store: EmbeddingStore, modality: str, rows: np.ndarray, batch_size: int
) -> torch.Tensor:
    """Latents of some items that have the modality, without dropout: float32 `(num_rows, codebook_dim)` on the CPU.

    Of residual k-means these are the embeddings themselves.

    Raises:
        ValueError: embeddings that are not finite.
    """

    def encode(batch: np.ndarray) -> torch.Tensor:
        embeddings = {modality: finite_rows(quantizer, store, modality, batch)}
        return quantizer.encode_latents(embeddings)[modality].float().cpu()

    with eval_mode(quantizer), accelerated(quantizer):
        parts = in_batches(rows, batch_size, encode, f"Latents, {modality}")
    return torch.cat(parts) if parts else torch.empty(0, quantizer.codebooks[modality].shape[-1])


def finite_rows(quantizer: MacRecQuantizer, store: EmbeddingStore, modality: str, rows: np.ndarray) -> torch.Tensor:
    """Embeddings of these rows where and as the quantizer wants them; raises ValueError where they are not finite."""
    values = store.rows(modality, rows)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        item = store.item_ids[int(rows[bad][0])]
        raise ValueError(
            f"Expected finite embeddings, got NaN or infinity for item {item!r} in modality {modality!r}. If the item "
            "has none, mark it as missing; otherwise the encoder is at fault (float16 overflow is a common cause)."
        )
    return torch.from_numpy(values).to(device=quantizer.device, dtype=quantizer.dtype)
