"""Eq. 2-13 in float64 NumPy, written from the equations and without the package: the reference of the tests."""

import numpy as np


def mlp(layers, x):
    for index, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if index < len(layers) - 1:
            x = np.maximum(x, 0.0)
    return x


def log_softmax_at(scores, row, target):
    top = scores[row].max()
    return scores[row, target] - top - np.log(np.exp(scores[row] - top).sum())


def cosine(a, b):
    a = a / np.sqrt((a**2).sum(axis=1, keepdims=True))
    b = b / np.sqrt((b**2).sum(axis=1, keepdims=True))
    return a @ b.T


def quantize(latent, codebooks):
    """Eq. 2-3 one item and one level at a time."""
    codes, entering, chosen = [], [], []
    residual = latent.copy()
    for codebook in codebooks:
        code = np.array([np.argmin([((row - word) ** 2).sum() for word in codebook]) for row in residual])
        entering.append(residual.copy())
        chosen.append(codebook[code])
        codes.append(code)
        residual = residual - codebook[code]
    return np.stack(codes, axis=1), entering, chosen


def losses(model, embeddings, labels, masks, *, alpha, weights, align_weight, temperature, normalize=True):
    """`model`: {modality: (encoder layers, decoder layers, codebooks)}. Positives must be determined by the labels: at
    most one batch-mate shares a label. Returns every loss and the codes."""
    reconstruction = quantization = alignment = 0.0
    contrastive = np.zeros(len(weights))
    found = {}
    for name, (encoder, decoder, codebooks) in model.items():
        x = embeddings[name][masks[name]]
        codes, entering, chosen = quantize(mlp(encoder, x), codebooks)
        found[name] = {
            "codes": codes,
            "entering": entering,
            "quantized": sum(chosen),
            "rows": np.flatnonzero(masks[name]),
        }
        reconstruction += ((mlp(decoder, sum(chosen)) - x) ** 2).mean()
        for residual, word in zip(entering, chosen, strict=True):
            quantization += ((residual - word) ** 2).mean() * (1 + alpha)
    for name in model:
        for other in model:
            if other == name:
                continue
            both = np.flatnonzero(masks[name] & masks[other])
            mine = np.searchsorted(found[name]["rows"], both)
            theirs = np.searchsorted(found[other]["rows"], both)
            own = labels[other][both]
            for level, weight in enumerate(weights):
                if weight == 0:
                    continue
                residual = found[name]["entering"][level][mine]
                scores = (cosine(residual, residual) if normalize else residual @ residual.T) / temperature
                total = 0.0
                for i in range(len(both)):
                    mates = [j for j in range(len(both)) if j != i and own[j] == own[i]]
                    total -= log_softmax_at(scores, i, mates[0] if mates else i)
                contrastive[level] += total / len(both)
            scores = cosine(found[name]["quantized"][mine], found[other]["quantized"][theirs]) / temperature
            alignment -= sum(log_softmax_at(scores, i, i) for i in range(len(both))) / len(both)
    loss = reconstruction + quantization + (np.array(weights) * contrastive).sum() + align_weight * alignment
    return {
        "loss": loss,
        "reconstruction_loss": reconstruction,
        "quantization_loss": quantization,
        "contrastive_losses": contrastive,
        "alignment_loss": alignment,
    }, {name: part["codes"] for name, part in found.items()}
