"""What `macrec evaluate --split time` prints besides: seen and unseen items, and customers who are new."""

from typing import Any

_METRIC = "ndcg@10"
_HEADS = {"seen": "seen items", "unseen": "unseen items", "new_customers": "new customers"}


def time_table(column: dict[str, Any]) -> list[str]:
    """NDCG@10 by kind of purchase, and the places given to unseen items; nothing for a column of another split."""
    if "unseen_places" not in column:
        return []
    names = list(column["coverage"])
    width = max(len(name) for name in names)
    heads = "".join(f"{head:>17}" for head in (*_HEADS.values(), "unseen places"))
    lines = ["NDCG@10 of".ljust(width) + heads]
    for name in names:
        cells = "".join(_cell(column[part], name).rjust(17) for part in _HEADS)
        lines.append(f"{name:<{width}}{cells}{column['unseen_places'][name]:>17.3f}")
    return lines


def facts_line(report: dict[str, Any]) -> str:
    """How many purchases stand behind the columns."""
    unseen, new = report["unseen"]["num_purchases"], report["new_customers"]
    return (
        f"{report['num_purchases']:,} purchases from {report['cut']} on by {report['num_users']:,} users; "
        f"{unseen:,} of items not sold before, {new['num_purchases']:,} by {new['num_users']:,} customers who had "
        "bought nothing before; unseen places: share of the top 10 that holds items not sold before"
    )


def _cell(part: dict[str, Any], name: str) -> str:
    if name not in part:
        return "-"
    value = f"{part[name][_METRIC]:.4f}"
    if "sd" in part:
        deviation = part["sd"][name][_METRIC]
        return value if deviation is None else f"{value} ± {deviation:.4f}"
    low, high = part["intervals"][name][_METRIC]
    return f"{value} ± {(high - low) / 2:.4f}"
