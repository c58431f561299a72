"""What can be seen of semantic IDs: items that share a prefix, and the embeddings as 2-D maps coloured by code."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..catalogue.embedding_store import EmbeddingStore
from ..data.readers import ITEM_COLUMN, read_items
from ..data.shown_photos import note_no_photos, only_inside
from ..model.semantic_ids import SemanticIdTable, token_name
from .figures import prefix_groups, store_rows
from .photos import thumbnail_source

SHOWN_GROUPS = 3
SHOWN_ITEMS = 8
NAMED_CODES = 10  # codes with a colour of their own in a map; the others are grey
MAX_MAPPED_ITEMS = 2000
MAP_METHODS = ("tsne", "pca")


def prefix_examples(table: SemanticIdTable, known: Mapping[str, object], seed: int = 0) -> dict:
    """Items that share a prefix, and items drawn at random to compare them with.

    The prefix is the longest that at least three groups of eight known items have (else the first code). Of these
    groups the largest, the middle and the smallest are shown: nobody has chosen them for their looks.

    Args:
        known: by item id, whatever is to be shown; items that are not in it are left out.
        seed: of what is drawn.

    Returns:
        `random`: item ids; `modalities`: per modality `depth` and `groups`, dicts with `tokens` (the prefix), `size`
        (items of the whole catalogue) and `items` (some of their ids).

    Raises:
        ValueError: no item of the table is known.
    """
    rows = np.array([row for row, item in enumerate(table.item_ids) if item in known], dtype=np.int64)
    if not len(rows):
        raise ValueError(
            f"items: expected the items of the semantic IDs, such as {table.item_ids[:3]}, got others, such as "
            f"{list(known)[:3]}. Is the file of another catalogue?"
        )
    drawn = np.random.default_rng(seed).permutation(rows)
    examples: dict = {"random": [table.item_ids[row] for row in drawn[:SHOWN_ITEMS]], "modalities": {}}
    for name in table.modalities:
        codes = table.codes[name]
        present = drawn[(codes[torch.from_numpy(drawn)][:, 0] >= 0).numpy()]
        if len(present):
            examples["modalities"][name] = _examples_of(table, name, present)
    return examples


def _examples_of(table: SemanticIdTable, modality: str, rows: np.ndarray) -> dict:
    codes = table.codes[modality]
    for depth in range(table.num_levels, 0, -1):
        groups = prefix_groups(codes[torch.from_numpy(rows)], depth, table.codebook_size)
        sizes = np.bincount(groups)
        large = np.flatnonzero(sizes >= SHOWN_ITEMS)
        if len(large) >= SHOWN_GROUPS or depth == 1:
            break
    large = large if len(large) else np.arange(len(sizes))
    large = large[np.argsort(-sizes[large], kind="stable")]
    chosen = large[np.unique(np.linspace(0, len(large) - 1, SHOWN_GROUPS).astype(np.int64))]
    order = np.argsort(groups, kind="stable")
    shown = []
    for group in chosen.tolist():
        first = np.searchsorted(groups, group, sorter=order)
        members = rows[order[first : first + min(SHOWN_ITEMS, sizes[group])]]
        prefix = codes[int(members[0]), :depth]
        tokens = table.tokens(table.item_ids[int(members[0])], modality)[:depth]
        size = int((codes[:, :depth] == prefix).all(1).sum())
        shown.append({"tokens": tokens, "size": size, "items": [table.item_ids[row] for row in members]})
    return {"depth": depth, "groups": shown}


def embedding_maps(table: SemanticIdTable, embeddings: EmbeddingStore, method: str = "tsne", seed: int = 0) -> dict:
    """Each modality's embeddings in two dimensions (paper, Figure 1), with groups by every modality's first code.

    At most 2,000 items, evenly spaced. Directions of large variance come first (PCA to 50 dimensions before t-SNE).

    Args:
        method: "tsne" (neighbours stay neighbours; seconds) or "pca" (a plain projection; quick).
        seed: of t-SNE.

    Returns:
        `{modality of the embedding: {"points": [(x, y)], "by": {modality of the code: {"groups": [place of the
        point's name, or -1], "names": the most used codes}}}}`; modalities without three items are left out.

    Raises:
        ValueError: an unknown method, or no item in common.
    """
    if method not in MAP_METHODS:
        raise ValueError(f"Expected a map method of {MAP_METHODS}, got {method!r}.")
    in_table, in_store = store_rows(table, embeddings)
    maps = {}
    for name in table.modalities:
        if name not in embeddings.modalities:
            continue
        keep = np.flatnonzero(embeddings.present[name][in_store])
        keep = keep[np.unique(np.linspace(0, max(0, len(keep) - 1), MAX_MAPPED_ITEMS).astype(np.int64))[: len(keep)]]
        if len(keep) < 3:
            continue
        points = _in_two_dimensions(embeddings.rows(name, in_store[keep]), method, seed)
        rows = torch.from_numpy(in_table[keep])
        by = {other: _named_codes(table, other, rows) for other in table.modalities}
        maps[name] = {"points": points.tolist(), "by": by}
    return maps


def _in_two_dimensions(vectors: np.ndarray, method: str, seed: int) -> np.ndarray:
    if not np.ptp(vectors, axis=0).any():  # all alike: no direction to look from
        return np.zeros((len(vectors), 2))
    dimensions = min(50 if method == "tsne" else 2, *vectors.shape)
    points = PCA(dimensions, random_state=seed).fit_transform(vectors)
    if method == "tsne" and dimensions > 1:
        perplexity = min(30.0, (len(points) - 1) / 3)
        points = TSNE(perplexity=perplexity, max_iter=500, random_state=seed).fit_transform(points)
    return np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))[:, :2]


def _named_codes(table: SemanticIdTable, modality: str, rows: torch.Tensor) -> dict:
    """The most used first codes among these rows get a name, most used first."""
    codes = table.codes[modality][rows, 0].numpy()
    counts = np.bincount(codes[codes >= 0], minlength=table.codebook_size)
    named = [int(code) for code in np.argsort(-counts, kind="stable")[:NAMED_CODES] if counts[code]]
    place = {code: number for number, code in enumerate(named)}
    index = table.modalities.index(modality)
    return {
        "groups": [place.get(int(code), -1) for code in codes],
        "names": [token_name(index, modality, 0, code) for code in named],
    }


def known_items(
    path: str | Path,
    item_column: str = ITEM_COLUMN,
    allow_outside: bool = False,
    pictured: bool = False,
    **columns: str,
) -> dict[str, dict]:
    """Of an items file: `{item id: {"title": str, "image": a photo or None}}`.

    Args:
        allow_outside: whether photos may lie outside the file's folder.
        pictured: whether there must be photos: a notice says so where the file has none.
        columns: those of `read_items`.
    """
    items = read_items(path, item_column, **columns)
    if pictured:
        note_no_photos(items, path)
    photos = items["image"].tolist() if allow_outside else only_inside(items["image"].tolist(), Path(path).parent)
    rows = zip(items["item_id"], items["title"], photos, strict=True)
    return {str(item): {"title": title, "image": photo} for item, title, photo in rows}


def shown_items(examples: Mapping, known: Mapping[str, Mapping]) -> dict[str, dict]:
    """Titles and small photos of the items of [`prefix_examples`], ready for a page.

    Args:
        known: as [`known_items`] gives them.

    Returns:
        `{item id: {"title": str, "photo": data address, or None without a readable photo}}`.
    """
    groups = [group["items"] for value in examples["modalities"].values() for group in value["groups"]]
    wanted = {item for items in [examples["random"], *groups] for item in items}
    return {
        item: {
            "title": known[item]["title"],
            "photo": thumbnail_source(known[item]["image"]) if known[item]["image"] else None,
        }
        for item in sorted(wanted)
    }
