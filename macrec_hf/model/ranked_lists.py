"""Ranked lists: fused, sorted, each item once, and the form in which people get them.

What is computed here needs no model. Axes: `num_users` rows, `width` places of a ranked list, best first.
An item is its row in the table, -1 an empty place, whose score is -inf. Exactly equal scores are ties.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .inference import values_at

FUSIONS = ("average", "authors")
SCORED = "scored_"  # names of terms of a blend begin so: what the model says of each candidate; a modality follows


@dataclass
class RankedLists:
    """Ranked items, a row a user, best first.

    Attributes:
        items: int64, `(num_users, width)`, rows of the table; -1 in places without an item.
        scores: float, same shape, falling; log-probabilities (or their fusion), -inf in places without an item.
        leaf_ranks: int64, same shape: at which place, from 0, the item's ID was found among the distinct IDs; items
            that share an ID share it. None for lists that do not come from one modality's IDs.
        order_counts: whether the list is judged in the order in which it is shown, so that equal scores are no ties.
    """

    items: np.ndarray
    scores: np.ndarray
    leaf_ranks: np.ndarray | None = None
    order_counts: bool = field(default=False, kw_only=True)

    def rows(self, users: np.ndarray) -> "RankedLists":
        """The lists of some users, in their order."""
        leaf_ranks = None if self.leaf_ranks is None else self.leaf_ranks[users]
        return RankedLists(self.items[users], self.scores[users], leaf_ranks, order_counts=self.order_counts)

    def log_probabilities_of(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of other items of each user: float64, of the shape of `items`, and 1 where the list lacks them, else 0.

        An item that the list lacks gets its worst score - 1; without a list neither tells items apart.
        """
        width = max(int(items.max(initial=0)), int(self.items.max(initial=0))) + 1
        offsets = np.arange(len(items))[:, None] * width
        listed = np.greater_equal(self.items, 0)
        keys, scores = (self.items + offsets)[listed], self.scores[listed].astype(np.float64)
        order = np.argsort(keys)
        found, (values,) = values_at(keys[order], np.where(items >= 0, items + offsets, -1), scores[order])
        served = listed.any(axis=1)
        worst = np.where(served, np.where(listed, self.scores, np.inf).min(axis=1, initial=np.inf), 0.0)
        missed = ~found & served[:, None]
        return np.where(found, values, np.where(served, worst - 1, 0.0)[:, None]), missed.astype(np.float64)


