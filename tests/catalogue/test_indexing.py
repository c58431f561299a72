"""Catalogues through a tiny real quantizer: build, add, remove."""

import inspect

import numpy as np
import pytest
import torch

from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.catalogue.indexing import add_items, build_semantic_ids, remove_items
from macrec_hf.model.configuration_macrec import MacRecQuantizerConfig
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer
from macrec_hf.model.semantic_ids import SemanticIdTable

SIZES = {"text": 7, "image": 5}


def make_quantizer(modalities=None, codebook_size=8, num_levels=3, seed=0, **settings):
    torch.manual_seed(seed)
    config = MacRecQuantizerConfig(
        modalities=modalities or SIZES,
        codebook_size=codebook_size,
        num_levels=num_levels,
        codebook_dim=4,
        hidden_sizes=(16,),
        **settings,
    )
    quantizer = MacRecQuantizer(config)
    quantizer.set_codebooks({m: torch.randn_like(c) * 0.5 for m, c in quantizer.codebooks.items()})
    return quantizer


def make_embeddings(num_items, modalities=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(num_items, d, generator=generator) for m, d in (modalities or SIZES).items()}


def ids(num_items, prefix="i"):
    return [f"{prefix}{row}" for row in range(num_items)]


def test_builds_distinct_ids_and_keeps_the_lone_ones():
    quantizer, embeddings = make_quantizer(), make_embeddings(200)
    raw = quantizer.encode(embeddings)
    table = build_semantic_ids(quantizer, embeddings, ids(200), batch_size=64)
    assert table.item_ids == ids(200)
    assert table.modalities == ("text", "image")
    assert (table.num_levels, table.codebook_size) == (3, 8)
    for m in SIZES:
        _, group, sizes = torch.unique(raw[m], dim=0, return_inverse=True, return_counts=True)
        lone = sizes[group] == 1
        assert 0 < lone.sum() < 200
        assert torch.equal(table.codes[m][lone], raw[m][lone])
        assert table.collision_rate(m) == 0.0
        moved = (table.codes[m] != raw[m]).any(1)
        latents, codebooks = quantizer.encode_latents(embeddings)[m].detach(), quantizer.codebooks[m].detach()

        def distances(codes, latents=latents, codebooks=codebooks):
            return (latents - sum(codebooks[level][codes[:, level]] for level in range(3))).norm(dim=1)

        before, after = distances(raw[m])[moved], distances(table.codes[m])[moved]
        assert table.report[m] == {
            "num_items": 200,
            "collision_rate_before": pytest.approx(1 - len(sizes) / 200),
            "collision_rate_after": 0.0,
            "num_shared": int((~lone).sum()),
            "num_moved": int(moved.sum()),
            "mean_distance": pytest.approx(before.mean().item(), rel=1e-5),
            "mean_distance_increase": pytest.approx((after - before).mean().item(), rel=1e-4),
        }
        assert int(moved.sum()) == 200 - len(sizes)  # one per ID stays


def test_same_ids_whatever_the_source_of_the_embeddings(tmp_path):
    quantizer, embeddings = make_quantizer(), make_embeddings(60)
    expected = build_semantic_ids(quantizer, embeddings, ids(60))
    arrays = {m: e.numpy() for m, e in reversed(embeddings.items())}
    assert build_semantic_ids(quantizer, arrays, ids(60), batch_size=7) == expected
    assert build_semantic_ids(quantizer, EmbeddingStore(arrays, ids(60))) == expected
    store = EmbeddingStore.open(EmbeddingStore(arrays, ids(60)).save(tmp_path))
    assert build_semantic_ids(quantizer, store, ids(60)) == expected
    assert build_semantic_ids(quantizer, arrays, range(60)).item_ids == [str(row) for row in range(60)]


def test_quantizer_is_left_as_it_was():
    quantizer, embeddings = make_quantizer(dropout=0.5), make_embeddings(60)
    quantizer.train()
    table = build_semantic_ids(quantizer, embeddings, ids(60))
    assert quantizer.training
    assert all(parameter.requires_grad for parameter in quantizer.parameters())
    assert build_semantic_ids(quantizer.eval(), embeddings, ids(60)) == table  # no dropout in either
    assert not quantizer.training


