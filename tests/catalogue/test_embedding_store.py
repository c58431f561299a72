import json

import numpy as np
import pytest

from macrec_hf import EmbeddingStore


def make_store(**changes):
    random = np.random.default_rng(0)
    arrays = {"text": random.standard_normal((6, 4)).astype(np.float32), "image": random.standard_normal((6, 3))}
    return EmbeddingStore(**({"arrays": arrays, "item_ids": list("abcdef"), "missing": {"image": ["b"]}} | changes))


def test_round_trip_is_memory_mapped_and_equal(tmp_path):
    store = make_store(encoders={"text": "offline"})
    store.save(tmp_path)
    loaded = EmbeddingStore.open(tmp_path)
    assert isinstance(loaded.arrays["text"], np.memmap)
    assert loaded.item_ids == store.item_ids and loaded.modalities == {"text": 4, "image": 3}
    assert loaded.encoders == {"text": "offline"} and loaded.present["image"].tolist() == [1, 0, 1, 1, 1, 1]
    assert loaded.fingerprint() == store.fingerprint()
    rows = loaded[[1, 2]]
    assert rows["image"].dtype == np.float32 and (rows["image"][0] == 0).all()
    assert np.array_equal(rows["text"], store.arrays["text"][[1, 2]])


def test_without_meta_nobody_knows_which_items_lack_a_photo(tmp_path):
    make_store().save(tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no meta.json. `macrec embed` writes one; .*name the files"):
        EmbeddingStore.open(tmp_path)


def test_fingerprint_notices_every_change():
    base = make_store().fingerprint()
    assert make_store(missing={"image": ["c"]}).fingerprint() != base
    assert make_store(item_ids=list("abcdeg")).fingerprint() != base
    changed = make_store()
    changed.arrays["text"][3, 1] += 1
    assert changed.fingerprint() != base


def test_select_keeps_order_and_missing():
    store = make_store().select(["image"])
    assert list(store.modalities) == ["image"] and not store.present["image"][1]
    with pytest.raises(ValueError, match="sound"):
        store.select(["sound"])


def test_nan_in_a_present_row_is_named_and_in_a_missing_row_is_not_looked_at():
    store = make_store()
    store.arrays["image"][1] = np.nan
    store.check_finite()
    store.arrays["text"][4, 2] = np.nan
    with pytest.raises(ValueError, match=r"embeddings\['text'\].*row 4 \(item 'e'\)"):
        store.check_finite()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"item_ids": list("abcde")}, "one row for each of the 5 item ids, got 6 rows"),
        ({"item_ids": list("abcdea")}, "1 repeated, e.g. \\['a'\\]"),
        ({"item_ids": ["a", None, *"cdef"]}, "strings or whole numbers, got None in row 1. Is there a gap"),
        ({"item_ids": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}, "got 1.0 in row 0.*read as floating point numbers"),
        ({"arrays": {}}, "at least one modality"),
        ({"arrays": {"text": np.zeros((0, 3))}, "item_ids": [], "missing": {}}, "empty catalogue"),
        ({"arrays": {"text": np.zeros(6)}, "missing": {}}, "expected shape"),
        ({"arrays": {"text": np.zeros((6, 2), dtype=int)}, "missing": {}}, "float16, float32 or float64"),
        ({"missing": {"sound": ["a"]}}, "no modality"),
        ({"missing": {"image": ["z"]}}, "not among"),
    ],
)
def test_wrong_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_store(**changes)


def test_a_folder_that_is_none_and_one_from_the_future_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no such folder.*macrec embed"):
        EmbeddingStore.open(tmp_path / "nowhere")
    make_store().save(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"format_version": 99}))
    with pytest.raises(ValueError, match="newer macrec_hf"):
        EmbeddingStore.open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"embeddings\['text'\]"):
        EmbeddingStore.from_files({"text": tmp_path / "absent.npy"}, ["a"])


