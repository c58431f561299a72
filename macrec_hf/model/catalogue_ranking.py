"""One ranking path for the trainer, the recommender and the command line.

`rank_catalogue` decodes every user's history once in each modality, over the whole catalogue, and fuses what the
modalities say. A user's history is never hidden: the next purchase may be a repeat.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from transformers import T5ForConditionalGeneration
from transformers.utils import logging

from .ensemble import ENSEMBLE, Decoding, IndexedTrie, rank_batch
from .inference import eval_mode
from .limits import Limits
from .ranked_lists import RankedLists
from .tokenization_macrec import TaskEncoder
from .trie import SemanticIdTrie


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
    starts = range(0, len(order), decoding.batch_size)
    batches = [order[start : start + decoding.batch_size] for start in starts]
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
        raise ValueError(f"modality must be 'ensemble' or one of {', '.join(map(repr, tries))}, got {modality!r}.")
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
