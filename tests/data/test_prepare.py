"""Published data → the two tables: the k-core against a plain loop, what is left out, what stays in order."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_layouts import WRITERS, lines, write

from macrec_hf.data.prepare import k_core_mask, prepare
from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.readers_published import LAYOUTS

PHOTOS = "https://photos.example"


def story(folder) -> list[tuple]:
    return [tuple(row) for row in read_interactions(folder / "interactions.csv").itertuples(index=False)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, layout):
    """X9 has no metadata; then u3 has one interaction, so the 2-core is u1 and u2 with 0001 and B2."""
    WRITERS[layout](tmp_path / "raw", PHOTOS)
    done = prepare(layout, [tmp_path / "raw"], tmp_path / "out", k_core=2)
    assert (done.num_users, done.num_items, done.num_interactions) == (2, 2, 6)
    assert (done.without_metadata, done.repeats, done.outside_core) == (1, 0, 1)
    found = story(tmp_path / "out")
    assert [row[:2] for row in found[:3]] == [("u1", "0001"), ("u1", "B2"), ("u1", "0001")]
    assert [row[:2] for row in found[3:]] == [("u2", "B2"), ("u2", "0001"), ("u2", "B2")]
    times = {"amazon2023": [10_000, 20_000, 30_000, 5_000, 15_000, 15_000], "mql4grec": [0, 1, 3, 0, 1, 2]}
    assert [row[2] for row in found] == times.get(layout, [10, 20, 30, 5, 15, 15])
    items = read_items(tmp_path / "out" / "items.jsonl")
    assert items["item_id"].tolist() == ["0001", "B2"] and items["title"].tolist() == ['Bob\'s "red" drum', ""]
    assert items["image"].tolist() == [f"{PHOTOS}/drum.jpg", None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["interactions.csv", "items.jsonl"]


def test_defaults_of_the_filter(tmp_path):
    """The paper's 5-core, but files that are filtered already stay as they are."""
    WRITERS["amazon2018"](tmp_path / "raw", PHOTOS)
    with pytest.raises(
        ValueError, match=r"nothing is left of 7 interactions \(1 more name items.*none is in the 5-core"
    ):
        prepare("amazon2018", [tmp_path / "raw"], tmp_path / "out")
    assert not (tmp_path / "out").exists()  # no half files
    WRITERS["mql4grec"](tmp_path / "ready", PHOTOS)
    assert prepare("mql4grec", [tmp_path / "ready"], tmp_path / "out").num_users == 3


def test_without_metadata(tmp_path):
    WRITERS["recbole"](tmp_path / "raw", PHOTOS)
    (tmp_path / "raw" / "shop.item").unlink()
    done = prepare("recbole", [tmp_path / "raw"], tmp_path / "out", k_core=1)
    assert (done.num_items, done.num_interactions, done.without_metadata) == (3, 8, 0)
    assert read_items(tmp_path / "out" / "items.jsonl")["item_id"].tolist() == ["0001", "B2", "X9"]


def test_exact_repeats_are_one_interaction(tmp_path):
    """Twice in one second is a repeat of the dump, another second is another purchase."""
    reviews = [{"reviewerID": "u", "asin": "1", "unixReviewTime": moment} for moment in [7, 9, 7, 8, 7]]
    write(tmp_path / "r.json", lines(reviews))
    done = prepare("amazon2018", [tmp_path / "r.json"], tmp_path / "out", k_core=1)
    assert done.repeats == 2 and [row[2] for row in story(tmp_path / "out")] == [7, 8, 9]


def test_equal_times_keep_the_order_of_the_file(tmp_path):
    reviews = [{"reviewerID": "u", "asin": item, "unixReviewTime": 1.5} for item in ["9", "1", "5", "3"]]
    write(tmp_path / "r.json", lines(reviews))
    prepare("amazon2018", [tmp_path / "r.json"], tmp_path / "out", k_core=1)
    assert story(tmp_path / "out") == [("u", item, 1.5) for item in ["9", "1", "5", "3"]]


def test_ids_that_csv_must_quote(tmp_path):
    write(tmp_path / "X.inter.json", json.dumps({'a,"b"': ["i 1", "07"]}))
    prepare("mql4grec", [tmp_path], tmp_path / "out")
    assert story(tmp_path / "out") == [('a,"b"', "i 1", 0), ('a,"b"', "07", 1)]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"format: expected one of \['amazon2018'.*got 'amazon1999'"):
        prepare("amazon1999", [tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="k-core: expected at least 1, got 0"):
        prepare("recbole", [tmp_path], tmp_path / "out", k_core=0)


def core_by_loops(pairs: list[tuple[int, int]], k: int) -> list[bool]:
    kept = list(range(len(pairs)))
    while True:
        users, items = [pairs[n][0] for n in kept], [pairs[n][1] for n in kept]
        left = [n for n in kept if users.count(pairs[n][0]) >= k and items.count(pairs[n][1]) >= k]
        if left == kept:
            return [n in kept for n in range(len(pairs))]
        kept = left


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60), st.integers(1, 4))
def test_k_core_against_a_plain_loop(pairs, k):
    users, items = np.array([pair[0] for pair in pairs], dtype=int), np.array([pair[1] for pair in pairs], dtype=int)
    assert k_core_mask(users, items, k).tolist() == core_by_loops(pairs, k)


def test_memory_does_not_grow_with_what_is_not_needed(tmp_path):
    """Ten megabytes of review texts go by; what stays are three numbers each."""
    reviews = (
        {"reviewerID": f"u{n % 50}", "asin": f"i{n % 40}", "unixReviewTime": n, "reviewText": "word " * 400}
        for n in range(5_000)
    )
    path = write(tmp_path / "r.json", lines(reviews))
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    assert prepare("amazon2018", [path], tmp_path / "out").num_interactions == 5_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
