"""`torch_compile=True` trains as without it, and lengths in buckets keep the number of compiled graphs small."""

import os

import numpy as np
import pytest
import recommender_training
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.data.data_collator import RecommendationCollator
from macrec_hf.gpu import accelerate


@pytest.fixture(autouse=True)
def nothing_compiled_before(monkeypatch):
    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):  # which training arguments set for good
        monkeypatch.setenv(name, os.environ.get(name, "no"))
        monkeypatch.delenv(name)
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


def test_histories_of_any_length_are_compiled_a_few_times():
    random = np.random.default_rng(0)
    tokens = random.integers(8, 100, (2, 400, 4)).astype(np.int32)
    tokens[1, ::7] = 0  # items without an ID in the second modality
    collate = RecommendationCollator(tokens, in_buckets=True)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1, num_levels=4)
    model = accelerate(MacRecForConditionalGeneration(MacRecConfig(vocab_size=100, **sizes)).train())
    counter, shapes = CompileCounter(), set()
    compiled = torch.compile(model, backend=counter)
    for longest in (3, 20, 9, 1, 14, 6, 17, 11, 2, 20):
        rows = [
            {
                "input_ids": random.integers(8, 100, 4 * random.integers(1, longest + 1)).tolist() + [1],
                "labels": random.integers(8, 100, 4).tolist(),
                "item": int(random.integers(10 * longest)),
            }
            for _ in range(48)
        ]
        batch = collate(rows)
        shapes.add((batch["input_ids"].shape[1], batch["alignment_input_ids"].shape[1]))
        compiled(**batch).loss.backward()
    assert len(shapes) > 5 and counter.frame_count <= 4


def test_a_compiled_training_learns_what_another_learns(tmp_path):
    shop = recommender_training.make_shop(tmp_path)
    histories = []
    for name, changes in (("plain", {}), ("compiled", dict(torch_compile=True, torch_compile_backend="eager"))):
        same = dict(model_changes={"dropout_rate": 0.0}, eval_strategy="no", save_strategy="no", use_cpu_kernels=False)
        trainer = recommender_training.make_trainer(shop, tmp_path / name, logging_steps=1, **same, **changes)
        assert trainer.data_collator.in_buckets is (name == "compiled")
        trainer.train()
        histories.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    assert counters["stats"]["unique_graphs"] <= 6 and not counters["graph_break"]
