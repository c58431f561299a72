"""The page's pieces: what is said in which case, and that nothing that people typed becomes HTML."""

import re

import pytest
from app_tools import ODD, ODD_TITLE

from macrec_hf.app import cards
from macrec_hf.app.new_item import Landing, Neighbour, Place
from macrec_hf.app.shop import ShownItem
from macrec_hf.app.visit import RankedItem, RankedPage

EVIL = '"><script>alert(1)</script>'
A, B = ShownItem("a", "Ay", "a.jpg"), ShownItem("b", "Bee", None, in_stock=False)


def address(item):
    return item.photo


def text(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_whatever_is_shown_is_escaped():
    evil = ShownItem(EVIL, EVIL, EVIL, is_new=True)
    row = RankedItem(1, evil, -1.0, 1.0, {EVIL: [EVIL]})
    landing = Landing(EVIL, {EVIL: Place([EVIL], None, (EVIL,), (EVIL,), (Neighbour(EVIL, 1),), (1,))})
    for html in (
        cards.head(EVIL, 3, [EVIL], 2, 8),
        cards.catalogue([evil], 1, EVIL, [EVIL], address),
        cards.catalogue([], 0, EVIL, [], address),
        cards.history_strip([evil], address),
        cards.ranked_list(RankedPage([row], [row], EVIL), [EVIL], address),
        cards.ranked_list(RankedPage(note=EVIL), [], address),
        cards.landing_card(landing, evil, {EVIL: evil}, lambda item, name: [EVIL], address),
        cards.landing_card(Landing("x", {EVIL: Place([], missing=EVIL)}), evil, {}, None, address),
        cards.error_note(EVIL),
    ):
        assert "<script" not in html and "&lt;script" in html


def test_tiles_say_what_is_picked_sold_out_and_without_a_photo():
    html = cards.catalogue([A, B], 2, "", ["b"], address)
    first, second = re.findall(r"<button.*?</button>", html, re.S)
    assert 'src="a.jpg"' in first and 'aria-pressed="false"' in first and "badge" not in first
    assert text(second) == "no photo 1 sold out Bee" and 'aria-pressed="true"' in second and "more" not in html
    assert "Show more of 1,200 items" in cards.catalogue([A], 1200, "", [], address)


def test_a_list_shows_rank_score_and_ids():
    ids = {"text": ["<a_1>", "<b_2>"], "image": []}
    rows = [RankedItem(1, A, -1.25, 1.0, ids), RankedItem(2, B, -2.0, 0.4724, ids)]
    new = RankedItem(None, ShownItem("new-1", "New", is_new=True), -9.5, 0.0003, ids)
    html = cards.ranked_list(RankedPage(rows, [new]), ["a"], address)
    assert text(html) == (
        "Recommended score: log-probability "
        "1 Ay in the history text &lt;a_1&gt;&lt;b_2&gt; image none -1.250 "
        "2 no photo Bee sold out text &lt;a_1&gt;&lt;b_2&gt; image none -2.000 "
        "Your new items, further down … no photo New new text &lt;a_1&gt;&lt;b_2&gt; image none -9.500"
    )
    assert "47% of the first item’s probability" in html and "width:47.2%" in html


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Place(["<a_1>"], None, ("<a_1>",), (), (), (0,)), "The quantizer’s own choice; no other item had it."),
        (
            Place(["<a_2>"], None, ("<a_1>",), ("a",), (), (0,)),
            "The quantizer chose &lt;a_1&gt; , which “Ay” has: this",
        ),
        (
            Place(["<a_2>"], None, ("<a_1>",), ("b", "a", "a"), (), (0,)),
            "which “Bee” and 2 more has: this is the",
        ),
        (Place(["<a_1>"], None, ("<a_1>",), (), (), (0, 0)), "No item of the catalogue begins with its first code"),
        (
            Place(["<a_1>", "<b_1>"], None, ("<a_1>", "<b_1>"), (), (Neighbour("a", 1),), (1200, 7)),
            "share 7 its first 2 codes, 1,200 its first code. The nearest: Ay &lt;a_1&gt; &lt;b_9&gt;",
        ),
        (Place([], missing="no photo was given"), "By text No ID: no photo was given."),
    ],
)
def test_where_an_item_landed_is_said(place, said):
    tokens = {"a": ["<a_1>", "<b_9>"]}
    html = cards.landing_card(
        Landing("new-1", {"text": place}), ShownItem("new-1", "New"), {"a": A, "b": B}, lambda i, _: tokens[i], address
    )
    assert said in text(html)


def test_a_title_is_not_a_template():
    html = cards.catalogue([ShownItem(ODD, ODD_TITLE)], 1, "", [], address)
    assert "${1+1} {{value}} &lt;b&gt;bold&lt;/b&gt; &amp; &#34;quoted&#34;" in html
