"""The cross-modal residual quantizer: item embeddings of every modality → semantic IDs (paper, eq. 2-13)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .checksums import renew_checksums
from .configuration_macrec import RESIDUAL_KMEANS, MacRecQuantizerConfig
from .files import follow_umask
from .inference import eval_mode, load_weights
from .losses import (
    LossParts,
    ProcessGroup,
    alignment_loss,
    contrastive_loss,
    draw_positives,
    long_enough,
    quantization_loss,
    reconstruction_loss,
)
from .semantic_ids import code_tokens
from .vector_quantization import (
    ResidualQuantization,
    check_embeddings,
    check_finite,
    check_labels,
    check_modality,
    modality_masks,
    residual_quantize,
    straight_through,
)

Value = TypeVar("Value", float, torch.Tensor)
_OWN_FILES = ("quantizer/config.json", "quantizer/model*.safetensors")  # in a model directory


@dataclass
class MacRecQuantizerOutput(ModelOutput):
    """Output of [`MacRecQuantizer`].

    Attributes:
        loss: scalar, eq. 13.
        reconstruction_loss: scalar, eq. 10 summed over modalities.
        quantization_loss: scalar, eq. 11 summed over modalities.
        contrastive_losses: (num_levels,), eq. 6 before its weight; 0 where the weight is 0 or no labels were given.
        alignment_loss: scalar, eq. 9 before its weight.
        codes: `{modality: long (batch_size, num_levels)}`, −1 where the item lacks the modality.
        loss_parts: `{loss: {part: scalar}}`, the losses before they are summed over modalities ("text") or pairs of
            them ("text, image"): `reconstruction_loss`, `quantization_loss`, `alignment_loss` and, of the levels that
            are computed, `contrastive_loss_1` and so on. Each is a mean over the rows that have what it compares.
        loss_rows: `{loss: {part: whole number, maybe as a tensor}}`, how many rows those are: a batch's weight.

    With `gather_across_processes`, in training mode on several processes, each loss is the process's share: their mean
    over the processes is the loss of the whole batch, in which items are compared with those of all processes.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    quantization_loss: torch.Tensor | None = None
    contrastive_losses: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    codes: dict[str, torch.Tensor] | None = None
    loss_parts: dict[str, dict[str, torch.Tensor]] | None = None
    loss_rows: dict[str, dict[str, torch.Tensor | int]] | None = None


class MacRecMLP(nn.Sequential):
    """Linear layers with ReLU between them, dropout before each: (…, sizes[0]) → (…, sizes[-1])."""

    def __init__(self, sizes: tuple[int, ...], dropout: float):
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class MacRecModalityQuantizer(nn.Module):
    """Encoder, residual codebooks and decoder of one modality; residual k-means has codebooks alone."""

    codebooks_seeded: torch.Tensor

    def __init__(self, config: MacRecQuantizerConfig, embedding_size: int):
        super().__init__()
        sizes = (embedding_size, *config.hidden_sizes, config.codebook_dim or embedding_size)
        trained = config.method != RESIDUAL_KMEANS
        self.encoder = MacRecMLP(sizes, config.dropout) if trained else nn.Identity()
        self.decoder = MacRecMLP(sizes[::-1], config.dropout) if trained else nn.Identity()
        self.codebooks = nn.Parameter(torch.empty(config.num_levels, config.codebook_size, sizes[-1]))
        # Persistent, so that a reloaded quantizer is not seeded a second time.
        self.register_buffer("codebooks_seeded", torch.zeros((), dtype=torch.bool))


class MacRecQuantizerPreTrainedModel(PreTrainedModel):
    """How weights are drawn before codebooks are seeded, and what Trainer has to know of the losses."""

    config: MacRecQuantizerConfig
    base_model_prefix = "quantizer"
    # `main_input_name` stays "input_ids": Trainer's FLOP counter takes the named input for one tensor, ours is a dict.
    # In-batch losses are means: Trainer has to average over accumulation steps itself.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MacRecModalityQuantizer):
            bound = 1.0 / self.config.codebook_size
            init.uniform_(module.codebooks, -bound, bound)
            init.zeros_(module.codebooks_seeded)


