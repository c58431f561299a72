"""A recommender and purchases in, figures out: the model's lists of a split's users beside those of the baselines."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from ..data.histories import user_histories
from ..data.learned_purchases import check_unseen
from ..data.readers import read_interactions
from ..data.splits import SplitUsers, split_users
from ..data.time_split import Cut, FutureUsers, Moments, split_at
from ..model.blend import BLEND, MODEL
from ..model.ensemble import ENSEMBLE, NUM_BEAMS, Decoding, history_sources, rank_catalogue
from ..model.limits import Limits
from ..model.model_decoding import score_items
from ..model.ranked_lists import RankedLists
from ..model.recommender import MacRecRecommender
from ..model.served_catalogue import hides_history
from .baselines import BASELINES, Counted, baseline_lists, best_window, without_last
from .blend_lists import blend_lists, inputs_of_weights
from .by_time import PARTS, answered, check_cut, column_by_time, said_of_ids
from .leakage import Leakage, find_leakage
from .outside_lists import LONG_ENOUGH, is_long_enough, read_lists
from .own_history import quoted, refilled, repeat_rate, without_own
from .ranking_metrics import KS
from .report import evaluation_report, shared_by
from .verdict import METRIC, verdict

Lists = dict[str, RankedLists]
logger = logging.get_logger(__name__)


def evaluate(
    recommender: MacRecRecommender,
    interactions: str | PathLike[str] | pd.DataFrame,
    split: str = "test",
    *,
    cut: Cut | None = None,
    lists: Mapping[str, str | PathLike[str]] | None = None,
    num_beams: int = NUM_BEAMS,
    fusion: str = "average",
    batch_size: int | None = None,
    limit_users: int | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """HR@K and NDCG@K of a recommender by full ranking over its catalogue, beside baselines that need no model.

    Leave-one-out: each user's last purchase tests, the one before validates (paper, "Experimental Settings").
    Baselines count what the recommender has learned from, all but each user's last two purchases; users with fewer
    than three are counted, not evaluated. The counts of a model directory are never looked at: they serve, and know
    what is to be predicted.

    By time (`split="time"`): one list a user, made at the cut from the purchases before it; every later purchase is a
    target, of everybody who has one, and figures are means over these purchases. Baselines count everything before
    the cut, and intervals resample users with all of their purchases. A user whose history is empty, or holds nothing
    that the model can read, gets what is popular before the cut, as [`MacRecRecommender.recommend`] answers. Later
    purchases of items that the table lacks are targets that nobody hits.

    Every list stands there twice: with the user's own history shown, where repeats may count, and hidden, where it is
    left out. The repeat rate, the share of the users whose target stands in their history, fixes which of the two
    summaries quote: hidden below 1 %.

    Args:
        recommender: a [`MacRecRecommender`].
        interactions: a path for [`read_interactions`], or what it returns: columns `user_id`, `item_id`, `timestamp`.
        split: "test", "validation" or "time".
        cut: of `split="time"`: a date such as "2020-03-01", whose own purchases are later ones; a number where the
            timestamps are no dates.
        lists: `{name: path}`, what other libraries recommend: one `{"user_id": …, "items": [best first]}` a line.
            Where one is shorter than 50 places, its hidden column is left out.
        num_beams, fusion, batch_size: as in [`MacRecRecommender.recommend`].
        limit_users: evaluate so many users, evenly spaced; None: all. Baselines count everybody's purchases.
        seed: of the bootstrap and of the random baseline.
        accelerator: of the processes that share the users, each with the recommender on its own device; None: this
            process ranks alone.
        progress: whether to show a progress bar.

    Returns:
        The same in every process: what `macrec evaluate` writes into `metrics.json`. "split", "num_users"; under the
        name of each list (a modality, "ensemble", a baseline, one of `lists`) `{"hr@1": …, "ndcg@10": …, …}`;
        "intervals", `{list: {metric: [low, high]}}`, the bounds of 95 % bootstrap intervals over users; "coverage",
        `{list: share of the catalogue in somebody's first ten places}`; "differences", the blend, or without one the
        ensemble, minus each list, by the paired bootstrap. All this again under "hidden". Then "repeat_rate",
        "quoted" ("shown" or "hidden"), "verdict" (see `evaluation.verdict.verdict`), "model_rows",
        "num_short_users", "num_items",
        "leakage" (see `evaluation.leakage.Leakage`; None of a model that keeps no fingerprints) and "settings", of
        which "fusion" says by what rule the row "ensemble" was made, and by which source "blend" serves ("blend"
        itself where its guard found no single one better). By time each column also has "seen", "unseen" and
        "new_customers", the figures and intervals of a part of the purchases, and "unseen_places" (see
        `evaluation.by_time.column_by_time`); and there are "cut", "num_purchases", "num_new_customers",
        "num_unknown_items" and "trained_until".

    Raises:
        FileNotFoundError: no such file of interactions or lists.
        ValueError: another split, a cut without `split="time"` or this without a cut, a cut before the day until which
            the model was trained (`macrec train --until`) or another split of such a model, semantic IDs that were
            made from purchases which the split predicts, no purchases on one side
            of the cut, items that the recommender's table lacks, no user with three interactions, a number below 1,
            whatever [`read_interactions`] finds wrong, and lists of other users or items.

    Example:

    ```python
    >>> report = evaluate(MacRecRecommender.from_pretrained("model"), "interactions.csv", split="validation")
    >>> report["ensemble"]["ndcg@10"], report["hidden"]["popularity"]["ndcg@10"]
    (0.081, 0.033)
    ```
    """
    decoding = Decoding(num_beams=num_beams, fusion=fusion, batch_size=batch_size)
    if not isinstance(interactions, pd.DataFrame):
        interactions = read_interactions(interactions)
    ranking = rank_split(
        recommender, interactions, split, decoding, cut=cut, lists=lists, limit_users=limit_users, seed=seed,
        accelerator=accelerator, progress=progress,
    )  # fmt: skip
    return ranking.report(accelerator)


@dataclass
class SplitRanking:
    """The lists of a split's users.

    Attributes:
        split: its name.
        users: whose lists they are, with their targets.
        everyone: of whom these were chosen.
        model: the model's lists by modality and ensembled, under "shown" with the users' own items, under "hidden"
            without.
        outside: those of other libraries, in the same form.
        num_items: of the catalogue.
        settings: what made the lists, for the report.
        repeat_rate: of the purchases that test, of all users, also where some were chosen.
        leakage, doubt: what the model has learned of these purchases, as `find_leakage` says it.
        unread: bool, `(num_users,)`: by time, whose history the model cannot read; None where these get no list.
    """

    split: str
    users: SplitUsers | FutureUsers
    everyone: SplitUsers | FutureUsers
    model: dict[str, Lists]
    outside: dict[str, Lists]
    num_items: int
    settings: dict[str, Any]
    repeat_rate: float
    leakage: Leakage | None = None
    doubt: str = ""
    unread: np.ndarray | None = None

    @cached_property
    def columns(self) -> dict[str, Lists]:
        """All lists, "shown" and "hidden": the model's, the baselines' and those of other libraries."""
        users, width, histories = self.users, max(KS), self.users.histories
        window = best_window(*self._explained())
        counted = Counted(users.counted, self.num_items, window)

        def count(histories: Any, width: int) -> Lists:
            return baseline_lists(counted, histories, self.num_items, width, self.settings["seed"])

        baselines = {"shown": count(histories, width), "hidden": refilled(count, histories, width)}
        model = self.model
        if self.unread is not None:
            # The blend has lists of its own for new customers, unless the model serves.
            has_own = self.settings["fusion"].get(BLEND, MODEL) != MODEL
            blended = {name: {BLEND: lists[BLEND]} if has_own else {} for name, lists in model.items()}
            model = {
                name: answered(model[name], self.unread, baselines[name]["popularity"]) | blended[name]
                for name in model
            }
        return {name: model[name] | baselines[name] | self.outside[name] for name in ("shown", "hidden")}

    def _explained(self) -> tuple[Any, ...]:
        """Everybody's validation purchases, as [`best_window`] takes them; a validation split knows none."""
        users, num_items = self.everyone, self.num_items
        if isinstance(users, FutureUsers):
            learned, histories, targets, owners = users.validation()
            return learned, num_items, histories, targets, owners
        return users.counted, num_items, *without_last(users.histories if self.split == "test" else [])

    def report(self, accelerator: Accelerator | None = None) -> dict[str, Any]:
        """What [`evaluate`] returns. The main process reckons, the others get it from there."""
        told: list[dict[str, Any]] = [{}]
        if accelerator is None or accelerator.is_main_process:
            told = [self._reckoned()]
        if accelerator is not None and accelerator.num_processes > 1:
            broadcast_object_list(told)
        return told[0]

    def _reckoned(self) -> dict[str, Any]:
        users, seed, rows = self.users, self.settings["seed"], list(self.model["shown"])
        summary_row = BLEND if BLEND in rows else ENSEMBLE
        if isinstance(users, FutureUsers):
            shown, hidden = (
                column_by_time(lists, users, self.num_items, seed, summary_row) for lists in self.columns.values()
            )
        else:
            shown, hidden = (
                evaluation_report(lists, users.targets, self.num_items, seed=seed, summary_row=summary_row)
                for lists in self.columns.values()
            )
        column = {"shown": shown, "hidden": hidden}[quoted(self.repeat_rate)]
        found = verdict(
            column, summary_row, rows, self.leakage, self.doubt, self.split == "validation",
            serves=self._serves(),
            hidden=None if column is hidden else hidden[summary_row][METRIC],
        )  # fmt: skip
        hides = self.settings["hides_history"]
        if hides != (column is hidden):
            found["text"] += f" By default `recommend` {'hides' if hides else 'shows'} own history with this model."
        return {
            "split": self.split,
            "num_users": len(users),
            **(_facts_by_time(users) if isinstance(users, FutureUsers) else {}),
            **shown,
            "hidden": hidden,
            "repeat_rate": self.repeat_rate,
            "quoted": quoted(self.repeat_rate),
            "verdict": found,
            "leakage": None if self.leakage is None else asdict(self.leakage),
            "model_rows": rows,
            "num_short_users": users.num_short,
            "num_items": self.num_items,
            "settings": self.settings,
        }

    def _serves(self) -> str | None:
        """In words, which source alone is the blend; None: it weighs them, or there is none."""
        serves = self.settings["fusion"].get(BLEND, BLEND)
        if serves == BLEND:
            return None
        everybody = all(len(history) for history in self.users.histories)  # who has none may get a list of its own
        return f"{'the model' if serves == MODEL else serves} alone here" + (
            "" if everybody else " for customers with a history"
        )


