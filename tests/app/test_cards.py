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
    row = RankedItem(1, evil, -1.0, 0.4, 1.0, {EVIL: [EVIL]}, (EVIL,))
    landing = Landing(EVIL, {EVIL: Place([EVIL], None, (EVIL,), (EVIL,), (Neighbour(EVIL, 1),), (1,))})
    for html in (
        cards.piece("example", [evil, ShownItem(EVIL, EVIL)], address),
        cards.catalogue([evil], 1, EVIL, [EVIL], address),
        cards.catalogue([], 0, EVIL, [], address),
        cards.piece("history", [evil], address),
        cards.piece("ranked", RankedPage([row], [row], EVIL), [EVIL], address),
        cards.piece("ranked", RankedPage(note=EVIL), [], address),
        cards.landing_card(landing, evil, {EVIL: evil}, lambda item, name: [EVIL], address),
        cards.landing_card(Landing("x", {EVIL: Place([], missing=EVIL)}), evil, {}, None, address),
        cards.piece("error", EVIL),
    ):
        assert "<script" not in html and "&lt;script" in html


def test_tiles_say_what_is_picked_sold_out_and_without_a_photo():
    html = cards.catalogue([A, B], 2, "", ["b"], address)
    first, second = re.findall(r"<button.*?</button>", html, re.S)
    assert 'src="a.jpg"' in first and 'aria-pressed="false"' in first and "badge" not in first
    assert text(second) == "no photo 1 sold out Bee" and 'aria-pressed="true"' in second and "more" not in html
    assert "Show more of 1,200 items" in cards.catalogue([A], 1200, "", [], address)


def test_a_list_shows_percentages_and_reasons_and_the_rest_as_details():
    ids = {"text": ["<a_1>", "<b_2>"], "image": []}
    rows = [
        RankedItem(1, A, -1.25, 0.2865, 1.0, ids, ("bought after Bee", "sells well")),
        RankedItem(2, B, -2.0, 0.1353, 0.4724, ids),
    ]
    new = RankedItem(None, ShownItem("new-1", "New", is_new=True), 9.5, None, 0.0, ids)
    html = cards.piece("ranked", RankedPage(rows, [new]), ["a"], address)
    assert text(html) == (
        "1 Ay in the history bought after Bee · sells well text &lt;a_1&gt;&lt;b_2&gt; image none 29% -1.250 "
        "2 no photo Bee sold out text &lt;a_1&gt;&lt;b_2&gt; image none 14% -2.000 "
        "Your new items, further down … no photo New new text &lt;a_1&gt;&lt;b_2&gt; image none 9.500"
    )
    assert "width:47.2%" in html and html.count('class="bar"') == 2  # a score that only ranks has none
    without = re.sub(r'<div class="detail">.*?</div>|<span class="detail.*?</span>', "", html, flags=re.S)
    assert "&lt;a_1" not in without and "-1.250" not in without and "29%" in without and "sells well" in without


@pytest.mark.parametrize(
    ("probability", "said"),
    [(1.0, "100%"), (0.1234, "12%"), (0.0996, "10%"), (0.0994, "9.9%"), (0.0005, "0.1%"), (0.0004, "<0.1%")],
)
def test_probabilities_are_percentages(probability, said):
    assert cards.percent(probability) == said


def test_the_history_has_a_link_that_keeps_what_others_can_see():
    html = cards.piece("history", [ShownItem("a&b", "Ay"), ShownItem("new-1", "N", is_new=True), B], address)
    assert 'href="?items=a%26b&amp;items=b"' in html


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
        (Place(["<a_1>"], None, ("<a_1>",), (), (), (0, 0)), "It is like nothing in the catalogue"),
        (
            Place(["<a_1>", "<b_1>"], None, ("<a_1>", "<b_1>"), (), (Neighbour("a", 1),), (1200, 7)),
            "Of the catalogue it shares 2 codes with 7, the first code with 1,200. Ay &lt;a_1&gt; &lt;b_9&gt;",
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
