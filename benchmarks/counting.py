"""What counting many purchases takes: `python benchmarks/counting.py [--purchases 20_000_000 --items 1_000_000]`.

A file of invented purchases is written: item of rank r is bought in proportion to 1 / r ** `--power`, every customer's
purchases are in time order, some ten of them on average, at different seconds of two years. Then a process of its own
does what `macrec refresh` does: it reads the file, groups it by customer, counts and writes. Printed: seconds of each
stage (of the processor), and the peak of the process's memory in GB (1e9 bytes) when the stage had ended.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TWO_YEARS = np.array([1_532_000_000, 1_595_000_000])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--purchases", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--power", type=float, default=0.8, help="how fast popularity falls (default 0.8)")
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--file", type=Path, help="where the purchases are kept (default: nowhere)")
    parser.add_argument("--one", action="store_true", help="count the file in this process, print JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(count(args.file, args.items, args.window)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or Path(folder) / "purchases.csv"
        if not file.exists():
            invent(file, args.purchases, args.items, args.power)
        command = [sys.executable, __file__, "--one", "--file", str(file)]
        sizes = ["--items", str(args.items), "--window", str(args.window)]
        stages = json.loads(subprocess.run([*command, *sizes], check=True, stdout=subprocess.PIPE).stdout)
    print(f"{args.purchases:,} purchases of {args.items:,} items, window {args.window}\n")
    print("| | s | peak, GB |\n|---|---|---|")
    for stage, (seconds, peak) in stages.items():
        print(f"| {stage} | {seconds:.1f} | {peak:.2f} |")


def invent(file, purchases, items, power):
    """Writes the file a million rows at a time."""
    draw = np.random.default_rng(0)
    shares = np.cumsum(1 / np.arange(1, items + 1) ** power)
    names, first = draw.permutation(items), 0
    with file.open("w") as lines:
        lines.write("user_id,item_id,timestamp\n")
        for start in range(0, purchases, 1_000_000):
            size = min(1_000_000, purchases - start)
            users = first + np.sort(draw.integers(0, max(1, size // 10), size))
            bought = names[np.minimum(np.searchsorted(shares, draw.random(size) * shares[-1]), items - 1)]
            moments = draw.integers(*TWO_YEARS, size)
            moments = moments[np.lexsort((moments, users))]
            lines.writelines(f"u{u},i{i},{t}\n" for u, i, t in zip(users, bought, moments, strict=True))
            first = int(users[-1]) + 1


def count(file, num_items, window):
    """`{stage: (seconds, peak)}`."""
    from macrec_hf import read_interactions
    from macrec_hf.data.histories import purchases_by_user
    from macrec_hf.data.purchase_counting import save_counts

    stages, started = {}, time.process_time()

    def told(stage):
        nonlocal started
        stages[stage] = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        started = time.process_time()

    row_of = {f"i{item}": item for item in range(num_items)}
    told("catalogue")
    interactions = read_interactions(file)
    told("reading the file")
    purchases = purchases_by_user(interactions, row_of)
    told("grouping by customer")
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        save_counts(Path(folder), purchases, num_items, window=window)
        told("counting and writing")
    return stages


if __name__ == "__main__":
    main()
