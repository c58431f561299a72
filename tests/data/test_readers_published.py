"""Every published layout, row by row, and what happens to lines that are broken."""

import gzip
import json
import logging

import pytest
from published_layouts import STORY, WRITERS, lines, write

from macrec_hf.data.readers_published import LAYOUTS, clean_text, find_files

PHOTOS = "https://photos.example"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_tells_the_same_story(tmp_path, layout):
    WRITERS[layout](tmp_path, PHOTOS)
    interactions, items = find_files(layout, [tmp_path])
    triples = list(LAYOUTS[layout].read_interactions(interactions))
    unit = 1_000 if layout == "amazon2023" else 1
    expected = [(user, item, float(unit * moment)) for user, item, moment in STORY]
    if layout == "mql4grec":  # the place in the list is the time: u2's last two stay in the order they were written
        expected = [("u1", item, float(n)) for n, item in enumerate(["0001", "B2", "X9", "0001"])]
        expected += [("u2", item, float(n)) for n, item in enumerate(["B2", "0001", "B2"])] + [("u3", "0001", 0.0)]
    assert triples == expected
    drum = {"item_id": "0001", "title": 'Bob\'s "red" drum', "brand": "Bob", "category": "Music, Drums"}
    bare = {"item_id": "B2", "title": "", "brand": "", "category": "", "text": "", "image": None}
    rows = list(LAYOUTS[layout].read_items(items))
    assert rows[:2] == [{**drum, "text": "Loud.", "image": f"{PHOTOS}/drum.jpg"}, bare]


def test_clean_text():
    assert clean_text(["<p>A &amp; B</p>\n", ["A", None], "A", {"x": 1}]) == "A & B A"
    assert clean_text(None) == "" and clean_text(3) == "3"
    assert clean_text([float("nan"), "nan", float("inf")]) == "nan"  # a word, and two numbers that are missing


IDS = {"amazon2014": "asin", "amazon2018": "asin", "amazon2023": "parent_asin"}


def items(folder, layout, rows, dump=json.dumps):
    name = "shop.item.json" if layout == "mql4grec" else "meta.json"
    text = dump({str(place): row for place, row in enumerate(rows)}) if layout == "mql4grec" else lines(rows, dump)
    return list(LAYOUTS[layout].read_items(write(folder / name, text)))


@pytest.mark.parametrize("layout", IDS)
def test_nan_is_missing(tmp_path, layout, caplog):
    nan = float("nan")
    fields = ("title", "brand", "store", "categories", "category", "description", "features", "images", "imUrl")
    empty = {**dict.fromkeys(fields, nan), "imageURL": nan, "imageURLHighRes": nan}
    good = {IDS[layout]: "1", "title": "nan", "brand": "None"}
    for dump in (json.dumps, repr):  # NaN, and nan as Python writes it
        rows = items(tmp_path, layout, [good, {**good, **empty, IDS[layout]: "2"}, {**good, IDS[layout]: nan}], dump)
        assert [(row["item_id"], row["title"]) for row in rows] == [("1", "nan"), ("2", "")]
        assert rows[1] == {"item_id": "2", "title": "", "brand": "", "category": "", "text": "", "image": None}
    assert f"line 3: no {IDS[layout]!r}" in caplog.text


def test_interactions_without_ids_are_skipped(tmp_path, caplog):
    wrong = [
        {**GOOD, field: value} for field in ("reviewerID", "asin") for value in (float("nan"), " ", "", None, [1])
    ]
    path = write(tmp_path / "r.json", lines([GOOD] * 20 + wrong + [{**GOOD, "asin": 12}, {**GOOD, "asin": 100.0}]))
    assert read(path) == [("u", "i", 1.0)] * 20 + [("u", "12", 1.0), ("u", "100", 1.0)]
    assert "skipped 10 broken lines. The first is line 21: no 'reviewerID'" in caplog.text


