"""The blend: what the model says and what customers did, in one score with weights that were fitted on validation.

    score(user, item) = Σ_k weights[k] · terms[k](user, item)          log-softmax over the candidates of the user

NumPy only; `training.blend_fitting` fits the weights. Axes: `num_users` histories, `num_candidates` items, or -1.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .checksums import renew_checksums
from .files import read_json, replacing
from .inference import pad_rows, values_at
from .limits import Limits
from .purchase_counts import HISTORY, MAX_WINDOW, NeighbourScores, PurchaseCounts
from .ranked_lists import SCORED, Candidates, RankedLists, best_columns, log_softmax, sort_lists, unique_rows

BLEND, MODEL = "blend", "model"  # the fusion, and the name of the paper's ensemble as a source
BLEND_NAME = "blend.json"
CANDIDATES = {"near": 100, "cosine": 50, "next": 30, "regression": 100}  # of each count, so many items a user; ours
POPULAR, RECENT, ALIKE, FOLLOWERS = 100, 50, 50, 30  # bestsellers, of the last month, alike, after the last item; ours
MOST_SCORED = 1_000  # candidates of a user whom the model is asked about; as a rule there are a few hundred; ours
NEW, PROMISING = 20, 100  # never sold: alike in a modality, and those whose families sell; ours
WINDOWS = (7, 30, 90)  # days in which purchases count as recent; ours
POPULARITY = ("sold_log1p", *(f"sold_in_{days}_days" for days in WINDOWS))  # terms that rank for who has no history
OFFSETS = dict.fromkeys(("before", "after", "near", "next", "last_next", "together"), 0.1)  # inside the logarithm, so
OFFSETS |= {"cosine": 0.003, "regression": 0.01}  # that no neighbour is little and not minus infinity; ours
COUNT_TERMS = ("near_count", "together_count", "last_next_count", "regression_count")  # as they are, for `SOURCES`
NEIGHBOUR_TERMS = (*(f"{name}_{form}" for name in OFFSETS for form in ("log", "log1p")), *COUNT_TERMS)
MOST_WEIGHT = 1e12  # of a term; beyond it scores lose their digits
_LONG_AGO = 400.0  # days since the last sale at most, and of items that were never sold; ours


@dataclass(frozen=True)
class BlendInputs:
    """What the terms are computed from, the same for all users.

    Attributes:
        counts: what customers did.
        content: `{modality: float32 (num_items, size)}` of length 1, or 0 where an item has none; may be empty.
        codes: `{modality: int (num_items, num_levels)}`, semantic IDs, -1 where an item has none; may be empty.
    """

    counts: PurchaseCounts
    content: Mapping[str, np.ndarray] = field(default_factory=dict)
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def unsold(self) -> np.ndarray:
        """The rows of the items that nobody has bought, int64."""
        return np.flatnonzero(self.counts.popularity == 0)

    @cached_property
    def families(self) -> "dict[str, Family]":
        """`{"family1_{}_text": …}`: items of which one code and two are the same; none where no item is new."""
        return {
            f"family{length}_{{}}_{name}": Family.of(self.counts, codes[:, :length], self.unsold)
            for name, codes in self.codes.items()
            for length in (1, 2)
            if length < codes.shape[1] and len(self.unsold)  # all codes are those of one item
        }

    @cached_property
    def promising(self) -> dict[int, np.ndarray]:
        """What `_promising` has found for a day: who serves asks for one day again and again."""
        return {}


@dataclass(frozen=True)
class Family:
    """Groups of items whose IDs begin with the same codes, and what is sold of them: what a new item has from others.

    Attributes:
        groups: int64, `(num_items,)`, the group of each item; the last one stands for none and for those without new
            items.
        sellers: float64, `(num_groups,)`, items of the group that were sold, at least 1.
        counts: the sales of each group.
    """

    groups: np.ndarray
    sellers: np.ndarray
    counts: PurchaseCounts

    @classmethod
    def of(cls, counts: PurchaseCounts, beginnings: np.ndarray, unsold: np.ndarray) -> "Family":
        """Those of the items in the rows `unsold` by the codes `(num_items, length)` with which all IDs begin."""
        with_id = unsold[beginnings[unsold, 0] >= 0]
        unique, group = np.unique(beginnings, axis=0, return_inverse=True)
        wanted = np.unique(group.reshape(-1)[with_id])
        number = np.full(len(unique), len(wanted), dtype=np.int64)
        number[wanted] = np.arange(len(wanted))
        groups = number[group.reshape(-1)]
        sellers = np.bincount(groups, weights=counts.popularity > 0, minlength=len(wanted) + 1)
        return cls(groups, np.maximum(sellers, 1.0), counts.grouped(np.where(groups < len(wanted), groups, -1)))

    def promise(self, items: np.ndarray, days: np.ndarray, last: int | None) -> np.ndarray:
        """log(1 + purchases by item that was sold) of each item's group, in the `last` days before a day or of all."""
        groups, known = self.groups[items], len(self.counts.popularity)
        inside = np.minimum(groups, known - 1)
        if last is None:
            sold = self.counts.popularity[inside] if known else np.zeros(groups.shape)
        else:
            sold = self.counts.sold(inside, days, last) if known else np.zeros(groups.shape)
        return np.where(groups < known, np.log1p(sold / self.sellers[groups]), 0.0)


