"""The pieces of `macrec app`'s page as HTML: tiles of the catalogue, the history, the ranked list, a new item."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from .new_item import Landing, Place
from .shop import ShownItem
from .visit import RankedItem, RankedPage

Address = Callable[[ShownItem], str | None]  # where the browser finds an item's photo


def piece(*parts: str) -> str:
    return f'<div class="mr">{"".join(parts)}</div>'


def head(name: str, num_items: int, modalities: Sequence[str], num_levels: int, codebook_size: int) -> str:
    """Title and facts of the model."""
    facts = (
        f"{num_items:,} items, each with {num_levels} codes of {codebook_size} for its {' and its '.join(modalities)}"
    )
    return piece(f'<div class="line"><h1>{escape(name)}</h1><span class="soft">{escape(facts)}</span></div>')


def catalogue(items: Sequence[ShownItem], num_found: int, query: str, history: Sequence[str], address: Address) -> str:
    """Tiles to pick from; picked ones carry their place in the history."""
    if not items:
        return piece(f'<div class="empty">No item is called “{escape(query.strip())}”.</div>')
    places = {item: place for place, item in enumerate(history, start=1)}
    tiles = "".join(_tile(item, places.get(item.item_id), address) for item in items)
    more = ""
    if num_found > len(items):
        more = f'<button class="wide-button" data-action="more">Show more of {num_found:,} items</button>'
    return piece(f'<div class="tiles">{tiles}</div>{more}')


def _tile(item: ShownItem, place: int | None, address: Address) -> str:
    badge = f'<span class="badge">{place}</span>' if place else ""
    classes = "tile sold-out" if item.in_stock is False else "tile"
    title = escape(item.title)
    return (
        f'<button class="{classes}" {_toggles(item)} title="{title}" aria-pressed="{"true" if place else "false"}">'
        f'{photo(item, address)}{badge}{_tag(item)}<span class="name">{title}</span></button>'
    )


def _toggles(item: ShownItem) -> str:
    """What makes a button put the item into the history, or take it out."""
    return f'data-action="toggle" data-item="{escape(item.item_id)}"'


def _tag(item: ShownItem) -> str:
    if item.is_new:
        return '<span class="tag new">new</span>'
    return '<span class="tag">sold out</span>' if item.in_stock is False else ""


def photo(item: ShownItem, address: Address) -> str:
    """The photo, or a tile that says that there is none."""
    found = address(item)
    if found is None:
        return '<span class="photo no-photo">no photo</span>'
    return f'<img class="photo" src="{escape(found)}" alt="{escape(item.title)}" loading="lazy">'


def history_strip(items: Sequence[ShownItem], address: Address) -> str:
    """What was picked, oldest first."""
    if not items:
        why = "Nothing picked yet. Choose what a customer took before, oldest first."
        return piece(f'<h2>History</h2><div class="empty">{why}</div>')
    steps = "".join(_step(place, item, address) for place, item in enumerate(items, start=1))
    clear = '<button class="text-button" data-action="clear">Clear</button>'
    number = f"{len(items)} item{'s' * (len(items) > 1)}, oldest first"
    return piece(
        f'<div class="line"><h2>History <span class="soft">· {number}</span></h2>{clear}</div>'
        f'<div class="strip">{steps}</div>'
    )


def _step(place: int, item: ShownItem, address: Address) -> str:
    title = escape(item.title)
    remove = f'<button class="remove" {_toggles(item)} aria-label="Remove {title}">×</button>'
    badge = f'<span class="badge">{place}</span>'
    return (
        f'<div class="step" data-item="{escape(item.item_id)}">{photo(item, address)}{badge}'
        f'{remove}<div class="name">{title}</div></div>'
    )


def ranked_list(page: RankedPage, history: Sequence[str], address: Address) -> str:
    """The recommendations as cards, then the visitor's own items that are not among them."""
    if not page.rows:
        return piece(f'<h2>Recommended</h2><div class="empty">{escape(page.note or "Nothing to recommend.")}</div>')
    title = '<div class="line"><h2>Recommended</h2><span class="soft">score: log-probability</span></div>'
    note = f'<p class="note">{escape(page.note)}</p>' if page.note else ""
    rows, outside = (
        "".join(_hit(row, row.item.item_id in history, address) for row in rows) for rows in (page.rows, page.outside)
    )
    if outside:
        outside = f'<p class="soft below">Your new items, further down</p><div class="list">{outside}</div>'
    return piece(title, note, f'<div class="list">{rows}</div>{outside}')