def test_broken_entries_of_mql4grec_are_skipped(tmp_path, caplog):
    text = '{"0": [1, 2], "1": [3, NaN], "2": ["x"], "3": null, "4": [7], "5": [9], "6": [4.0]}'
    found = read(write(tmp_path / "X.inter.json", text), "mql4grec")
    assert found == [("0", "1", 0), ("0", "2", 1), ("2", "x", 0), ("4", "7", 0), ("5", "9", 0), ("6", "4", 0)]
    assert "skipped 2 broken entries. The first is '1': no 'item'" in caplog.text
    rows = items(tmp_path, "mql4grec", [{"title": "a", "description": float("nan")}, {"title": None}, "b"])
    assert [(row["item_id"], row["title"], row["text"]) for row in rows] == [("0", "a", ""), ("1", "", "")]


def test_byte_order_marks_are_no_letters(tmp_path):
    for layout, writer in WRITERS.items():
        writer(tmp_path / layout, PHOTOS)
        interactions, metadata = find_files(layout, [tmp_path / layout])
        kinds = ((interactions, LAYOUTS[layout].read_interactions), (metadata, LAYOUTS[layout].read_items))
        for path, reader in kinds:
            expected = list(reader(path))
            text = (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()).decode()
            for encoding in ("utf-8-sig", "utf-16"):
                data = text.encode(encoding)
                path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
                assert list(reader(path)) == expected, (path.name, encoding)


def test_some_lines_of_another_encoding_are_read_and_told(tmp_path, caplog):
    header = b"item_id:token\ttitle:token_seq\n"
    path = tmp_path / "x.item"
    path.write_bytes(header + b"1\tcaf\xe9\n2\tplain\n" + "3\tthé\n".encode())
    rows = list(LAYOUTS["recbole"].read_items(path))
    assert [row["title"] for row in rows] == ["café", "plain", "thé"]
    assert "1 of 4 lines are no UTF-8. Read as Windows-1252 the first is '1\\tcafé" in caplog.text
    path.write_bytes(header + "1\t椅子\n2\t机\n3\t本棚\n".encode("shift_jis"))
    with pytest.raises(ValueError, match=r"x.item: 3 of 4 lines are no UTF-8.*iconv"):
        list(LAYOUTS["recbole"].read_items(path))
    path.write_bytes(header + b"1\ta\n" * 500 + b"1\tcaf\xe9\n" * 120)
    with pytest.raises(ValueError, match=r"x.item: 107 of 608 lines are no UTF-8"):
        list(LAYOUTS["recbole"].read_items(path))


def test_halves_of_emojis_become_a_letter_that_can_be_written(tmp_path):
    path = tmp_path / "meta.json"
    escaped = ["\\ud83d\\ude00", "\\ud83d", "\\ude00 end"]
    raw = [b"\xed\xa0\xbd\xed\xb8\x80", b"\xed\xa0\xbd"]
    entities = [b"&#55357;&#56832;", b"&#55357;"]
    titles = [*(title.encode() for title in escaped), *raw, *entities]
    path.write_bytes(b"".join(b'{"asin": "%d\\ud83d", "title": "%s"}\n' % pair for pair in enumerate(titles)))
    for layout in ("amazon2014", "amazon2018"):
        rows = list(LAYOUTS[layout].read_items(path))
        assert [row["title"] for row in rows] == ["😀", "\ufffd", "\ufffd end", "😀", "\ufffd", "😀", "\ufffd"]
        assert [row["item_id"] for row in rows] == [f"{place}\ufffd" for place in range(7)]
    literals = "".join(f"{{'asin': '{place}', 'title': '{title}'}}\n" for place, title in enumerate(escaped))
    rows = list(LAYOUTS["amazon2014"].read_items(write(path, literals)))
    assert [row["title"] for row in rows] == ["😀", "\ufffd", "\ufffd end"]


