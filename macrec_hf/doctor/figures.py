"""How healthy a catalogue's semantic IDs are, as plain numbers: use of the codes, collisions, agreement, likeness.

What `macrec doctor` and [`CodebookHealthCallback`] show. Pairs of items are counted from the sizes of groups, never
one by one, so that no step is quadratic in the catalogue.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_mutual_info_score

from ..catalogue.embedding_store import EmbeddingStore
from ..model.semantic_ids import SemanticIdTable
from ..model.vector_quantization import code_keys, codebook_health

NUM_BARS = 16  # paper, Figure 4: 256 codewords, 16 to a bar
MAX_LABELLED_ITEMS = 50_000  # items for the mutual information, evenly spaced
MAX_CELLS = 4_000_000  # groups times groups up to which the mutual information is computed: a second or two
MAX_COMPARED_ITEMS = 10_000  # items for the likeness, evenly spaced: their embeddings stand in memory


def codebook_report(
    table: SemanticIdTable,
    embeddings: EmbeddingStore | None = None,
    *,
    before: Mapping[str, Mapping[str, Any]] | None = None,
    resolved: bool = True,
) -> dict:
    """All figures of a table as a dict that `json.dumps` takes.

    Args:
        table: the catalogue.
        embeddings: of its items, in any order, further items left out; None: no `similarity`.
        before: `{modality: {"collision_rate_before": share, "num_moved": items}}` of the IDs before shared ones were
            resolved. Default: what the table's own `report` says.
        resolved: False where these are a quantizer's raw codes: their collision rate is then the one `before`.

    Returns:
        `num_items`, `num_levels`, `codebook_size`;
        `modalities`: per modality `num_items` (with an ID), `levels` (one dict each, see [`level_figures`]) and
        `collisions` (`before`, `after`, `moved`, each None where it is not known);
        `agreement`: per pair of modalities, see [`agreement`];
        `similarity`: `{modality of the prefix: {modality of the embedding: [...]}}`, see [`likeness`].

    Raises:
        ValueError: embeddings without one item or modality in common with the table.

    Example:

    ```python
    >>> report = codebook_report(SemanticIdTable(["i1", "i2"], {"text": [[0], [1]]}, codebook_size=2))
    >>> report["modalities"]["text"]["levels"][0]["perplexity"]
    2.0
    ```
    """
    before = table.report if before is None else before
    report: dict = {
        "num_items": table.num_items,
        "num_levels": table.num_levels,
        "codebook_size": table.codebook_size,
        "modalities": {},
        "agreement": [agreement(table, first, second) for first, second in combinations(table.modalities, 2)],
        "similarity": {} if embeddings is None else similarities(table, embeddings),
    }
    for name in table.modalities:
        codes = table.codes[name]
        codes = codes[codes[:, 0] >= 0]
        known, now = before.get(name, {}), table.collision_rate(name)
        # `add_items` tells of the items that came last, whose collisions are not the catalogue's.
        later, told = known.get("later_items", {}), known.get("num_items")
        is_whole = told is None or told + later.get("num_items", 0) == len(codes)
        report["modalities"][name] = {
            "num_items": len(codes),
            "levels": level_figures(codes, table.codebook_size),
            "collisions": {
                "before": now if not resolved else known.get("collision_rate_before") if is_whole else None,
                "after": now if resolved else None,
                "moved": known.get("num_moved") if resolved and is_whole else None,
            },
        }
    return report


def level_figures(codes: torch.Tensor, codebook_size: int) -> list[dict]:
    """How a modality uses each level's codes.

    Args:
        codes: long, (num_items, num_levels), none of them -1.

    Returns:
        per level `used` and `dead` (numbers of codes), `perplexity` (to how many evenly used codes it amounts), `gini`
        (0: all alike, towards 1: one code has all), `largest_share` (of the items, in the most used code) and `bars`
        (items per bar, codes sorted by use, 16 to a bar at 256 codes: paper, Figure 4).
    """
    figures = []
    for column, health in zip(codes.T, codebook_health(codes, codebook_size), strict=True):
        counts = np.bincount(column.numpy(), minlength=codebook_size)
        dead = int(health["dead_codes"])
        figures.append(
            {
                "used": codebook_size - dead,
                "dead": dead,
                "perplexity": health["perplexity"],
                "gini": gini(counts),
                "largest_share": float(counts.max() / max(1, counts.sum())),
                "bars": usage_bars(counts),
            }
        )
    return figures


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative numbers: 0 where all are equal, (n - 1) / n where one has everything."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    total, number = ordered.sum(), len(ordered)
    if not total:
        return 0.0
    ranks = np.arange(1, number + 1)
    return float(((2 * ranks - number - 1) * ordered).sum() / (number * total))


def usage_bars(counts: np.ndarray, num_bars: int = NUM_BARS) -> list[int]:
    """Items per bar: codes sorted by use, most used first, as many neighbours to a bar as `num_bars` bars need."""
    ordered = np.sort(np.asarray(counts))[::-1]
    width = -(-len(ordered) // num_bars)
    return np.add.reduceat(ordered, np.arange(0, len(ordered), width)).tolist()


def prefix_groups(codes: torch.Tensor, depth: int, codebook_size: int) -> np.ndarray:
    """Group number of each row, from 0 without gaps: equal exactly where the first `depth` codes are equal."""
    return np.unique(code_keys(codes[:, :depth], codebook_size).numpy(), return_inverse=True)[1]


def num_pairs(sizes: np.ndarray | int) -> float:
    """Pairs of items inside groups of these sizes."""
    sizes = np.asarray(sizes, dtype=np.float64)
    return float((sizes * (sizes - 1)).sum() / 2)


def agreement(table: SemanticIdTable, first: str, second: str) -> dict:
    """Whether two modalities group the items alike, by the first code, the first two codes, …

    Returns:
        `modalities`, `num_items` (with an ID in both) and `depths`, for each prefix length: `mutual_information` (of
        the groups, adjusted for chance: 0 = by chance, 1 = the same groups; None where there are too many groups),
        `both` (share of item pairs with the same prefix in both modalities), `expected` (that share if the modalities
        had nothing to do with each other) and `lift` (`both` / `expected`; None where no pair is expected).
    """
    present = (table.codes[first][:, 0] >= 0) & (table.codes[second][:, 0] >= 0)
    codes = [table.codes[name][present] for name in (first, second)]
    all_pairs = num_pairs(len(codes[0]))
    depths = []
    for depth in range(1, table.num_levels + 1):
        groups = [prefix_groups(values, depth, table.codebook_size) for values in codes]
        joint = groups[0].astype(np.int64) * (int(groups[1].max(initial=0)) + 1) + groups[1]
        shares = [num_pairs(np.bincount(group)) / max(1.0, all_pairs) for group in groups]
        both = num_pairs(np.unique(joint, return_counts=True)[1]) / max(1.0, all_pairs)
        expected = shares[0] * shares[1]
        depths.append(
            {
                "depth": depth,
                "mutual_information": _mutual_information(*groups),
                "both": both,
                "expected": expected,
                "lift": both / expected if expected else None,
            }
        )
    return {"modalities": [first, second], "num_items": len(codes[0]), "depths": depths}


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float | None:
    if not len(first):
        return None
    rows = np.unique(np.linspace(0, len(first) - 1, MAX_LABELLED_ITEMS).astype(np.int64))
    first, second = first[rows], second[rows]
    if len(np.unique(first)) * len(np.unique(second)) > MAX_CELLS:
        return None
    return float(adjusted_mutual_info_score(first, second))


def store_rows(table: SemanticIdTable, embeddings: EmbeddingStore) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the items that both have: `(rows of the table, rows of the store)`, in the table's order.

    Raises:
        ValueError: they have no item in common.
    """
    row_of = {item: row for row, item in enumerate(embeddings.item_ids)}
    pairs = [(row, row_of[item]) for row, item in enumerate(table.item_ids) if item in row_of]
    if not pairs:
        raise ValueError(
            f"embeddings: expected the items of the semantic IDs, such as {table.item_ids[:3]}, got others, such as "
            f"{embeddings.item_ids[:3]}. Another catalogue? Name the embeddings that the IDs were made from."
        )
    in_table, in_store = np.array(pairs, dtype=np.int64).T
    return in_table, in_store


