"""The search's two ways through a model: by its weights, or where that would skip something, by its forward pass.

[`SearchPasses`] chooses once for a call of the search. Both ways give the same lists and scores; the forward pass
reads each row's prefix anew at every step and is many times slower.

Also exact log-probabilities: of the whole catalogue by one walk of the trie, or of given items by teacher forcing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast
from weakref import WeakSet

import numpy as np
import torch
from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .inference import in_eval_mode, pad_rows
from .search_kernels import Part, RunBatch, RunParts, all_at_once, by_itself, departure, search_kernels, take_rows
from .t5_decoding import DecoderSteps, DecoderWeights, EncoderPass, score_dtype, start_token
from .trie import SemanticIdTrie

logger = logging.get_logger(__name__)

_ROWS = 1024  # prefixes that are read at a time; each carries its user's encoder states
_TRIE_ROWS = 4096  # decoder rows (users x nodes) that one step of `exact_scores` holds; bounds memory
_SCORED_ROWS, _MOST_SCORED_ROWS = 8192, 32_768  # see `_scored_rows`
_NOTICED: "WeakSet[nn.Module]" = WeakSet()


class Steps(Protocol):
    """The decoder of a batch of users, one position at a time: [`DecoderSteps`] or [`ModelSteps`]."""

    score_dtype: torch.dtype

    def start(self, rows: int | None = None) -> tuple[torch.Tensor, Any]: ...

    def step(self, tokens: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]: ...

    def log_probs(self, hidden: torch.Tensor, /) -> torch.Tensor: ...

    def token_log_probs(self, hidden: torch.Tensor, tokens: torch.Tensor, /) -> torch.Tensor: ...


class SearchPasses:
    """A model's encoder and decoder as the search calls them. Make one for each call of the search.

    Args:
        model: any `T5ForConditionalGeneration`. Where a module of it is hooked, adapted or replaced in a way that
            reading its weights would skip, all goes through the model's own forward pass, after one notice a model.

    Attributes:
        run_parts, run_batch: how a batch of users is searched, see `SearchKernels`.
    """

    def __init__(self, model: T5ForConditionalGeneration):
        self.model = model
        reason = departure(model)
        self.by_weights = reason is None
        kernels = search_kernels(model)
        self.run_parts: RunParts = kernels.run_parts if self.by_weights else all_at_once
        self.run_batch: RunBatch = kernels.run_batch if self.by_weights else by_itself
        self._weights: DecoderWeights | None = None
        if reason is not None and model not in _NOTICED:
            _NOTICED.add(model)
            logger.warning(
                f"The search calls the model's own forward pass, which gives the same lists more slowly: {reason}, "
                "and reading the weights alone would skip that. Where it is not wanted, remove it (a hook's handle "
                "has remove(), an adapter can usually be merged) before searching."
            )

    def encoder(self) -> "EncoderPass | ModelEncoder":
        """`(input_ids, attention_mask)` → states, float `(batch_size, sequence_length, d_model)`."""
        return EncoderPass(self.model) if self.by_weights else ModelEncoder(self.model)

    def decoder(self, encoder_hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> Steps:
        """The decoder of a batch of users; arguments as of [`DecoderSteps`]."""
        if not self.by_weights:
            return ModelSteps(self.model, encoder_hidden_states, attention_mask)
        return DecoderSteps(self.weights, encoder_hidden_states, attention_mask)

    @property
    def weights(self) -> DecoderWeights:
        """The decoder's, read once. Ask for them before threads share this."""
        if self._weights is None:
            self._weights = DecoderWeights(self.model)
        return self._weights


class ModelEncoder:
    """[`EncoderPass`] by the model's encoder itself."""

    def __init__(self, model: T5ForConditionalGeneration):
        self.model = model

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The encoder's states, float `(batch_size, sequence_length, d_model)`."""
        encoder = cast(nn.Module, self.model.get_encoder())
        return encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[0]


@contextmanager
def _in_its_own_precision(model: nn.Module) -> Iterator[None]:
    """Without the autocast that accelerate wraps around a forward pass: scores are those of the weights."""
    own, wrapped = vars(model).get("_original_forward"), vars(model).get("forward")
    if own is None or wrapped is None:
        yield
        return
    vars(model)["forward"] = own
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped


