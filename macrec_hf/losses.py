"""The losses of the paper: tensors in, a scalar out."""

import torch
from torch.nn import functional


def draw_positives(labels: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One positive per item, uniformly among the batch-mates with the same label; the item itself where there is none.

    A random number per item, a sort within each label and a draw of a position other than its own: linear memory, no
    (batch_size, batch_size) table and no loop over items.

    Args:
        labels: long, (batch_size,): pseudo-labels of the **other** modality (eq. 1).

    Returns:
        long, (batch_size,): the row of each item's positive.
    """
    order = torch.argsort(labels, stable=True)
    _, group, sizes = torch.unique_consecutive(labels[order], return_inverse=True, return_counts=True)
    start = torch.cumsum(sizes, 0) - sizes
    size, first = sizes[group], start[group]
    position = torch.arange(len(labels), device=labels.device) - first
    # A step of 1 … size − 1 around the group never ends at the item itself; in a group of one the step is 0.
    uniform = torch.rand(len(labels), device=labels.device, dtype=torch.float64, generator=generator)
    step = 1 + torch.minimum((uniform * (size - 1)).long(), (size - 2).clamp(min=0))
    partner = first + (position + torch.where(size > 1, step, torch.zeros_like(step))) % size
    positives = torch.empty_like(order)
    positives[order] = order[partner]
    return positives


def info_nce(
    anchors: torch.Tensor, candidates: torch.Tensor, targets: torch.Tensor, temperature: float, normalize: bool = True
) -> torch.Tensor:
    """−log softmax(⟨anchor, candidate⟩ / τ) at each anchor's target, mean over anchors.

    Args:
        anchors: float, (batch_size, dim).
        candidates: float, (num_candidates, dim).
        targets: long, (batch_size,), rows of `candidates`.
        normalize: cosine instead of the raw inner product.

    Returns:
        scalar; 0 for an empty batch.
    """
    if len(anchors) == 0:
        return anchors.sum() * 0.0
    if normalize:
        anchors, candidates = functional.normalize(anchors, dim=-1), functional.normalize(candidates, dim=-1)
    return functional.cross_entropy(anchors @ candidates.T / temperature, targets)


def contrastive_loss(
    residuals: torch.Tensor, positives: torch.Tensor, temperature: float, normalize: bool = True
) -> torch.Tensor:
    """Eq. 4 (or 5): InfoNCE among the residuals that enter a level, each against its positive.

    Args:
        residuals: float, (batch_size, codebook_dim), of one modality.
        positives: long, (batch_size,), from [`draw_positives`] with the other modality's pseudo-labels.
    """
    return info_nce(residuals, residuals, positives, temperature, normalize)


def alignment_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eq. 7-9 and 16-18: the same item in two modalities, both directions, cosine at τ.

    Args:
        first, second: float, (batch_size, dim); row i of both is the same item.
    """
    targets = torch.arange(len(first), device=first.device)
    return info_nce(first, second, targets, temperature) + info_nce(second, first, targets, temperature)


def reconstruction_loss(reconstructed: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Eq. 10 of one modality: squared error, mean over batch and dimensions; 0 for an empty batch."""
    if embeddings.numel() == 0:
        return reconstructed.sum() * 0.0
    return functional.mse_loss(reconstructed, embeddings)


def quantization_loss(residuals: torch.Tensor, codewords: torch.Tensor, commitment_weight: float) -> torch.Tensor:
    """Eq. 11 of one modality: mean over batch and dimensions, summed over levels; 0 for an empty batch.

    Args:
        residuals, codewords: float, (num_levels, batch_size, codebook_dim).
    """
    if residuals.numel() == 0:
        return (residuals.sum() + codewords.sum()) * 0.0
    codebook = (residuals.detach() - codewords).square().mean(dim=(1, 2))
    commitment = (residuals - codewords.detach()).square().mean(dim=(1, 2))
    return (codebook + commitment_weight * commitment).sum()
