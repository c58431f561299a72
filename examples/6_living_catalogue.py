"""Add items to a shop that has a trained recommender: who is shown them at once, and after a short fine-tune.

python examples/6_living_catalogue.py

By default it goes on from examples 1 and 2 and adds slightly changed copies of some items. On a shop of your own, give
`--model`, `--interactions`, `--old` (embeddings of the catalogue) and `--new` (made with `macrec embed --like OLD`).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from growth_steps import changed_copies, report

from macrec_hf import EmbeddingStore, MacRecRecommender, leave_one_out, read_interactions, user_histories


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output"))
    parser.add_argument("--model", type=Path, help="a model directory with its quantizer")
    parser.add_argument("--old", type=Path, help="embeddings of the catalogue")
    parser.add_argument("--new", type=Path, help="embeddings of the new items")
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--epochs", type=float, default=1.0, help="of the fine-tune")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of the fine-tune")
    args = parser.parse_args()
    folder = args.model or args.output / "model"
    interactions = args.interactions or args.output / "shop" / "interactions.csv"
    if not folder.is_dir():
        raise SystemExit(
            f"{folder}: expected a model directory; run examples/2_train_recommender.py first, or give --model."
        )

    # 1. The shop as it is.
    recommender = MacRecRecommender.from_pretrained(folder)
    old = recommender.table
    before = EmbeddingStore.open(args.old or args.output / "emb")
    new = EmbeddingStore.open(args.new) if args.new else changed_copies(before)
    histories = user_histories(read_interactions(interactions), old.row_of)
    known, targets = leave_one_out(histories, "test")
    print(f"{old.num_items} items, {len(new)} new ones, {len(known)} users")
    report("before", recommender, known, targets, old)

    # 2. The new items through the frozen quantizer: no old ID changes, tokenizer and weights stay, the tries are new.
    recommender.add_items(new)
    report("at once", recommender, known, targets, old, new, before)

    # 3. A short fine-tune from where it was: the item tasks teach the new items' IDs.
    ids = args.output / "grown_ids"
    recommender.table.save_pretrained(ids)
    recommender.quantizer.save_pretrained(ids / "quantizer")
    flags = {
        "--interactions": interactions,
        "--semantic-ids": ids,
        "--output": args.output / "grown_model",
        "--start-from": folder,
        "--epochs": args.epochs,
        "--learning-rate": args.learning_rate,
    }
    command = [str(part) for flag in flags.items() for part in flag]
    subprocess.run([sys.executable, "-m", "macrec_hf.cli", "train", *command, "--overwrite"], check=True)
    tuned = MacRecRecommender.from_pretrained(args.output / "grown_model")
    report("fine-tuned", tuned, known, targets, old, new, before)


if __name__ == "__main__":
    main()
