"""The page that ends `macrec demo`: customers, recommendations, metrics and loss curves in one HTML file."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { --ink: #1d2733; --soft: #64707d; --line: #e3e7ec; --card: #ffffff; --page: #f4f6f8; --hit: #1a7f4b;
  --ours: #2f6fde; --base: #b4bec9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 12px; }
p { margin: 4px 0 12px; } .soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px;
  margin: 0 0 16px; overflow-x: auto; }
.row { display: flex; gap: 10px; align-items: flex-start; } .row + h4 { margin-top: 14px; }
h3 { margin: 0 0 8px; font-size: 15px; } h4 { margin: 0 0 6px; font-size: 12px; color: var(--soft); font-weight: 600;
  text-transform: uppercase; letter-spacing: .05em; }
figure { margin: 0; width: 96px; flex: none; }
figure img { width: 96px; height: 96px; border-radius: 8px; display: block; border: 1px solid var(--line); }
figcaption { font-size: 11px; line-height: 1.3; margin-top: 4px; color: var(--soft); }
.hit img { outline: 3px solid var(--hit); outline-offset: -1px; }
.hit figcaption { color: var(--hit); font-weight: 600; }
.next { border-left: 1px solid var(--line); padding-left: 10px; width: 107px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-size: 12px; color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
tr.ours td:first-child { font-weight: 600; }
.bar { display: block; height: 10px; border-radius: 5px; background: var(--base); }
tr.ours .bar { background: var(--ours); } td.wide { width: 34%; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 16px; }
.charts .card { margin: 0; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
pre { margin: 0; font: 12px/1.7 ui-monospace, monospace; white-space: pre-wrap; }
"""
HEAD = f"""<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>macrec demo</title>
<style>{STYLE}</style></head>"""
LINE_COLOURS = ("#2f6fde", "#e0772f", "#1a7f4b")
OURS = ("ensemble", "text", "image")


def write_page(path: Path, *, customers, metrics: Mapping, curves: Mapping, facts: Sequence[str], commands) -> Path:
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
    page = "\n".join(["<!doctype html>", '<html lang="en">', HEAD, "<body><main>", *body, "</main></body>", "</html>"])
    path.write_text(page + "\n", encoding="utf-8")
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
    data = base64.b64encode(Path(product["image"]).read_bytes()).decode()
    title = escape(product["title"])
    kind = "png" if str(product["image"]).endswith(".png") else "jpeg"
    image = f'<img src="data:image/{kind};base64,{data}" alt="{title}">'
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


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], width: int = 480, height: int = 230) -> str:
    """An SVG of lines over steps, y from 0; the legend names each with its last value."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return '<p class="soft">Nothing was logged.</p>'
    left, right, top, bottom = 44, width - 12, 12, height - 44
    last_x = max(x for x, _ in points) or 1
    high, step = _round_scale(max(y for _, y in points))

    def place(x, y):
        return left + (right - left) * x / last_x, bottom - (bottom - top) * max(0.0, y) / high

    parts = []
    for tick in range(round(high / step) + 1):
        y = place(0, tick * step)[1]
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e7ec"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick * step:.3g}</text>')
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        label = f"{last_x * share:.0f}" + (" steps" if share == 1 else "")
        x = place(last_x * share, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{label}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour, start = LINE_COLOURS[number % len(LINE_COLOURS)], left + number * 150
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<rect x="{start}" y="{height - 15}" width="14" height="4" rx="2" fill="{colour}"/>')
        value = f" {line[-1][1]:.3g}" if line else ""
        parts.append(f'<text x="{start + 20}" y="{height - 9}">{escape(name)}{value}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _round_scale(highest: float) -> tuple[float, float]:
    """The end of an axis and the distance of its ticks (1, 2 or 5 times a power of ten), at most five ticks."""
    if highest <= 0:
        return 1.0, 0.5
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if highest <= 5 * factor * power * (1 + 1e-9))
    return math.ceil(highest / step - 1e-9) * step, step


def command_lines(commands) -> str:
    return "\n".join(f"{line}    # {seconds:.0f} s" for line, seconds in commands)
