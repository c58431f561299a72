"""The page that ends `macrec demo`: customers, recommendations, metrics and loss curves in one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..doctor.html_page import render
from ..evaluation.report import quoted_column

COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@10")
OURS = ("blend", "ensemble", "text", "image")


def write_page(
    path: Path,
    *,
    customers: Sequence[Mapping],
    metrics: Mapping,
    curves: Mapping,
    facts: Sequence[str],
    commands: Sequence[tuple[str, float]],
    example: Mapping,
    next_steps: Sequence[tuple[str, str]],
) -> Path:
    """Writes the page.

    Args:
        path: of the HTML file.
        customers: a list of `{"name": str, "history": [product], "recommended": [product], "target": product}`, where
            a product is `{"item_id", "title", "image" (path)}`.
        metrics: `metrics.json` of `macrec evaluate`.
        curves: `{title of a chart: {name of a line: [(x, y), ...]}}`.
        facts: sentences under the title.
        commands: `[(command line, seconds), ...]` in order.
        example: a product and its IDs, as `one_product` gives them.
        next_steps: `[(what it is for, command line), ...]`.
    """
    text = render(
        "demo/templates/demo.html.jinja",
        title="macrec demo",
        customers=customers,
        num_users=metrics["num_users"],
        columns=COLUMNS,
        results=ranked_results(metrics),
        curves=curves,
        facts=facts,
        commands=commands,
        example=example,
        next_steps=next_steps,
    )
    path.write_text(text, encoding="utf-8")
    return path


def ranked_results(metrics: Mapping) -> list[dict]:
    """Each list that was measured, best HR@10 first: `name`, `figures` as `COLUMNS`, and `share` of the best HR@10.

    Of the two columns, own history shown and hidden, the one that the report says is to be quoted.
    """
    column = quoted_column(metrics)
    rows = [(name, row) for name, row in column.items() if isinstance(row, Mapping) and "hr@10" in row]
    rows.sort(key=lambda row: -row[1]["hr@10"])
    return [
        {
            "name": name.replace("_", " "),
            "is_ours": name in OURS,
            "figures": [row.get(column, float("nan")) for column in COLUMNS],
            "share": row["hr@10"] / (rows[0][1]["hr@10"] or 1),
        }
        for name, row in rows
    ]
