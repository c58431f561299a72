"""The Gradio page without a browser: what its handlers answer, and that it offers only what the shop can do."""

import asyncio
import copy
import socket
from types import SimpleNamespace

import gradio as gr
import pytest
from app_tools import NUM_ITEMS, open_shop, shop_folder
from starlette.datastructures import QueryParams

from macrec_hf import MacRecRecommender
from macrec_hf.app import page as page_module
from macrec_hf.app.handlers import Handlers
from macrec_hf.app.page import MOST_VISITS, _head, build_page, launch_page
from macrec_hf.app.photos import Thumbnails
from macrec_hf.app.shop import Shop
from macrec_hf.app.visit import MAX_NEW_ITEMS


@pytest.fixture
def handlers(tmp_path):
    return Handlers(open_shop(), Thumbnails(tmp_path))


def event(action, item=""):
    return SimpleNamespace(action=action, item=item)


def components(page):
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def test_clicks_change_catalogue_and_history(handlers):
    visit, catalogue, history = handlers.arrive()
    assert 'aria-pressed="true"' not in catalogue and "Nothing picked yet" in history
    visit, catalogue, history = handlers.act(visit, event("toggle", "p0003"))
    assert (
        visit.history == ["p0003"]
        and catalogue.count('aria-pressed="true"') == 1
        and history.count('class="step"') == 1
    )
    handlers.act(visit, event("more"))
    assert visit.num_shown == 120
    _, _, history = handlers.act(visit, event("clear"))
    assert visit.history == [] and "Nothing picked yet" in history
    assert "No item is called" in handlers.search(visit, "zzz")[1]


def test_a_visit_that_was_forgotten_begins_anew(handlers):
    visit, _, _ = handlers.act(None, event("toggle", "p0003"))
    assert visit.history == ["p0003"]
    assert "popular with everybody" in handlers.recommend(None, "ensemble", 20, False, False)


def test_an_example_becomes_the_history(handlers):
    visit = handlers.arrive()[0]
    handlers.act(visit, event("toggle", "p0003"))
    _, catalogue, history = handlers.example(visit, 1)
    assert visit.history == handlers.shop.examples[1] and catalogue.count('aria-pressed="true"') == 3
    assert handlers.example(None, 0)[0].history == handlers.shop.examples[0]


def test_a_history_stands_in_the_address(handlers):
    def address(*items):
        return SimpleNamespace(query_params=QueryParams([("items", item) for item in items]))

    assert handlers.arrive(address())[0].history == [] == handlers.arrive(address(""))[0].history
    assert handlers.arrive(address("p0003", "p0001"))[0].history == ["p0003", "p0001"]
    assert handlers.arrive(address("p0003,p0001,p0003"))[0].history == ["p0003", "p0001"]
    with pytest.warns(UserWarning, match="left out of the history: &lt;b&gt;x, p9999$"):
        visit, _, history = handlers.arrive(address("p0003,<b>x,p9999"))
    assert visit.history == ["p0003"] and history.count('class="step"') == 1
    with pytest.warns(UserWarning, match="Of the 201 items in the address the first 200 are the history"):
        assert handlers.arrive(address("p0003," * 200 + "p0001"))[0].history == ["p0003"]


def test_an_id_with_a_comma_in_the_address_is_one_item(handlers, monkeypatch):
    monkeypatch.setitem(handlers.shop.items, "p0003,p0001", handlers.shop.items["p0003"])
    request = SimpleNamespace(query_params=QueryParams("items=p0003%2Cp0001&items=p0002"))
    assert handlers.arrive(request)[0].history == ["p0003,p0001", "p0002"]


def test_the_head_is_text_whatever_the_shop_is_called():
    shop = Shop(open_shop().recommender, name="A *b* <i>[c](d)</i> & $e$")
    assert _head(shop) == (r"# A \*b\* \<i\>\[c\]\(d\)\<\/i\> \& \$e\$" + f"\n\n{NUM_ITEMS} items · [Help](help)")
    assert _head(open_shop()).endswith("[Help](help) · [Model card](card)")
    shop.card = "https://huggingface.co/user/shop"
    assert _head(shop).endswith("[Model card](https://huggingface.co/user/shop)")


def test_help_and_card_are_pages_beside(tmp_path):
    shop = Shop.open(shop_folder() / "model")
    page = build_page(shop, Thumbnails(tmp_path))
    assert [path for path, *_ in page.pages] == ["", "help", "card"]
    texts = components(page)
    assert "3 codes for each of" in texts["help"].value and "each code one of 8" in texts["help"].value
    assert texts["card"].value == shop.card and shop.card.startswith("# Generative recommender")
    shop.card = "https://huggingface.co/user/shop"
    assert [path for path, *_ in build_page(shop, Thumbnails(tmp_path)).pages] == ["", "help"]