def test_photos_of_2023_in_every_layout(tmp_path):
    a, b, c = (f"{PHOTOS}/{name}.jpg" for name in "abc")
    as_lists = {"hi_res": [None, a], "large": [b, c], "thumb": [a, a], "variant": ["PT01", "MAIN"]}
    as_dicts = [dict(zip(as_lists, row, strict=True)) for row in zip(*as_lists.values(), strict=True)]
    only_thumb = {"hi_res": [None], "large": ["None"], "thumb": [f"  {a} "], "variant": ["MAIN"]}
    expected = {
        json.dumps(as_dicts): c,
        json.dumps(as_lists): c,
        json.dumps(json.dumps(as_dicts)): c,
        json.dumps(repr(as_lists)): c,
        json.dumps(as_dicts[0]): b,
        json.dumps(only_thumb): a,
        json.dumps([{"hi_res": b, "large": None, "variant": "PT01"}, {"thumb": a, "variant": "MAIN"}]): b,
        json.dumps({"large": [None, b], "variant": ["MAIN"]}): b,
        json.dumps([a, b]): a,
        json.dumps(a): a,
        json.dumps({"large": [], "variant": []}): None,
        "NaN": None,
        "null": None,
        '"[broken"': None,
        "[[], 3, {}]": None,
        '{"large": 3}': None,
    }
    text = "".join(f'{{"parent_asin": "{place}", "images": {images}}}\n' for place, images in enumerate(expected))
    rows = list(LAYOUTS["amazon2023"].read_items(write(tmp_path / "meta.jsonl", text)))
    assert [row["image"] for row in rows] == list(expected.values())


def test_photos_of_2018_as_people_write_their_addresses(tmp_path):
    a = f"{PHOTOS}/a.jpg"
    expected = [
        ({"imageURLHighRes": [""], "imageURL": [a]}, a),
        ({"imageURLHighRes": "", "imageURL": a}, a),
        ({"imageURLHighRes": [], "imageURL": repr([a])}, a),
        ({"imageURLHighRes": [None, a], "imageURL": ["https://other.example/b.jpg"]}, a),
        ({"imageURL": [f"  {a}\n"]}, a),
        ({"imageURL": ["//m.shop.example/a b.jpg", "//m.shop.example/a.jpg"]}, "https://m.shop.example/a.jpg"),
        ({"imageURL": "images.shop.com/a.jpg"}, "https://images.shop.com/a.jpg"),
        ({"imageURL": "HTTPS://Shop.example/A.jpg?x=1&amp;y=2"}, "HTTPS://Shop.example/A.jpg?x=1&y=2"),
        ({"imageURL": f"{PHOTOS}/a b.jpg"}, f"{PHOTOS}/a b.jpg"),
        ({"imageURL": [], "image": [a]}, a),
        ({"imageURL": {"0": a}}, a),
        ({"image": [{"thumb": f"{PHOTOS}/b.jpg", "large": a}]}, a),
        ({"imUrl": a, "imageURL": []}, a),
        ({"imageURL": "ftp://shop.example/a.jpg"}, None),
        ({"imageURL": "images/a.jpg"}, None),
        ({}, None),
    ]
    found = items(tmp_path, "amazon2018", [{"asin": str(place), **row} for place, (row, _) in enumerate(expected)])
    assert [row["image"] for row in found] == [address for _, address in expected]


def test_lists_that_were_written_as_texts(tmp_path):
    row = {
        "asin": "1",
        "title": "['a', 'b']",
        "category": "['Toys', 'Drums']",
        "description": "['<b>Loud</b>', 'Red']",
    }
    (found,) = items(tmp_path, "amazon2018", [row])
    assert (found["title"], found["category"], found["text"]) == ("['a', 'b']", "Toys, Drums", "Loud Red")
    (found,) = items(tmp_path, "amazon2018", [{**row, "category": "[Toys]", "description": "[1, 2]"}])
    assert (found["category"], found["text"]) == ("[Toys]", "[1, 2]")


