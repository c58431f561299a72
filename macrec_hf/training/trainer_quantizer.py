"""Trains the quantizer: Trainer + pseudo-labels, codebook seeds and codebook health."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from zipfile import BadZipFile

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..catalogue.catalogue_batches import CatalogueCollator, CatalogueRows, catalogue_latents, in_batches
from ..catalogue.clustering import pseudo_labels, residual_codebooks
from ..catalogue.embedding_store import EmbeddingStore
from ..model.configuration_macrec import RESIDUAL_KMEANS
from ..model.files import replacing
from ..model.inference import eval_mode
from ..model.losses import ProcessGroup
from ..model.modeling_macrec_quantizer import MacRecQuantizer, MacRecQuantizerOutput, contrastive_name
from ..model.vector_quantization import codebook_health, collision_rate
from .checkpoints import PSEUDO_LABELS
from .trainer_base import MacRecTrainerBase
from .training_args import MacRecQuantizerTrainingArguments

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

ONE_THREAD_UP_TO = 256  # the width of the widest layer

Result = TypeVar("Result")
WITHOUT_PARTNER_WARNING = 0.3


# What a catalogue's embeddings may come as, see [`MacRecQuantizerTrainer`].
Catalogue: TypeAlias = "EmbeddingStore | Mapping[str, np.ndarray] | datasets.Dataset | Dataset"


class MacRecQuantizerTrainer(MacRecTrainerBase):
    """[`~transformers.Trainer`] for [`MacRecQuantizer`].

    Before the first step it computes the pseudo-labels (eq. 1) and seeds the codebooks by k-means over the catalogue's
    residuals, level by level. It logs every part of the loss, and at each evaluation the collision rate and per level
    and modality the share of used codes, the perplexity and the number of dead codes. The weights that it ends with
    are the last ones, unless the arguments ask for the best by a metric: by the collision rate that would often be the
    first checkpoint, because k-means seeds spread the codes before anything is learned.

    Args:
        args: [`MacRecQuantizerTrainingArguments`], of which the trainer keeps a copy; with `None` their defaults, and
            `macrec_quantizer` as output folder.
        train_dataset: an [`EmbeddingStore`] (read memory-mapped, a batch at a time), a dict `{modality: float array
            (num_items, embedding_size)}`, a `datasets.Dataset` with a column per modality, or any dataset of rows
            `{modality: vector}`.
        eval_dataset: the same; the training catalogue if left out.

    The other arguments are [`~transformers.Trainer`]'s; `compute_loss_func`, `compute_metrics` and
    `preprocess_logits_for_metrics` are refused.

    Raises:
        TypeError: `args` of another class, or a dataset that holds no embeddings.
        ValueError: no dataset at all, modalities or sizes that are not the quantizer's, a quantizer in which nothing
            is trained, or an argument of [`~transformers.Trainer`] that is refused.

    Example:

    ```python
    >>> args = MacRecQuantizerTrainingArguments("out", num_train_epochs=50)
    >>> trainer = MacRecQuantizerTrainer(quantizer, args, train_dataset=store)
    >>> trainer.train()
    ```
    """

    arguments_class = MacRecQuantizerTrainingArguments
    default_output_dir = "macrec_quantizer"
    not_followed = MacRecTrainerBase.not_followed | dict.fromkeys(
        ("compute_metrics", "preprocess_logits_for_metrics"),
        "An evaluation predicts nothing, it encodes the catalogue: encode it yourself with MacRecQuantizer.encode.",
    )

    def __init__(
        self,
        model: MacRecQuantizer | None = None,
        args: MacRecQuantizerTrainingArguments | None = None,
        data_collator: Callable[[list[int]], dict[str, Any]] | None = None,
        train_dataset: "Catalogue | None" = None,
        eval_dataset: "Catalogue | None" = None,
        **kwargs: Any,
    ):
        train_rows = None if train_dataset is None else as_rows(train_dataset, model)
        eval_rows = train_rows if eval_dataset is None else as_rows(eval_dataset, model)
        if model is not None and model.config.method == RESIDUAL_KMEANS:
            raise ValueError(
                f"model: expected a quantizer of method 'macrec', got {RESIDUAL_KMEANS!r}, in which nothing is "
                "trained: it is finished. macrec quantize --method residual-kmeans makes one."
            )
        if data_collator is None:
            rows = train_rows or eval_rows
            if rows is None:
                raise ValueError("train_dataset: expected the catalogue's embeddings, got None, and no eval_dataset.")
            data_collator = CatalogueCollator(rows.store)
        self._warned = False
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            **kwargs,
        )

    def _before_training(self, resuming: bool) -> None:
        cast(CatalogueRows, self.train_dataset).store.check_finite()
        self.prepare_catalogue(seed_codebooks=not resuming)
        config = self.accelerator.unwrap_model(self.model).config
        if len(config.modalities) > 1:
            weights = {"the contrastive losses": any(config.contrastive_weights), "alignment": config.alignment_weight}
            self.warn_of_accumulation([name for name, weight in weights.items() if weight])

    def prepare_catalogue(self, seed_codebooks: bool = True) -> None:
        """Pseudo-labels and codebook seeds: computed once, by the main process, and sent to the others.

        Args:
            seed_codebooks: False where a checkpoint brings codebooks along.
        """
        if isinstance(self.data_collator, CatalogueCollator) and self.data_collator.labels is None:
            self.data_collator.labels = self._from_main(self._pseudo_labels)
        quantizer = self.accelerator.unwrap_model(self.model)
        if seed_codebooks and not quantizer.codebooks_seeded:
            quantizer.set_codebooks(self._from_main(lambda: self._seeds(quantizer)))

    def _from_main(self, compute: Callable[[], Result]) -> Result:
        """Computes something in the main process and sends it to all processes."""
        if self.accelerator.num_processes == 1:
            return compute()
        return broadcast_object_list([compute() if self.accelerator.is_main_process else None])[0]

    def _pseudo_labels(self) -> dict[str, np.ndarray] | None:
        """Eq. 1, once: written into the output folder, where a resumed run reads them back."""
        store, config = cast(CatalogueRows, self.train_dataset).store, self.accelerator.unwrap_model(self.model).config
        if len(config.modalities) < 2 or not any(config.contrastive_weights):
            return None
        key = f"{store.fingerprint(every_row=True)}-{config.num_pseudo_labels}-{self.args.seed}"
        path = Path(str(self.args.output_dir)) / PSEUDO_LABELS
        if path.is_file():
            with suppress(ValueError, KeyError, OSError, BadZipFile), np.load(path) as saved:  # else: made anew
                if str(saved["key"]) == key:
                    return {name: saved[name] for name, _ in config.modalities}
        labels = {}
        for name, _ in logging.tqdm(config.modalities, desc="pseudo-labels", unit="modality"):
            labels[name] = pseudo_labels(
                store.arrays[name], config.num_pseudo_labels, store.present[name], self.args.seed, name
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(key), **labels)
        return labels

    @torch.no_grad()
    def _seeds(self, quantizer: MacRecQuantizer) -> dict[str, torch.Tensor]:
        """Level by level: k-means over the residuals of the catalogue's latents."""
        config, store, seeds = quantizer.config, cast(CatalogueRows, self.train_dataset).store, {}
        latents = self._latents(quantizer, store)
        progress = logging.tqdm(total=len(latents) * config.num_levels, desc="seeding codebooks", unit="codebook")
        for name, points in latents.items():
            seeds[name] = residual_codebooks(
                points, config.num_levels, config.codebook_size, self.args.seed, done=progress.update
            )
        progress.close()
        return seeds

    def _latents(self, quantizer: MacRecQuantizer, store: EmbeddingStore) -> dict[str, torch.Tensor]:
        """Latents of the items that have the modality: `{modality: (num_present, codebook_dim)}` on the CPU."""
        size, latents = self.args.eval_batch_size * 8, {}
        for name in store.arrays:
            found = catalogue_latents(quantizer, store, name, np.flatnonzero(store.present[name]), size)
            latents[name] = found if len(found) else torch.zeros(1, quantizer.config.codebook_dim)
        return latents

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:
        """6 × weights × items of every modality."""
        quantizers = self.accelerator.unwrap_model(self.model).quantizers
        sizes = {name: sum(weight.numel() for weight in module.parameters()) for name, module in quantizers.items()}
        embeddings = cast(Mapping[str, torch.Tensor], inputs.get("embeddings", {}))
        return sum(6 * len(rows) * sizes[name] for name, rows in embeddings.items())

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Eq. 13, scalar; its parts and the share of items without a partner are kept for the next log line.

        The parts in the log are means over the rows since the last line that have what is compared; Trainer's own
        `loss` is the mean over steps, however many rows each had.
        """
        outputs = model(**inputs)
        levels = [contrastive_name(level) for level in range(len(outputs.contrastive_losses))]
        for name in ("alignment_loss", *levels):
            if (name, "") not in self._parts["train"]:  # in the log though nothing is compared
                self._note(name, torch.zeros_like(outputs.loss), rows=0)
        for name, parts in outputs.loss_parts.items():
            for of, value in parts.items():
                self._note(name, value, of=of, rows=outputs.loss_rows[name][of])
        if "pseudo_labels" in inputs:
            self._note_partners(model, inputs)
        loss = outputs.loss if self._weight is None else self._weighted_loss(outputs, self._weight)
        return (loss, outputs) if return_outputs else loss

    def _weighted_loss(self, outputs: MacRecQuantizerOutput, weight: torch.Tensor) -> torch.Tensor:
        """Eq. 13 as this micro-batch's part of the step: each of its means weighs as much as it has rows."""
        weights = dict(zip(self._parts_of_the_loss(), weight, strict=True))
        losses = {
            name: torch.stack([value * weights[of] for of, value in parts.items()]).sum()
            for name, parts in cast(Mapping[str, Mapping[str, torch.Tensor]], outputs.loss_parts).items()
        }
        return self.accelerator.unwrap_model(self.model).weighted_sum(losses)

    def _parts_of_the_loss(self) -> list[str]:
        """The modalities, and every ordered pair of them, as `loss_parts` calls them."""
        names = list(self.accelerator.unwrap_model(self.model).config.embedding_sizes)
        return [*names, *map(", ".join, permutations(names, 2))]

    def _small_steps(self) -> bool:
        return max(self.accelerator.unwrap_model(self.model).config.hidden_sizes, default=0) <= ONE_THREAD_UP_TO

    def _size_of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Rows that have the modality, or both of the pair, for each part of the loss."""
        first, masks = next(iter(batch["embeddings"].values())), batch.get("modality_mask", {})
        every = torch.ones(len(first), dtype=torch.bool, device=first.device)
        parts = [[masks.get(name, every) for name in of.split(", ")] for of in self._parts_of_the_loss()]
        return torch.stack([torch.stack(part).all(0).sum() for part in parts])

    def _note_partners(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor | Any]) -> None:
        """Notes the share of items without another of their pseudo-label in the batch: they are their own positive.

        The labels of a modality choose the positives of every other one, among the items that have both.
        """
        with torch.random.fork_rng(devices=[]):  # what is counted here must not change what is drawn
            given = cast(Mapping[str, torch.Tensor], inputs["pseudo_labels"])
            first = next(iter(given.values()))
            group = ProcessGroup.around(self.accelerator.unwrap_model(model), len(first), first.device)
        every = {name: group.gather(labels) for name, labels in given.items()}
        for name, other in permutations(every, 2):
            both = (every[name] >= 0) & (every[other] >= 0)  # −1: the item lacks the modality
            labels = every[name].where(both, -1).sort().values
            mates = torch.searchsorted(labels, labels, right=True) - torch.searchsorted(labels, labels)
            alone, rows = ((labels >= 0) & (mates == 1)).sum(), both.sum()
            self._note(f"without_partner_{name}", alone / rows.clamp(min=1), rows=rows)

    def _look_at(self, means: Mapping[str, float]) -> None:
        alone = {name: value for name, value in means.items() if name.startswith("without_partner_")}
        if (
            self.is_world_process_zero()
            and not self._warned
            and any(value > WITHOUT_PARTNER_WARNING for value in alone.values())
        ):
            self._warned = True
            logger.warning(
                "Share of items without a partner in their batch: %s. Above %.0f %% the contrastive loss mostly "
                "compares items with themselves: take a larger batch or fewer pseudo-labels.",
                ", ".join(f"{name.removeprefix('without_partner_')} {value:.2f}" for name, value in alone.items()),
                100 * WITHOUT_PARTNER_WARNING,
            )

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Encodes the catalogue: own losses (without the contrastive terms, whose positives are drawn) and health."""
        quantizer, rows = self.accelerator.unwrap_model(self.model), cast(CatalogueRows, dataloader.dataset)
        with eval_mode(quantizer):
            metrics, codes = self._encode_catalogue(quantizer, CatalogueCollator(rows.store), len(rows))
        metrics |= catalogue_health(codes, quantizer.config.codebook_size)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(  # nothing is predicted
            predictions=None,  # type: ignore[arg-type]
            label_ids=None,
            metrics=metrics,
            num_samples=len(rows),
        )

    @torch.no_grad()
    def _encode_catalogue(
        self, quantizer: MacRecQuantizer, collator: CatalogueCollator, num_items: int
    ) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """Losses, each a mean over the items that it is about, and codes of all; the processes share the batches."""

        def encode(rows: np.ndarray) -> tuple[dict[tuple[str, str], tuple[float, int]], dict[str, torch.Tensor]]:
            outputs = quantizer(**self._prepare_inputs({**collator(rows)}))
            noted = {
                (name, of): (float(value), int(outputs.loss_rows[name][of]))
                for name, parts in outputs.loss_parts.items()
                for of, value in parts.items()
            }
            return noted, {name: values.cpu() for name, values in outputs.codes.items()}

        rows, size = np.arange(num_items), self.args.eval_batch_size
        done = in_batches(rows, size, encode, "evaluation", processes=self.accelerator, progress=False)
        losses: dict[str, float] = defaultdict(float)
        for name, of in done[0][0]:
            means, counts = np.array([noted[name, of] for noted, _ in done]).T
            losses[name] += float((means * counts).sum() / max(counts.sum(), 1))
        codes = {name: torch.cat([codes[name] for _, codes in done]) for name in done[0][1]}
        return {"loss": quantizer.weighted_sum(losses), **losses}, codes


