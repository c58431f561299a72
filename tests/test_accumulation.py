"""8 micro-batches of 1 row are 1 batch of 8 for losses that compare no rows (generation: test_trainer_macrec.py)."""

import pytest
import torch
from test_trainer_quantizer import make_store, make_trainer


@pytest.mark.parametrize("size, accumulation", [(1, 8), (4, 2)])
def test_reconstruction_and_quantization_average_over_micro_batches(tmp_path, size, accumulation):
    weights = []
    for batch, steps in ((8, 1), (size, accumulation)):
        trainer = make_trainer(
            tmp_path / str(batch),
            store=make_store(num_items=40),
            model_changes={"contrastive_weights": (0.0, 0.0, 0.0), "alignment_weight": 0.0},
            max_steps=5,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            eval_strategy="no",
            save_strategy="no",
            max_grad_norm=0.0,
            optim="sgd",
            learning_rate=0.1,
        )
        trainer.train()
        weights.append([weight.detach().clone() for weight in trainer.model.parameters()])
    start = list(make_trainer(tmp_path / "start").model.parameters())
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(weights[0], start, strict=True))
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
