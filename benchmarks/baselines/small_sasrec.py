"""A small SASRec of our own, and FDSA on it: a causal transformer over items, and a second one over their features.

SASRec: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; here with full softmax cross-entropy
over the catalogue instead of one sampled negative, as Klenitskiy and Vasilev do ("Turning Dross Into Gold Loss",
RecSys 2023). FDSA: Zhang et al., "Feature-level Deeper Self-Attention Network for Sequential Recommendation", IJCAI
2019: the last states of both streams are joined and projected. Ours reads a dense vector of each item (an embedding)
where FDSA attends over a list of categories, and the streams share no weights.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from purchases import PLACES, in_pieces
from torch import nn
from torch.nn import functional

LENGTH = 20  # purchases that are read, as the recommender's `max_history`
BATCH = 128
CLIP = 1.0  # norm of the gradients


class CausalStream(nn.Module):
    """A transformer that looks back only.

    Args:
        width: of the states.
        blocks: layers of attention and feed-forward, norms first.
        dropout: of all of them and of the input.
    """

    def __init__(self, width: int, blocks: int, dropout: float):
        super().__init__()
        self.places = nn.Embedding(LENGTH, width)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, 1, 2 * width, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, blocks, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(batch, length, width)` in and out. Padding stands on the right, where a causal mask never looks."""
        length = inputs.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=inputs.device)
        hidden = self.dropout(inputs + self.places.weight[:length])
        return self.layers(hidden, mask=mask, is_causal=True)


class SASRec(nn.Module):
    """Scores of all items after each purchase.

    Args:
        num_items: of the catalogue; row `num_items` is padding.
        features: float `(num_items, size)`, or None. With them it is FDSA: two streams.
        width, blocks, dropout: of each stream.
    """

    def __init__(
        self, num_items: int, features: torch.Tensor | None = None, width: int = 64, blocks: int = 1,
        dropout: float = 0.5,
    ):  # fmt: skip
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width, padding_idx=num_items)
        nn.init.normal_(self.items.weight[:num_items], std=width**-0.5)
        self.stream = CausalStream(width, blocks, dropout)
        self.features = None
        if features is not None:
            scaled = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
            padded = torch.cat([scaled, torch.zeros_like(scaled[:1])])
            self.features = nn.Sequential(nn.Embedding.from_pretrained(padded), nn.Linear(features.shape[1], width))
            self.feature_stream = CausalStream(width, blocks, dropout)
            self.join = nn.Linear(2 * width, width)

    def states(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `(batch, length)` → states `(batch, length, width)`."""
        hidden = self.stream(self.items(rows) * self.items.embedding_dim**0.5)
        if self.features is None:
            return hidden
        return self.join(torch.cat([hidden, self.feature_stream(self.features(rows))], dim=-1))

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """States `(…, width)` → logits `(…, num_items)`."""
        return states @ self.items.weight[:-1].T


class OwnSystem:
    """SASRec or FDSA under the protocol of `budget.System`.

    Args:
        training: int arrays, the purchases that may be learned.
        num_items: of the catalogue.
        configuration: width, blocks and dropout.
        seed: of weights and order.
        features: float `(num_items, size)` for FDSA; None: SASRec.
    """

    def __init__(
        self, training: Sequence[np.ndarray], num_items: int, configuration: dict, seed: int,
        features: np.ndarray | None = None,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.order = np.random.default_rng(seed)
        self.pieces = [piece for history in training for piece in in_pieces(history, LENGTH + 1)]
        self.steps = math.ceil(len(self.pieces) / BATCH)
        self.num_items = num_items
        dense = None if features is None else torch.from_numpy(np.asarray(features, dtype=np.float32))
        self.model = SASRec(num_items, dense, **configuration)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def epoch(self) -> None:
        self.model.train()
        order = self.order.permutation(len(self.pieces))
        for start in range(0, len(order), BATCH):
            rows, _ = self.padded([self.pieces[place] for place in order[start : start + BATCH]])
            targets = rows[:, 1:]
            real = targets != self.num_items
            logits = self.model.scores(self.model.states(rows[:, :-1])[real])
            functional.cross_entropy(logits, targets[real]).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()

    @torch.no_grad()
    def rank(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        self.model.eval()
        width = min(PLACES, self.num_items)
        lists = np.full((len(histories), PLACES), -1, dtype=np.int64)
        for start in range(0, len(histories), 512):
            rows, last = self.padded([history[-LENGTH:] for history in histories[start : start + 512]])
            states = self.model.states(rows)[torch.arange(len(rows)), last]
            lists[start : start + len(rows), :width] = self.model.scores(states).topk(width).indices.numpy()
        return lists

    def state(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self.model.state_dict().items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state)

    def padded(self, sequences: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows `(batch, longest)`, padding on the right, and the place of each last purchase."""
        lengths = [len(sequence) for sequence in sequences]
        rows = torch.full((len(sequences), max(lengths)), self.num_items)
        for row, sequence in zip(rows, sequences, strict=True):
            row[: len(sequence)] = torch.from_numpy(np.asarray(sequence, dtype=np.int64))
        return rows, torch.tensor(lengths) - 1