def test_recbole_columns_that_stand_twice(tmp_path):
    path = write(tmp_path / "x.item", "item_id:token\ttitle:token\ttitle:token\n1\ta\tb\n")
    with pytest.raises(ValueError, match="x.item, line 1: expected every column once, got 'title' twice"):
        list(LAYOUTS["recbole"].read_items(path))


def test_gzip_files_that_are_cut_off_or_none(tmp_path):
    whole = gzip.compress(lines([{**GOOD, "x": str(place)} for place in range(2000)]).encode())
    for data, reason in (
        (whole[:-30], "is cut off"),
        (b"<html>404", "is no gzip file"),
        (whole[:99] + b"x" * 99, "is "),
    ):
        (tmp_path / "r.json.gz").write_bytes(data)
        with pytest.raises(ValueError, match=f"r.json.gz {reason}"):
            read(tmp_path / "r.json.gz")
    middle = gzip.compress(b"\0" * 9_000, compresslevel=0)  # lines of another file, with the check of its own
    half = gzip.compress(lines([GOOD] * 50 + [{}] * 300).encode(), compresslevel=0)
    (tmp_path / "r.json.gz").write_bytes(half[:-8] + middle[-8:])
    with pytest.raises(ValueError, match=r"r.json.gz is damaged: its gzip data cannot be read"):
        read(tmp_path / "r.json.gz")
    (tmp_path / "r.json").write_bytes(whole)
    assert len(read(tmp_path / "r.json")) == 2000


def test_metadata_of_2014_as_strict_json(tmp_path):
    path = write(tmp_path / "meta.json", '{"asin": "1", "title": null, "imUrl": "none"}\n')
    assert [(row["item_id"], row["title"], row["image"]) for row in LAYOUTS["amazon2014"].read_items(path)] == [
        ("1", "", None)
    ]


def test_2023_pictures_without_a_main_one(tmp_path):
    images = [{"large": None, "variant": "MAIN"}, {"large": "http://p/2.jpg"}, {"large": "http://p/3.jpg"}]
    path = write(tmp_path / "meta.jsonl", lines([{"parent_asin": "1", "images": images}]))
    assert next(iter(LAYOUTS["amazon2023"].read_items(path)))["image"] == "http://p/2.jpg"


def test_named_files_instead_of_a_folder(tmp_path):
    WRITERS["amazon2018"](tmp_path, PHOTOS)
    WRITERS["amazon2018"](tmp_path / "other", PHOTOS)
    meta, reviews = tmp_path / "other" / "meta_Shop.json.gz", tmp_path / "Shop.json.gz"
    assert find_files("amazon2018", [meta, reviews]) == (reviews, meta)


