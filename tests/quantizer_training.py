"""A small catalogue and a trainer of its quantizer."""

import numpy as np
import torch

from macrec_hf import (
    EmbeddingStore,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
)


def make_store(num_items=96, missing=()):
    random = np.random.default_rng(0)
    centres = random.standard_normal((12, 10))
    arrays = {
        name: (centres[random.integers(12, size=num_items)] + 0.3 * random.standard_normal((num_items, 10))).astype(
            "f4"
        )
        for name in ("text", "image")
    }
    return EmbeddingStore(arrays, missing={"image": [str(row) for row in missing]})


def make_trainer(tmp_path, store=None, model=None, callbacks=None, model_changes=None, **changes):
    store = make_store() if store is None else store
    torch.manual_seed(0)
    settings = dict(num_levels=3, codebook_size=8, codebook_dim=4, hidden_sizes=(16,), num_pseudo_labels=12)
    config = MacRecQuantizerConfig(modalities={"text": 10, "image": 10}, **(settings | (model_changes or {})))
    arguments = dict(
        output_dir=str(tmp_path),
        num_train_epochs=3,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    args = MacRecQuantizerTrainingArguments(**(arguments | changes))
    return MacRecQuantizerTrainer(model or MacRecQuantizer(config), args, train_dataset=store, callbacks=callbacks)
