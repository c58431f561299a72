"""The one ranking path: beams in each modality, items behind the beams, and the ensemble of what the modalities say.

`rank_catalogue` goes through the users batch by batch. A user's history is never hidden unless limits say so: the next
purchase may be a repeat.

Decoding and scoring run on the model's device; the joining of lists is NumPy on the host. Axes: `batch_size` users,
`num_beams` leaves (distinct IDs) per user, `num_candidates` items per user.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import T5ForConditionalGeneration
from transformers.utils import logging

from .beam_search import BeamRequest, check_scores, joint_beam_search
from .configuration_macrec import NUM_BEAMS
from .inference import check_at_least_one, eval_mode, joined_ranges, pad_rows
from .limits import Limits
from .model_decoding import candidate_scores, padded_sources
from .ranked_lists import RankedLists, check_fusion, fuse, sort_lists, unique_rows
from .tokenization_macrec import TaskEncoder
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
        batch_size: users at a time; None: 64 on a CPU, up to 512 on a GPU (ours), see `users_at_a_time`.

    Raises:
        ValueError: a number below 1, or an unknown fusion. Modalities are checked where the catalogue is known.
    """

    num_beams: int = NUM_BEAMS
    top_k: int | None = None
    modality: str = ENSEMBLE
    fusion: str = "average"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_beams", "top_k", "batch_size"):
            if name == "num_beams" or getattr(self, name) is not None:
                check_at_least_one(name, getattr(self, name))
        if not isinstance(self.modality, str):
            raise ValueError(f"modality: expected 'ensemble' or the name of a modality, got {self.modality!r}.")
        check_fusion(self.fusion)

    @property
    def width(self) -> int:
        """The beams of a user in a modality: never fewer than the items of a list."""
        return int(max(self.num_beams, self.top_k or 0))

    def users_at_a_time(self, device: torch.device) -> int:
        """`batch_size`, or its default on a device: 64, on a GPU up to 512, so that they have at most 10,240 beams."""
        return self.batch_size or (64 if device.type == "cpu" else min(512, max(64, 10_240 // self.width)))

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
        self.leaf_start, self.leaf_rows, self.item_leaf = trie.on_host

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
        begins = self.leaf_start[np.where(known, leaves, 0)]
        counts = np.where(known, self.leaf_start[leaves + 1] - begins, 0)
        ends = counts.cumsum(axis=1)
        # Which flat beam each item comes from, and where it stands in `leaf_rows`.
        beam, entry = joined_ranges(begins.ravel(), counts.ravel())
        user, place = beam // num_beams, (ends - counts - begins).ravel()[beam] + entry
        shape = (batch_size, int(ends[:, -1].max(initial=0)))
        items, places = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        spread = np.full(shape, -np.inf, dtype=scores.dtype)
        items[user, place] = self.leaf_rows[entry]
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

    Args as in `model.ensemble.rank_catalogue`; `users` are int64 positions in `sources` and in the limits.
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
            input_ids, attention_mask = padded_sources(model, read)
            limited = limits.on_trie(catalogue.trie, users[served])
            requests[name] = BeamRequest(input_ids, attention_mask, catalogue.trie, limited)
    # More beams than there are IDs would only be empty places.
    num_beams = min(num_beams, max((request.trie.num_leaves for request in requests.values()), default=num_beams))
    results = joint_beam_search(model, list(requests.values()), num_beams)
    for (name, request), result in zip(requests.items(), results, strict=True):
        leaves, scores = result.leaves.cpu().numpy(), result.scores.cpu()
        check_scores(scores)
        decoded[name] = _Decoded(
            decoded[name].served, leaves, scores.numpy(), result.encoder_hidden_states, request.attention_mask
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


def history_sources(
    task_encoder: TaskEncoder, histories: Iterable[np.ndarray], modalities: Sequence[str]
) -> dict[str, list[list[int] | None]]:
    """What the model reads of each history in each modality, `None` where the history has nothing there.

    Args:
        task_encoder: that of a [`MacRecRecommender`], `recommender.task_encoder`.
        histories: int, an array of table rows a user, oldest first, as [`user_histories`] and [`leave_one_out`] give
            them.
        modalities: names; each is asked through its bare task, such as `text_to_text`.

    Returns:
        `{modality: [token ids with </s> at the end, or None, for each user]}`, for [`rank_catalogue`].

    Raises:
        ValueError: a modality that the table lacks.
    """
    histories = list(histories)
    sources = {}
    for modality in modalities:
        encoded = (task_encoder.source(history, f"{modality}_to_{modality}") for history in histories)
        # One token is the </s> alone: none of the items has an ID in this modality.
        sources[modality] = [source if len(source) > 1 else None for source in encoded]
    return sources


def rank_catalogue(
    model: T5ForConditionalGeneration,
    tries: Mapping[str, SemanticIdTrie],
    sources: Mapping[str, Sequence[Sequence[int] | None]],
    decoding: Decoding | None = None,
    *,
    limits: Limits | None = None,
    progress: bool = False,
    rank: int = 0,
    num_processes: int = 1,
    gather: Callable[[list], list] = list,
) -> dict[str, RankedLists]:
    """Ranks the whole catalogue for every user.

    Args:
        model: an encoder-decoder over semantic IDs; it is put into eval mode for the time of the call.
        tries: the catalogue in each modality, in the order of the modalities: `recommender.tries`.
        sources: token ids of each user's history in each modality, as [`history_sources`] gives them; a user with
            `None` is served by the other modalities.
        decoding: a [`Decoding`]; None: its defaults. Its batches are of users with histories of about one length.
        limits: which items may appear for which of the users. None: all for everybody.
        progress: whether to show a progress bar.
        rank, num_processes: of the processes that share the users; each returns the lists of all.
        gather: joins the lists that all processes hand over into one, in every process; for the processes of an
            `accelerate.Accelerator` these three are its `process_index`, its `num_processes` and
            `accelerate.utils.gather_object`.

    Returns:
        [`RankedLists`] for each decoded modality and, unless `decoding` names one, "ensemble". Users keep their order.

    Raises:
        ValueError: unknown modality, sources of unequal number, or limits of other users or items.

    Example:

    ```python
    >>> sources = history_sources(recommender.task_encoder, histories, recommender.table.modalities)
    >>> lists = rank_catalogue(recommender.model, recommender.tries, sources, Decoding(num_beams=50))
    >>> lists["ensemble"].items.shape
    (600, 74)
    ```
    """
    decoding = decoding or Decoding()
    tries = _chosen_tries(tries, sources, decoding.modality)
    num_users = len(sources[next(iter(tries))])
    lengths = np.array([[len(source or ()) for source in sources[name]] for name in tries]).max(axis=0, initial=0)
    order = np.argsort(-lengths, kind="stable")
    order = order[rank::num_processes]
    limits = _checked_limits(limits, num_users, next(iter(tries.values())).num_items)
    catalogues = {name: IndexedTrie(trie.to(model.device)) for name, trie in tries.items()}
    size = decoding.users_at_a_time(model.device)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    with eval_mode(model):
        parts = [
            (users, rank_batch(model, catalogues, sources, users, limits, decoding))
            for users in logging.tqdm(batches, desc="ranking", unit="batch", disable=not progress or rank > 0)
        ]
    parts = gather(parts)
    names = [*tries, *([ENSEMBLE] if decoding.fuses else [])]
    return {name: _in_order(num_users, [(users, lists[name]) for users, lists in parts]) for name in names}


def _chosen_tries(tries: Mapping, sources: Mapping, modality: str) -> dict[str, SemanticIdTrie]:
    """The tries to decode; refuses what does not fit together."""
    if modality != ENSEMBLE and modality not in tries:
        raise ValueError(f"modality: expected 'ensemble' or one of {', '.join(map(repr, tries))}, got {modality!r}.")
    chosen = dict(tries) if modality == ENSEMBLE else {modality: tries[modality]}
    missing = [name for name in chosen if name not in sources]
    if missing:
        raise ValueError(f"Expected sources for {list(chosen)}, got {list(sources)}: pass those of {missing} too.")
    counts = {name: len(sources[name]) for name in chosen}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"Expected as many sources in each modality, got {counts}: a user without a history in a modality is None."
        )
    return chosen


def _checked_limits(limits: Limits | None, num_users: int, num_items: int) -> Limits:
    """The limits, or such that limit nothing; refuses those of other users or of another catalogue."""
    if limits is None:
        return Limits(num_users, num_items)
    if (limits.num_users, limits.num_items) != (num_users, num_items):
        raise ValueError(
            f"limits: expected those of {num_users} users over {num_items} items, got those of {limits.num_users} "
            f"users over {limits.num_items} items. Make them with the same users and the tries' table."
        )
    return limits


def _in_order(num_users: int, parts: Sequence[tuple[np.ndarray, RankedLists]]) -> RankedLists:
    """Joins the lists of batches, as wide as the widest, and puts every user back into place."""
    width = max((lists.items.shape[1] for _, lists in parts), default=0)
    dtype = parts[0][1].scores.dtype if parts else np.float32
    items = np.full((num_users, width), -1, dtype=np.int64)
    scores = np.full((num_users, width), -np.inf, dtype=dtype)
    has_leaves = bool(parts) and parts[0][1].leaf_ranks is not None
    leaf_ranks = np.full((num_users, width), -1, dtype=np.int64) if has_leaves else None
    for users, lists in parts:
        columns = slice(lists.items.shape[1])
        items[users, columns], scores[users, columns] = lists.items, lists.scores
        if leaf_ranks is not None:
            leaf_ranks[users, columns] = lists.leaf_ranks
    return RankedLists(items, scores, leaf_ranks)
