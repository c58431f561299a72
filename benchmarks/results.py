"""The tables of docs/results.md: `python benchmarks/results.py`.

They are made from `benchmarks/figures/NAME.json`, one file a data set, which `benchmarks/result_lists.py` writes row
by row: in whose list the target stood where. Figures, intervals and tests are computed from that in seconds.

The table of each data set is printed, and written between the lines `<!-- table: NAME -->` and `<!-- end -->` of
`--page`, where it has them.

A row's figures are means over the test users, each user's the mean over the seeds; users are resampled for the 95 %
intervals, and the range of the seeds stands beside. Differences to the two rows that were fixed before, the blend and
MACRec's ensemble, are paired over users, with p-values by Holm over the rows of the table. A trained row whose
validation still rose at its end is marked and not tested against, also where it is one of those two.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "baselines")]

from purchases import without_own  # noqa: E402

from macrec_hf import bootstrap_interval, paired_bootstrap  # noqa: E402
from macrec_hf.data.histories import user_histories  # noqa: E402
from macrec_hf.data.splits import SplitUsers, split_users  # noqa: E402

FIGURES = ROOT / "benchmarks" / "figures"
FULL, BLEND, ENSEMBLE = "MACRec", "blend", "ensemble"
K, METRICS, COLUMNS = 10, ("HR@10", "NDCG@10"), ("shown", "hidden")
LISTS, REPORT = "lists.jsonl", "evaluation.json"  # of `macrec evaluate`, in a model's folder
TOLD = ("user_id", "target", "hidden")  # of a line of predictions; everything else is a list
BEGIN, END = "<!-- table: {} -->\n", "<!-- end -->\n"


@dataclass
class Row:
    """A system's answers.

    Attributes:
        places: `(num_seeds, 2, num_users)`: where the target stands in a user's list, shown and hidden; 1 is the first
            place, 0 none of the first ten.
        coverage: of the first seed, shown and hidden; None where it is not known.
        record: how it was trained; None where nothing was.
    """

    places: list[list[list[int]]]
    coverage: list[float | None]
    record: dict[str, Any] | None = None

    @property
    def figures(self) -> np.ndarray:
        """`(num_seeds, num_users, 2, 2)`: by column, shown and hidden, and metric, HR@10 and NDCG@10."""
        places = np.array(self.places).transpose(0, 2, 1)
        hit = places > 0
        return np.stack([hit, hit / np.log2(places.clip(min=1) + 1)], axis=-1)

    @property
    def users(self) -> np.ndarray:
        """Each user's mean over the seeds, `(num_users, 2, 2)`."""
        return self.figures.mean(axis=0)

    @property
    def converged(self) -> bool:
        return self.record is None or all(one["converged"] for one in self.record["kept"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the data sets' files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    args = parser.parse_args()
    for path in sorted(args.figures.glob("*.json")):
        rows, about = read_figures(path)
        if FULL not in rows:
            print(f"{path.stem}: {FULL}, which the others are compared with, has no row yet.")
            continue
        text = table(rows, about)
        print(f"{path.stem}\n{text}", flush=True)
        begin = BEGIN.format(path.stem)
        page = args.page.read_text(encoding="utf-8")
        inside, end, _ = page.partition(begin)[2].partition(END)
        if page.count(begin) != 1 or not end or BEGIN.partition("{")[0] in inside:
            print(f"{args.page} stays as it is: `{begin.strip()}` and `{END.strip()}` would give the table a place.")
            continue
        before, _, rest = page.partition(begin)
        args.page.write_text(before + begin + text + rest[rest.index(END) :], encoding="utf-8")


def read_figures(path: Path) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows of a data set, and what all of them share; nothing where there is no such file.

    Raises:
        SystemExit: the file is damaged.
    """
    if not path.exists():
        return {}, {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {name: Row(**row) for name, row in about.pop("rows").items()}, about
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(
            f"{path}: expected the figures of result_lists.py, found something else ({error!r})."
        ) from None


def keep_figures(folder: Path, name: str, interactions: pd.DataFrame, path: Path) -> None:
    """Adds a row whose lists are there to a data set's figures; with MACRec's come the blend and counting.

    Raises:
        SystemExit: lists of other users or purchases than these, or than those of the rows before.
    """
    record = json.loads((folder / name / "record.json").read_text())
    models = [folder / name / one["model"] for one in record["kept"]]
    lists, report = [read_predictions(model / LISTS) for model in models], json.loads((models[0] / REPORT).read_text())
    item_ids, users = tested(interactions)
    targets = {user: item_ids[row] for user, row in zip(users.user_ids, users.targets, strict=True)}
    for model, lines in zip(models, lists, strict=True):
        if {line["user_id"]: line["target"] for line in lines} != targets:
            raise SystemExit(
                f"{model / LISTS}: expected lists of the {len(users)} users with a test purchase, got others."
            )
    rows = {name: row_of(lists, ENSEMBLE, report, record)}
    if name == FULL:
        counted = [one for one in lists[0][0] if one not in {*TOLD, *report["model_rows"]}]
        rows = {BLEND: row_of(lists, BLEND, report, record)} | rows
        rows |= {one: row_of(lists[:1], one, report) for one in counted}
    shared = {one: report[one] for one in ("quoted", "num_users", "num_items")}
    add_rows(path, rows, shared | {"purchases": digest(interactions)})


def keep_other_figures(
    folder: Path, name: str, settings: Mapping[str, Any], interactions: pd.DataFrame, path: Path
) -> None:
    """Adds the row of a system that is not ours, whose lists `macrec evaluate --lists` would read, beside MACRec's.

    Args:
        settings: what decides on the row, for its record.

    Raises:
        SystemExit: lists of other users or purchases than those of the rows before.
    """
    (item_ids, users), (_, about) = tested(interactions), read_figures(path)
    row_of = {item: row for row, item in enumerate(item_ids)}
    order = sorted(range(len(users)), key=users.user_ids.__getitem__)
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) | {"settings": settings}
    places, coverage = [], []
    for seed in (kept["seed"] for kept in record["kept"]):
        file = folder / f"{name}.seed-{seed}.jsonl"
        lists = {line["user_id"]: line["items"] for line in read_predictions(file)}
        if set(lists) != set(users.user_ids):
            raise SystemExit(
                f"{file}: expected lists of the {len(users)} users with a test purchase, got {len(lists)}."
            )
        # Also items that nobody bought.
        shown = np.array([[row_of.setdefault(i, len(row_of)) for i in lists[user]] for user in users.user_ids])
        columns = [ranked[:, :K] for ranked in (shown, without_own(shown, users.histories))]
        hits = [ranked == np.asarray(users.targets)[:, None] for ranked in columns]
        places.append([np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)[order].tolist() for hit in hits])
        coverage = coverage or [len(np.unique(ranked[ranked >= 0])) / about["num_items"] for ranked in columns]
    add_rows(path, {name: Row(places, coverage, record)}, about | {"purchases": digest(interactions)})


def tested(interactions: pd.DataFrame) -> tuple[list[str], SplitUsers]:
    """The items that are sold, and the users who are tested, whose histories and targets are rows of these."""
    item_ids = list(dict.fromkeys(interactions["item_id"]))
    histories = user_histories(interactions, {item: row for row, item in enumerate(item_ids)})
    return item_ids, split_users(histories, "test")


def digest(interactions: pd.DataFrame) -> str:
    """Of all purchases, so that rows can be compared user by user."""
    return hashlib.sha256(interactions[["user_id", "item_id", "timestamp"]].to_csv(index=False).encode()).hexdigest()


def add_rows(path: Path, rows: dict[str, Row], about: dict[str, Any]) -> None:
    """Writes a data set's figures with further rows.

    Raises:
        SystemExit: they are of other users or purchases than the rows before.
    """
    before, known = read_figures(path)
    if known and known != about:
        raise SystemExit(
            f"{', '.join(rows)}: expected lists of the purchases of the rows before, {known}; got {about}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(asdict(row))}" for name, row in (before | rows).items()]
    head = json.dumps(about)[:-1]
    beside = path.with_suffix(".part")
    beside.write_text(head + ', "rows": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    beside.replace(path)


def read_predictions(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:  # not by splitlines(), which also splits within ids
        return sorted(map(json.loads, file), key=lambda line: line["user_id"])


def row_of(
    seeds: Sequence[list[dict[str, Any]]], name: str, report: dict[str, Any], record: dict[str, Any] | None = None
) -> Row:
    """Where the targets stand in one list of each line."""
    places = [[[place_of(line, column, name) for line in lines] for column in COLUMNS] for lines in seeds]
    return Row(places, [part["coverage"].get(name) for part in (report, report["hidden"])], record)


def place_of(line: dict[str, Any], column: str, name: str) -> int:
    """The target's place in a user's list, items of one score in the order of the list; 0 where it is not there."""
    lists = line if column == "shown" else line["hidden"]
    items = [item for item, _ in lists.get(name, [])[:K]]
    return items.index(line["target"]) + 1 if line["target"] in items else 0


def holm(values: dict[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: the smallest times the number of tests, the next times one less, never falling."""
    adjusted, highest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, value * (len(values) - rank)))
        adjusted[name] = highest
    return adjusted


