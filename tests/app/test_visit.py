"""What a visitor does: history, lists, new items. Lists are compared with the recommender's own."""

import itertools
import math

import pytest
from app_tools import NO_PHOTO, SOLD_OUT, open_shop, shop_folder

from macrec_hf import MacRecRecommender
from macrec_hf.app.shop import Shop
from macrec_hf.app.visit import MAX_NEW_ITEMS, PAGE_SIZE, TOP_K, Options, Visit
from macrec_hf.model.semantic_ids import SemanticIdTable

HISTORY = ["p0004", "p0010", "p0007"]


def visit(history=()):
    made = Visit(open_shop())
    for item in history:
        made.toggle(item)
    return made


def pairs(page):
    return [(row.item.item_id, row.score) for row in page.rows]


def test_history_keeps_the_order_of_the_clicks():
    mine = visit([*HISTORY, "p0010", "p0010", "unknown"])
    assert mine.history == ["p0004", "p0007", "p0010"]
    assert visit().history == []  # visitors do not share theirs
    mine.clear()
    assert mine.history == []


@pytest.mark.parametrize("modality", ["ensemble", "text", "image"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("num_beams", [10, 30])
def test_lists_are_the_recommenders(modality, exclude, num_beams):
    shop = open_shop()
    page = visit(HISTORY).recommend(Options(modality, num_beams, exclude))
    (expected,) = shop.recommender.recommend(
        [HISTORY], top_k=TOP_K, num_beams=num_beams, modality=modality, exclude_history=exclude
    )
    assert pairs(page) == expected and page.note is None and page.outside == []
    assert [row.rank for row in page.rows] == list(range(1, TOP_K + 1))
    for row in page.rows:
        assert row.semantic_ids == {m: shop.recommender.table.tokens(row.item.item_id, m) for m in ("text", "image")}
        assert row.probability == pytest.approx(math.exp(row.score))
        assert row.bar == pytest.approx(math.exp(row.score - page.rows[0].score))


@pytest.mark.parametrize("modality", ["ensemble", "text", "image"])
def test_without_a_blend_the_reason_is_the_picked_item_with_the_most_codes_in_common(modality):
    table, mine = open_shop().recommender.table, visit(HISTORY)
    names = ("text", "image") if modality == "ensemble" else (modality,)

    def common(item, other, name):
        pairs = zip(table.tokens(item, name), table.tokens(other, name), strict=False)  # one may have no ID
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

    rows = mine.recommend(Options(modality)).rows
    for row in rows:
        item = row.item.item_id
        pairs = [
            (common(item, o, n), f"like {mine.items[o].title} ({n})") for o in HISTORY for n in names if o != item
        ]
        best = max(length for length, _ in pairs)
        assert (row.reasons == ("the model's own choice",)) if best == 0 else ((best, row.reasons[0]) in pairs)
    assert any(row.reasons[0].startswith("like ") for row in rows)
    assert {row.reasons for row in visit().recommend(Options()).rows} == {("sells well",)}


def test_a_history_is_taken_whole():
    mine = visit(["p0001"])
    assert mine.take(["p0003", "nothing", "p0003", "p0002", "nothing"]) == ["nothing"]
    assert mine.history == ["p0003", "p0002"]


def test_only_what_is_in_stock():
    shop = open_shop()
    in_stock = [item for place, item in enumerate(shop.items) if place % SOLD_OUT]
    (expected,) = shop.recommender.recommend([HISTORY], top_k=TOP_K, allowed_items=in_stock)
    assert pairs(visit(HISTORY).recommend(Options(only_in_stock=True))) == expected
    assert pairs(visit(HISTORY).recommend(Options())) != expected


def test_without_a_history_popular_items_are_shown_and_it_is_said():
    page = visit().recommend(Options())
    assert [row.item.item_id for row in page.rows] == list(open_shop().items)[:TOP_K]
    assert "popular with everybody" in page.note
    page = visit([NO_PHOTO]).recommend(Options(modality="image"))
    assert page.note.startswith("No picked item has an ID of image") and page.rows[0].item.item_id == "p0000"


def test_a_model_that_does_not_know_what_is_popular_says_so():
    old = open_shop().recommender
    shop = Shop(MacRecRecommender(model=old.model, tokenizer=old.tokenizer, table=old.table))
    page = Visit(shop).recommend(Options())
    assert page.rows == [] and page.note.startswith("Pick an item to begin")


def test_lists_may_be_empty():
    mine = visit(HISTORY)
    mine.items = {item: type(shown)(item, shown.title, in_stock=False) for item, shown in mine.items.items()}
    assert mine.recommend(Options(only_in_stock=True)).note == "Nothing is in stock."
    old = open_shop().recommender
    codes = {name: old.table.codes[name][:2] for name in old.table.modalities}
    small = SemanticIdTable(old.table.item_ids[:2], codes, old.table.codebook_size)
    mine = Visit(Shop(MacRecRecommender(model=old.model, tokenizer=old.tokenizer, table=small)))
    mine.toggle("p0000")
    mine.toggle("p0001")
    page = mine.recommend(Options(exclude_history=True))
    assert page.rows == [] and page.note.startswith("Nothing is left to recommend")


def test_the_catalogue_is_shown_in_parts():
    mine = visit()
    mine.num_shown = 3
    items, num_found = mine.catalogue()
    assert [item.item_id for item in items] == ["p0000", "p0001", "p0002"] and num_found == 40
    mine.show_more()
    assert mine.num_shown == 3 + PAGE_SIZE
    mine.search("mug")
    items, num_found = mine.catalogue()
    assert len(items) == num_found and all("mug" in item.title for item in items) and mine.num_shown == PAGE_SIZE


def test_a_new_item_can_be_picked_found_and_recommended():
    shop, mine = open_shop(), visit(HISTORY)
    photo = shop_folder() / "shop/images/p0011.jpg"
    landing = mine.add_item(" Nova cap ", photo)
    assert landing.item_id == "new-1" and mine.new_items == ["new-1"]
    shown = mine.items["new-1"]
    assert (shown.title, shown.photo, shown.is_new, shown.in_stock) == ("Nova cap", str(photo), True, True)
    assert mine.catalogue()[0][0] == shown
    mine.search("nova")
    assert mine.catalogue() == ([shown], 1)
    # Its score is the recommender's, in the list or below it; every other item's is what it was.
    before, page = shop.recommender, mine.recommend(Options())
    (score,) = [row.score for row in [*page.rows, *page.outside] if row.item == shown]
    (alone,) = mine.recommender.recommend([HISTORY], allowed_items=["new-1"])
    assert alone == [("new-1", score)]
    assert mine.recommender.model is before.model and "new-1" not in before.table.row_of
    assert "new-1" not in shop.items and visit().new_items == []
    for name in ("text", "image"):
        assert (mine.recommender.table.codes[name][:-1] == before.table.codes[name]).all()
    mine.toggle("new-1")
    assert mine.history[-1] == "new-1" and mine.recommend(Options()).rows
    assert mine.recommend(Options(exclude_history=True)).outside == []
    assert mine.add_item("Nova cap").item_id == "new-2"


def test_new_items_are_refused_where_they_cannot_be():
    with pytest.raises(ValueError, match="has no title"):
        visit().add_item(" ", None)
    with pytest.raises(ValueError, match="Items cannot be added: expected a quantizer and encoders"):
        Visit(Shop(open_shop().recommender)).add_item("mug")
    mine = visit()
    mine.items.maps[0].update({f"new-{n}": mine.items["p0001"] for n in range(MAX_NEW_ITEMS)})
    with pytest.raises(ValueError, match=f"Expected at most {MAX_NEW_ITEMS} new items"):
        mine.add_item("mug")
