"""TIGER and MQL4GRec as configurations of the same classes, on the embeddings of example 1.

python examples/4_tiger_and_mql4grec.py

Two epochs show that all three run; which one is best takes far longer to tell: --epochs 100 --quantizer-epochs 1000.
"""

import argparse
from pathlib import Path

from transformers import set_seed

from macrec_hf import (
    EmbeddingStore,
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    MacRecTrainer,
    MacRecTrainingArguments,
    RecommendationTasksBuilder,
    SemanticIdTokenizer,
    build_semantic_ids,
)

# What tells the methods apart: modalities, the quantizer's cross-modal weights, the implicit alignment.
SEPARATE = {"contrastive_weights": (0, 0, 0, 0), "alignment_weight": 0}
METHODS = {
    "TIGER": (["text"], {}, {}),
    "MQL4GRec": (["text", "image"], SEPARATE, {"implicit_alignment_weight": 0}),
    "MACRec": (["text", "image"], {}, {}),
}
SIZES = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
TRAINING = {"per_device_train_batch_size": 256, "save_strategy": "no", "report_to": "none"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output"))
    parser.add_argument("--quantizer-epochs", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=2)
    args = parser.parse_args()
    emb, interactions = args.output / "emb", str(args.output / "shop" / "interactions.csv")
    if not emb.is_dir():
        raise SystemExit(f"{emb}: expected the embeddings of example 1; run examples/1_semantic_ids.py first.")

    for method, (modalities, quantizer_options, recommender_options) in METHODS.items():
        set_seed(0)
        folder = args.output / method.lower()

        # 1. Semantic IDs of these modalities.
        store = EmbeddingStore.open(emb).select(modalities)
        sizes = {"hidden_sizes": (128, 64), "codebook_size": 32, "num_pseudo_labels": 32}
        quantizer = MacRecQuantizer(MacRecQuantizerConfig(modalities=store.modalities, **sizes, **quantizer_options))
        epochs = {"num_train_epochs": args.quantizer_epochs}
        arguments = MacRecQuantizerTrainingArguments(str(folder / "quantizer"), **epochs, **TRAINING)
        MacRecQuantizerTrainer(quantizer, arguments, train_dataset=store).train()
        table = build_semantic_ids(quantizer, store)
        table.save_pretrained(folder / "ids")

        # 2. The tasks that these modalities allow: one for TIGER, six for the others.
        builder = RecommendationTasksBuilder(interactions, str(folder / "ids"), cache_dir=str(folder / "cache"))
        builder.download_and_prepare()
        tasks = builder.as_dataset()
        data = {"train_dataset": tasks["train"], "eval_dataset": tasks["validation"]}

        # 3. The recommender, and its validation figures by full ranking.
        tokenizer = SemanticIdTokenizer.from_table(table)
        model = MacRecForConditionalGeneration(MacRecConfig(**tokenizer.config_fields, **SIZES, **recommender_options))
        arguments = MacRecTrainingArguments(str(folder / "recommender"), num_train_epochs=args.epochs, **TRAINING)
        trainer = MacRecTrainer(model, arguments, **data, processing_class=tokenizer, table=table)
        trainer.train()
        print(f"{method}: {len(tasks['train'])} examples, HR@10 {trainer.evaluate()['eval_hr@10']:.3f}")


if __name__ == "__main__":
    main()
