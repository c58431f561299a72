"""Which purchases semantic IDs were made from, so that nothing is judged by purchases that it knows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .histories import user_histories
from .splits import leave_one_out
from .time_split import Cut, Moments, histories_until, is_later

LEARNED_FROM = "learned_from"
"""The key in the settings of a modality in `meta.json` and in the report of a table of semantic IDs."""
FITTED_UNTIL = "fitted_until"
"""The key in the report of a table: the day before which the items were sold that the quantizer was fitted on."""


def training_purchases(
    interactions: pd.DataFrame, row_of: Mapping[str, int], until: Cut | None = None
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The purchases that training learns from, and what is kept of them.

    Args:
        interactions: as [`read_interactions`] returns them.
        row_of: item id → row of the catalogue.
        until: None: all but the last two purchases of each user, and all of a user with fewer than three. A date: the
            purchases before validation begins, as `macrec train --until` of that day learns them.

    Returns:
        Int arrays of rows, a user each, oldest first; and `{"split": "leave-one-out" or "time", "until": the day or
        None, "fingerprint": a hash of these purchases}`, the same for the same purchases in any order of the users.

    Raises:
        ValueError: all that [`user_histories`] and `histories_until` raise.
    """
    if until is None:
        histories = user_histories(interactions, row_of)
        sequences, _ = leave_one_out(histories, "train")
        about: dict[str, Any] = {"split": "leave-one-out", "until": None}
    else:
        histories = before = histories_until(interactions, row_of, until)
        sequences = [*before.items, *before.short_items]
        about = {"split": "time", "until": before.until}
    item_ids = {row: item for item, row in row_of.items()}
    users = [*histories.user_ids, *histories.short_ids]
    bought = sorted(
        (user, [item_ids[row] for row in rows.tolist()]) for user, rows in zip(users, sequences, strict=True)
    )
    return sequences, about | {"fingerprint": hashlib.sha256(json.dumps(bought).encode()).hexdigest()[:16]}


def check_unseen(
    report: Mapping[str, Mapping[str, Any]], interactions: pd.DataFrame, row_of: Mapping[str, int], until: Cut | None
) -> None:
    """Refuses semantic IDs that know purchases which are to be predicted.

    Args:
        report: of the table of semantic IDs; only a modality that was made from purchases is looked at.
        interactions, row_of: as for `training_purchases`.
        until: the day up to which a model learns, or the cut of an evaluation by time; None: leave-one-out.

    Raises:
        ValueError: the IDs were made by another split, until a later day, or from other purchases.
    """
    learned = {modality: part[LEARNED_FROM] for modality, part in report.items() if LEARNED_FROM in part}
    if learned and until is not None:  # as names that can be compared: a day may be written in several ways
        moments = Moments.of(interactions["timestamp"])
        until = moments.name(moments.at(until))
    for modality, about in learned.items():
        if not isinstance(about, Mapping) or not isinstance(about.get("until", 0), str | None):
            raise ValueError(
                f"semantic_ids.json: expected in the report of {modality} under {LEARNED_FROM!r} split, until and "
                f"fingerprint, got {str(about)[:40]}. Was the file edited? Quantize the catalogue again."
            )
        made = "all but each user's last two purchases" if about["until"] is None else f"--until {about['until']}"
        same_split = (about["until"] is None) == (until is None)
        if not same_split or (until is not None and is_later(about["until"], str(until))):
            wanted = "all but each user's last two purchases" if until is None else f"purchases before {until}"
            raise ValueError(
                f"{modality}: expected semantic IDs made from {wanted}, the others being what is predicted, got IDs "
                f"made from {made}. "
                + (f"Is --until {about['until']} missing, or --split time? Else make" if until is None else "Make")
                + " them anew: macrec embed --interactions FILE --co-purchases"
                + ("" if until is None else f" --until {until}")
                + ", then macrec quantize."
            )
        _, found = training_purchases(interactions, row_of, about["until"])
        if found["fingerprint"] != about["fingerprint"]:
            raise ValueError(
                f"{modality}: expected semantic IDs made from the purchases that train here ({made}; "
                f"fingerprint {found['fingerprint']}), got IDs made from others ({about['fingerprint']}), which may "
                "be among those that are predicted. Was the file exchanged, or did it grow? Make the IDs anew: macrec "
                "embed --interactions FILE --co-purchases, then macrec quantize."
            )


def not_fitted_before(report: Mapping[str, Mapping[str, Any]], modalities: Sequence[str], until: str) -> str:
    """Which IDs may know items that were first sold on a day or later; "" where all say that they do not.

    Args:
        report: of the table of semantic IDs.
        modalities: of the table.
        until: the name of the day.

    Returns:
        The beginning of a sentence.
    """
    reports = [report.get(name, {}) for name in modalities]
    # IDs that were made from purchases alone know no item that was not sold.
    fitted = [about.get(FITTED_UNTIL) or about.get(LEARNED_FROM, {}).get("until") for about in reports]
    if any(day is None for day in fitted):
        return "The semantic IDs do not say that they were fitted on items sold before a date (--until)"
    latest = next((str(day) for day in fitted if is_later(str(day), until)), None)
    if latest is None:
        return ""
    compared = "which cannot be compared with" if is_later(until, latest) else "later than"
    return f"The semantic IDs were fitted on items sold before {latest}, {compared} {until}"
