"""Fits the blend's weights: a conditional logit on purchases that neither the model nor the counts know.

For each user the candidates compete for one purchase, `P(item) = softmax(Σ weights[k] · terms[k])`; the weights
maximise the mean log-likelihood less a small L2 penalty on the weights of standardised terms, which is concave. The
penalty is chosen by cross-fitting over folds of users, and so are the figures by which the blend has to prove itself
against every single source.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from scipy.optimize import minimize

from ..data.fingerprints import item_hashes
from ..data.histories import user_histories
from ..data.output_folder import locked, output_folder
from ..data.readers import read_interactions
from ..data.splits import before_test
from ..data.time_split import purchases_before
from ..evaluation.leakage import learned_with, left_out
from ..evaluation.report import shared_by
from ..hub.model_card import tell_of_counts
from ..model.blend import BLEND_NAME, COUNT_TERMS, MODEL, SOURCES, Blend
from ..model.checksums import renew_checksums
from ..model.model_files import LEARNED_NAME, load_model_directory, save_tensor
from ..model.purchase_counts import COUNTS_NAME, PurchaseCounts
from ..model.ranked_lists import Candidates, RankedLists
from ..model.recommender import MacRecRecommender
from .blend_purchases import (
    TOO_FEW_USERS,
    Weighed,
    candidates_to_weigh,
    ndcg,
    purchases_to_explain,
)
from .serving_counts import save_serving_counts, serving_counts

logger = logging.getLogger(__name__)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of standardised terms; ours
FOLDS = 5
_ONLY_TO_RANK = ("sold", *COUNT_TERMS)  # other terms hold the same, in a form that can be weighed
NEW_ITEMS_ALONE = "co_visitation_new_items"  # the source that never lists what the user has
_USERS_AT_A_TIME = 512


@dataclass
class Choices:
    """Purchases to explain: users whose target is among their candidates.

    Attributes:
        names: of the terms.
        terms: float32, `(num_users, num_candidates, num_terms)`, standardised over all candidates, 0 in empty places.
        inside: bool, `(num_users, num_candidates)`.
        bought: int64, `(num_users,)`, the place of the target.
        deviations: float64, `(num_terms,)`, by which the terms were divided.
    """

    names: list[str]
    terms: np.ndarray
    inside: np.ndarray
    bought: np.ndarray
    deviations: np.ndarray

    @classmethod
    def of(cls, candidates: Sequence[Candidates], targets: np.ndarray) -> "Choices":
        """From blocks of users; those whose target is not among the candidates have to be left out before."""
        names = [name for name in candidates[0].terms if name not in _ONLY_TO_RANK]
        width = max(block.items.shape[1] for block in candidates)
        items = np.concatenate([_widened(block.items, width, -1) for block in candidates])
        inside = items >= 0
        terms = np.stack(
            [np.concatenate([_widened(block.terms[name], width, 0.0) for block in candidates]) for name in names], -1
        )
        mean, deviations = terms[inside].mean(axis=0), terms[inside].std(axis=0)
        varies = deviations > 1e-9
        scaled = ((terms - mean) / np.where(varies, deviations, 1.0))[..., varies]
        scaled = np.where(inside[..., None], scaled, 0.0).astype(np.float32)
        kept = [name for name, kept in zip(names, varies, strict=True) if kept]
        return cls(kept, scaled, inside, (items == targets[:, None]).argmax(axis=1), deviations[varies])

    def some(self, users: np.ndarray) -> "Choices":
        """Those of some users."""
        return Choices(self.names, self.terms[users], self.inside[users], self.bought[users], self.deviations)

    def probabilities(self, weights: np.ndarray) -> np.ndarray:
        """Of the candidates, `(num_users, num_candidates)`, by weights of standardised terms."""
        scores = np.where(self.inside, self.terms @ weights.astype(np.float32), -np.inf).astype(np.float64)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def loss(self, weights: np.ndarray) -> float:
        """Mean of -log P(target), in nats."""
        return float(-np.log(self.probabilities(weights)[np.arange(len(self.bought)), self.bought]).mean())


def fit_weights(choices: Choices, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
    """The weights of standardised terms, float64 `(num_terms,)`, that minimise `loss + penalty · Σ weights²`.

    Args:
        start: weights to begin with; the minimum is the same from everywhere.
    """
    num_users = len(choices.bought)
    of_targets = choices.terms[np.arange(num_users), choices.bought].mean(axis=0, dtype=np.float64)

    def value_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        probabilities = choices.probabilities(weights)
        chosen = probabilities[np.arange(num_users), choices.bought]
        expected = np.einsum("uc,uct->t", probabilities.astype(np.float32), choices.terms) / num_users
        value = -np.log(chosen).mean() + penalty * weights @ weights
        return value, expected.astype(np.float64) - of_targets + 2 * penalty * weights

    def hessian(weights: np.ndarray) -> np.ndarray:
        return curvature(choices, weights, penalty) / num_users

    start = np.zeros(len(choices.names)) if start is None else start
    return minimize(value_and_gradient, start, jac=True, hess=hessian, method="trust-exact").x


def standard_errors(choices: Choices, weights: np.ndarray, penalty: float) -> np.ndarray:
    """Of the weights of standardised terms, from the curvature of the likelihood; float64 `(num_terms,)`."""
    return np.sqrt(np.diag(np.linalg.inv(curvature(choices, weights, penalty))))


def curvature(choices: Choices, weights: np.ndarray, penalty: float) -> np.ndarray:
    """The matrix of second derivatives of `num_users · (loss + penalty · Σ weights²)`, `(num_terms, num_terms)`."""
    probabilities = choices.probabilities(weights).astype(np.float32)
    expected = np.einsum("uc,uct->ut", probabilities, choices.terms).astype(np.float64)
    total = 2 * penalty * len(probabilities) * np.eye(len(weights))
    for start in range(0, len(probabilities), _USERS_AT_A_TIME):
        block = slice(start, start + _USERS_AT_A_TIME)
        terms = choices.terms[block].reshape(-1, len(weights))
        total += (terms * probabilities[block].reshape(-1, 1)).T @ terms
    return total - expected.T @ expected


def fit_blend(
    recommender: MacRecRecommender,
    interactions: pd.DataFrame,
    *,
    gather: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Blend:
    """Fits and guards a blend on the validation purchases of the users that chose nothing else.

    Neither the model was trained on these purchases nor do the counts contain them, see
    [`~training.blend_purchases.purchases_to_explain`]. Where that half has fewer than 200 users, all validation users
    are explained, although some of them have stopped the training. The recommender's `learned_histories`, if it has
    them, then stand for what the blend was fitted on as well.

    Args:
        recommender: a trained one; its table holds all items. A model of `macrec train --until` is weighed on
            purchases before that day alone.
        interactions: those that the model was trained on, as `read_interactions` returns them.
        gather: `evaluation.report.shared_by` of the processes that share the ranking; None: this process ranks alone.
        progress: whether to show a progress bar.

    Returns:
        The blend. `about` holds "num_users", "num_purchases", "target_among_candidates" (share of the purchases that
        could be explained), "ndcg@10" (`{source: value}`, the blend's cross-fitted), "difference" (blend less the best
        source, its standard error), "penalty", "window", "log_loss", "repeat_rate", "hides_history",
        "without_history" (the term of what is popular that ranks for customers without a history), "weights"
        (`{term: [standardised weight, its standard error]}`) and "counted" (which purchases: see
        [`~training.blend_purchases.Explained.told`]).
    """
    known = purchases_to_explain(interactions, recommender.table.row_of, recommender.model.config.trained_until)
    blocks, ranked, about = candidates_to_weigh(recommender, known, gather=gather, progress=progress)
    blend = fit_and_guard(blocks, ranked)
    blend.about.update(about | {"counted": known.told()})
    blend.about["hides_history"] |= blend.serves == NEW_ITEMS_ALONE
    _note_as_learned(interactions, recommender)
    return blend


def _note_as_learned(interactions: pd.DataFrame, recommender: MacRecRecommender) -> None:
    """Adds what a blend was fitted on to the `learned_histories`; they go where no evaluation could go by them."""
    if recommender.learned_histories is None:
        return
    row_of, until = recommender.table.row_of, recommender.model.config.trained_until
    if until is None:
        histories = user_histories(interactions, row_of)
        known, tested = before_test(histories), left_out(histories)
    else:
        known, tested = user_histories(purchases_before(interactions, until), row_of, min_interactions=1).items, []
    learned = learned_with(
        recommender.learned_histories.numpy(), known, tested, item_hashes(recommender.table.item_ids)
    )
    if learned is None:
        logger.warning(
            "The model may have learned purchases that these hold back for a test, so that no evaluation of it can "
            "tell any more whether it has learned what tests it. Was it trained on another file?"
        )
    recommender.learned_histories = None if learned is None else torch.from_numpy(learned)


def fit_and_count(
    recommender: MacRecRecommender, interactions: str | PathLike[str] | pd.DataFrame, **kwargs: Any
) -> tuple[Blend, PurchaseCounts]:
    """[`fit_blend`], and the counts of all purchases that it serves with; by time of those before the model's day."""
    if not isinstance(interactions, pd.DataFrame):
        interactions = read_interactions(interactions)
    blend = fit_blend(recommender, interactions, **kwargs)
    known = purchases_before(interactions, recommender.model.config.trained_until)
    return blend, serving_counts(known, recommender.table, blend)


