"""Writes a whole model directory, and so a Hub repository: what stands in it is said in `model/model_files.py`.

A reader sees the directory as it was or as it is to be: see `data/output_folder.py`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi
from transformers.utils import logging

from ..data.item_regression import with_item_regression
from ..data.output_folder import output_folder
from ..evaluation.own_history import quoted
from ..model.blend import BLEND_NAME, MODEL, Blend
from ..model.checksums import write_checksums
from ..model.files import replacing
from ..model.inference import check_finite_weights, without_bars
from ..model.model_files import (
    CARD_NAME,
    ITEM_COUNTS_NAME,
    ITEM_TITLES_NAME,
    LEARNED_NAME,
    QUANTIZER_FOLDER,
    check_item_counts,
    check_parts,
    check_purchase_counts,
    check_quantizer,
    save_tensor,
)
from ..model.modeling_macrec import MacRecForConditionalGeneration
from ..model.purchase_counts import COUNTS_NAME, PurchaseCounts
from ..model.semantic_ids import SemanticIdTable
from ..model.tokenization_macrec import SemanticIdTokenizer
from .code_usage_picture import code_usage_picture
from .model_card import (
    PICTURE_NAME,
    kind_of_counts,
    model_card,
    says_of_counts,
    with_counts,
    with_results,
)
from .remote_code import IncludeCode, code_files, write_code

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..model.modeling_macrec_quantizer import MacRecQuantizer


COUNTS = ("all", "rounded", "none")

logger = logging.get_logger(__name__)


def save_model_directory(
    directory: str | Path,
    *,
    model: MacRecForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    table: SemanticIdTable,
    quantizer: "MacRecQuantizer | None" = None,
    item_counts: "torch.Tensor | np.ndarray | None" = None,
    item_titles: Mapping[str, str] | None = None,
    purchase_counts: PurchaseCounts | None = None,
    blend: Blend | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    license: str = "unknown",
    card: str | None = None,
    include_code: IncludeCode = True,
    counts: str = "all",
    learned_histories: "torch.Tensor | None" = None,
) -> Path:
    """Writes a whole model directory. Files of other purposes that are there already stay.

    Args:
        directory: made if it does not exist.
        quantizer: a `MacRecQuantizer`; None: none is kept, and one of an earlier save is removed.
        item_counts: integers, `(num_items,)`: how often each item was taken.
        item_titles: `{item_id: title}`, to show beside the ids.
        purchase_counts, blend: what customers did and the weights of the blend, both or neither.
        metrics: `{"ensemble": {"hr@10": …}, …}` as `evaluation.ranking_metrics.ranking_metrics` gives them, or the
            report of `macrec evaluate`, for the model card.
        training: what made the model, for the card: see `hub.model_card.model_card`.
        license: of the weights, an identifier of the Hub such as `apache-2.0`, for the card.
        card: text of `README.md`, into which `metrics` are put; None: a card is written.
        include_code: whether the code of models and tokenizer goes along, so that `trust_remote_code=True` loads them
            where `macrec_hf` is not installed; "recommender": recommender and pipeline too.
        counts: of the purchases, which are customers' data: "all"; "rounded": without pairs of fewer than five
            customers and without days; "none": neither counts nor blend, so that the model's own lists are served.
        learned_histories: int64, of `data.fingerprints.history_fingerprints`, with which `evaluate` finds out
            whether the model knows what tests it; kept with `counts="all"` alone.

    Returns:
        The directory.

    Raises:
        ValueError: the parts do not belong together, or the model has adapters of PEFT.
    """
    check_parts(model, tokenizer, table)
    _check_no_adapter(model)
    if counts not in COUNTS:
        raise ValueError(f"counts: expected one of {', '.join(COUNTS)}, got {counts!r}.")
    check_finite_weights(model, "model")
    if quantizer is not None:
        check_quantizer(quantizer, table, "quantizer")
    bought = check_item_counts(item_counts, table)
    with output_folder(directory, "config.json", stale=parts_that_may_be_absent()) as beside:
        if blend is not None and "repeat_rate" in blend.about:  # decides on lists without the blend, too
            model.config.hides_history = quoted(blend.about["repeat_rate"]) == "hidden"
        with without_bars():
            model.save_pretrained(beside, semantic_ids=table)
        tokenizer.save_pretrained(beside)
        if bought is not None:
            save_tensor(beside / ITEM_COUNTS_NAME, bought)
        if learned_histories is not None and counts == "all":
            save_tensor(beside / LEARNED_NAME, learned_histories)
        if item_titles:
            titles = {item: item_titles[item] for item in table.item_ids if item_titles.get(item)}
            (beside / ITEM_TITLES_NAME).write_text(json.dumps(titles, ensure_ascii=False), encoding="utf-8")
        if purchase_counts is not None and blend is not None and counts != "none":
            purchase_counts = check_purchase_counts(purchase_counts, table)
            if counts == "rounded":
                whole, purchase_counts = purchase_counts, with_item_regression(purchase_counts.shareable())
                if blend.serves != MODEL and kind_of_counts(whole) != "rounded":  # else nothing served is lost
                    logger.warning(
                        "%s: rounded counts hold %s of %s pairs and no days. The blend was fitted with all of them, "
                        "so lists are worse there.",
                        directory,
                        f"{len(purchase_counts.others):,}",
                        f"{len(whole.others):,}",
                    )
            purchase_counts.save(beside)
            blend.save(beside)
        if quantizer is not None:
            with without_bars():
                quantizer.save_pretrained(beside / QUANTIZER_FOLDER)
        write_code(beside, include_code)
        has_counts = purchase_counts is not None and blend is not None
        kept_back = has_counts and counts == "none"
        if kept_back:
            logger.warning(
                "%s: counts of purchases and their weights are left out, since they are customers' data; lists are "
                "the model's own there. With counts rounded, or all, in place of none they go along.",
                directory,
            )
        write_checksums(beside, left_out=["purchase_counts"] if kept_back else [])
        picture = code_usage_picture(table)
        if picture:
            (beside / PICTURE_NAME).write_bytes(picture)
        if card is None:
            shown = PICTURE_NAME if picture else None
            card = model_card(
                model,
                table,
                quantizer,
                training=training,
                license=license,
                picture=shown,
                code=include_code,
            )
        if has_counts or says_of_counts(card):
            held = purchase_counts if has_counts and not kept_back else None
            card = with_counts(card, "none" if held is None else kind_of_counts(held))
        (beside / CARD_NAME).write_text(with_results(card, metrics) if metrics else card, encoding="utf-8")
    return Path(directory)


def _check_no_adapter(model: MacRecForConditionalGeneration) -> None:
    """Refuses adapters: saved with the weights they cannot be loaded again, saved alone they lack the weights."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("peft."):
            raise ValueError(
                f"model: expected one without adapters, got PEFT's {type(module).__name__} at {name or 'its root'}. "
                "Save the model that merge_and_unload() returns, or the adapter alone by PEFT's save_pretrained."
            )


