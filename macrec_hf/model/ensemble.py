"""One batch of users: beams in each modality, items behind the beams, and the ensemble of what the modalities say.

Decoding and scoring run on the model's device; the joining of lists is NumPy on the host. Axes: `batch_size` users,
`num_beams` leaves (distinct IDs) per user, `num_candidates` items per user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import T5ForConditionalGeneration

from .beam_search import BeamRequest, joint_beam_search
from .configuration_macrec import NUM_BEAMS
from .inference import check_at_least_one, pad_rows
from .limits import Limits
from .model_decoding import candidate_scores
from .ranked_lists import RankedLists, check_fusion, fuse, sort_lists, unique_rows
from .trie import SemanticIdTrie

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Decoding:
    """How lists are decoded; the same fields are arguments of `MacRecRecommender.recommend`.

    Args:
        num_beams: distinct IDs that are kept per user and modality. Default 20 (authors' code).
        top_k: items of a list; None: all that the beams hold.
        modality: "ensemble", or the only modality to decode.
        fusion: "average": the mean of the modalities' log-probabilities, where an item that one modality's beams
            missed is scored exactly there, and an item without an ID there counts by the others alone. "authors": the
            rule of the authors' code over what the beams found: that mean, plus 1 for each further list that has the
            item.
        batch_size: users at a time. Default 64 (ours).

    Raises:
        ValueError: a number below 1, or an unknown fusion. Modalities are checked where the catalogue is known.
    """

    num_beams: int = NUM_BEAMS
    top_k: int | None = None
    modality: str = ENSEMBLE
    fusion: str = "average"
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("num_beams", "top_k", "batch_size"):
            if name != "top_k" or self.top_k is not None:
                check_at_least_one(name, getattr(self, name))
        if not isinstance(self.modality, str):
            raise ValueError(f"modality: expected 'ensemble' or the name of a modality, got {self.modality!r}.")
        check_fusion(self.fusion)

    @property
    def width(self) -> int:
        """The beams of a user in a modality: never fewer than the items of a list."""
        return int(max(self.num_beams, self.top_k or 0))

    @property
    def fuses(self) -> bool:
        """Whether what the modalities say is fused."""
        return self.modality == ENSEMBLE

    @property
    def gives_log_probabilities(self) -> bool:
        """Whether scores are log-probabilities: the authors' rule adds 1 for each further list that has the item."""
        return self.fusion != "authors" or not self.fuses


class IndexedTrie:
    """A trie with its leaf ↔ item look-ups on the host."""

    def __init__(self, trie: SemanticIdTrie):
        self.trie = trie
        self.num_leaves = trie.num_leaves
        self.leaf_start = trie.leaf_start.cpu().numpy()
        self.leaf_rows = trie.leaf_rows.cpu().numpy()
        self.item_leaf = trie.item_leaf.cpu().numpy()

    def expand(self, leaves: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All items behind each user's leaves.

        Args:
            leaves: int, `(batch_size, num_beams)`, -1 in empty places.
            scores: float, same shape.

        Returns:
            items, their scores and the places of their leaves, `(batch_size, num_candidates)`, -1 (-inf) at the end.
        """
        batch_size, num_beams = leaves.shape
        known = leaves >= 0
        counts = np.where(known, self.leaf_start[leaves + 1] - self.leaf_start[np.where(known, leaves, 0)], 0)
        ends = counts.cumsum(axis=1)
        beam = np.repeat(np.arange(leaves.size), counts.ravel())  # which flat beam each item comes from
        within = np.arange(len(beam)) - np.repeat(counts.ravel().cumsum() - counts.ravel(), counts.ravel())
        user, place = beam // num_beams, (ends - counts).ravel()[beam] + within
        shape = (batch_size, int(ends[:, -1].max(initial=0)))
        items, places = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        spread = np.full(shape, -np.inf, dtype=scores.dtype)
        items[user, place] = self.leaf_rows[self.leaf_start[leaves.ravel()[beam]] + within]
        spread[user, place], places[user, place] = scores.ravel()[beam], beam % num_beams
        return items, spread, places


@dataclass
class _Decoded:
    """What one modality's beams found for the users that it serves."""

    served: np.ndarray  # int64, positions in the batch of the users that have a source in this modality
    leaves: np.ndarray  # int64, (num_served, num_beams)
    scores: np.ndarray  # (num_served, num_beams)
    encoder_hidden_states: torch.Tensor | None
    attention_mask: torch.Tensor | None


def rank_batch(
    model: T5ForConditionalGeneration,
    catalogues: Mapping[str, IndexedTrie],
    sources: Mapping[str, Sequence[Sequence[int] | None]],
    users: np.ndarray,
    limits: Limits,
    decoding: Decoding,
) -> dict[str, RankedLists]:
    """The lists of `users` in each modality and, where it is asked for, "ensemble".

    Args as in `model.catalogue_ranking.rank_catalogue`; `users` are int64 positions in `sources` and in the limits.
    """
    lists, found = {}, {}
    decoded = _decode(model, catalogues, sources, users, limits, decoding.width)
    for name, catalogue in catalogues.items():
        found[name] = _expand_all(catalogue, decoded[name], users, limits)
        items, scores, places = sort_lists(*found[name], width=decoding.top_k)
        lists[name] = RankedLists(items, scores, places)
    if not decoding.fuses:
        return lists
    candidates = unique_rows(np.concatenate([items for items, _, _ in found.values()], axis=1))
    exact = decoding.fusion == "average"
    scores = np.stack([_score(model, catalogues[name], decoded[name], candidates, exact) for name in catalogues])
    items, scores = sort_lists(candidates, fuse(scores, decoding.fusion), width=decoding.top_k)
    return lists | {ENSEMBLE: RankedLists(items, scores)}


def _decode(
    model: T5ForConditionalGeneration,
    catalogues: Mapping[str, IndexedTrie],
    sources: Mapping[str, Sequence[Sequence[int] | None]],
    users: np.ndarray,
    limits: Limits,
    num_beams: int,
) -> dict[str, _Decoded]:
    """The beams of every modality, all in one batch; users without a source in a modality have none there."""
    decoded, requests = {}, {}
    for name, catalogue in catalogues.items():
        served = np.array([place for place, user in enumerate(users) if sources[name][user]], dtype=np.int64)
        decoded[name] = _Decoded(served, np.zeros((0, 1), dtype=np.int64), np.zeros((0, 1), np.float32), None, None)
        if len(served):
            read = [source for user in users[served] if (source := sources[name][user])]
            padded, inside = pad_rows(read, cast(int, model.config.pad_token_id))
            input_ids = torch.from_numpy(padded).to(model.device)
            attention_mask = torch.from_numpy(inside).to(model.device, torch.long)
            limited = limits.on_trie(catalogue.trie, users[served])
            requests[name] = BeamRequest(input_ids, attention_mask, catalogue.trie, limited)
    # More beams than there are IDs would only be empty places.
    num_beams = min(num_beams, max((request.trie.num_leaves for request in requests.values()), default=num_beams))
    results = joint_beam_search(model, list(requests.values()), num_beams)
    for (name, request), result in zip(requests.items(), results, strict=True):
        leaves, scores = result.leaves.cpu().numpy(), result.scores.cpu().numpy()
        decoded[name] = _Decoded(
            decoded[name].served, leaves, scores, result.encoder_hidden_states, request.attention_mask
        )
    return decoded


def _expand_all(
    catalogue: IndexedTrie, decoded: _Decoded, users: np.ndarray, limits: Limits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, scores and leaf places of the whole batch; users that the modality does not serve have empty rows."""
    found = catalogue.expand(decoded.leaves, decoded.scores)
    shape = (len(users), found[0].shape[1])
    spread = (np.full(shape, -1), np.full(shape, -np.inf, dtype=found[1].dtype), np.full(shape, -1))
    for everyone, some in zip(spread, found, strict=True):
        everyone[decoded.served] = some
    items, scores, places = spread
    return limits.keep(items, users), scores, places


def _score(
    model: T5ForConditionalGeneration,
    catalogue: IndexedTrie,
    decoded: _Decoded,
    candidates: np.ndarray,
    exact: bool,
) -> np.ndarray:
    """One modality's score of every candidate, `(batch_size, num_candidates)`, -inf where it has none.

    The beams' own scores where they have the item's leaf; with `exact`, teacher forcing where they missed it. Every
    leaf is scored once per user, so items that share an ID stay tied to the last bit.
    """
    scores = np.full(candidates.shape, -np.inf, dtype=decoded.scores.dtype)
    if not len(decoded.served):
        return scores
    candidates = candidates[decoded.served]
    leaves = np.where(candidates >= 0, catalogue.item_leaf[candidates], -1)
    known_keys, known = _keys(decoded.leaves, catalogue.num_leaves), decoded.scores[decoded.leaves >= 0]
    if exact:
        missed = np.setdiff1d(_keys(leaves, catalogue.num_leaves), known_keys)
        known_keys = np.concatenate([known_keys, missed])
        known = np.concatenate([known, _exact(model, catalogue, decoded, missed)])
    order = np.argsort(known_keys)
    wanted = _keys(leaves, catalogue.num_leaves)
    place = np.minimum(np.searchsorted(known_keys[order], wanted), max(len(order) - 1, 0))
    values = np.full(len(wanted), -np.inf, dtype=scores.dtype)
    if len(order):
        values = np.where(known_keys[order][place] == wanted, known[order][place], -np.inf)
    of_served = np.full(leaves.shape, -np.inf, dtype=scores.dtype)
    of_served[leaves >= 0] = values
    scores[decoded.served] = of_served
    return scores


def _keys(leaves: np.ndarray, num_leaves: int) -> np.ndarray:
    """One number per user and leaf, row by row, empty places left out."""
    return (leaves + np.arange(len(leaves))[:, None] * num_leaves)[leaves >= 0]


def _exact(
    model: T5ForConditionalGeneration, catalogue: IndexedTrie, decoded: _Decoded, keys: np.ndarray
) -> np.ndarray:
    """Teacher-forced scores of the leaves in `keys` (ascending), from the encoder states that decoding made."""
    if not len(keys):
        return np.zeros(0, dtype=decoded.scores.dtype)
    counts = np.bincount(keys // catalogue.num_leaves, minlength=len(decoded.served))
    leaves, inside = pad_rows(np.split(keys % catalogue.num_leaves, counts.cumsum()[:-1]))
    states = cast(torch.Tensor, decoded.encoder_hidden_states)  # there are leaves, so somebody was served
    on_device = torch.from_numpy(leaves).to(states.device)
    scores = candidate_scores(model, states, decoded.attention_mask, catalogue.trie, on_device)
    return scores.cpu().numpy()[inside]