def test_missing_modalities_have_no_id_and_take_no_part():
    quantizer, embeddings = make_quantizer(), make_embeddings(120)
    present = torch.arange(120) % 3 > 0
    embeddings["image"][~present] = torch.nan  # what stands in such a row is not looked at
    table = build_semantic_ids(quantizer, embeddings, ids(120), modality_mask={"image": present})
    assert (table.codes["image"][~present] == -1).all()
    assert (table.codes["image"][present] >= 0).all()
    assert (table.codes["text"] >= 0).all()
    assert table.collision_rate("image") == 0.0
    assert table.report["image"]["num_items"] == 80
    alone = build_semantic_ids(quantizer, {m: e[present] for m, e in embeddings.items()}, ids(80))
    assert torch.equal(alone.codes["image"], table.codes["image"][present])
    store = EmbeddingStore(embeddings, ids(120), missing={"image": [f"i{row}" for row in range(0, 120, 3)]})
    assert build_semantic_ids(quantizer, store) == table


def test_no_item_has_a_modality():
    quantizer = make_quantizer()
    table = build_semantic_ids(quantizer, make_embeddings(4), ids(4), modality_mask={"image": np.zeros(4, bool)})
    assert (table.codes["image"] == -1).all()
    assert table.report["image"]["num_moved"] == 0


def test_collapsed_catalogue_and_a_full_space():
    quantizer = make_quantizer(codebook_size=4, num_levels=3)
    same = {m: torch.ones(65, d) for m, d in SIZES.items()}
    table = build_semantic_ids(quantizer, {m: e[:64] for m, e in same.items()}, ids(64))
    assert table.collision_rate("text") == table.collision_rate("image") == 0.0
    with pytest.raises(
        ValueError, match="'text': The code space is full: .* 64 IDs, and 1 of 65 items .* codebook_size"
    ):
        build_semantic_ids(quantizer, same, ids(65))


def test_one_and_three_modalities():
    for sizes in ({"image": 5}, {"video": 3, "audio_hq": 4, "text2": 6}):
        quantizer = make_quantizer(sizes)
        table = build_semantic_ids(quantizer, make_embeddings(50, sizes), ids(50))
        assert table.modalities == tuple(sizes)
        known = set(quantizer.vocabulary())
        assert all(set(table.tokens(item, m)) <= known for item in table.item_ids for m in sizes)


def test_both_take_the_same_things_in_the_same_order():
    build, add = (inspect.signature(function).parameters for function in (build_semantic_ids, add_items))
    assert list(build) == ["quantizer", "embeddings", "item_ids", "modality_mask", "batch_size", "accelerator"]
    assert ["table", *build] == [*add, "accelerator"]  # new items are few: one process encodes them
    assert all(parameter.kind == build[name].kind for name, parameter in add.items() if name != "table")
    assert all(parameter.default == build[name].default for name, parameter in add.items() if name != "table")


def test_added_items_leave_the_old_ids_alone():
    quantizer, old = make_quantizer(), make_embeddings(100)
    table = build_semantic_ids(quantizer, old, ids(100))
    fingerprint = table.fingerprint()
    fresh = make_embeddings(20, seed=5)
    new = {m: torch.cat([e[:30], fresh[m]]) for m, e in old.items()}
    grown = add_items(table, quantizer, new, ids(50, "n"))
    assert table.fingerprint() == fingerprint
    assert grown.item_ids == ids(100) + ids(50, "n")
    for m in SIZES:
        assert torch.equal(grown.codes[m][:100], table.codes[m])
        assert grown.collision_rate(m) == 0.0
        assert grown.report[m]["num_items"] == 50
        assert grown.report[m]["num_moved"] >= 30  # copies of old items cannot keep their codes, however near they are
        assert grown.report[m]["collision_rate_before"] >= 30 / 150
    assert remove_items(grown, ids(50, "n")) == table


def test_added_items_without_a_modality_and_from_a_store():
    quantizer = make_quantizer()
    table = build_semantic_ids(quantizer, make_embeddings(20), ids(20))
    store = EmbeddingStore(make_embeddings(3, seed=1), ids(3, "n"), missing={"image": ["n1"]})
    grown = add_items(table, quantizer, store)
    assert grown.tokens("n1", "image") == []
    assert len(grown.tokens("n1", "text")) == 3


def test_added_to_a_table_with_imported_shared_ids():
    quantizer = make_quantizer()
    shared = torch.tensor([[1, 2, 3], [1, 2, 3], [-1, -1, -1]])
    table = SemanticIdTable(ids(3), {"text": shared, "image": shared}, 8)
    grown = add_items(table, quantizer, make_embeddings(30), ids(30, "n"))
    assert grown.items((1, 2, 3), "text") == ["i0", "i1"]
    assert grown.collision_rate("text") == pytest.approx(1 / 32)


