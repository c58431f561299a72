"""Constrained decoding with plain `generate`: only IDs of the catalogue can be written."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, PreTrainedModel
from transformers.utils import logging

from .configuration_macrec import NUM_BEAMS
from .semantic_ids import SemanticIdTable
from .tokenization_macrec import level_offsets
from .trie import SemanticIdTrie

logger = logging.get_logger(__name__)


class SemanticIdLogitsProcessor(LogitsProcessor):
    """Lets `generate` write only semantic IDs that some item has.

    The state is read from `input_ids` at each call, so beams may be reordered freely, and the scores come back in a
    new tensor. The allowed codes keep their scores (log-probabilities over the whole vocabulary in beam search),
    everything else becomes -inf. After a whole ID only `</s>` is allowed, with the score 0.0, because an ID has a
    fixed length and nothing is left to decide. The same holds after that `</s>`, for beams that wait for others.

    Args:
        tries: [`SemanticIdTrie`]s on the device of the model, one a modality. With several, the first code decides
            which of them a row follows.

    Raises:
        ValueError: no trie, or tries of different depths; when called with a prefix that no item has, or with a trie
            on another device.

    Example:

    ```python
    processor = SemanticIdLogitsProcessor(SemanticIdTrie.from_table(table, tokenizer, "text"))
    model.generate(input_ids, num_beams=20, num_return_sequences=20, logits_processor=[processor])
    ```
    """

    def __init__(self, *tries: SemanticIdTrie):
        if len({trie.num_levels for trie in tries}) != 1:
            raise ValueError(
                f"tries: expected one or more of one number of levels, got {[trie.num_levels for trie in tries]}."
            )
        self.tries = tries

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.FloatTensor:
        """
        Args:
            input_ids: long, `(num_rows, 1 + num_codes)`: the decoder start token and the codes so far.
            scores: float, `(num_rows, vocab_size)`.

        Returns:
            float, `(num_rows, vocab_size)`, a new tensor.
        """
        num_levels = self.tries[0].num_levels
        prefix = input_ids[:, 1 : 1 + num_levels]
        depth = prefix.shape[1]
        nodes = self._nodes(prefix)
        allowed = torch.full_like(scores, -torch.inf)
        if depth == num_levels:
            allowed[:, self.tries[0].eos_token_id] = 0.0
            return cast(torch.FloatTensor, allowed)
        for trie, own in zip(self.tries, nodes, strict=True):
            rows = slice(None) if len(self.tries) == 1 else torch.nonzero(own >= 0).squeeze(1)
            children, _ = trie.children(depth, own[rows])  # places beyond the last child repeat it, as often written
            tokens = trie.child_tokens(depth, children)
            kept = allowed[rows].scatter(1, tokens, scores[rows].gather(1, tokens))
            allowed[rows] = kept
        return cast(torch.FloatTensor, allowed)

    def _nodes(self, prefix: torch.Tensor) -> list[torch.Tensor]:
        """The node of each row in each trie, -1 where it follows another; the root is in all of them."""
        nodes = []
        for trie in self.tries:
            if trie.device != prefix.device:
                raise ValueError(
                    f"trie: expected on the device of input_ids ({prefix.device}), got {trie.device}. Build the "
                    f"processor with trie.to({str(prefix.device)!r})."
                )
            nodes.append(trie.find(prefix - prefix.new_tensor(trie.level_offsets[: prefix.shape[1]])))
        unknown = torch.stack(nodes).amax(0) < 0
        if unknown.any():
            row = int(torch.nonzero(unknown)[0])
            raise ValueError(
                f"input_ids: expected the decoder start token and a prefix of an item's semantic ID, got the tokens "
                f"{prefix[row].tolist()} in row {row}, which begin no item's ID. Does the trie belong to this model's "
                "tokenizer and modality, and does no other logits processor forbid or force tokens? With do_sample "
                "and several beams, generate draws two codes a beam, and forbidden ones where the catalogue has "
                "fewer: pass num_beams=1 to sample."
            )
        return nodes


class ItemGenerationMixin(GenerationMixin):
    """A `generate` that writes the IDs of items, for a model that knows which there are.

    Attributes:
        semantic_ids: the [`SemanticIdTable`] whose IDs may be written, `None`: any tokens.
    """

    semantic_ids: SemanticIdTable | None = None
    # The tries of a table on a device, built at the first `generate`.
    _tries: tuple[SemanticIdTable, torch.device, dict[str, SemanticIdTrie]] | None = None

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], list[int]] | None = None,
        *args: Any,
        modality: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """[`~transformers.GenerationMixin.generate`] of real items: with `semantic_ids`, only IDs that some item has.

        A `SemanticIdLogitsProcessor` among `logits_processor`, `prefix_allowed_tokens_fn` and `custom_generate` say
        themselves what may be written and take the place of this. Other processors come before it. `do_sample` without
        a number of beams samples with one where the model's own are the 20 of the default, which are for beam search.

        Args:
            modality: whose IDs may be written; `None`: those of all, the first code decides.

        Raises:
            ValueError: an unknown modality, one beside what takes the place of `semantic_ids` or without them; IDs
                that do not fit the model.
        """
        processors = list(logits_processor or [])
        own_rule = (
            any(isinstance(processor, SemanticIdLogitsProcessor) for processor in processors)
            or prefix_allowed_tokens_fn is not None
            or kwargs.get("custom_generate") is not None
        )
        if modality is not None and (own_rule or self.semantic_ids is None):
            lacking = "a processor, prefix_allowed_tokens_fn or custom_generate of your own" if own_rule else "no IDs"
            raise ValueError(
                f"modality: expected None, got {modality!r} with {lacking}. It narrows the model's own semantic_ids, "
                "which from_pretrained reads beside the weights."
            )
        if not own_rule and self.semantic_ids is not None:
            given = inputs if inputs is not None else kwargs.get("input_ids")
            device = given.device if isinstance(given, torch.Tensor) else cast(PreTrainedModel, self).device
            processors.append(self._item_processor(modality, device))
        elif not own_rule:
            logger.warning_once(
                "generate may write tokens that are no item's ID: no semantic IDs lie beside the model's weights. Set "
                "model.semantic_ids to a SemanticIdTable, or pass a SemanticIdLogitsProcessor."
            )
        samples = kwargs.get("do_sample", getattr(generation_config, "do_sample", None))
        samples = self.generation_config.do_sample if samples is None else samples
        chosen = kwargs.get("num_beams", getattr(generation_config, "num_beams", None))
        if samples and kwargs.get("custom_generate") is None:
            beams = self.generation_config.num_beams if chosen is None else chosen
            _check_sampled_beams(1 if chosen is None and beams == NUM_BEAMS else beams, processors)
        if samples and chosen is None and self.generation_config.num_beams == NUM_BEAMS:
            if generation_config is None:
                kwargs["num_beams"] = 1
            else:
                generation_config = copy(generation_config)
                generation_config.num_beams = 1
        return super().generate(  # type: ignore[misc]  # transformers types `self` as a model with a head
            inputs,
            generation_config,
            cast(Any, processors),
            stopping_criteria,
            prefix_allowed_tokens_fn,
            *args,
            **kwargs,
        )

    def _item_processor(self, modality: str | None, device: torch.device) -> SemanticIdLogitsProcessor:
        """Allows the IDs of `semantic_ids` in one modality or in all."""
        table = cast(SemanticIdTable, self.semantic_ids)
        built = self._tries
        if built is None or built[0] is not table or built[1] != device:
            tries = _tries_of(table, cast(PreTrainedModel, self).config)
            built = self._tries = table, device, {name: trie.to(device) for name, trie in tries.items()}
        tries = built[2]
        if modality is not None and modality not in tries:
            raise ValueError(
                f"modality: expected one of {list(tries)}, in which items have IDs, got {modality!r}. None allows all."
            )
        return SemanticIdLogitsProcessor(*(tries.values() if modality is None else (tries[modality],)))


def _check_sampled_beams(num_beams: int | None, processors: Sequence[LogitsProcessor]) -> None:
    """Refuses to sample with more beams than the catalogue has first codes: the others would be drawn from nothing.

    Beams are kept apart by what they have written, and after the first step that is one code.
    """
    for processor in processors:
        if not isinstance(processor, SemanticIdLogitsProcessor):
            continue
        width = sum(int(trie.max_children[0]) for trie in processor.tries)  # of the root
        if num_beams is not None and num_beams > max(1, width):
            raise ValueError(
                f"num_beams: expected at most {width} to sample with, as many as the items have first codes, got "
                f"{num_beams}: beams differ in what they have written, and generate would draw forbidden codes for "
                f"the other {num_beams - width}. For samples that are independent of each other pass num_beams=1 to "
                "sample, and num_return_sequences for their number."
            )


def _tries_of(table: SemanticIdTable, config: Any) -> dict[str, SemanticIdTrie]:
    """On the CPU, of each modality in which items have IDs; ValueError where these do not fit a model's config."""
    if table.num_levels != config.num_levels:
        raise ValueError(
            f"semantic_ids: expected IDs of {config.num_levels} codes, as the model's config has them, got "
            f"{table.num_levels}. Do the table and the model come from the same training?"
        )
    tries = {}
    for name, codes in table.codes.items():
        offsets = level_offsets(table, name)
        tokens = codes + torch.tensor(offsets)
        beyond = ((codes >= 0) & (tokens >= config.vocab_size)).any(dim=1)
        if beyond.any():
            row = int(torch.nonzero(beyond)[0])
            item = table.item_ids[row]
            raise ValueError(
                f"semantic_ids: expected token ids below the model's vocab_size ({config.vocab_size}), got "
                f"{tokens[row].tolist()} ({''.join(table.tokens(item, name))}) for item {item!r}. Do the table and "
                "the model come from the same training? A model is made with the length of the table's tokenizer."
            )
        if (codes >= 0).any():
            tries[name] = SemanticIdTrie(codes, table.codebook_size, offsets)
    return tries


