"""A recommender that has learned nothing, over two modalities of the same IDs."""

import torch

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecRecommender,
    SemanticIdTable,
    SemanticIdTokenizer,
)


def tiny_recommender(num_items):
    """Items `i0`, `i1`, …, two levels of five codes."""
    torch.manual_seed(0)
    places = torch.arange(num_items)
    codes = {name: torch.stack([places // 5, places % 5], 1) for name in ("text", "image")}
    table = SemanticIdTable([f"i{item}" for item in range(num_items)], codes, 8)
    tokenizer = SemanticIdTokenizer.from_table(table)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2)
    model = MacRecForConditionalGeneration(MacRecConfig(**tokenizer.config_fields, **sizes))
    return MacRecRecommender(model=model, tokenizer=tokenizer, table=table)
