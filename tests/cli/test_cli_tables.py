"""Other people's tables on the command line: read right, or refused in one line that names file and line."""

import codecs
import functools
import gzip
import json
import logging

import pandas as pd
import pytest
from hub_tools import train, trained_shop

from macrec_hf import EmbeddingStore
from macrec_hf.cli.inputs import read_titles
from macrec_hf.cli.main import main

packed = functools.partial(gzip.compress, mtime=0)  # the same name of a test in every process

ROWS = [["item_id", "title"], *([f"i{place}", f"red thing {word}"] for place, word in enumerate("abcdef"))]
CSV = "".join(",".join(row) + "\n" for row in ROWS)


def embed(folder, name: str, content: bytes) -> int:
    (folder / name).write_bytes(content)
    words = ["embed", "--items", str(folder / name), "--output", str(folder / "emb"), "--image-model", "none"]
    return main(words)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("i.csv", codecs.BOM_UTF16_LE + CSV.replace(",", "\t").encode("utf-16-le")),  # Excel's "Unicode text"
        ("i.csv", ("sep=;\r\n" + CSV.replace(",", ";")).encode()),
        ("i.tsv", CSV.replace(",", "\t").replace("red thing b", '"Best thing').encode()),
        ("i.csv.gz", packed(CSV.encode())),
        ("i.jsonl", "".join(json.dumps(dict(zip(ROWS[0], row, strict=True))) + "\n" for row in ROWS[1:]).encode()),
    ],
)
def test_tables_that_are_read(tmp_path, capsys, name, content):
    assert embed(tmp_path, name, content) == 0, capsys.readouterr().err
    assert EmbeddingStore.open(tmp_path / "emb").item_ids == [row[0] for row in ROWS[1:]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("i.csv", CSV.replace("thing c", "thing c,x").encode(), "i.csv, line 4: expected 2 fields"),
        ("i.csv", CSV.replace("red thing c", '"red" thing, c').encode(), "i.csv, line 4: expected quotation marks"),
        ("i.csv", CSV.replace("thing", "stühle").encode("cp1252"), "i.csv, line 2: expected text in UTF-8"),
        ("i.csv.gz", packed(CSV.encode())[:-5], "i.csv.gz is cut off"),
        ("i.jsonl.gz", b"<html>", "i.jsonl.gz is no gzip file"),
        ("i.parquet", b"PAR1", "i.parquet: cannot be read as Parquet"),
        ("i.jsonl", b"[" * 50_000, "i.jsonl, line 1: expected one JSON object a line"),
    ],
)
def test_tables_that_are_refused(tmp_path, capsys, name, content, said):
    assert embed(tmp_path, name, content) == 1
    err = capsys.readouterr().err
    assert err.startswith("macrec embed: error: ") and said in err and err.count("\n") == 1


def test_parts_of_parquet_train_the_same_model(tmp_path, capsys):
    folder = trained_shop(tmp_path)
    weights = (folder / "model" / "model.safetensors").read_bytes()
    table = pd.read_csv(folder / "interactions.csv", dtype=str)
    (folder / "parts").mkdir()
    table.iloc[:20].to_parquet(folder / "parts" / "part-2.parquet")
    table.iloc[20:].to_parquet(folder / "parts" / "part-10.parquet")
    assert train(folder, "--interactions", str(folder / "parts"), "--overwrite") == 0, capsys.readouterr().err
    assert (folder / "model" / "model.safetensors").read_bytes() == weights


def test_titles_of_another_catalogue_are_told(tmp_path, caplog):
    (tmp_path / "i.csv").write_text("item_id,title\n100.0,a\n101.0,b\n")
    with caplog.at_level(logging.WARNING):
        assert read_titles(str(tmp_path / "i.csv"), "item_id", known=["100", "7"]) == {"100.0": "a", "101.0": "b"}
    assert (
        "none of its ids, such as ['100.0', '101.0'], is of the catalogue, which has such as ['100', '7']. Some"
        in (caplog.text)
    )
    caplog.clear()
    assert read_titles(str(tmp_path / "i.csv"), "item_id", known=["100.0"]) and not caplog.records
