"""Train a quantizer on the demo shop and build its semantic IDs.

python examples/1_semantic_ids.py
"""

import argparse
from pathlib import Path

from transformers import set_seed

from macrec_hf import (
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    build_semantic_ids,
    embed_items,
    make_demo_shop,
    make_encoders,
    read_items,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output"))
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--customers", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=200)
    args = parser.parse_args()
    set_seed(0)

    # 1. A shop made from a seed: titles, rendered photos, customers with tastes.
    shop = make_demo_shop(args.output / "shop", num_items=args.items, num_customers=args.customers)

    # 2. Embeddings of texts and photos by the two encoders that need no weights.
    items = read_items(shop.items)
    embeddings = embed_items(items, make_encoders())
    embeddings.save(args.output / "emb")
    print(embeddings)

    # 3. A quantizer, narrower than the paper's: 32 codes a level are plenty for a small shop.
    config = MacRecQuantizerConfig(
        modalities=embeddings.modalities, hidden_sizes=(128, 64), codebook_size=32, num_pseudo_labels=32
    )
    quantizer = MacRecQuantizer(config)

    # 4. Training. Pseudo-labels and codebook seeds are computed before the first step. Batches of 1,024 and a learning
    # rate of 1e-3 are the paper's, and the defaults.
    arguments = MacRecQuantizerTrainingArguments(
        str(args.output / "quantizer_checkpoints"),
        num_train_epochs=args.epochs,
        logging_steps=max(1, args.epochs // 4),
        save_strategy="no",
        report_to="none",
    )
    trainer = MacRecQuantizerTrainer(quantizer, arguments, train_dataset=embeddings)
    trainer.train()
    print(f"collision rate after training: {trainer.evaluate()['eval_collision_rate']:.3f}")

    # 5. Semantic IDs: encode the catalogue, give items that share an ID one of their own, save both.
    table = build_semantic_ids(quantizer, embeddings)
    table.save_pretrained(args.output / "ids")
    quantizer.save_pretrained(args.output / "ids" / "quantizer")
    for modality, report in table.report.items():
        print(f"{modality}: {report['num_moved']} of {report['num_items']} items moved to a free ID")

    # 6. What an item looks like to the recommender.
    for item_id, title in zip(items["item_id"][:3], items["title"][:3], strict=True):
        print(title, "".join(table.tokens(item_id, "text")), "".join(table.tokens(item_id, "image")))


if __name__ == "__main__":
    main()
