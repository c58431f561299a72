"""Fewer kernels: counted by the benchmark's own counter, on the device without values."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def counts():
    specification = importlib.util.spec_from_file_location("launches_of_benchmarks", BENCHMARKS / "launches.py")
    module = importlib.util.module_from_spec(specification)
    path = list(sys.path)
    specification.loader.exec_module(module)
    sys.path[:] = path
    return module.counts(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=4, num_decoder_layers=4)


def test_an_accelerated_step_launches_a_third_less(counts):
    plain, fast = counts["step, transformers' layers"], counts["step, accelerated"]
    assert fast.total() < 0.67 * plain.total()
    for name in ("_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward"):
        assert fast[name] == plain[name] == 16  # encoder, its second pass over items, twice a decoder layer
    assert fast["where"] <= plain["where"] - 16  # a mask for each kind of attention and pass, not for each layer


def test_an_accelerated_decode_in_half_precision_has_norms_of_one_kernel(counts):
    plain, fast = counts["decode, transformers' layers"], counts["decode, accelerated"]
    assert fast["native_layer_norm"] == 4 * 2 + 1 + 4 * (4 * 3 + 1) > plain["native_layer_norm"] == 0
    assert fast.total() < 0.6 * plain.total()
    assert not {"_local_scalar_dense", "nonzero"} & set(fast)
