"""The page of `macrec app`: Gradio components around `app.visit.Visit`. The one file that imports Gradio."""

import threading
from collections.abc import Callable
from importlib.resources import files
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from ..data.photos import read_photo
from ..doctor.photos import thumbnail_source
from ..model.ensemble import ENSEMBLE, NUM_BEAMS
from . import cards
from .photos import THUMBNAIL, Thumbnails
from .shop import Shop
from .visit import MAX_QUERY, MAX_TEXT, Options, Visit

MAX_BEAMS = 100
MAX_UPLOAD = "20mb"
STYLE, CLICKS = (files(__package__).joinpath(name).read_text("utf-8") for name in ("app.css", "clicks.js"))
FONT, FONT_MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the visitor: none is fetched
MODEL_QUEUE = "model"  # the model answers one visitor at a time
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_MODEL: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": MODEL_QUEUE, "api_visibility": "private"}
FORGET_AFTER = 3600  # seconds after which uploaded files, and visits that were left, are deleted


class _Handlers:
    """What the page's events call. The first input and output of each is the visit."""

    def __init__(self, shop: Shop, thumbnails: Thumbnails):
        self.shop, self.address = shop, thumbnails.address

    def arrive(self) -> tuple[Visit, str, str]:
        """A visit of its own for whoever opens the page."""
        visit = Visit(self.shop)
        return visit, self._catalogue(visit), self._history(visit)

    def act(self, visit: Visit | None, event: gr.EventData) -> tuple[Visit, str, str]:
        """A button in one of the pieces."""
        visit = visit or self.arrive()[0]
        if event.action == "toggle":
            visit.toggle(event.item)
        elif event.action == "clear":
            visit.clear()
        elif event.action == "more":
            visit.show_more()
        return visit, self._catalogue(visit), self._history(visit)

    def search(self, visit: Visit | None, query: str | None) -> tuple[Visit, str]:
        visit = visit or self.arrive()[0]
        visit.search(str(query or ""))
        return visit, self._catalogue(visit)

    def recommend(
        self, visit: Visit | None, modality: str, num_beams: float, exclude_history: bool, only_in_stock: bool
    ) -> str:
        visit = visit or self.arrive()[0]
        options = Options(modality, int(num_beams), exclude_history, only_in_stock)
        try:
            return cards.ranked_list(visit.recommend(options), visit.history, self.address)
        except (ValueError, RuntimeError) as error:
            return cards.error_note(str(error))

    def add(
        self, visit: Visit | None, upload: dict[str, Any] | None, title: str | None, text: str | None
    ) -> tuple[Visit, Any, str]:
        """The form of a new item, as the browser sends it: Gradio's own reading ends with "Error" at an odd photo."""
        visit = visit or self.arrive()[0]
        photo = (upload or {}).get("path")
        try:
            # A copy of the photo, because the uploaded file is deleted after a while.
            shown = None if photo is None else thumbnail_source(photo, THUMBNAIL)
            if photo is not None and shown is None:
                raise ValueError(f"The photo cannot be read: {read_photo(photo)}. Choose another, or none.")
            landing = visit.add_item(str(title or ""), photo, str(text or ""), shown)
        except (ValueError, OSError, RuntimeError) as error:
            return visit, gr.skip(), cards.error_note(str(error))
        item = visit.items[landing.item_id]
        table = visit.recommender.table
        card = cards.landing_card(landing, item, visit.items, table.tokens, self.address)
        return visit, self._catalogue(visit), card

    def _catalogue(self, visit: Visit) -> str:
        items, num_found = visit.catalogue()
        return cards.catalogue(items, num_found, visit.query, visit.history, self.address)

    def _history(self, visit: Visit) -> str:
        return cards.history_strip([visit.items[item] for item in visit.history], self.address)