@dataclass(frozen=True)
class Candidates:
    """The items of each user that are scored.

    Attributes:
        items: int64, `(num_users, num_candidates)`, ascending, then -1.
        terms: float64, `{name: (num_users, num_candidates)}`.
    """

    items: np.ndarray
    terms: dict[str, np.ndarray]

    def scores(self, weights: Mapping[str, float]) -> np.ndarray:
        """`Σ weights[k] · terms[k]`, `(num_users, num_candidates)`, -inf in empty places; other terms count 0."""
        total = np.zeros(self.items.shape)
        for name, weight in weights.items():
            if name in self.terms:
                total += weight * self.terms[name]
        return np.where(self.items >= 0, total, -np.inf)

    def ranked(self, weights: Mapping[str, float], width: int | None = None) -> RankedLists:
        """The best `width` candidates with the logarithm of the softmax over all of them, all where that is None."""
        return RankedLists(*sort_lists(self.items, log_softmax(self.scores(weights)), width=width))

    def without(self, *beginnings: str) -> "Candidates":
        """The same without the terms whose names begin so."""
        return Candidates(self.items, {n: values for n, values in self.terms.items() if not n.startswith(beginnings)})

    def with_scores(self, scores: Mapping[str, np.ndarray]) -> "Candidates":
        """The same with a term `scored_…` for each modality.

        Args:
            scores: of [`~model.model_decoding.score_items`]. An item without an ID in a modality, and each one of a
                user whom the model cannot read there, gets the mean of the other modalities, and where none scores it
                the user's lowest score; 0 where the user has none.
        """
        stacked = np.stack(list(scores.values()))
        known = np.isfinite(stacked)
        somewhere, means = known.any(axis=0), np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0).clip(min=1)
        lowest = np.where(somewhere, means, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        others = np.where(somewhere, means, np.where(np.isfinite(lowest), lowest, 0.0))
        filled = np.where(known, stacked, others)
        return Candidates(
            self.items, self.terms | {f"{SCORED}{n}": one for n, one in zip(scores, filled, strict=True)}
        )


class Recommendation(tuple[str, float]):
    """One item of a list that `MacRecRecommender.recommend` returns. It is a pair: `item_id, score = recommendation`.

    Args:
        item_id: of the catalogue.
        score: the list is sorted by it, best first.
        probability: `exp(score)`, where the score is a log-probability, else None. Of an ensemble it is the geometric
            mean of the modalities' probabilities.
        title: of the item; None where the recommender knows none.
        reasons: in words, the strongest first, why the blend lists it; empty where no blend made the list.

    Two are equal when their items and scores are; a tuple of the two is equal as well.

    Example:

    ```python
    >>> best = recommender.recommend([["i1", "i7"]], top_k=1)[0][0]
    >>> best.item_id, best.title
    ('i9', 'Blue mug')
    >>> item_id, score = best
    ```
    """

    def __new__(
        cls,
        item_id: str,
        score: float,
        probability: float | None = None,
        title: str | None = None,
        reasons: Sequence[str] = (),
    ) -> "Recommendation":
        return super().__new__(cls, (item_id, score))

    def __init__(
        self,
        item_id: str,
        score: float,
        probability: float | None = None,
        title: str | None = None,
        reasons: Sequence[str] = (),
    ):
        self.probability, self.title, self.reasons = probability, title, tuple(reasons)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    @property
    def item_id(self) -> str:
        """The item's id, as in the table."""
        return self[0]

    @property
    def score(self) -> float:
        """The score that the list is sorted by."""
        return self[1]

    def as_dict(self) -> dict[str, Any]:
        """`{"item_id": …, "score": …, "probability": …, "title": …, "reasons": […]}`, as the pipeline returns it."""
        fields = {"probability": self.probability, "title": self.title, "reasons": list(self.reasons)}
        return {"item_id": self.item_id, "score": self.score, **fields}

    def __repr__(self) -> str:
        more = "" if self.probability is None else f", probability={self.probability:.3g}"
        more += "" if self.title is None else f", title={self.title!r}"
        return f"Recommendation({self.item_id!r}, {self.score!r}{more})"


def check_fusion(fusion: str) -> None:
    """Raises ValueError for anything but the names in `FUSIONS`."""
    if fusion not in FUSIONS:
        raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, got {fusion!r}.")


def fuse(scores: np.ndarray, fusion: str = "average") -> np.ndarray:
    """One score an item from one score a modality.

    Args:
        scores: float, `(num_modalities, ...)`, -inf where a modality has nothing to say of an item.
        fusion: "average": the mean over the modalities that score the item. "authors": the rule of the authors' code,
            that mean plus 1 for an item in both lists, else the one score; each further list adds another 1.

    Returns:
        `(...)`, -inf where no modality scores the item.

    Raises:
        ValueError: for any other `fusion`.
    """
    check_fusion(fusion)
    scores = np.asarray(scores)
    known = scores > -np.inf
    count = known.sum(axis=0)
    mean = np.where(known, scores, 0).sum(axis=0, dtype=scores.dtype) / np.maximum(count, 1).astype(scores.dtype)
    bonus = np.maximum(count - 1, 0).astype(scores.dtype) if fusion == "authors" else np.zeros_like(mean)
    return np.where(count > 0, mean + bonus, -np.inf).astype(scores.dtype)


def sort_lists(
    items: np.ndarray, scores: np.ndarray, *others: np.ndarray, width: int | None = None
) -> tuple[np.ndarray, ...]:
    """Sorts each row by falling score, tied items by their number, so that equal input gives equal lists.

    Args:
        items: int, `(num_users, num_candidates)`, -1 where a place is empty.
        scores: float, same shape.
        others: further arrays of that shape to bring into the same order.
        width: how many places to keep; None: all.
    """
    scores = np.where(items >= 0, scores, -np.inf).astype(scores.dtype)
    items = np.where(scores > -np.inf, items, -1)
    order = np.lexsort((items, -scores), axis=1)[:, :width]
    return tuple(np.take_along_axis(array, order, axis=1) for array in (items, scores, *others))


def unique_rows(items: np.ndarray) -> np.ndarray:
    """Every item once a row, ascending, then -1; as narrow as the longest row allows."""
    items = np.sort(items, axis=1)
    items[:, 1:][items[:, 1:] == items[:, :-1]] = -1
    order = np.argsort(items < 0, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    return items[:, : int((items >= 0).sum(axis=1).max(initial=0))]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Of each row, `-inf` stays."""
    best = np.max(scores, axis=1, keepdims=True, initial=-np.inf)
    shifted = scores - np.where(np.isfinite(best), best, 0.0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1.0))


def best_columns(values: np.ndarray, width: int) -> np.ndarray:
    """The columns with the highest values of each row, in no order."""
    width = min(width, values.shape[1])
    return np.argpartition(-values, width - 1, axis=1)[:, :width] if width else np.zeros((len(values), 0), dtype=int)


def least_of_best(users: np.ndarray, values: np.ndarray, num_users: int, width: int) -> np.ndarray:
    """Each user's `width`-th highest value, -inf where there are fewer or where looking would cost more than sorting.

    `users` ascend. One user with many values makes the table of all users wide.
    """
    starts = np.searchsorted(users, np.arange(num_users + 1))
    longest = int(np.diff(starts).max(initial=0))
    if not 0 < width <= longest or num_users * longest > 8 * len(users):
        return np.full(num_users, -np.inf)
    table = np.full((num_users, longest), -np.inf)
    table[users, np.arange(len(users)) - starts[users]] = values
    best = torch.from_numpy(table).topk(width, dim=1, sorted=False).values  # a tenth of the time of np.partition
    return best.amin(dim=1).numpy()
