"""Beam search over a catalogue's semantic IDs, with the lists of `generate` at a fraction of its time."""

from dataclasses import dataclass

import torch
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput

from .logits_process import SemanticIdLogitsProcessor
from .semantic_id_trie import SemanticIdTrie
from .t5_steps import DecoderSteps, encode, score_dtype, start_token
from .trie_limits import TrieLimits

_DEFAULT_NUM_BEAMS = 20  # authors' code
# By timing 8 to 64 users of 20 beams on two cores: more outgrow the caches, fewer wait for Python and for each other.
_CPU_USERS = 32
_CPU_TOKENS = 1024  # the padded tokens of a part, so that long histories do not outgrow what the users' number allows
_PAGES = 31 * 2**20  # bytes; glibc learns from freed blocks of up to 32 MiB


@dataclass
class BeamResult:
    """Ranked IDs of a batch of users.

    Attributes:
        leaves: long, `(batch_size, num_beams)`, leaves of the trie, best first; -1 where there is no further result.
        scores: float32 (float64 for a float64 model), the same shape: sum of the codes' log-probabilities, -inf there.
        encoder_hidden_states: float, `(batch_size, sequence_length, d_model)`, to score further items with.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    encoder_hidden_states: torch.Tensor


@torch.no_grad()
def beam_search(
    model,
    input_ids,
    attention_mask,
    trie: SemanticIdTrie,
    num_beams: int,
    *,
    allowed_items=None,
    excluded_items=None,
    encoder_outputs=None,
) -> BeamResult:
    """The best semantic IDs of each user by beam search over the trie.

    One encoder pass and one projection of the cross-attention's keys and values for each user; each step scores only
    the children of the live nodes, normalised over the whole vocabulary. There is no dropout, whatever the mode of the
    model, and nothing is remembered between calls.

    Args:
        model: any `T5ForConditionalGeneration`.
        input_ids: long, `(batch_size, sequence_length)`; unused when `encoder_outputs` is given.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
        trie: [`SemanticIdTrie`] on the model's device.
        num_beams: beams, and the length of the lists.
        allowed_items, excluded_items: see [`TrieLimits`]. An ID that items share stays while one of them is allowed.
        encoder_outputs: what the encoder returned for these users.

    Returns:
        [`BeamResult`]. A list is shorter than `num_beams` only when fewer IDs are allowed.

    Raises:
        ValueError: `num_beams` below 1, a trie on another device or of another vocabulary, limits of another shape.
    """
    _check_num_beams(num_beams)
    _check_trie(model, trie)
    states = None if encoder_outputs is None else encoder_outputs[0]
    batch_size, length = (input_ids if states is None else states).shape[:2]
    limits = None
    if allowed_items is not None or excluded_items is not None:
        limits = TrieLimits(trie, batch_size, allowed_items, excluded_items)
    leaves = torch.full((batch_size, num_beams), -1, device=trie.device)
    scores = torch.full(leaves.shape, -torch.inf, dtype=score_dtype(model.dtype), device=trie.device)
    hidden = states
    if hidden is None:
        hidden = torch.zeros(batch_size, length, model.config.d_model, dtype=model.dtype, device=trie.device)
    if trie.device.type == "cpu":
        # glibc gives back to the system what exceeds twice the largest block that was ever freed, and gets it anew for
        # the next part: about 200 page faults a user. After one freed block that nobody wrote to they are fewer than
        # 20, and 3 % of the processor time is saved.
        torch.empty(_PAGES, dtype=torch.uint8)
    for users, columns in _parts(attention_mask, batch_size, length, trie.device):
        mask = None if attention_mask is None else attention_mask[users, columns]
        part = encode(model, input_ids[users, columns], mask) if states is None else states[users, columns]
        part_limits = limits.select(users) if limits and len(users) < batch_size else limits
        steps = DecoderSteps(model, part, mask, expected_rows=1 + (trie.num_levels - 1) * num_beams)
        found, found_scores = _search(steps, trie, num_beams, part_limits)
        leaves[users, : found.shape[1]], scores[users, : found.shape[1]] = found, found_scores
        if states is None:
            hidden[users, columns] = part
    return BeamResult(leaves=leaves, scores=scores, encoder_hidden_states=hidden)


def _parts(attention_mask, batch_size, length, device):
    """Users that are decoded together, and the columns that they need: on the CPU a few at a time, of like lengths."""
    everyone = torch.arange(batch_size, device=device)
    if device.type != "cpu":
        return [(everyone, slice(length))]
    if attention_mask is None:
        return [(users, slice(length)) for users in everyone.split(_part_size(length))]
    counts, order = attention_mask.sum(dim=1).sort(stable=True, descending=True)
    parts, first = [], 0
    while first < batch_size:
        users = order[first : first + _part_size(int(counts[first]))].sort().values
        used = torch.nonzero(attention_mask[users].any(dim=0)).flatten()
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(length)
        parts.append((users, columns))
        first += len(users)
    return parts


def _part_size(length):
    return max(1, min(_CPU_USERS, _CPU_TOKENS // max(length, 1)))


def _search(steps, trie, num_beams, limits):
    """Leaves (-1 in places without a result) and scores, `(batch_size, num_beams or fewer)`, best first."""
    tokens, past = steps.start()
    nodes = torch.zeros_like(tokens)
    scores = torch.zeros_like(tokens, dtype=steps.score_dtype)
    for depth in range(trie.num_levels):
        hidden, past = steps.step(tokens, past)
        children, exists = trie.children(depth, nodes)
        child_tokens = trie.child_tokens(depth, children)
        child_scores = scores.unsqueeze(-1) + steps.token_log_probs(hidden, child_tokens)
        if limits is not None:
            exists = exists & limits.open(depth + 1, children)
        child_scores = child_scores.masked_fill(~exists, -torch.inf).flatten(1)
        width = min(num_beams, child_scores.shape[1], trie.num_nodes[depth + 1])
        scores, best = child_scores.topk(width)
        nodes, tokens = children.flatten(1).gather(1, best), child_tokens.flatten(1).gather(1, best)
        if depth + 1 < trie.num_levels:
            past = past.reorder(best // children.shape[-1])
    return nodes.masked_fill(scores == -torch.inf, -1), scores


@torch.no_grad()
def semantic_id_beam_search(
    model,
    input_ids,
    logits_processor=None,
    stopping_criteria=None,
    generation_config=None,
    *,
    trie,
    inputs_tensor=None,
    num_beams=None,
    num_return_sequences=None,
    allowed_items=None,
    excluded_items=None,
    **model_kwargs,
):
    """[`beam_search`] as a `custom_generate` callable: the lists of `generate` with [`SemanticIdLogitsProcessor`].

    ```python
    model.generate(input_ids, attention_mask=mask, num_beams=20, num_return_sequences=20,
                   custom_generate=semantic_id_beam_search, trie=trie)
    ```

    Name both `num_beams` and `num_return_sequences`, so that `generate` hands over the inputs once for each user. It
    may also be called directly, with the encoder's `input_ids` and `attention_mask`.

    Args:
        input_ids, inputs_tensor, generation_config, logits_processor, stopping_criteria: what `generate` hands over.
        trie: [`SemanticIdTrie`] on the model's device.
        num_beams: `None`: that of the generation config if it asks for several, else 20 (authors' code).
        num_return_sequences: results of each user, at most `num_beams`; `None`: that of the generation config, else 1.
        allowed_items, excluded_items: see [`TrieLimits`].

    Returns:
        `GenerateBeamEncoderDecoderOutput` if `return_dict_in_generate`: `sequences`, long
        `(batch_size * num_return_sequences, 1 + num_levels)` (the decoder start token, then the codes), and
        `sequences_scores`, float32 (float64 for a float64 model), the sums of the codes' log-probabilities (a
        `length_penalty` of 0). Else `sequences` alone. Places without a result hold the pad token and -inf.

    Raises:
        ValueError: settings that this search does not follow (sampling, other logits processors, too few new tokens),
            more return sequences than beams, unknown arguments, and what [`beam_search`] raises.
    """
    return_dict = _check_settings(trie, generation_config, logits_processor, model_kwargs)
    _check_num_beams(num_beams)
    asked = getattr(generation_config, "num_beams", None)
    if num_beams is None:
        num_beams = asked if asked and asked > 1 else _DEFAULT_NUM_BEAMS
    if num_return_sequences is None:
        num_return_sequences = getattr(generation_config, "num_return_sequences", None) or 1
    if not 1 <= num_return_sequences <= num_beams:
        raise ValueError(
            f"num_return_sequences: expected from 1 to num_beams ({num_beams}), got {num_return_sequences}. Each beam "
            "ends in one sequence; raise num_beams."
        )
    encoder_outputs, attention_mask = model_kwargs.get("encoder_outputs"), model_kwargs.get("attention_mask")
    if encoder_outputs is not None and (input_ids != start_token(model)).any():
        raise ValueError(
            f"decoder_input_ids: expected the decoder start token {start_token(model)} alone, got "
            f"{input_ids[0].tolist()}. This search writes whole IDs; use plain generate to continue a prefix."
        )
    if encoder_outputs is not None and inputs_tensor is not None:
        # generate repeats its inputs when the generation config asks for several beams or sequences
        copies = len(encoder_outputs[0]) // len(inputs_tensor)
        encoder_outputs = (encoder_outputs[0][::copies],)
        attention_mask = attention_mask if attention_mask is None else attention_mask[::copies]
    result = beam_search(
        model,
        input_ids,
        attention_mask,
        trie,
        num_beams,
        allowed_items=allowed_items,
        excluded_items=excluded_items,
        encoder_outputs=encoder_outputs,
    )
    leaves = result.leaves[:, :num_return_sequences].flatten()
    codes = trie.leaf_tokens(leaves.clamp(min=0)).masked_fill((leaves < 0).unsqueeze(1), trie.pad_token_id)
    sequences = torch.nn.functional.pad(codes, (1, 0), value=start_token(model))
    if not return_dict:
        return sequences
    scores = result.scores[:, :num_return_sequences].flatten()
    return GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores)


def _check_num_beams(num_beams):
    if num_beams is not None and (isinstance(num_beams, bool) or not isinstance(num_beams, int) or num_beams < 1):
        raise ValueError(f"num_beams: expected a whole number of at least 1, got {num_beams!r}.")


def _check_trie(model, trie):
    if trie.device != model.device:
        raise ValueError(
            f"trie: expected on the model's device ({model.device}), got {trie.device}. Pass trie.to(model.device)."
        )
    last = max(trie.level_offsets) + trie.codebook_size
    if last > model.config.vocab_size:
        raise ValueError(
            f"trie: expected token ids below the model's vocab_size ({model.config.vocab_size}), got some up to "
            f"{last - 1}. Were the trie and the model made with the same tokenizer?"
        )


def _check_settings(trie, generation_config, logits_processor, model_kwargs):
    """Refuses what would otherwise be ignored; returns whether a dict is wanted."""
    if generation_config is not None and generation_config.do_sample:
        raise ValueError(
            "do_sample: expected False, got True. Beams are not drawn here; use plain generate to sample."
        )
    others = [
        type(processor).__name__
        for processor in logits_processor or []
        if not (isinstance(processor, SemanticIdLogitsProcessor) and processor.trie is trie)
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
