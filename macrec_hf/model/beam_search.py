"""Beam search over a catalogue's semantic IDs, with the lists of `generate` at a fraction of its time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, T5ForConditionalGeneration
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput
from transformers.utils import ModelOutput

from .configuration_macrec import NUM_BEAMS
from .inference import check_at_least_one, in_eval_mode
from .limits import Limits, TrieLimits
from .logits_process import check_search_settings
from .model_decoding import SearchPasses, Steps
from .search_kernels import Part, all_at_once
from .t5_decoding import score_dtype, start_token
from .trie import SemanticIdTrie

Group = tuple[slice, SemanticIdTrie, TrieLimits | None]  # a request's users in a part
Grown = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # scores, nodes, tokens, parents


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


@dataclass
class BeamRequest:
    """Users of one modality, for [`joint_beam_search`]: arguments of [`beam_search`], and the limits on its trie."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    trie: SemanticIdTrie
    limits: TrieLimits | None = None


@in_eval_mode
def beam_search(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trie: SemanticIdTrie,
    num_beams: int,
    *,
    allowed_items: torch.Tensor | None = None,
    excluded_items: torch.Tensor | None = None,
    encoder_outputs: Sequence[torch.Tensor] | ModelOutput | None = None,
) -> BeamResult:
    """The best semantic IDs of each user by beam search over the trie.

    One encoder pass and one projection of the cross-attention's keys and values for each user; each step scores only
    the children of the live nodes, normalised over the whole vocabulary. There is no dropout, whatever the mode of the
    model, and nothing is remembered between calls. A model that does more than T5's weights say (hooks, replaced or
    subclassed modules) is searched through its own forward pass, see [`SearchPasses`].

    Args:
        model: any `T5ForConditionalGeneration`.
        input_ids: long, `(batch_size, sequence_length)`; unused when `encoder_outputs` is given.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
        trie: [`SemanticIdTrie`] on the model's device.
        num_beams: beams, and the length of the lists.
        allowed_items, excluded_items: see [`Limits`]. An ID that items share stays while one of them is allowed.
        encoder_outputs: what the encoder returned for these users.

    Returns:
        [`BeamResult`]. A list is shorter than `num_beams` only when fewer IDs are allowed.

    Raises:
        ValueError: `num_beams` below 1, a trie on another device or of another vocabulary, limits of another shape.
    """
    states = None if encoder_outputs is None else encoder_outputs[0]
    users = input_ids if states is None else states
    limits = Limits(len(users), trie.num_items, allowed_items, excluded_items).on_trie(trie)
    request = BeamRequest(users, attention_mask, trie, limits)
    return _decode(model, [request], num_beams, states)[0]


@in_eval_mode
def joint_beam_search(
    model: T5ForConditionalGeneration, requests: Sequence[BeamRequest], num_beams: int
) -> list[BeamResult]:
    """[`beam_search`] of several modalities, or of several catalogues, in one batch.

    Each request keeps its trie, its limits and its results; the encoder and the decoder see all users together, which
    for a few users takes hardly longer than one request alone.

    Args:
        model: any `T5ForConditionalGeneration`.
        requests: [`BeamRequest`]s; their tries have one number of levels.
        num_beams: beams, and the length of the lists.

    Returns:
        A [`BeamResult`] for each request, in order.

    Raises:
        ValueError: tries of different depths, and what [`beam_search`] raises.
    """
    depths = {request.trie.num_levels for request in requests}
    if len(depths) > 1:
        raise ValueError(f"requests: expected tries of one number of levels, got {sorted(depths)}. Search them apart.")
    return _decode(model, requests, num_beams) if requests else []


def _decode(
    model: T5ForConditionalGeneration,
    requests: Sequence[BeamRequest],
    num_beams: int,
    states: torch.Tensor | None = None,
) -> list[BeamResult]:
    """The results of all requests; `states` are the encoder's, of a single request, where they exist already."""
    check_at_least_one("num_beams", num_beams)
    for request in requests:
        _check_trie(model, request.trie)
    passes = SearchPasses(model)
    at_once = model.device.type != "cpu" or passes.run_parts is all_at_once
    search = search_batch if at_once else _search_parts
    leaves, scores, hidden = passes.run_batch(search, passes, requests, num_beams, states)
    if model.device.type == "cpu":  # elsewhere by those who bring the lists to the host: here it would be a wait
        check_scores(scores)
    sizes = [len(request.input_ids) for request in requests]
    widths = [request.input_ids.shape[1] for request in requests]
    each = zip(leaves.split(sizes), scores.split(sizes), hidden.split(sizes), widths, strict=True)
    return [BeamResult(leaf, score, state[:, :width]) for leaf, score, state, width in each]


