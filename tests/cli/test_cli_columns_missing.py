"""Tables whose columns have other names than expected: nothing is left out without a word."""

import json

import pytest
from hub_tools import quantized_shop, train
from PIL import Image

from macrec_hf import EmbeddingStore, MacRecRecommender, read_interactions, read_items
from macrec_hf.cli.main import main


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """`quantized_shop`, and items whose titles and photos stand in columns of other names."""
    folder = quantized_shop(tmp_path_factory.mktemp("shop"))
    rows = ["item_id,name,photo"]
    for row in range(24):
        Image.new("RGB", (16, 16), (10 * row, 200 - 8 * row, 50)).save(folder / f"{row}.png")
        rows.append(f"i{row},{'red' if row % 2 else 'blue'} thing {row},{row}.png")
    (folder / "products.csv").write_text("\n".join(rows))
    return folder


def embed(shop, *words):
    made = ["--output", str(shop / "made"), "--overwrite"]
    return main(["embed", "--items", str(shop / "products.csv"), *made, *words])


def test_photos_and_texts_that_are_not_found_are_spoken_of(shop, capfd, caplog):
    columns = "the table has ['item_id', 'name', 'photo']"
    assert embed(shop, "--title-column", "name") == 0
    said = caplog.text
    assert "No item has a photo" in said and columns in said and "--image-column" in said
    caplog.clear()
    assert embed(shop, "--image-column", "photo") == 0
    said = caplog.text
    assert "No item has a text" in said and columns in said and "--text-columns" in said
    assert embed(shop) == 1
    said = capfd.readouterr().err
    caplog.clear()
    assert "24 items with neither" in said and columns in said and "--text-columns and --image-column" in said
    assert embed(shop, "--image-column", "photo", "--text-columns", "name") == 0
    assert set(EmbeddingStore.open(shop / "made").modalities) == {"text", "image"}
    assert "No item" not in caplog.text
    assert embed(shop, "--image-column", "photos") == 1
    assert "expected a column 'photos'" in (said := capfd.readouterr().err) and "--image-column photo?" in said


def test_titles_that_are_not_found_are_spoken_of(shop, capfd, caplog):
    items = ["--items", str(shop / "products.csv")]
    assert train(shop, *items) == 0
    assert "no titles: expected them in a column 'title'" in caplog.text and "--title-column" in caplog.text
    assert "['item_id', 'name', 'photo']" in caplog.text
    caplog.clear()
    assert train(shop, *items, "--title-column", "name", "--overwrite") == 0 and "no titles" not in caplog.text
    assert MacRecRecommender.from_pretrained(shop / "model").item_titles["i3"] == "red thing 3"
    capfd.readouterr()
    ask = ["recommend", "--model", str(shop / "model"), "--history", "i1", "--json"]
    assert main([*ask, *items]) == 0 and "no titles" in caplog.text
    assert "thing" in capfd.readouterr().out  # those of the model directory
    caplog.clear()
    assert main([*ask, *items, "--title-column", "photo"]) == 0 and "no titles" not in caplog.text
    assert ".png" in json.loads(capfd.readouterr().out)["recommendations"][0]["title"]
    page = ["--output", str(shop / "page.html")]
    assert main(["doctor", str(shop / "model"), *items, "--title-column", "photo", *page]) == 0
    assert "3.png" in (shop / "page.html").read_text()


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_another_separator_is_read(tmp_path, mark):
    path = tmp_path / "orders.csv"
    path.write_text(mark.join(["user_id", "item_id", "timestamp"]) + "\n" + mark.join("ab3"))
    assert read_interactions(path)[["user_id", "item_id"]].to_numpy().tolist() == [["a", "b"]]
    assert read_items(path)["item_id"].tolist() == ["b"]


def test_the_column_that_was_meant_is_named(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("User_ID,item id,when\nu,i,1")
    with pytest.raises(ValueError, match="Did you mean --user-column User_ID?"):
        read_interactions(path)
    with pytest.raises(ValueError, match="Did you mean --item-column 'item id'?"):
        read_items(path)
    with pytest.raises(ValueError, match="Name the right one with --time-column") as caught:
        read_interactions(path, "User_ID", "item id")
    assert "Did you mean" not in str(caught.value)
