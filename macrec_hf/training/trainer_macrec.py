"""Trains the recommender: Seq2SeqTrainer + HR and NDCG by constrained beams over the whole catalogue."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainer
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..data.data_collator import RecommendationCollator
from ..data.task_rows import TaskRows
from ..evaluation.ranking_metrics import ranking_metrics
from ..evaluation.report import shared_by
from ..gpu import accelerate
from ..gpu.attention import of_short_sequences
from ..gpu.recorded_step import RecordedStep
from ..model.ensemble import Decoding, history_sources, rank_catalogue
from ..model.model_files import check_item_counts
from ..model.modeling_macrec import MacRecForConditionalGeneration
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import SemanticIdTable
from ..model.tokenization_macrec import SemanticIdTokenizer, TaskEncoder
from ..model.trie import SemanticIdTrie
from .cross_modal_rows import cross_modal_rows
from .sharding import whole_weights
from .trainer_saving import MacRecSavingTrainer
from .training_args import MacRecTrainingArguments, own_copy

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

ONE_THREAD_UP_TO = 64  # d_model


class MacRecTrainer(MacRecSavingTrainer, Seq2SeqTrainer):
    """[`~transformers.Seq2SeqTrainer`] for [`MacRecForConditionalGeneration`].

    With a `table` each evaluation also ranks the whole catalogue for every user of the evaluation set by constrained
    beams and reports `eval_hr@K` and `eval_ndcg@K` (of the ensemble, where there is more than one modality) and the
    same per modality, `eval_text_hr@10`. Also, `save_model` and `push_to_hub` write whole model directories, which
    [`MacRecRecommender`] loads.

    Args:
        args: [`MacRecTrainingArguments`], of which the trainer keeps a copy; with `None` their defaults, and `macrec`
            as output folder.
        processing_class: the [`SemanticIdTokenizer`].
        table: the [`SemanticIdTable`] of the catalogue; the model's `semantic_ids` become it. `None`: losses only, and
            Trainer's own saving.
        quantizer: the one that made the table. It is saved with the model, so that items can be added later.
        item_counts: how often each item was bought, integers (num_items,). They are saved with the model, which
            recommends the most frequent items to a user without a history. `None`: the targets in `train_dataset` are
            counted, that is, every purchase of the training histories except each user's first.
        item_titles: `{item_id: title}`, saved with the model, to show beside the ids.
        train_dataset, eval_dataset: splits of [`RecommendationTasksBuilder`].
        data_collator: [`RecommendationCollator`] of the table if left out.

    The other arguments are [`~transformers.Seq2SeqTrainer`]'s; `compute_loss_func` is refused.

    Raises:
        TypeError: `args` of another class.
        ValueError: a `table` without its tokenizer; `quantizer`, `item_counts` or `item_titles` without a `table`;
            counts that are not the table's; evaluations without a `table` where `args.metric_for_best_model` is one
            of the ranking; an argument of [`~transformers.Trainer`] that is refused.

    Example:

    ```python
    >>> args = MacRecTrainingArguments("out", num_train_epochs=20, eval_strategy="epoch")
    >>> trainer = MacRecTrainer(model, args, train_dataset=tasks["train"], eval_dataset=tasks["validation"],
    ...     processing_class=tokenizer, table=table)
    >>> trainer.train()
    >>> trainer.save_model("model")
    ```
    """

    arguments_class = MacRecTrainingArguments
    default_output_dir = "macrec"
    args: MacRecTrainingArguments

    def __init__(
        self,
        model: MacRecForConditionalGeneration | None = None,
        args: MacRecTrainingArguments | None = None,
        data_collator: Callable[[list], dict[str, Any]] | None = None,
        train_dataset: "Dataset | None" = None,
        eval_dataset: "Dataset | dict[str, Dataset] | None" = None,
        processing_class: SemanticIdTokenizer | None = None,
        *,
        table: SemanticIdTable | None = None,
        quantizer: MacRecQuantizer | None = None,
        item_counts: torch.Tensor | np.ndarray | None = None,
        item_titles: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        self.table, self.quantizer, self.item_titles, self.tries = table, quantizer, item_titles, {}
        self.item_counts = None if table is None else check_item_counts(item_counts, table)
        args = own_copy(args or self.arguments_class(self.default_output_dir), self.arguments_class)
        on_a_gpu = args.use_gpu_kernels and args.device.type == "cuda"
        in_buckets = args.torch_compile or on_a_gpu
        if table is not None:
            if processing_class is None:
                raise ValueError("processing_class: expected the SemanticIdTokenizer of the table, got None.")
            self.tries = {name: SemanticIdTrie.from_table(table, processing_class, name) for name in table.modalities}
            if data_collator is None:
                tokens = [processing_class.item_token_ids(table, name) for name in table.modalities]
                data_collator = RecommendationCollator(np.stack(tokens), in_buckets=in_buckets)
        elif any(part is not None for part in (quantizer, item_counts, item_titles)):
            raise ValueError(
                "table: expected the catalogue's SemanticIdTable beside quantizer, item_counts or item_titles, got "
                "None. They are saved with the table alone; give it too, or leave them out."
            )
        elif data_collator is None:  # nothing can be aligned: one modality of no items
            data_collator = RecommendationCollator(np.zeros((1, 0, 1), dtype=np.int32), in_buckets=in_buckets)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.recorded_step: RecordedStep | None = None
        if on_a_gpu:
            accelerate(self.accelerator.unwrap_model(self.model))
            self.recorded_step = RecordedStep() if self._repeats_itself() else None
        if table is not None:  # what `generate` may write, from now on and in every checkpoint
            self.accelerator.unwrap_model(self.model).semantic_ids = table
        metric = str(self.args.metric_for_best_model)
        if table is None and self.args.eval_strategy != "no" and ("hr@" in metric or "ndcg@" in metric):
            raise ValueError(
                f"table: expected the catalogue's SemanticIdTable, because metric_for_best_model is {metric!r}, got "
                'None. Without it nothing is ranked: give it, or name another metric, metric_for_best_model="loss".'
            )

    def _before_training(self, resuming: bool) -> None:
        model = self.accelerator.unwrap_model(self.model)
        aligned = model.config.implicit_alignment_weight and len(getattr(self.table, "modalities", ())) > 1
        self.warn_of_accumulation(["the implicit alignment"] if aligned else [])

    def _rare_rows(self, dataset: Any) -> tuple[Sequence[int] | np.ndarray, float]:
        rate = self.args.cross_modal_rate
        if rate == 1.0:
            return (), rate
        if self.table is None:
            raise ValueError(
                f"cross_modal_rate: expected 1 without a table, got {rate}. Which tasks lead from one modality to "
                "another is read off the catalogue's SemanticIdTable: give it, or a rate of 1."
            )
        return cross_modal_rows(dataset, self.table.modalities), rate

    def _rows_at_a_time(self, dataset: Any) -> Any:
        ours = type(self.data_collator) is RecommendationCollator  # another one may want rows
        return (TaskRows.of(dataset) or dataset) if ours else dataset

    def _row_lengths(self, dataset: Any) -> Sequence[int]:
        name = self.args.length_column_name
        if name in getattr(dataset, "column_names", ()):
            # As a list: left in the dataset, each length is read from Arrow one by one, again in every epoch.
            return list(dataset[name][:])
        return [len(row["input_ids"]) for row in dataset]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's, with a group of its own for the token embeddings if they have a learning rate of their own."""
        fresh, rate = self.optimizer is None, self.args.embedding_learning_rate
        optimizer = super().create_optimizer(model)
        if fresh and rate is not None:
            weight = cast(PreTrainedModel, self.model if model is None else model).get_input_embeddings().weight
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter is not weight]
            optimizer.add_param_group({"params": [weight], "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _after_training(self) -> None:
        if self.recorded_step is not None:  # so that others have the memory
            self.recorded_step.recordings.forget()

    def _repeats_itself(self) -> bool:
        """Whether a step does the same for every batch of like shapes, so that a recording can stand for it."""
        args, own = self.args, type(self).compute_loss is MacRecTrainer.compute_loss
        apart = args.world_size > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled
        scaled = self.accelerator.scaler is not None  # as float16's losses are, whoever asked for it
        changing = args.torch_compile or args.gradient_accumulation_steps > 1 or args.torch_empty_cache_steps
        return own and not (apart or scaled or changing)

    def _with_gradients(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        if self.recorded_step is None:
            return super()._with_gradients(model, inputs, num_items_in_batch)
        model.train()
        if callable(switch := getattr(self.optimizer, "train", None)):  # as Trainer does, for those without a schedule
            switch()
        inputs = cast(dict[str, Any], self._prepare_inputs(inputs))
        with of_short_sequences(self.args.device.type):
            losses = self.recorded_step(model, inputs)
            if losses is None:
                return super()._with_gradients(model, inputs, num_items_in_batch)
        self._note_parts(losses, "train")
        return losses["loss"]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Eq. 19, scalar; its parts are kept for the next log line."""
        outputs = model(**inputs)
        self._note_parts(outputs, "train" if model.training else "eval")
        loss: Any = outputs.loss  # None without labels
        if loss is not None and self._weight is not None:
            loss = loss * self._weight
        return (loss, outputs) if return_outputs else loss

    def _note_parts(self, outputs: Mapping[str, torch.Tensor], kind: str) -> None:
        for name in ("generation_loss", "alignment_loss"):
            if outputs.get(name) is not None:
                self._note(name, outputs[name], kind)

    def _small_steps(self) -> bool:
        return self.accelerator.unwrap_model(self.model).config.d_model <= ONE_THREAD_UP_TO

    def _size_of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        return (batch["labels"] != -100).sum()

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's own loop for the losses, then the ranking of the whole catalogue."""
        dataset = cast("Dataset", dataloader.dataset)
        examples = with_examples(dataset)
        if examples is not dataset:
            dataloader = self.get_eval_dataloader(examples)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.table is not None:
            metrics = self.ranking(dataset)
            named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
            output = output._replace(metrics={**(output.metrics or {}), **named})
        return output

    def ranking(self, dataset: "Dataset") -> dict[str, float]:
        """HR and NDCG at 1, 5 and 10 of a split's purchases, flat: `hr@10` (of the ensemble), `text_hr@10`, …"""
        sources, targets, owners = self._sources(dataset)
        model = self.accelerator.unwrap_model(self.model)
        with whole_weights(model):
            lists = rank_catalogue(
                model,
                self.tries,
                sources,
                Decoding(num_beams=self.args.generation_num_beams, batch_size=self.args.eval_batch_size),
                **shared_by(self.accelerator),
            )
        metrics = ranking_metrics({name: of_users.rows(owners) for name, of_users in lists.items()}, targets)
        main = "ensemble" if "ensemble" in metrics else next(iter(metrics))
        parts = {name: values for name, values in metrics.items() if name != main or main != "ensemble"}
        flat = {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        return {**metrics[main], **flat}

    def _sources(self, dataset: "Dataset") -> tuple[dict[str, list[list[int] | None]], np.ndarray, np.ndarray]:
        """A source per modality, made from each user's history whatever the target is; target items, and whose.

        By time a user has several.
        """
        table = cast(SemanticIdTable, self.table)
        lacking = [name for name in ("user", "item", "history") if name not in dataset.column_names]
        if lacking:
            raise ValueError(
                f"eval_dataset: expected the columns of RecommendationTasksBuilder, found no {lacking}. Give one of "
                "its splits, or leave `table` out to evaluate losses only."
            )
        named = [name for name in ("user", "item", "task") if name in dataset.column_names]
        columns = dataset.select_columns(named).with_format("numpy")[:]
        users, first = np.unique(columns["user"], return_index=True)
        if self.args.num_eval_users is not None and self.args.num_eval_users < len(users):
            chosen = np.unique(np.linspace(0, len(users) - 1, self.args.num_eval_users).astype(np.int64))
            users, first = users[chosen], first[chosen]
        pairs = columns["user"].astype(np.int64) * table.num_items + columns["item"]
        pairs = _purchases(pairs, columns.get("task"))
        owners, targets = np.divmod(pairs, table.num_items)
        kept = np.isin(owners, users)
        rows = dataset.select(first).select_columns(["history"])[:]
        if not all(rows["history"]):
            raise ValueError(
                "eval_dataset: expected each user's history in the first of the user's rows, as "
                "RecommendationTasksBuilder writes it, got an empty one. Was the split shuffled? Give it as it was."
            )
        max_history = self.accelerator.unwrap_model(self.model).config.max_history
        encoder = TaskEncoder(cast(SemanticIdTokenizer, self.processing_class), table, max_history)
        histories = [np.array(history, dtype=np.int64) for history in rows["history"]]
        sources = history_sources(encoder, histories, table.modalities)
        return sources, targets[kept], np.searchsorted(users, owners[kept])


def _purchases(pairs: np.ndarray, tasks: np.ndarray | None) -> np.ndarray:
    """Each purchase once, ascending: it has an example of every task, and may have been made twice."""
    different = np.unique(pairs)
    if tasks is None:
        return different
    times = np.zeros(len(different), dtype=np.int64)
    for task in np.unique(tasks):
        found, count = np.unique(pairs[tasks == task], return_counts=True)
        place = np.searchsorted(different, found)
        times[place] = np.maximum(times[place], count)
    return np.repeat(different, times)


def with_examples(dataset: Any) -> Any:
    """A split without the rows of [`RecommendationTasksBuilder`] that only name a user to rank; itself without any."""
    if "task" not in (getattr(dataset, "column_names", None) or ()):
        return dataset
    tasks = dataset.select_columns("task").with_format("numpy")["task"][:]
    return dataset if (tasks >= 0).all() else dataset.select(np.flatnonzero(tasks >= 0))
