"""The counts that a blend serves with: of all purchases, made anew whenever there are new ones."""

import logging
from contextlib import nullcontext
from os import PathLike
from pathlib import Path

import pandas as pd
import torch.distributed
from accelerate import Accelerator
from safetensors import safe_open

from ..data.histories import Purchases, purchases_by_user
from ..data.item_regression import with_item_regression
from ..data.output_folder import locked, output_folder
from ..data.purchase_counting import add_counts, counts_of, save_counts
from ..data.readers import read_interactions
from ..hub.model_card import tell_of_counts
from ..model.blend import Blend
from ..model.checksums import check_files
from ..model.model_files import load_catalogue, tell_of_lost_terms
from ..model.purchase_counts import COUNTS_NAME, PurchaseCounts
from ..model.semantic_ids import SemanticIdTable

logger = logging.getLogger(__name__)


def serving_counts(
    interactions: str | PathLike[str] | pd.DataFrame, table: SemanticIdTable, blend: Blend
) -> PurchaseCounts:
    """The counts of all purchases of a table's items, with the window of a blend."""
    if not isinstance(interactions, pd.DataFrame):
        interactions = read_interactions(interactions)
    purchases = purchases_by_user(interactions, table.row_of)
    counts = with_item_regression(counts_of(purchases, table.num_items, window=blend.about["window"]))
    tell_of_lost_terms(blend, regression=True, days=counts.sale_days is not None)  # who takes them tells of it
    return counts


def save_serving_counts(directory: Path, interactions: pd.DataFrame, table: SemanticIdTable, blend: Blend) -> int:
    """Writes `serving_counts` without keeping them in memory; returns how many purchases were counted."""
    purchases = purchases_by_user(interactions, table.row_of)
    counted = save_counts(directory, purchases, table.num_items, window=blend.about["window"])
    _tell_of_lost_terms(blend, directory)
    return counted


def refresh_directory(
    directory: Path, interactions: pd.DataFrame, accelerator: Accelerator | None = None
) -> tuple[int, int]:
    """Counts purchases anew into a model directory that has a blend.

    Args:
        interactions: all of them, in every process.
        accelerator: of processes that count a share of the customers each; the main one adds their counts up and
            writes the same bytes as one process alone, with all counts in its memory. None: this process counts alone,
            and keeps them on the disk.

    Returns:
        How many purchases were counted, and how many items the catalogue has.

    Raises:
        ValueError: it has none, or its files are not those that were saved together.
        OSError: another process writes into it.
    """
    is_main = accelerator is None or accelerator.is_main_process
    with locked(directory) if is_main and directory.is_dir() else nullcontext():
        catalogue = load_catalogue(directory, without=(COUNTS_NAME,))
        check_files(directory, without=(COUNTS_NAME,))  # the model's too, which is not loaded here
        if catalogue.blend is None:
            raise ValueError(
                f"{directory}: expected a model directory with a blend, found none. `macrec blend --model {directory} "
                "--interactions …` fits one and counts the purchases too."
            )
        purchases = purchases_by_user(interactions, catalogue.table.row_of)
        num_items, window = catalogue.table.num_items, catalogue.blend.about["window"]
        parts = None if accelerator is None else _counted_by_all(purchases, num_items, window, accelerator)
        if is_main:
            _warn_of_few(purchases, catalogue.blend, interactions)
            with output_folder(directory, last=COUNTS_NAME) as beside:
                if parts is None:
                    save_counts(beside, purchases, num_items, window=window)
                else:
                    with_item_regression(add_counts(parts)).save(beside)
                _tell_of_lost_terms(catalogue.blend, beside)
                tell_of_counts(directory, beside)
    return len(purchases.items), num_items


def _counted_by_all(
    purchases: Purchases, num_items: int, window: int, accelerator: Accelerator
) -> list[PurchaseCounts] | None:
    """The counts of each process's share of the customers, in the main process; None elsewhere and in one alone."""
    everyone = accelerator.num_processes
    if everyone == 1:
        return None
    mine = counts_of(purchases.share(accelerator.process_index, everyone), num_items, window=window)
    parts: list[PurchaseCounts] | None = [mine] * everyone if accelerator.is_main_process else None
    torch.distributed.gather_object(mine, parts)
    return parts


def _tell_of_lost_terms(blend: Blend, directory: Path) -> None:
    """Notices where the blend goes by what the counts in a directory do not hold."""
    with safe_open(directory / COUNTS_NAME, "np") as file:
        held = set(file.keys())
    tell_of_lost_terms(blend, "regression" in held, "sale_days" in held)


def _warn_of_few(purchases: Purchases, blend: Blend, interactions: pd.DataFrame) -> None:
    """A notice where the purchases cannot be all of them: the weights were fitted on more."""
    fitted = blend.about.get("counted")
    known = fitted.get("purchases") if isinstance(fitted, dict) else None
    if isinstance(known, int) and len(purchases.items) < known:
        where = f"{file}: " if (file := interactions.attrs.get("file")) else ""
        logger.warning(
            f"{where}{len(purchases.items):,} purchases are fewer than the {known:,} that the weights of the blend "
            "were fitted with. Is it the whole file, and not what is new alone? What is not in it is not counted."
        )