def _hit(row: RankedItem, picked: bool, address: Address) -> str:
    item, title = row.item, escape(row.item.title)
    ids = "".join(
        f'<span class="id" data-modality="{escape(name)}"><b>{escape(name)}</b> {_tokens(tokens)}</span>'
        for name, tokens in row.semantic_ids.items()
    )
    share = f"{row.likelihood:.0%} of the first item’s probability"
    again = ' <span class="tag">in the history</span>' if picked else ""
    add = f'aria-label="{"Remove" if picked else "Add"} {title} {"from" if picked else "to"} the history"'
    return (
        f'<div class="hit" data-item="{escape(item.item_id)}" data-rank="{row.rank or ""}">'
        f'<span class="rank">{row.rank or "…"}</span><button {_toggles(item)} {add}>{photo(item, address)}</button>'
        f'<div><span class="title">{title}</span> {_tag(item)}{again}<div class="ids">{ids}</div></div>'
        f'<div class="score" title="{share}"><span>{row.score:.3f}</span>'
        f'<span class="bar"><i style="width:{100 * row.likelihood:.1f}%"></i></span></div></div>'
    )


def _tokens(tokens: Sequence[str], shared: int = 0) -> str:
    """An ID in monospace; its first `shared` codes stand out."""
    if not tokens:
        return '<span class="soft">none</span>'
    first = f'<span class="shared">{escape("".join(tokens[:shared]))}</span>' if shared else ""
    return f"<code>{first}{escape(''.join(tokens[shared:]))}</code>"


def landing_card(
    landing: Landing, item: ShownItem, items: Mapping[str, ShownItem], tokens: Callable, address: Address
) -> str:
    """Where a new item landed, in each modality.

    Args:
        items: all that may be its neighbours.
        tokens: item id and modality → the ID's tokens.
    """
    places = "".join(
        _place(name, place, items, lambda other, name=name: tokens(other, name), address)
        for name, place in landing.places.items()
    )
    return piece(
        f'<p class="note"><b>{escape(item.title)}</b> is in the catalogue as <code>{escape(item.item_id)}</code>. '
        "Pick it or find it in the list above. It lasts until this page is closed.</p>"
        f'<div class="places">{places}</div>'
    )


def _place(name: str, place: Place, items: Mapping[str, ShownItem], tokens: Callable, address: Address) -> str:
    start = f'<div class="place" data-modality="{escape(name)}"><h2>By {escape(name)}</h2>'
    if place.missing:
        return f'{start}<p class="soft">No ID: {escape(place.missing)}.</p></div>'
    kin = "".join(
        f'<div data-item="{escape(near.item_id)}">{photo(items[near.item_id], address)}<div class="name">'
        f"{escape(items[near.item_id].title)}</div>{_tokens(tokens(near.item_id), near.shared)}</div>"
        for near in place.neighbours
    )
    said = f'<p>{_why(place, items)}</p><p class="soft company">{_company(place)}</p>'
    return f'{start}{_tokens(place.tokens)}{said}<div class="kin">{kin}</div></div>'


def _why(place: Place, items: Mapping[str, ShownItem]) -> str:
    if not place.holders:
        return "The quantizer’s own choice; no other item had it."
    first, others = items[place.holders[0]].title, len(place.holders) - 1
    also = f" and {others} more" if others else ""
    natural = f"<code>{escape(''.join(place.natural))}</code>"
    return f"The quantizer chose {natural}, which “{escape(first)}”{also} has: this is the nearest free one."


def _company(place: Place) -> str:
    """How many items share how much of the ID."""
    counts = [(length, number) for length, number in enumerate(place.num_sharing, start=1) if number]
    if not counts:
        return "No item of the catalogue begins with its first code: it stands alone."
    parts = [f"{number:,} its first {'code' if length == 1 else f'{length} codes'}" for length, number in counts[::-1]]
    return f"Of the catalogue share {', '.join(parts)}. The nearest:"


def error_note(message: str) -> str:
    return piece(f'<p class="note bad" role="alert">{escape(message)}</p>')
