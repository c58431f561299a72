"""What 5_ablations.py is made of: verbs that run once, and tables of what they left."""

import json
import shlex
from pathlib import Path

import numpy as np

from macrec_hf import (
    EmbeddingStore,
    RankedLists,
    bootstrap_interval,
    make_demo_shop,
    paired_bootstrap,
    user_metrics,
)
from macrec_hf.cli import main

METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
COMPARED = ("hr@10", "ndcg@10")


def run_step(folder: Path, words: list) -> Path:
    """Runs `macrec VERB …` into `folder`, which it returns: only once, and on from where it was stopped."""
    verb = words[0]
    lists = ["--output", folder / "metrics.json", "--predictions", folder / "lists.jsonl"]
    words = [str(word) for word in [*words, *(lists if verb == "evaluate" else ["--output", folder])]]
    folder.mkdir(parents=True, exist_ok=True)
    record, command = folder / f"{verb}_step.json", shlex.join(["macrec", *words])
    begun = record.is_file()
    before = json.loads(record.read_text()) if begun else {"command": command, "finished": False}
    if before["command"] != command:
        raise SystemExit(
            f"{folder}: expected what `{command}` makes, found what `{before['command']}` made. Choose another "
            "--output, or remove the folder."
        )
    if not before["finished"]:
        record.write_text(json.dumps(before))
        print(f"\n$ {command}", flush=True)
        stopped = {"embed": ["--overwrite"], "quantize": ["--resume"], "train": ["--resume"]}
        if main(words + stopped.get(verb, []) * begun):
            raise SystemExit(f"`{command}` failed; its error stands above.")
        record.write_text(json.dumps(before | {"finished": True}))
    return folder


def demo_shop(output: Path, num_items: int, num_customers: int, seed: int) -> Path:
    """The folder of a demo shop of this size below `output`, made if it is not there."""
    folder = output / f"shop_{num_items}_{num_customers}_{seed}"
    if not (folder / "interactions.csv").is_file():
        make_demo_shop(folder, num_items, num_customers, seed)
    return folder


def embeddings_without_photos(embeddings: Path, share: float, seed: int, output: Path) -> Path:
    """A copy of the embeddings, below `output`, in which this share of the photos, drawn at random, is missing."""
    if not 0 < share < 1:
        raise SystemExit(f"--drop-photos: expected a share between 0 and 1, got {share}.")
    store = EmbeddingStore.open(embeddings)
    have = np.flatnonzero(store.present["image"])
    gone = np.random.default_rng(seed).choice(have, round(share * len(have)), replace=False)
    missing = {name: [store.item_ids[row] for row in np.flatnonzero(~here)] for name, here in store.present.items()}
    missing["image"] += [store.item_ids[row] for row in sorted(gone)]
    return EmbeddingStore(store.arrays, store.item_ids, missing, store.encoders).save(output / f"emb_without_{share}")


def user_figures(tests: list[Path]) -> np.ndarray:
    """Each user's figures of the ensemble, `(num_users, num_metrics)`, the mean over the seeds."""
    of_seeds = []
    for test in tests:
        rows = [json.loads(line) for line in (test / "lists.jsonl").read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: row["user_id"])
        lists = [[item == row["target"] for item, _ in row["ensemble"]] for row in rows]
        items = np.full((len(rows), max(map(len, lists))), -1)  # 1 for the target, 0 for others, -1 in empty places
        for places, found in zip(items, lists, strict=True):
            places[: len(found)] = found
        scores = np.tile(-np.arange(items.shape[1], dtype=np.float32), (len(items), 1))  # distinct IDs: no ties
        figures = user_metrics(RankedLists(items, scores), np.ones(len(items), dtype=np.int64))
        of_seeds.append(np.stack([figures[name] for name in METRICS], axis=1))
    return np.mean(of_seeds, axis=0)


def row_report(figures: np.ndarray, full: np.ndarray | None) -> dict:
    """A row: value and 95 % interval of each metric, and its paired difference to the first row."""
    low, high = bootstrap_interval(figures)
    report = {
        name: {"value": figures[:, place].mean(), "low": low[place], "high": high[place]}
        for place, name in enumerate(METRICS)
    }
    pairs = () if full is None else ((name, METRICS.index(name)) for name in COMPARED)
    against = {name: paired_bootstrap(figures[:, place], full[:, place])._asdict() for name, place in pairs}
    return {"metrics": report, "against_first": against}


def write_tables(output: Path, tests: dict[str, list[Path]], quantizers: dict[str, list[Path]]) -> str:
    """Writes `ablations.json` and `ablations.md` into `output`; returns the latter's text."""
    figures = {name: user_figures(test) for name, test in tests.items()}
    first = next(iter(figures))
    rows = {name: row_report(values, None if name == first else figures[first]) for name, values in figures.items()}
    collisions = {}
    for name, folders in quantizers.items():
        reports = [json.loads((folder / "report.json").read_text())["collisions"] for folder in folders]
        rates = {m: np.mean([report[m]["collision_rate_before"] for report in reports]) for m in reports[0]}
        collisions[name] = {m: [rate, reports[0][m]["num_items"]] for m, rate in rates.items()}
    (output / "ablations.json").write_text(json.dumps({"rows": rows, "collision_rates": collisions}, indent=2))
    seeds = f"{len(tests[first])} seed{'s' * (len(tests[first]) > 1)}"
    lines = [f"Test split, {len(figures[first])} users, ensemble, {seeds}, 95 % bootstrap intervals over users.", ""]
    differences = [f"{name.upper()} − {first}" for name in COMPARED]
    lines += markdown_head(["", *(name.upper() for name in METRICS), *differences])
    lines += [markdown_row([name, *metric_cells(row)]) for name, row in rows.items()]
    lines += [
        "",
        "Differences: paired bootstrap over the same users, two-sided p, not corrected for their number.",
        "",
    ]
    modalities = list(dict.fromkeys(modality for rates in collisions.values() for modality in rates))
    lines += markdown_head(["collision rate before resolution", *modalities])
    for name, rates in collisions.items():
        cells = ["{:.2%} of {:,} items".format(*rates[m]) if m in rates else "" for m in modalities]
        lines.append(markdown_row([name, *cells]))
    text = "\n".join(lines) + "\n"
    (output / "ablations.md").write_text(text, encoding="utf-8")
    return text


def metric_cells(row: dict) -> list[str]:
    cells = [f"{one['value']:.4f} ({one['low']:.3f}–{one['high']:.3f})" for one in row["metrics"].values()]
    differences = [
        f"{one['difference']:+.4f} ({one['low']:+.3f} to {one['high']:+.3f}), p {one['p_value']:.3f}"
        for one in row["against_first"].values()
    ]
    return cells + (differences or [""] * len(COMPARED))


def markdown_head(cells: list[str]) -> list[str]:
    return [markdown_row(cells), "|" + "---|" * len(cells)]


def markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
