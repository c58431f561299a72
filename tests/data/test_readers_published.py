"""Every published layout, row by row, and what happens to lines that are broken."""

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
    assert 'skipped 3 broken lines, first line 4: \'{"reviewerID": ' in caplog.text


def test_another_layout_is_an_error_at_once(tmp_path):
    path = write(tmp_path / "r.json", lines([{"user_id": "u", "parent_asin": "i", "timestamp": 1}] * 5_000))
    with pytest.raises(
        ValueError, match=r"fields reviewerID, asin.*101 without among the first 101.*Is --format right"
    ):
        read(path)
    assert len(read(path, "amazon2023")) == 5_000


def test_many_broken_lines_late_in_a_file(tmp_path):
    path = write(tmp_path / "r.json", lines([GOOD] * 1_000 + [{}] * 111))
    with pytest.raises(ValueError, match="got 111 without among the first 1,111"):
        read(path)
    path = write(tmp_path / "r.json", lines([GOOD] * 1_000 + [{}] * 110))  # 100 and one in a hundred are borne
    assert len(read(path)) == 1_000


def test_an_empty_file(tmp_path):
    with pytest.raises(ValueError, match="the file is empty"):
        read(write(tmp_path / "r.json.gz", ""))


@pytest.mark.parametrize("wrong", ["yesterday", float("nan"), [1]])
def test_times_that_are_no_numbers(tmp_path, wrong):
    path = write(tmp_path / "r.json", lines([GOOD, {**GOOD, "unixReviewTime": wrong}]))
    with pytest.raises(ValueError, match="missing timestamps: expected a number in 'unixReviewTime', got"):
        read(path)


def test_recbole_without_times(tmp_path):
    path = write(tmp_path / "x.inter", "user_id:token\titem_id:token\nu\ti\n")
    with pytest.raises(ValueError, match=r"expected the columns user_id, item_id, timestamp, got .*order of the"):
        read(path, "recbole")


def test_recbole_lines_of_another_width(tmp_path, caplog):
    path = write(tmp_path / "x.inter", "user_id:token\titem_id:token\ttimestamp:float\r\nu\ti\t1\r\nu\ti\nu\tj\t2\r\n")
    assert read(path, "recbole") == [("u", "i", 1.0), ("u", "j", 2.0)]
    assert "skipped 1 broken lines, first line 3" in caplog.text


def test_mql4grec_of_another_shape(tmp_path):
    for text in ("[1, 2]", '{"0": 3}', '{"0": '):
        with pytest.raises(ValueError, match="expected one JSON object as in X.inter.json"):
            read(write(tmp_path / "X.inter.json", text), "mql4grec")
