"""Cells of a table: texts of nested values, and pictures that stand in the table itself."""

import base64
import json
import unicodedata

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from macrec_hf.catalogue.item_encoders import encode_photos, item_texts
from macrec_hf.catalogue.offline_encoders import OfflineImageEncoder
from macrec_hf.data.cells import holds_numbers, photo_source, plain_text
from macrec_hf.data.dataset_builders import ItemsBuilder
from macrec_hf.data.readers import read_items


@pytest.fixture
def pictures(tmp_path):
    """Two JPEG files in `images/`, and their bytes."""
    (tmp_path / "images").mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Pillow.new("RGB", (40, 30), colour).save(tmp_path / "images" / f"{name}.jpg")
    return {name: (tmp_path / "images" / f"{name}.jpg").read_bytes() for name in "ab"}


@pytest.mark.parametrize(
    ("values", "is_numeric"),
    [
        (["12.99", "$3", "1.200,00 €", "-4", "2024-03-01"], True),
        ([1, 2.5, None, "", float("nan")], True),
        ([str(number) for number in range(19)] + ["many"], True),
        ([str(number) for number in range(9)] + ["many"], False),
        (["XL", "44 EU"], False),
        (["—", "!"], False),
        ([None, ""], False),
    ],
)
def test_columns_of_numbers_are_known_by_their_values(values, is_numeric):
    assert holds_numbers(values) is is_numeric


def as_url(content: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a  b ", "a  b "),
        (None, ""),
        (float("nan"), ""),
        (pd.NaT, ""),
        (3, "3"),
        (True, "True"),
        (b"caf\xc3\xa9", "café"),
        (["a", None, "", ["b", 3]], "a b 3"),
        ({"en": "chair", "de": None, "fr": "chaise"}, "chair chaise"),
        ([("colour", "red"), ("size", "L")], "colour red size L"),
        ([], ""),
    ],
)
def test_texts(value, text):
    assert plain_text(value) == text


def test_texts_of_nested_columns(tmp_path):
    table = {
        "item_id": ["1", "2"],
        "title": pa.array([["Red", "chair"], None]),
        "category": pa.array([{"main": "Home", "sub": "Chairs"}, {"main": "Toys", "sub": None}]),
        "brand": pa.array([b"B\xc3\xa4r", None]),
        "text": pa.array([[("colour", "red")], []], pa.map_(pa.string(), pa.string())),
    }
    pq.write_table(pa.table(table), tmp_path / "i.parquet")
    assert item_texts(read_items(tmp_path / "i.parquet")) == ["Red chair. Bär. Home Chairs. colour red", "Toys"]
    days = pd.DataFrame({"item_id": ["1", "2"], "made": [pd.Timestamp("2020-01-02"), None]})
    days.to_parquet(tmp_path / "i.parquet")
    assert item_texts(read_items(tmp_path / "i.parquet"), ["made"]) == ["2020-01-02 00:00:00", ""]


def test_pictures_in_the_table(tmp_path, pictures):
    content = pictures["a"]
    bare = base64.b64encode(content).decode()
    for value in (
        content, bytearray(content), {"bytes": content, "path": None}, {"bytes": content, "path": "images/b.jpg"},
        as_url(content), as_url(content).replace("image/jpeg;", ";").rstrip("="), bare, f" {bare}\n", [content],
        [None, as_url(content)], {"bytes": bare, "path": None},
    ):  # fmt: skip
        assert photo_source(value, tmp_path, "row 1") == content
    assert photo_source("data:,two%20words", tmp_path, "row 1") == b"two words"  # no picture, as its reader will say
    assert photo_source("data:image/png;base64,a", tmp_path, "row 1") == b"a"
    for cut in range(64, 96):  # base64 that was cut off
        content = bytes(range(100))
        text = base64.b64encode(b"\xff\xd8\xff\xe0" + content).decode()[:cut]
        assert isinstance(photo_source(text, tmp_path, "row 1"), bytes)