def blend_directory(
    directory: Path, interactions: pd.DataFrame, accelerator: Accelerator, *, progress: bool = False
) -> Blend:
    """[`fit_blend`] for a model directory, into which weights and counts are written by the main process.

    All processes rank, unless one of them does not see the directory; then the main process ranks alone.

    Raises:
        OSError: another process writes into the directory.
    """
    with locked(directory) if accelerator.is_main_process and directory.is_dir() else nullcontext():
        return _blend_directory(directory, interactions, accelerator, progress)


def _blend_directory(directory: Path, interactions: pd.DataFrame, accelerator: Accelerator, progress: bool) -> Blend:
    accelerator.wait_for_everyone()  # until the main process has written the model
    everywhere = all(gather_object([(directory / "config.json").is_file()]))
    told: list[Blend | None] = [None]
    if everywhere or accelerator.is_main_process:
        # Blend and counts are about to be replaced: they may be damaged.
        parts = load_model_directory(directory, without=(BLEND_NAME, COUNTS_NAME))
        parts.model.to(accelerator.device)
        recommender = MacRecRecommender._of_catalogue(parts.model, parts.tokenizer, parts)
        gather = shared_by(accelerator) if everywhere else None
        told = [fit_blend(recommender, interactions, gather=gather, progress=progress)]
        if accelerator.is_main_process:
            known = purchases_before(interactions, recommender.model.config.trained_until)
            with output_folder(directory, last=BLEND_NAME, stale=[LEARNED_NAME]) as beside:
                save_serving_counts(beside, known, recommender.table, cast(Blend, told[0]))
                cast(Blend, told[0]).save(beside)
                if recommender.learned_histories is None:
                    renew_checksums(beside, LEARNED_NAME)  # without it
                else:
                    save_tensor(beside / LEARNED_NAME, recommender.learned_histories)
                tell_of_counts(directory, beside, new_blend=True)
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        broadcast_object_list(told)
    return cast(Blend, told[0])


