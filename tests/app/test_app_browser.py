"""The page of `macrec app` in a real Chromium: a visitor clicks through it, and what is shown is checked.

Run with `python -m pytest -m browser`. Without Chromium or Playwright the tests are skipped, or fail where
MACREC_REQUIRE_BROWSER is 1.
"""

import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from app_tools import NO_PHOTO, NUM_ITEMS, ODD, ODD_TITLE, SOLD_OUT, open_shop, shop_folder

from macrec_hf import add_items
from macrec_hf.app import cards
from macrec_hf.app.page import STYLE
from macrec_hf.app.shop import ShownItem
from macrec_hf.app.visit import TOP_K, RankedItem, RankedPage
from macrec_hf.catalogue.item_encoders import embed_items

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WAIT = 30_000  # milliseconds; a busy machine is slow
HISTORY = ["p0004", "p0010", "p0007"]


def absent(what: str):
    if os.environ.get("MACREC_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what}, and MACREC_REQUIRE_BROWSER is 1")
    pytest.skip(what)


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("needs playwright: pip install -e '.[dev]'")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        absent("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def outside():
    """A proxy that only counts: whatever the server asks for outside this machine would come here."""
    calls = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def count():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed
                    return
                calls.append(connection.recv(200))
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", calls


@pytest.fixture(scope="module")
def address(chromium, outside, tmp_path_factory):
    """Of a real `macrec app`, a process of its own."""
    folder, log = shop_folder(), tmp_path_factory.mktemp("server") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["app", folder / "model", "--items", folder / "items.jsonl", "--encoders", folder / "emb"]
    words += ["--port", port, "--title", "The <test> shop"]
    proxies = {name: outside[0] for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    here = {"NO_PROXY": "127.0.0.1,localhost", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment = os.environ | proxies | {name.lower(): value for name, value in proxies.items()} | here
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "macrec_hf.cli", *map(str, words)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        try:
            line = server.stdout.readline()
            assert f"http://127.0.0.1:{port}" in line, log.read_text()
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(timeout=30)
    assert "Traceback" not in log.read_text()
    assert outside[1] == []  # whatever was clicked, nothing was asked for outside this machine


@pytest.fixture
def page(chromium, address):
    """The page as a visitor finds it, 1,280 pixels wide."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield opened(context, address)


def opened(context, address):
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.elsewhere, page.failures = [], []
    page.on("request", lambda sent: None if here(sent.url, address) else page.elsewhere.append(sent.url))
    page.on("response", lambda got: page.failures.append((got.status, got.url)) if got.status >= 400 else None)
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(address)
    page.locator("#ranked .hit").first.wait_for()
    return page


def here(url, address):
    return url.startswith((address, "data:", "blob:"))


def tile(page, item):
    return page.locator(f'#catalogue .tile[data-item="{item}"]')


def pick(page, items):
    for place, item in enumerate(items, start=1):
        tile(page, item).click()
        page.locator(f"#history .step:nth-child({place})").wait_for()


SHOWN = """
() => [...document.querySelector('#ranked .list').querySelectorAll('.hit')].map(hit => [
  hit.querySelector('.rank').innerText, hit.dataset.item, hit.querySelector('.score').textContent.trim(),
  hit.querySelector('.chance b').innerText,
  Object.fromEntries([...hit.querySelectorAll('.id:has(code)')].map(
    id => [id.dataset.modality, id.querySelector('code').textContent]))])
"""


def shown(page):
    """`[(item id, score and percentage as they are written, {modality: ID})]` of the list; ranks count from one."""
    rows = page.evaluate(SHOWN)
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    return [tuple(row[1:]) for row in rows]


def expected(recommender, history, **options):
    (found,) = recommender.recommend([history], **{"top_k": TOP_K, **options})
    table = recommender.table

    def ids(item):
        return {name: "".join(table.tokens(item, name)) for name in table.modalities if table.tokens(item, name)}

    return [(item, f"{score:.3f}", cards.percent(math.exp(score)), ids(item)) for item, score in found]


def settles(page, wanted):
    """Waits until the list is the wanted one; fails with both where it does not become it."""
    for _ in range(WAIT // 100):
        if shown(page) == wanted:
            return
        page.wait_for_timeout(100)
    assert shown(page) == wanted


def photos_are_whole(page, where):
    script = "images => images.filter(i => i.getBoundingClientRect().top < innerHeight).every(i => i.naturalWidth > 1)"
    page.wait_for_function(f"(({script})([...document.querySelectorAll('{where} img')]))")


def test_the_page_as_it_opens(page):
    assert page.locator("h1").inner_text() == "The <test> shop" == page.title()
    assert page.locator("#examples .gallery-item").count() == len(open_shop().examples)
    assert page.locator("#catalogue .tile").count() == NUM_ITEMS
    assert "Nothing picked yet" in page.locator("#history").inner_text()
    assert "popular with everybody" in page.locator("#ranked .note").inner_text()
    assert shown(page) == expected(open_shop().recommender, [])
    # Titles are text, whatever stands in them.
    assert tile(page, ODD).locator(".name").text_content() == ODD_TITLE
    assert tile(page, NO_PHOTO).locator(".no-photo").inner_text() == "no photo"
    sold_out = page.locator("#catalogue .sold-out")
    assert sold_out.count() == len(range(0, NUM_ITEMS, SOLD_OUT))
    photos_are_whole(page, "#catalogue")
    photos_are_whole(page, "#ranked")
    assert page.failures == []


def test_a_history_is_picked_and_every_option_does_what_it_says(page):
    recommender = open_shop().recommender
    pick(page, HISTORY)
    badges = {item: tile(page, item).locator(".badge").inner_text() for item in HISTORY}
    assert badges == {"p0004": "1", "p0010": "2", "p0007": "3"}
    assert tile(page, "p0004").get_attribute("aria-pressed") == "true"
    settles(page, expected(recommender, HISTORY))
    assert page.locator("#ranked .note").count() == 0
    page.locator("#options button").first.click()
    for modality in ("text", "image"):
        page.locator("#modality").get_by_label(f"{modality} alone").check()
        settles(page, expected(recommender, HISTORY, modality=modality))
    page.locator("#modality").get_by_label("everything").check()
    page.locator("#exclude-history input").check()
    settles(page, expected(recommender, HISTORY, exclude_history=True))
    page.locator("#in-stock input").check()
    in_stock = [item for place, item in enumerate(recommender.table.item_ids) if place % SOLD_OUT]
    settles(page, expected(recommender, HISTORY, exclude_history=True, allowed_items=in_stock))
    page.locator("#in-stock input").uncheck()
    page.locator("#exclude-history input").uncheck()
    with page.expect_request(lambda sent: "queue/join" in sent.url and sent.post_data_json["data"][2] == 10):
        page.locator("#beams input[type=number]").fill("10")
        page.locator("#beams input[type=number]").press("Enter")
    settles(page, expected(recommender, HISTORY, num_beams=10))
    assert page.failures == []


def test_the_list_is_that_of_the_last_of_many_quick_clicks(page):
    picked = [f"p{number:04d}" for number in range(12, 24)]
    clicks = "items => items.forEach(id => document.querySelector(`#catalogue .tile[data-item=${id}]`).click())"
    page.evaluate(clicks, picked)
    page.locator("#history .step:nth-child(12)").wait_for()
    steps = [step.get_attribute("data-item") for step in page.locator("#history .step").all()]
    assert sorted(steps) == picked
    settles(page, expected(open_shop().recommender, steps))
    assert page.failures == []


def test_the_history_is_changed_in_all_the_ways_there_are(page):
    recommender = open_shop().recommender
    pick(page, HISTORY)
    page.locator('#history .step[data-item="p0010"] .remove').click()
    settles(page, expected(recommender, ["p0004", "p0007"]))
    assert tile(page, "p0007").locator(".badge").inner_text() == "2"
    tile(page, "p0004").click()  # a second click takes it out
    settles(page, expected(recommender, ["p0007"]))
    first = page.locator("#ranked .hit:not(:has(.tag))").first
    added = first.get_attribute("data-item")
    first.locator("button").click()
    settles(page, expected(recommender, ["p0007", added]))
    page.locator("#history [data-action=clear]").click()
    settles(page, expected(recommender, []))
    assert page.locator("#catalogue .badge").count() == 0


def test_items_are_searched_and_the_keyboard_picks_them(page):
    page.locator("#search textarea, #search input").first.fill("mug")
    wanted = open_shop().search("mug")
    page.wait_for_function(f"document.querySelectorAll('#catalogue .tile').length === {len(wanted)}")
    assert [t.get_attribute("data-item") for t in page.locator("#catalogue .tile").all()] == wanted
    tile(page, wanted[0]).press("Enter")
    settles(page, expected(open_shop().recommender, wanted[:1]))
    page.locator("#search textarea, #search input").first.fill("no such <thing>")
    page.locator("#catalogue .empty").wait_for()
    assert page.locator("#catalogue .empty").inner_text() == "No item is called “no such <thing>”."


def test_a_new_item_is_added_and_recommended_but_only_here(page, chromium, address):
    shop, photo = open_shop(), shop_folder() / "shop/images/p0011.jpg"
    files = sorted(path.name for path in (shop_folder() / "model").iterdir())
    pick(page, HISTORY)
    page.locator("#new-item button").first.click()
    page.locator("#add").click()
    page.locator("#landing [role=alert]").wait_for()
    assert "has no title" in page.locator("#landing [role=alert]").inner_text()
    page.locator("#new-photo input[type=file]").set_input_files(photo)
    page.locator("#new-photo img").wait_for()
    page.locator("#new-title textarea, #new-title input").first.fill("Estrella <mug> Nova")
    page.locator("#new-text textarea").fill("A mug with stripes.")
    page.locator("#add").click()
    page.locator("#landing .place").first.wait_for()
    assert "<a_" not in page.locator("#landing").inner_text()
    page.locator("#details input").check()
    items = {"item_id": ["new-1"], "title": ["Estrella <mug> Nova"], "text": ["A mug with stripes."], "image": [photo]}
    store = embed_items(pd.DataFrame(items), shop.encoders, progress=False)
    table = add_items(shop.recommender.table, shop.recommender.quantizer, store)
    for name in table.modalities:
        place = page.locator(f'#landing .place[data-modality="{name}"]')
        assert place.locator(".detail > code").first.inner_text() == "".join(table.tokens("new-1", name))
        assert place.locator(".kin > div").count() > 0
        own, near = table.tokens("new-1", name), place.locator(".kin > div").first
        first = table.tokens(near.get_attribute("data-item"), name)
        alike = next((level for level in range(3) if own[level] != first[level]), 3)
        assert near.locator(".shared").inner_text() == "".join(own[:alike])
    # The photo is one of the catalogue, so that its natural ID was taken.
    assert "which “" in page.locator('#landing .place[data-modality="image"]').inner_text()
    assert "is in the catalogue as new-1:" in page.locator("#landing .note").inner_text()
    page.locator('#ranked .hit[data-item="new-1"] .tag.new').wait_for()  # the list is made after the card
    tile(page, "new-1").click()
    page.locator("#history .step:nth-child(4)").wait_for()
    photos_are_whole(page, "#history")
    with chromium.new_context() as other:
        assert tile(opened(other, address), "new-1").count() == 0
    assert sorted(path.name for path in (shop_folder() / "model").iterdir()) == files and page.failures == []


def test_an_example_and_an_address_fill_the_history(page, chromium, address):
    shop = open_shop()
    page.locator("#examples .gallery-item").nth(1).click()
    settles(page, expected(shop.recommender, shop.examples[1]))
    link = page.locator("#history a").get_attribute("href")
    assert page.locator("#history .step").count() == 3
    with chromium.new_context() as other:
        again = opened(other, address + link)
        assert [step.get_attribute("data-item") for step in again.locator("#history .step").all()] == shop.examples[1]
        settles(again, expected(shop.recommender, shop.examples[1]))
        gone = opened(other, address + "?items=p0003,gone")
        gone.get_by_text("left out of the history: gone").wait_for()
        assert gone.locator("#history .step").count() == 1


def test_codes_and_scores_are_behind_the_switch(page):
    pick(page, HISTORY)
    settles(page, expected(open_shop().recommender, HISTORY))
    row = page.locator("#ranked .hit").first
    assert not row.locator("code").first.is_visible() and not row.locator(".score").is_visible()
    assert row.locator(".chance b").is_visible() and page.locator("#ranked .why").first.is_visible()
    page.locator("#details input").check()
    assert row.locator("code").first.is_visible() and row.locator(".score").is_visible()
    tile(page, "p0001").click()  # also in the next list
    page.locator("#history .step:nth-child(4)").wait_for()
    assert page.locator("#ranked code").first.is_visible()


def test_card_and_help_are_pages_of_their_own(page):
    for name, heading in (
        ("Help", "How to read this page"),
        ("Model card", "Generative recommender over semantic IDs"),
    ):
        with page.context.expect_page() as opening:
            page.get_by_role("link", name=name).click()
        assert opening.value.get_by_role("heading", name=heading, level=1).inner_text() == heading
        opening.value.close()
    assert page.failures == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen_and_can_be_read(chromium, address, scheme, width):
    with chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme) as context:
        page = opened(context, address)
        pick(page, HISTORY)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        first = page.locator("#catalogue .tile").first.bounding_box()
        parts = "#catalogue .name, #ranked .title, #ranked .why, #ranked b, #history h2, h1, #head a"
        for part in parts.split(", "):
            assert page.evaluate(CONTRAST, part) >= 4.5, part  # WCAG 2.2, 1.4.3
        # List and first row of the catalogue are on the screen together; the page scrolls, not a box in it.
        assert page.locator("#ranked .hit").first.bounding_box()["y"] < first["y"] + first["height"] <= 844
        assert page.evaluate("getComputedStyle(document.querySelector('#catalogue')).maxHeight") == "none"
        left, right = (page.locator(part).bounding_box() for part in ("#catalogue", "#ranked"))
        beside = right["x"] > left["x"] + left["width"] - 1
        assert beside == (width == 1280)
        # However far down, the list stays in view.
        page.evaluate("scrollTo(0, 900)")
        top = page.locator("#ranked .hit").first.bounding_box()["y"]
        assert page.evaluate("scrollY") > 100 and 0 <= top < 400
        page.locator("#details input").check()
        assert page.evaluate(CONTRAST, "#ranked code") >= 4.5
        page.locator("#options button").first.click()
        page.locator("#beams").wait_for()
        # Nothing bright in the dark but photos: no track of a slider, no ground behind a photo.
        track = page.evaluate("getComputedStyle(document.querySelector('#beams')).getPropertyValue('--neutral-200')")
        grounds = page.evaluate("getComputedStyle(document.querySelector('#catalogue .photo')).backgroundColor")
        assert grounds == "rgba(0, 0, 0, 0)" and (track == DARK_TRACK) == (scheme == "dark")


DARK_TRACK = "#334155"
CONTRAST = """
selector => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const element = document.querySelector(selector);
  let behind = element, colour;
  do { colour = parse(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
  while (colour[3] < 1 && behind);
  const pair = [light(parse(getComputedStyle(element).color)), light(colour)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}
"""


def test_nothing_is_asked_for_elsewhere(page, outside):
    """Neither by the page nor, at its start, by the server; `address` looks again at its end."""
    pick(page, HISTORY[:1])
    page.wait_for_timeout(500)
    assert page.elsewhere == [] and outside[1] == []


def test_a_long_title_moves_nothing(chromium):
    long, short = ShownItem("a", "Donaudampfschifffahrtsgesellschaftskapitän " * 9), ShownItem("b", "Bee")
    rows = [RankedItem(1, long, -1.0, 0.4, 1.0, {}, (long.title,))]
    tiles = cards.catalogue([long, short], 2, "", ["a"], lambda item: None)
    hit = cards.piece("ranked", RankedPage(rows), [], lambda item: None)
    page = chromium.new_page()
    page.set_content(f"<style>{STYLE}</style><div style='width: 380px'>{hit}</div>{tiles}")
    assert page.evaluate("document.querySelector('.chance').getBoundingClientRect().right") < 380
    assert page.locator(".tile").first.bounding_box()["height"] < 250
