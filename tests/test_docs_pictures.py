"""`make pictures`: the picture of the README is taken of the demo's page."""

import runpy
import shutil

import pytest
from docs_blocks import ROOT
from PIL import Image

SCRIPT = ROOT / "docs" / "pictures" / "make_pictures.py"
CARD = '<div class="card" style="height:100px;margin:0;background:{}"></div>'


@pytest.fixture
def take_picture():
    pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[dev]'")
    return runpy.run_path(str(SCRIPT))["main"]


@pytest.mark.browser
def test_the_picture_ends_with_the_third_customer(take_picture, tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    page = tmp_path / "index.html"
    page.write_text("<body style='margin:0'>" + "".join(map(CARD.format, ("red", "lime", "blue", "black"))))
    take_picture(page, tmp_path / "demo.png")
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.size == (900, round(308 * 900 / 1180))
        colours = [picture.convert("RGB").getpixel((450, row)) for row in (38, 114, 190)]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_without_a_page_it_says_what_makes_one(take_picture, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/true")
    with pytest.raises(SystemExit, match="Run `make demo` first"):
        take_picture(tmp_path / "index.html", tmp_path / "demo.png")


def test_without_chromium_it_says_how_to_get_it(take_picture, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install chromium"):
        take_picture(tmp_path / "index.html", tmp_path / "demo.png")