def test_adding_until_the_space_is_full():
    quantizer = make_quantizer(codebook_size=4, num_levels=2)
    table = build_semantic_ids(quantizer, make_embeddings(10), ids(10))
    full = add_items(table, quantizer, make_embeddings(6, seed=2), ids(6, "n"))
    with pytest.raises(ValueError, match="1 of 17 items are left without one"):
        add_items(full, quantizer, make_embeddings(1), ["one more"])
    assert add_items(remove_items(full, ["i3"]), quantizer, make_embeddings(1), ["one more"]).num_items == 16


def test_removed_items():
    quantizer = make_quantizer()
    table = build_semantic_ids(quantizer, make_embeddings(10), ids(10))
    left = remove_items(table, ["i4", "i0"])
    assert left.item_ids == ["i1", "i2", "i3", "i5", "i6", "i7", "i8", "i9"]
    assert left.tokens("i9", "image") == table.tokens("i9", "image")
    assert left.items(table.codes["text"][4].tolist(), "text") == []
    assert remove_items(table, []) == table
    assert len(remove_items(table, table.item_ids)) == 0
    with pytest.raises(ValueError, match="got 1 that it does not have, e.g. \\['x'\\]"):
        remove_items(table, ["i4", "x"])
    with pytest.raises(ValueError, match=r"Write \['i4'\]"):
        remove_items(table, "i4")


def test_wrong_input():
    quantizer, embeddings = make_quantizer(), make_embeddings(6)
    with pytest.raises(ValueError, match="item_ids: expected each id once, got 1 repeated, e.g. \\['a'\\]"):
        build_semantic_ids(quantizer, embeddings, ["a", "b", "a", "c", "d", "e"])
    with pytest.raises(ValueError, match="one row for each of the 5 item ids, got 6 rows"):
        build_semantic_ids(quantizer, embeddings, ids(5))
    with pytest.raises(ValueError, match="item_ids: expected strings or whole numbers, got None in row 2"):
        build_semantic_ids(quantizer, embeddings, ["a", "b", None, "c", "d", "e"])
    with pytest.raises(ValueError, match="Expected item_ids, one per row of the embeddings, got None"):
        build_semantic_ids(quantizer, embeddings)
    with pytest.raises(ValueError, match="quantizer's modalities and sizes, .*'image': 5.*, got {'text': 7}"):
        build_semantic_ids(quantizer, {"text": embeddings["text"]}, ids(6))
    with pytest.raises(ValueError, match="quantizer's modalities and sizes, .*, got {'text': 7, 'image': 4}"):
        build_semantic_ids(quantizer, embeddings | {"image": embeddings["image"][:, :4]}, ids(6))
    with pytest.raises(ValueError, match=r"modality_mask\['image'\] of shape \(6,\), got \(2,\)"):
        build_semantic_ids(quantizer, embeddings, ids(6), modality_mask={"image": torch.ones(2)})
    for odd in (2, -1, np.nan):
        with pytest.raises(ValueError, match=r"modality_mask\['image'\] of true and false, or of 1 and 0, got"):
            build_semantic_ids(quantizer, embeddings, ids(6), modality_mask={"image": np.full(6, odd)})
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        build_semantic_ids(quantizer, embeddings, ids(6), batch_size=0)
    store = EmbeddingStore(embeddings, ids(6))
    with pytest.raises(ValueError, match="Expected no modality_mask with an EmbeddingStore"):
        build_semantic_ids(quantizer, store, modality_mask={"image": torch.ones(6)})
    with pytest.raises(ValueError, match="Expected the item ids of the EmbeddingStore in its order"):
        build_semantic_ids(quantizer, store, ids(6)[::-1])
    embeddings["image"][3, 1] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinity for item 'i3' in modality 'image'"):
        build_semantic_ids(quantizer, embeddings, ids(6), batch_size=2)


def test_wrong_input_to_add_items():
    quantizer = make_quantizer()
    table = build_semantic_ids(quantizer, make_embeddings(6), ids(6))
    with pytest.raises(ValueError, match="got 1 that the table has already, e.g. \\['i5'\\]"):
        add_items(table, quantizer, make_embeddings(2), ["n", "i5"])
    with pytest.raises(ValueError, match="the quantizer's modalities, levels and codebook size .* another quantizer"):
        add_items(table, make_quantizer(codebook_size=9), make_embeddings(1), ["n"])
    with pytest.raises(ValueError, match="another quantizer"):
        add_items(table, make_quantizer({"image": 5, "text": 7}), make_embeddings(1), ["n"])


def test_saved_quantizer_gives_the_same_ids(tmp_path):
    quantizer, embeddings = make_quantizer(), make_embeddings(90)
    quantizer.save_pretrained(tmp_path)
    again = build_semantic_ids(MacRecQuantizer.from_pretrained(tmp_path), embeddings, ids(90))
    assert again == build_semantic_ids(quantizer, embeddings, ids(90))
