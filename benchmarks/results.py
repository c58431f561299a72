"""The tables of docs/results.md from lists of `benchmarks/result_lists.py`: `python benchmarks/results.py`.

The table of each folder of `--lists` is printed, and written between the lines `<!-- table: NAME -->` and
`<!-- end -->` of `--page`, where it has them.

A row's figures are means over the test users, each user's the mean over the seeds; users are resampled for the 95 %
intervals, and the range of the seeds stands beside. Differences to the two rows that were fixed before, the blend and
MACRec's ensemble, are paired over users, with p-values by Holm over the rows of the table. A trained row whose
validation still rose at its end is marked and not tested against.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from macrec_hf import bootstrap_interval, paired_bootstrap

ROOT = Path(__file__).resolve().parents[1]
FULL, BLEND, ENSEMBLE = "MACRec", "blend", "ensemble"
K, METRICS, COLUMNS = 10, ("HR@10", "NDCG@10"), ("shown", "hidden")
TOLD = ("user_id", "target", "hidden")  # of a line of predictions; everything else is a list
BEGIN, END = "<!-- table: {} -->\n", "<!-- end -->\n"


@dataclass
class Row:
    """A system's figures.

    Attributes:
        figures: `(num_seeds, num_users, 2, 2)`: by column, shown and hidden, and metric, HR@10 and NDCG@10.
        record: how it was trained; None where nothing was.
    """

    figures: np.ndarray
    record: dict[str, Any] | None = None

    @property
    def users(self) -> np.ndarray:
        """Each user's mean over the seeds, `(num_users, 2, 2)`."""
        return self.figures.mean(axis=0)

    @property
    def converged(self) -> bool:
        return self.record is None or all(one["converged"] for one in self.record["kept"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, default=Path("result_lists"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    args = parser.parse_args()
    for folder in sorted(path.parent.parent for path in args.lists.glob(f"*/{FULL}/seed-0.jsonl")):
        rows, report = read_rows(folder)
        text = table(rows, report)
        print(f"{folder.name}\n{text}", flush=True)
        begin = BEGIN.format(folder.name)
        page = args.page.read_text(encoding="utf-8")
        if page.count(begin) != 1 or END not in page.partition(begin)[2]:
            print(f"{args.page} stays as it is: `{begin.strip()}` and `{END.strip()}` would give the table a place.")
            continue
        before, _, rest = page.partition(begin)
        args.page.write_text(before + begin + text + rest[rest.index(END) :], encoding="utf-8")


def read_rows(folder: Path) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows of a data set, and the report of MACRec's first model."""
    full = [read_predictions(path) for path in sorted((folder / FULL).glob("seed-*.jsonl"))]
    report = json.loads((folder / FULL / "seed-0.json").read_text())
    order = [line["user_id"] for line in full[0]]
    others = {path.stem: json.loads(path.read_text()) for path in (folder / "others").glob("*.json")}
    ours = json.loads((folder / FULL / "record.json").read_text())
    rows = {BLEND: row_of(full, BLEND, order, ours), FULL: row_of(full, ENSEMBLE, order, ours)}
    for path in sorted(folder.glob("*/record.json"), key=lambda path: path.stat().st_mtime):
        if path.parent.name != FULL:
            lists = [read_predictions(one) for one in sorted(path.parent.glob("seed-*.jsonl"))]
            rows[path.parent.name] = row_of(lists, ENSEMBLE, order, json.loads(path.read_text()))
    rows |= {name: row_of(full, name, order, record) for name, record in others.items()}
    counted = [name for name in full[0][0] if name not in {*TOLD, *report["model_rows"], *others}]
    return rows | {name: row_of(full[:1], name, order) for name in counted}, report


def read_predictions(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(lines, key=lambda line: line["user_id"])


def row_of(
    seeds: Sequence[list[dict[str, Any]]], name: str, order: Sequence[str], record: dict[str, Any] | None = None
) -> Row:
    """The figures of one list of each line.

    Raises:
        SystemExit: predictions of other users.
    """
    for lines in seeds:
        if [line["user_id"] for line in lines] != list(order):
            raise SystemExit(f"{name}: expected predictions of the same users as of {FULL}'s first model.")
    return Row(np.array([[figures_of(line, name) for line in lines] for lines in seeds]), record)


def figures_of(line: dict[str, Any], name: str) -> list[list[float]]:
    """HR@10 and NDCG@10 of a user's list, shown and hidden, items of one score in the order of the list."""
    found = []
    for lists in (line, line["hidden"]):
        items = [item for item, _ in lists[name][:K]] if name in lists else []
        place = items.index(line["target"]) if line["target"] in items else None
        found.append([0.0, 0.0] if place is None else [1.0, 1 / np.log2(place + 2)])
    return found


def holm(values: dict[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: the smallest times the number of tests, the next times one less, never falling."""
    adjusted, highest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, value * (len(values) - rank)))
        adjusted[name] = highest
    return adjusted


def table(rows: dict[str, Row], report: dict[str, Any]) -> str:
    """A Markdown table, and below it how the rows were trained."""
    column = COLUMNS.index(report["quoted"])
    other = 1 - column
    quoted = {name: row.users[:, column] for name, row in rows.items()}
    against = {reference: differences(rows, quoted, reference) for reference in (BLEND, FULL)}
    head = [f"own history {report['quoted']}: HR@10", "NDCG@10", "its range over the seeds"]
    head += [f"{COLUMNS[other]}: HR@10", "NDCG@10", "NDCG@10 − blend", f"NDCG@10 − {FULL}", "coverage"]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name in sorted(rows, key=lambda name: -quoted[name][:, 1].mean()):
        row = rows[name]
        low, high = bootstrap_interval(quoted[name])
        cells = [f"{quoted[name][:, m].mean():.4f} ({low[m]:.4f}–{high[m]:.4f})" for m in range(len(METRICS))]
        ends = row.figures[:, :, column, 1].mean(axis=1)
        cells.append(f"{ends.min():.4f}–{ends.max():.4f}" if len(ends) > 1 else "")
        cells += [f"{row.users[:, other, m].mean():.4f}" for m in range(len(METRICS))]
        cells += [against[reference].get(name, "") for reference in (BLEND, FULL)]
        place = ENSEMBLE if name == FULL else name
        covered = (report["hidden"] if column else report)["coverage"].get(place)
        cells.append("" if covered is None else f"{covered:.0%}")
        label = f"**{name}**" if name in (BLEND, FULL) else name
        lines.append(f"| {label}{'' if row.converged else ', not converged'} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{report['num_users']:,} test users, {report['num_items']:,} items, {len(rows[FULL].figures)} seeds; "
        "differences paired over users, p by Holm over the rows.",
        "",
        "Trained rows: configurations tried, CPU minutes of a training, the configuration that was kept.",
        "",
    ]
    lines += [f"- {name}: {told(row.record)}" for name, row in rows.items() if row.record and name != BLEND]
    return "\n".join(lines) + "\n"


def differences(rows: dict[str, Row], users: dict[str, np.ndarray], reference: str) -> dict[str, str]:
    """The cells of one reference: each row that converged less it, in NDCG@10."""
    found = {
        name: paired_bootstrap(values[:, 1], users[reference][:, 1])
        for name, values in users.items()
        if name != reference and rows[name].converged
    }
    adjusted = holm({name: one.p_value for name, one in found.items()})
    return {
        name: f"{one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f}), p {adjusted[name]:.3f}"
        for name, one in found.items()
    }


def told(record: dict[str, Any]) -> str:
    """How a row was trained, in words."""
    minutes = [one["minutes"] for one in [*record["tried"], *record["kept"]]]
    chosen = record.get("configuration") or record["kept"][0]["configuration"]
    if not isinstance(chosen, str):
        chosen = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return f"{len(record['tried'])}, {min(minutes):.1f} to {max(minutes):.1f}; kept `{chosen}`"


if __name__ == "__main__":
    main()
