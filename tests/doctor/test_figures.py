"""Every figure against a count by hand or over all pairs of items."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from macrec_hf import EmbeddingStore, SemanticIdTable, codebook_report
from macrec_hf.doctor.figures import agreement, gini, level_figures, likeness, prefix_groups, usage_bars

CODES = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]])


def random_table(num_items=60, size=4, levels=3, missing=(5,)):
    random = np.random.default_rng(0)
    text = random.integers(size, size=(num_items, levels))
    image = np.where(random.random((num_items, 1)) < 0.5, text, random.integers(size, size=(num_items, levels)))
    image[list(missing)] = -1
    return SemanticIdTable([f"i{row}" for row in range(num_items)], {"text": text, "image": image}, size)


def test_level_figures_by_hand():
    first, second = level_figures(CODES, codebook_size=4)
    # Level 1 has 4 items on code 0 and 2 on code 1; level 2 has 1, 3, 1 and 1.
    assert (first["used"], first["dead"], second["used"], second["dead"]) == (2, 2, 4, 0)
    assert first["perplexity"] == pytest.approx(math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))))
    assert first["largest_share"] == pytest.approx(4 / 6) and second["largest_share"] == pytest.approx(3 / 6)
    # Mean absolute difference of all ordered pairs of (0, 0, 2, 4), over twice the mean 1.5 and 16 pairs.
    assert first["gini"] == pytest.approx(2 * (0 + 2 + 4 + 2 + 4 + 2) / (2 * 1.5 * 16))
    assert first["bars"] == [4, 2, 0, 0] and second["bars"] == [3, 1, 1, 1]


def test_gini_at_its_ends():
    assert gini(np.array([3, 3, 3])) == 0 and gini(np.zeros(4)) == 0
    assert gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)


def test_bars_hold_sixteen_codes_each_as_in_the_paper():
    counts = np.random.default_rng(0).permutation(256)
    bars = usage_bars(counts)
    assert len(bars) == 16 and sum(bars) == counts.sum() and bars[0] == sum(range(240, 256))
    assert usage_bars(np.arange(20)) == [37, 33, 29, 25, 21, 17, 13, 9, 5, 1]  # two to a bar
    assert usage_bars(np.array([1, 5])) == [5, 1]


def test_groups_are_those_of_equal_prefixes():
    table = random_table()
    codes = table.codes["text"]
    for depth in (1, 2, 3):
        groups = prefix_groups(codes, depth, table.codebook_size)
        prefixes = [tuple(row[:depth]) for row in codes.tolist()]
        assert all(
            (groups[a] == groups[b]) == (prefixes[a] == prefixes[b]) for a, b in combinations(range(len(codes)), 2)
        )
        assert set(groups) == set(range(len(set(prefixes))))


@pytest.mark.parametrize("depth", [1, 2])
def test_agreement_counts_every_pair_of_items(depth):
    table = random_table()
    found = agreement(table, "text", "image")
    assert found["modalities"] == ["text", "image"] and found["num_items"] == 59
    rows = [row for row in range(60) if row != 5]
    prefixes = {name: [tuple(table.codes[name][row, :depth].tolist()) for row in rows] for name in table.modalities}
    pairs = list(combinations(range(59), 2))
    alike = {name: {(a, b) for a, b in pairs if of[a] == of[b]} for name, of in prefixes.items()}
    figures = found["depths"][depth - 1]
    expected = len(alike["text"]) * len(alike["image"]) / len(pairs) ** 2
    assert figures["both"] == pytest.approx(len(alike["text"] & alike["image"]) / len(pairs))
    assert figures["expected"] == pytest.approx(expected)
    assert figures["lift"] == pytest.approx(figures["both"] / expected) and figures["lift"] > 1.4
    labels = [[str(prefix) for prefix in prefixes[name]] for name in table.modalities]
    assert figures["mutual_information"] == pytest.approx(adjusted_mutual_info_score(*labels))


def test_agreement_is_one_for_equal_codes_and_nothing_for_unrelated_ones():
    random = np.random.default_rng(1)
    codes = random.integers(8, size=(3000, 2))
    same = SemanticIdTable(range(3000), {"text": codes, "image": codes[:, :]}, 8)
    other = SemanticIdTable(range(3000), {"text": codes, "image": random.integers(8, size=(3000, 2))}, 8)
    assert agreement(same, "text", "image")["depths"][0]["mutual_information"] == pytest.approx(1)
    first = agreement(other, "text", "image")["depths"][0]
    assert first["mutual_information"] == pytest.approx(0, abs=0.01) and first["lift"] == pytest.approx(1, abs=0.05)


def test_many_groups_have_no_mutual_information_rather_than_a_slow_one():
    codes = np.stack([np.arange(2100) // 50, np.arange(2100) % 50], axis=1)
    depths = agreement(SemanticIdTable(range(2100), {"text": codes, "image": codes}, 50), "text", "image")["depths"]
    assert depths[0]["mutual_information"] == pytest.approx(1) and depths[1]["mutual_information"] is None
    assert depths[1]["expected"] == 0 and depths[1]["lift"] is None


def test_likeness_is_the_mean_cosine_over_every_pair():
    table = random_table()
    codes, vectors = table.codes["text"], np.random.default_rng(2).standard_normal((60, 5)).astype("f4") + 0.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(combinations(range(60), 2))
    everything = np.mean([units[a] @ units[b] for a, b in pairs])
    found = likeness(codes, vectors, table.codebook_size)
    for depth in (1, 2):
        same = [units[a] @ units[b] for a, b in pairs if torch.equal(codes[a, :depth], codes[b, :depth])]
        figures = found[depth - 1]
        assert figures["pairs"] == len(same) and figures["same"] == pytest.approx(np.mean(same), abs=1e-6)
        assert figures["random"] == pytest.approx(everything, abs=1e-6)
        assert figures["gain"] == pytest.approx((np.mean(same) - everything) / (1 - everything), abs=1e-5)


def test_likeness_without_pairs_or_without_a_difference_is_not_known():
    alone = likeness(torch.tensor([[0], [1]]), np.eye(2, dtype="f4"), 2)[0]
    assert alone == {"depth": 1, "pairs": 0, "same": None, "random": 0.0, "gain": None}
    assert likeness(torch.tensor([[0], [0]]), np.ones((2, 3), dtype="f4"), 2)[0]["gain"] is None
    assert likeness(torch.empty(0, 1, dtype=torch.long), np.empty((0, 3), dtype="f4"), 2)[0]["pairs"] == 0


def test_whole_report_matches_items_by_id_and_is_json():
    table = random_table()
    vectors = np.random.default_rng(3).standard_normal((60, 5)).astype("f4")
    order = np.random.default_rng(4).permutation(60)
    store = EmbeddingStore({"image": vectors[order]}, [f"i{row}" for row in order], missing={"image": ["i7"]})
    report = codebook_report(table, store)
    assert json.loads(json.dumps(report)) == report
    keep = [row for row in range(60) if row != 7]
    assert report["similarity"]["text"]["image"] == [
        pytest.approx(figures) for figures in likeness(table.codes["text"][keep], vectors[keep], 4)
    ]
    keep = [row for row in keep if row != 5]
    assert report["similarity"]["image"]["image"][0]["same"] == pytest.approx(
        likeness(table.codes["image"][keep], vectors[keep], 4)[0]["same"]
    )
    assert set(report["similarity"]["text"]) == {"image"}
    assert report["modalities"]["image"]["num_items"] == 59


def test_collisions_come_from_the_table_its_report_or_the_caller():
    table = SemanticIdTable(["a", "b", "c"], {"text": [[0], [0], [1]]}, 4)
    rate = pytest.approx(1 / 3)
    assert codebook_report(table)["modalities"]["text"]["collisions"] == {"before": None, "after": rate, "moved": None}
    raw = codebook_report(table, resolved=False)["modalities"]["text"]["collisions"]
    assert raw == {"before": rate, "after": None, "moved": None}
    table.report = {"text": {"collision_rate_before": 0.5, "num_moved": 2}}
    recorded = codebook_report(table)["modalities"]["text"]["collisions"]
    assert recorded == {"before": 0.5, "after": rate, "moved": 2}


def test_a_modality_without_any_item_is_reported_as_empty():
    report = codebook_report(SemanticIdTable(["a", "b"], {"text": [[0], [1]], "image": [[-1], [-1]]}, 4))
    level = report["modalities"]["image"]["levels"][0]
    assert (level["used"], level["dead"], level["perplexity"], level["gini"], level["largest_share"]) == (
        0,
        4,
        0,
        0,
        0,
    )
    assert report["agreement"][0]["num_items"] == 0 and report["agreement"][0]["depths"][0]["lift"] is None


def test_embeddings_of_another_catalogue_are_refused():
    table = random_table()
    with pytest.raises(ValueError, match=r"expected the items of the semantic IDs, such as \['i0', .*got others"):
        codebook_report(table, EmbeddingStore({"text": np.ones((2, 3), dtype="f4")}, ["x", "y"]))
    with pytest.raises(ValueError, match=r"expected some of the modalities \['text', 'image'\], got \['audio'\]"):
        codebook_report(table, EmbeddingStore({"audio": np.ones((1, 3), dtype="f4")}, ["i0"]))
