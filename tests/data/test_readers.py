"""The tables that people have: every format, every way they can be wrong."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from macrec_hf.data.histories import user_histories
from macrec_hf.data.readers import read_interactions, read_items

ITEMS = [
    {"item_id": "0108775", "title": "Strap top", "text": "Black", "image": "images/0108775.jpg"},
    {"item_id": "NA", "title": "", "text": "A thing, called NA", "image": None},
    {"item_id": "007", "title": "Bond", "text": "", "image": "https://shop.example/7.jpg"},
]
INTERACTIONS = [("00", "007", 30), ("1", "NA", 10), ("00", "NA", 10), ("00", "0108775", 20), ("1", "007", 5)]


def write_table(rows: list[dict], path: Path) -> Path:
    """The rows in the format of the path's suffix, written without the code under test."""
    table = pd.DataFrame(rows)
    if ".jsonl" in path.name:
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


def write_interactions(rows, path: Path) -> Path:
    return write_table([dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in rows], path)


@pytest.mark.parametrize("name", ["i.jsonl", "i.jsonl.gz", "i.csv", "i.csv.gz", "i.tsv", "i.parquet"])
def test_items_in_every_format(tmp_path, name):
    items = read_items(write_table(ITEMS, tmp_path / name))
    assert list(items.columns) == ["item_id", "title", "text", "image"]
    assert items["item_id"].tolist() == ["0108775", "NA", "007"]  # zeros kept, "NA" is an id
    assert items["title"].tolist() == ["Strap top", "", "Bond"]
    assert items["text"].tolist() == ["Black", "A thing, called NA", ""]
    assert items["image"].tolist() == [str(tmp_path / "images" / "0108775.jpg"), None, "https://shop.example/7.jpg"]


def test_items_need_only_an_id_and_keep_what_else_there_is(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": 12, "price": 3}\n\n{"item_id": "012", "brand": "X"}\n')
    items = read_items(path)
    assert items["item_id"].tolist() == ["12", "012"]  # a JSON number is written out, a string stays
    assert items["title"].tolist() == items["text"].tolist() == ["", ""]
    assert items["image"].tolist() == [None, None]
    assert items["price"].tolist() == [3, None] and items["brand"].tolist() == [None, "X"]


def test_absolute_image_paths_stay(tmp_path):
    items = read_items(write_table([{"item_id": "1", "image": "/photos/1.jpg"}], tmp_path / "items.csv"))
    assert items["image"].tolist() == ["/photos/1.jpg"]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "items.csv"
    path.write_bytes(b"\xef\xbb\xbfitem_id,title\n01,caf\xc3\xa9\n")  # as spreadsheets export it
    assert read_items(path)[["item_id", "title"]].values.tolist() == [["01", "café"]]


@pytest.mark.parametrize("name", ["i.jsonl", "i.jsonl.gz", "i.csv", "i.tsv", "i.parquet"])
def test_interactions_in_every_format(tmp_path, name):
    table = read_interactions(write_interactions(INTERACTIONS, tmp_path / name))
    assert list(table.columns) == ["user_id", "item_id", "timestamp"]
    assert [tuple(row) for row in table.itertuples(index=False)] == INTERACTIONS  # the order of the file


def test_inter_json(tmp_path):
    path = tmp_path / "X.inter.json"
    path.write_text('{"0": [3, 1, 1], "u7": [], "07": ["05"]}')
    table = read_interactions(path)
    assert table["user_id"].tolist() == ["0", "0", "0", "07"]
    assert table["item_id"].tolist() == ["3", "1", "1", "05"]
    assert table["timestamp"].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (["9", "10", "8"], [2, 0, 1]),  # numbers, not their spelling
        (["1.5", "1e0", "2"], [1, 0, 2]),
        (["2020-06-26", "2019-12-31", "2020-06-26 10:00:00"], [1, 0, 2]),
        (["2020-01-01T00:30:00+01:00", "2020-01-01T00:00:00Z", "2019-12-31T23:45:00"], [0, 2, 1]),
        (
            [1700000000123456789, 1700000000123456788, 1600000000000000000],
            [2, 1, 0],
        ),  # nanoseconds do not fit into a float
    ],
)
@pytest.mark.parametrize("name", ["i.csv", "i.jsonl", "i.parquet"])
def test_timestamps(tmp_path, times, order, name):
    rows = [("u", str(place), time) for place, time in enumerate(times)]
    interactions = read_interactions(write_interactions(rows, tmp_path / name))
    histories = user_histories(interactions, {"0": 0, "1": 1, "2": 2})
    assert histories.items[0].tolist() == order


