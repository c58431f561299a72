"""`--start-from`: a model that is trained further, and whether it has learned these semantic IDs."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.configuration_macrec import MacRecConfig
    from ..model.modeling_macrec import MacRecForConditionalGeneration
    from ..model.semantic_ids import SemanticIdTable

logger = logging.getLogger(__name__)


def first_model(config: "MacRecConfig", start_from: Path | None) -> "MacRecForConditionalGeneration":
    """The model to train: new, or that of `--start-from`."""
    from ..model.modeling_macrec import MacRecForConditionalGeneration

    if start_from is None:
        return MacRecForConditionalGeneration(config)
    model = MacRecForConditionalGeneration.from_pretrained(start_from)
    model.config.max_history = config.max_history
    model.config.trained_until = config.trained_until
    model.config.hides_history = config.hides_history
    return model


def check_same_ids(known: "SemanticIdTable", table: "SemanticIdTable", model: str) -> None:
    """Refuses to train a model further on IDs that mean other items than those it has learned.

    Args:
        known: of the model.
        table: to train on; its catalogue may have grown or shrunk.

    Raises:
        ValueError: other modalities, or fewer than half of the items in common have the ID that they had.
    """
    if known.modalities != table.modalities:
        raise ValueError(
            f"--start-from {model}: expected semantic IDs of the model's modalities {list(known.modalities)}, in this "
            f"order, got {list(table.modalities)}. Name the files of --semantic-ids in that order."
        )
    common = [(known.row_of[item], row) for item, row in table.row_of.items() if item in known.row_of]
    for name in known.modalities if common else ():
        mine, theirs = (table.codes[name][[row for _, row in common]], known.codes[name][[row for row, _ in common]])
        same = int((mine == theirs).all(dim=1).sum())
        if same < len(common) / 2:
            raise ValueError(
                f"--start-from {model}: expected semantic IDs that the model has learned, but only {same:,} of "
                f"{len(common):,} items in common have their {name} ID. IDs of another quantizer need a model of "
                "their own: leave --start-from away. `macrec_hf.add_items` gives new items IDs and keeps the others."
            )
        if same < len(common):
            logger.warning(
                "--start-from %s: %s of %s items in common have another %s ID than the model has learned.",
                model, f"{len(common) - same:,}", f"{len(common):,}", name,
            )  # fmt: skip
