"""Our small SASRec and FDSA, as lists for `macrec evaluate --lists`.

    python benchmarks/baselines/own_lists.py --interactions interactions.csv --minutes 10 --seeds 3 --output lists/
    python benchmarks/baselines/own_lists.py --interactions interactions.csv --features emb/ --output lists/

With `--features`, a folder of `macrec embed`, it is FDSA: the embeddings of all its modalities, side by side, are what
the second stream reads. `--minutes` are CPU minutes of one training; there are six configurations and the further
seeds of the best one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from budget import fill_row
from purchases import read_purchases
from small_sasrec import OwnSystem

CONFIGURATIONS = [
    {"width": width, "blocks": blocks, "dropout": dropout}
    for width in (64, 128)
    for blocks, dropout in ((1, 0.5), (2, 0.2), (2, 0.5))
]


def read_features(folder: Path, item_ids: list[str]) -> np.ndarray:
    """float32 `(num_items, size)`, the rows of all modalities side by side; zeros where an item lacks one."""
    row_of = {item: row for row, item in enumerate(json.loads((folder / "item_ids.json").read_text()))}
    unknown = [item for item in item_ids if item not in row_of]
    if unknown:
        raise SystemExit(f"{folder}: expected an embedding of every item that is bought, none of {unknown[:3]}.")
    rows = np.array([row_of[item] for item in item_ids])
    about = json.loads((folder / "meta.json").read_text())
    parts = []
    for name in about["modality_order"]:
        array = np.load(folder / f"{name}.npy", mmap_mode="r")[rows].astype(np.float32)
        missing = set(about["modalities"][name]["missing"])
        array[[place for place, item in enumerate(item_ids) if item in missing]] = 0.0
        parts.append(array)
    return np.concatenate(parts, axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="folder of `macrec embed` (default: none, SASRec)")
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes of a training (default: 10)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configurations", type=int, default=len(CONFIGURATIONS), help="only the first so many")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    purchases = read_purchases(args.interactions)
    features = None if args.features is None else read_features(args.features, purchases.item_ids)

    def make(configuration, seed):
        return OwnSystem(purchases.training(), len(purchases.item_ids), configuration, seed, features)

    name = "own_sasrec" if features is None else "own_fdsa"
    fill_row(name, make, purchases, CONFIGURATIONS[: args.configurations], args.minutes, args.seeds, args.output)


if __name__ == "__main__":
    main()