def test_parquet_datetimes(tmp_path):
    rows = [("u", "a", pd.Timestamp("2020-02-01")), ("u", "b", pd.Timestamp("2020-01-01"))]
    table = read_interactions(write_interactions(rows, tmp_path / "i.parquet"))
    assert table["timestamp"].argsort().tolist() == [1, 0]


# Errors: one clear one each


@pytest.mark.parametrize("read", [read_items, read_interactions])
def test_no_such_file(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nowhere.csv: no such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_interactions(tmp_path / "X.inter.json")


def test_unknown_format(tmp_path):
    (tmp_path / "items.xlsx").touch()
    with pytest.raises(ValueError, match=r"unknown format.*\.jsonl, \.csv, \.tsv, \.parquet"):
        read_items(tmp_path / "items.xlsx")


def test_a_header_of_many_columns_is_not_shown_whole(tmp_path):
    (tmp_path / "items.csv").write_text(
        ",".join(f"column{place}" for place in range(9000)) + "\n" + "1," * 8999 + "1\n"
    )
    with pytest.raises(ValueError, match="items.csv: expected a column 'item_id', got .'column0'") as error:
        read_items(tmp_path / "items.csv")
    assert len(str(error.value)) < 1000


def test_no_item_id_column(tmp_path):
    with pytest.raises(ValueError, match=r"expected a column 'item_id', got \['asin'\]"):
        read_items(write_table([{"asin": "1"}], tmp_path / "items.jsonl"))


@pytest.mark.parametrize(
    ("name", "content"), [("i.csv", "item_id,title\n"), ("i.csv", ""), ("i.jsonl", ""), ("i.jsonl", "\n\n")]
)
def test_empty_catalogue(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="empty catalogue: expected at least one item"):
        read_items(tmp_path / name)


def test_duplicate_items(tmp_path):
    rows = [{"item_id": item} for item in ["1", "2", "1", "01", "2", "1"]]
    with pytest.raises(ValueError, match=r"duplicate items: .* 2 stand more than once, such as \['1', '2'\]"):
        read_items(write_table(rows, tmp_path / "items.csv"))


@pytest.mark.parametrize("name", ["i.csv", "i.jsonl"])
def test_an_item_without_an_id(tmp_path, name):
    rows = [{"item_id": "1", "title": "a"}, {"item_id": None, "title": "b"}, {"item_id": "", "title": "c"}]
    with pytest.raises(ValueError, match="expected a 'item_id' in every row, 2 have none, first in row 2"):
        read_items(write_table(rows, tmp_path / name))


def test_ids_that_were_numbers_with_holes(tmp_path):
    with pytest.raises(ValueError, match="floating point numbers such as 12.0.*leading zeros"):
        read_items(write_table([{"item_id": 12.0}, {"item_id": None}], tmp_path / "items.parquet"))


@pytest.mark.parametrize("wrong", [True, 1.5, ["a"]])
def test_ids_of_other_types(tmp_path, wrong):
    rows = [{"item_id": "1"}, {"item_id": wrong}]
    with pytest.raises(ValueError, match="expected strings or whole numbers in 'item_id', got"):
        read_items(write_table(rows, tmp_path / "items.jsonl"))


def test_an_image_that_is_no_path(tmp_path):
    with pytest.raises(ValueError, match="Expected a path or a URL in 'image', got 3"):
        read_items(write_table([{"item_id": "1", "image": 3}], tmp_path / "items.jsonl"))


def test_no_interactions(tmp_path):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(ValueError, match="expected at least one interaction, got none"):
        read_interactions(tmp_path / "i.csv")


def test_a_line_that_is_no_json(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": "1"}\n{"item_id": \n')
    with pytest.raises(ValueError, match="line 2: expected one JSON object a line"):
        read_items(path)
    path.write_text('["item_id"]\n')
    with pytest.raises(ValueError, match="line 1: expected one JSON object .*no JSON object but a list.*jq -c"):
        read_items(path)


def test_inter_json_of_another_shape(tmp_path):
    path = tmp_path / "X.inter.json"
    path.write_text('{"user_id": "1", "item_id": "2"}')
    with pytest.raises(ValueError, match="must be called .jsonl"):
        read_interactions(path)
    path.write_text('{"0": [1, 2')
    with pytest.raises(ValueError, match="it is no JSON"):
        read_interactions(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected at least one interaction, got none"):
        read_interactions(path)


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_a_missing_column(tmp_path, column):
    row = {name: "1" for name in ("user_id", "item_id", "timestamp") if name != column}
    with pytest.raises(ValueError, match=f"expected a column '{column}', got"):
        read_interactions(write_table([row], tmp_path / "i.csv"))


@pytest.mark.parametrize("name", ["i.csv", "i.jsonl", "i.parquet"])
@pytest.mark.parametrize("times", [[1, None, None], ["2020-01-01", "", None]])
def test_missing_timestamps(tmp_path, name, times):
    rows = [("u", "1", time) for time in times]
    with pytest.raises(ValueError, match="missing timestamps: .* 2 of 3 have none, first in row 2"):
        read_interactions(write_interactions(rows, tmp_path / name))


@pytest.mark.parametrize("wrong", ["yesterday", "inf", "26.06.2020"])
def test_timestamps_that_cannot_be_read(tmp_path, wrong):
    rows = [("u", "1", "2020-01-01"), ("u", "2", wrong)]
    with pytest.raises(ValueError, match=f"all ISO 8601 dates such as 2020-06-26, got '{wrong}' in row 2"):
        read_interactions(write_interactions(rows, tmp_path / "i.csv"))


@pytest.mark.parametrize(
    ("times", "row"),
    [
        (["1577836800", "1577836801", "soon"], 3),
        (["2020-06-26", "soon", "2020-06-28"], 2),
        (["1577836800", "1577836801", "2020-06-26"], 3),
        (["2020-06-26", "1577836800", "2020-06-27"], 2),
        (["1577836800", "inf", "1577836801"], 2),
    ],
)
def test_a_bad_timestamp_is_named_by_its_own_row(tmp_path, times, row):
    path = tmp_path / "interactions.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *(f"u,i,{time}" for time in times)]))
    with pytest.raises(ValueError, match=f"got {times[row - 1]!r} in row {row}"):
        read_interactions(path)


def test_rows_that_stand_twice_are_counted_and_kept(tmp_path, caplog):
    rows = ["user_id,item_id,timestamp", "u,a,1", "v,a,1", "u,b,1", "u,a,1", "u,a,2", "u,a,1"]
    (tmp_path / "i.csv").write_text("\n".join(rows))
    assert len(read_interactions(tmp_path / "i.csv")) == 6
    assert "i.csv: 2 of 6 rows are the same as an earlier one, in user, item and time: they are kept" in caplog.text
    caplog.clear()
    (tmp_path / "i.csv").write_text("\n".join(rows[:4]))
    assert len(read_interactions(tmp_path / "i.csv")) == 3 and not caplog.records