def rank_split(
    recommender: MacRecRecommender,
    interactions: pd.DataFrame,
    split: str,
    decoding: Decoding,
    *,
    cut: Cut | None = None,
    lists: Mapping[str, str | PathLike[str]] | None = None,
    limit_users: int | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> SplitRanking:
    """The lists of a split's users, the first half of [`evaluate`]; every process gets those of all users."""
    table, encoder = recommender.table, recommender.task_encoder
    everyone, (leakage, doubt) = _users(recommender, interactions, split, cut)
    users = everyone.some(limit_users)
    outside = _outside(lists or {}, users, [*everyone.user_ids, *everyone.other_ids], recommender)
    sources = history_sources(encoder, users.histories, table.modalities)
    left_out = {"shown": None, "hidden": Limits(len(users), table.num_items, histories=users.histories)}
    read = (recommender.model, recommender.tries, sources)
    shared = {} if accelerator is None else shared_by(accelerator)
    model = {
        column: rank_catalogue(*read, decoding, limits=limits, progress=progress, **shared)
        for column, limits in left_out.items()
    }
    score, shows = partial(score_items, *read, **shared), progress and not shared.get("rank")
    _add_blend(recommender, users, model, left_out, score, shows)
    fusion = {ENSEMBLE: decoding.fusion}
    if recommender.blend is not None:
        fusion[BLEND] = recommender.blend.serves
    settings: dict[str, Any] = {"num_beams": decoding.num_beams, "fusion": fusion, "max_history": encoder.max_history}
    dtype = str(recommender.model.dtype).removeprefix("torch.")
    settings |= {"limit_users": limit_users, "seed": seed, "dtype": dtype}
    settings["hides_history"] = hides_history(recommender.blend, recommender.model.config)
    unread = None
    if isinstance(users, FutureUsers):
        settings["trained_until"] = _trained_until(recommender)
        unread = np.array([not any(sources[name][user] for name in sources) for user in range(len(users))])
    found = _repeat_rate(everyone), leakage, doubt, unread
    return SplitRanking(split, users, everyone, model, outside, table.num_items, settings, *found)


def _add_blend(
    recommender: MacRecRecommender,
    users: SplitUsers | FutureUsers,
    model: Mapping[str, Lists],
    limits: Mapping[str, Limits | None],
    score: Callable[..., dict[str, np.ndarray]],
    progress: bool,
) -> None:
    """Adds the row of the blend, where the recommender has one, to the lists of each column, in every process."""
    if (blend := recommender.blend) is None:
        return
    weighs = blend.serves != MODEL  # else the guard found nothing better
    inputs = inputs_of_weights(recommender, users, blend) if weighs else None
    for column, lists in model.items():
        own = {name: lists[name] for name in recommender.table.modalities}
        lists[BLEND] = lists[ENSEMBLE]
        if inputs is not None:
            lists[BLEND] = blend_lists(blend, inputs, users, own, limits[column], score, progress)


def _users(
    recommender: MacRecRecommender, interactions: pd.DataFrame, split: str, cut: Cut | None
) -> tuple[SplitUsers | FutureUsers, tuple[Leakage | None, str]]:
    """Whom a split evaluates, and what the model has learned of it; refuses a model that knows all of the split."""
    until, row_of = _trained_until(recommender), recommender.table.row_of
    if split == "time" and cut is None:
        raise ValueError("cut: expected a date with a split by time, from which on purchases test, got none.")
    if split != "time" and cut is not None:
        raise ValueError(
            f"cut: expected none with the split {split!r}, which tests a user's own last items, got {cut!r}. Is the "
            "split 'time' meant?"
        )
    check_unseen(recommender.table.report, interactions, row_of, cut)
    if cut is None:
        if until is not None:
            raise ValueError(
                f"Expected a model that learned by leave-one-out, got one that has learned all purchases before "
                f"{until}, the last ones of many users among them: evaluate it with --split time --cut {until}."
            )
        histories = user_histories(interactions, row_of)
        return split_users(histories, split), find_leakage(recommender, histories)
    if warning := check_cut(until, Moments.of(interactions["timestamp"]), cut):
        logger.warning(warning)
    users = split_at(interactions, row_of, cut)
    if warning := said_of_ids(recommender.table, users):
        logger.warning(warning)
    leakage = find_leakage(recommender, users)
    if users.unknown_ids:
        lost = int((users.targets >= len(row_of)).sum())
        logger.warning(
            f"{lost:,} of {len(users.targets):,} later purchases are of {len(users.unknown_ids):,} items that the "
            f"model's table lacks, such as {users.unknown_ids[:3]}: they count as misses of every list. "
            "MacRecRecommender.add_items gives such items IDs without training."
        )
    return users, leakage


def _repeat_rate(users: SplitUsers | FutureUsers) -> float:
    """How many of the purchases that test are of an item that the user had."""
    histories = users.histories
    if isinstance(users, FutureUsers):
        histories = [histories[user] for user in users.owners]
    return repeat_rate(histories, users.targets)


def _trained_until(recommender: MacRecRecommender) -> str | None:
    """The day before which all purchases were learned, where `macrec train --until` trained the model."""
    return recommender.model.config.trained_until


def _facts_by_time(users: FutureUsers) -> dict[str, Any]:
    return {
        "cut": users.cut,
        "num_purchases": len(users.targets),
        "num_new_customers": sum(len(history) == 0 for history in users.histories),
        "num_unknown_items": len(users.unknown_ids),
    }


def _outside(
    files: Mapping[str, str | PathLike[str]],
    users: SplitUsers | FutureUsers,
    everyone: list[str],
    recommender: MacRecRecommender,
) -> dict[str, Lists]:
    """The lists of other libraries, read and checked before anything is ranked."""
    table = recommender.table
    taken = {*table.modalities, ENSEMBLE, BLEND, *BASELINES, *_OTHER_KEYS}
    shown: Lists = {}
    hidden: Lists = {}
    for name, path in files.items():
        if name in taken:
            raise ValueError(f"lists: expected a name that the report does not use for something else, got {name!r}.")
        shown[name] = read_lists(path, users.user_ids, everyone, table.row_of)
        rest = without_own(shown[name], users.histories)
        if is_long_enough(shown[name], rest, users.histories, table.num_items):
            hidden[name] = rest
        else:
            logger.warning(
                f"{name}: some lists have fewer than {min(LONG_ENOUGH, table.num_items)} places, or without their "
                f"user's history fewer than {max(KS)}: the hidden column goes without it."
            )
    return {"shown": shown, "hidden": hidden}


_OTHER_KEYS = (
    *PARTS, "unseen_places", "cut", "num_purchases", "num_new_customers", "num_unknown_items",
    "split", "num_users", "hidden", "intervals", "coverage", "differences", "repeat_rate", "quoted", "verdict",
    "model_rows", "num_short_users", "num_items", "leakage", "settings", "sd", "seeds", "seconds",
)  # fmt: skip
