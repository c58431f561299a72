"""The page of `macrec app`: Gradio components around `app.visit.Visit`, with the pages beside it."""

import re
import threading
from collections.abc import Callable
from importlib.resources import files
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from ..data.shown_photos import is_address
from ..doctor.html_page import render
from ..model.ensemble import ENSEMBLE, NUM_BEAMS
from ..model.served_catalogue import hides_history
from . import cards
from .handlers import Handlers
from .photos import Thumbnails
from .shop import Shop
from .visit import MAX_QUERY, MAX_TEXT

MAX_BEAMS = 100
MAX_UPLOAD = "20mb"
STYLE, CLICKS = (files(__package__).joinpath(name).read_text("utf-8") for name in ("app.css", "clicks.js"))
FONT, FONT_MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the visitor: none is fetched
MODEL_QUEUE = "model"  # the model answers one visitor at a time
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_MODEL: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": MODEL_QUEUE, "api_visibility": "private"}
FORGET_AFTER = 3600  # seconds after which uploaded files, and visits that were left, are deleted
# Gradio keeps what each visitor was shown last, some 0.1 MB, until so many others have come; its own choice is 10,000.
MOST_VISITS = 300


def build_page(shop: Shop, thumbnails: Thumbnails) -> gr.Blocks:
    """The page as `gr.Blocks`; `launch_page` serves it with its style."""
    handlers = Handlers(shop, thumbnails)
    with gr.Blocks(title=shop.name, analytics_enabled=False, delete_cache=(FORGET_AFTER, FORGET_AFTER)) as page:
        visit = gr.State(None, time_to_live=FORGET_AFTER)
        gr.Markdown(_head(shop), elem_id="head", latex_delimiters=[])
        examples = _examples(shop, thumbnails)
        with gr.Row(elem_id="shop"):
            with gr.Column(scale=6, min_width=330, elem_id="shelf"):
                new_item = _new_item(shop)
                query = gr.Textbox(
                    placeholder="Search by title", show_label=False, container=False, elem_id="search",
                    max_lines=1, max_length=MAX_QUERY,
                )  # fmt: skip
                catalogue = gr.HTML(elem_id="catalogue", js_on_load=CLICKS)
            with gr.Column(scale=7, min_width=330, elem_id="side"):
                history = gr.HTML(elem_id="history", js_on_load=CLICKS)
                options = _options(shop)
                with gr.Row(elem_id="list-head"):
                    gr.Markdown("**Most likely next**")
                    gr.Checkbox(label="Details", container=False, scale=0, min_width=100, elem_id="details")
                ranked = gr.HTML(elem_id="ranked", js_on_load=CLICKS)
        # "always_last": what is picked while a list is made gets its own, else the page would keep the earlier list.
        recommend = {
            "fn": handlers.recommend, "inputs": [visit, *options], "outputs": ranked, "trigger_mode": "always_last",
            **_MODEL, **_QUIET,
        }  # fmt: skip
        picked = [visit, catalogue, history]
        page.load(handlers.arrive, None, picked, **_QUIET).then(**recommend)
        for piece in (catalogue, history, ranked):
            # "multiple": a click must not be lost because the one before is still at work.
            clicked = piece.click(handlers.act, visit, picked, trigger_mode="multiple", **_QUIET)
            clicked.then(**recommend)
        chosen = examples.click(handlers.example, [visit, examples], picked, trigger_mode="always_last", **_QUIET)
        chosen.then(**recommend)
        query.change(handlers.search, [visit, query], [visit, catalogue], trigger_mode="always_last", **_QUIET)
        modality, beams, exclude, stock = options
        gr.on([modality.input, beams.change, exclude.input, stock.input], **recommend)
        if new_item is not None:
            landing, submit, form = new_item
            added = submit.click(handlers.add, [visit, *form], [visit, catalogue, landing], preprocess=False, **_MODEL)
            added.then(**recommend)
    _pages_beside(page, shop)
    return page


def _head(shop: Shop) -> str:
    """Name, size and links, in Markdown."""
    # A backslash before punctuation makes it plain text, whatever it would have meant to Markdown or HTML.
    name = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(shop.name.split()))
    parts = [f"{shop.recommender.table.num_items:,} items", "[Help](help)"]
    if shop.card is not None:
        parts.append(f"[Model card]({shop.card if is_address(shop.card) else 'card'})")
    return f"# {name}\n\n{' · '.join(parts)}"


