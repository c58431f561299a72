"""`make pictures`: the pictures of README and docs are taken of the demo's page, the app and the doctor's report."""

import runpy
import shutil

import pytest
from app_tools import shop_folder
from docs_blocks import ROOT
from PIL import Image

SCRIPT = ROOT / "docs" / "pictures" / "make_pictures.py"
CARD = '<div class="card" style="height:100px;margin:0;background:{}"></div>'
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.fixture
def take_pictures():
    pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[dev]'")
    return runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture
def demo(tmp_path):
    """A folder as `macrec demo` leaves it, with a page of four customers."""
    folder = shutil.copytree(shop_folder(), tmp_path / "demo")
    cards = map(CARD.format, ("red", "lime", "blue", "black"))
    (folder / "index.html").write_text("<body style='margin:0'>" + "".join(cards))
    return folder


@pytest.mark.browser
def test_the_pictures_show_demo_doctor_and_app(take_pictures, demo, tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    pytest.importorskip("gradio", reason="the page needs the extra [app]")
    take_pictures(demo, tmp_path)
    with Image.open(tmp_path / "demo.png") as picture:  # it ends with the third customer
        assert picture.size == (900, round(308 * 900 / 1180))
        assert [picture.convert("RGB").getpixel((450, row)) for row in (38, 114, 190)] == COLOURS
    for name in ("doctor.png", "app.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 900 and picture.height > 600
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100  # photos and charts; a blank page has a few


@pytest.mark.parametrize("name", ["index.html", "model"])
def test_without_a_demo_it_says_what_makes_one(take_pictures, demo, tmp_path, monkeypatch, name):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/true")
    (demo / name).rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=f"found no {name}. Run `make demo` first"):
        take_pictures(demo, tmp_path)


def test_without_chromium_it_says_how_to_get_it(take_pictures, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install chromium"):
        take_pictures(demo, tmp_path)
