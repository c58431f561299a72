"""k-means by scikit-learn: pseudo-labels (eq. 1) and codebook seeds."""

import logging
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from ..model.vector_quantization import nearest_code

logger = logging.getLogger(__name__)

MINI_BATCH_ABOVE = 50_000
_ROWS = 65_536  # whose distances to all codewords are in memory at a time


def kmeans(
    points: np.ndarray, num_clusters: int, seed: int = 0, num_init: int = 1, max_iter: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Fits k-means: `KMeans` up to 50,000 points, `MiniBatchKMeans` above.

    Args:
        points: float, (num_points, dim); a memory map is read in batches above 50,000 points.
        num_clusters: at most `num_points`.

    Returns:
        `(centres float (num_clusters, dim), labels int (num_points,))`.
    """
    if len(points) <= MINI_BATCH_ABOVE:
        model = KMeans(num_clusters, n_init=num_init, max_iter=max_iter, random_state=seed)
        with warnings.catch_warnings():  # of clusters left empty: photos that are all but equal, which collide anyway
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(np.asarray(points))
        return model.cluster_centers_, model.labels_.astype(np.int64)
    model = MiniBatchKMeans(num_clusters, batch_size=8192, n_init=num_init, random_state=seed)
    order = np.random.default_rng(seed)
    for _ in range(max(2, min(10, 2_000_000 // len(points)))):
        for start in order.permutation(np.arange(0, len(points), 8192)):
            batch = np.asarray(points[start : start + 8192])
            if len(batch) >= num_clusters:
                model.partial_fit(batch)
    labels = [model.predict(np.asarray(points[start : start + 65536])) for start in range(0, len(points), 65536)]
    return model.cluster_centers_, np.concatenate(labels).astype(np.int64)


def pseudo_labels(
    embeddings: np.ndarray,
    num_clusters: int,
    present: np.ndarray | None = None,
    seed: int = 0,
    name: str = "embeddings",
) -> np.ndarray:
    """Eq. 1: the k-means cluster of each item in one modality.

    Args:
        embeddings: float, (num_items, embedding_size).
        num_clusters: K; lowered with a warning where there are fewer distinct embeddings.
        present: bool, (num_items,): items without this modality get the label -1.

    Returns:
        int64, (num_items,).
    """
    present = np.ones(len(embeddings), dtype=bool) if present is None else np.asarray(present, dtype=bool)
    labels = np.full(len(embeddings), -1, dtype=np.int64)
    num_present = int(present.sum())
    if num_present == 0:
        return labels
    points = embeddings if num_present == len(embeddings) else embeddings[present]
    distinct = _distinct(points, num_clusters)
    if num_clusters > distinct:
        logger.warning(
            "%s: %d pseudo-label clusters were asked for, but only %d items with different embeddings are there; "
            "using %d clusters.",
            name,
            num_clusters,
            distinct,
            distinct,
        )
        num_clusters = distinct
    labels[present] = kmeans(points, num_clusters, seed)[1]
    return labels


def _distinct(points: np.ndarray, enough: int) -> int:
    """How many different rows there are, counted up to `enough`."""
    found: set[bytes] = set()
    for point in points:
        found.add((point + 0.0).tobytes())  # one zero, not two
        if len(found) >= enough:
            break
    return len(found)


def residual_codebooks(
    points: torch.Tensor,
    num_levels: int,
    codebook_size: int,
    seed: int = 0,
    max_iter: int = 30,
    done: Callable[[], object] = lambda: None,
) -> torch.Tensor:
    """Level by level: [`codebook_seeds`] of the residuals that enter it, then the residuals of the next (eq. 2-3).

    Args:
        points: float, (num_items, dim), on the CPU.
        seed: of the first level; each further one has the next.
        max_iter: of k-means.
        done: called after each level.

    Returns:
        (num_levels, codebook_size, dim), of the points' type.
    """
    residual, levels = points, []
    for level in range(num_levels):
        centres = codebook_seeds(residual.numpy(), codebook_size, seed + level, max_iter)
        codebook = torch.from_numpy(centres).to(points.dtype)
        residual = torch.cat([rows - codebook[nearest_code(rows, codebook)] for rows in residual.split(_ROWS)])
        levels.append(codebook)
        done()
    return torch.stack(levels)


def codebook_seeds(residuals: np.ndarray, codebook_size: int, seed: int = 0, max_iter: int = 30) -> np.ndarray:
    """Seeds of one level's codebook: k-means centres of the residuals that enter it.

    With fewer distinct residuals than codewords the surplus codewords are spread around existing residuals by a
    hundredth of their standard deviation, so that no two codewords are the same.

    Args:
        residuals: float, (num_items, codebook_dim).

    Returns:
        float32, (codebook_size, codebook_dim).
    """
    distinct = np.unique(residuals, axis=0) if len(residuals) <= MINI_BATCH_ABOVE else residuals
    if len(distinct) >= codebook_size:
        return kmeans(residuals, codebook_size, seed, max_iter=max_iter)[0].astype(np.float32)
    random = np.random.default_rng(seed)
    scale = 0.01 * max(float(residuals.std()), 1e-6)
    picked = distinct[random.integers(len(distinct), size=codebook_size - len(distinct))]
    return np.concatenate([distinct, picked + scale * random.standard_normal(picked.shape)]).astype(np.float32)
