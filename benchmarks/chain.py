"""How many steps T5 takes to learn that the next item depends on the last one alone: `python benchmarks/chain.py`.

100 items, each followed by one of three with 0.74, 0.18 and 0.08; 400 customers of 20 purchases; one modality. Its IDs
are drawn at random (three levels of twelve codes), or with `--ids quantized` those of `macrec embed` and `macrec
quantize --num-levels 4 --codebook-size 12` for names of random letters. For each number of `--passes` a recommender is
trained by `macrec train` with sizes by the data, its learning rate falling over that many, and its HR@1 on the
validation purchases of all customers is printed: a model that has learned the chain has about 0.74, one that guesses
among all items 0.01. Words after `--` go to `macrec train`, such as `-- --num-item-positions 20`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `macrec` does, before torch is loaded

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from macrec_hf import MacRecRecommender, SemanticIdTable, evaluate  # noqa: E402
from macrec_hf.cli.main import main as macrec  # noqa: E402

NUM_ITEMS, NUM_CUSTOMERS, NUM_PURCHASES = 100, 400, 20
CHANCES = (0.74, 0.18, 0.08)
LEVELS, CODES = 3, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=lambda text: [int(number) for number in text.split(",")], default=[25, 100])
    parser.add_argument("--ids", choices=("random", "quantized"), default="random")
    parser.add_argument("--seed", type=int, default=0, help="of the chain and of the training")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_chain(folder, args.seed)
        if args.ids == "quantized":
            quantize(folder, args.seed)
        for passes in args.passes:
            began, model = time.process_time(), folder / f"model-{passes}"
            words = [
                "train",
                "--interactions",
                str(folder / "interactions.csv"),
                "--semantic-ids",
                str(folder / "ids"),
            ]
            words += [
                "--epochs",
                str(passes),
                "--seed",
                str(args.seed),
                "--disable-tqdm",
                "true",
                "--output",
                str(model),
            ]
            if macrec([*words, *(word for word in more if word != "--")]):
                raise SystemExit(f"{passes} passes: macrec train failed.")
            minutes = (time.process_time() - began) / 60
            whole = MacRecRecommender.from_pretrained(model)
            alone = MacRecRecommender(model=whole.model, tokenizer=whole.tokenizer, table=whole.table)
            report = evaluate(alone, str(folder / "interactions.csv"), "validation")
            told = ", ".join(f"{row} {report[row]['hr@1']:.4f}" for row in ("text", "markov_chain", "co_occurrence"))
            print(f"{passes} passes in {minutes:.1f} CPU minutes, HR@1 on validation: {told}", flush=True)


def make_chain(folder: Path, seed: int) -> None:
    """Writes `interactions.csv` and `ids/`."""
    random = np.random.default_rng(seed)
    followers = np.stack([random.choice(np.delete(np.arange(NUM_ITEMS), item), 3, False) for item in range(NUM_ITEMS)])
    rows = []
    for customer in range(NUM_CUSTOMERS):
        item = random.integers(NUM_ITEMS)
        for moment in range(NUM_PURCHASES):
            rows.append((f"c{customer}", f"i{item}", moment))
            item = followers[item, random.choice(3, p=CHANCES)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "interactions.csv", index=False)
    codes = np.stack(np.unravel_index(random.permutation(CODES**LEVELS)[:NUM_ITEMS], (CODES,) * LEVELS), axis=1)
    items = [f"i{item}" for item in range(NUM_ITEMS)]
    SemanticIdTable(items, {"text": torch.from_numpy(codes)}, codebook_size=CODES).save_pretrained(folder / "ids")


def quantize(folder: Path, seed: int) -> None:
    """IDs of names of random letters in place of those in `ids/`."""
    letters = np.random.default_rng(seed).choice(list("abcdefghijklmnopqrstuvwxyz"), (NUM_ITEMS, 8))
    lines = [json.dumps({"item_id": f"i{item}", "title": "".join(name)}) for item, name in enumerate(letters)]
    (folder / "items.jsonl").write_text("\n".join(lines))
    words = ["--num-levels", "4", "--codebook-size", str(CODES), "--seed", str(seed), "--overwrite"]
    for made in (
        ["embed", "--items", str(folder / "items.jsonl"), "--image-model", "none", "--output", str(folder / "emb")],
        ["quantize", "--embeddings", str(folder / "emb"), "--output", str(folder / "ids"), *words],
    ):
        if macrec(made):
            raise SystemExit(f"macrec {made[0]} failed.")


if __name__ == "__main__":
    main()
