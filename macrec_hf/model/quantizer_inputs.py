"""What the quantizer is given, checked: embeddings, masks and pseudo-labels of a batch."""

from collections.abc import Iterable, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]


def check_modality(name: str, known: Iterable[str], argument: str) -> None:
    """Refuses a modality that the quantizer does not have."""
    if name not in known:
        raise ValueError(
            f"{argument}: expected the modalities {list(known)}, got {name!r}. The quantizer was made for another "
            "catalogue, or the modality is spelt differently."
        )


def check_embeddings(embeddings: Tensors, sizes: Mapping[str, int], complete: bool = False) -> None:
    """Refuses unknown modalities, wrong sizes and batches of different lengths.

    Args:
        sizes: `{modality: embedding size}` of the quantizer.
        complete: whether all of them have to be there.
    """
    batch_sizes = {}
    for name, rows in embeddings.items():
        check_modality(name, sizes, "embeddings")
        if rows.ndim != 2 or rows.shape[1] != sizes[name]:
            raise ValueError(
                f"embeddings[{name!r}]: expected shape (batch_size, {sizes[name]}), got {tuple(rows.shape)}. They "
                "come from another encoder than those the quantizer was made for: embed the items with that one, "
                "or make a MacRecQuantizerConfig with the new size."
            )
        batch_sizes[name] = len(rows)
    lacking = [name for name in sizes if name not in embeddings]
    if complete and lacking:
        raise ValueError(
            f"embeddings: expected every modality of {list(sizes)}, got none for {lacking}. Items without a "
            "modality are marked in modality_mask; a config without it trains on the others alone."
        )
    if len(set(batch_sizes.values())) > 1:
        raise ValueError(f"embeddings: expected the same items in every modality, got batch sizes {batch_sizes}.")


def check_finite(embeddings: Tensors, masks: Tensors) -> None:
    """Refuses NaN and infinity in rows inside the masks; other rows may hold anything."""
    for name, mask in masks.items():
        finite = torch.isfinite(embeddings[name])
        if finite.all():
            continue
        bad = ~finite.all(dim=1) & mask
        if bad.any():
            raise ValueError(
                f"embeddings[{name!r}]: expected finite numbers, got NaN or infinity in {int(bad.sum())} of "
                f"{len(bad)} rows, first in row {int(bad.nonzero()[0])}. If the item has none, mark it in "
                "modality_mask; otherwise the encoder is at fault (float16 overflow is a common cause)."
            )


def check_labels(pseudo_labels: Tensors, masks: Tensors) -> None:
    """Refuses pseudo-labels that are not one per item of every modality."""
    for name, mask in masks.items():
        if name not in pseudo_labels or tuple(pseudo_labels[name].shape) != (len(mask),):
            got = tuple(pseudo_labels[name].shape) if name in pseudo_labels else "none"
            raise ValueError(f"pseudo_labels[{name!r}]: expected shape ({len(mask)},), got {got}.")


def modality_masks(
    embeddings: Tensors, modality_mask: Tensors | None, known: Iterable[str]
) -> dict[str, torch.Tensor]:
    """`{modality: bool (batch_size,)}` of every modality that is given, all True where no mask is.

    Args:
        known: the quantizer's modalities; the result is in their order, whatever the order of the embeddings.
    """
    masks = {}
    for name, rows in embeddings.items():
        mask = (modality_mask or {}).get(name)
        if mask is None:
            mask = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if tuple(mask.shape) != (len(rows),):
            raise ValueError(f"modality_mask[{name!r}]: expected shape ({len(rows)},), got {tuple(mask.shape)}.")
        masks[name] = mask.to(device=rows.device, dtype=torch.bool)
    for name in modality_mask or {}:
        check_modality(name, known, "modality_mask")
    return {name: masks[name] for name in known if name in masks}
