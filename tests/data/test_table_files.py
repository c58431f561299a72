"""Formats by their names, JSON lines and X.inter.json."""

import gzip
import logging

import pytest

from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.table_files import file_digest, read_inter_json, read_table


@pytest.mark.parametrize(
    ("name", "said"),
    [("i.json", "must be called .jsonl"), ("i.ndjson", "Rename it to .jsonl"), ("i.xlsx", "CSV UTF-8"),
     ("i.zip", "Unpack"), ("i.jsonl.zst", "Unpack"), ("i.txt", "Rename"),
     ("i.parquet.gz", "Unpack it"), ("items", r"parquet\.$")],
)  # fmt: skip
def test_formats_that_are_not_read(tmp_path, name, said):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"{name}: unknown format. .*{said}"):
        read_items(tmp_path / name)


def test_names_in_capitals(tmp_path):
    (tmp_path / "ITEMS.CSV").write_text("item_id\n1\n")
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(b'{"item_id": "1"}'))
    (tmp_path / "X.INTER.JSON").write_text('{"u": [1]}')
    assert len(read_table(tmp_path / "ITEMS.CSV")) == len(read_table(tmp_path / "A.JSONL.GZ")) == 1
    assert read_interactions(tmp_path / "X.INTER.JSON")["item_id"].tolist() == ["1"]


def test_broken_lines_cost_their_own_item_only(tmp_path, caplog):
    lines = [f'{{"item_id": "i{place}", "title": "t{place}", "size": {place}}}' for place in range(12)]
    for place, broken in [(3, "{"), (5, "[" * 5000), (6, '{"item_id": ' + "9" * 5000 + "}"), (8, "\0" * 9),
                          (9, '{"item_id": "i9", "item_id": "i1"}')]:  # fmt: skip
        lines[place] = broken
    (tmp_path / "i.jsonl").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING):
        items = read_items(tmp_path / "i.jsonl")
    kept = [0, 1, 2, 4, 7, 10, 11]
    assert items["item_id"].tolist() == [f"i{place}" for place in kept] and items["size"].tolist() == kept
    assert "i.jsonl: skipped 5 broken lines. The first is line 4" in caplog.text


def test_nan_and_half_emojis_in_json(tmp_path):
    (tmp_path / "i.jsonl").write_text(
        '{"item_id": "1", "title": NaN, "text": "a\\ud83d", "image": NaN, "brand": NaN}\n'
        '{"item_id": "2", "text": "b"}\n'
    )
    items = read_items(tmp_path / "i.jsonl")
    assert items["title"].tolist() == ["", ""] and items["text"].tolist() == ["a\ufffd", "b"]
    assert items["image"].tolist() == items["brand"].tolist() == [None, None]
    (tmp_path / "i.jsonl").write_text('{"item_id": "1"}\n{"item_id": NaN}\n')
    with pytest.raises(ValueError, match="'item_id' in every row, 1 have none, first in row 2"):
        read_items(tmp_path / "i.jsonl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "got a list"),
        ("3", "got a number"),
        ('{"u": [1], "v": 3}', "got a number for 'v'"),
        ('{"u": [1, null]}', "in the list of user 'u', got None"),
        ('{"u": [1, NaN]}', "in the list of user 'u', got None"),
        ('{"u": [1, 2.0]}', "in the list of user 'u', got 2.0"),
        ('{"u": [1, [2]]}', r"in the list of user 'u', got \[2\]"),
        ('{"u": [true]}', "in the list of user 'u', got True"),
        ('{"u": [1], "u": [2]}', "the key 'u' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"u": [1', "no JSON that can be read"),
        ('{"": [1]}', "'user_id' in every row"),
        ('{"u": [""]}', "'item_id' in every row"),
    ],
)
def test_inter_json_of_wrong_shape(tmp_path, content, said):
    (tmp_path / "X.inter.json").write_text(content)
    with pytest.raises(ValueError, match=f"X.inter.json: .*{said}"):
        read_interactions(tmp_path / "X.inter.json")


def test_inter_json_gzipped_with_a_mark(tmp_path):
    (tmp_path / "X.inter.json.gz").write_bytes(gzip.compress('\ufeff{"u": [1, "01"]}'.encode()))
    assert read_inter_json(tmp_path / "X.inter.json.gz")["item_id"].tolist() == [1, "01"]


def test_digests(tmp_path):
    (tmp_path / "a").write_text("x")
    assert file_digest(tmp_path / "a") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        file_digest(tmp_path / "nowhere")
