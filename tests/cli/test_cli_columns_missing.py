"""Tables whose columns have other names than expected: nothing is left out without a word."""

import json
import subprocess
import sys
from textwrap import dedent

import pandas as pd
import pytest
from hub_tools import quantized_shop, train
from PIL import Image

from macrec_hf import EmbeddingStore, MacRecRecommender, read_interactions, read_items
from macrec_hf.cli.main import main
from macrec_hf.data.table_files import read_table, table_columns


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
    assert train(shop, *items) == 1 and not (shop / "model" / "config.json").exists()
    said = capfd.readouterr().err
    assert "no titles: expected them in a column 'title'" in said and "--title-column, or leave --items out" in said
    assert "['item_id', 'name', 'photo']" in said
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


def test_a_missing_column_is_told_before_a_library_is_loaded(tmp_path):
    """In a process of its own, where torch would be seen."""
    (tmp_path / "items.csv").write_text("sku,name,photo\na,b,c\n")
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "b"}\n')
    pd.DataFrame({"sku": ["a"]}).to_parquet(tmp_path / "items.parquet")
    (tmp_path / "bought.tsv").write_text("user_id\titem_id\twhen\na\tb\t3\n")
    embed, train = ["embed", "--output", "e", "--items"], ["train", "--semantic-ids", "x", "--output", "m"]
    way_out = "--item-column names the ids of both tables: where these call them differently, rename that column"
    told = [
        ([*embed, "items.csv"], "Name the right one with --item-column"),
        (
            [*embed, "items.csv", "--item-column", "sku", "--image-column", "photos"],
            "Did you mean --image-column photo?",
        ),
        (
            [*embed, "items.jsonl", "--text-columns", "title,words"],
            "expected columns of the items, ['item_id', 'title']",
        ),
        (
            [*embed, "items.jsonl", "--text-columns", "title,text"],
            "expected columns of the items, ['item_id', 'title'], got also ['text']",
        ),
        ([*embed, "items.jsonl", "--text-columns", "title,"], "got also ['']"),
        ([*embed, "items.csv", "--item-column", "sku", "--text-columns", "name,title"], "got also ['title']"),
        ([*embed, "items.parquet"], "expected a column 'item_id', got ['sku']"),
        ([*embed, "none.jsonl"], "none.jsonl: no such file"),
        ([*train, "--interactions", "bought.tsv"], "Name the right one with --time-column"),
        (["refresh", "m", "--interactions", "bought.xlsx"], "bought.xlsx: no such file"),
        (["quantize", "--embeddings", "nowhere/", "--output", "o"], "got 'nowhere/', where nothing is"),
        (["doctor", "ids", "--embeddings", "text=a.npy"], "got 'text=a.npy', where nothing is"),
        (["recommend", "m", "--history", "a", "--items", "items.csv"], "expected a column 'item_id'"),
        *(
            ([*embed, "items.csv", "--interactions", "bought.tsv", "--time-column", "when", *column], way_out)
            for column in ([], ["--item-column", "sku"])
        ),
    ]
    code = f"""
        import sys
        from macrec_hf.cli.main import main
        for words, _ in {told!r}:
            assert main(words) == 1
        print("torch" in sys.modules or "transformers" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    for line, (words, message) in zip(done.stderr.splitlines(), told, strict=True):
        assert line.startswith(f"macrec {words[0]}: error: ") and message in line


def test_columns_are_known_from_the_beginning_of_a_table(tmp_path):
    rows = [json.dumps({"a": 1} | ({"b": 2} if row == 999 else {})) for row in range(1001)]
    for name, lines, columns in (("few", rows[:999], ["a"]), ("many", rows, None), ("broken", ["{"], None)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        assert table_columns(tmp_path / f"{name}.jsonl") == columns
    (tmp_path / "t.csv").write_text('sep=;\n"a;b";c\n1;2\n')
    assert table_columns(tmp_path / "t.csv") == read_table(tmp_path / "t.csv").columns.tolist() == ["a;b", "c"]
    (tmp_path / "parts").mkdir()
    for name, column in (("part.1", "x"), ("part.2", "y")):
        pd.DataFrame({column: [1]}, index=pd.Index(["i"], name="id")).to_parquet(
            tmp_path / "parts" / f"{name}.parquet"
        )
    assert sorted(table_columns(tmp_path / "parts")) == sorted(read_table(tmp_path / "parts").columns)
    with pytest.raises(FileNotFoundError, match="no such file"):
        table_columns(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(ValueError, match="unknown format"):
        table_columns(tmp_path / "t.xlsx")