def check_search_settings(
    trie: SemanticIdTrie,
    generation_config: GenerationConfig | None,
    logits_processor: Sequence[LogitsProcessor] | None,
    model_kwargs: Mapping[str, Any],
) -> bool:
    """Refuses what `semantic_id_beam_search` would ignore; returns whether a dict is wanted."""
    if generation_config is not None and generation_config.do_sample:
        raise ValueError(
            "do_sample: expected False, got True. Beams are not drawn here; use plain generate to sample."
        )
    others = [
        type(processor).__name__
        for processor in logits_processor or []
        if not (isinstance(processor, SemanticIdLogitsProcessor) and processor.tries == (trie,))
    ]
    if others:
        raise ValueError(
            f"logits_processor: expected none, or the SemanticIdLogitsProcessor of the same trie, got {others}. This "
            "search scores the catalogue's codes alone; use plain generate for other processors."
        )
    if "encoder_outputs" not in model_kwargs:  # called directly; generate has checked the names itself
        unknown = set(model_kwargs) - {"attention_mask", "return_dict_in_generate"}
        if unknown:
            raise ValueError(f"semantic_id_beam_search: got unknown arguments {sorted(unknown)}. Is there a typo?")
    if generation_config is None:
        return bool(model_kwargs.get("return_dict_in_generate"))
    if generation_config.max_length is not None and generation_config.max_length < 1 + trie.num_levels:
        raise ValueError(
            f"max_new_tokens: expected at least the {trie.num_levels} codes of an ID, got "
            f"{generation_config.max_length - 1}. Pass max_new_tokens={trie.num_levels}."
        )
    return bool(generation_config.return_dict_in_generate)
