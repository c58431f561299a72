"""P5's collaborative IDs: items that are bought together share the beginning of their ID, without any content."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.cluster import SpectralClustering

from ..data.learned_purchases import LEARNED_FROM, training_purchases
from ..data.purchase_counting import count_purchases
from ..data.time_split import Cut
from ..model.semantic_ids import SemanticIdTable
from .co_purchases import MODALITY

NUM_CLUSTERS = 16  # parts of each cluster; ours, between the 10 and 50 that P5-CID tries


def co_purchase_ids(
    interactions: pd.DataFrame,
    item_ids: Sequence[str],
    until: Cut | None = None,
    *,
    num_levels: int = 4,
    num_clusters: int = NUM_CLUSTERS,
    codebook_size: int = 256,
    seed: int = 0,
) -> SemanticIdTable:
    """Semantic IDs by recursive spectral clustering of what customers bought together.

    The collaborative indexing of Hua et al., "How to Index Item IDs for Recommendation Foundation Models", SIGIR-AP
    2023, collaborative indexing (P5-CID): the graph whose edges count the customers who bought two items is cut into
    clusters, each cluster again, and the last code numbers the items of a cluster. Ours have a fixed length: a
    cluster that is small enough is numbered at once, and code 0 fills the rest. Items that were bought beside nothing
    make a part of their own. Only training purchases are looked at; [`evaluate`] and `macrec train` refuse IDs that
    know more.

    Args:
        interactions: as [`read_interactions`] returns them.
        item_ids: of the catalogue, whose order the table takes.
        until: None: all but each user's last two purchases are learned from; a date: what `macrec train --until` that
            day learns from.
        num_levels: codes of an ID. Default 4, as of a quantizer's (paper).
        num_clusters: parts into which a cluster is cut. Default 16 (ours).
        codebook_size: codes of a level: what a cluster may have at most at the last one. Default 256 (paper).
        seed: of the clustering.

    Returns:
        A table with the one modality "purchases"; no two items share an ID.

    Raises:
        ValueError: purchases of an item that is not among the ids, fewer than two clusters or more than there are
            codes, or more items than the codes can tell apart.

    Example:

    ```python
    >>> table = co_purchase_ids(read_interactions("interactions.csv"), read_items("items.jsonl")["item_id"].tolist())
    >>> table.save_pretrained("ids")  # macrec train --semantic-ids ids --interactions interactions.csv
    ```
    """
    if not 2 <= num_clusters <= codebook_size:
        raise ValueError(
            f"num_clusters: expected 2 to codebook_size, {codebook_size}, got {num_clusters}: each cluster takes a "
            "code."
        )
    row_of = {item: row for row, item in enumerate(item_ids)}
    sequences, about = training_purchases(interactions, row_of, until)
    codes = np.zeros((len(item_ids), num_levels), dtype=np.int64)
    tree = _Tree(_customers(sequences, len(item_ids)), num_clusters, codebook_size, seed)
    tree.number(np.arange(len(item_ids)), codes)
    table = SemanticIdTable(list(item_ids), {MODALITY: codes}, codebook_size)
    table.report = {MODALITY: {"num_items": len(item_ids), LEARNED_FROM: about}}
    return table


class _Tree:
    """Cuts clusters of items into clusters.

    Args:
        graph: symmetric `(num_items, num_items)`, customers who bought two items.
    """

    def __init__(self, graph: sparse.csr_matrix, num_clusters: int, codebook_size: int, seed: int):
        self.graph, self.num_clusters, self.codebook_size, self.seed = graph, num_clusters, codebook_size, seed

    def number(self, rows: np.ndarray, codes: np.ndarray) -> None:
        """Writes the codes of some rows, distinct ones.

        Args:
            rows: of the graph.
            codes: int64 `(num_items, levels that are left)`, written in place at these rows.
        """
        room = self.codebook_size ** codes.shape[1]
        if len(rows) > room:
            raise ValueError(
                f"Expected at most {room:,} items, which is what {codes.shape[1]} codes of {self.codebook_size} tell "
                f"apart, got {len(rows):,}. Raise num_levels or codebook_size."
            )
        if len(rows) <= self.codebook_size:
            codes[rows, 0] = np.arange(len(rows))
            return
        parts = [part for cluster in self.clusters(rows) for part in self.fitting(cluster, codes.shape[1] - 1)]
        if len(parts) > self.codebook_size:  # full clusters leave less room than there are codes: closer together
            parts = self.fitting(np.concatenate(parts), codes.shape[1] - 1)
        for code, part in enumerate(parts):
            codes[part, 0] = code
            self.number(part, codes[:, 1:])

    def fitting(self, rows: np.ndarray, levels: int) -> list[np.ndarray]:
        """The rows in as few parts as the levels below hold."""
        return np.array_split(rows, -(-len(rows) // self.codebook_size**levels)) if len(rows) else []

    def clusters(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows in clusters by the graph among them, the ones without a neighbour last."""
        graph = self.graph[rows][:, rows]
        joined = np.asarray(graph.sum(axis=1)).ravel() > 0
        rest = [rows[~joined]] if not joined.all() else []
        linked, graph = rows[joined], graph[joined][:, joined]
        if len(linked) <= self.num_clusters:
            return [linked, *rest]
        clustering = SpectralClustering(
            self.num_clusters - len(rest), affinity="precomputed", assign_labels="cluster_qr", random_state=self.seed
        )
        with warnings.catch_warnings():  # a graph of several components is no fault
            warnings.simplefilter("ignore", UserWarning)
            labels = clustering.fit_predict(graph.astype(np.float64))
        return [*(linked[labels == label] for label in np.unique(labels)), *rest]


def _customers(sequences: Sequence[np.ndarray], num_items: int) -> sparse.csr_matrix:
    """Symmetric, how many customers bought two items within ten purchases of each other."""
    counts = count_purchases(sequences, num_items)
    return sparse.csr_matrix((counts.customers, counts.others, counts.starts), shape=(num_items, num_items))
