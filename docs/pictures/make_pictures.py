"""Takes the pictures of README and docs in Chromium: the demo's page, `macrec app` and the report of `macrec doctor`.

`make pictures` runs it over the folder that `make demo` leaves, and `make pictures DEMO=folder` over another one:
nothing is trained then. Needs Chromium (apt-get install chromium) and the extra [dev].
"""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

PICTURES = Path(__file__).parent
ROOT = PICTURES.parents[1]
PAGE_WIDTH, PICTURE_WIDTH = 1180, 900  # pixels; a page's own width with its margins, and that of the file
SHOWN_CUSTOMERS = 3
APP_HEIGHT, REPORT_HEIGHT = 860, 1000  # of the pages' upper parts
MOST_BYTES = 250_000  # a clone carries every version of it
WAIT = 120_000  # milliseconds; a busy machine is slow
SETTLED = 5_000  # a list that stays so long is the last one
PHOTOS_ARE_THERE = """() => [...document.images].every(
    (photo) => photo.getBoundingClientRect().top > innerHeight || (photo.complete && photo.naturalWidth))"""
MACREC = [sys.executable, "-m", "macrec_hf.cli"]  # in the demo's folder: pages name the paths that they were given
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
NEEDED = ("index.html", "shop/items.jsonl", "emb", "model")


def main(demo: Path, pictures: Path = PICTURES) -> None:
    """Writes the three pictures of a demo's folder.

    Raises:
        SystemExit: the folder is no demo's, there is no Chromium, or a picture is too large to be committed.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Expected Chromium on the path, found none: apt-get install chromium.")
    missing = [name for name in NEEDED if not (demo / name).exists()]
    if missing:
        raise SystemExit(f"{demo}: expected what `macrec demo` writes, found no {missing[0]}. Run `make demo` first.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, take in (("demo", picture_of_demo), ("doctor", picture_of_report), ("app", picture_of_app)):
            save(take(browser, demo), pictures / f"{name}.png")
        browser.close()


def picture_of_demo(browser: Browser, demo: Path) -> bytes:
    """The page from its title to the last of the shown customers."""
    tab = opened(browser, (demo / "index.html").absolute().as_uri())
    last = tab.locator(".card").nth(SHOWN_CUSTOMERS - 1).bounding_box(timeout=WAIT)
    return upper_part(tab, last["y"] + last["height"] + 8)


def picture_of_report(browser: Browser, demo: Path) -> bytes:
    """The upper part of the report about the demo's semantic IDs."""
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.html")
        words = ["doctor", "model", "--embeddings", "emb", "--items", "shop/items.jsonl", "--output", str(report)]
        subprocess.run([*MACREC, *words], cwd=demo, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
        return upper_part(opened(browser, report.as_uri()), REPORT_HEIGHT)


def picture_of_app(browser: Browser, demo: Path) -> bytes:
    """What a visitor sees who has picked a history: an example of the page's own, or its first two items."""
    with served_app(demo) as address:
        tab = opened(browser, address)
        items = tab.locator("#catalogue [data-action=toggle]")
        items.first.wait_for(timeout=WAIT)
        examples = tab.locator("#examples img")
        for number, place in enumerate([examples.first] if examples.count() else [items.nth(0), items.nth(1)]):
            place.click(timeout=WAIT)
            tab.locator("#history [data-item]").nth(number).wait_for(timeout=WAIT)
        tab.locator("#ranked [data-rank='1'] img").wait_for(timeout=WAIT)
        tab.mouse.move(0, 0)  # nothing is shown as if the mouse were on it
        before, now = "", tab.inner_html("#ranked")
        while before != now:  # an earlier list may still be there
            tab.wait_for_timeout(SETTLED)
            before, now = now, tab.inner_html("#ranked")
        tab.wait_for_function(PHOTOS_ARE_THERE, timeout=WAIT)
        return upper_part(tab, APP_HEIGHT)


@contextmanager
def served_app(demo: Path) -> Iterator[str]:
    """The address of a `macrec app` over the demo's model, while the picture is taken."""
    words = ["app", "model", "--items", "shop/items.jsonl", "--encoders", "emb", "--title", "The demo shop"]
    server = subprocess.Popen([*MACREC, *words], cwd=demo, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())
        if address is None:
            raise SystemExit("`macrec app` ended before it served the page; what it said stands above.")
        yield address[0]
    finally:
        server.terminate()
        server.wait()


def opened(browser: Browser, address: str) -> Page:
    tab = browser.new_page(viewport={"width": PAGE_WIDTH, "height": APP_HEIGHT}, color_scheme="light")
    tab.goto(address, timeout=WAIT)
    return tab


def upper_part(tab: Page, height: float) -> bytes:
    """A screenshot from the top of a page down to `height` pixels, over its whole width."""
    return tab.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": PAGE_WIDTH, "height": height})


def save(taken: bytes, path: Path) -> None:
    """A PNG of 256 colours, at the width of the file."""
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    height = round(picture.height * PICTURE_WIDTH / picture.width)
    small = picture.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    size = written.tell()
    if size > MOST_BYTES:
        raise SystemExit(f"{path}: expected at most {MOST_BYTES:,} bytes, got {size:,}. Show less of it.")
    path.write_bytes(written.getvalue())
    sys.stdout.write(f"{path}: {size:,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
