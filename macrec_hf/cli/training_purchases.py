"""The purchases that `macrec train` learns from."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import interaction_columns

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..data.histories import Histories
    from ..model.semantic_ids import SemanticIdTable


def read_purchases(args: argparse.Namespace, table: "SemanticIdTable") -> tuple["Histories", list["np.ndarray"]]:
    """Everybody's history, and the purchases that train or validate, a sequence a user."""
    from ..data.histories import user_histories
    from ..data.learned_purchases import check_unseen
    from ..data.readers import read_interactions
    from ..data.splits import before_test
    from ..data.time_split import histories_until

    interactions = read_interactions(args.interactions, **interaction_columns(args))
    check_unseen(table.report, interactions, table.row_of, args.until)
    if args.until is not None:
        until = histories_until(interactions, table.row_of, args.until)
        return until, until.counted
    histories = user_histories(interactions, table.row_of)
    return histories, before_test(histories)


def learned_numbers(histories: "Histories") -> tuple[int, int, int]:
    """Users who train, their purchases, and how many of each are held out: the last two, or by time none of these."""
    from ..data.time_split import HistoriesUntil

    if not isinstance(histories, HistoriesUntil):
        return len(histories.user_ids), sum(map(len, histories.items)), 2
    sequences, _ = histories.split("train")
    return len(sequences), sum(map(len, sequences)), 0


def fingerprints_of(
    known: list["np.ndarray"], histories: "Histories", table: "SemanticIdTable", start_from: Path | None
) -> "torch.Tensor | None":
    """Fingerprints of what a model has learned, also before where it starts from another; see `learned_with`."""
    import torch

    from ..data.fingerprints import history_fingerprints, item_hashes
    from ..data.time_split import HistoriesUntil
    from ..evaluation.leakage import learned_with, left_out
    from ..model.model_files import load_catalogue

    hashes = item_hashes(table.item_ids)
    if start_from is None:
        return torch.from_numpy(history_fingerprints(known, hashes))
    earlier = load_catalogue(start_from).learned_histories
    tested = [] if isinstance(histories, HistoriesUntil) else left_out(histories)
    learned = learned_with(None if earlier is None else earlier.numpy(), known, tested, hashes)
    return None if learned is None else torch.from_numpy(learned)