def table(rows: dict[str, Row], about: dict[str, Any]) -> str:
    """A Markdown table, and below it how the rows were trained."""
    column = COLUMNS.index(about["quoted"])
    other = 1 - column
    quoted = {name: row.users[:, column] for name, row in rows.items()}
    against = {reference: differences(rows, quoted, reference) for reference in (BLEND, FULL)}
    head = [f"own history {about['quoted']}: HR@10", "NDCG@10", "its range over the seeds"]
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
        covered = row.coverage[column]
        cells.append("" if covered is None else f"{covered:.0%}")
        label = f"**{name}**" if name in (BLEND, FULL) else name
        lines.append(f"| {label}{'' if row.converged else ', not converged'} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{about['num_users']:,} test users, {about['num_items']:,} items, {len(rows[FULL].places)} seeds of trained "
        f"rows{'; differences paired over users, p by Holm over the rows' if any(against.values()) else ''}.",
        "",
        "Trained rows: configurations tried, CPU minutes of a training, the configuration that was kept.",
        "",
    ]
    lines += [f"- {name}: {told(row.record)}" for name, row in rows.items() if row.record and name != BLEND]
    return "\n".join(lines) + "\n"


def differences(rows: dict[str, Row], users: dict[str, np.ndarray], reference: str) -> dict[str, str]:
    """The cells of a reference: each row that converged less it, in NDCG@10; none where it has not converged."""
    if not rows[reference].converged:
        return {}
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