@dataclass(frozen=True)
class Blend:
    """Weights of the terms, and how they were found.

    Attributes:
        weights: `{term: weight}` of the blend itself, of terms as they are computed (not standardised).
        serves: "blend", or the source that serves in its place: "model", the paper's ensemble, or one of `SOURCES`.
        about: what was fitted on what: figures of every source, their intervals, users, purchases and settings.
    """

    weights: dict[str, float]
    serves: str = "blend"
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def serving_weights(self) -> dict[str, float]:
        """The weights by which lists are made."""
        return self.weights if self.serves == "blend" else SOURCES[self.serves]

    def scored(self, candidates: Candidates, score: Callable[[np.ndarray], dict[str, np.ndarray]]) -> Candidates:
        """The candidates with what the model says of them; as they are where lists do not go by that.

        Args:
            score: of items, [`~model.model_decoding.score_items`]. Of a user's candidates at most [`MOST_SCORED`] are
                scored, those that are best by the other terms: there are more where nearly everything is asked for.
        """
        if not any(weight and name.startswith(SCORED) for name, weight in self.serving_weights.items()):
            return candidates
        items = candidates.items
        if items.shape[1] <= MOST_SCORED:
            return candidates.with_scores(score(items))
        best_first = np.argsort(-candidates.scores(self.serving_weights), axis=1, kind="stable")  # equal ones by row
        columns = np.sort(best_first[:, :MOST_SCORED], axis=1)
        found = score(np.take_along_axis(items, columns, axis=1))
        scores = {name: np.full(items.shape, -np.inf) for name in found}
        for name, of_best in found.items():
            np.put_along_axis(scores[name], columns, of_best, axis=1)
        return candidates.with_scores(scores)

    def ranked(self, candidates: Candidates, histories: Sequence[np.ndarray], width: int | None = None) -> RankedLists:
        """The lists that are served: who has no history gets what is popular, as `about["without_history"]` says.

        The weights of what was sold when are those of what pairs of purchases leave to explain; here are no pairs.
        """
        scores, term = candidates.scores(self.serving_weights), self.about.get("without_history")
        if term is not None:
            new = np.array([len(history) == 0 for history in histories], dtype=bool)
            scores[new] = candidates.scores(by_popularity(term))[new]
        return RankedLists(*sort_lists(candidates.items, log_softmax(scores), width=width))

    def save(self, directory: str | Path) -> None:
        """Writes `blend.json` into a directory, beside and moved into place."""
        with replacing(Path(directory) / BLEND_NAME) as beside:
            beside.write_text(json.dumps(vars(self), indent=1), encoding="utf-8")
        renew_checksums(directory, BLEND_NAME)

    @classmethod
    def load(cls, directory: str | Path) -> "Blend":
        """Reads what `save` wrote; ValueError for anything else, such as a term of a newer release or a NaN."""
        path = Path(directory) / BLEND_NAME
        content = read_json(path, dict, "weights, serves and about")
        if set(content) != {"weights", "serves", "about"}:
            raise ValueError(f"{path}: expected weights, serves and about. {_ANEW}")
        if content["serves"] not in (known := [BLEND, MODEL, *SOURCES]):
            raise ValueError(
                f"{path}: expected serves to be one of {', '.join(known)}, got {str(content['serves'])[:40]!r}. "
                f"Upgrade macrec_hf if a newer release wrote it. {_ANEW}"
            )
        _check_weights(content["weights"], content["serves"], path)
        _check_about(content["about"], path)
        return cls(**content)


