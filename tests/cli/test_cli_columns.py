"""`--user-column`, `--item-column` and `--time-column`: a shop's own exports, without renaming anything."""

import json

import pandas as pd
import pytest
from hub_tools import train, trained_shop

from macrec_hf import EmbeddingStore, InteractionsBuilder, ItemsBuilder, MacRecRecommender
from macrec_hf.cli.inputs import read_titles
from macrec_hf.cli.main import main
from macrec_hf.data.readers import read_interactions, read_items

COLUMNS = ["--user-column", "customer", "--item-column", "sku", "--time-column", "ordered_at"]


@pytest.fixture
def shop(tmp_path):
    """`trained_shop`, and the same orders with a shop's own names of columns."""
    folder = trained_shop(tmp_path)
    orders = pd.read_csv(folder / "interactions.csv", dtype=str)
    orders = orders.rename(columns={"user_id": "customer", "item_id": "sku", "timestamp": "ordered_at"})
    orders.assign(item_id="a line of the order").to_csv(folder / "orders.csv", index=False)
    rows = [{"sku": f"i{row}", "title": f"Thing {row}", "item_id": row} for row in range(24)]
    (folder / "products.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_tables_are_read_by_the_names_of_their_columns(shop):
    found = read_interactions(shop / "orders.csv", user_column="customer", item_column="sku", time_column="ordered_at")
    pd.testing.assert_frame_equal(found, read_interactions(shop / "interactions.csv"))
    items = read_items(shop / "products.jsonl", item_column="sku")
    assert items["item_id"].tolist() == [f"i{row}" for row in range(24)] and "sku" not in items


def test_verbs_take_them(shop, capsys):
    before = MacRecRecommender.from_pretrained(shop / "model")
    words = ["--interactions", str(shop / "orders.csv"), "--items", str(shop / "products.jsonl"), *COLUMNS]
    assert train(shop, "--overwrite", *words) == 0, capsys.readouterr().err
    found = MacRecRecommender.from_pretrained(shop / "model")
    assert found.item_counts.tolist() == before.item_counts.tolist() and found.item_titles["i3"] == "Thing 3"
    assert found.recommend([["i1"]]) == before.recommend([["i1"]])
    usual = shop / "usual.jsonl"  # the interactions say sku, the items file item_id
    rows = [{"item_id": item, "title": title} for item, title in found.item_titles.items()]
    usual.write_text("\n".join(map(json.dumps, rows)))
    assert read_titles(str(usual), ("sku", "item_id")) == found.item_titles
    with pytest.raises(ValueError, match="expected a column 'ean' or 'upc', got"):
        read_titles(str(shop / "products.jsonl"), ("ean", "upc"))
    model, items = ["--model", str(shop / "model")], ["--items", str(shop / "products.jsonl"), "--item-column", "sku"]
    assert main(["evaluate", *model, *words[:2], *COLUMNS, "--num-beams", "3"]) == 0, capsys.readouterr().err
    assert main(["recommend", *model, "--history", "i1", *items]) == 0 and "Thing" in capsys.readouterr().out
    assert main(["embed", *items, "--output", str(shop / "texts")]) == 0
    assert EmbeddingStore.open(shop / "texts").item_ids == found.table.item_ids
    assert main(["doctor", str(shop / "model"), *items, "--output", str(shop / "page.html")]) == 0
    assert "Thing 1" in (shop / "page.html").read_text()


def test_a_missing_column_names_the_flag(shop, capsys):
    with pytest.raises(
        ValueError,
        match="expected a column 'user_id', got .*--user-column, or user_column of read_interactions in Python",
    ):
        read_interactions(shop / "orders.csv")
    with pytest.raises(ValueError, match="expected a column 'when'.*--time-column.*number the rows"):
        read_interactions(shop / "interactions.csv", time_column="when")
    with pytest.raises(
        ValueError,
        match="expected a column 'ean', got .*--item-column, or item_column of read_items or .* in Python",
    ):
        read_items(shop / "products.jsonl", item_column="ean")
    (shop / "X.inter.json").write_text('{"0": [0, 1, 2]}')
    with pytest.raises(ValueError, match="got an X.inter.json, which has no columns. Leave --user-column"):
        read_interactions(shop / "X.inter.json", user_column="customer")


def test_the_cache_knows_the_columns(shop, tmp_path):
    names = {"user_column": "customer", "time_column": "ordered_at"}

    def targets(item_column):
        made = InteractionsBuilder(shop / "both.csv", tmp_path / "cache", item_column=item_column, **names)
        made.download_and_prepare()
        return set(made.as_dataset("test")["target"])

    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders.assign(parent="p" + orders["sku"]).to_csv(shop / "both.csv", index=False)
    assert {f"p{item}" for item in targets("sku")} == targets("parent")
    by_id, by_sku = (ItemsBuilder(shop / "products.jsonl", tmp_path / "cache", name) for name in ("item_id", "sku"))
    for made in (by_id, by_sku):
        made.download_and_prepare()
    assert by_id.as_dataset("train")[3]["item_id"] == "3" and by_sku.as_dataset("train")[3]["item_id"] == "i3"
