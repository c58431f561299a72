"""Takes the picture of the README: the upper part of the page that `make demo` leaves, in Chromium.

`make pictures` runs it. Needs Chromium (apt-get install chromium) and the extra [dev].
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parent
PAGE_WIDTH, PICTURE_WIDTH = 1180, 900  # pixels; the page's own width with its margins, and that of the file
SHOWN_CUSTOMERS = 3
MOST_BYTES = 250_000  # a clone carries every version of it


def main(page: Path, picture: Path) -> None:
    """Writes the picture of the demo's `index.html`.

    Raises:
        SystemExit: no such page, no Chromium, or a picture that is too large to be committed.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Expected Chromium on the path, found none: apt-get install chromium.")
    if not page.is_file():
        raise SystemExit(f"{page}: expected the page of `macrec demo`, found none. Run `make demo` first.")
    written = in_few_colours(screenshot(page, chromium))
    if len(written) > MOST_BYTES:
        raise SystemExit(f"{picture}: expected at most {MOST_BYTES:,} bytes, got {len(written):,}. Show less of it.")
    picture.write_bytes(written)
    sys.stdout.write(f"{picture}: {len(written):,} bytes\n")


def screenshot(page: Path, chromium: str) -> Image.Image:
    """The page from its title to the last of the shown customers."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": PAGE_WIDTH, "height": 900})
        tab.goto(page.absolute().as_uri())
        last = tab.locator(".card").nth(SHOWN_CUSTOMERS - 1).bounding_box()
        shown = {"x": 0, "y": 0, "width": PAGE_WIDTH, "height": last["y"] + last["height"] + 8}
        taken = tab.screenshot(full_page=True, clip=shown)
        browser.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


def in_few_colours(picture: Image.Image) -> bytes:
    """A PNG of 256 colours, at the width of the file."""
    height = round(picture.height * PICTURE_WIDTH / picture.width)
    small = picture.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]), PICTURES / "demo.png")
