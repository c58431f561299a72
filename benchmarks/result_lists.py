"""The lists of every system on one data set, which `benchmarks/results.py` reads.

    python benchmarks/result_lists.py --name hm --interactions interactions.csv --embeddings emb/

A row of ours is a kind of semantic IDs and a way to train on them. It is trained in six configurations with seed 0;
the one with the best NDCG@10 on the validation users that choose is trained with the further seeds; `macrec evaluate`
writes the lists of every test user. The rows of others (SASRec and FDSA of our own; with `--rectools PYTHON`, the
interpreter of an environment of `benchmarks/baselines/requirements.txt`, SASRec and BERT4Rec of RecTools) get the CPU
minutes that the first configuration of MACRec took.

Row by row: as soon as one is whole, where its targets stood goes into `--figures`, `NAME.json`, and it is not made
again while it stands there. Of a row that was interrupted, whatever lies in `--output` is not made again either.
Both are refused where purchases or flags have changed since.
`--jobs` trains so many models at once; each takes one thread, so one a core is enough.

Each row's folder holds `record.json`: configurations, CPU minutes, and whether validation had stopped rising; each of
its models' folders `lists.jsonl` once it is evaluated. Without `--interactions` a demo shop is made; `make
result-lists` does that.
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

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from ablation_rows import QUANTIZERS  # noqa: E402
from ablation_rows import ROWS as ABLATIONS  # noqa: E402
from results import (  # noqa: E402
    FIGURES,
    FULL,
    LISTS,
    REPORT,
    Row,
    digest,
    keep_figures,
    keep_other_figures,
    read_figures,
)

from macrec_hf import EmbeddingStore, co_purchase_ids, make_demo_shop, read_interactions  # noqa: E402
from macrec_hf.catalogue.co_purchases import MODALITY, co_purchase_embeddings  # noqa: E402
from macrec_hf.cli.demo import TRAIN  # noqa: E402
from macrec_hf.data.learned_purchases import LEARNED_FROM, training_purchases  # noqa: E402

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
START = ["--copy-initializer-factor", "0"]  # T5's own, as in the papers, for every row of ours
OTHERS, RECTOOLS = ["own_sasrec", "own_fdsa"], ["sasrec", "bert4rec"]
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
    interactions, kept = read_interactions(args.interactions), args.figures / f"{args.name}.json"
    check_purchases(args, folder, digest(interactions), kept)
    for name in args.rows:
        if is_kept(args, name, kept):
            continue
        for one in train_row(args, folder, name)["kept"]:
            model = folder / name / one["model"]
            words = ["evaluate", model, "--interactions", args.interactions, "--no-card", "--output", model / REPORT]
            macrec(*words, into=model / LISTS, flag="--predictions")
        keep_figures(folder, name, interactions, kept)
    for name, command in other_commands(args).items():
        if not is_kept(args, name, kept):
            fill_other_row(args, folder / "others", name, command, read_figures(kept)[0])
            keep_other_figures(folder / "others", name, settings(args, name), interactions, kept)


def check_purchases(args: argparse.Namespace, folder: Path, purchases: str, kept: Path) -> None:
    """Refuses purchases or flags that are not those of what lies in the folder or is kept, before anything is trained.

    Raises:
        SystemExit: they are others.
    """
    _, about = read_figures(kept)
    if about and about["purchases"] != purchases:
        raise SystemExit(
            f"{args.interactions}: expected the purchases of the rows in {kept}, got others: take another --name."
        )
    shop = str(args.embeddings) if args.embeddings != folder / "emb" else args.shop
    made = {"purchases": purchases, "shop": shop, "quantize": args.quantize, "train": args.train}
    file = folder / "settings.json"
    if file.exists() and (before := json.loads(file.read_text())) != made:
        raise SystemExit(
            f"{folder}: expected what its models were made with, {before}, got {made}: take another --output."
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made))


def is_kept(args: argparse.Namespace, name: str, kept: Path) -> bool:
    """Whether a row is whole; says so.

    Raises:
        SystemExit: it was made with other settings.
    """
    rows, _ = read_figures(kept)
    if name not in rows:
        return False
    made = (rows[name].record or {}).get("settings")
    if made != settings(args, name):
        raise SystemExit(f"{name}: in {kept} by {made}, not {settings(args, name)}. Take another --name.")
    print(f"{name}: in {kept} already")
    return True


def settings(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """What decides on a row besides its name and the data."""
    ours = {"quantize": args.quantize, "train": args.train} if name in ROWS else {}
    return {"seeds": args.seeds, "configurations": args.configurations, **ours}


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
    parser.add_argument(
        "--others", type=lambda text: text.split(","), help="(default: all, RecTools' with --rectools)"
    )
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--configurations", type=int, default=len(CONFIGURATIONS), help="only the first so many")
    parser.add_argument("--quantize", type=shlex.split, default=[], help="further flags of macrec quantize")
    parser.add_argument("--train", type=shlex.split, help="further flags of macrec train (default: none; the demo's)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once (default: 1)")
    parser.add_argument("--rectools", type=Path, help="interpreter of RecTools' environment (default: no such rows)")
    args = parser.parse_args()
    for flag in ("jobs", "configurations"):
        if getattr(args, flag) < 1:
            raise SystemExit(f"--{flag}: expected at least 1, got {getattr(args, flag)}.")
    if args.seeds != list(range(len(args.seeds))):
        raise SystemExit(f"--seeds: expected 0 and those after it, such as 0,1,2, got {args.seeds}.")
    others = OTHERS + RECTOOLS * (args.rectools is not None)
    args.others = others if args.others is None else args.others
    for flag, known in (("rows", ROWS), ("others", others)):
        if set(given := getattr(args, flag)) - set(known):
            raise SystemExit(f"--{flag}: expected some of {', '.join(known)}, got {', '.join(given)}.")
    if args.interactions is not None and args.items is None and args.embeddings is None:
        raise SystemExit("--items: expected the items to embed, or --embeddings, got neither.")
    if args.others and args.interactions is not None and args.interactions.suffix not in (".csv", ".json"):
        raise SystemExit(f"--interactions: the systems of others read .csv or .json, got {args.interactions}.")
    if args.train is None:
        args.train = TRAIN if args.interactions is None else []
    return args


def train_row(args: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """Trains the configurations of a row, then the further seeds of the best one; writes and returns its record."""
    kind = ROWS[name][0]
    if kind == "with co-purchases":
        embed_with_co_purchases(args, folder)
    at_once(args.jobs, lambda seed: ids_of(args, folder, kind, seed), product(args.seeds))
    numbers = range(min(args.configurations, len(CONFIGURATIONS)))
    tried = at_once(args.jobs, lambda number: trained(args, folder, name, number, 0), product(numbers))
    best = max(numbers, key=lambda number: tried[number]["best"])
    kept = at_once(args.jobs, lambda seed: trained(args, folder, name, best, seed), product(args.seeds))
    record = {
        "tried": [{"configuration": CONFIGURATIONS[number], **tried[number]} for number in numbers],
        "kept": [{"seed": seed, **one} for seed, one in zip(args.seeds, kept, strict=True)],
        "configuration": CONFIGURATIONS[best],
        "settings": settings(args, name),
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
    model = Path("tried", str(number)) if seed == 0 else Path("further", f"{number}-seed-{seed}")
    into = folder / name / model
    words = ["train", "--interactions", args.interactions, "--semantic-ids", ids_of(args, folder, kind, seed), *flags]
    words += [*args.train, *START, *shlex.split(CONFIGURATIONS[number]), "--seed", seed]
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
    """The embeddings with those of co-purchases beside them, made if they are not there."""
    into = folder / "emb_with_co_purchases"
    if not (into / "meta.json").exists():
        store = EmbeddingStore.open(args.embeddings)
        row_of = {item: row for row, item in enumerate(store.item_ids)}
        sequences, about = training_purchases(read_interactions(args.interactions), row_of)
        rows, present = co_purchase_embeddings(sequences, len(store))
        missing = {
            name: [store.item_ids[row] for row in np.flatnonzero(~there)]
            for name, there in {**store.present, MODALITY: present}.items()
        }
        store = EmbeddingStore({**store.arrays, MODALITY: rows}, store.item_ids, missing)
        store.save(into, {MODALITY: {LEARNED_FROM: about}})
    return into


def other_commands(args: argparse.Namespace) -> dict[str, list[Any]]:
    """The programs of the systems of others, by the names of their rows and files."""
    programs = ROOT / "benchmarks" / "baselines"
    own = [sys.executable, programs / "own_lists.py"]
    commands = {"own_sasrec": own, "own_fdsa": [*own, "--features", args.embeddings]}
    commands |= {name: [args.rectools, programs / "rectools_lists.py", "--system", name] for name in RECTOOLS}
    return {name: command for name, command in commands.items() if name in args.others}


def fill_other_row(args: argparse.Namespace, into: Path, name: str, command: list[Any], rows: dict[str, Row]) -> None:
    """Trains a system of others as long as MACRec's first configuration took, unless its lists are there.

    Raises:
        SystemExit: MACRec has no row yet.
    """
    if (into / f"{name}.json").exists():
        return
    if FULL not in rows or rows[FULL].record is None:
        raise SystemExit(f"{name}: expected {FULL}'s row first, which says how many minutes a training may take.")
    budget = ["--minutes", rows[FULL].record["tried"][0]["minutes"]]
    budget += ["--seeds", len(args.seeds), "--configurations", args.configurations]
    run(*command, "--interactions", args.interactions, *budget, "--output", into)


def macrec(*words: Any, into: Path, result: str = "", flag: str = "--output") -> None:
    """One verb in a process of its own, unless its result is there; `minutes.json` beside it has the CPU minutes."""
    if into.is_file() or all((into / file).exists() for file in (result, "minutes.json")):
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
