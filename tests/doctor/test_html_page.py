import re

import pytest

from macrec_hf.doctor.charts import round_scale, scatter_chart
from macrec_hf.doctor.html_page import environment, render
from macrec_hf.doctor.photos import thumbnail_source

SIZE = re.compile(r"svg text \{ font: ([\d.]+)px")
charts = environment.get_template("doctor/templates/charts.html.jinja").module


def test_line_chart_puts_points_where_they_belong():
    chart = charts.lines({"a": [(0, 0.0), (10, 4.0)], "b": [(5, 2.0)]})
    # The plot spans x 46 … 408 and y 12 … 184; the axis ends at 4.
    assert re.findall(r'points="([^"]*)"', chart) == ["46.0,184.0 408.0,12.0", "227.0,98.0"]
    assert ">a 4<" in chart and ">b 2<" in chart and ">10 steps<" in chart
    assert "Nothing was logged" in charts.lines({})


@pytest.mark.parametrize(
    ("highest", "scale"),
    [(4, (4, 1)), (4.2, (5, 1)), (0.3, (0.3, 0.1)), (0.62, (0.8, 0.2)), (17, (20, 5)), (0, (1, 0.5))],
)
def test_axes_end_at_round_numbers(highest, scale):
    assert round_scale(highest) == pytest.approx(scale)


def test_bars_have_their_heights_and_large_numbers_are_written_out():
    chart = charts.bars({"text": [3000, 1000], "<b>": [0, 500]}, 1500)
    # The plot spans y 26 … 184; the axis ends at 3,000.
    heights = [float(value) for value in re.findall(r'height="([\d.]+)" fill="[^"]+"><title>', chart)]
    assert heights == pytest.approx([158, 52.7, 0, 26.3])
    assert ">3,000<" in chart and "e+0" not in chart and "&lt;b&gt;" in chart and "<b>" not in chart
    (even,) = re.findall(r'y1="([\d.]+)" y2="[\d.]+" class="even"', chart)
    assert float(even) == 105
    assert ">items<" in chart and ">most used codes<" in chart and ">least used<" in chart


def test_text_of_charts_can_be_read_on_a_phone():
    """Charts are drawn at the width of their card: 390 pixels less margins and paddings, 334."""
    written = float(SIZE.search(render("doctor/templates/page.html.jinja", title="x"))[1])
    for chart in (charts.lines({"a": [(0, 0.0), (10, 4.0)]}), charts.bars({"text": [3, 1]}, 1.5)):
        width = float(re.search(r'viewBox="0 0 (\d+)', chart)[1])
        assert written * 334 / width >= 9.5


def test_dots_are_placed_at_one_scale_in_both_directions():
    chart = charts.dots([(0, 0), (10, 0), (10, 5)], [0, -1, 1], ["<a_1>", "<a_2>"])
    assert re.findall(r' d="([^"]*)"', chart) == ["M412.0 109.0h0", "M8.0 109.0h0", "M412.0 311.0h0"]
    assert "&lt;a_1&gt;" in chart and charts.dots([], [], []).startswith("<svg")
    with pytest.raises(ValueError, match="at most 10 named groups, a colour each, got 11"):
        scatter_chart([], [], [str(name) for name in range(11)])


def test_pages_escape_what_they_are_given():
    page = render("doctor/templates/page.html.jinja", title="<x> & 'y'")
    assert "<title>&lt;x&gt; &amp; &#39;y&#39;</title>" in page and "main {" in page
    pieces = environment.get_template("doctor/templates/pieces.html.jinja").module
    assert pieces.head(["", "<n>"]).strip() == '<tr><th></th><th class="number">&lt;n&gt;</th></tr>'
    figure = pieces.figure('"><script>', "data:,", '"x')
    assert "<script" not in figure and 'alt="&#34;&gt;&lt;script&gt;"' in figure and 'class="&#34;x"' in figure


def test_a_photo_that_cannot_be_read_has_no_thumbnail(tmp_path):
    assert thumbnail_source(tmp_path / "absent.jpg") is None
