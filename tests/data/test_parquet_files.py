"""Parquet as pandas, Spark and others write it: rows are rows whatever the index, values keep their kind."""

import datetime
import decimal
import os
import uuid

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from macrec_hf.data.parquet_files import read_parquet
from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.table_files import file_digest

TABLE = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "title": ["ta", "tb", "tc", "td", "te"],
        "brand": ["of a", "of b", "of c", "of d", "of e"],
    }
)


@pytest.mark.parametrize(
    ("table", "ids"),
    [
        (TABLE.sort_values("brand", ascending=False), "edcba"),
        (TABLE.iloc[[3, 0, 4, 2, 1]], "daecb"),
        (TABLE[TABLE["item_id"] != "b"], "acde"),
        (TABLE.iloc[::2], "ace"),
        (pd.concat([TABLE.iloc[:2].reset_index(drop=True), TABLE.iloc[2:].reset_index(drop=True)]), "abcde"),
        (TABLE.set_index("item_id"), "abcde"),
        (TABLE.set_index("item_id", drop=False).rename_axis("key"), "abcde"),
        (TABLE.set_index(["item_id", "brand"]), "abcde"),
        (TABLE.set_index(pd.Index(list("vwxyz"))), "abcde"),
        (TABLE.rename_axis("row"), "abcde"),
        (TABLE.iloc[1:].set_index(pd.RangeIndex(10, 18, 2)), "bcde"),
    ],
    ids=[
        "sorted",
        "shuffled",
        "filtered",
        "halved",
        "joined",
        "id-index",
        "named",
        "multi",
        "strings",
        "range",
        "step",
    ],
)
def test_every_item_keeps_its_row(tmp_path, table, ids):
    table.to_parquet(tmp_path / "i.parquet")
    items = read_items(tmp_path / "i.parquet")
    assert items[["item_id", "title", "brand"]].to_numpy().tolist() == [[i, "t" + i, "of " + i] for i in ids]


def test_interactions_keep_their_rows(tmp_path):
    table = pd.DataFrame({"user_id": list("uvu"), "item_id": [3, 1, 2], "timestamp": [30, 10, 20]})
    table.sort_values("timestamp").to_parquet(tmp_path / "i.parquet")
    found = read_interactions(tmp_path / "i.parquet")
    assert found.to_numpy().tolist() == [["v", "1", 10], ["u", "2", 20], ["u", "3", 30]]


def test_values_of_every_type(tmp_path):
    some = uuid.uuid4()
    columns = {
        "large": pa.array(["a", None], pa.large_string()),
        "category": pa.array(["a", None]).dictionary_encode(),
        "whole": pa.array([7, None], pa.int64()),  # pandas would make 7.0 of it
        "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
        "yes": pa.array([True, None]),
        "bytes": pa.array([b"\xff", None]),
        "day": pa.array([datetime.date(2020, 1, 2), None]),
        "money": pa.array([decimal.Decimal("1.50"), None]),
        "list": pa.array([["a", "b"], None]),
        "struct": pa.array([{"x": 1, "y": "z"}, None]),
        "map": pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string())),
        "uuid": pa.array([some.bytes, None], pa.uuid()),
        "nothing": pa.nulls(2),
    }
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    first, second = read_parquet(tmp_path / "i.parquet").to_dict("records")
    assert first == {
        "large": "a", "category": "a", "whole": 7, "unsigned": 2**64 - 1, "yes": True, "bytes": b"\xff",
        "day": datetime.date(2020, 1, 2), "money": decimal.Decimal("1.50"), "list": ["a", "b"],
        "struct": {"x": 1, "y": "z"}, "map": [("k", "v")], "uuid": some, "nothing": None,
    }  # fmt: skip
    assert type(first["whole"]) is int and set(second.values()) == {None}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([7, 12]), ["7", "12"]),
        (pa.array([b"i7", b"012"]), ["i7", "012"]),  # text that its writer did not call text
        (pa.array(["x", "07"]).dictionary_encode(), ["x", "07"]),
        (pa.array([decimal.Decimal(7), decimal.Decimal(12)], pa.decimal128(38, 0)), ["7", "12"]),
        (pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes], pa.uuid()),
         [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]),
    ],
)  # fmt: skip
def test_ids_of_typed_columns(tmp_path, ids, expected):
    pq.write_table(pa.table({"item_id": ids}), tmp_path / "i.parquet")
    assert read_items(tmp_path / "i.parquet")["item_id"].tolist() == expected


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (pa.array([7, None]), "expected a 'item_id' in every row, 1 have none, first in row 2"),
        (pa.array([7.0, 8.0]), "floating point numbers such as 7.0 in row 1.*leading zeros"),
        (pa.array([True, False]), "got True in row 1"),
        (pa.array([b"i7", b"\xff\xfe"]), r"got b'\\xff\\xfe' in row 2"),
        (pa.array([decimal.Decimal("7.50"), decimal.Decimal("8.25")]), r"got Decimal\('7.50'\) in row 1"),
        (pa.array([["a"], ["b"]]), r"got \['a'\] in row 1"),
        (pa.array([datetime.date(2020, 1, 1)] * 2), "got datetime.date"),
    ],
)
def test_ids_that_are_refused(tmp_path, ids, said):
    pq.write_table(pa.table({"item_id": ids}), tmp_path / "i.parquet")
    with pytest.raises(ValueError, match=f"i.parquet: .*{said}"):
        read_items(tmp_path / "i.parquet")


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime.datetime(2020, 3, 1), datetime.datetime(2020, 2, 1)], pa.timestamp("us")),
        pa.array([datetime.datetime(2020, 3, 1), datetime.datetime(2020, 2, 1)], pa.timestamp("ns", "Asia/Tokyo")),
        pa.array([datetime.date(2020, 3, 1), datetime.date(2020, 2, 1)]),
        pa.array(["2020-03-01", "2020-02-01"]).dictionary_encode(),
        pa.array([decimal.Decimal(1583020800), decimal.Decimal(1580515200)]),
        pa.array([1583020800, 1580515200], pa.uint32()),
    ],
)
def test_times_of_typed_columns(tmp_path, times):
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times})
    pq.write_table(table, tmp_path / "i.parquet")
    found = read_interactions(tmp_path / "i.parquet")["timestamp"]
    assert found.argsort().tolist() == [1, 0]
    assert found.iloc[0] == 1583020800 or str(found.iloc[0]).startswith("2020-03-01")