def catalogue_health(codes: Mapping[str, torch.Tensor], codebook_size: int) -> dict[str, float]:
    """Collision rate and codebook health of all modalities under flat names, levels counted from 1.

    Args:
        codes: `{modality: long (num_items, num_levels)}`; rows of −1 are left out.
    """
    metrics: dict[str, float] = {}
    for name, values in codes.items():
        values = values[values[:, 0] >= 0]
        metrics[f"collision_rate_{name}"] = collision_rate(values, codebook_size)
        for level, health in enumerate(codebook_health(values, codebook_size), start=1):
            metrics |= {f"{what}_{name}_{level}": value for what, value in health.items()}
    rates = [metrics[f"collision_rate_{name}"] for name in codes]
    return {"collision_rate": sum(rates) / len(rates), **metrics}


def as_rows(dataset: Any, model: MacRecQuantizer | None = None) -> CatalogueRows:
    """Whatever holds embeddings → rows of a store.

    Raises:
        TypeError: something that holds no embeddings.
        ValueError: modalities or sizes that are not the quantizer's.
    """
    if isinstance(dataset, CatalogueRows):
        return dataset
    expected = dict(model.config.modalities) if model is not None else None
    if hasattr(dataset, "column_names"):
        names = list(expected or dataset.column_names)
        dataset = {name: np.asarray(dataset.with_format("numpy")[name][:], dtype=np.float32) for name in names}
    elif not isinstance(dataset, Mapping | EmbeddingStore) and len(dataset) and isinstance(dataset[0], Mapping):
        rows = [row.get("embeddings", row) for row in (dataset[index] for index in range(len(dataset)))]
        dataset = {
            name: np.stack([np.asarray(row[name], dtype=np.float32) for row in rows]) for name in expected or rows[0]
        }
    if isinstance(dataset, Mapping):
        dataset = EmbeddingStore(dataset)
    if not isinstance(dataset, EmbeddingStore):
        raise TypeError(
            "train_dataset: expected an EmbeddingStore, a dict {modality: array} or a dataset of rows "
            f"{{modality: vector}}, got {type(dataset).__name__}."
        )
    if expected is not None and dataset.modalities != expected:
        raise ValueError(
            f"train_dataset: expected the quantizer's modalities {expected}, got {dataset.modalities}. The quantizer "
            "was configured for other embeddings: make MacRecQuantizerConfig(modalities=store.modalities)."
        )
    return CatalogueRows(dataset)
