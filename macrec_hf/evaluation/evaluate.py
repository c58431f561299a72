"""A recommender and purchases in, figures out: the model's lists of a split's users beside those of the baselines."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

import pandas as pd
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..data.readers import read_interactions, user_histories
from ..data.splits import SplitUsers, split_users
from ..model.catalogue_ranking import history_sources, rank_catalogue
from ..model.ensemble import NUM_BEAMS, Decoding
from ..model.ranked_lists import RankedLists
from ..model.recommender import MacRecRecommender
from .baselines import baseline_lists
from .ranking_metrics import KS
from .report import evaluation_report, shared_by


def evaluate(
    recommender: MacRecRecommender,
    interactions: str | PathLike[str] | pd.DataFrame,
    split: str = "test",
    *,
    num_beams: int = NUM_BEAMS,
    fusion: str = "average",
    batch_size: int = 64,
    limit_users: int | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """HR@K and NDCG@K of a recommender by full ranking over its catalogue, beside baselines that need no model.

    Leave-one-out: each user's last purchase tests, the one before validates (paper, "Experimental Settings").

    Args:
        recommender: a [`MacRecRecommender`].
        interactions: a path for [`read_interactions`], or what it returns: columns `user_id`, `item_id`, `timestamp`.
        split: "test" or "validation".
        num_beams, fusion, batch_size: as in [`MacRecRecommender.recommend`].
        limit_users: evaluate so many users, evenly spaced; None: all. Baselines count everybody's purchases.
        seed: of the bootstrap and of the random baseline.
        accelerator: of the processes that share the users, each with the recommender on its own device; None: this
            process ranks alone.
        progress: whether to show a progress bar.

    Returns:
        The same in every process: what `macrec evaluate` writes into `metrics.json`. "split", "num_users"; under the
        name of each list (a modality, "ensemble", a baseline) `{"hr@1": …, "ndcg@10": …, …}`; "intervals", `{list:
        {metric: [low, high]}}`, the bounds of 95 % bootstrap intervals over users; "coverage", `{list: share of the
        catalogue in somebody's first ten places}`; "num_items" and "settings".

    Raises:
        FileNotFoundError: no such file of interactions.
        ValueError: another split, items that the recommender's table lacks, no user with three interactions, a number
            below 1, and whatever [`read_interactions`] finds wrong.

    Example:

    ```python
    >>> report = evaluate(MacRecRecommender.from_pretrained("model"), "interactions.csv", split="validation")
    >>> report["ensemble"]["ndcg@10"], report["popularity"]["ndcg@10"]
    (0.081, 0.033)
    ```
    """
    decoding = Decoding(num_beams=num_beams, fusion=fusion, batch_size=batch_size)
    if not isinstance(interactions, pd.DataFrame):
        interactions = read_interactions(interactions)
    ranking = rank_split(
        recommender, interactions, split, decoding, limit_users=limit_users, accelerator=accelerator, progress=progress
    )
    return ranking.report(seed, accelerator)


@dataclass
class SplitRanking:
    """The lists of a split's users.

    Attributes:
        split: its name.
        users: whose lists they are, with their targets.
        lists: the model's, by modality and ensembled.
        num_items: of the catalogue.
        settings: what made the lists, for the report.
    """

    split: str
    users: SplitUsers
    lists: dict[str, RankedLists]
    num_items: int
    settings: dict[str, Any]

    def with_baselines(self, seed: int = 0) -> dict[str, RankedLists]:
        """The model's lists and those of the baselines, which count what the recommender may learn from."""
        users = self.users
        return self.lists | baseline_lists(users.counted, users.histories, self.num_items, max(KS), seed)

    def report(self, seed: int = 0, accelerator: Accelerator | None = None) -> dict[str, Any]:
        """What [`evaluate`] returns. The main process reckons, the others get it from there."""
        told: list[dict[str, Any]] = [{}]
        if accelerator is None or accelerator.is_main_process:
            figures = evaluation_report(self.with_baselines(seed), self.users.targets, self.num_items, seed=seed)
            told = [
                {"split": self.split, "num_users": len(self.users), **figures, "num_items": self.num_items}
                | {"settings": self.settings | {"seed": seed}}
            ]
        if accelerator is not None and accelerator.num_processes > 1:
            broadcast_object_list(told)
        return told[0]


def rank_split(
    recommender: MacRecRecommender,
    interactions: pd.DataFrame,
    split: str,
    decoding: Decoding,
    *,
    limit_users: int | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> SplitRanking:
    """The lists of a split's users, the first half of [`evaluate`]; every process gets those of all users."""
    table, encoder = recommender.table, recommender.task_encoder
    users = split_users(user_histories(interactions, table.row_of), split).some(limit_users)
    lists = rank_catalogue(
        recommender.model,
        recommender.tries,
        history_sources(encoder, users.histories, table.modalities),
        decoding,
        progress=progress,
        **({} if accelerator is None else shared_by(accelerator)),
    )
    settings = {"num_beams": decoding.num_beams, "fusion": decoding.fusion, "max_history": encoder.max_history}
    return SplitRanking(split, users, lists, table.num_items, settings | {"limit_users": limit_users})