def test_paths(tmp_path, pictures):
    there = str(tmp_path / "images" / "a.jpg")
    for value in (
        "images/a.jpg", " images/a.jpg ", "images\\a.jpg", ["images/a.jpg", "images/b.jpg"], f"file://{there}",
        f"file://localhost{there}", "file:images/a.jpg", "file://images/a.jpg", '["images/a.jpg", "images/b.jpg"]',
        "['images/a.jpg']", {"bytes": None, "path": "images/a.jpg"}, {"bytes": None, "path": there},
        [{"path": "images/a.jpg"}],
    ):  # fmt: skip
        assert photo_source(value, tmp_path, "row 1") == there, value
    for value in (None, "", " ", [], [None], "[]", float("nan"), {"bytes": None, "path": None}):
        assert photo_source(value, tmp_path, "row 1") is None, value
    for value in ("https://shop.example/a b.jpg", "HTTP://shop.example/7"):
        assert photo_source(value, tmp_path, "row 1") == value
    assert photo_source("file:///a%20b.jpg", tmp_path, "row 1") == "/a b.jpg"
    assert photo_source("[draft].jpg", tmp_path, "row 1") == str(tmp_path / "[draft].jpg")
    assert photo_source("no\\where.jpg", tmp_path, "row 1") == str(tmp_path / "no\\where.jpg")
    for length in (5000, 10**6):  # no name of a file, and no crash
        assert photo_source("x\\" * length, tmp_path, "row 1").endswith("x\\")


def test_names_with_accents_written_in_two_ways(tmp_path):
    for kept, asked in (("NFC", "NFD"), ("NFD", "NFC")):
        name = unicodedata.normalize(kept, f"café-{kept}.jpg")
        (tmp_path / name).touch()
        assert photo_source(unicodedata.normalize(asked, name), tmp_path, "row 1") == str(tmp_path / name)


@pytest.mark.parametrize("value", [3, 1.5, True, {"src": "x"}, [7], {"bytes": 3}])
def test_what_is_no_picture(tmp_path, value):
    rows = [{"item_id": "0"}, {"item_id": "1", "image": value}]
    (tmp_path / "i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="Expected a path or a URL in 'image', got .* in row 2 of .*i.jsonl") as error:
        read_items(tmp_path / "i.jsonl")
    assert len(str(error.value)) < 400


def test_a_refusal_does_not_show_the_picture(tmp_path):
    with pytest.raises(ValueError, match="Expected a path") as error:
        photo_source({"picture": bytes(10**6)}, tmp_path, "row 1")
    assert len(str(error.value)) < 300


def test_the_first_of_several_photos_counts(tmp_path, pictures, caplog):
    rows = [{"item_id": "1", "image": ["images/a.jpg", "images/b.jpg"]}, {"item_id": "2", "image": ["images/b.jpg"]}]
    (tmp_path / "i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [path[-5:] for path in read_items(tmp_path / "i.jsonl")["image"]] == ["a.jpg", "b.jpg"]
    assert "i.jsonl: 1 items name several photos: the first one of each counts" in caplog.text


def test_photos_of_datasets_are_encoded_like_the_files(tmp_path, pictures):
    """What `datasets` writes for a column of images, with their bytes; other ways to hold the same two pictures."""
    features = Features({"item_id": Value("string"), "image": Image()})
    paths = [str(tmp_path / "images" / f"{name}.jpg") for name in "ab"]
    held = [{"bytes": content, "path": None} for content in pictures.values()]
    Dataset.from_dict({"item_id": ["1", "2"], "image": held}, features=features).to_parquet(tmp_path / "hf.parquet")
    table = pd.DataFrame({"item_id": ["1", "2"], "image": list(pictures.values())})
    table.to_parquet(tmp_path / "bytes.parquet")
    table["image"] = [as_url(content) for content in pictures.values()]
    table.to_csv(tmp_path / "urls.csv", index=False)
    expected, _ = encode_photos(paths, OfflineImageEncoder(), progress=False)
    for name in ("hf.parquet", "bytes.parquet", "urls.csv"):
        sources = read_items(tmp_path / name)["image"].tolist()
        assert sources == list(pictures.values())
        found, missing = encode_photos(sources, OfflineImageEncoder(), progress=False)
        assert not missing and (found == expected).all()
        builder = ItemsBuilder(tmp_path / name, cache_dir=tmp_path / "cache")
        builder.download_and_prepare()
        assert [row["image"].size for row in builder.as_dataset(split="train")] == [(40, 30)] * 2


def test_bytes_that_are_no_picture_are_a_missing_photo(tmp_path, pictures):
    rows = [pictures["a"], b"no picture", pictures["b"]]
    _, missing = encode_photos(rows, OfflineImageEncoder(), progress=False)
    assert list(missing) == [1]
