"""`--until`: what a model and its semantic IDs know of later purchases, said or refused before it is trained."""

import argparse
from datetime import date
from typing import TYPE_CHECKING

from .inputs import log_of_quantizer

if TYPE_CHECKING:
    from ..data.histories import Histories
    from ..model.configuration_macrec import MacRecConfig
    from ..model.semantic_ids import SemanticIdTable


def note_dates(args: argparse.Namespace, config: "MacRecConfig", histories: "Histories") -> dict[str, str]:
    """Writes into the configuration until when the model learns, so that no evaluation asks for what it knows.

    Returns:
        "trained_until" and "validates_from", for the log; nothing without `--until`.

    Raises:
        ValueError: `--start-from` a model that knows purchases which are to be predicted, or does not say until when
            it has learned.
    """
    from ..data.time_split import HistoriesUntil, is_later

    earlier = config.trained_until
    if not isinstance(histories, HistoriesUntil):
        if earlier is not None:
            raise ValueError(
                f"--start-from {args.start_from}: expected a model that has learned by leave-one-out, since without "
                f"--until each user's last two purchases validate and test, got one that has learned all purchases "
                f"before {earlier}, the last ones of many users among them. Give --until with that day or a later "
                "one, or start from another model."
            )
        return {}
    if args.start_from and (earlier is None or is_later(earlier, histories.until)):
        knows = "does not say until when it has learned" if earlier is None else f"has learned until {earlier}"
        raise ValueError(
            f"--until {args.until}: expected --start-from a model that has learned from no later purchases, but "
            f"{args.start_from} {knows}. Start from one that was trained with --until."
        )
    config.trained_until = histories.until
    return {"trained_until": histories.until, "validates_from": histories.validates_from}


def has_later(histories: "Histories") -> bool:
    """Whether purchases are left to evaluate with: of leave-one-out always, with `--until` those from that day on."""
    from ..data.time_split import HistoriesUntil

    return not isinstance(histories, HistoriesUntil) or histories.has_later


def note_fitted(table: "SemanticIdTable", semantic_ids: str, until: str) -> None:
    """Gives IDs of a release that kept their date in the log of `macrec quantize` alone the date.

    Args:
        until: of the training, as the histories name it: a day, or a number where the timestamps are no dates.
    """
    from ..data.learned_purchases import FITTED_UNTIL

    settings = (log_of_quantizer(semantic_ids) or [{}])[-1].get("settings")
    written = settings.get("until") if isinstance(settings, dict) and "method" in settings else None
    try:
        float(until)
        is_number = True
    except ValueError:
        is_number = False
    try:
        day = f"{float(str(written)):.15g}" if is_number else date.fromisoformat(str(written)).isoformat()
    except ValueError:
        return
    for report in table.report.values():
        report.setdefault(FITTED_UNTIL, day)


def said_of_ids(table: "SemanticIdTable", until: str) -> str:
    """A sentence where IDs may know items that were first sold on a day or later; "" where they say that they do not.

    Args:
        until: the day, as the histories name it.
    """
    from ..data.learned_purchases import not_fitted_before

    said = not_fitted_before(table.report, table.modalities, until)
    return f" {said}: what they know of later ones makes figures by time too good." if said else ""