def similarities(table: SemanticIdTable, embeddings: EmbeddingStore) -> dict[str, dict[str, list[dict]]]:
    """[`likeness`] of every modality's prefixes in every modality's embeddings.

    Raises:
        ValueError: no item or no modality in common.
    """
    shared = [name for name in table.modalities if name in embeddings.modalities]
    if not shared:
        raise ValueError(
            f"embeddings: expected some of the modalities {list(table.modalities)}, got {list(embeddings.modalities)}."
        )
    in_table, in_store = store_rows(table, embeddings)
    chosen = np.unique(np.linspace(0, len(in_table) - 1, MAX_COMPARED_ITEMS).astype(np.int64))
    in_table, in_store = in_table[chosen], in_store[chosen]
    found: dict[str, dict[str, list[dict]]] = {name: {} for name in table.modalities}
    for seen in shared:
        vectors, present = embeddings.rows(seen, in_store), embeddings.present[seen][in_store]
        for name in table.modalities:
            codes = table.codes[name][torch.from_numpy(in_table)]
            keep = present & (codes[:, 0] >= 0).numpy()
            found[name][seen] = likeness(codes[torch.from_numpy(keep)], vectors[keep], table.codebook_size)
    return found


def likeness(codes: torch.Tensor, vectors: np.ndarray, codebook_size: int) -> list[dict]:
    """Mean cosine of two items with the same prefix, beside that of any two items.

    Exact over all pairs: in a group of n unit vectors, the cosines of its pairs sum to (‖Σu‖² − n) / 2.

    Args:
        codes: long, (num_items, num_levels).
        vectors: float, (num_items, embedding_size).

    Returns:
        for each prefix length `depth`, `pairs` (with the same prefix), `same` and `random` (mean cosines) and `gain`
        ((same − random) / (1 − random): 0 = like any two items, 1 = equal). None where there are no pairs.
    """
    units = vectors.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    random = _mean_cosine(units, np.zeros(len(units), dtype=np.int64))
    found = []
    for depth in range(1, codes.shape[1] + 1):
        groups = prefix_groups(codes, depth, codebook_size)
        same = _mean_cosine(units, groups)
        gain = None
        if same is not None and random is not None and random < 1 - 1e-9:
            gain = (same - random) / (1 - random)
        pairs = int(num_pairs(np.bincount(groups))) if len(groups) else 0
        found.append({"depth": depth, "pairs": pairs, "same": same, "random": random, "gain": gain})
    return found


def _mean_cosine(units: np.ndarray, groups: np.ndarray) -> float | None:
    order = np.argsort(groups, kind="stable")
    starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)[1:]
    pairs = num_pairs(sizes)
    if not pairs:
        return None
    sums = np.add.reduceat(units[order], starts, axis=0)
    own = np.square(units).sum()  # the number of items, but for vectors of zeros
    return float((np.square(sums).sum() - own) / 2 / pairs)