@pytest.mark.parametrize("times", [[True, False], [datetime.time(1), datetime.time(2)], [[1], [2]]])
def test_times_that_are_none(tmp_path, times):
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times})
    pq.write_table(table, tmp_path / "i.parquet")
    with pytest.raises(ValueError, match="i.parquet: expected timestamps that are all numbers or .* in row 1"):
        read_interactions(tmp_path / "i.parquet")


def test_times_in_short_floats_are_told(tmp_path, caplog):
    table = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1.5e9, 1.5e9 + 40]})
    table.to_parquet(tmp_path / "i.parquet")
    read_interactions(tmp_path / "i.parquet")
    assert not caplog.records
    (tmp_path / "parts").mkdir()
    table.to_parquet(tmp_path / "parts" / "1.parquet")
    table.astype({"timestamp": "float32"}).to_parquet(tmp_path / "parts" / "2.parquet")
    assert len(read_interactions(tmp_path / "parts")) == 4
    assert "parts: 'timestamp' holds floating point numbers of 32 bits or fewer" in caplog.text


# Folders of parts


def write_parts(folder, names):
    folder.mkdir()
    for place, name in enumerate(names):
        TABLE.iloc[place : place + 1].to_parquet(folder / name)
    return folder


@pytest.mark.parametrize("name", ["i.parquet", "items"])
def test_parts_in_the_order_of_their_numbers(tmp_path, name):
    folder = write_parts(tmp_path / name, ["part.10.parquet", "part.9.parquet", "part.100.parquet"])
    (folder / "_SUCCESS").touch()
    (folder / ".part.9.parquet.crc").touch()
    assert read_items(folder)["title"].tolist() == ["tb", "ta", "tc"]
    pd.DataFrame({"item_id": ["x"], "size": [3]}).to_parquet(folder / "part.200.parquet")
    items = read_items(folder)
    assert items["item_id"].tolist() == list("bacx") and items["title"].tolist() == ["tb", "ta", "tc", ""]
    assert items["size"].iloc[3] == 3


def test_the_digest_of_a_folder(tmp_path):
    folder = write_parts(tmp_path / "i.parquet", ["a.parquet", "b.parquet"])
    before = file_digest(folder)
    assert before == file_digest(write_parts(tmp_path / "j.parquet", ["a.parquet", "b.parquet"]))
    (folder / "a.parquet").rename(folder / "c.parquet")  # another order
    assert file_digest(folder) != before


def test_folders_that_hold_something_else(tmp_path):
    folder = write_parts(tmp_path / "i.parquet", [])
    with pytest.raises(ValueError, match="i.parquet is a folder: expected parts .* got none"):
        read_items(folder)
    (folder / "year=2020").mkdir()
    with pytest.raises(ValueError, match=r"is a folder: expected parts .*got \['year=2020'\] too. Join them"):
        read_items(folder)
    (tmp_path / "i.csv").mkdir()
    with pytest.raises(ValueError, match="i.csv is a folder: expected a table"):
        read_items(tmp_path / "i.csv")


# Damaged files


def test_damaged_files(tmp_path):
    path = tmp_path / "i.parquet"
    TABLE.to_parquet(path)
    whole = path.read_bytes()
    for content, said in [
        (b"", "i.parquet: expected a Parquet file, got an empty file"),
        (b"item_id\n1\n", "i.parquet: cannot be read as Parquet"),
        (whole[:-4], "i.parquet: cannot be read as Parquet"),
        (whole[: len(whole) // 2], "i.parquet: cannot be read as Parquet"),
        (whole[:4] + bytes(len(whole) - 12) + whole[-8:], "i.parquet: cannot be read as Parquet"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_items(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "i.parquet")
    with pytest.raises(ValueError, match="i.parquet: expected a Parquet file or a folder of parts, got"):
        read_items(tmp_path / "i.parquet")


def test_a_column_that_stands_twice(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["item_id", "item_id"]), tmp_path / "i.parquet")
    with pytest.raises(ValueError, match=r"i.parquet: expected each column once, got \['item_id'\] twice"):
        read_items(tmp_path / "i.parquet")
