"""What the page knows of a shop: titles, photos, stock, encoders; and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
from app_tools import NO_PHOTO, NUM_ITEMS, ODD, ODD_TITLE, SOLD_OUT, open_shop, shop_folder

from macrec_hf import EmbeddingStore, MacRecRecommender
from macrec_hf.app.shop import Shop


def test_items_have_titles_photos_and_stock():
    shop = open_shop()
    assert list(shop.items) == shop.recommender.table.item_ids and len(shop.items) == NUM_ITEMS
    assert shop.items[ODD].title == ODD_TITLE
    assert shop.items[NO_PHOTO].photo is None and shop.items["p0001"].photo.endswith("shop/images/p0001.jpg")
    sold_out = [item for item, shown in shop.items.items() if shown.in_stock is False]
    assert shop.knows_stock and sold_out == shop.recommender.table.item_ids[::SOLD_OUT]
    assert shop.can_add and shop.modalities == ("text", "image")
    # Reasons call an item as the page does.
    assert shop.recommender.item_titles[ODD] == ODD_TITLE


def test_without_an_items_file_the_models_titles_are_shown():
    shop = Shop.open(shop_folder() / "model", title="Mine")
    assert shop.items["p0007"].title == "Model's title of p0007" and shop.items["p0007"].photo is None
    assert not shop.knows_stock and not shop.can_add and shop.name == "Mine"


def test_a_shop_is_called_by_its_folder_and_has_the_models_card(tmp_path):
    shop = Shop.open(shop_folder() / "model")
    assert shop.name == "Corner shop of Ana"
    assert shop.card.startswith("# Generative recommender") and len(shop.examples) > 1
    assert Shop(open_shop().recommender).card is None


def test_search_finds_all_words_in_title_or_id_most_popular_first():
    shop = open_shop()
    # The fixture's counts fall along the catalogue.
    assert shop.search("  ") == shop.recommender.table.item_ids
    for query in ("mug", "ESTRELLA lamp", "p003", "no such thing"):
        words = query.lower().split()
        expected = [i for i, shown in shop.items.items() if all(w in f"{i} {shown.title}".lower() for w in words)]
        assert shop.search(query) == expected
    assert shop.search("mug") and not shop.search("no such thing")


def test_items_of_other_catalogues_are_left_out_or_refused(caplog):
    recommender = MacRecRecommender.from_pretrained(shop_folder() / "model")
    rows = {"item_id": ["p0001", "other"], "title": ["", "Other"], "image": [None, None]}
    shop = Shop(recommender, pd.DataFrame(rows))
    assert len(shop.items) == NUM_ITEMS and shop.items["p0001"].title == "Model's title of p0001"
    with pytest.raises(ValueError, match=r"items: expected the items of the recommender, such as \['p0000'"):
        Shop(recommender, pd.DataFrame({"item_id": ["x"], "title": [""], "image": [None]}))


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, True), (np.False_, False), ("Yes", True), ("sold out", False), (0, False), ("3", True), (12.0, True)]
    + [(None, None), (float("nan"), None), ("", None)],
)
def test_stock_is_read_as_people_write_it(given, meant):
    recommender = open_shop().recommender
    rows = pd.DataFrame(
        {"item_id": ["p0001"], "title": ["a"], "image": [None], "in_stock": pd.Series([given], dtype=object)}
    )
    shop = Shop(recommender, rows)
    assert shop.items["p0001"].in_stock is meant and shop.knows_stock is (meant is not None)


def test_a_stock_that_cannot_be_read_is_refused():
    rows = pd.DataFrame({"item_id": ["p0001"], "title": ["a"], "image": [None], "in_stock": ["soon"]})
    with pytest.raises(
        ValueError, match="in_stock of item 'p0001': expected true, false, yes, no or a number.* 'soon'"
    ):
        Shop(open_shop().recommender, rows)


def test_encoders_of_other_sizes_or_none_are_refused(tmp_path):
    model = shop_folder() / "model"
    with pytest.raises(FileNotFoundError, match="--encoders: expected a folder that `macrec embed` wrote"):
        Shop.open(model, encoders=tmp_path)
    other = EmbeddingStore({"text": np.ones((2, 3), "f4")}, ["a", "b"], encoders={"text": "offline"})
    other.save(tmp_path)
    with pytest.raises(ValueError, match="expected embeddings of the quantizer's sizes"):
        Shop.open(model, encoders=tmp_path)
    recommender = MacRecRecommender.from_pretrained(model)
    parts = {"model": recommender.model, "tokenizer": recommender.tokenizer, "table": recommender.table}
    MacRecRecommender(**parts).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="--encoders: expected a model directory with a quantizer"):
        Shop.open(tmp_path / "bare", encoders=shop_folder() / "emb")


def test_embeddings_of_another_training_are_told_of(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("macrec_hf.app.shop.logger.warning", warnings.append)
    emb = shop_folder() / "emb"
    store = EmbeddingStore.open(emb)
    changed = {name: array[::-1].copy() for name, array in store.arrays.items()}
    EmbeddingStore(changed, store.item_ids, encoders=store.encoders).save(tmp_path)
    for path in emb.glob("*_encoder.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    meta = json.loads((emb / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert Shop.open(shop_folder() / "model", encoders=tmp_path).can_add
    assert len(warnings) == 1 and "are not those that the quantizer was trained on" in warnings[0]
    # What a Space holds: what the encoders learned, without the embeddings.
    for name in ("item_ids.json", "text.npy", "image.npy"):
        (tmp_path / name).unlink()
    assert Shop.open(shop_folder() / "model", encoders=tmp_path).can_add and len(warnings) == 1


def test_photos_in_a_column_of_another_name_are_asked_for(tmp_path, caplog):
    (tmp_path / "items.csv").write_text("item_id,title,photo\np0001,Mug,a.jpg\n")
    Shop.open(shop_folder() / "model", items=tmp_path / "items.csv")
    assert "items.csv: no photos to show" in caplog.text
    caplog.clear()
    Shop.open(shop_folder() / "model", items=tmp_path / "items.csv", image_column="photo")
    assert "no photos to show" not in caplog.text
