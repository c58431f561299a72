"""The paper's Tables 3 and 4, with TIGER and MQL4GRec beside them, on the demo shop.

python examples/5_ablations.py

On a shop of your own, with flags of `macrec quantize` and `macrec train`, and a row that lacks a fifth of the photos:
python examples/5_ablations.py --data shop/ --embeddings emb/ --train "--epochs 16 --patience 3" --drop-photos 0.2

Every finished step is kept in --output: the same command again goes on where it stopped.
"""

import argparse
import shlex
from pathlib import Path

from ablation_rows import QUANTIZERS, ROWS
from ablation_steps import demo_shop, embeddings_without_photos, run_step, write_tables

# The sizes follow the data, as in `macrec demo`; the number of levels is needed for the weights of the rows.
QUANTIZE, TRAIN = "--num-levels 3", "--epochs 32"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output/ablations"))
    parser.add_argument("--data", type=Path, help="folder with items.jsonl and interactions.csv (default: demo shop)")
    parser.add_argument("--embeddings", type=Path, help="folder of `macrec embed` (default: by the offline encoders)")
    parser.add_argument("--quantize", type=shlex.split, default=QUANTIZE, help="flags (default: the demo's)")
    parser.add_argument("--train", type=shlex.split, default=TRAIN, help="flags (default: the demo's)")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help="(default: all)")
    parser.add_argument("--drop-photos", type=float, default=0.0, help="share that is missing in the last row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="of quantizer and recommender: a row is their mean")
    parser.add_argument("--items", type=int, default=300, help="of the demo shop")
    parser.add_argument("--customers", type=int, default=600, help="of the demo shop")
    args = parser.parse_args()

    # 1. The shop, its embeddings, and the same with photos missing.
    shop = args.data or demo_shop(args.output, args.items, args.customers, args.seed)
    emb = args.embeddings or run_step(args.output / "emb", ["embed", "--items", shop / "items.jsonl"])
    embeddings = dict.fromkeys(QUANTIZERS, emb)
    if args.drop_photos:
        embeddings["photos missing"] = embeddings_without_photos(emb, args.drop_photos, args.seed, args.output)
    rows = {name: ROWS[name] for name in args.rows if name != "photos missing" or args.drop_photos}

    # 2. Row by row: semantic IDs, recommender, lists of every user; the tables grow with the rows.
    if "--num-levels" not in args.quantize:  # a row needs a weight for each
        args.quantize += ["--num-levels", "4"]
    levels = int(args.quantize[args.quantize.index("--num-levels") + 1])
    data = ["--interactions", shop / "interactions.csv"]
    tests, tables = {}, {}
    for name, (quantizer, train_flags) in rows.items():
        tests[name], tables[quantizer] = [], []
        flags = [flag.format(zeros=",".join("0" * levels)) for flag in QUANTIZERS[quantizer]]  # the last flag wins
        for seed in range(args.seed, args.seed + args.seeds):
            folder, chance = args.output / f"seed_{seed}", ["--seed", seed]
            words = ["quantize", "--embeddings", embeddings[quantizer], *args.quantize, *flags, *chance]
            tables[quantizer].append(run_step(folder / "ids" / quantizer, words))
            words = ["train", *data, "--semantic-ids", tables[quantizer][-1], *args.train, *train_flags, *chance]
            model = run_step(folder / "models" / name, words)
            tests[name].append(run_step(model / "test", ["evaluate", *data, "--model", model]))
        text = write_tables(args.output, tests, tables)
    print(text)


if __name__ == "__main__":
    main()
