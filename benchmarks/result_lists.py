"""The lists of every system on one data set, which `benchmarks/results.py` reads.

    python benchmarks/result_lists.py --name hm --interactions interactions.csv --embeddings emb/

A row of ours is a kind of semantic IDs and a way to train on them. It is trained in six configurations with seed 0;
the one with the best NDCG@10 on the validation users that choose is trained with the further seeds; `macrec evaluate`
writes the lists of every test user. The rows of others (SASRec and FDSA of our own; with `--rectools PYTHON`, the
interpreter of an environment of `benchmarks/baselines/requirements.txt`, SASRec and BERT4Rec of RecTools) get the CPU
minutes that the first configuration of MACRec took, and come with its row.

Row by row: as soon as one is whole, where its targets stood goes into `--figures`, `NAME.json`, and it is not made
again while it stands there. Of a row that was interrupted, whatever lies in `--output` is not made again either.
`--jobs` trains so many models at once; each takes one thread, so one a core is enough.

Each row's folder holds `seed-0.jsonl`, …, and `record.json`: configurations, CPU minutes, and whether validation had
stopped rising. Without `--interactions` a demo shop is made; `make result-lists` does that.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from ablation_rows import QUANTIZERS  # noqa: E402
from ablation_rows import ROWS as ABLATIONS  # noqa: E402
from results import FIGURES, FULL, keep_figures, read_figures  # noqa: E402

from macrec_hf import co_purchase_ids, make_demo_shop, read_interactions  # noqa: E402

LEVELS = ["--num-levels", "3"]  # the weights of the losses are one a level; enough up to 300,000 items
IDS = {name: [*LEVELS, *(flag.format(zeros="0,0,0") for flag in flags)] for name, flags in QUANTIZERS.items()}
IDS |= {
    "k-means": [*LEVELS, "--method", "residual-kmeans"],
    "with co-purchases": LEVELS,  # of embeddings that hold them
    "P5-CID": [],  # by spectral clustering
}
ROWS = {name: row for name, row in ABLATIONS.items() if name != "photos missing"}
ROWS |= {
    "residual k-means": ("k-means", []),
    "LETTER-like": ("with co-purchases", []),
    "P5-CID IDs": ("P5-CID", []),
}
OTHERS = {"own SASRec": "own_sasrec", "own FDSA": "own_fdsa"}
RECTOOLS = {"SASRec": "sasrec", "BERT4Rec": "bert4rec"}
CONFIGURATIONS = [
    f"--dropout-rate {dropout} --learning-rate {rate} --embedding-learning-rate {10 * rate:g}"
    for dropout in (0.1, 0.3)
    for rate in (0.004, 0.002, 0.008)
]


def main() -> None:
    args = parse_arguments()
    folder = args.output / args.name
    if args.interactions is None:
        args.interactions, args.items = (folder / "shop" / name for name in ("interactions.csv", "items.jsonl"))
        if not args.interactions.exists():
            make_demo_shop(folder / "shop", *map(int, args.shop.split("x")))
    if args.embeddings is None:
        args.embeddings = folder / "emb"
        macrec("embed", "--items", args.items, into=args.embeddings, result="meta.json")
    kept = args.figures / f"{args.name}.json"
    for name in args.rows:
        if name in read_figures(kept)[0]:
            print(f"{name}: in {kept} already")
            continue
        record = train_row(args, folder, name)
        lists = fill_other_rows(args, folder, record["tried"][0]["minutes"]) if name == FULL else {}
        for one in record["kept"]:
            told = [f"{other}={paths[one['seed']]}" for other, paths in lists.items()]
            words = ["evaluate", folder / name / one["model"], "--interactions", args.interactions, "--no-card"]
            words += ["--output", folder / name / f"seed-{one['seed']}.json", *(["--lists", *told] if told else [])]
            macrec(*words, into=folder / name / f"seed-{one['seed']}.jsonl", flag="--predictions")
        keep_figures(folder, name, kept)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="demo", help="of the data set (default: demo)")
    parser.add_argument("--shop", default="300x600", help="items x customers of the demo shop (default: 300x600)")
    parser.add_argument("--interactions", type=Path, help="instead of a demo shop")
    parser.add_argument("--items", type=Path, help="for --embeddings that do not exist yet")
    parser.add_argument("--embeddings", type=Path, help="folder of `macrec embed`")
    parser.add_argument("--output", type=Path, default=Path("result_lists"))
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of what is kept of finished rows")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help="(default: all)")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--configurations", type=int, default=len(CONFIGURATIONS), help="only the first so many")
    parser.add_argument("--quantize", type=shlex.split, default=[], help="further flags of macrec quantize")
    parser.add_argument("--train", type=shlex.split, default=[], help="further flags of macrec train")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once (default: 1)")
    parser.add_argument("--rectools", type=Path, help="interpreter of RecTools' environment (default: no such rows)")
    args = parser.parse_args()
    if args.jobs < 1:
        raise SystemExit(f"--jobs: expected at least 1, got {args.jobs}.")
    if set(args.rows) - set(ROWS):
        raise SystemExit(f"--rows: expected some of {', '.join(ROWS)}, got {', '.join(args.rows)}.")
    return args


def train_row(args: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """Trains the configurations of a row, then the further seeds of the best one; writes and returns its record."""
    kind = ROWS[name][0]
    if kind == "with co-purchases":
        embed_with_co_purchases(args, folder)
    at_once(args.jobs, lambda seed: ids_of(args, folder, kind, seed), product({0, *args.seeds}))
    numbers = range(min(args.configurations, len(CONFIGURATIONS)))
    tried = at_once(args.jobs, lambda number: trained(args, folder, name, number, 0), product(numbers))
    best = max(numbers, key=lambda number: tried[number]["best"])
    kept = at_once(args.jobs, lambda seed: trained(args, folder, name, best, seed), product(args.seeds))
    record = {
        "tried": [{"configuration": CONFIGURATIONS[number], **tried[number]} for number in numbers],
        "kept": [{"seed": seed, **one} for seed, one in zip(args.seeds, kept, strict=True)],
        "configuration": CONFIGURATIONS[best],
    }
    (folder / name / "record.json").write_text(json.dumps(record, indent=2))
    return record


def at_once(jobs: int, call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """What the calls return, so many of them at once."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda one: call(*one), arguments))