def _pages_beside(page: gr.Blocks, shop: Shop) -> None:
    """How to read the page, and the model card where it is not on the Hub."""
    table = shop.recommender.table
    sizes = {"num_levels": table.num_levels, "codebook_size": table.codebook_size, "modalities": shop.modalities}
    texts = {"help": ("How to read this page", render("app/templates/help.md.jinja", **sizes))}
    if shop.card is not None and not is_address(shop.card):
        texts["card"] = ("Model card", shop.card)
    for path, (name, text) in texts.items():
        with page.route(name, path, show_in_navbar=False):
            gr.Markdown(text, elem_id=path)


def _examples(shop: Shop, thumbnails: Thumbnails) -> gr.Dataset:
    """Histories to click on."""
    shown = [[shop.items[item] for item in history] for history in shop.examples]
    samples = [[cards.piece("example", items, thumbnails.address)] for items in shown]
    return gr.Dataset(
        components=[gr.HTML(visible=False)], samples=samples, type="index", label="Example histories",
        elem_id="examples", visible=bool(samples),
    )  # fmt: skip


def _options(shop: Shop) -> list[Any]:
    """Modality, beams, history, stock, in the order of `Handlers.recommend`."""
    ways = [("everything", ENSEMBLE), *((f"{name} alone", name) for name in shop.modalities)]
    hides = hides_history(shop.recommender.blend, shop.recommender.model.config)
    with gr.Accordion("How the list is made", open=False, elem_id="options"):
        modality = gr.Radio(
            ways, value=ENSEMBLE, label="Rank by", elem_id="modality", visible=len(shop.modalities) > 1,
        )  # fmt: skip
        with gr.Row():
            exclude = gr.Checkbox(value=hides, label="Leave out the history", elem_id="exclude-history", min_width=150)
            stock = gr.Checkbox(label="Only in stock", elem_id="in-stock", visible=shop.knows_stock, min_width=150)
        beams = gr.Slider(
            10, MAX_BEAMS, value=NUM_BEAMS, step=5, label="Beam width", elem_id="beams", buttons=[],
        )  # fmt: skip
    return [modality, beams, exclude, stock]


def _new_item(shop: Shop) -> tuple[gr.HTML, gr.Button, list[Any]] | None:
    """The form for a new item, or why there is none."""
    with gr.Accordion("Add a new item", open=False, elem_id="new-item"):
        if not shop.can_add:
            gr.Markdown(
                "Start with `--encoders EMB`, the folder of `macrec embed`, and a model directory that holds its "
                "quantizer.", elem_id="no-new-items",
            )  # fmt: skip
            return None
        with gr.Row():
            photo = gr.Image(
                type="filepath", sources=["upload", "clipboard"], label="Photo", height=190, elem_id="new-photo",
                image_mode=None, min_width=200,
            )  # fmt: skip
            with gr.Column(min_width=200):
                title = gr.Textbox(label="Title", elem_id="new-title", max_lines=1, max_length=MAX_TEXT)
                text = gr.Textbox(label="Description, optional", lines=2, elem_id="new-text", max_length=MAX_TEXT)
        submit = gr.Button("Add and see what it is like", variant="primary", elem_id="add")
        landing = gr.HTML(elem_id="landing", js_on_load=None)
    return landing, submit, [photo, title, text]


def launch_page(
    shop: Shop,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    browser: bool = False,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        host: "127.0.0.1": only this machine; "0.0.0.0": everyone who can reach it.
        port: None: 7860, or the next that is free.
        share: whether Gradio opens a public tunnel, through its own servers.
        browser: whether to open it in the default browser.
        on_ready: called with the page's address when it can be opened.

    Raises:
        OSError: the port is in use.
    """
    with TemporaryDirectory(prefix="macrec-app-") as folder:
        page = build_page(shop, Thumbnails(folder))
        try:
            _, local, public = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                inbrowser=browser,
                allowed_paths=[folder],
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
                theme=_theme(),
                css=STYLE,
                ssr_mode=False,
                max_file_size=MAX_UPLOAD,
                state_session_capacity=MOST_VISITS,
            )
        except OSError as error:
            where = "a port from 7860 on" if port is None else f"port {port}"
            raise OSError(f"--port: expected {where} of {host} to be free, got: {error}") from error
        try:
            if on_ready is not None:
                on_ready(public or local)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _theme() -> gr.themes.Base:
    """The colours of the package's other pages."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="md", font=FONT, font_mono=FONT_MONO)
    # Gradio's own grey is too faint on white to be read (WCAG asks for a contrast of 4.5).
    return theme.set(body_text_color_subdued="*neutral_500")
