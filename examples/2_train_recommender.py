"""Fine-tune the recommender on the six tasks, with the semantic IDs of example 1.

python examples/2_train_recommender.py
"""

import argparse
from pathlib import Path

from transformers import set_seed

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecTrainer,
    MacRecTrainingArguments,
    RecommendationTasksBuilder,
    SemanticIdTable,
    SemanticIdTokenizer,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output"))
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--d-model", type=int, default=64)
    args = parser.parse_args()
    ids, shop = args.output / "ids", args.output / "shop"
    if not ids.is_dir():
        raise SystemExit(f"{ids}: expected the semantic IDs of example 1; run examples/1_semantic_ids.py first.")
    set_seed(0)

    # 1. The catalogue's IDs, and the tokenizer that writes them.
    table = SemanticIdTable.from_pretrained(ids)
    tokenizer = SemanticIdTokenizer.from_table(table)

    # 2. Histories → examples of all six tasks, as token ids. Every prefix of a training history is one.
    builder = RecommendationTasksBuilder(
        interactions=str(shop / "interactions.csv"), semantic_ids=str(ids), cache_dir=str(args.output / "cache")
    )
    builder.download_and_prepare()
    tasks = builder.as_dataset()
    print({split: len(rows) for split, rows in tasks.items()})

    # 3. A T5 over these tokens, smaller than the paper's.
    sizes = {
        "d_model": args.d_model,
        "d_kv": 16,
        "d_ff": 256,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
    }
    model = MacRecForConditionalGeneration(MacRecConfig(**tokenizer.config_fields, **sizes))

    # 4. Training. Each evaluation ranks the whole catalogue for every user by constrained beams.
    arguments = MacRecTrainingArguments(
        str(args.output / "recommender_checkpoints"),
        num_train_epochs=args.epochs,
        learning_rate=2e-3,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
    )
    quantizer = MacRecQuantizer.from_pretrained(ids / "quantizer")
    data = {"train_dataset": tasks["train"], "eval_dataset": tasks["validation"]}
    catalogue = {"processing_class": tokenizer, "table": table, "quantizer": quantizer}
    trainer = MacRecTrainer(model, arguments, **data, **catalogue)
    trainer.train()

    # 5. One folder with everything that recommending takes.
    trainer.save_model(str(args.output / "model"))
    print(f"saved to {args.output / 'model'}")


if __name__ == "__main__":
    main()
