"""What `macrec train` and `macrec evaluate` tell the model card."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import log_of_quantizer

if TYPE_CHECKING:
    from transformers import Trainer

    from ..data.histories import Histories

logger = logging.getLogger(__name__)


def training_facts(args: argparse.Namespace, trainer: "Trainer", histories: "Histories") -> dict[str, Any]:
    """What made a model, as `hub.model_card.model_card` takes it.

    Args:
        args: of `macrec train`.
        trainer: after its training.
        histories: everybody's `data.readers.Histories`.
    """
    from ..data.time_split import HistoriesUntil
    from ..hub.model_card import last_losses, trainer_facts

    told, sequences = trainer_facts(trainer), [*histories.items, *histories.short_items]
    dates = {}
    if isinstance(histories, HistoriesUntil):
        sequences = histories.counted
        dates = {"purchases before": histories.until, "validation from": histories.validates_from}
    data = {
        "interactions file": Path(args.interactions).name,
        "users": len(sequences),
        "interactions": sum(map(len, sequences)),
        **dates,
    }
    return told | {
        "command": getattr(args, "command", None),
        "data": data | told["data"],
        "settings": told["settings"] | {"tasks": args.tasks or "all"},
        "quantizer_losses": last_losses(log_of_quantizer(args.semantic_ids)),
    }


def add_results(args: argparse.Namespace, model: str | Path, report: dict) -> bool:
    """Puts a report of `macrec evaluate` into the card of the model directory that it is about; whether it did.

    Only of all users' test items which the model has not learned, and of a directory: a repository of the Hub gets its
    card with the next push.
    """
    from ..hub.saving import update_model_card
    from ..model.model_files import CARD_NAME

    whole = report.get("split") == "test" and args.limit_users is None
    if args.no_card or not whole or not (Path(model) / CARD_NAME).is_file():
        return False
    if report["verdict"]["doubt"]:
        logger.warning("The model card in %s was left as it is: the model may have learned what tested it.", model)
        return False
    try:
        update_model_card(model, report)
    except (OSError, ValueError) as error:
        logger.warning("The model card in %s was left as it is: %s", model, error)
        return False
    return True
