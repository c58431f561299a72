"""A quantizer without training: k-means of the embeddings, then of what the nearest centre leaves over, and so on."""

import numpy as np
import torch
from transformers.utils import logging

from ..model.configuration_macrec import RESIDUAL_KMEANS, MacRecQuantizerConfig
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from .clustering import residual_codebooks
from .embedding_store import EmbeddingStore

MAX_ITER = 100  # of k-means: here its centres are the result, not where a training begins


def residual_kmeans(
    store: EmbeddingStore, num_levels: int = 4, codebook_size: int = 256, seed: int = 0
) -> MacRecQuantizer:
    """Residual k-means on the raw embeddings, each modality by itself (ours, to compare the trained quantizer with).

    Holds the embeddings of one modality in memory at a time, as float32. Items without the modality take no part.

    Args:
        num_levels: codes of an ID. Default 4, as of a trained quantizer (paper).
        codebook_size: centres of each level. Default 256 (paper).
        seed: of k-means: the same one gives the same codebooks.

    Returns:
        A [`MacRecQuantizer`] of method "residual-kmeans": it encodes, saves and loads as every other does, and has no
        losses.

    Raises:
        ValueError: embeddings that are not finite, or a size below 1.
    """
    config = MacRecQuantizerConfig(
        method=RESIDUAL_KMEANS, modalities=store.modalities, num_levels=num_levels, codebook_size=codebook_size
    )
    store.check_finite()
    codebooks = {}
    with logging.tqdm(total=len(store.arrays) * num_levels, desc="residual k-means", unit="codebook") as progress:
        for name, size in store.modalities.items():
            rows = np.flatnonzero(store.present[name])
            points = torch.from_numpy(store.rows(name, rows)) if len(rows) else torch.zeros(1, size)
            codebooks[name] = residual_codebooks(points, num_levels, codebook_size, seed, MAX_ITER, progress.update)
    quantizer = MacRecQuantizer(config).eval()
    quantizer.set_codebooks(codebooks)
    return quantizer
