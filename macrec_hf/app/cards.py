"""The pieces of `macrec app`'s page as HTML: tiles of the catalogue, the history, the ranked list, a new item."""

from collections.abc import Callable, Mapping, Sequence

from ..doctor.html_page import environment
from .new_item import Landing, Place
from .shop import ShownItem
from .visit import RankedPage

Address = Callable[[ShownItem], str | None]  # where the browser finds an item's photo


def piece(name: str, *values: object) -> str:
    """A macro of `templates/cards.html.jinja`."""
    macros = environment.get_template("app/templates/cards.html.jinja").module
    return str(getattr(macros, name)(*values))


def head(name: str, num_items: int, modalities: Sequence[str], num_levels: int, codebook_size: int) -> str:
    """Title and facts of the model."""
    return piece("head", name, num_items, modalities, num_levels, codebook_size)


def catalogue(items: Sequence[ShownItem], num_found: int, query: str, history: Sequence[str], address: Address) -> str:
    """Tiles to pick from; picked ones carry their place in the history."""
    places = {item: place for place, item in enumerate(history, start=1)}
    return piece("catalogue", items, num_found, query, places, address)


def history_strip(items: Sequence[ShownItem], address: Address) -> str:
    """What was picked, oldest first."""
    return piece("history", items, address)


def ranked_list(page: RankedPage, history: Sequence[str], address: Address) -> str:
    """The recommendations as cards, then the visitor's own items that are not among them."""
    return piece("ranked", page, history, address)


def landing_card(
    landing: Landing, item: ShownItem, items: Mapping[str, ShownItem], tokens: Callable, address: Address
) -> str:
    """Where a new item landed, in each modality.

    Args:
        items: all that may be its neighbours.
        tokens: item id and modality → the ID's tokens.
    """
    return piece("landing", landing, item, items, tokens, _company, address)


def _company(place: Place) -> str:
    """How many items share how much of the ID."""
    counts = [(length, number) for length, number in enumerate(place.num_sharing, start=1) if number]
    if not counts:
        return "No item of the catalogue begins with its first code: it stands alone."
    parts = [f"{number:,} its first {'code' if length == 1 else f'{length} codes'}" for length, number in counts[::-1]]
    return f"Of the catalogue share {', '.join(parts)}. The nearest:"


def error_note(message: str) -> str:
    return piece("error", message)
