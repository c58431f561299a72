"""The recommender: a T5 over semantic IDs with the implicit cross-modal alignment (paper, eq. 14-19)."""

from dataclasses import dataclass
from itertools import combinations
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import EncoderDecoderCache, GenerationConfig, T5ForConditionalGeneration
from transformers import initialization as init
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerCrossAttention, T5Stack

from .beam_search import semantic_id_beam_search  # noqa: F401  (travels to the Hub with the model's code)
from .checksums import renew_checksums
from .configuration_macrec import NUM_BEAMS, MacRecConfig
from .files import CHECKSUMS_NAME, folder_beside, follow_umask, replacing_files
from .inference import LOADING, WHERE, load_weights
from .logits_process import ItemGenerationMixin, SemanticIdLogitsProcessor  # noqa: F401
from .losses import ProcessGroup, alignment_loss, num_processes
from .search_kernels import SearchKernels
from .semantic_ids import ITEMS_NAME, TENSORS_NAME, SemanticIdTable
from .trie import SemanticIdTrie  # noqa: F401

_OWN_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")
_SHARDS = ("model-?????-of-?????.safetensors", "model.safetensors.index.json")  # of a larger model saved before
_UPLOAD = ("repo_id", "private", "commit_message", "commit_description", "revision", "create_pr")


@dataclass
class MacRecOutput(Seq2SeqLMOutput):
    """[`~transformers.modeling_outputs.Seq2SeqLMOutput`] and the parts of its loss.

    Attributes:
        loss: scalar, eq. 19.
        generation_loss: scalar, cross-entropy, mean over target tokens.
        alignment_loss: scalar, eq. 18 before its weight.

    With `gather_across_processes`, in training mode on several processes, each loss is the process's share: their mean
    over the processes is the loss of the whole batch, in which alignment compares the items of all processes.
    """

    generation_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None


class MacRecEncoder(T5Stack):
    """T5's encoder that is told how many items before the end of its history each code stands.

    T5 knows distances between tokens and nothing else of their places, and its cross-attention not even these, so that
    the decoder finds the last item of a history only after long training. P5 (Geng et al., 2022) adds a *whole-word
    embedding* to all tokens of an item; here items are counted from the end, where the next one follows.

    Attributes:
        item_positions: `(num_item_positions + 1, d_model)`: row 0 is that of `</s>` and what follows it, 1 of the last
            item. Items further back than the last row have that one.
    """

    item_positions: nn.Embedding

    @classmethod
    def take_over(cls, encoder: T5Stack) -> None:
        """Makes a T5's encoder one of these, with the weights that it has."""
        config = encoder.config
        encoder.item_positions = nn.Embedding(config.num_item_positions + 1, config.d_model)
        nn.init.normal_(encoder.item_positions.weight, std=config.initializer_factor)  # as T5's tokens
        encoder.__class__ = cls

    def embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Tokens and the positions of their items: long `(…, length)` → `(…, length, d_model)`."""
        return self.embed_tokens(input_ids) + self.item_positions(self.positions_of(input_ids))

    def positions_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Rows of `item_positions`: long `(…, length)` → the same. A task token counts as a further item.

        Sources end with `</s>`, but for those of the alignment loss; padding may stand on either side.
        """
        places = torch.arange(1, input_ids.shape[-1] + 1, device=input_ids.device)
        end = (places * input_ids.ne(cast(int, self.config.pad_token_id))).amax(-1, keepdim=True)
        end = end - input_ids.eq(cast(int, self.config.eos_token_id)).any(-1, keepdim=True).long()  # after the codes
        items = (end - places).div(self.config.num_levels, rounding_mode="floor") + 1
        return items.clamp(0, self.config.num_item_positions)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """T5's, of `embedded(input_ids)`, or of `inputs_embeds` as they are."""
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds, input_ids = self.embedded(input_ids), None
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )

    _searched_forward = forward


