"""The page that ends `macrec demo`: customers, recommendations, metrics and loss curves in one HTML file."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..doctor.html_page import line_chart, photo_source, whole_page

STYLE = """
.hit img { outline: 3px solid var(--hit); outline-offset: -1px; }
.hit figcaption { color: var(--hit); font-weight: 600; }
.next { border-left: 1px solid var(--line); padding-left: 10px; width: 107px; }
"""
OURS = ("ensemble", "text", "image")


def write_page(
    path: Path,
    *,
    customers: Sequence[Mapping],
    metrics: Mapping,
    curves: Mapping,
    facts: Sequence[str],
    commands: Sequence[tuple[str, float]],
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
    """
    body = [
        "<h1>A shop, end to end</h1>",
        *(f'<p class="soft">{escape(fact)}</p>' for fact in facts),
        "<h2>What customers bought, and what they are shown next</h2>",
        '<p class="soft">Brands stand only in the titles, colours only in the photos. The product behind the line '
        "on the right is what the customer really bought next; the recommender has not seen that. Green: found.</p>",
        *(customer_card(customer) for customer in customers),
        "<h2>How often the next purchase is found</h2>",
        f'<div class="card">{metrics_table(metrics)}</div>',
        "<h2>Training</h2>",
        '<div class="charts">',
        *(f'<div class="card"><h3>{escape(title)}</h3>{line_chart(lines)}</div>' for title, lines in curves.items()),
        "</div>",
        "<h2>The commands that made this page</h2>",
        f'<div class="card"><pre>{escape(command_lines(commands))}</pre></div>',
    ]
    path.write_text(whole_page("macrec demo", body, STYLE), encoding="utf-8")
    return path


def customer_card(customer: Mapping) -> str:
    """History, the true next product, and the recommendations; the true one among them is marked."""
    target = customer["target"]["item_id"]
    shown = "".join(_product(product, hit=product["item_id"] == target) for product in customer["recommended"])
    history = "".join(_product(product) for product in customer["history"])
    bought_next = f'<div class="next">{_product(customer["target"])}</div>'
    return (
        f'<div class="card"><h3>Customer {escape(customer["name"])}</h3><h4>Bought, oldest first, and next</h4>'
        f'<div class="row">{history}{bought_next}</div><h4>Recommended</h4><div class="row">{shown}</div></div>'
    )


def _product(product: Mapping, hit: bool = False) -> str:
    title = escape(product["title"])
    image = f'<img src="{photo_source(product["image"])}" alt="{title}">'
    return f"<figure{' class=hit' if hit else ''}>{image}<figcaption>{title}</figcaption></figure>"


def metrics_table(metrics: Mapping) -> str:
    """One row a side and baseline, best HR@10 first, with a bar."""
    columns = ("hr@1", "hr@5", "hr@10", "ndcg@10")
    rows = {name: values for name, values in metrics.items() if isinstance(values, Mapping) and "hr@10" in values}
    top = max((values["hr@10"] for values in rows.values()), default=0) or 1
    head = "".join(f'<th class="number">{column.upper()}</th>' for column in columns)
    lines = [f"<tr><th>{metrics['num_users']} customers</th>{head}<th></th></tr>"]
    for name, values in sorted(rows.items(), key=lambda row: -row[1]["hr@10"]):
        numbers = "".join(f'<td class="number">{values.get(column, float("nan")):.3f}</td>' for column in columns)
        bar = f'<td class="wide"><span class="bar" style="width:{100 * values["hr@10"] / top:.1f}%"></span></td>'
        mark = ' class="ours"' if name in OURS else ""
        lines.append(f"<tr{mark}><td>{escape(name.replace('_', ' '))}</td>{numbers}{bar}</tr>")
    return f"<table>{''.join(lines)}</table>"


def command_lines(commands: Sequence[tuple[str, float]]) -> str:
    return "\n".join(f"{line}    # {seconds:.0f} s" for line, seconds in commands)
