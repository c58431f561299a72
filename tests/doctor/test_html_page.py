import re

import pytest

from macrec_hf.doctor.html_page import (
    bar_chart,
    line_chart,
    round_scale,
    scatter_chart,
    table,
    thumbnail_source,
    whole_page,
)


def test_line_chart_puts_points_where_they_belong():
    chart = line_chart({"a": [(0, 0.0), (10, 4.0)], "b": [(5, 2.0)]}, width=100, height=100)
    # The plot spans x 44 … 88 and y 12 … 56; the axis ends at 4.
    assert re.findall(r'points="([^"]*)"', chart) == ["44.0,56.0 88.0,12.0", "66.0,34.0"]
    assert ">a 4<" in chart and ">b 2<" in chart and ">10 steps<" in chart
    assert "Nothing was logged" in line_chart({})


@pytest.mark.parametrize(
    ("highest", "scale"),
    [(4, (4, 1)), (4.2, (5, 1)), (0.3, (0.3, 0.1)), (0.62, (0.8, 0.2)), (17, (20, 5)), (0, (1, 0.5))],
)
def test_axes_end_at_round_numbers(highest, scale):
    assert round_scale(highest) == pytest.approx(scale)


def test_bars_have_their_heights_and_large_numbers_are_written_out():
    chart = bar_chart({"text": [3000, 1000], "<b>": [0, 500]}, even=1500, width=148, height=134)
    # The plot spans y 10 … 100; the axis ends at 3,000.
    heights = [float(value) for value in re.findall(r'height="([\d.]+)" fill="#\w+"><title>', chart)]
    assert heights == pytest.approx([90, 30, 0, 15])
    assert ">3,000<" in chart and "e+0" not in chart and "&lt;b&gt;" in chart and "<b>" not in chart
    (even,) = re.findall(r'y1="([\d.]+)" y2="[\d.]+" stroke="#64707d"', chart)
    assert float(even) == 55


def test_dots_are_placed_at_one_scale_in_both_directions():
    chart = scatter_chart([(0, 0), (10, 0), (10, 5)], [0, -1, 1], ["<a_1>", "<a_2>"], size=116)
    assert re.findall(r'd="([^"]*)"', chart) == ["M108.0 33.0h0", "M8.0 33.0h0", "M108.0 83.0h0"]
    assert "&lt;a_1&gt;" in chart and scatter_chart([], [], []).startswith("<svg")
    with pytest.raises(ValueError, match="at most 10 named groups, a colour each, got 11"):
        scatter_chart([], [], [str(name) for name in range(11)])


def test_tables_mark_numbers_and_pages_escape_their_title():
    assert table(["", "n"], [["a", "1"]]) == (
        "<table><tr><th></th><th class=number>n</th></tr><tr><td>a</td><td class=number>1</td></tr></table>"
    )
    page = whole_page("<x>", ["<p>body</p>"], ".mine { color: red; }")
    assert "<title>&lt;x&gt;</title>" in page and "<p>body</p>" in page and ".mine" in page


def test_a_photo_that_cannot_be_read_has_no_thumbnail(tmp_path):
    assert thumbnail_source(tmp_path / "absent.jpg") is None