def test_a_file_in_a_folder_from_the_future_is_refused(tmp_path):
    """It may have been made from purchases, which this release cannot tell; a stranger's meta.json says nothing."""
    store = make_store()
    store.save(tmp_path)
    files = {"text": tmp_path / "text.npy"}
    meta = json.loads((tmp_path / "meta.json").read_text())
    for other in ([], {"format_version": 99}, meta | {"format_version": "1.2"}, {"modalities": 3}):
        (tmp_path / "meta.json").write_text(json.dumps(other))
        assert EmbeddingStore.from_files(files, store.item_ids).learned_from == {}
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"format_version": 99}))
    with pytest.raises(ValueError, match="meta.json: expected format_version up to .*, got 99.*newer macrec_hf"):
        EmbeddingStore.from_files(files, store.item_ids)


@pytest.mark.parametrize("content", [b"", b"no array at all", "cut off", "pickled"])
def test_a_file_that_is_no_array_is_named(tmp_path, content):
    path = tmp_path / "text.npy"
    np.save(path, np.zeros((6, 4)) if content == "cut off" else np.array([{}], dtype=object), allow_pickle=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut off":
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"embeddings\['text'\]: expected .*text.npy to be a .npy file of floating"):
        EmbeddingStore.from_files({"text": path}, list("abcdef"))


def test_ids_come_from_a_json_list(tmp_path):
    store, ids = make_store(), tmp_path / "ids.json"
    np.save(tmp_path / "text.npy", store.arrays["text"])
    files = {"text": tmp_path / "text.npy"}
    ids.write_text(json.dumps([1, 2, 3, "04", "e", "f"]))
    assert EmbeddingStore.from_files(files, ids).item_ids == ["1", "2", "3", "04", "e", "f"]
    ids.write_text(json.dumps(dict.fromkeys("abcdef")))
    with pytest.raises(
        ValueError, match=r'ids.json: expected a list of item ids, such as \["i1", "i2"\], got an object'
    ):
        EmbeddingStore.from_files(files, ids)
    ids.write_text(json.dumps(list("abcdef")), encoding="utf-8-sig")  # with a byte-order mark
    assert EmbeddingStore.from_files(files, ids).item_ids == list("abcdef")
    ids.write_text(json.dumps(["\ud83d", *"bcdef"]))  # half an emoji
    assert EmbeddingStore.from_files(files, ids).item_ids == ["\ufffd", *"bcdef"]
    ids.write_text(json.dumps(["ü", *"bcdef"], ensure_ascii=False), encoding="cp1252")
    with pytest.raises(ValueError, match="ids.json, line 1: expected text in UTF-8, got the byte 0xfc"):
        EmbeddingStore.from_files(files, ids)
    ids.write_text("a\nb\n")
    with pytest.raises(ValueError, match="ids.json: it is no JSON that can be read: .*Was it cut off"):
        EmbeddingStore.from_files(files, ids)
    with pytest.raises(FileNotFoundError, match="absent.json: expected a JSON file with a list of item ids"):
        EmbeddingStore.from_files(files, tmp_path / "absent.json")
    store.save(tmp_path)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(ValueError, match="meta.json: expected an object that says which items lack.*cannot be read"):
        EmbeddingStore.open(tmp_path)


def test_some_of_the_items_in_another_order(tmp_path):
    random = np.random.default_rng(3)
    arrays = {
        "text": random.standard_normal((6, 3)).astype("f2"),
        "image": random.standard_normal((6, 2)).astype("f4"),
    }
    ids = [f"i{row}" for row in range(6)]
    EmbeddingStore(arrays, ids, missing={"image": ["i4", "i1"]}, encoders={"text": "bert"}).save(tmp_path)
    some = EmbeddingStore.open(tmp_path).take([4, 0, 3])
    assert some.item_ids == ["i4", "i0", "i3"] and some.encoders == {"text": "bert"}
    assert some.present["image"].tolist() == [False, True, True] and some.present["text"].all()
    assert np.array_equal(some.arrays["text"], arrays["text"][[4, 0, 3]]) and some.arrays["text"].dtype == np.float16
    assert not some[0]["image"].any() and np.array_equal(some[[1, 2]]["image"], arrays["image"][[0, 3]])
