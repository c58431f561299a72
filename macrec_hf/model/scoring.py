"""Exact log-probabilities: of the whole catalogue by one walk of the trie, or of given items by teacher forcing."""

import torch
from transformers import T5ForConditionalGeneration

from .inference import in_eval_mode
from .model_decoding import SearchPasses
from .t5_decoding import score_dtype
from .trie import SemanticIdTrie

_ROWS = 4096  # decoder rows (users x nodes) that one step holds; bounds memory whatever the catalogue


@in_eval_mode
def exact_scores(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trie: SemanticIdTrie,
    *,
    max_rows: int = _ROWS,
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
    steps = SearchPasses(model).decoder(encoder_hidden_states, attention_mask)
    inputs, past = steps.start()
    scores = torch.zeros(leaves.shape, dtype=score_dtype(encoder_hidden_states.dtype), device=leaves.device)
    for targets in trie.leaf_tokens(leaves.clamp(min=0)).unbind(-1):
        hidden, past = steps.step(inputs, past)
        wanted = targets.unsqueeze(1 if hidden.shape[1] < leaves.shape[1] else 2)  # the first step has one row for all
        scores = scores + steps.token_log_probs(hidden, wanted).view(leaves.shape)
        inputs = targets
    return scores.masked_fill(leaves < 0, -torch.inf)


def _leaves_to_items(leaf_scores: torch.Tensor, trie: SemanticIdTrie) -> torch.Tensor:
    scores = leaf_scores.new_full((len(leaf_scores), trie.num_items), -torch.inf)
    present = torch.nonzero(trie.item_leaf >= 0).squeeze(1)
    scores[:, present] = leaf_scores[:, trie.item_leaf[present]]
    return scores
