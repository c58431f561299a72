"""A Trainer callback: the check-up of `macrec doctor` while the quantizer trains."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..catalogue.embedding_store import EmbeddingStore
from ..catalogue.indexing import encode_catalogue
from ..model.files import replacing_together
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import SemanticIdTable
from .advice import findings
from .figures import codebook_report
from .page import report_page
from .pictures import embedding_maps, known_items, prefix_examples, shown_items

logger = logging.get_logger(__name__)

DEFAULT_NAME = "codebook_health.html"


class CodebookHealthCallback(TrainerCallback):
    """Writes the page of `macrec doctor` and its figures as JSON at each save and at the end of a training.

    For [`MacRecQuantizerTrainer`]. The codes are the quantizer's own, so collisions are those before resolution. The
    last page is of the model that the trainer ends with: the best one with `load_best_model_at_end`. Training is the
    same with it and without it, bit for bit; a page that cannot be written is a warning.

    Args:
        path: the page, written anew each time; its figures go beside it with the ending `.json`. Default:
            `codebook_health.html` in the trainer's output folder.
        items: an items file (`items.jsonl`) with titles and photos to show. Default: none.
        maps: "pca", "tsne" or None (no maps). Default "pca", which takes a fraction of a second (ours).

    Raises:
        ValueError: at the first page, if the trainer is no [`MacRecQuantizerTrainer`].

    Example:

    ```python
    >>> trainer = MacRecQuantizerTrainer(quantizer, args, train_dataset=store, callbacks=[CodebookHealthCallback()])
    >>> trainer.train()  # then open codebook_health.html in the output folder
    ```
    """

    def __init__(self, path: str | Path | None = None, items: str | Path | None = None, maps: str | None = "pca"):
        self.path, self.maps = None if path is None else Path(path), maps
        self._known = {} if items is None else known_items(items)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        self._write(args, state, model, train_dataloader)

    on_train_end = on_save

    def _write(
        self,
        args: TrainingArguments,
        state: TrainerState,
        quantizer: MacRecQuantizer,
        train_dataloader: DataLoader | None,
    ) -> None:
        store = getattr(getattr(train_dataloader, "dataset", None), "store", None)
        if not isinstance(store, EmbeddingStore):
            raise ValueError(
                "CodebookHealthCallback: expected to belong to a MacRecQuantizerTrainer, whose data set holds the "
                "catalogue's embeddings, found a trainer without them. Add it to the trainer of the quantizer."
            )
        if not state.is_world_process_zero:
            return
        table = SemanticIdTable(
            store.item_ids, encode_catalogue(quantizer, store, args.eval_batch_size), quantizer.config.codebook_size
        )
        weights = {"contrastive_weights": list(quantizer.config.contrastive_weights or ())}
        report = codebook_report(table, store, resolved=False) | weights
        path = self.path or Path(str(args.output_dir)) / DEFAULT_NAME
        figures = {"step": state.global_step, **report, "checks": findings(report)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_together(path.with_suffix(".json"), path) as (json_beside, beside):
                beside.write_text(self._page(report, table, store, state), encoding="utf-8")
                json_beside.write_text(json.dumps(figures, indent=2, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            logger.warning("%s could not be written: %s. Training goes on.", path, error)

    def _page(self, report: dict, table: SemanticIdTable, store: EmbeddingStore, state: TrainerState) -> str:
        examples = prefix_examples(table, self._known) if self._known else None
        return report_page(
            report,
            title=f"Codebooks after {state.global_step} steps",
            facts=[
                f"{table.num_items:,} items, {' and '.join(table.modalities)}, {table.num_levels} levels of "
                f"{table.codebook_size} codes. The quantizer's own codes: shared IDs are not resolved yet."
            ],
            examples=examples,
            items=shown_items(examples, self._known) if examples else None,
            maps=embedding_maps(table, store, self.maps) if self.maps else None,
            curves=health_curves(state.log_history, table.modalities, table.num_levels),
        )


def health_curves(log_history: Sequence[dict], modalities: Sequence[str], num_levels: int) -> dict:
    """Charts of the trainer's evaluations: collision rate, then perplexity by level, a line per modality.

    Returns:
        `{title: {modality: [(step, value), ...]}}`, titles without a value left out.
    """
    wanted = {"Collision rate": {name: f"eval_collision_rate_{name}" for name in modalities}}
    for level in range(1, num_levels + 1):
        wanted[f"Perplexity, level {level}"] = {name: f"eval_perplexity_{name}_{level}" for name in modalities}
    curves = {
        title: {name: [(line["step"], line[key]) for line in log_history if key in line] for name, key in keys.items()}
        for title, keys in wanted.items()
    }
    return {title: lines for title, lines in curves.items() if any(lines.values())}