def _check_weights(weights: Any, serves: str, path: Path) -> None:
    if not isinstance(weights, dict) or (serves == BLEND and not weights):
        raise ValueError(f"{path}: expected weights {{term: number}}, got {str(weights)[:40]}. {_ANEW}")
    for name, weight in weights.items():
        if name not in TERMS and not name.startswith(BY_MODALITY):
            raise ValueError(
                f"{path}: expected weights of known terms, got one of {name[:40]!r}. Upgrade macrec_hf if a newer "
                f"release wrote it. {_ANEW}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= MOST_WEIGHT:
            raise ValueError(
                f"{path}: expected as the weight of {name} a number of at most {MOST_WEIGHT:g} either way, got "
                f"{str(weight)[:40]}. {_ANEW}"
            )


def _check_about(about: Any, path: Path) -> None:
    """Refuses what decides on lists: the window of the counts, and whether a user's own items are left out."""
    about = about if isinstance(about, dict) else {}
    if (term := about.get("without_history", POPULARITY[0])) not in POPULARITY:
        raise ValueError(
            f"{path}: expected without_history as one of {', '.join(POPULARITY)}, got {str(term)[:40]}. {_ANEW}"
        )
    window, hides = about.get("window"), about.get("hides_history", False)
    if type(window) is not int or not 1 <= window <= MAX_WINDOW or not isinstance(hides, bool):
        raise ValueError(
            f"{path}: expected in about a window from 1 to {MAX_WINDOW}, and hides_history true or false, got "
            f"{str(window)[:40]} and {str(hides)[:40]}. {_ANEW}"
        )


def by_popularity(term: str) -> dict[str, float]:
    """Weights that rank by one of [`POPULARITY`], equal ones by all sales: the softmax gives shares of the sales."""
    return {term: 1.0, "sold": 1e-12}


# What the baselines of `evaluation/baselines.py` rank by, as weights of terms: equal values by popularity.
SOURCES: dict[str, dict[str, float]] = {
    "popularity": {"sold": 1.0}, "recent_then_popularity": {"own_recency": 1e6, "sold": 1e-3},
    "co_visitation": {"together_count": 1.0, "sold": 1e-9}, "co_occurrence": {"near_count": 1.0, "sold": 1e-9},
    "co_visitation_new_items": {"together_count": 1.0, "sold": 1e-9, "own": -1e6},
    "markov_chain": {"last_next_count": 1.0, "sold": 1e-9}, "item_regression": {"regression_count": 1e6, "sold": 1e-9},
}  # fmt: skip

TERMS = {
    *NEIGHBOUR_TERMS, *POPULARITY, "sold", "sold_log", "is_new", "own", "own_recency", "own_often", "days_since_sale",
}  # fmt: skip
FAMILY_WINDOWS = {"all": None} | {f"{days}_days": days for days in WINDOWS}
BY_MODALITY = (  # each with the name of a modality
    SCORED, "model_", "missed_", "alike_",
    *(f"family{length}_{window}_" for length in (1, 2) for window in FAMILY_WINDOWS),
)  # fmt: skip
OF_DAYS = ("days_since_sale", *POPULARITY[1:], *(name for name in BY_MODALITY if "_days_" in name))  # names begin so
_ANEW = "`macrec blend` writes it anew."


def find_candidates(
    inputs: BlendInputs,
    histories: Sequence[np.ndarray],
    lists: Mapping[str, RankedLists],
    *,
    days: np.ndarray | None = None,
    limits: Limits | None = None,
    users: np.ndarray | None = None,
    wanted: int = 10,
) -> Candidates:
    """The candidates of each history and their terms.

    Args:
        inputs: counts and content of the catalogue.
        histories: table rows, oldest first.
        lists: the model's lists of the same users, by modality.
        days: int `(num_users,)`, the day as of which recent purchases count, itself left out; None where the counts
            have no dates.
        limits, users: which items may appear, and which of the limits' users these are.
        wanted: where limits leave fewer candidates than that, the user's candidates are all that may appear.
    """
    num_users, num_items = len(histories), inputs.counts.num_items
    neighbours = inputs.counts.neighbours(histories)
    likeness = {name: _likeness(vectors, histories) for name, vectors in inputs.content.items()}
    items = _gather(inputs, histories, lists, neighbours, likeness, days)
    if limits is not None:
        users = np.arange(num_users) if users is None else users
        items = unique_rows(limits.keep(items, users))
        few = np.flatnonzero((items >= 0).sum(axis=1) < wanted)
        if len(few):
            every = limits.keep(np.broadcast_to(np.arange(num_items), (len(few), num_items)), users[few])
            wide = np.full((num_users, num_items), -1, dtype=np.int64)
            wide[:, : items.shape[1]] = items
            wide[few] = every
            items = unique_rows(wide)
    return Candidates(items, _terms(inputs, histories, lists, neighbours, likeness, days, items))


def _gather(
    inputs: BlendInputs,
    histories: Sequence[np.ndarray],
    lists: Mapping[str, RankedLists],
    neighbours: NeighbourScores,
    likeness: Mapping[str, np.ndarray],
    days: np.ndarray | None,
) -> np.ndarray:
    counts, num_users = inputs.counts, len(histories)
    parts = [ranked.items for ranked in lists.values()]
    own, _ = pad_rows([np.asarray(history)[::-1][:HISTORY] for history in histories])
    popular = np.tile(np.flatnonzero(counts.places < POPULAR), (num_users, 1))
    parts += [neighbours.best(n, num_users, width) for n, width in CANDIDATES.items() if n in neighbours.values]
    parts += [own, popular, neighbours.best("last_next", num_users, FOLLOWERS, counts.places)]
    if days is not None and counts.sale_days is not None:
        parts.append(_recent_bestsellers(counts, days))
    unsold = inputs.unsold
    if inputs.families:
        parts.append(_promising(inputs, days, num_users))
    for values in likeness.values():
        parts.append(best_columns(values, ALIKE))
        if len(unsold):
            parts.append(unsold[best_columns(values[:, unsold], NEW)])
    return unique_rows(np.concatenate(parts, axis=1).astype(np.int64))


def _terms(
    inputs: BlendInputs,
    histories: Sequence[np.ndarray],
    lists: Mapping[str, RankedLists],
    neighbours: NeighbourScores,
    likeness: Mapping[str, np.ndarray],
    days: np.ndarray | None,
    items: np.ndarray,
) -> dict[str, np.ndarray]:
    rows, counts = np.maximum(items, 0), inputs.counts
    everyone = np.broadcast_to(np.arange(len(items))[:, None], items.shape)
    terms: dict[str, np.ndarray] = {}
    for name, ranked in lists.items():
        terms[f"model_{name}"], terms[f"missed_{name}"] = ranked.log_probabilities_of(items)
    of_pairs = neighbours.of(everyone, items)
    for name in [name for name in OFFSETS if name in of_pairs]:  # a regression may not have been made
        terms[f"{name}_log"] = np.log(of_pairs[name] + OFFSETS[name])
        terms[f"{name}_log1p"] = np.log1p(of_pairs[name])
    terms |= {f"{name}_count": values for name, values in of_pairs.items() if f"{name}_count" in COUNT_TERMS}
    sold = counts.popularity[rows].astype(np.float64)
    terms |= {"sold": sold, "sold_log": np.log(sold + 0.5), "sold_log1p": np.log1p(sold)}
    terms["is_new"] = (sold == 0).astype(np.float64)
    terms |= _own_terms(histories, items)
    terms |= _family_terms(inputs, items, days)
    if days is not None and counts.sale_days is not None:
        since = np.minimum(counts.days_since_sale(rows, days[:, None]), _LONG_AGO)
        terms["days_since_sale"] = -np.log1p(since)
        for window in WINDOWS:
            terms[f"sold_in_{window}_days"] = np.log1p(counts.sold(rows, days[:, None], window))
    for name, values in likeness.items():
        terms[f"alike_{name}"] = np.take_along_axis(values, rows, axis=1).astype(np.float64)
    return terms


def _own_terms(histories: Sequence[np.ndarray], items: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the user has the item, 1 / place of its last purchase, and how often it was bought."""
    own, inside = pad_rows([np.asarray(history)[::-1] for history in histories])
    width = max(int(items.max(initial=0)), int(own.max(initial=0))) + 1
    users, places = np.nonzero(inside)
    keys = users * width + own[inside]
    unique, first, times = np.unique(keys, return_index=True, return_counts=True)  # the first place is the latest
    wanted = np.where(items >= 0, np.arange(len(items))[:, None] * width + items, -1)
    found, (recency, often) = values_at(unique, wanted, 1.0 / (places[first] + 1.0), np.log1p(times))
    return {"own": found.astype(np.float64), "own_recency": recency, "own_often": often}


def _likeness(vectors: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
    """Cosine of every item with the history, its last items weighted by 1 / place; `(num_users, num_items)`."""
    recent, inside = pad_rows([np.asarray(history)[::-1][:HISTORY] for history in histories])
    weights = np.where(inside, 1.0 / (np.arange(recent.shape[1]) + 1.0), 0.0)
    mean = np.einsum("up,upd->ud", weights, vectors[np.maximum(recent, 0)])
    return (mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)).astype(np.float32) @ vectors.T


def _family_terms(inputs: BlendInputs, items: np.ndarray, days: np.ndarray | None) -> dict[str, np.ndarray]:
    """What the families of new items promise; 0 for items that have sales of their own."""
    if not inputs.families:
        return {}
    users, places = np.nonzero((items >= 0) & (inputs.counts.popularity[np.maximum(items, 0)] == 0))
    of_day = np.zeros(len(items), dtype=np.int64) if days is None else days
    # Most users have the same new items, on a day or two.
    keys, which = np.unique(of_day[users] * inputs.counts.num_items + items[users, places], return_inverse=True)
    day, rows = np.divmod(keys, inputs.counts.num_items)
    terms = {}
    for called, family in inputs.families.items():
        for window, last in FAMILY_WINDOWS.items():
            if last is None or (days is not None and inputs.counts.sale_days is not None):
                values = terms[called.format(window)] = np.zeros(items.shape)
                values[users, places] = family.promise(rows, day, last)[which]
    return terms


def _promising(inputs: BlendInputs, days: np.ndarray | None, num_users: int) -> np.ndarray:
    """The new items whose families sold most in the months before each day, `(num_users, PROMISING)`."""
    lasts: tuple[int | None, ...] = WINDOWS[1:]
    if days is None or inputs.counts.sale_days is None:
        days, lasts = np.zeros(num_users, dtype=np.int64), (None,)
    unique, place = np.unique(days, return_inverse=True)
    for day in set(unique.tolist()) - inputs.promising.keys():
        on = np.array(day)
        promises = [family.promise(inputs.unsold, on, last) for family in inputs.families.values() for last in lasts]
        inputs.promising[day] = inputs.unsold[best_columns(np.sum(promises, axis=0)[None], PROMISING)[0]]
    best = [inputs.promising[day] for day in unique.tolist()]
    return np.stack(best)[place] if best else np.zeros((0, 0), dtype=np.int64)


def _recent_bestsellers(counts: PurchaseCounts, days: np.ndarray) -> np.ndarray:
    """The items sold most in the month before each day, `(num_users, RECENT)`."""
    every = np.arange(counts.num_items)
    unique, place = np.unique(days, return_inverse=True)
    best = [best_columns(counts.sold(every, day, 30)[None], RECENT)[0] for day in unique]
    return np.stack(best)[place] if len(best) else np.zeros((0, 0), dtype=np.int64)
