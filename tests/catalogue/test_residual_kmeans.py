import json

import numpy as np
import pytest
import torch
from quantizer_training import make_store

from macrec_hf import EmbeddingStore, MacRecQuantizer, MacRecQuantizerConfig, add_items, build_semantic_ids
from macrec_hf.catalogue.residual_kmeans import residual_kmeans


@pytest.fixture(scope="module")
def store():
    return make_store(missing=range(10))


@pytest.fixture(scope="module")
def quantizer(store):
    return residual_kmeans(store, num_levels=3, codebook_size=8)


def test_each_level_is_k_means_of_what_the_levels_before_left_over(quantizer, store):
    codes = quantizer.encode({name: torch.from_numpy(rows) for name, rows in store.arrays.items()})
    for name, rows in store.arrays.items():
        residual = rows[store.present[name]]
        for level, codebook in enumerate(quantizer.codebooks[name].detach().numpy()):
            nearest = np.square(residual[:, None] - codebook[None]).sum(-1).argmin(1)
            assert np.array_equal(nearest, codes[name][torch.from_numpy(store.present[name])][:, level])
            for code in np.unique(nearest):  # a centre is the mean of the rows that are nearest to it
                np.testing.assert_allclose(codebook[code], residual[nearest == code].mean(0), atol=1e-5)
            residual = residual - codebook[nearest]
        assert np.square(residual).mean() < 0.2 * np.square(rows).mean()


def test_items_without_a_modality_have_no_say_and_no_code(store):
    arrays = {name: rows.copy() for name, rows in store.arrays.items()}
    arrays["image"][:10] = np.nan
    other = EmbeddingStore(arrays, missing={"image": [str(row) for row in range(10)]})
    first, second = (residual_kmeans(each, 3, 8) for each in (store, other))
    assert torch.equal(first.codebooks["image"], second.codebooks["image"])
    table = build_semantic_ids(first, store)
    assert (table.codes["image"][:10] == -1).all() and (table.codes["text"] >= 0).all()
    assert table.report["image"]["collision_rate_after"] == 0 < table.report["image"]["collision_rate_before"]


def test_the_seed_decides(quantizer, store):
    again, other = residual_kmeans(store, 3, 8), residual_kmeans(store, 3, 8, seed=5)
    assert torch.equal(quantizer.codebooks["text"], again.codebooks["text"])
    assert not torch.equal(quantizer.codebooks["text"], other.codebooks["text"])


def test_a_catalogue_without_any_picture_and_one_smaller_than_the_codebook():
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype("f4")
    store = EmbeddingStore({"text": rows, "image": rows}, missing={"image": [str(row) for row in range(5)]})
    table = build_semantic_ids(residual_kmeans(store, 2, 8), store)
    assert len(table.codes["text"].unique(dim=0)) == 5 and (table.codes["image"] == -1).all()


def test_it_is_saved_and_gives_new_items_their_ids(quantizer, store, tmp_path):
    quantizer.save_pretrained(tmp_path)
    loaded = MacRecQuantizer.from_pretrained(tmp_path)
    assert loaded.codebooks_seeded and loaded.config.method == "residual-kmeans"
    table = build_semantic_ids(quantizer, store)
    assert build_semantic_ids(loaded, store) == table
    new = {name: rows[20:23] + 0.01 for name, rows in store.arrays.items()}
    grown = add_items(table, loaded, new, ["a", "b", "c"])
    assert torch.equal(grown.codes["text"][:96], table.codes["text"]) and grown.collision_rate("text") == 0
    natural = loaded.encode({name: torch.from_numpy(rows) for name, rows in new.items()})
    assert (grown.codes["text"][96:, 0] == natural["text"][:, 0]).all()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["hidden_sizes"] == [] and saved["alignment_weight"] == saved["codebook_dim"] == 0


def test_it_has_no_losses(quantizer, store):
    with pytest.raises(ValueError, match="k-means has made its codebooks"):
        quantizer({name: torch.from_numpy(rows) for name, rows in store.arrays.items()})


@pytest.mark.parametrize(
    "setting, value",
    [("hidden_sizes", (8,)), ("codebook_dim", 16), ("alignment_weight", 0.5), ("contrastive_weights", [0, 0, 0, 1])],
)
def test_settings_of_a_training_are_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting}: expected none with method='residual-kmeans'"):
        MacRecQuantizerConfig(method="residual-kmeans", modalities={"text": 4}, **{setting: value})


def test_another_method_is_refused():
    with pytest.raises(ValueError, match="method: expected 'macrec' or 'residual-kmeans', got 'kmeans'"):
        MacRecQuantizerConfig(method="kmeans")


def test_embeddings_that_are_not_finite_are_refused(store):
    arrays = {name: rows.copy() for name, rows in store.arrays.items()}
    arrays["image"][50, 1] = np.inf
    with pytest.raises(ValueError, match="below 1e\\+15, got NaN, infinity or larger ones in row 50"):
        residual_kmeans(EmbeddingStore(arrays, missing={"image": ["0"]}), 2, 4)
