"""What the events of `macrec app`'s page call."""

from html import escape
from typing import Any

import gradio as gr

from ..data.photos import read_photo
from ..doctor.photos import thumbnail_source
from . import cards
from .photos import THUMBNAIL, Thumbnails
from .shop import Shop
from .visit import Options, Visit

MAX_ADDRESS = 200  # items of a history in the page's address; the rest is not read


class Handlers:
    """The first input and output of each is the visit; one that was forgotten begins anew."""

    def __init__(self, shop: Shop, thumbnails: Thumbnails):
        self.shop, self.address = shop, thumbnails.address

    def arrive(self, request: gr.Request | None = None) -> tuple[Visit, str, str]:
        """A visit of its own for whoever opens the page, with the history of the address: `?items=i1,i7`.

        Or `?items=i1&items=i7`, as the page writes it, for ids with commas.
        """
        visit = Visit(self.shop)
        words = [] if request is None else request.query_params.getlist("items")
        wanted = [item for word in words for item in ([word] if word in visit.items else word.split(",")) if item]
        if len(wanted) > MAX_ADDRESS:
            gr.Warning(f"Of the {len(wanted):,} items in the address the first {MAX_ADDRESS} are the history.")
        unknown = visit.take(wanted[:MAX_ADDRESS])
        if unknown:
            gr.Warning(f"Not in this catalogue, and left out of the history: {escape(', '.join(unknown)[:200])}")
        return self._picked(visit)

    def act(self, visit: Visit | None, event: gr.EventData) -> tuple[Visit, str, str]:
        """A button in one of the pieces."""
        visit = visit or Visit(self.shop)
        if event.action == "toggle":
            visit.toggle(event.item)
        elif event.action == "clear":
            visit.clear()
        elif event.action == "more":
            visit.show_more()
        return self._picked(visit)

    def example(self, visit: Visit | None, place: int) -> tuple[Visit, str, str]:
        """One of the shop's examples becomes the history."""
        visit = visit or Visit(self.shop)
        visit.take(self.shop.examples[place])
        return self._picked(visit)

    def search(self, visit: Visit | None, query: str | None) -> tuple[Visit, str]:
        visit = visit or Visit(self.shop)
        visit.search(str(query or ""))
        return visit, self._catalogue(visit)

    def recommend(
        self, visit: Visit | None, modality: str, num_beams: float, exclude_history: bool, only_in_stock: bool
    ) -> str:
        visit = visit or Visit(self.shop)
        options = Options(modality, int(num_beams), exclude_history, only_in_stock)
        try:
            return cards.piece("ranked", visit.recommend(options), visit.history, self.address)
        except (ValueError, RuntimeError) as error:
            return cards.piece("error", str(error))

    def add(
        self, visit: Visit | None, upload: dict[str, Any] | None, title: str | None, text: str | None
    ) -> tuple[Visit, Any, str]:
        """The form of a new item, as the browser sends it: Gradio's own reading ends with "Error" at an odd photo."""
        visit = visit or Visit(self.shop)
        photo = (upload or {}).get("path")
        try:
            # A copy of the photo, because the uploaded file is deleted after a while.
            shown = None if photo is None else thumbnail_source(photo, THUMBNAIL)
            if photo is not None and shown is None:
                raise ValueError(f"The photo cannot be read: {read_photo(photo)}. Choose another, or none.")
            landing = visit.add_item(str(title or ""), photo, str(text or ""), shown)
        except (ValueError, OSError, RuntimeError) as error:
            return visit, gr.skip(), cards.piece("error", str(error))
        item = visit.items[landing.item_id]
        table = visit.recommender.table
        card = cards.landing_card(landing, item, visit.items, table.tokens, self.address)
        return visit, self._catalogue(visit), card

    def _picked(self, visit: Visit) -> tuple[Visit, str, str]:
        shown = [visit.items[item] for item in visit.history]
        return visit, self._catalogue(visit), cards.piece("history", shown, self.address)

    def _catalogue(self, visit: Visit) -> str:
        items, num_found = visit.catalogue()
        return cards.catalogue(items, num_found, visit.query, visit.history, self.address)