def build_page(shop: Shop, thumbnails: Thumbnails) -> gr.Blocks:
    """The page as `gr.Blocks`; `launch_page` serves it with its style."""
    handlers, table = _Handlers(shop, thumbnails), shop.recommender.table
    with gr.Blocks(title=shop.name, analytics_enabled=False, delete_cache=(FORGET_AFTER, FORGET_AFTER)) as page:
        visit = gr.State(None, time_to_live=FORGET_AFTER)
        gr.HTML(
            cards.head(shop.name, table.num_items, shop.modalities, table.num_levels, table.codebook_size),
            js_on_load=None,
        )
        with gr.Row():
            with gr.Column(scale=6, min_width=330, elem_id="shelf"):
                query = gr.Textbox(
                    placeholder="Search by title",
                    show_label=False,
                    container=False,
                    elem_id="search",
                    max_lines=1,
                    max_length=MAX_QUERY,
                )
                catalogue = gr.HTML(elem_id="catalogue", js_on_load=CLICKS)
            with gr.Column(scale=7, min_width=330):
                history = gr.HTML(elem_id="history", js_on_load=CLICKS)
                options = _options(shop)
                ranked = gr.HTML(elem_id="ranked", js_on_load=CLICKS)
        new_item = _new_item(shop)
        recommend = {"fn": handlers.recommend, "inputs": [visit, *options], "outputs": ranked, **_MODEL, **_QUIET}
        picked = [visit, catalogue, history]
        page.load(handlers.arrive, None, picked, **_QUIET).then(**recommend)
        for piece in (catalogue, history, ranked):
            # "multiple": a click must not be lost because the one before is still at work.
            clicked = piece.click(handlers.act, visit, picked, trigger_mode="multiple", **_QUIET)
            clicked.then(**recommend)
        query.change(handlers.search, [visit, query], [visit, catalogue], trigger_mode="always_last", **_QUIET)
        modality, beams, exclude, stock = options
        gr.on([modality.input, beams.change, exclude.input, stock.input], trigger_mode="always_last", **recommend)
        if new_item is not None:
            landing, submit, form = new_item
            added = submit.click(handlers.add, [visit, *form], [visit, catalogue, landing], preprocess=False, **_MODEL)
            added.then(**recommend)
    return page


def _options(shop: Shop) -> list[Any]:
    """Modality, beams, history, stock, in the order of `_Handlers.recommend`."""
    with gr.Group(elem_id="options"):
        with gr.Row():
            modality = gr.Radio(
                [ENSEMBLE, *shop.modalities], value=ENSEMBLE, label="Rank by", elem_id="modality",
                min_width=260, scale=3, visible=len(shop.modalities) > 1,
            )  # fmt: skip
            beams = gr.Slider(
                10,
                MAX_BEAMS,
                value=NUM_BEAMS,
                step=5,
                label="Beam width",
                elem_id="beams",
                buttons=[],
                min_width=180,
                scale=2,
            )
        with gr.Row():
            blend = shop.recommender.blend  # fitted with or without own items
            hides = blend is not None and bool(blend.about.get("hides_history"))
            exclude = gr.Checkbox(value=hides, label="Leave out the history", elem_id="exclude-history")
            stock = gr.Checkbox(label="Only in stock", elem_id="in-stock", visible=shop.knows_stock)
    return [modality, beams, exclude, stock]


def _new_item(shop: Shop) -> tuple[gr.HTML, gr.Button, list[Any]] | None:
    """The form for a new item, or why there is none."""
    gr.HTML(cards.piece("new_item_head"), js_on_load=None)
    if not shop.can_add:
        gr.HTML(cards.piece("no_new_items"), js_on_load=None, elem_id="new-item")
        return None
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            photo = gr.Image(
                type="filepath", sources=["upload", "clipboard"], label="Photo", height=220, elem_id="new-photo",
                image_mode=None,
            )  # fmt: skip
            title = gr.Textbox(label="Title", elem_id="new-title", max_lines=1, max_length=MAX_TEXT)
            text = gr.Textbox(
                label="Description",
                info="Optional; the text encoder reads it too",
                lines=2,
                elem_id="new-text",
                max_length=MAX_TEXT,
            )
            submit = gr.Button("Add and see where it lands", variant="primary", elem_id="add")
        with gr.Column(scale=9, min_width=300):
            landing = gr.HTML(cards.piece("no_landing_yet"), elem_id="landing")
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
