"""A shop of 14 items and 12 users, and a trainer of its recommender."""

import numpy as np
import torch

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecTrainer,
    MacRecTrainingArguments,
    RecommendationTasksBuilder,
    SemanticIdTable,
    SemanticIdTokenizer,
)

NUM_ITEMS, NUM_USERS, LEVELS, SIZE = 14, 12, 3, 5
TINY = dict(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2, num_levels=LEVELS)


def make_shop(folder):
    """Table, tokenizer and tasks."""
    random = np.random.default_rng(0)
    items = [f"{row:03}" for row in range(NUM_ITEMS)]
    codes = {}
    for name in ("text", "image"):
        distinct = random.permutation(SIZE**LEVELS)[:NUM_ITEMS]
        codes[name] = torch.from_numpy(np.stack(np.unravel_index(distinct, (SIZE,) * LEVELS), axis=1))
    table = SemanticIdTable(items, codes, codebook_size=SIZE)
    table.save_pretrained(folder / "ids")
    lines = ["user_id,item_id,timestamp"]
    for user in range(NUM_USERS):
        start = random.integers(NUM_ITEMS)
        lines += [f"u{user},{items[(start + step) % NUM_ITEMS]},{step}" for step in range(random.integers(4, 8))]
    (folder / "interactions.csv").write_text("\n".join(lines))
    builder = RecommendationTasksBuilder(folder / "interactions.csv", folder / "ids", cache_dir=folder / "cache")
    builder.download_and_prepare()
    return table, SemanticIdTokenizer.from_table(table), builder.as_dataset()


def make_trainer(shop, folder, callbacks=None, model_changes=None, **changes):
    table, tokenizer, tasks = shop
    torch.manual_seed(0)
    model = MacRecForConditionalGeneration(MacRecConfig(vocab_size=len(tokenizer), **(TINY | (model_changes or {}))))
    settings = dict(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        logging_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,  # the same on every processor
        generation_num_beams=NUM_ITEMS,
        per_device_eval_batch_size=5,
    )
    return MacRecTrainer(
        model,
        MacRecTrainingArguments(**(settings | changes)),
        train_dataset=tasks["train"],
        eval_dataset=tasks["validation"],
        processing_class=tokenizer,
        table=table,
        callbacks=callbacks,
    )
