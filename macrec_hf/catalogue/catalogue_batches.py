"""From rows of the embedding store to the quantizer's batches."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from .embedding_store import EmbeddingStore


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