def test_errors_are_shown_as_one_message(handlers):
    visit = handlers.arrive()[0]
    for number in range(MAX_NEW_ITEMS + 1):
        _, catalogue, card = handlers.add(visit, None, f"lamp {number}", "")
    assert "Expected at most 20 new items" in card and 'role="alert"' in card
    assert "new-20" in handlers._catalogue(visit) and "new-21" not in handlers._catalogue(visit)


@pytest.mark.parametrize("name, content", [("broken.jpg", b"no photo"), ("vector.svg", b"<svg/>"), ("cut.png", None)])
def test_an_upload_that_is_no_picture_says_so(handlers, tmp_path, name, content):
    whole = next(shop_folder().rglob("*.jpg")).read_bytes()
    (tmp_path / name).write_bytes(whole[:300] if content is None else content)
    page = build_page(handlers.shop, Thumbnails(tmp_path))
    (added,) = [fn for fn in page.fns.values() if fn.name == "add"]
    upload = {"path": str(tmp_path / name), "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    title = components(page)["new-title"]._id
    given = [upload if block.elem_id == "new-photo" else "mug" if block._id == title else "" for block in added.inputs]
    read = asyncio.run(page.preprocess_data(added, given, None, explicit_call=True))  # what Gradio makes of it
    _, _, card = handlers.add(handlers.arrive()[0], *read[1:])
    assert 'role="alert"' in card and f"The photo cannot be read: {name}" in card and str(tmp_path) not in card


def test_texts_have_a_limit(handlers):
    visit = handlers.arrive()[0]
    assert handlers.search(visit, "lamp " * 1000)[0].query == ("lamp " * 1000)[:200]
    for title, text, which in (("x" * 2001, "", "title"), ("mug", "x" * 2001, "description")):
        assert f"The {which} has 2,001 characters: expected at most 2,000" in handlers.add(visit, None, title, text)[2]
    assert visit.new_items == []
    handlers.add(visit, None, "mug " * 500, "x" * 2000)
    assert visit.new_items == ["new-1"]
    fields = components(build_page(handlers.shop, handlers.address.__self__))
    assert [fields[name].max_length for name in ("search", "new-title", "new-text")] == [200, 2000, 2000]


def test_the_page_offers_what_the_shop_can_do(tmp_path):
    whole = components(build_page(open_shop(), Thumbnails(tmp_path)))
    assert whole["in-stock"].visible and whole["modality"].visible and "add" in whole
    assert [value for _, value in whole["modality"].choices] == ["ensemble", "text", "image"]
    bare = components(build_page(Shop(open_shop().recommender), Thumbnails(tmp_path)))
    assert (
        not bare["in-stock"].visible and "add" not in bare and "Start with `--encoders" in bare["no-new-items"].value
    )
    old = open_shop().recommender
    table = type(old.table)(old.table.item_ids, {"text": old.table.codes["text"]}, old.table.codebook_size)
    tokenizer = type(old.tokenizer).from_table(table)
    one = Shop(MacRecRecommender(model=old.model, tokenizer=tokenizer, table=table))
    assert not components(build_page(one, Thumbnails(tmp_path)))["modality"].visible


def test_the_history_is_left_out_at_first_where_nobody_buys_twice(tmp_path):
    old = open_shop().recommender
    model = copy.copy(old.model)
    for noted in (None, True):
        model.config = copy.deepcopy(old.model.config)
        model.config.hides_history = noted
        shop = Shop(MacRecRecommender(model=model, tokenizer=old.tokenizer, table=old.table))
        assert components(build_page(shop, Thumbnails(tmp_path)))["exclude-history"].value is bool(noted)


def test_no_handler_is_a_public_endpoint_and_nothing_is_counted(tmp_path):
    page = build_page(open_shop(), Thumbnails(tmp_path))
    assert page.analytics_enabled is False
    assert {fn.api_visibility for fn in page.fns.values()} == {"private"}
    assert isinstance(page, gr.Blocks) and page.title == open_shop().name


def test_a_port_in_use_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match=r"--port: expected port \d+ of 127.0.0.1 to be free"):
            launch_page(open_shop(), port=taken.getsockname()[1])


def test_only_so_many_visits_are_remembered(monkeypatch):
    built = []
    monkeypatch.setattr(page_module, "build_page", lambda *parts: built.append(build_page(*parts)) or built[0])

    def leave(address):
        raise InterruptedError(address)

    with pytest.raises(InterruptedError, match="http://127.0.0.1"):
        launch_page(open_shop(), on_ready=leave)
    sessions = built[0].state_holder
    for number in range(MOST_VISITS + 3):
        assert sessions[f"visitor {number}"].blocks_config is not None
    assert len(sessions.session_data) == MOST_VISITS and "visitor 2" not in sessions and "visitor 3" in sessions