def blend_line(blend: Blend) -> str:
    """What serves, and how it compares with the best single source on validation."""
    figures = blend.about["ndcg@10"]
    best = blend.about["best_source"]
    of = f" with {blend.about['num_purchases']} purchases" * (blend.about["num_purchases"] != blend.about["num_users"])
    users = f"{blend.about['num_users']} validation users{of}"
    if "blend" not in figures:
        return f"too few users to weigh sources by: {blend.serves} serves, NDCG@10 {figures[best]:.4f} on {users}"
    lost = 1 - blend.about["target_among_candidates"]
    if lost:
        users += f", {lost:.1%} of whose purchases are not among their candidates and were left out of the fit"
    difference, error = blend.about["difference"]
    compared = (
        f"NDCG@10 {figures['blend']:.4f} against {figures[best]:.4f} of {best}, the best single source, "
        f"{difference:+.4f} ± {error:.4f}"
    )
    if blend.serves == "blend":
        worse = " by more than a standard error" if difference < 0 else ""
        return f"the blend serves, not worse than any single source{worse} on {users}: {compared}"
    return f"{blend.serves} serves alone, because the blend finds less on {users}: {compared}"


def fit_and_guard(blocks: Sequence[Weighed], model: RankedLists) -> Blend:
    """The blend of the candidates of purchases.

    Args:
        model: the ensemble's lists of the same purchases.
    """
    targets, owners = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("targets", "owners"))
    found = np.concatenate([_is_among(block) for block in blocks])
    gains = {
        name: np.concatenate([ndcg(block.candidates.ranked(of_source, 10), block.targets) for block in blocks])
        for name, of_source in SOURCES.items()
        if of_source.keys() <= blocks[0].candidates.terms.keys()  # all but a regression that was not made
    }
    gains[MODEL] = ndcg(model, targets)
    best = max(gains, key=lambda name: gains[name].mean())
    about: dict[str, Any] = {"num_users": len(np.unique(owners)), "num_purchases": len(targets)}
    about |= {"target_among_candidates": float(found.mean()), "best_source": best}
    of_users, user = np.unique(owners[found], return_inverse=True)
    if len(of_users) < TOO_FEW_USERS:
        return Blend({}, best, about | {"ndcg@10": _means(gains)})
    kept = [_kept(block.candidates, _is_among(block)) for block in blocks]
    choices = Choices.of(kept, targets[found])
    folds = (np.random.default_rng(0).permutation(len(of_users)) % FOLDS)[user]  # no user is on both sides
    losses = {penalty: _crossed(choices, folds, penalty) for penalty in PENALTIES}
    penalty = min(losses, key=lambda value: losses[value][0])
    log_loss, of_fold = losses[penalty]
    gains["blend"] = np.zeros(len(targets))
    gains["blend"][found] = _gains_of_choices(choices, folds, of_fold)
    difference = gains["blend"] - gains[best]
    error = clustered_error(difference, owners)
    serves = "blend" if difference.mean() >= -error else best
    weights = fit_weights(choices, penalty)
    errors = standard_errors(choices, weights, penalty)
    about |= {
        "ndcg@10": _means(gains),
        "difference": [float(difference.mean()), error],
        "penalty": penalty,
        "log_loss": log_loss,
        "weights": {
            name: [float(weight), float(error)]
            for name, weight, error in zip(choices.names, weights, errors, strict=True)
        },
    }
    of_terms = dict(zip(choices.names, (weights / choices.deviations).tolist(), strict=True))
    return Blend(of_terms, serves, about)


