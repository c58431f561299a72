"""The page that ends `macrec demo`: customers, recommendations, metrics and loss curves in one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..doctor.blend_figures import SOURCE_WORDS
from ..doctor.html_page import render
from ..evaluation.report import quoted_column

COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@10")
OURS = ("blend", "ensemble", "text", "image")
WORDS = SOURCE_WORDS | {
    "ensemble": "the model, by text and photo",
    "text": "the model, by text alone",
    "image": "the model, by photo alone",
    "random": "chance",
}


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
    said, won = headline(metrics)
    text = render(
        "demo/templates/demo.html.jinja",
        title="macrec demo",
        headline=said,
        won=won,
        verdict=metrics["verdict"]["text"],
        repeats=repeats(metrics),
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


def headline(metrics: Mapping) -> tuple[str, bool]:
    """How often a next purchase is found, beside the best that counting finds, and whether the recommender won.

    Who wins is said by the verdict of `macrec evaluate`, whichever it is.
    """
    row, best, outcome = (metrics["verdict"][name] for name in ("row", "best", "outcome"))
    ours, counted, popular = (quoted_column(metrics)[name]["hr@10"] for name in (row, best, "popularity"))
    count = f"by the best count ({best.replace('_', '-')})"
    if outcome == "better":
        return (
            f"Ten recommendations hold a customer's next purchase {ours:.0%} of the time, ten {count} {counted:.0%}, "
            f"the ten best sellers {popular:.0%}.",
            True,
        )
    begin = "Counting wins here" if outcome == "worse" else "Nobody wins here"
    return (
        f"{begin}: ten products {count} hold a customer's next purchase {counted:.0%} of the time, ten "
        f"recommendations {ours:.0%}, the ten best sellers {popular:.0%}.",
        False,
    )


def repeats(metrics: Mapping) -> str:
    """Whether lists may hold what a customer has, and why."""
    if metrics["quoted"] == "hidden":
        return "Nobody buys a product twice here, so lists leave out what the customer has."
    again = f"{metrics['repeat_rate']:.0%} of the next purchases are of a product that the customer has"
    return f"{again}, so lists hold these too."


def ranked_results(metrics: Mapping) -> list[dict]:
    """Each list that was measured, best HR@10 first: `name`, `figures` as `COLUMNS`, and `share` of the best HR@10.

    Of the two columns, own history shown and hidden, the one that the report says is to be quoted.
    """
    column = quoted_column(metrics)
    rows = [(name, row) for name, row in column.items() if isinstance(row, Mapping) and "hr@10" in row]
    rows.sort(key=lambda row: -row[1]["hr@10"])
    return [
        {
            "name": WORDS.get(name, name),
            "is_ours": name in OURS,
            "figures": [row.get(column, float("nan")) for column in COLUMNS],
            "share": row["hr@10"] / (rows[0][1]["hr@10"] or 1),
        }
        for name, row in rows
    ]
