"""What `macrec evaluate` shows of a report: two rows that answer, and on request the whole tables."""

from collections.abc import Collection, Sequence
from typing import Any

Column = dict[str, Any]  # a report of `macrec evaluate`, or what stands under its "hidden"

_COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
_ANSWER = ("hr@10", "ndcg@10")
_METRIC = "ndcg@10"
_HEADS = {"seen": "seen items", "unseen": "unseen items", "new_customers": "new customers"}


def answer(report: Column, lists: Collection[str] = (), tables: bool = False) -> list[str]:
    """The lines above the verdict.

    Args:
        report: of `macrec evaluate`, or the mean of several seeds.
        lists: rows of other libraries, which are shown too.
        tables: whether everything is shown first, both with the users' own history shown and with it hidden.
    """
    quoted = report["hidden"] if report["quoted"] == "hidden" else report
    lines = [line for name in ("shown", "hidden") for line in _whole(report, name)] if tables else []
    rows = [*dict.fromkeys([*_compared(report), *(name for name in lists if name in quoted["coverage"])])]
    lines += [f"own history {report['quoted']}, the table to quote:", *_table(quoted, rows, _ANSWER)]
    lines += _by_time(quoted, rows)
    what = "standard deviation over the seeds" if "sd" in report else "half of the 95 % bootstrap interval over users"
    lines.append(f"± {what}; coverage: share of the items in somebody's top 10")
    by_time = report["split"] == "time"
    lines += _facts(report) if by_time else []
    number = report["num_purchases" if by_time else "num_users"]
    all_of_them = "all" if report["settings"]["limit_users"] else f"the {number:,}"  # the rate is everybody's
    took_again = "later purchases are of what they had" if by_time else "users took again what they had"
    lines.append(
        f"{report['repeat_rate']:.1%} of {all_of_them} {took_again}: the table to quote "
        + ("shows own history, from 1 % on" if report["quoted"] == "shown" else "hides own history, below 1 %")
    )
    if report["split"] == "validation" and "blend" in report["model_rows"]:
        lines.append("the blend was fitted on validation purchases: its row here flatters it, --split test does not")
    others = len(quoted["coverage"]) - len(rows)
    return lines if tables else [*lines, f"{others} more rows, and the other table: --tables shows them"]


def _compared(report: Column) -> list[str]:
    """The model's row and the best other one, of each seed where there are several."""
    verdicts = [of_seed["verdict"] for of_seed in report.get("seeds", [report])]
    return [*dict.fromkeys([*(found["row"] for found in verdicts), *(found["best"] for found in verdicts)])]


def _whole(report: Column, name: str) -> list[str]:
    column = report["hidden"] if name == "hidden" else report
    names = list(column["coverage"])
    return [f"own history {name}:", *_table(column, names, _COLUMNS), *_by_time(column, names), ""]


def _table(column: Column, names: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Of each row value, its uncertainty, and the coverage."""
    width = max(len(name) for name in names)
    lines = [" " * width + "".join(f"{metric:>17}" for metric in metrics) + f"{'coverage':>10}"]
    for name in names:
        cells = "".join(_cell(column, name, metric).rjust(17) for metric in metrics)
        lines.append(f"{name:<{width}}{cells}{column['coverage'][name]:>10.3f}")
    return lines


def _by_time(column: Column, names: Sequence[str]) -> list[str]:
    """NDCG@10 by kind of purchase, and the places given to unseen items.

    Nothing for a column of another split, nor where all purchases are of one kind and no place is given away.
    """
    if "unseen_places" not in column:
        return []
    places = column["unseen_places"]
    parts = [part for part in _HEADS if column[part]["num_purchases"]]
    if parts == ["seen"] and not any(places.values()):
        return []
    width = max(len(name) for name in (*names, "NDCG@10 of"))
    heads = "".join(f"{head:>17}" for head in (*(_HEADS[part] for part in parts), "unseen places"))
    lines = ["NDCG@10 of".ljust(width) + heads]
    for name in names:
        cells = "".join(_cell(column[part], name, _METRIC).rjust(17) for part in parts)
        lines.append(f"{name:<{width}}{cells}{places[name]:>17.3f}")
    return lines


def _facts(report: Column) -> list[str]:
    """How many purchases stand behind the columns."""
    unseen, new = report["unseen"]["num_purchases"], report["new_customers"]
    lines = [f"{report['num_purchases']:,} purchases from {report['cut']} on by {report['num_users']:,} users"]
    if not unseen and not new["num_purchases"]:
        return [f"{lines[0]}, all of items that were sold before, by customers who had bought before"]
    lines[0] += (
        f"; {unseen:,} of items not sold before, {new['num_purchases']:,} by {new['num_users']:,} customers who had "
        "bought nothing before; unseen places: share of the top 10 that holds items not sold before"
    )
    return lines


def _cell(part: Column, name: str, metric: str) -> str:
    value = f"{part[name][metric]:.4f}"
    if "sd" in part:
        deviation = part["sd"][name][metric]
        return value if deviation is None else f"{value} ± {deviation:.4f}"
    low, high = part["intervals"][name][metric]
    return f"{value} ± {(high - low) / 2:.4f}"
