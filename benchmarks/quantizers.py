"""Which quantizer is worth keeping: `python benchmarks/quantizers.py --embeddings emb --interactions purchases.csv`.

For each seed three catalogues of semantic IDs are made from the same embeddings, and a recommender is trained on each:

    first    the first checkpoint of a run of `macrec quantize`, after a twentieth of its steps
    last     the same run's last weights, which `macrec quantize` keeps
    kmeans   `macrec quantize --method residual-kmeans`: nothing is trained

Everything goes through the verbs, with the sizes that follow the data and the demo's epochs, unless `--quantize` and
`--train` say otherwise; both take the flags of the verb in one string, such as `--train "--max-steps 2000"`. A step
whose result lies in `--output` already is not done again, so that a run that was cut off goes on.

Printed, and written as JSON into `--output`: the mean cosine of the embeddings of two items with the same first code,
and with the same first two, in each modality (the quantizer's own codes, before collisions are resolved), the
collision rate before, HR@10 and NDCG@10 on the validation and the test split, and the paired differences: each user's
figure is the mean over the seeds, users are resampled.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf import EmbeddingStore, MacRecQuantizer, build_semantic_ids  # noqa: E402
from macrec_hf.catalogue.ids_folder import write_ids  # noqa: E402
from macrec_hf.catalogue.indexing import encode_catalogue  # noqa: E402
from macrec_hf.cli.demo import TRAIN  # noqa: E402
from macrec_hf.doctor.figures import likeness  # noqa: E402
from macrec_hf.evaluation.ranking_metrics import TiedRanks, hit_rate, ndcg, paired_bootstrap  # noqa: E402

METHODS = ("first", "last", "kmeans")
PAIRS = (("last", "first"), ("last", "kmeans"), ("kmeans", "first"))
SPLITS = ("validation", "test")
EVALUATIONS = 20  # checkpoints of a run: the first one comes after a twentieth of the steps
UNTRAINED = ("--num-levels", "--codebook-size")  # what residual k-means takes of the quantizer's flags
FIGURES = {"hr@10": hit_rate, "ndcg@10": ndcg}


def main():
    args = parse_arguments()
    output, store = Path(args.output), EmbeddingStore.open(args.embeddings)
    output.mkdir(parents=True, exist_ok=True)
    runs, users = [], {}
    for seed in map(int, args.seeds.split(",")):
        make_ids(args, output / str(seed), seed)
        for method in METHODS:
            folder = output / str(seed) / method
            figures = of_ids(folder, store)
            for split in SPLITS:
                users[method, seed, split] = of_users(args, folder, seed, split)
                for name, values in users[method, seed, split].items():
                    figures[f"{split} {name}"] = float(values.mean())
            runs.append({"method": method, "seed": seed, **figures})
    report = {
        "quantize": args.quantize,
        "train": args.train,
        "items": len(store),
        "users": len(users[runs[0]["method"], runs[0]["seed"], "test"]["hr@10"]),
        "runs": runs,
        "differences": differences(users, {run["seed"] for run in runs}),
    }
    (output / "quantizers.json").write_text(json.dumps(report, indent=2))
    print(as_table(report))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", required=True, help="folder of `macrec embed`")
    parser.add_argument("--interactions", required=True, help="as for `macrec train`")
    parser.add_argument("--output", default="quantizers", help="folder for all of it (default quantizers)")
    parser.add_argument("--seeds", default="0,1,2", help="of quantizer and recommender (default 0,1,2)")
    parser.add_argument("--quantize", default="", help="flags of the quantizer")
    parser.add_argument("--train", default=shlex.join(TRAIN), help="flags of the recommender")
    parser.add_argument("--evaluate", default="", help="flags of `macrec evaluate`, such as --limit-users 2000")
    return parser.parse_args()


def macrec(*words):
    """One verb in a process of its own."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "macrec_hf.cli", *map(str, words)], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise SystemExit(f"macrec {shlex.join(map(str, words))} failed:\n{done.stderr.decode()[-3000:]}")
    print(f"# {time.monotonic() - started:6.0f} s  macrec {words[0]} … {words[-1]}", file=sys.stderr, flush=True)


