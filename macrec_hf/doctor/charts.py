"""Where the marks of a chart stand, in the units of its SVG; `templates/charts.html.jinja` draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Names of `page.css`, which has them for light and for dark pages.
LINE_COLOURS = ("var(--ours)", "var(--second)", "var(--third)")
REST_COLOUR = "var(--rest)"
# Ten colours that stay apart side by side (Tableau's), for the groups of a scatter chart.
GROUP_COLOURS = (
    "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "var(--ink)",
)  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """The part of a chart inside its axes; y begins at 0 and ends at the first round number from `highest` on."""

    left: int
    right: int
    top: int
    bottom: int
    highest: float

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / round_scale(self.highest)[0]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Heights of the horizontal lines, with their numbers."""
        high, step = round_scale(self.highest)
        values = [tick * step for tick in range(round(high / step) + 1)]
        return [(self.y(value), f"{value:,.0f}" if value >= 1000 else f"{value:.3g}") for value in values]


def round_scale(highest: float) -> tuple[float, float]:
    """The end of an axis and the distance of its ticks (1, 2 or 5 times a power of ten), at most five ticks."""
    if highest <= 0:
        return 1.0, 0.5
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if highest <= 5 * factor * power * (1 + 1e-9))
    return math.ceil(highest / step - 1e-9) * step, step


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], width: int = 420, height: int = 230) -> dict | None:
    """Lines over steps, y from 0; the legend names each with its last value. None where there are no points.

    Args:
        lines: `{name: [(step, value), ...]}`.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        return None
    plot = Plot(left=46, right=width - 12, top=12, bottom=height - 46, highest=max(y for _, y in points))
    last = max(x for x, _ in points) or 1

    def x(step: float) -> float:
        return plot.left + (plot.right - plot.left) * step / last

    return {
        "width": width,
        "height": height,
        "plot": plot,
        "steps": [
            (x(last * share), anchor, f"{last * share:.0f}{' steps' if share == 1 else ''}")
            for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
        ],
        "lines": [
            {
                "name": f"{name} {line[-1][1]:.3g}" if line else name,
                "colour": LINE_COLOURS[place % len(LINE_COLOURS)],
                "path": " ".join(f"{x(step):.1f},{plot.y(max(0.0, value)):.1f}" for step, value in line),
                "start": plot.left + place * (plot.right - plot.left) / max(2, len(lines)),
            }
            for place, (name, line) in enumerate(lines.items())
        ],
    }


def bar_chart(bars: Mapping[str, Sequence[float]], even: float, width: int = 380, height: int = 230) -> dict:
    """Grouped bars from 0, a colour per name, with a dashed line at the height of even use.

    Above the plot there is room for the name of its upright axis, below it for that of the other one and a legend.

    Args:
        bars: `{name: heights}`, as many of each.
        even: the height that all would have if they were alike.
    """
    highest = max([even, *(max(heights, default=0) for heights in bars.values())])
    plot = Plot(left=46, right=width - 8, top=26, bottom=height - 46, highest=highest)
    slot = (plot.right - plot.left) / max(1, max((len(heights) for heights in bars.values()), default=1))
    wide = slot * 0.86 / max(1, len(bars))
    groups: list[dict[str, Any]] = [
        {
            "name": name,
            "colour": LINE_COLOURS[place % len(LINE_COLOURS)],
            "start": plot.left + place * (plot.right - plot.left) / max(2, len(bars)),
            "bars": [
                (plot.left + index * slot + slot * 0.07 + place * wide, plot.y(value), value)
                for index, value in enumerate(heights)
            ],
        }
        for place, (name, heights) in enumerate(bars.items())
    ]
    return {"width": width, "height": height, "plot": plot, "wide": wide, "groups": groups, "even": plot.y(even)}


def scatter_chart(
    points: Sequence[tuple[float, float]], groups: Sequence[int], names: Sequence[str], size: int = 420
) -> dict:
    """A map: a dot per point, a colour per group; groups without a name are grey and lie below.

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
    return {
        "size": size,
        "height": size + 4 + 18 * -(-len(names) // 5),
        "dots": [
            ("".join(places), REST_COLOUR if group < 0 else GROUP_COLOURS[group], 3.5 if group < 0 else 4.5)
            for group, places in dots.items()
            if places
        ],
        "names": [
            (8 + place % 5 * (size - 16) / 5, size + 12 + place // 5 * 18, GROUP_COLOURS[place], name)
            for place, name in enumerate(names)
        ],
    }
