"""What `--size auto` gives: `python benchmarks/sizes.py [--shop 200x300] [--seeds 1] [--times 1,2]`.

A demo shop of so many items and customers, or `--items`, `--interactions` and `--embeddings` of one's own, goes
through `macrec quantize` and `macrec train` without a size; the recommender once more for each further factor on its
epochs. A line for each: seconds of the clock and of the processor (both stages), the epochs, and on the validation
items NDCG@10 of the ensemble with the 95 % interval of its paired difference to the bestsellers. Words after `--` go
to `macrec train`, such as `-- --epochs 10 --dropout-rate 0`, to compare other sizes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `macrec` does, before torch is loaded

from macrec_hf import MacRecRecommender, evaluate, make_demo_shop  # noqa: E402
from macrec_hf.cli.main import main as macrec  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shop", default="200x300", help="items x customers of a demo shop (default: 200x300)")
    parser.add_argument("--items", help="instead of a demo shop, beside --interactions")
    parser.add_argument("--interactions")
    parser.add_argument("--embeddings", help="folder of `macrec embed` (default: made by the offline encoders)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--times", default="1,2", help="factors on the epochs (default: 1,2)")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            measure(args, [word for word in more if word != "--"], Path(folder) / str(seed), seed)


def measure(args: argparse.Namespace, more: list[str], folder: Path, seed: int) -> None:
    """The lines of one seed."""
    items, interactions = args.items, args.interactions
    if items is None:
        shop = make_demo_shop(folder / "shop", *map(int, args.shop.split("x")))
        items, interactions = str(shop.items), str(shop.interactions)
    embeddings, ids, chance = args.embeddings or str(folder / "emb"), str(folder / "ids"), ["--seed", str(seed)]
    if args.embeddings is None:
        run(["embed", "--items", items, "--output", embeddings])
    first = run(["quantize", "--embeddings", embeddings, "--output", ids, *chance])
    print(f"seed {seed}: quantize {first[0]:.0f} s, {first[1]:.0f} s of the processor", flush=True)
    words, epochs = ["train", "--interactions", interactions, "--semantic-ids", ids, *chance, *more], 0.0
    for factor in map(float, args.times.split(",")):
        output = folder / f"model-{factor:g}"
        longer = ["--epochs", str(epochs * factor)] if epochs else []
        second = run([*words, "--output", str(output), *longer])
        settings = json.loads((output / "training_log.json").read_text())[-1]["settings"]
        epochs = epochs or settings["epochs"] / factor
        print(f"seed {seed}: x {factor:g}, " + line(output, interactions, settings, first, second), flush=True)


def line(
    model: Path, interactions: str, settings: dict[str, Any], first: tuple[float, float], second: tuple[float, float]
) -> str:
    """Times and figures of a model, in words."""
    whole = MacRecRecommender.from_pretrained(model)
    alone = MacRecRecommender(model=whole.model, tokenizer=whole.tokenizer, table=whole.table)  # without the blend
    report = evaluate(alone, interactions, "validation")
    column = report["hidden"] if report["quoted"] == "hidden" else report
    found, gap = column["ensemble"], column["differences"]["popularity"]["ndcg@10"]
    return (
        f"{settings['epochs']:g} epochs: {first[0] + second[0]:.0f} s, {first[1] + second[1]:.0f} s of the processor, "
        f"NDCG@10 {found['ndcg@10']:.4f} (HR@10 {found['hr@10']:.4f}), minus popularity {gap['difference']:+.4f} "
        f"[{gap['low']:+.4f}, {gap['high']:+.4f}], {report['quoted']}"
    )


def run(words: list[str]) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a verb took.

    Raises:
        RuntimeError: the verb failed.
    """
    clock, processor = time.perf_counter(), time.process_time()
    if macrec([*words, "--overwrite", *(["--disable-tqdm", "true"] if words[0] != "embed" else [])]):
        raise RuntimeError(f"macrec {' '.join(words)} failed.")
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main()
