"""Residual vector quantization: tensors in, tensors out."""

from dataclasses import dataclass

import torch


@dataclass
class ResidualQuantization:
    """What [`residual_quantize`] returns.

    Attributes:
        codes: long, (num_items, num_levels).
        residuals: (num_levels, num_items, codebook_dim), what **enters** each level; `residuals[0]` is the latent.
        codewords: (num_levels, num_items, codebook_dim), what each level picked; gradients reach the codebooks.
        quantized: (num_items, codebook_dim), the sum of the codewords, without straight-through.
    """

    codes: torch.Tensor
    residuals: torch.Tensor
    codewords: torch.Tensor
    quantized: torch.Tensor


def squared_distances(points: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """‖point − codeword‖² for all pairs but for the constant ‖point‖²: (num_items, dim), (K, dim) → (num_items, K)."""
    return torch.addmm(codebook.square().sum(-1), points, codebook.T, alpha=-2.0)


def nearest_code(residual: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Eq. 2: the index of the nearest codeword; of equally near ones the first.

    Args:
        residual: float, (num_items, codebook_dim).
        codebook: float, (codebook_size, codebook_dim).

    Returns:
        long, (num_items,).
    """
    return squared_distances(residual.detach(), codebook.detach()).argmin(dim=-1)


def residual_quantize(latents: torch.Tensor, codebooks: torch.Tensor) -> ResidualQuantization:
    """Eq. 2-3: nearest codeword level by level, r_{l+1} = r_l − sg[e].

    The codeword is detached in the subtraction, so that every residual keeps the latent's gradient and each level's
    losses reach the encoder. Subtracting a straight-through codeword instead would cancel that gradient.

    Args:
        latents: float, (num_items, codebook_dim).
        codebooks: float, (num_levels, codebook_size, codebook_dim).
    """
    residual, codes, residuals, codewords = latents, [], [], []
    for codebook in codebooks:
        code = nearest_code(residual, codebook)
        codeword = torch.nn.functional.embedding(code, codebook)
        codes.append(code)
        residuals.append(residual)
        codewords.append(codeword)
        residual = residual - codeword.detach()
    stacked = torch.stack(codewords)
    return ResidualQuantization(torch.stack(codes, dim=-1), torch.stack(residuals), stacked, stacked.sum(dim=0))


def straight_through(latents: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """The quantized value forward, the latent's gradient backward: what the decoder reads."""
    return latents + (quantized - latents).detach()


def collision_rate(codes: torch.Tensor) -> float:
    """1 − distinct tuples / items: the share of items that do not have an ID of their own (paper, Table 4).

    Args:
        codes: long, (num_items, num_levels).
    """
    return 1.0 - len(torch.unique(codes, dim=0)) / len(codes) if len(codes) else 0.0


def codebook_health(codes: torch.Tensor, codebook_size: int) -> list[dict[str, float]]:
    """How well each level uses its codebook.

    Args:
        codes: long, (num_items, num_levels).

    Returns:
        one dict per level: `usage` (share of the codewords that any item uses), `perplexity` (exp of the entropy of
        their distribution, between 1 and `codebook_size`), `dead_codes` (codewords that nobody uses).
    """
    levels = []
    for column in codes.T:
        counts = torch.bincount(column, minlength=codebook_size).double()
        shares = counts[counts > 0] / counts.sum().clamp(min=1)
        used = int((counts > 0).sum())
        perplexity = float(torch.exp(-(shares * shares.log()).sum())) if used else 0.0
        levels.append(
            {"usage": used / codebook_size, "perplexity": perplexity, "dead_codes": float(codebook_size - used)}
        )
    return levels