def test_files_that_do_not_fit(tmp_path, caplog):
    WRITERS["amazon2018"](tmp_path, PHOTOS)
    with pytest.raises(
        FileNotFoundError, match=r"recbole: expected a file of interactions .*Is this the right format"
    ):
        find_files("recbole", [tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        find_files("recbole", [tmp_path / "nowhere"])
    (tmp_path / "meta_Shop.json.gz").rename(tmp_path / "aside")
    (tmp_path / "meta_Shop.json.gz").symlink_to(tmp_path / "nowhere")  # not passed over
    with pytest.raises(FileNotFoundError, match="meta_Shop.json.gz: no such file"):
        list(LAYOUTS["amazon2018"].read_items(find_files("amazon2018", [tmp_path])[1]))
    (tmp_path / "aside").replace(tmp_path / "meta_Shop.json.gz")
    write(tmp_path / "Shop_5.json.gz", "")
    with pytest.raises(ValueError, match=r"one file of interactions, got \['Shop.json.gz', 'Shop_5.json.gz'\]"):
        find_files("amazon2018", [tmp_path])
    assert find_files("amazon2018", [tmp_path / "Shop_5.json.gz"])[1] is None
    assert "items.jsonl will hold ids only" in caplog.text


GOOD = {"reviewerID": "u", "asin": "i", "unixReviewTime": 1}


def read(path, layout="amazon2018"):
    return list(LAYOUTS[layout].read_interactions(path))


def test_a_few_broken_lines_are_skipped_and_counted(tmp_path, caplog):
    text = lines([GOOD] * 3) + '{"reviewerID": \n[1]\n\n' + lines([{**GOOD, "unixReviewTime": None}, GOOD])
    path = write(tmp_path / "r.json", text)
    with caplog.at_level(logging.WARNING):
        assert read(path) == [("u", "i", 1.0)] * 4
    assert "r.json: skipped 3 broken lines. The first is line 4: no JSON" in caplog.text


def test_another_layout_is_an_error_at_once(tmp_path):
    path = write(tmp_path / "r.json", lines([{"user_id": "u", "parent_asin": "i", "timestamp": 1}] * 5_000))
    with pytest.raises(
        ValueError, match=r"fields reviewerID, asin.*is --format right.*101 broken lines and 0 good.*'reviewerID'"
    ):
        read(path)
    assert len(read(path, "amazon2023")) == 5_000


def test_many_broken_lines_late_in_a_file(tmp_path):
    path = write(tmp_path / "r.json", lines([GOOD] * 1_000 + [{}] * 111))
    with pytest.raises(ValueError, match="got 111 broken lines and 1,000 good ones"):
        read(path)
    path = write(tmp_path / "r.json", lines([GOOD] * 1_000 + [{}] * 110))  # 100 and one in a hundred are borne
    assert len(read(path)) == 1_000


def test_an_empty_file(tmp_path):
    with pytest.raises(ValueError, match="the file is empty"):
        read(write(tmp_path / "r.json.gz", ""))


@pytest.mark.parametrize(
    "wrong", ["yesterday", float("nan"), float("inf"), [1], True, "1_000", None, "10" * 400, 1e300]
)
def test_times_that_are_no_numbers(tmp_path, wrong, caplog):
    path = write(tmp_path / "r.json", lines([GOOD, {**GOOD, "unixReviewTime": wrong}]))
    with pytest.raises(ValueError, match="line 2: .*no time: expected a number in 'unixReviewTime', got"):
        read(path)
    path = write(tmp_path / "r.json", lines([GOOD, GOOD, {**GOOD, "unixReviewTime": wrong}]))
    assert read(path) == [("u", "i", 1.0)] * 2
    assert "skipped 1 broken line. The first is line 3: no time" in caplog.text


def test_recbole_without_times(tmp_path):
    path = write(tmp_path / "x.inter", "user_id:token\titem_id:token\nu\ti\n")
    with pytest.raises(ValueError, match=r"expected the columns user_id, item_id, timestamp, got .*order of the"):
        read(path, "recbole")


def test_recbole_lines_of_another_width(tmp_path, caplog):
    path = write(tmp_path / "x.inter", "user_id:token\titem_id:token\ttimestamp:float\r\nu\ti\t1\r\nu\ti\nu\tj\t2\r\n")
    assert read(path, "recbole") == [("u", "i", 1.0), ("u", "j", 2.0)]
    assert "skipped 1 broken line. The first is line 3: 2 fields, the header has 3" in caplog.text


def test_mql4grec_of_another_shape(tmp_path):
    for text in ("[1, 2]", '{"0": 3}', "{}", '{"0": [1], "1": 2}'):
        with pytest.raises(ValueError, match="X.inter.json: expected one JSON object as in X.inter.json.*--format"):
            read(write(tmp_path / "X.inter.json", text), "mql4grec")
    with pytest.raises(ValueError, match="X.inter.json: it is no JSON"):
        read(write(tmp_path / "X.inter.json", '{"0": '), "mql4grec")