def _crossed(choices: Choices, folds: np.ndarray, penalty: float) -> tuple[float, list[np.ndarray]]:
    """The log-loss of users by weights that were fitted on the other folds, and these weights."""
    start = fit_weights(choices, penalty)
    weights = [fit_weights(choices.some(np.flatnonzero(folds != fold)), penalty, start) for fold in range(FOLDS)]
    losses = [choices.some(np.flatnonzero(folds == fold)).loss(weights[fold]) for fold in range(FOLDS)]
    return float(np.average(losses, weights=np.bincount(folds, minlength=FOLDS))), weights


def clustered_error(values: np.ndarray, owners: np.ndarray) -> float:
    """The standard error of a mean over purchases, those of a user taken together.

    Args:
        values: float, `(num_purchases,)`.
        owners: int64, the same shape, whose purchase each is.
    """
    users = np.unique(owners, return_inverse=True)[1]
    sums = np.bincount(users, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / max(len(sums) - 1, 1)) / len(values))


def _means(gains: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in gains.items()}


def _gains_of_choices(choices: Choices, folds: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """NDCG@10 of each user by the weights of the other folds; ties count as worse."""
    gains = np.zeros(len(choices.bought))
    for fold in range(FOLDS):
        users = np.flatnonzero(folds == fold)
        some = choices.some(users)
        probabilities = some.probabilities(weights[fold])
        target = probabilities[np.arange(len(users)), some.bought]
        rank = ((probabilities >= target[:, None]) & some.inside).sum(axis=1)
        gains[users] = np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)
    return gains


def _is_among(block: Weighed) -> np.ndarray:
    """Whether each purchase is among its candidates."""
    return (block.candidates.items == block.targets[:, None]).any(axis=1)


def _kept(block: Candidates, users: np.ndarray) -> Candidates:
    return Candidates(block.items[users], {name: values[users] for name, values in block.terms.items()})


def _widened(values: np.ndarray, width: int, fill: float) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=fill)
