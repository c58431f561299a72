"""The recommender: a T5 over semantic IDs with the implicit cross-modal alignment (paper, eq. 14-19)."""

from dataclasses import dataclass
from itertools import combinations

import torch
from transformers import GenerationConfig, T5ForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5Attention

from .beam_search import semantic_id_beam_search  # noqa: F401  (travels to the Hub with the model's code)
from .byte_dropout import use_byte_dropout
from .configuration_macrec import MacRecConfig
from .logits_process import SemanticIdLogitsProcessor  # noqa: F401
from .losses import alignment_loss
from .semantic_id_trie import SemanticIdTrie  # noqa: F401


@dataclass
class MacRecOutput(Seq2SeqLMOutput):
    """[`~transformers.modeling_outputs.Seq2SeqLMOutput`] and the parts of its loss.

    Attributes:
        loss: scalar, eq. 19.
        generation_loss: scalar, cross-entropy, mean over target tokens.
        alignment_loss: scalar, eq. 18 before its weight.
    """

    generation_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None


class MacRecForConditionalGeneration(T5ForConditionalGeneration):
    """Writes the semantic ID of the item that a user will want next.

    `loss = generation_loss + implicit_alignment_weight · alignment_loss`. Sources end with `</s>`; labels are the
    `num_levels` codes of the target, without `</s>`: IDs have a fixed length.

    Example:

    ```python
    >>> model = MacRecForConditionalGeneration(MacRecConfig(vocab_size=len(tokenizer)))
    >>> out = model(input_ids, attention_mask, labels, alignment_input_ids)
    >>> out.loss, out.generation_loss, out.alignment_loss
    ```
    """

    config: MacRecConfig
    # Labels all have the same length and the alignment is a mean over the batch: Trainer must average over
    # accumulation steps and processes. T5's `forward(**kwargs)` would make it believe that the model does so.
    accepts_loss_kwargs = False

    def __init__(self, config: MacRecConfig):
        super().__init__(config)
        use_byte_dropout(self)
        if config.attention_dropout_rate is not None:
            for module in self.modules():
                if isinstance(module, T5Attention):
                    module.dropout = config.attention_dropout_rate
        self.generation_config = GenerationConfig(
            max_new_tokens=config.num_levels,
            length_penalty=0.0,
            num_beams=20,  # authors' code; length_penalty may only stand beside beams
            decoder_start_token_id=config.decoder_start_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
        )

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        alignment_input_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> MacRecOutput:
        """One batch.

        Args:
            input_ids: long, (batch_size, source_length), codes of the history, then `</s>`.
            attention_mask: (batch_size, source_length), 1 = a token, 0 = padding.
            labels: long, (batch_size, num_levels), the target's codes; −100 is ignored.
            alignment_input_ids: long, (num_modalities, num_items, num_levels), semantic IDs of the batch's unique
                target items in each modality; a row of padding = the item has none there. `None`: no alignment loss.
            kwargs: whatever [`~transformers.T5ForConditionalGeneration`] takes.
        """
        return_dict = kwargs.pop("return_dict", None)
        outputs = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, return_dict=True, **kwargs
        )
        loss, generation_loss, alignment = outputs.loss, outputs.loss, None
        if alignment_input_ids is not None and self.config.implicit_alignment_weight:
            alignment = self.implicit_alignment_loss(alignment_input_ids)
            if loss is not None:
                loss = loss + self.config.implicit_alignment_weight * alignment
        values = {**outputs, "loss": loss, "generation_loss": generation_loss, "alignment_loss": alignment}
        output = MacRecOutput(**values)
        return output if return_dict is not False else output.to_tuple()

    def implicit_alignment_loss(self, alignment_input_ids: torch.LongTensor) -> torch.Tensor:
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
        tokens = alignment_input_ids.reshape(-1, num_levels)
        present = (alignment_input_ids != self.config.pad_token_id).all(dim=-1)
        # A padding row would leave its attention without any key; it is encoded like the rest and left out afterwards.
        states = self.encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens))[0]
        pooled = states.mean(dim=1).view(num_modalities, num_items, -1)
        loss = pooled.sum() * 0.0
        everyone = bool(present.all())
        for first, second in combinations(range(num_modalities), 2):
            both = slice(None) if everyone else present[first] & present[second]
            loss = loss + alignment_loss(pooled[first, both], pooled[second, both], self.config.alignment_temperature)
        return loss

    def _reorder_cache(self, past_key_values, beam_idx):
        """Beams stay within their user, whose cross-attention keys and values are the same for all of them."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values