def upload(
    write: Callable[[Path], Path],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload recommender",
) -> CommitInfo:
    """Uploads a model directory to the Hub, where the repository is made if need be.

    Args:
        write: writes the directory at the path that it is given.
        repo_id, private, token, revision, commit_message: as in `huggingface_hub`.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=write(Path(folder) / "model"),
            revision=revision,
            commit_message=commit_message,
            delete_patterns=parts_that_may_be_absent(inside=True),  # what the folder has not
        )


def update_model_card(directory: str | Path, metrics: Mapping[str, Any]) -> None:
    """Puts results into the card of a model directory, in place of those before; the rest of the card stays.

    Raises:
        OSError: there is no card, or it cannot be written.
        ValueError: it is no UTF-8, or its metadata cannot be read.
    """
    path = Path(directory) / CARD_NAME
    try:
        card = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected text in UTF-8, got the byte {error.object[error.start]:#x} at place {error.start}. Save it as "
            "UTF-8."
        ) from error
    with replacing(path) as beside:
        beside.write_text(with_results(card, metrics), encoding="utf-8")


def parts_that_may_be_absent(inside: bool = False) -> list[str]:
    """Patterns of what a new save must not leave of an earlier one, such as a quantizer of other codes.

    Args:
        inside: also what a folder of that name holds, as an upload's `delete_patterns` want it.
    """
    code = [path.name for path in code_files("recommender")]
    parts = [
        ITEM_COUNTS_NAME,
        ITEM_TITLES_NAME,
        LEARNED_NAME,
        COUNTS_NAME,
        BLEND_NAME,
        PICTURE_NAME,
        QUANTIZER_FOLDER,
        "model*.safetensors*",
        *code,
    ]
    return parts + [f"{part}/*" for part in parts if inside]