def trained(args: argparse.Namespace, folder: Path, name: str, number: int, seed: int) -> dict[str, Any]:
    """Trains a row's model, and says how it went: best NDCG@10 on validation, CPU minutes, whether it converged."""
    kind, flags = ROWS[name]
    model = Path("tried", str(number)) if seed == 0 else Path("further", str(seed))
    into = folder / name / model
    words = ["train", "--interactions", args.interactions, "--semantic-ids", ids_of(args, folder, kind, seed), *flags]
    words += [*args.train, *shlex.split(CONFIGURATIONS[number]), "--seed", seed]
    macrec(*words, into=into, result="training_log.json")
    log = json.loads((into / "training_log.json").read_text())
    curve = [entry["eval_ndcg@10"] for entry in log if "eval_ndcg@10" in entry]
    minutes = json.loads((into / "minutes.json").read_text())
    converged = curve[-1] < max(curve)
    return {"model": str(model), "best": max(curve), "curve": curve, "minutes": minutes, "converged": converged}


def ids_of(args: argparse.Namespace, folder: Path, kind: str, seed: int) -> Path:
    """Semantic IDs of a kind, made if they are not there."""
    path = folder / "ids" / kind / str(seed)
    if kind == "P5-CID":
        if not path.exists():
            items = json.loads((args.embeddings / "item_ids.json").read_text())
            co_purchase_ids(read_interactions(args.interactions), items, seed=seed).save_pretrained(path)
        return path
    embeddings = args.embeddings
    if kind == "with co-purchases":
        embeddings = embed_with_co_purchases(args, folder)
    further = args.quantize
    if kind == "k-means":  # no training, so none of its flags
        sizes = [place for place, word in enumerate(further) if word == "--codebook-size"]
        further = [word for place in sizes for word in further[place : place + 2]]
    words = ["quantize", "--embeddings", embeddings, *further, *IDS[kind]]
    macrec(*words, "--seed", seed, into=path, result="report.json")
    return path


def embed_with_co_purchases(args: argparse.Namespace, folder: Path) -> Path:
    """Embeddings of texts, photos and co-purchases, made if they are not there."""
    embeddings = folder / "emb_with_co_purchases"
    macrec("embed", "--items", args.items, "--interactions", args.interactions, into=embeddings, result="meta.json")
    return embeddings


def fill_other_rows(args: argparse.Namespace, folder: Path, minutes: float) -> dict[str, dict[int, Path]]:
    """Trains the systems of others. Returns their lists, by name and seed."""
    programs = ROOT / "benchmarks" / "baselines"
    own = [sys.executable, programs / "own_lists.py"]
    commands = {"own SASRec": own, "own FDSA": [*own, "--features", args.embeddings]}
    if args.rectools is not None:
        commands |= {
            name: [args.rectools, programs / "rectools_lists.py", "--system", system]
            for name, system in RECTOOLS.items()
        }
    lists = {}
    for name, command in commands.items():
        file = (OTHERS | RECTOOLS)[name]
        if not (folder / "others" / f"{file}.json").exists():
            budget = ["--minutes", minutes, "--seeds", len(args.seeds), "--configurations", args.configurations]
            run(*command, "--interactions", args.interactions, *budget, "--output", folder / "others")
        lists[file] = {seed: folder / "others" / f"{file}.seed-{seed}.jsonl" for seed in args.seeds}
    return lists


def macrec(*words: Any, into: Path, result: str = "", flag: str = "--output") -> None:
    """One verb in a process of its own, unless its result is there; `minutes.json` beside it has the CPU minutes."""
    if (into / result).exists():
        return
    overwrite = [] if words[0] == "evaluate" else ["--overwrite"]
    minutes = run(sys.executable, "-m", "macrec_hf.cli", *words, flag, into, *overwrite)
    if into.is_dir():
        (into / "minutes.json").write_text(json.dumps(minutes))


def run(*words: Any) -> float:
    """Runs a command; its CPU minutes.

    Raises:
        SystemExit: it failed.
    """
    command = [str(word) for word in words]
    print(f"$ {shlex.join(command)}", flush=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)  # so that it does not wait again
        if child.returncode:
            errors.seek(0)
            raise SystemExit(f"failed:\n{errors.read().decode()[-3000:]}")
    return (usage.ru_utime + usage.ru_stime) / 60


if __name__ == "__main__":
    main()
