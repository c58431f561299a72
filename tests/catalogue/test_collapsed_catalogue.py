"""A quantizer that gives a large catalogue a handful of IDs, or a code space that is too small: one error, soon."""

from time import process_time

import numpy as np
import pytest
import torch

from macrec_hf import EmbeddingStore, MacRecQuantizer, MacRecQuantizerConfig, add_items, build_semantic_ids
from macrec_hf.cli.main import main
from macrec_hf.model.vector_quantization import check_not_collapsed

NUM_ITEMS = 100_000


def make_quantizer(**changes):
    torch.manual_seed(0)
    settings = dict(codebook_dim=8, hidden_sizes=(16,), contrastive_weights=(0.0,) * 4) | changes
    return MacRecQuantizer(MacRecQuantizerConfig(modalities={"text": 12}, **settings))


def embeddings(num_items, num_kinds):
    """`num_items` items of `num_kinds` kinds that a collapsed quantizer does not tell apart."""
    kinds = np.random.default_rng(0).standard_normal((num_kinds, 12)).astype("f4")
    return {"text": kinds[np.arange(num_items) % num_kinds]}


def ids(count, start=0):
    return [f"i{row}" for row in range(start, start + count)]


def test_a_hundred_thousand_items_in_ten_ids():
    quantizer, begun = make_quantizer(), process_time()
    with pytest.raises(ValueError, match="'text': The quantizer has collapsed: .* got 10 for 100,000 items.*Look at"):
        build_semantic_ids(quantizer, embeddings(NUM_ITEMS, 10), ids(NUM_ITEMS))
    assert process_time() - begun < 30  # about a second: the encoding


def test_more_items_than_ids():
    quantizer, begun = make_quantizer(num_levels=2, codebook_size=16, contrastive_weights=(0.0, 0.0)), process_time()
    with pytest.raises(ValueError, match="'text': The code space is full: .* 256 IDs, and 99744 of 100000 items"):
        build_semantic_ids(quantizer, embeddings(NUM_ITEMS, 1000), ids(NUM_ITEMS))
    assert process_time() - begun < 30


def test_new_items_that_are_all_alike_join_a_healthy_catalogue():
    quantizer = make_quantizer()
    table = build_semantic_ids(quantizer, embeddings(3000, 3000), ids(3000))
    grown = add_items(table, quantizer, embeddings(1500, 1), ids(1500, 3000))
    assert grown.num_items == 4500 and grown.collision_rate("text") == 0.0


@pytest.mark.parametrize("num_items, num_ids, refused", [(999, 1, False), (1000, 9, True), (1000, 10, False)])
def test_the_limit(num_items, num_ids, refused):
    if not refused:
        return check_not_collapsed(num_items, num_ids)
    with pytest.raises(ValueError, match="got 9 for 1,000 items"):
        check_not_collapsed(num_items, num_ids)


def test_the_verb_says_so_in_one_line(tmp_path, capsys):
    EmbeddingStore(embeddings(1200, 3), ids(1200)).save(tmp_path / "emb")
    small = "--hidden-sizes 16 --codebook-dim 8 --max-steps 2 --batch-size 400 --evaluations 1".split()
    words = ["quantize", "--embeddings", str(tmp_path / "emb"), "--output", str(tmp_path / "ids"), *small]
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith("macrec quantize: error: Modality 'text': The quantizer has collapsed") and "3 for" in error
    )
    assert not (tmp_path / "ids" / "semantic_ids.json").exists()
