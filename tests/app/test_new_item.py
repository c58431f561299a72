"""A new item's semantic IDs and neighbours, against the quantizer and against a search by hand."""

import pandas as pd
import pytest
import torch
from app_tools import NO_PHOTO, open_shop, shop_folder

from macrec_hf import MacRecRecommender, add_items
from macrec_hf.app.new_item import NEIGHBOURS, place_item
from macrec_hf.app.visit import Visit
from macrec_hf.catalogue.item_encoders import embed_items


def place(title, photo=None, text=""):
    shop = open_shop()
    mine = Visit(shop)._own_recommender()
    landing = place_item(mine, shop.encoders, "new-1", title, text, photo)
    assert mine.item_titles["new-1"] == title and mine.item_counts[-1] == 0
    return mine.table, landing


def test_ids_are_those_of_embed_and_add_items():
    shop, photo = open_shop(), shop_folder() / "shop/images/p0011.jpg"
    items = pd.DataFrame({"item_id": ["new-1"], "title": ["Green cap"], "text": ["A curved visor."], "image": [photo]})
    store = embed_items(items, shop.encoders, progress=False)
    expected = add_items(shop.recommender.table, shop.recommender.quantizer, store)
    grown, landing = place("Green cap", photo, "A curved visor.")
    assert grown == expected and landing.item_id == "new-1" and shop.recommender.table.num_items == len(grown) - 1
    for name in ("text", "image"):
        assert landing.places[name].tokens == expected.tokens("new-1", name)
        (codes,) = shop.recommender.quantizer.encode(
            {name: torch.from_numpy(store.rows(name, [0])) for name in store.modalities}
        )[name].tolist()
        assert list(landing.places[name].holders) == shop.recommender.table.items(codes, name)


def test_the_same_photo_meets_its_original():
    """A copy of an item has the original's natural ID, which is taken: by the original, unless that was moved too."""
    shop = open_shop()
    title, text = (shop.items["p0011"].title, "")
    _, landing = place(title, shop_folder() / "shop/images/p0011.jpg", text)
    found = landing.places["image"]
    assert found.holders and "".join(found.natural) != "".join(found.tokens)
    assert found.holders[0] in [near.item_id for near in found.neighbours]


def test_neighbours_share_the_longest_prefixes():
    table = open_shop().recommender.table
    grown, landing = place("Estrella lamp", shop_folder() / "shop/images/p0020.jpg")
    for name, found in landing.places.items():
        own = grown.codes[name][-1].tolist()
        shared = {}
        for item, codes in zip(table.item_ids, table.codes[name].tolist(), strict=True):
            shared[item] = next((place for place in range(3) if codes[place] != own[place]), 3)
        assert found.num_sharing == tuple(sum(n >= length for n in shared.values()) for length in (1, 2, 3))
        expected = sorted((n for n in shared.values() if n), reverse=True)[:NEIGHBOURS]
        assert [near.shared for near in found.neighbours] == expected
        assert all(shared[near.item_id] == near.shared for near in found.neighbours)
    assert found.num_sharing[2] == 0  # no two items have the same ID


def test_what_is_missing_is_said():
    grown, landing = place("Alderfield mug")
    assert landing.places["image"].tokens == [] and landing.places["image"].missing == "no photo was given"
    assert landing.places["text"].tokens and grown.codes["image"][-1].tolist() == [-1, -1, -1]
    _, landing = place("zzz qqq", shop_folder() / "shop/images/p0001.jpg")
    assert landing.places["text"].missing == "no word known to the encoder" and landing.places["image"].tokens


@pytest.mark.parametrize(
    ("title", "photo", "message"),
    [
        (" ", None, "has no title"),
        ("mug", "nothing.jpg", "image: expected at least one item that can be encoded.*no such file"),
        ("zzz", None, "Expected at least one modality that can be encoded, got none .*no word known.*no photo"),
    ],
)
def test_what_cannot_be_placed_is_refused(title, photo, message):
    with pytest.raises(ValueError, match=message):
        place(title, photo)


def test_an_encoder_may_be_absent():
    shop = open_shop()
    encoders = {"text": shop.encoders["text"]}
    mine = Visit(shop)._own_recommender()
    landing = place_item(mine, encoders, "new-1", "lamp", photo=shop.items["p0001"].photo)
    assert landing.places["image"].missing == "there is no encoder for it"
    assert shop.items[NO_PHOTO].photo is None
    bare = MacRecRecommender(model=mine.model, tokenizer=mine.tokenizer, table=mine.table)
    with pytest.raises(ValueError, match="Items cannot be added: expected a recommender with the quantizer"):
        place_item(bare, encoders, "new-2", "lamp")