@dataclass
class Prefixes:
    """What a [`ModelSteps`] has read so far.

    `tokens` is long, `(batch_size, rows or 1, positions)`; 1 where all rows of a user share them.
    """

    tokens: torch.Tensor

    def reorder(self, parents: torch.Tensor) -> "Prefixes":
        """Those of rows that continue the rows `parents`: long `(batch_size, rows)`, or `(rows,)` for all users."""
        return Prefixes(take_rows(self.tokens, parents))


class ModelSteps:
    """[`DecoderSteps`] by the model's forward pass over whole prefixes. What a step gives are logits.

    Args:
        model: what is called, with `encoder_outputs`, `attention_mask` and `decoder_input_ids`, as `generate` does.
        encoder_hidden_states: float, `(batch_size, sequence_length, d_model)`.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ):
        self.model, self.states, self.mask = model, encoder_hidden_states, attention_mask
        self.score_dtype = score_dtype(encoder_hidden_states.dtype)

    def start(self, rows: int | None = None) -> tuple[torch.Tensor, Prefixes]:
        """The decoder start token, long `(batch_size, 1)`, and nothing before it, however it is held."""
        tokens = torch.full((len(self.states), 1), start_token(self.model), device=self.states.device)
        return tokens, Prefixes(tokens.new_zeros(len(tokens), 1, 0))

    def step(self, tokens: torch.Tensor, past: Prefixes) -> tuple[torch.Tensor, Prefixes]:
        """Reads one more token of each row.

        Args:
            tokens: long, `(batch_size, rows)`.
            past: [`Prefixes`] of the same rows.

        Returns:
            `(logits, past)`: float `(batch_size, rows, vocab_size)` of the next token, and the past with this one.
        """
        before = past.tokens.expand(-1, tokens.shape[1], -1)
        prefixes = torch.cat([before, tokens.unsqueeze(-1)], dim=-1)
        rows = torch.arange(tokens.numel(), device=tokens.device)
        if not len(rows):
            return self.states.new_zeros(*tokens.shape, self.model.config.vocab_size), Prefixes(prefixes)
        flat = prefixes.flatten(0, 1)
        with _in_its_own_precision(self.model):
            logits = [self._logits(flat[part], part // tokens.shape[1]) for part in rows.split(_ROWS)]
        return torch.cat(logits).unflatten(0, tokens.shape), Prefixes(prefixes)

    def _logits(self, prefixes: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """float `(rows, vocab_size)` after the last token of `prefixes`, long `(rows, positions)`."""
        outputs = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=cast(torch.FloatTensor, self.states[users])),
            attention_mask=None if self.mask is None else self.mask[users],
            decoder_input_ids=prefixes,
            use_cache=False,
            return_dict=True,
        )
        return outputs.logits[:, -1]

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token, `(batch_size, rows, vocab_size)`; float32, float64 of float64."""
        return torch.log_softmax(logits, dim=-1, dtype=score_dtype(logits.dtype))

    def token_log_probs(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Those of `tokens` alone, long `(batch_size, rows, n)`."""
        return self.log_probs(logits).gather(-1, tokens)


@in_eval_mode
def exact_scores(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trie: SemanticIdTrie,
    *,
    max_rows: int = _TRIE_ROWS,
) -> torch.Tensor:
    """The log-probability of every item for each user.

    The trie is walked depth first in blocks of at most `max_rows` decoder rows, each node is read once, and the steps
    of items with a common prefix are shared. Time grows with users x nodes: for many users' lists use beam search.

    Args:
        model: any `T5ForConditionalGeneration`.
        input_ids: long, `(batch_size, sequence_length)`.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
        trie: [`SemanticIdTrie`] on the model's device.
        max_rows: decoder rows in memory at a time; for each there are `max_rows x vocab_size` log-probabilities.

    Returns:
        float32 (float64 for a float64 model), `(batch_size, num_items)`: the sum of the item's code log-probabilities,
        each normalised over the whole vocabulary; -inf where the item has no ID.
    """
    passes = SearchPasses(model)
    encoder_hidden_states = passes.encoder()(input_ids, attention_mask)
    steps = passes.decoder(encoder_hidden_states, attention_mask)
    batch_size = len(encoder_hidden_states)
    dtype = score_dtype(encoder_hidden_states.dtype)
    leaf_scores = torch.empty(batch_size, trie.num_leaves, dtype=dtype, device=trie.device)
    block = max(1, max_rows // batch_size)
    tokens, past = steps.start()
    pending = [(0, 0, 1, tokens, leaf_scores.new_zeros(batch_size, 1), past, tokens.new_zeros(1))]
    while pending:
        depth, low, high, tokens, scores, past, parents = pending.pop()
        hidden, past = steps.step(tokens, past.reorder(parents))
        first, last = int(trie.child_start[depth][low]), int(trie.child_start[depth][high])
        children = torch.arange(first, last, device=trie.device)
        parents = torch.searchsorted(trie.child_start[depth], children, right=True) - 1 - low
        child_tokens = trie.child_tokens(depth, children)
        scores = scores[:, parents] + steps.log_probs(hidden)[:, parents, child_tokens]
        if depth + 1 == trie.num_levels:
            leaf_scores[:, first:last] = scores
            continue
        for begin in range(0, last - first, block):
            part = slice(begin, begin + block)
            nodes = first + begin, min(first + begin + block, last)
            block_tokens = child_tokens[part].expand(batch_size, -1)
            pending.append((depth + 1, *nodes, block_tokens, scores[:, part], past, parents[part]))
    return _leaves_to_items(leaf_scores, trie)


@in_eval_mode
def candidate_scores(
    model: T5ForConditionalGeneration,
    encoder_hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trie: SemanticIdTrie,
    leaves: torch.Tensor,
) -> torch.Tensor:
    """The log-probability of given IDs, for states that the encoder has already computed.

    Args:
        model: any `T5ForConditionalGeneration`.
        encoder_hidden_states: float, `(batch_size, sequence_length, d_model)`, as in [`BeamResult`].
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
        trie: [`SemanticIdTrie`] on the model's device.
        leaves: long, `(batch_size, num_candidates)`, leaves of the trie, -1 = none.

    Returns:
        float32 (float64 for a float64 model), `(batch_size, num_candidates)`, -inf for a leaf of -1.
    """
    if leaves.dim() != 2 or len(leaves) != len(encoder_hidden_states):
        raise ValueError(
            f"leaves: expected shape ({len(encoder_hidden_states)}, num_candidates), one row for each user, got "
            f"{tuple(leaves.shape)}."
        )
    return _teacher_forced(SearchPasses(model).decoder(encoder_hidden_states, attention_mask), trie, leaves)


def _teacher_forced(steps: Steps, trie: SemanticIdTrie, leaves: torch.Tensor) -> torch.Tensor:
    """[`candidate_scores`] by a decoder that stands at the start."""
    inputs, past = steps.start()
    scores = torch.zeros(leaves.shape, dtype=steps.score_dtype, device=leaves.device)
    for targets in trie.leaf_tokens(leaves.clamp(min=0)).unbind(-1):
        hidden, past = steps.step(inputs, past)
        wanted = targets.unsqueeze(1 if hidden.shape[1] < leaves.shape[1] else 2)  # the first step has one row for all
        scores = scores + steps.token_log_probs(hidden, wanted).view(leaves.shape)
        inputs = targets
    return scores.masked_fill(leaves < 0, -torch.inf)


@in_eval_mode
def score_items(
    model: T5ForConditionalGeneration,
    tries: Mapping[str, SemanticIdTrie],
    sources: Mapping[str, Sequence[Sequence[int] | None]],
    items: np.ndarray,
    users: np.ndarray | None = None,
    *,
    rank: int = 0,
    num_processes: int = 1,
    gather: Callable[[list], list] = list,
) -> dict[str, np.ndarray]:
    """The log-probability of given items of each user in each modality, whether or not a beam has found them.

    Args:
        tries, sources: as for [`~model.ensemble.rank_catalogue`].
        items: int64, `(num_users, num_candidates)`, table rows, -1 in empty places at the end.
        users: int64, `(num_users,)`, places in the sources of those whose items these are; None: all, in order.
        rank, num_processes, gather: as for [`~model.ensemble.rank_catalogue`].

    Returns:
        `{modality: (num_users, num_candidates)}`, float64; -inf in empty places, for items without an ID there, and
        for users who have no source there.
    """
    everyone = range(len(items)) if users is None else users.tolist()
    read = {name: [sources[name][user] for user in everyone] for name in tries}
    widths = (items >= 0).sum(axis=1)
    order = np.argsort(-widths, kind="stable")[rank::num_processes]
    rows = _scored_rows(model.device) * (torch.get_num_threads() if model.device.type == "cpu" else 1)
    parts, start = [], 0
    while start < len(order):  # few users of many items at a time, many of few
        batch = order[start : start + max(1, rows // max(1, widths[order[start]]))]
        start += len(batch)
        parts += [
            (name, batch, _scored(model, trie.to(model.device), [read[name][user] for user in batch], items[batch]))
            for name, trie in tries.items()
        ]
    found = {name: np.full(items.shape, -np.inf) for name in tries}
    for name, batch, scores in gather(parts):
        found[name][batch, : scores.shape[1]] = scores
    return found


def _scored(
    model: T5ForConditionalGeneration,
    trie: SemanticIdTrie,
    sources: Sequence[Sequence[int] | None],
    items: np.ndarray,
) -> np.ndarray:
    """[`score_items`] of a batch in one modality, as wide as its longest row."""
    items = items[:, : (items >= 0).sum(axis=1).max(initial=0)]
    scores = np.full(items.shape, -np.inf)
    read = [place for place, source in enumerate(sources) if source]
    if read and items.shape[1]:
        input_ids, mask = padded_sources(model, [source for source in sources if source])
        wanted = torch.from_numpy(items[read]).to(model.device)
        leaves = torch.where(wanted >= 0, trie.item_leaf[wanted.clamp(min=0)], -1)
        found = torch.zeros(leaves.shape, dtype=torch.double, device=model.device)
        passes, most = SearchPasses(model), _scored_rows(model.device)
        if passes.by_weights:
            _ = passes.weights  # read here, before parts are scored by threads

        def score(part: Part) -> None:
            users, columns = part
            of_part = None if mask is None else mask[users, columns]
            steps = passes.decoder(passes.encoder()(input_ids[users, columns], of_part), of_part)
            for some in torch.arange(leaves.shape[1], device=model.device).split(max(1, most // len(users))):
                scored = _teacher_forced(steps, trie, leaves[users[:, None], some])
                found[users[:, None], some] = scored.double()

        rows = 1 + (trie.num_levels - 1) * items.shape[1]
        passes.run_parts(score, mask, torch.arange(len(read), device=model.device), input_ids.shape[1], rows)
        scores[read] = found.cpu().numpy()
    return scores


def padded_sources(
    model: T5ForConditionalGeneration, sources: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`input_ids` and `attention_mask` of sources, on the model's device.

    Without padding there is no mask: who makes a batch on the host knows, and the device need not be asked.
    """
    padded, inside = pad_rows(sources, cast(int, model.config.pad_token_id))
    input_ids = torch.from_numpy(padded).to(model.device)
    return input_ids, None if inside.all() else torch.from_numpy(inside).to(model.device, torch.long)


def _scored_rows(device: torch.device) -> int:
    """How many decoder rows, users x items, a step of [`score_items`] holds; on a CPU on each thread."""
    return _SCORED_ROWS if device.type == "cpu" else _MOST_SCORED_ROWS


def _leaves_to_items(leaf_scores: torch.Tensor, trie: SemanticIdTrie) -> torch.Tensor:
    scores = leaf_scores.new_full((len(leaf_scores), trie.num_items), -torch.inf)
    present = torch.nonzero(trie.item_leaf >= 0).squeeze(1)
    scores[:, present] = leaf_scores[:, trie.item_leaf[present]]
    return scores