class MacRecForConditionalGeneration(ItemGenerationMixin, T5ForConditionalGeneration):
    """Writes the semantic ID of the item that a user will want next.

    `loss = generation_loss + implicit_alignment_weight · alignment_loss`. Sources end with `</s>`; labels are the
    `num_levels` codes of the target, without `</s>`: IDs have a fixed length.

    Attributes:
        semantic_ids: the [`SemanticIdTable`] whose IDs `generate` may write, `None`: any tokens. `from_pretrained`
            reads the one beside the weights and `save_pretrained` writes it there; it may be set.
        gather_across_processes: whether a training step compares and counts the rows of all processes, which then all
            have to call the model. Our trainers turn it on while they train; it is not saved.

    Example:

    ```python
    >>> model = MacRecForConditionalGeneration(MacRecConfig(vocab_size=len(tokenizer)))
    >>> out = model(input_ids, attention_mask, labels=labels, alignment_input_ids=items)
    >>> out.loss, out.generation_loss, out.alignment_loss
    ```
    """

    config: MacRecConfig
    # Labels all have the same length and the alignment is a mean over the batch: Trainer must average over
    # accumulation steps and processes. T5's `forward(**kwargs)` would make it believe that the model does so.
    accepts_loss_kwargs = False
    gather_across_processes = False
    search_kernels = SearchKernels()  # `macrec_hf.cpu.accelerate` sets others

    def __init__(self, config: MacRecConfig):
        with LOADING:  # a load in another thread must not leave the weights untied
            super().__init__(config)
            if config.num_item_positions:
                MacRecEncoder.take_over(self.encoder)
            if config.copy_initializer_factor and self.device.type != "meta":  # where weights are loaded instead
                self._begin_by_copying(config.copy_initializer_factor)
        if config.attention_dropout_rate is not None:
            for module in self.modules():
                if isinstance(module, T5Attention):
                    module.dropout = config.attention_dropout_rate
        self.generation_config = GenerationConfig(
            max_new_tokens=config.num_levels,
            length_penalty=0.0,
            num_beams=NUM_BEAMS,  # length_penalty may only stand beside beams
            decoder_start_token_id=config.decoder_start_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
        )

    @torch.no_grad()
    def _begin_by_copying(self, factor: float) -> None:
        """Cross-attention that adds what it reads, `factor` times: orthogonal values, their transpose as the output.

        T5 writes with the embeddings that it reads with, so that codes of the history are likelier from the first step
        on. From T5's random matrices this is learned late. Not in `_init_weights`: for classes outside transformers
        that is not called with modules which hold no weights of their own.
        """
        for module in self.decoder.modules():
            if isinstance(module, T5LayerCrossAttention):
                values, output = module.EncDecAttention.v.weight, module.EncDecAttention.o.weight
                init.orthogonal_(values)
                init.copy_(output, factor * values.T)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """[`~transformers.PreTrainedModel.from_pretrained`], with the semantic IDs that lie beside the weights.

        Args:
            **kwargs: those of transformers, and `semantic_ids`: a [`SemanticIdTable`], or `None`, to take instead of
                the one beside the weights.

        Raises:
            OSError, ValueError: the table beside the weights is damaged, not whole, or of another model; weights that
                are missing, do not fit the configuration or are not finite; files that differ from `checksums.json`.
        """
        beside = "semantic_ids" not in kwargs
        table = kwargs.pop("semantic_ids", None)
        given = {name: kwargs[name] for name in WHERE if kwargs.get(name) is not None}
        where = pretrained_model_name_or_path
        loaded = load_weights(cls, super().from_pretrained, where, args, kwargs, _OWN_FILES)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a pair with output_loading_info=True
        _check_generation(model, where)
        # For `pipeline`, which hands over a loaded model, not the revision and token that it was loaded with.
        names = ("revision", "token", "cache_dir", "local_files_only")
        model.hub_kwargs = {name: given[name] for name in names if name in given}
        if beside and where is not None:
            folder = folder_beside(where, (ITEMS_NAME, TENSORS_NAME), **given)
            if folder is not None:
                with torch.device("cpu"):  # whatever device the caller builds the model on
                    table = SemanticIdTable.from_pretrained(folder)
                check_fingerprint(model.config, table, folder)
        model.semantic_ids = table
        return loaded

    def save_pretrained(  # type: ignore[override]  # what transformers takes further goes on by name
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """[`~transformers.PreTrainedModel.save_pretrained`], with `semantic_ids` beside the weights if there are any.

        A model without them does not touch a table in that folder.

        Args:
            **kwargs: those of transformers, and `semantic_ids`: a [`SemanticIdTable`] to write instead of the model's.
        """
        table = kwargs.pop("semantic_ids", self.semantic_ids)
        self.config.table_fingerprint = None if table is None else table.fingerprint()
        if table is None or not is_main_process:
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)
            if is_main_process:
                self._saved(Path(save_directory))
            return
        upload = {name: kwargs.pop(name) for name in _UPLOAD if name in kwargs}
        stale = () if kwargs.get("variant") else _SHARDS
        with replacing_files(Path(save_directory), last="config.json", stale=stale) as beside:
            super().save_pretrained(beside, is_main_process, state_dict, **kwargs)
            self._saved(beside)
            table.save_pretrained(beside)
        if push_to_hub:  # not above: there only the files are sent that transformers has written itself
            repo_id = upload.pop("repo_id", Path(save_directory).name)
            api = HfApi(token=kwargs.get("token"))
            repo_id = api.create_repo(repo_id, private=upload.pop("private", None), exist_ok=True).repo_id
            with TemporaryDirectory() as folder:  # what lies in the directory besides is not ours to send
                super().save_pretrained(folder, is_main_process, state_dict, **kwargs)
                table.save_pretrained(folder)
                # Checksums of an earlier upload would be those of other weights.
                api.upload_folder(repo_id=repo_id, folder_path=folder, delete_patterns=CHECKSUMS_NAME, **upload)

    def _saved(self, folder: Path) -> None:
        follow_umask(*folder.glob("model*.safetensors"))
        renew_checksums(folder, *_OWN_FILES)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        labels: torch.LongTensor | None = None,
        alignment_input_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> MacRecOutput | tuple:
        """Losses and logits of a batch. Arguments after `attention_mask` are named: T5's third is `decoder_input_ids`.

        Args:
            input_ids: long, (batch_size, source_length), codes of the history, then `</s>`.
            attention_mask: (batch_size, source_length), 1 = a token, 0 = padding.
            labels: long, (batch_size, num_levels), the target's codes; −100 is ignored.
            alignment_input_ids: long, (num_modalities, num_items, num_levels), semantic IDs of the batch's unique
                target items in each modality; a row of padding = the item has none there. `None`: no alignment loss.
            kwargs: whatever [`~transformers.T5ForConditionalGeneration`] takes.
        """
        return_dict = kwargs.pop("return_dict", None)
        if self.training and self.config.history_dropout_rate and input_ids is not None:
            attention_mask = self._history_dropout(input_ids, attention_mask)
        if labels is not None:
            kwargs.setdefault("use_cache", False)  # nothing follows the labels
        outputs = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, return_dict=True, **kwargs
        )
        loss, generation_loss, alignment = outputs.loss, outputs.loss, None
        if loss is not None and labels is not None and self.training:
            loss = generation_loss = self._share_of_tokens(loss, labels)
        if alignment_input_ids is not None and self.config.implicit_alignment_weight:
            alignment = self.implicit_alignment_loss(alignment_input_ids)
            if loss is not None:
                loss = loss + self.config.implicit_alignment_weight * alignment
        values = {**outputs, "loss": loss, "generation_loss": generation_loss, "alignment_loss": alignment}
        output = MacRecOutput(**values)
        return output if return_dict is not False else output.to_tuple()

    _searched_forward = forward  # what the search computes; a subclass with another forward pass is called instead

    def _history_dropout(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """An attention mask without a random share of each history's items, whole items at a time.

        A task token at the start, the `</s>` at the end and an only item always stay.

        Args:
            input_ids: long, (batch_size, source_length).
            attention_mask: (batch_size, source_length), right-padded; `None`: no padding.
        """
        levels = self.config.num_levels
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        last = mask.sum(dim=1, keepdim=True) - 1  # the place of </s>
        places = torch.arange(mask.shape[1], device=mask.device) - last % levels
        item = places.div(levels, rounding_mode="floor")
        draws = torch.rand(len(mask), mask.shape[1] // levels + 2, device=mask.device)
        dropped = (draws < self.config.history_dropout_rate).gather(1, item.clamp(min=0))
        dropped &= (places >= 0) & (places + last % levels < last) & (last >= 2 * levels)
        return mask.masked_fill(dropped, 0)

    def implicit_alignment_loss(self, alignment_input_ids: torch.Tensor) -> torch.Tensor:
        """Eq. 14-18: mean-pooled encoder states of an item's ID in each modality, pulled together.

        One encoder pass over all modalities; every unordered pair adds both directions, over the items that have an ID
        in both.

        Args:
            alignment_input_ids: long, (num_modalities, num_items, num_levels).
        """
        if alignment_input_ids.ndim != 3:
            raise ValueError(
                "alignment_input_ids: expected shape (num_modalities, num_items, num_levels), got "
                f"{tuple(alignment_input_ids.shape)}."
            )
        num_modalities, num_items, num_levels = alignment_input_ids.shape
        group = ProcessGroup.around(self, num_items, alignment_input_ids.device)
        if not group.alone:
            # The same item may be a target of several processes: each is encoded once, by one of them.
            rows = group.gather(alignment_input_ids.transpose(0, 1).reshape(num_items, -1)).unique(dim=0)
            alignment_input_ids = rows.view(-1, num_modalities, num_levels).transpose(0, 1)
            group = group.parts_of(len(rows))
        pad_token_id = cast(int, self.config.pad_token_id)  # T5's may be None, ours never is
        present = (alignment_input_ids != pad_token_id).all(dim=-1)
        pooled = self._mean_states(alignment_input_ids[:, group.mine])
        # One exchange for all modalities: (num_items, num_modalities, d_model) of all processes.
        everything = pooled if group.alone else group.gather(pooled.transpose(0, 1)).transpose(0, 1)
        loss = (pooled.sum() + everything.sum()) * 0.0
        for first, second in combinations(range(num_modalities), 2):
            both = present[first] & present[second]
            aligned = alignment_loss(
                pooled[first],
                pooled[second],
                self.config.alignment_temperature,
                (everything[first], everything[second]),
                group.mine.start,
                (both[group.mine], both),
            )
            loss = loss + group.share(aligned, both[group.mine].sum(), both.sum())
        return loss

    def _mean_states(self, items: torch.Tensor) -> torch.Tensor:
        """Eq. 14-15: (num_modalities, num_items, num_levels) → (num_modalities, num_items, d_model), in one pass."""
        tokens = items.reshape(-1, items.shape[-1])
        if not len(tokens):  # more processes than items
            tokens = tokens.new_full((1, items.shape[-1]), cast(int, self.config.pad_token_id))
        # No mask: a padding row would be without any key; it is encoded like the rest and left out afterwards.
        states = self.encoder(input_ids=tokens)[0].mean(dim=1)
        return states[: items.shape[0] * items.shape[1]].view(*items.shape[:2], -1)

    def _share_of_tokens(self, loss: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over our target tokens as our share of the mean over those of all processes."""
        if num_processes() == 1:
            return loss
        own = int((labels != -100).sum())
        group = ProcessGroup.around(self, own, labels.device)
        return group.share(loss, own, sum(group.counts))

    def _reorder_cache(self, past_key_values: EncoderDecoderCache, beam_idx: torch.LongTensor) -> EncoderDecoderCache:
        """Beams stay within their user, whose cross-attention keys and values are the same for all of them."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values


def _check_generation(model: MacRecForConditionalGeneration, where: Any) -> None:
    """Refuses a `generation_config.json` with other special tokens than the model's, as of another model."""
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        found, expected = getattr(model.generation_config, name), getattr(model.config, name)
        if type(found) is not type(expected) or found != expected:
            raise ValueError(
                f"{where}: expected {name} {expected} in generation_config.json, as config.json has it, got "
                f"{str(found)[:40]}. Was the file edited, or copied from another model? Copy both from one."
            )


def check_fingerprint(config: MacRecConfig, table: SemanticIdTable, folder: str | PathLike[str]) -> None:
    """Refuses a table that is another than the one that was saved with the model; ValueError."""
    saved = config.table_fingerprint
    if saved is not None and saved != table.fingerprint():
        raise ValueError(
            f"{folder}: expected the semantic IDs that were saved with the model, got others in {ITEMS_NAME} and "
            f"{TENSORS_NAME}: items, codes or their modalities differ. Were the two files copied from another model? "
            "Copy the whole folder again; MacRecRecommender.add_items and save_pretrained write all parts together."
        )
