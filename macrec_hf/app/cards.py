"""The pieces of `macrec app`'s page as HTML: tiles of the catalogue, the history, the ranked list, a new item."""

from collections.abc import Callable, Mapping, Sequence

from ..doctor.html_page import environment
from .new_item import Landing, Place
from .shop import ShownItem

Address = Callable[[ShownItem], str | None]  # where the browser finds an item's photo


def percent(probability: float) -> str:
    """A probability as people read it: "12%", "3.4%", "<0.1%"."""
    if probability < 0.0005:
        return "<0.1%"
    return f"{probability:.0%}" if probability >= 0.0995 else f"{probability:.1%}"


environment.filters["percent"] = percent


def piece(name: str, *values: object) -> str:
    """A macro of `templates/cards.html.jinja`."""
    macros = environment.get_template("app/templates/cards.html.jinja").module
    return str(getattr(macros, name)(*values))


def catalogue(items: Sequence[ShownItem], num_found: int, query: str, history: Sequence[str], address: Address) -> str:
    """Tiles to pick from; picked ones carry their place in the history."""
    places = {item: place for place, item in enumerate(history, start=1)}
    return piece("catalogue", items, num_found, query, places, address)


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
        return "It is like nothing in the catalogue: no other ID begins with its first code."
    parts = [
        f"{'the first code' if length == 1 else f'{length} codes'} with {number:,}" for length, number in counts[::-1]
    ]
    return f"Of the catalogue it shares {', '.join(parts)}."