def make_ids(args, folder, seed):
    """The three catalogues of a seed."""
    embeddings = ["--embeddings", Path(args.embeddings).absolute(), "--seed", seed]
    flags = shlex.split(args.quantize)
    if not (folder / "last" / "report.json").exists():
        every = ["--evaluations", EVALUATIONS, "--save-total-limit", EVALUATIONS + 2, "--keep-checkpoints"]
        macrec("quantize", *embeddings, *flags, *every, "--overwrite", "--output", (folder / "last").absolute())
    if not (folder / "kmeans" / "report.json").exists():
        sizes = [word for flag in UNTRAINED if flag in flags for word in (flag, flags[flags.index(flag) + 1])]
        to = ["--overwrite", "--output", (folder / "kmeans").absolute()]
        macrec("quantize", "--method", "residual-kmeans", *embeddings, *sizes, *to)
    if not (folder / "first" / "report.json").exists():
        store = EmbeddingStore.open(args.embeddings)
        saved = (folder / "last" / "checkpoints").glob("checkpoint-*")
        steps, checkpoint = min((int(path.name.rpartition("-")[2]), path) for path in saved)
        quantizer = MacRecQuantizer.from_pretrained(checkpoint).eval()
        table = build_semantic_ids(quantizer, store)
        write_ids(folder / "first", table, quantizer, {"collisions": table.report, "steps": steps})


def of_ids(folder, store):
    """Likeness and collisions of a catalogue."""
    report = json.loads((folder / "report.json").read_text())
    quantizer = MacRecQuantizer.from_pretrained(folder / "quantizer").eval()
    found = {"steps": report["steps"]}
    for name, codes in encode_catalogue(quantizer, store).items():
        rows = np.flatnonzero(store.present[name])
        same = likeness(codes[rows], store.rows(name, rows), quantizer.config.codebook_size)
        found |= {f"{name} like, {depth} codes": same[depth - 1]["same"] for depth in (1, 2)}
        found[f"{name} collisions"] = report["collisions"][name]["collision_rate_before"]
    return found


def of_users(args, folder, seed, split):
    """Each user's HR@10 and NDCG@10, of a recommender that is trained on these IDs."""
    inputs, model = ["--interactions", Path(args.interactions).absolute()], folder / "model"
    if not (model / "training_log.json").exists():
        ids = ["--semantic-ids", folder.absolute(), "--seed", seed]
        macrec("train", *inputs, *ids, *shlex.split(args.train), "--overwrite", "--output", model.absolute())
    lists = folder / f"{split}.jsonl"
    if not lists.exists():
        flags = ["--split", split, *shlex.split(args.evaluate), "--no-card"]
        macrec("evaluate", "--model", model.absolute(), *inputs, *flags, "--predictions", lists.absolute())
    lines = [json.loads(line) for line in lists.read_text().splitlines()]
    lines.sort(key=lambda line: line["user_id"])
    ranked = [[item for item, _ in line["ensemble"]] for line in lines]
    found = np.array([line["target"] in items for line, items in zip(lines, ranked, strict=True)])
    above = [items.index(line["target"]) if hit else 0 for line, items, hit in zip(lines, ranked, found, strict=True)]
    ranks = TiedRanks(np.array(above), found.astype(np.int64))
    return {name: figure(ranks, 10) for name, figure in FIGURES.items()}


def differences(users, seeds):
    """`{"last − first": {"test hr@10": {"difference", "low", "high", "p_value"}, …}, …}`."""
    found = {}
    for first, second in PAIRS:
        means = {
            method: {
                f"{split} {name}": np.mean([users[method, seed, split][name] for seed in sorted(seeds)], axis=0)
                for split in SPLITS
                for name in FIGURES
            }
            for method in (first, second)
        }
        found[f"{first} − {second}"] = {
            name: paired_bootstrap(values, means[second][name])._asdict() for name, values in means[first].items()
        }
    return found


def as_table(report):
    """Means over the seeds with their standard deviation, and the differences."""
    names = [name for name in report["runs"][0] if name not in ("method", "seed")]
    lines = ["| | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for name in names:
        cells = []
        for method in METHODS:
            values = [run[name] for run in report["runs"] if run["method"] == method and run[name] is not None]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"Paired over {report['users']} users, 95 % interval:"]
    for pair, figures in report["differences"].items():
        for name, found in figures.items():
            interval = f"{found['low']:+.4f} to {found['high']:+.4f}, p {found['p_value']:.4f}"
            lines.append(f"{pair}, {name}: {found['difference']:+.4f} ({interval})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
