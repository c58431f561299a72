"""8 micro-batches of 1 row are 1 batch of 8, in float64, for the losses that compare no rows with one another."""

import pytest
import torch
from accelerate import Accelerator
from transformers.models.t5.modeling_t5 import T5LayerNorm
from two_processes import DoubleCollator, DoubleLayerNorm, shop, store

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    MacRecTrainer,
    MacRecTrainingArguments,
    SemanticIdTokenizer,
)
from macrec_hf.training.batches import micro_batch_weights

# Steps of 8 rows. 43 items and 8 steps: the last step of the first epoch has 3, in micro-batches of 2 and of 1.
CUTS = [(1, 8), (2, 4), (4, 2)]


def settings(folder, size, accumulation) -> dict:
    return dict(
        output_dir=str(folder / f"{size}x{accumulation}"),
        max_steps=8,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def train_quantizer(folder, size, accumulation, only=None, missing=False):
    torch.manual_seed(0)
    config = MacRecQuantizerConfig(
        modalities={"text": 7, "image": 7}, num_levels=3, codebook_size=6, codebook_dim=4, hidden_sizes=(9,),
        contrastive_weights=(0.0, 0.0, 0.0), alignment_weight=0.0,
    )  # fmt: skip
    catalogue = store(missing)

    class OneLoss(MacRecQuantizerTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            if only is None:
                return loss
            outputs.loss_parts = {only: outputs.loss_parts[only]}
            return outputs[only] if self._weight is None else self._weighted_loss(outputs, self._weight)

    trainer = OneLoss(
        MacRecQuantizer(config).double(),
        MacRecQuantizerTrainingArguments(**settings(folder, size, accumulation)),
        data_collator=DoubleCollator(catalogue),
        train_dataset=catalogue,
    )
    trainer.train()
    return trainer


def unequal(row):
    """Labels of one to three codes."""
    kept = 1 + row["item"] % 3
    return {"labels": [label if place < kept else -100 for place, label in enumerate(row["labels"])]}


def train_recommender(folder, size, accumulation):
    args = MacRecTrainingArguments(**settings(folder, size, accumulation))
    table, tasks = shop(folder)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1,
        num_heads=2, dropout_rate=0.0, implicit_alignment_weight=0.0,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config).double()
    for module in model.modules():
        if type(module) is T5LayerNorm:
            module.__class__ = DoubleLayerNorm
    rows = tasks["train"].map(unequal).select(range(43))
    trainer = MacRecTrainer(model, args, train_dataset=rows, processing_class=tokenizer, table=table)
    trainer.train()
    return trainer


def check(train, folder):
    """Weights after 8 steps, however a step is cut up; and that they moved."""
    whole = train(folder, 8, 1)
    losses = [line["loss"] for line in whole.state.log_history if "loss" in line]
    assert len(set(losses)) == 8
    for size, accumulation in CUTS:
        parts = train(folder, size, accumulation)
        for (name, a), (_, b) in zip(whole.model.named_parameters(), parts.model.named_parameters(), strict=True):
            assert a.dtype == torch.float64
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12, msg=f"{size} x {accumulation}: {name}")
        logged = [line["loss"] for line in parts.state.log_history if "loss" in line]
        assert logged == pytest.approx(losses, rel=1e-3)  # Trainer adds them up in float32 and rounds them


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("loss", ["reconstruction_loss", "quantization_loss", None])
def test_reconstruction_and_quantization(tmp_path, loss, missing):
    check(lambda *run: train_quantizer(*run, only=loss, missing=missing), tmp_path)


def test_generation_with_unequal_numbers_of_label_tokens(tmp_path):
    check(train_recommender, tmp_path)


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        ([3, 3], [1.0, 1.0]),
        ([2, 1, 0], [2.0, 1.0, 0.0]),
        ([0, 0], [0.0, 0.0]),
        ([[3, 1], [1, 0]], [[1.5, 2.0], [0.5, 0.0]]),
    ],
)
def test_micro_batches_weigh_what_they_hold(sizes, weights):
    found = micro_batch_weights([torch.tensor(size) for size in sizes], Accelerator(cpu=True), torch.float64)
    assert torch.stack(found).tolist() == weights and found[0].dtype == torch.float64