def check_scores(scores: torch.Tensor) -> None:
    """Raises ValueError where a score is NaN."""
    if scores.isnan().any():
        raise ValueError(
            "model: expected finite scores, got NaN: weights are NaN or infinite, or so large that their products "
            "are. Did the training diverge, or was the file of weights damaged? Take an earlier model."
        )


def search_batch(
    passes: SearchPasses, requests: Sequence[BeamRequest], num_beams: int, states: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All users at once, in shapes that follow from those of the arguments: nothing is read of what they hold.

    So the function compiles in one piece, a kernel after the other is launched without a wait, and a recording of them
    is right for every batch of the same shapes.

    Args:
        states: the encoder's, of a single request, where they exist already.

    Returns:
        `(leaves, scores, encoder_hidden_states)` of the users of all requests, shaped as in [`BeamResult`].
    """
    length = max(request.input_ids.shape[1] for request in requests)
    input_ids, attention_mask = _stacked(requests, length)  # with `states` there is one request: nothing is copied
    hidden = passes.encoder()(input_ids, attention_mask) if states is None else states
    groups: list[Group] = []
    place = 0
    for request in requests:
        users = slice(place, place + len(request.input_ids))
        place = users.stop
        if len(request.input_ids):
            groups.append((users, request.trie, request.limits))
    if not groups:
        groups = [(slice(0, 0), requests[0].trie, None)]
    leaves, scores = _search(passes.decoder(hidden, attention_mask), groups, num_beams)
    missing = (0, num_beams - leaves.shape[1])
    return nn.functional.pad(leaves, missing, value=-1), nn.functional.pad(scores, missing, value=-torch.inf), hidden


def _search_parts(
    passes: SearchPasses, requests: Sequence[BeamRequest], num_beams: int, states: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[`search_batch`] in the parts that the model's `SearchKernels` cut the users into."""
    model, trie = passes.model, requests[0].trie
    if passes.by_weights:
        _ = passes.weights  # read here, before parts are searched by threads
    sizes = [len(request.input_ids) for request in requests]
    length = max(request.input_ids.shape[1] for request in requests)
    input_ids, attention_mask = _stacked(requests, length)
    leaves = torch.full((sum(sizes), num_beams), -1, device=model.device)
    scores = torch.full(leaves.shape, -torch.inf, dtype=score_dtype(model.dtype), device=model.device)
    encode, hidden = None, states
    if hidden is None:
        encode = passes.encoder()
        hidden = torch.zeros(sum(sizes), length, model.config.d_model, dtype=model.dtype, device=model.device)

    def search(part: Part) -> None:
        users, columns = part
        mask = None if attention_mask is None else attention_mask[users, columns]
        encoded = hidden[users, columns] if encode is None else encode(input_ids[users, columns], mask)
        found, found_scores = _search(passes.decoder(encoded, mask), _groups(requests, sizes, users), num_beams)
        leaves[users, : found.shape[1]], scores[users, : found.shape[1]] = found, found_scores
        if encode is not None:
            hidden[users, columns] = encoded

    rows = 1 + (trie.num_levels - 1) * num_beams
    passes.run_parts(search, attention_mask, torch.arange(sum(sizes), device=model.device), length, rows)
    return leaves, scores, hidden


def _stacked(requests: Sequence[BeamRequest], length: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`input_ids` and `attention_mask` (`None` without padding) of all requests, padded to one length."""
    if len(requests) == 1:
        return requests[0].input_ids, requests[0].attention_mask
    ids, masks = [], []
    for request in requests:
        mask, missing = request.attention_mask, length - request.input_ids.shape[1]
        mask = torch.ones_like(request.input_ids) if mask is None else mask
        ids.append(nn.functional.pad(request.input_ids, (0, missing)))
        masks.append(nn.functional.pad(mask, (0, missing)))
    return torch.cat(ids), torch.cat(masks)


def _groups(requests: Sequence[BeamRequest], sizes: Sequence[int], users: torch.Tensor) -> list[Group]:
    """For each request that has users in a part: where in the part (they are contiguous), its trie, its limits."""
    groups: list[Group] = []
    first = place = 0
    for request, size in zip(requests, sizes, strict=True):
        own = users if len(requests) == 1 else users[(users >= first) & (users < first + size)] - first
        if len(own):
            limit = request.limits if request.limits is None or len(own) == size else request.limits.select(own)
            groups.append((slice(place, place + len(own)), request.trie, limit))
        first, place = first + size, place + len(own)
    return groups


def _search(steps: Steps, groups: Sequence[Group], num_beams: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaves (-1 in places without a result) and scores, `(batch_size, num_beams or fewer)`, best first."""
    tokens, past = steps.start(num_beams)
    nodes = torch.zeros_like(tokens)
    scores = torch.zeros_like(tokens, dtype=steps.score_dtype)
    num_levels = groups[0][1].num_levels
    for depth in range(num_levels):
        hidden, past = steps.step(tokens, past)
        grown = [
            _grow(steps, hidden[users], nodes[users], scores[users], depth, trie, limits, num_beams)
            for users, trie, limits in groups
        ]
        scores, nodes, tokens, parents = grown[0] if len(grown) == 1 else _beside(grown)
        if depth + 1 < num_levels:
            past = past.reorder(parents)
    return nodes.masked_fill(scores == -torch.inf, -1), scores


def _grow(
    steps: Steps,
    hidden: torch.Tensor,
    nodes: torch.Tensor,
    scores: torch.Tensor,
    depth: int,
    trie: SemanticIdTrie,
    limits: TrieLimits | None,
    num_beams: int,
) -> Grown:
    """The best children of the live nodes: scores, nodes, their tokens, and the rows that they continue."""
    children, exists = trie.children(depth, nodes)
    child_tokens = trie.child_tokens(depth, children)
    child_scores = scores.unsqueeze(-1) + steps.token_log_probs(hidden, child_tokens)
    if limits is not None:
        exists = exists & limits.open(depth + 1, children)
    child_scores = child_scores.masked_fill(~exists, -torch.inf).flatten(1)
    width = min(num_beams, child_scores.shape[1], trie.num_nodes[depth + 1])
    scores, best = child_scores.topk(width)
    return (
        scores,
        children.flatten(1).gather(1, best),
        child_tokens.flatten(1).gather(1, best),
        best // children.shape[-1],
    )


def _beside(grown: Sequence[Grown]) -> list[torch.Tensor]:
    """What several groups grew, one below the other; narrower ones get dead rows (node 0, the pad token)."""
    width = max(scores.shape[1] for scores, *_ in grown)
    padded = []
    for scores, *rest in grown:
        missing = (0, width - scores.shape[1])
        dead = nn.functional.pad(scores, missing, value=-torch.inf)
        padded.append((dead, *(nn.functional.pad(values, missing) for values in rest)))
    return [torch.cat(values) for values in zip(*padded, strict=True)]


@torch.no_grad()
def semantic_id_beam_search(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    logits_processor: Sequence[LogitsProcessor] | None = None,
    stopping_criteria: Sequence[StoppingCriteria] | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    trie: SemanticIdTrie,
    inputs_tensor: torch.Tensor | None = None,
    num_beams: int | None = None,
    num_return_sequences: int | None = None,
    allowed_items: torch.Tensor | None = None,
    excluded_items: torch.Tensor | None = None,
    **model_kwargs: Any,
) -> torch.Tensor | GenerateBeamEncoderDecoderOutput:
    """[`beam_search`] as a `custom_generate` callable: the lists of `generate` with [`SemanticIdLogitsProcessor`].

    ```python
    model.generate(input_ids, attention_mask=mask, num_beams=20, num_return_sequences=20,
                   custom_generate=semantic_id_beam_search, trie=trie)
    ```

    Name both `num_beams` and `num_return_sequences`, so that `generate` hands over the inputs once for each user. It
    may also be called directly, with the encoder's `input_ids` and `attention_mask`.

    Args:
        model: [`MacRecForConditionalGeneration`], or another T5 over semantic IDs.
        input_ids, inputs_tensor, generation_config, logits_processor, stopping_criteria: what `generate` hands over.
        trie: [`SemanticIdTrie`] on the model's device.
        num_beams: `None`: that of the generation config if it asks for several, else 20 (authors' code).
        num_return_sequences: results of each user, at most `num_beams`; `None`: that of the generation config, else 1.
        allowed_items, excluded_items: see [`Limits`].

    Returns:
        `GenerateBeamEncoderDecoderOutput` if `return_dict_in_generate`: `sequences`, long
        `(batch_size * num_return_sequences, 1 + num_levels)` (the decoder start token, then the codes), and
        `sequences_scores`, float32 (float64 for a float64 model), the sums of the codes' log-probabilities (a
        `length_penalty` of 0). Else `sequences` alone. Places without a result hold the pad token and -inf.

    Raises:
        ValueError: settings that this search does not follow (sampling, other logits processors, too few new tokens),
            more return sequences than beams, unknown arguments, and what [`beam_search`] raises.
    """
    return_dict = check_search_settings(trie, generation_config, logits_processor, model_kwargs)
    if num_beams is not None:
        check_at_least_one("num_beams", num_beams)
    asked = getattr(generation_config, "num_beams", None)
    if num_beams is None:
        num_beams = asked if asked and asked > 1 else NUM_BEAMS
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
    sequences = nn.functional.pad(codes, (1, 0), value=start_token(model))
    if not return_dict:
        return sequences
    scores = result.scores[:, :num_return_sequences].flatten()
    return GenerateBeamEncoderDecoderOutput(
        sequences=cast(torch.LongTensor, sequences), sequences_scores=cast(torch.FloatTensor, scores)
    )


def _check_trie(model: T5ForConditionalGeneration, trie: SemanticIdTrie) -> None:
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
