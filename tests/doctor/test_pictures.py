import numpy as np
import pytest
from PIL import Image

from macrec_hf import EmbeddingStore, SemanticIdTable
from macrec_hf.doctor.pictures import embedding_maps, prefix_examples, shown_items


def make_table(num_items=120, missing=()):
    random = np.random.default_rng(0)
    text = np.stack([np.arange(num_items) % 4, random.integers(8, size=num_items)], axis=1)
    image = text[:, ::-1].copy()
    image[list(missing)] = -1
    return SemanticIdTable([f"i{row}" for row in range(num_items)], {"text": text, "image": image}, 8)


def test_examples_share_the_prefix_they_are_shown_under():
    table = make_table(missing=(3,))
    known = {item: None for item in table.item_ids if item != "i8"}
    examples = prefix_examples(table, known)
    assert len(examples["random"]) == 8 and "i8" not in examples["random"]
    for name, value in examples["modalities"].items():
        assert len(value["groups"]) == 3
        for group in value["groups"]:
            assert len(group["tokens"]) == value["depth"] and len(set(group["items"])) == 8
            assert all(table.tokens(item, name)[: value["depth"]] == group["tokens"] for item in group["items"])
            same = [item for item in table.item_ids if table.tokens(item, name)[: value["depth"]] == group["tokens"]]
            assert group["size"] == len(same)
    assert examples["modalities"]["text"]["depth"] == 1  # pairs of codes hold about four items: too few for a row
    large = make_table(2000)
    shown = prefix_examples(large, dict.fromkeys(large.item_ids))["modalities"]["image"]
    sizes = [group["size"] for group in shown["groups"]]
    assert sizes == sorted(sizes, reverse=True) and shown["depth"] == 2
    assert prefix_examples(table, known) == examples != prefix_examples(table, known, seed=1)


def test_small_catalogues_show_what_they_have():
    table = SemanticIdTable(["a", "b", "c"], {"text": [[0, 0], [0, 1], [1, 0]], "image": [[-1, -1]] * 3}, 2)
    examples = prefix_examples(table, {"a": None, "b": None})
    assert set(examples["modalities"]) == {"text"} and sorted(examples["random"]) == ["a", "b"]
    (group,) = examples["modalities"]["text"]["groups"]
    assert group["tokens"] == ["<a_0>"] and sorted(group["items"]) == ["a", "b"] and group["size"] == 2


def test_items_of_another_catalogue_are_refused():
    with pytest.raises(ValueError, match=r"items: expected the items of the semantic IDs, such as \['i0'.*\['x'\]"):
        prefix_examples(make_table(), {"x": None})


def test_shown_items_have_small_photos_or_none(tmp_path):
    Image.new("RGB", (400, 200), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    photos = {"i0": tmp_path / "red.png", "i1": tmp_path / "broken.jpg", "i2": tmp_path / "absent.jpg", "i3": None}
    known = {item: {"title": f"Thing {item}", "image": path} for item, path in photos.items()}
    shown = shown_items({"random": ["i0", "i1"], "modalities": {"text": {"groups": [{"items": ["i2", "i3"]}]}}}, known)
    assert sorted(shown) == ["i0", "i1", "i2", "i3"] and shown["i3"]["title"] == "Thing i3"
    assert shown["i0"]["photo"].startswith("data:image/jpeg;base64,") and len(shown["i0"]["photo"]) < 2000
    assert [shown[item]["photo"] for item in ("i1", "i2", "i3")] == [None] * 3


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_maps_keep_groups_apart_and_name_the_most_used_codes(method):
    table = make_table(missing=(3,))
    random = np.random.default_rng(1)
    vectors = 20 * np.eye(6)[table.codes["text"][:, 0].numpy()] + random.standard_normal((120, 6))
    order = random.permutation(120)
    store = EmbeddingStore({"text": vectors[order].astype("f4")}, [f"i{row}" for row in order])
    maps = embedding_maps(table, store, method)
    assert set(maps) == {"text"} and set(maps["text"]["by"]) == {"text", "image"}
    points, by = np.array(maps["text"]["points"]), maps["text"]["by"]
    assert points.shape == (120, 2) and np.isfinite(points).all()
    assert sorted(by["text"]["names"]) == ["<a_0>", "<a_1>", "<a_2>", "<a_3>"]
    assert [by["text"]["names"][group] for group in by["text"]["groups"]] == [
        table.tokens(f"i{row}", "text")[0] for row in range(120)
    ]
    assert by["image"]["groups"][3] == -1
    if method == "tsne":  # a plain projection of four corners may lay two of them upon each other
        centres = np.stack([points[np.array(by["text"]["groups"]) == group].mean(axis=0) for group in range(4)])
        nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(axis=1)
        assert (nearest == by["text"]["groups"]).mean() > 0.95


def test_maps_of_few_items_flat_embeddings_and_unknown_methods():
    table = make_table(4)
    ids = table.item_ids
    maps = embedding_maps(table, EmbeddingStore({"text": np.ones((4, 1), dtype="f4")}, ids))
    assert maps["text"]["points"] == [[0, 0]] * 4
    assert embedding_maps(table, EmbeddingStore({"text": np.ones((2, 3), dtype="f4")}, ids[:2])) == {}
    empty = EmbeddingStore({"text": np.ones((4, 3), dtype="f4")}, ids, missing={"text": ids})
    assert embedding_maps(table, empty) == {}
    assert len(embedding_maps(table, EmbeddingStore({"text": np.eye(4, dtype="f4")}, ids))["text"]["points"]) == 4
    with pytest.raises(ValueError, match=r"map method of \('tsne', 'pca'\), got 'umap'"):
        embedding_maps(table, empty, "umap")


def test_maps_hold_two_thousand_items_at_most():
    table = make_table(2500)
    vectors = np.random.default_rng(0).standard_normal((2500, 3)).astype("f4")
    maps = embedding_maps(table, EmbeddingStore({"text": vectors}, table.item_ids), "pca")
    assert len(maps["text"]["points"]) == len(maps["text"]["by"]["image"]["groups"]) == 2000
