"""Constrained decoding with plain `generate`: only IDs of the catalogue can be written."""

from typing import cast

import torch
from transformers import LogitsProcessor

from .trie import SemanticIdTrie


class SemanticIdLogitsProcessor(LogitsProcessor):
    """Lets `generate` write only semantic IDs that some item has.

    The state is read from `input_ids` at each call, so beams may be reordered freely, and the scores come back in a
    new tensor. The allowed codes keep their scores (log-probabilities over the whole vocabulary in beam search),
    everything else becomes -inf. After a whole ID only `</s>` is allowed, with the score 0.0, because an ID has a
    fixed length and nothing is left to decide; so too after that `</s>`, for beams that wait for others.

    Args:
        trie: [`SemanticIdTrie`] on the device of the model.

    Raises:
        ValueError: when called with a prefix that no item has, or with a trie on another device.

    Example:

    ```python
    processor = SemanticIdLogitsProcessor(SemanticIdTrie.from_table(table, tokenizer, "text"))
    model.generate(input_ids, num_beams=20, num_return_sequences=20, logits_processor=[processor])
    ```
    """

    def __init__(self, trie: SemanticIdTrie):
        self.trie = trie

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.FloatTensor:
        """
        Args:
            input_ids: long, `(num_rows, 1 + num_codes)`: the decoder start token and the codes so far.
            scores: float, `(num_rows, vocab_size)`.

        Returns:
            float, `(num_rows, vocab_size)`, a new tensor.
        """
        trie = self.trie
        if trie.device != input_ids.device:
            raise ValueError(
                f"trie: expected on the device of input_ids ({input_ids.device}), got {trie.device}. Build the "
                f"processor with trie.to({str(input_ids.device)!r})."
            )
        prefix = input_ids[:, 1 : 1 + trie.num_levels]
        depth = prefix.shape[1]
        nodes = self._nodes(prefix)
        allowed = torch.full_like(scores, -torch.inf)
        if depth == trie.num_levels:
            allowed[:, trie.eos_token_id] = 0.0
            return cast(torch.FloatTensor, allowed)
        children, _ = trie.children(depth, nodes)  # places beyond the last child repeat it: it is written again
        tokens = trie.child_tokens(depth, children)
        return cast(torch.FloatTensor, allowed.scatter_(1, tokens, scores.gather(1, tokens)))

    def _nodes(self, prefix: torch.Tensor) -> torch.Tensor:
        trie = self.trie
        offsets = prefix.new_tensor(trie.level_offsets[: prefix.shape[1]])
        nodes = trie.find(prefix - offsets)
        unknown = nodes < 0
        if unknown.any():
            row = int(torch.nonzero(unknown)[0])
            raise ValueError(
                f"input_ids: expected the decoder start token and a prefix of an item's semantic ID, got the tokens "
                f"{prefix[row].tolist()} in row {row}, which begin no item's ID. Does the trie belong to this model's "
                "tokenizer and modality, and does no other logits processor forbid or force tokens?"
            )
        return nodes