class MacRecQuantizer(MacRecQuantizerPreTrainedModel):
    """Turns the embeddings of items into semantic IDs, one tuple of codes per modality.

    Each modality has an MLP encoder and decoder and `num_levels` residual codebooks. Cross-modal terms tie them
    together: a class-contrastive loss on the residuals of every level whose positives share the other modality's
    pseudo-label (eq. 4-6), and an alignment of the quantized sums (eq. 7-9); of more than two modalities every ordered
    pair adds its term. With `method="residual-kmeans"` there are codebooks alone, which quantize the embeddings.

    Attributes:
        gather_across_processes: whether a training step compares the items of all processes, which then all have to
            call the model. Our trainers turn it on while they train; it is not saved.

    Example:

    ```python
    >>> quantizer = MacRecQuantizer(MacRecQuantizerConfig(modalities={"text": 8, "image": 6}, hidden_sizes=(16,)))
    >>> out = quantizer(embeddings={"text": torch.randn(5, 8), "image": torch.randn(5, 6)})
    >>> out.codes["image"].shape
    torch.Size([5, 4])
    ```
    """

    gather_across_processes = False

    def __init__(self, config: MacRecQuantizerConfig):
        super().__init__(config)
        modules = {name: MacRecModalityQuantizer(config, size) for name, size in config.embedding_sizes.items()}
        self.quantizers = cast("Mapping[str, MacRecModalityQuantizer]", nn.ModuleDict(modules))  # for type checkers
        self.post_init()

    @property
    def codebooks(self) -> dict[str, torch.Tensor]:
        """`{modality: (num_levels, codebook_size, codebook_dim)}`, the parameters themselves.

        With residual k-means the last axis is as long as the modality's embeddings.
        """
        return {name: quantizer.codebooks for name, quantizer in self.quantizers.items()}

    @property
    def codebooks_seeded(self) -> bool:
        """Whether every codebook was seeded, by `set_codebooks` or by loading a model whose codebooks were."""
        return all(bool(quantizer.codebooks_seeded) for quantizer in self.quantizers.values())

    @torch.no_grad()
    def set_codebooks(self, codebooks: Mapping[str, torch.Tensor]) -> None:
        """Replaces codebooks and marks them as seeded.

        Args:
            codebooks: `{modality: float (num_levels, codebook_size, codebook_dim)}`.

        Raises:
            ValueError: an unknown modality, another shape, or numbers that are not finite.
        """
        for name, values in codebooks.items():
            check_modality(name, self.quantizers, "codebooks")
            module = self.quantizers[name]
            if (values := torch.as_tensor(values)).shape != module.codebooks.shape:
                raise ValueError(
                    f"codebooks[{name!r}]: expected shape {tuple(module.codebooks.shape)} (num_levels, codebook_size, "
                    f"codebook_dim), got {tuple(values.shape)}."
                )
            if not torch.isfinite(values).all():
                raise ValueError(f"codebooks[{name!r}]: expected finite numbers, got NaN or infinity.")
            module.codebooks.copy_(values)
            module.codebooks_seeded.fill_(True)

    def vocabulary(self) -> list[str]:
        """Every token that the quantizer can emit, in the tokenizer's order: modality, then level, then code."""
        return code_tokens(self.config.embedding_sizes, self.config.num_levels, self.config.codebook_size)

    def save_pretrained(self, save_directory: str | PathLike, is_main_process: bool = True, **kwargs: Any) -> None:  # type: ignore[override]
        """[`~transformers.PreTrainedModel.save_pretrained`], with permissions as the user's umask says."""
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            follow_umask(*Path(save_directory).glob("model*.safetensors"))
            renew_checksums(Path(save_directory).parent, *_OWN_FILES)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """[`~transformers.PreTrainedModel.from_pretrained`]; errors are those of `model.inference.load_weights`."""
        return load_weights(cls, super().from_pretrained, pretrained_model_name_or_path, args, kwargs, _OWN_FILES)

    def encode_latents(self, embeddings: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """z of eq. 2: `{modality: (batch_size, embedding_size)}` → `{modality: (batch_size, codebook_dim)}`."""
        check_embeddings(embeddings, self.config.embedding_sizes)
        return {name: self.quantizers[name].encoder(rows) for name, rows in embeddings.items()}

    @torch.no_grad()
    def encode(
        self, embeddings: Mapping[str, torch.Tensor], modality_mask: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Semantic IDs of a batch, without gradient and without dropout.

        Args:
            embeddings: `{modality: float (batch_size, embedding_size)}`; any of the modalities.
            modality_mask: `{modality: bool (batch_size,)}`, False = the item has none.

        Returns:
            `{modality: long (batch_size, num_levels)}`, −1 where the modality is missing.

        Raises:
            ValueError: an unknown modality, wrong sizes, and NaN or infinity in an item that has the modality.
        """
        masks = modality_masks(embeddings, modality_mask, self.quantizers)
        with eval_mode(self):
            latents = self.encode_latents(embeddings)
        check_finite(embeddings, masks)
        return {
            name: residual_quantize(latent, self.quantizers[name].codebooks).codes.masked_fill(
                ~masks[name][:, None], -1
            )
            for name, latent in latents.items()
        }

    def forward(
        self,
        embeddings: Mapping[str, torch.Tensor],
        pseudo_labels: Mapping[str, torch.Tensor] | None = None,
        modality_mask: Mapping[str, torch.Tensor] | None = None,
        return_dict: bool | None = None,
    ) -> MacRecQuantizerOutput | tuple:
        """All losses of one batch.

        Args:
            embeddings: `{modality: float (batch_size, embedding_size)}`, every modality of the config.
            pseudo_labels: `{modality: long (batch_size,)}` (eq. 1). `None`: no contrastive loss.
            modality_mask: `{modality: bool (batch_size,)}`, False = the item has none: its terms leave every mean, and
                for the cross-modal terms of a pair the items that lack either side leave the batch.

        Raises:
            ValueError: a modality too many or too few, sizes that disagree with the config or with each other;
                residual k-means, which has no losses.
        """
        if self.config.method == RESIDUAL_KMEANS:
            raise ValueError(
                f"Expected a quantizer of method 'macrec' to compute losses, got {RESIDUAL_KMEANS!r}: k-means has "
                "made its codebooks and nothing in it is trained. `encode` gives its codes."
            )
        check_embeddings(embeddings, self.config.embedding_sizes, complete=True)
        masks = modality_masks(embeddings, modality_mask, self.quantizers)
        if pseudo_labels is not None:
            check_labels(pseudo_labels, masks)
        # Rows without the modality are zeros and masked, not left out: to pick them would be to wait for the device.
        embeddings = {name: embeddings[name].where(mask[:, None], 0.0) for name, mask in masks.items()}
        latents = {name: self.quantizers[name].encoder(rows) for name, rows in embeddings.items()}
        parts = {name: residual_quantize(latents[name], self.quantizers[name].codebooks) for name in masks}
        first = next(iter(masks.values()))
        group = ProcessGroup.around(self, len(first), first.device)
        every_mask = masks
        if not group.alone:
            gathered = group.gather(torch.stack(list(masks.values()), dim=1))
            every_mask = dict(zip(masks, gathered.unbind(dim=1), strict=True))
        found = LossParts(group)
        self._own_losses(found, embeddings, latents, parts, masks, every_mask)
        self._cross_modal_losses(found, parts, pseudo_labels, every_mask)
        losses = found.sums()
        # In the graph of every codebook, where one modality has nothing to be compared with.
        nothing = torch.stack([part.quantized.sum() for part in parts.values()]).sum() * 0.0
        levels = [losses.get(contrastive_name(level), nothing) for level in range(self.config.num_levels)]
        output = MacRecQuantizerOutput(
            loss=self.weighted_sum(losses) + nothing,
            reconstruction_loss=losses["reconstruction_loss"],
            quantization_loss=losses["quantization_loss"],
            contrastive_losses=torch.stack(levels),
            alignment_loss=losses.get("alignment_loss", nothing),
            codes={name: parts[name].codes.masked_fill(~mask[:, None], -1) for name, mask in masks.items()},
            loss_parts=found.shares,
            loss_rows=found.rows,
        )
        return output if return_dict is not False else output.to_tuple()

    def weighted_sum(self, losses: Mapping[str, Value]) -> Value:
        """Eq. 13 of losses that are named as in `loss_parts`; those left out count 0."""
        weights = {"reconstruction_loss": 1.0, "quantization_loss": 1.0}
        weights["alignment_loss"] = self.config.alignment_weight
        for level, weight in enumerate(self.config.contrastive_weights or ()):
            weights[contrastive_name(level)] = weight
        return cast(Value, sum(weights[name] * value for name, value in losses.items()))

    def _own_losses(
        self,
        found: LossParts,
        embeddings: Mapping[str, torch.Tensor],
        latents: Mapping[str, torch.Tensor],
        parts: Mapping[str, ResidualQuantization],
        masks: Mapping[str, torch.Tensor],
        every_mask: Mapping[str, torch.Tensor],
    ) -> None:
        """Eq. 10-12: each modality by itself."""
        for name, part in parts.items():
            counts, mask = (masks[name].sum(), every_mask[name].sum()), masks[name]
            decoded = self.quantizers[name].decoder(straight_through(latents[name], part.quantized))
            found.add("reconstruction_loss", name, reconstruction_loss(decoded, embeddings[name], mask), *counts)
            loss = quantization_loss(part.residuals, part.codewords, self.config.commitment_weight, mask)
            found.add("quantization_loss", name, loss, *counts)

    def _cross_modal_losses(
        self,
        found: LossParts,
        parts: Mapping[str, ResidualQuantization],
        pseudo_labels: Mapping[str, torch.Tensor] | None,
        every_mask: Mapping[str, torch.Tensor],
    ) -> None:
        """Eq. 4-9 over every ordered pair; a loss whose weight is 0 is not computed, but for the alignment.

        Anchors are the rows of this process, candidates those of all.
        """
        config, names, group = self.config, list(parts), found.group
        weights, given = config.contrastive_weights or (), pseudo_labels or {}
        levels = [level for level, weight in enumerate(weights) if weight and given]
        # (batch_size, used levels + 1, codebook_dim): the residuals and the quantized sum.
        own = {
            name: torch.stack([*(part.residuals[level] for level in levels), part.quantized], dim=1)
            for name, part in parts.items()
        }
        # One exchange for all of it, after the decoders' forward: backward then meets it before any weight of theirs,
        # in every process, and never crosses the exchange of gradients.
        everything = own if group.alone else _unpack(group.gather(torch.cat(list(own.values()), dim=1)), own)
        labels = {name: group.gather(given[name].to(every_mask[name].device)) for name in names if levels}
        generator = group.generator(next(iter(own.values())).device) if levels else None
        for name, other in permutations(names, 2):
            both = every_mask[name] & every_mask[other]  # items that have both modalities, of all processes
            present = (both[group.mine], both)
            for place, level in enumerate(levels):
                anchors, candidates = own[name][:, place], everything[name][:, place]
                known = long_enough(candidates) & both
                # Twice the label, and one more where the residual takes no part: those pair up among themselves.
                groups = (2 * labels[other] + ~known).where(both, -1)
                loss = contrastive_loss(
                    anchors,
                    draw_positives(groups, generator)[group.mine],
                    config.contrastive_temperature,
                    config.contrastive_normalize,
                    candidates,
                    present,
                )
                counts = known[group.mine].sum(), known.sum()
                found.add(contrastive_name(level), f"{name}, {other}", loss, *counts)
            if names.index(name) < names.index(other):
                loss = alignment_loss(
                    own[name][:, -1],
                    own[other][:, -1],
                    config.contrastive_temperature,
                    (everything[name][:, -1], everything[other][:, -1]),
                    group.mine.start,
                    present,
                )
                found.add("alignment_loss", f"{name}, {other}", loss, present[0].sum(), both.sum())


def contrastive_name(level: int) -> str:
    """The name of the loss of eq. 6 at a level, counted from 0."""
    return f"contrastive_loss_{level + 1}"


def _unpack(packed: torch.Tensor, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undoes `torch.cat(list(like.values()), dim=1)`."""
    return dict(zip(like, packed.split([values.shape[1] for values in like.values()], dim=1), strict=True))
