"""The cross-modal residual quantizer: item embeddings of every modality → semantic IDs (paper, eq. 2-13)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_macrec import MacRecQuantizerConfig
from .distributed import ProcessGroup
from .files import follow_umask
from .inference import eval_mode
from .losses import alignment_loss, contrastive_loss, draw_positives, quantization_loss, reconstruction_loss
from .semantic_ids import code_tokens
from .vector_quantization import ResidualQuantization, residual_quantize, straight_through


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

    With `gather_across_processes`, in training mode on several processes, each loss is the process's share: their mean
    over the processes is the loss of the whole batch, in which items are compared with those of all processes.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    quantization_loss: torch.Tensor | None = None
    contrastive_losses: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    codes: dict[str, torch.Tensor] | None = None


class MacRecMLP(nn.Sequential):
    """Linear layers with ReLU between them, dropout before each: (…, sizes[0]) → (…, sizes[-1])."""

    def __init__(self, sizes: tuple[int, ...], dropout: float):
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class MacRecModalityQuantizer(nn.Module):
    """Encoder, residual codebooks and decoder of one modality."""

    codebooks_seeded: torch.Tensor

    def __init__(self, config: MacRecQuantizerConfig, embedding_size: int):
        super().__init__()
        sizes = (embedding_size, *config.hidden_sizes, config.codebook_dim)
        self.encoder = MacRecMLP(sizes, config.dropout)
        self.decoder = MacRecMLP(sizes[::-1], config.dropout)
        self.codebooks = nn.Parameter(torch.empty(config.num_levels, config.codebook_size, config.codebook_dim))
        # Persistent, so that a reloaded quantizer is not seeded a second time.
        self.register_buffer("codebooks_seeded", torch.zeros((), dtype=torch.bool))


class MacRecQuantizerPreTrainedModel(PreTrainedModel):
    """How weights are drawn before codebooks are seeded, and what Trainer has to know of the losses."""

    config: MacRecQuantizerConfig
    base_model_prefix = "quantizer"
    # `main_input_name` stays "input_ids": Trainer's FLOP counter takes the named input for one tensor, ours is a dict.
    # The in-batch losses are means: Trainer has to average over accumulation steps itself.
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
    pseudo-label (eq. 4-6), and an alignment of the quantized sums (eq. 7-9). With more than two modalities every
    ordered pair adds its term.

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
        # For type checkers a module dict has modules of any kind.
        self.quantizers = cast("Mapping[str, MacRecModalityQuantizer]", nn.ModuleDict(modules))
        self.post_init()

    @property
    def codebooks(self) -> dict[str, torch.Tensor]:
        """`{modality: (num_levels, codebook_size, codebook_dim)}`, the parameters themselves."""
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
            self._check_modality(name, "codebooks")
            module = self.quantizers[name]
            values = torch.as_tensor(values)
            if values.shape != module.codebooks.shape:
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

    def encode_latents(self, embeddings: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """z of eq. 2: `{modality: (batch_size, embedding_size)}` → `{modality: (batch_size, codebook_dim)}`."""
        self._check_embeddings(embeddings)
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
        """
        with eval_mode(self):
            latents = self.encode_latents(embeddings)
        masks = self._masks(embeddings, modality_mask)
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
            ValueError: a modality too many or too few, sizes that disagree with the config or with each other.
        """
        self._check_embeddings(embeddings, complete=True)
        masks = self._masks(embeddings, modality_mask)
        if pseudo_labels is not None:
            self._check_labels(pseudo_labels, masks)
        full = {name: modality_mask is None or name not in modality_mask or bool(masks[name].all()) for name in masks}
        rows = {name: embeddings[name] if full[name] else embeddings[name][masks[name]] for name in masks}
        latents = {name: self.quantizers[name].encoder(rows[name]) for name in masks}
        parts = {name: residual_quantize(latents[name], self.quantizers[name].codebooks) for name in masks}
        first = next(iter(masks.values()))
        group = ProcessGroup.around(self, len(first), first.device)
        every_mask = masks
        if not group.alone:
            gathered = group.gather(torch.stack(list(masks.values()), dim=1))
            every_mask = dict(zip(masks, gathered.unbind(dim=1), strict=True))
        reconstruction, quantization = self._own_losses(rows, latents, parts, group, every_mask)
        contrastive, alignment = self._cross_modal_losses(parts, masks, full, pseudo_labels, group, every_mask)
        weights = contrastive.new_tensor(self.config.contrastive_weights)
        loss = reconstruction + quantization + (weights * contrastive).sum() + self.config.alignment_weight * alignment
        codes = {name: _scatter(parts[name].codes, masks[name], full[name], -1) for name in masks}
        output = MacRecQuantizerOutput(loss, reconstruction, quantization, contrastive, alignment, codes)
        return output if return_dict is not False else output.to_tuple()

    def _own_losses(
        self,
        rows: Mapping[str, torch.Tensor],
        latents: Mapping[str, torch.Tensor],
        parts: Mapping[str, ResidualQuantization],
        group: ProcessGroup,
        every_mask: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 10-12: each modality by itself."""
        reconstruction = quantization = next(iter(latents.values())).new_zeros(())
        for name, part in parts.items():
            counts = (len(rows[name]), len(rows[name]) if group.alone else every_mask[name].sum())
            decoded = self.quantizers[name].decoder(straight_through(latents[name], part.quantized))
            own = reconstruction_loss(decoded, rows[name])
            reconstruction = reconstruction + group.share(own, *counts)
            own = quantization_loss(part.residuals, part.codewords, self.config.commitment_weight)
            quantization = quantization + group.share(own, *counts)
        return reconstruction, quantization

    def _cross_modal_losses(
        self,
        parts: Mapping[str, ResidualQuantization],
        masks: Mapping[str, torch.Tensor],
        full: Mapping[str, bool],
        pseudo_labels: Mapping[str, torch.Tensor] | None,
        group: ProcessGroup,
        every_mask: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 4-9 over every ordered pair; a loss whose weight is 0 is not computed, but for the alignment.

        Anchors are the rows of this process, candidates those of all.
        """
        config, names = self.config, list(parts)
        weights, given = config.contrastive_weights or (), pseudo_labels or {}
        levels = [level for level, weight in enumerate(weights) if weight and given]
        # (batch_size, used levels + 1, codebook_dim): the residuals and the quantized sum, each row at its place.
        own = {
            name: _scatter(
                torch.stack([*(part.residuals[level] for level in levels), part.quantized], dim=1),
                masks[name],
                full[name],
                0.0,
            )
            for name, part in parts.items()
        }
        # One exchange for all of it, after the decoders' forward: backward then meets it before any weight of theirs,
        # in every process, and never crosses the exchange of gradients.
        everything = own if group.alone else _unpack(group.gather(torch.cat(list(own.values()), dim=1)), own)
        labels = {name: group.gather(given[name].to(masks[name].device)) for name in names if levels}
        generator = group.generator(next(iter(own.values())).device) if levels else None
        nothing = torch.stack([part.quantized.sum() for part in parts.values()]).sum() * 0.0
        contrastive = [nothing] * config.num_levels
        alignment = contrastive[0]
        for name, other in permutations(names, 2):
            # Rows that have both modalities, of all processes and of ours; None: all of them.
            both = None if group.alone and full[name] and full[other] else every_mask[name] & every_mask[other]
            mine = None if both is None else both[group.mine]
            offset = 0 if both is None else both[: group.mine.start].sum()
            counts: tuple[torch.Tensor | int, torch.Tensor | int] = (0, 0)
            if mine is not None and both is not None and not group.alone:
                counts = (mine.sum(), both.sum())
            anchors, candidates = _pick(own[name], mine), _pick(everything[name], both)
            if levels:
                positives = draw_positives(_pick(labels[other], both), generator)
                positives = positives if group.alone else positives[offset : offset + len(anchors)]
                for place, level in enumerate(levels):
                    loss = contrastive_loss(
                        anchors[:, place],
                        positives,
                        config.contrastive_temperature,
                        config.contrastive_normalize,
                        candidates[:, place],
                    )
                    contrastive[level] = contrastive[level] + group.share(loss, *counts)
            if names.index(name) < names.index(other):
                loss = alignment_loss(
                    anchors[:, -1],
                    _pick(own[other], mine)[:, -1],
                    config.contrastive_temperature,
                    (candidates[:, -1], _pick(everything[other], both)[:, -1]),
                    offset,
                )
                alignment = alignment + group.share(loss, *counts)
        return torch.stack(contrastive), alignment

    def _check_modality(self, name: str, argument: str) -> None:
        if name not in self.quantizers:
            raise ValueError(
                f"{argument}: expected the modalities {list(self.quantizers)}, got {name!r}. The quantizer was made "
                "for another catalogue, or the modality is spelt differently."
            )

    def _check_embeddings(self, embeddings: Mapping[str, torch.Tensor], complete: bool = False) -> None:
        sizes = self.config.embedding_sizes
        batch_sizes = {}
        for name, rows in embeddings.items():
            self._check_modality(name, "embeddings")
            if rows.ndim != 2 or rows.shape[1] != sizes[name]:
                raise ValueError(
                    f"embeddings[{name!r}]: expected shape (batch_size, {sizes[name]}), got {tuple(rows.shape)}. They "
                    "come from another encoder than those the quantizer was made for: embed the items with that one, "
                    "or make a MacRecQuantizerConfig with the new size."
                )
            batch_sizes[name] = len(rows)
        lacking = [name for name in sizes if name not in embeddings]
        if complete and lacking:
            raise ValueError(
                f"embeddings: expected every modality of {list(sizes)}, got none for {lacking}. Items without a "
                "modality are marked in modality_mask; a config without it trains on the others alone."
            )
        if len(set(batch_sizes.values())) > 1:
            raise ValueError(f"embeddings: expected the same items in every modality, got batch sizes {batch_sizes}.")

    def _check_labels(self, pseudo_labels: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]) -> None:
        for name, mask in masks.items():
            if name not in pseudo_labels or tuple(pseudo_labels[name].shape) != (len(mask),):
                got = tuple(pseudo_labels[name].shape) if name in pseudo_labels else "none"
                raise ValueError(f"pseudo_labels[{name!r}]: expected shape ({len(mask)},), got {got}.")

    def _masks(
        self, embeddings: Mapping[str, torch.Tensor], modality_mask: Mapping[str, torch.Tensor] | None
    ) -> dict[str, torch.Tensor]:
        masks = {}
        for name, rows in embeddings.items():
            mask = (modality_mask or {}).get(name)
            if mask is None:
                mask = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
            if tuple(mask.shape) != (len(rows),):
                raise ValueError(f"modality_mask[{name!r}]: expected shape ({len(rows)},), got {tuple(mask.shape)}.")
            masks[name] = mask.to(device=rows.device, dtype=torch.bool)
        for name in modality_mask or {}:
            self._check_modality(name, "modality_mask")
        # The order of the config, whatever the order of the dict that was handed over.
        return {name: masks[name] for name in self.quantizers if name in masks}


def _pick(rows: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    return rows if chosen is None else rows[chosen]


def _scatter(values: torch.Tensor, mask: torch.Tensor, full: bool, fill: float) -> torch.Tensor:
    """Values of the rows inside the mask → values of all rows, `fill` outside."""
    if full:
        return values
    scattered = values.new_full((len(mask), *values.shape[1:]), fill)
    scattered[mask] = values
    return scattered


def _unpack(packed: torch.Tensor, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undoes `torch.cat(list(like.values()), dim=1)`."""
    return dict(zip(like, packed.split([values.shape[1] for values in like.values()], dim=1), strict=True))
