"""What the decoding tests share: tiny models, padded batches, and scores by the model's own forward pass."""

import torch
from transformers import T5Config, T5ForConditionalGeneration

from macrec_hf.model.trie import SemanticIdTrie

FIRST_CODE = 5


def tiny_trie(codes, codebook_size, first_code=FIRST_CODE):
    codes = torch.as_tensor(codes)
    offsets = [first_code + level * codebook_size for level in range(codes.shape[1])]
    return SemanticIdTrie(codes, codebook_size, offsets)


def random_trie(num_items=40, codebook_size=6, num_levels=3, seed=0, first_code=FIRST_CODE):
    """With shared IDs and an item without one (row 5)."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(codebook_size, (num_items, num_levels), generator=generator)
    codes[3] = codes[4]
    codes[5] = -1
    return tiny_trie(codes, codebook_size, first_code)


def tiny_model(vocab_size=31, dtype=torch.float32, seed=0, **config):
    torch.manual_seed(seed)
    config = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3, **config}
    model = T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, decoder_start_token_id=0, **config))
    model.generation_config.length_penalty = 0.0
    return model.eval().to(dtype)


def padded_batch(lengths, vocab_size=31, seed=0, left=()):
    """`input_ids` and `attention_mask` of these lengths; the rows in `left` are padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, length in enumerate(lengths):
        places = slice(input_ids.shape[1] - length, None) if row in left else slice(length)
        input_ids[row, places] = torch.randint(3, vocab_size, (length,), generator=generator)
        attention_mask[row, places] = 1
    return input_ids, attention_mask


@torch.no_grad()
def teacher_forced(model, input_ids, attention_mask, tokens):
    """Log-probability of each row of `tokens` (n, num_levels) for each user, `(batch_size, n)`, one forward a user."""
    scores = []
    for ids, mask in zip(input_ids, attention_mask, strict=True):
        repeated = [tensor.expand(len(tokens), -1) for tensor in (ids, mask)]
        logits = model(input_ids=repeated[0], attention_mask=repeated[1], labels=tokens).logits
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        scores.append(log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).sum(-1))
    return torch.stack(scores)


def all_leaf_scores(model, input_ids, attention_mask, trie):
    tokens = trie.leaf_tokens(torch.arange(trie.num_leaves))
    return teacher_forced(model, input_ids, attention_mask, tokens)
