"""Trains the recommender: Seq2SeqTrainer + HR and NDCG by constrained beams over the whole catalogue."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from ..data.data_collator import RecommendationCollator
from ..evaluation.ranking_metrics import ranking_metrics
from ..evaluation.report import shared_by
from ..model.catalogue_ranking import rank_catalogue
from ..model.modeling_macrec import MacRecForConditionalGeneration
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import SemanticIdTable
from ..model.tasks import task_names
from ..model.tokenization_macrec import SemanticIdTokenizer
from ..model.trie import SemanticIdTrie
from .sharding import whole_weights
from .trainer_saving import MacRecSavingTrainer

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


class MacRecTrainer(MacRecSavingTrainer, Seq2SeqTrainer):
    """[`~transformers.Seq2SeqTrainer`] for [`MacRecForConditionalGeneration`].

    With a `table` each evaluation also ranks the whole catalogue for every user of the evaluation set by constrained
    beams and reports `eval_hr@K` and `eval_ndcg@K` (of the ensemble, where there is more than one modality) and the
    same per modality, `eval_text_hr@10`. `metric_for_best_model` is then `ndcg@10` unless the arguments name another.

    Args:
        processing_class: the [`SemanticIdTokenizer`].
        table: the [`SemanticIdTable`] of the catalogue. `None`: losses only. With it `save_model` and `push_to_hub`
            write whole model directories, which [`MacRecRecommender`] loads.
        quantizer: what made the table: it goes into those directories, so that items can be added later.
        train_dataset, eval_dataset: splits of [`RecommendationTasksBuilder`].
        data_collator: [`RecommendationCollator`] of the table if left out.
        num_eval_users: rank so many users of the evaluation set at most, evenly spaced; `None`: all.
        embedding_learning_rate: of the token embeddings, without weight decay; `None`: `args.learning_rate`. T5's
            embeddings start with a standard deviation of 1 and its matrices with one of `d_model ** -0.5`, while
            AdamW moves both by the same amount; ten times the learning rate evens that out.

    `args.generation_num_beams` is the beam width (20 if unset, authors' code). The other arguments are
    [`~transformers.Seq2SeqTrainer`]'s.

    Example:

    ```python
    >>> args = Seq2SeqTrainingArguments("out", num_train_epochs=20, train_sampling_strategy="group_by_length")
    >>> trainer = MacRecTrainer(model, args, train_dataset=tasks["train"], eval_dataset=tasks["validation"],
    ...     processing_class=tokenizer, table=table)
    >>> trainer.train()
    ```
    """

    def __init__(
        self,
        model: MacRecForConditionalGeneration | None = None,
        args: Seq2SeqTrainingArguments | None = None,
        data_collator: Callable[[list], dict[str, Any]] | None = None,
        train_dataset: "Dataset | None" = None,
        eval_dataset: "Dataset | dict[str, Dataset] | None" = None,
        processing_class: SemanticIdTokenizer | None = None,
        *,
        table: SemanticIdTable | None = None,
        quantizer: MacRecQuantizer | None = None,
        num_eval_users: int | None = None,
        embedding_learning_rate: float | None = None,
        **kwargs: Any,
    ):
        args = args if args is not None else Seq2SeqTrainingArguments("macrec")
        # `item` and `length` are no arguments of forward, but the collator and the sampler need them.
        args.remove_unused_columns = False
        args.label_names = ["labels"]
        if table is not None and args.metric_for_best_model in (None, "loss"):
            args.metric_for_best_model, args.greater_is_better = "ndcg@10", True
        self.table, self.quantizer, self.num_eval_users, self.tries = table, quantizer, num_eval_users, {}
        self.embedding_learning_rate = embedding_learning_rate
        if table is not None:
            if processing_class is None:
                raise ValueError("processing_class: expected the SemanticIdTokenizer of the table, got None.")
            self.tries = {name: SemanticIdTrie.from_table(table, processing_class, name) for name in table.modalities}
            if data_collator is None:
                tokens = [processing_class.item_token_ids(table, name) for name in table.modalities]
                data_collator = RecommendationCollator(np.stack(tokens))
        elif data_collator is None:  # nothing can be aligned: one modality of no items
            data_collator = RecommendationCollator(np.zeros((1, 0, 1), dtype=np.int32))
        self._parts: dict[str, dict[str, list[torch.Tensor]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """[`~transformers.Trainer.train`], after a word about losses that compare the rows of a micro-batch."""
        model = self.accelerator.unwrap_model(self.model)
        aligned = model.config.implicit_alignment_weight and len(getattr(self.table, "modalities", ())) > 1
        self.warn_of_accumulation(["the implicit alignment"] if aligned else [])
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _row_lengths(self, dataset: Any) -> Sequence[int]:
        name = self.args.length_column_name
        if name in getattr(dataset, "column_names", ()):
            # As a list: left in the dataset, each length is read from Arrow one by one, again in every epoch.
            return list(dataset[name][:])
        return [len(row["input_ids"]) for row in dataset]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's, with a group of its own for the token embeddings if they have a learning rate of their own."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and self.embedding_learning_rate is not None:
            weight = cast(PreTrainedModel, self.model if model is None else model).get_input_embeddings().weight
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter is not weight]
            optimizer.add_param_group({"params": [weight], "lr": self.embedding_learning_rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Eq. 19, scalar; its parts are kept for the next log line."""
        outputs = model(**inputs)
        parts = self._parts["train" if model.training else "eval"]
        for name in ("generation_loss", "alignment_loss"):
            if outputs.get(name) is not None:
                parts[name].append(outputs[name].detach())
        loss: Any = outputs.loss if outputs.loss is None else outputs.loss * self._weight  # None without labels
        return (loss, outputs) if return_outputs else loss

    def _size_of(self, batch: Mapping[str, Any]) -> int:
        return int((batch["labels"] != -100).sum())

    def log(self, logs: dict[str, float], start_time: float | None = None, **kwargs: Any) -> None:
        """Adds the means of the loss parts since the last line of the same kind."""
        kind = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        if (kind == "eval" or "loss" in logs) and self._parts[kind]:
            prefix = "eval_" if kind == "eval" else ""
            means = {prefix + name: round(value, 6) for name, value in self.means(self._parts[kind]).items()}
            self._parts[kind].clear()
            logs = {**logs, **means}
        super().log(logs, start_time, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's own loop for the losses, then the ranking of the whole catalogue."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.table is not None:
            metrics = self.ranking(cast("Dataset", dataloader.dataset))
            named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
            output = output._replace(metrics={**(output.metrics or {}), **named})
        return output

    def ranking(self, dataset: "Dataset") -> dict[str, float]:
        """HR and NDCG at 1, 5 and 10 of a split's users, flat: `hr@10` (of the ensemble), `text_hr@10`, …"""
        sources, targets = self._sources(dataset)
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        with whole_weights(model):
            lists = rank_catalogue(
                model,
                self.tries,
                sources,
                num_beams=cast(Seq2SeqTrainingArguments, self.args).generation_num_beams or 20,
                batch_size=self.args.eval_batch_size,
                **shared_by(self.accelerator),
            )
        model.train(was_training)
        metrics = ranking_metrics(lists, targets)
        main = "ensemble" if "ensemble" in metrics else next(iter(metrics))
        parts = {name: values for name, values in metrics.items() if name != main or main != "ensemble"}
        flat = {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        return {**metrics[main], **flat}

    def _sources(self, dataset: "Dataset") -> tuple[dict[str, list[list[int] | None]], np.ndarray]:
        """The bare tasks' rows of each user, side by side: a source per modality, and the target item."""
        lacking = [name for name in ("user", "task", "item") if name not in dataset.column_names]
        if lacking:
            raise ValueError(
                f"eval_dataset: expected the columns of RecommendationTasksBuilder, found no {lacking}. Give one of "
                "its splits, or leave `table` out to evaluate losses only."
            )
        columns = dataset.select_columns(["user", "task", "item"]).with_format("numpy")[:]
        names = task_names(self.tries)
        bare = {name: names.index(f"{name}_to_{name}") for name in self.tries}
        users, first = np.unique(columns["user"], return_index=True)
        if self.num_eval_users is not None and self.num_eval_users < len(users):
            kept = np.unique(np.linspace(0, len(users) - 1, self.num_eval_users).astype(np.int64))
            users, first = users[kept], first[kept]
        sources: dict[str, list[list[int] | None]] = {}
        for name, task in bare.items():
            rows = np.flatnonzero(columns["task"] == task)
            rows = rows[np.isin(columns["user"][rows], users)]
            place = np.searchsorted(users, columns["user"][rows])
            sources[name] = [None] * len(users)
            for user, source in zip(place, dataset.select(rows)["input_ids"], strict=True):
                sources[name][user] = source
        return sources, columns["item"][first]
