"""What the HTML pages of the package share: one style, charts as inline SVG, photos as data. Nothing is loaded."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
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
LINE_COLOURS = ("#2f6fde", "#e0772f", "#1a7f4b")
# Ten colours that stay apart side by side (Tableau's), for the groups of a scatter chart.
GROUP_COLOURS = (
    "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#2b3a55",
)  # fmt: skip
REST_COLOUR = "#d5dbe2"


def whole_page(title: str, body: Iterable[str], style: str = "") -> str:
    """The page as text; `style` is added to the shared one."""
    head = f"""<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style></head>"""
    lines = ["<!doctype html>", '<html lang="en">', head, "<body><main>", *body, "</main></body>", "</html>"]
    return "\n".join(lines) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Writes beside and moves into place: a reader never sees half a page."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table of cells that are HTML already; all columns but the first `text_columns` are numbers."""

    def row(cells: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if place >= text_columns else ''}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )

    lines = [f"<tr>{row(head, 'th')}</tr>", *(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)]
    return f"<table>{''.join(lines)}</table>"


def photo_source(path: str | Path) -> str:
    """The file itself as a `data:` address."""
    kind = "png" if str(path).endswith(".png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def thumbnail(path: str | Path, side: int = 96) -> bytes | None:
    """A JPEG of at most `side` times `side` pixels, upright and on white; None where there is no readable photo."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as photo:
            small = ImageOps.exif_transpose(photo).convert("RGBA" if photo.has_transparency_data else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    written = BytesIO()
    small.save(written, "JPEG", quality=80)
    return written.getvalue()


def thumbnail_source(path: str | Path, side: int = 96) -> str | None:
    """`thumbnail` as a `data:` address."""
    small = thumbnail(path, side)
    return None if small is None else f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], width: int = 480, height: int = 230) -> str:
    """An SVG of lines over steps, y from 0; the legend names each with its last value."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return '<p class="soft">Nothing was logged.</p>'
    left, right, top, bottom = 44, width - 12, 12, height - 44
    last_x = max(x for x, _ in points) or 1
    high, step = round_scale(max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / last_x, bottom - (bottom - top) * max(0.0, y) / high

    parts = _grid(left, right, bottom, top, high, step)
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


def _grid(left: float, right: float, bottom: float, top: float, high: float, step: float) -> list[str]:
    """Horizontal lines with their numbers."""
    parts = []
    for tick in range(round(high / step) + 1):
        y = bottom - (bottom - top) * tick * step / high
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e7ec"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick * step)}</text>')
    return parts


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def round_scale(highest: float) -> tuple[float, float]:
    """The end of an axis and the distance of its ticks (1, 2 or 5 times a power of ten), at most five ticks."""
    if highest <= 0:
        return 1.0, 0.5
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if highest <= 5 * factor * power * (1 + 1e-9))
    return math.ceil(highest / step - 1e-9) * step, step


def bar_chart(bars: Mapping[str, Sequence[float]], even: float, width: int = 480, height: int = 190) -> str:
    """An SVG of grouped bars from 0, a colour per name, with a dashed line at the height of even use.

    Args:
        bars: `{name: heights}`, as many of each.
        even: the height that all would have if they were alike.
    """
    left, right, top, bottom = 40, width - 8, 10, height - 34
    high, step = round_scale(max([even, *(max(heights, default=0) for heights in bars.values())]))
    number = max((len(heights) for heights in bars.values()), default=1)
    slot = (right - left) / max(1, number)
    wide = slot * 0.86 / max(1, len(bars))
    parts = _grid(left, right, bottom, top, high, step)
    for place, (name, heights) in enumerate(bars.items()):
        colour, start = LINE_COLOURS[place % len(LINE_COLOURS)], left + place * 130
        for index, value in enumerate(heights):
            tall = (bottom - top) * value / high
            x = left + index * slot + slot * 0.07 + place * wide
            parts.append(
                f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
                f'fill="{colour}"><title>{escape(name)}: {value:g}</title></rect>'
            )
        parts.append(f'<rect x="{start}" y="{height - 17}" width="12" height="8" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{start + 18}" y="{height - 9}">{escape(name)}</text>')
    y = bottom - (bottom - top) * even / high
    parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#64707d" stroke-dasharray="4 4"/>')
    parts.append(f'<text x="{right}" y="{y - 5:.1f}" text-anchor="end">even use</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def scatter_chart(
    points: Sequence[tuple[float, float]], groups: Sequence[int], names: Sequence[str], size: int = 420
) -> str:
    """An SVG map: a dot per point, a colour per group; groups without a name are grey and lie below.

    Args:
        points: (x, y), on any scale; both axes are shown at the same one.
        groups: of each point the place of its name, or -1.
        names: at most ten.
    """
    if len(names) > len(GROUP_COLOURS):
        raise ValueError(f"Expected at most {len(GROUP_COLOURS)} named groups, a colour each, got {len(names)}.")
    lows = [min((point[axis] for point in points), default=0.0) for axis in (0, 1)]
    spans = [max((point[axis] for point in points), default=1.0) - lows[axis] for axis in (0, 1)]
    scale = (size - 16) / (max(spans) or 1.0)
    # Centred in the shorter direction.
    shifts = [8 + (size - 16 - span * scale) / 2 for span in spans]
    dots: dict[int, list[str]] = {group: [] for group in range(-1, len(names))}
    for (x, y), group in zip(points, groups, strict=True):
        dots[group].append(f"M{shifts[0] + (x - lows[0]) * scale:.1f} {shifts[1] + (y - lows[1]) * scale:.1f}h0")
    rows = -(-len(names) // 5)
    parts = [
        f'<path d="{"".join(places)}" stroke="{REST_COLOUR if group < 0 else GROUP_COLOURS[group]}" '
        f'stroke-width="{3.5 if group < 0 else 4.5}" stroke-linecap="round"/>'
        for group, places in dots.items()
        if places
    ]
    for place, name in enumerate(names):
        x, y = 8 + place % 5 * (size - 16) / 5, size + 12 + place // 5 * 18
        parts.append(f'<circle cx="{x + 5:.1f}" cy="{y - 4:.1f}" r="5" fill="{GROUP_COLOURS[place]}"/>')
        parts.append(f'<text x="{x + 15:.1f}" y="{y:.1f}">{escape(name)}</text>')
    return f'<svg viewBox="0 0 {size} {size + 4 + 18 * rows}" role="img">{"".join(parts)}</svg>'
