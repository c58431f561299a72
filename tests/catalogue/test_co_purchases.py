import json

import numpy as np
import pandas as pd
import pytest

from macrec_hf import (
    EmbeddingStore,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    SemanticIdTable,
    add_co_purchases,
    add_items,
    build_semantic_ids,
    embed_items,
    make_encoders,
    remove_items,
)
from macrec_hf.catalogue.co_purchases import co_purchase_embeddings, nobody_bought
from macrec_hf.data.learned_purchases import training_purchases

ITEMS = [f"i{item}" for item in range(12)]
ROW_OF = {item: row for row, item in enumerate(ITEMS)}


def purchases(last=(8, 9), days=False):
    """Twenty users buy within two groups of five items, then two items that test; a short user buys i11 and i0."""
    generator, rows = np.random.default_rng(0), []
    for user in range(20):
        bought = [*(5 * (user % 2) + generator.permutation(5)[:4]), *last]
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(bought)]
    rows += [("short", "i11", 0), ("short", "i0", 1)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    if days:
        dates = pd.to_datetime([f"2020-0{1 + time // 4}-{1 + time % 4:02}" for time in frame["timestamp"]])
        frame["timestamp"] = dates.as_unit("s").astype("int64")
    return frame


def catalogue():
    items = pd.DataFrame({"item_id": ITEMS, "title": [f"word{item % 3} item{item}" for item in range(12)]})
    return embed_items(items, make_encoders(image_model=None))


def test_embeddings_are_those_of_positive_pmi_factorised():
    """Against dense arithmetic: U sqrt(S) times its transpose of a symmetric matrix without negative eigenvalues."""
    sequences = [np.array([0, 1, 2]), np.array([1, 0]), np.array([3, 4, 3]), np.array([2, 0])]
    near = np.zeros((6, 6))
    for sequence in sequences:
        for i, one in enumerate(sequence):
            for j, other in enumerate(sequence):
                near[one, other] += 1 / abs(i - j) if one != other else 0
    total = near.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(near * total / np.outer(near.sum(1), near.sum(1)))
    information = np.where(near > 0, np.maximum(information, 0), 0)
    rows, present = co_purchase_embeddings(sequences, 6, size=5)
    assert present.tolist() == [True] * 5 + [False] and not rows[5].any()
    left, values, _ = np.linalg.svd(information)
    expected = left[:5, :5] * np.sqrt(values[:5])
    expected -= expected.mean(0)
    expected /= np.sqrt(np.square(expected).mean())
    assert np.allclose(rows[:5] @ rows[:5].T, expected @ expected.T, atol=1e-3)  # equal up to the signs of the columns


def test_items_of_one_group_lie_together():
    sequences, _ = training_purchases(purchases(), ROW_OF)
    rows, present = co_purchase_embeddings(sequences, 12, size=4)
    assert present.tolist() == [True] * 10 + [False] + [True]  # 8 and 9 belong to the second group, too
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
    likeness = unit @ unit.T
    inside = [likeness[i, j] for group in (range(5), range(5, 10)) for i in group for j in group if i < j]
    between = [likeness[i, j] for i in range(5) for j in range(5, 10)]
    assert min(inside) > max(between)


@pytest.mark.parametrize("until", [None, "2020-02-02"])
def test_purchases_that_test_change_nothing(until):
    """The last two of each user, or all from the day on: exchanged for others they leave all as it is."""
    interactions = purchases(days=until is not None)
    exchanged = interactions.copy()
    times = sorted(set(interactions["timestamp"]))
    exchanged.loc[exchanged["timestamp"] >= times[4], "item_id"] = "i10"  # where there are days: those that validate
    first, second = (add_co_purchases(catalogue(), frame, until) for frame in (interactions, exchanged))
    assert (first.arrays["purchases"] == second.arrays["purchases"]).all()
    assert first.learned_from == second.learned_from and first.fingerprint() == second.fingerprint()
    others = interactions.copy()
    others.loc[others["timestamp"] == times[0], "item_id"] = "i10"
    third = add_co_purchases(catalogue(), others, until)
    assert (first.arrays["purchases"] != third.arrays["purchases"]).any()
    assert first.learned_from["purchases"]["fingerprint"] != third.learned_from["purchases"]["fingerprint"]


def small_quantizer(store):
    config = MacRecQuantizerConfig(
        modalities=store.modalities, num_levels=2, codebook_size=8, codebook_dim=4, hidden_sizes=(8,)
    )
    return MacRecQuantizer(config).eval()


def test_what_was_learned_goes_along_to_every_table(tmp_path):
    embedded = add_co_purchases(catalogue(), purchases())
    embedded.save(tmp_path / "emb")
    about = json.loads((tmp_path / "emb" / "meta.json").read_text())["modalities"]["purchases"]
    assert about["encoder"] == "co-purchases" and about["missing"] == ["i10"]
    assert about["settings"]["learned_from"] == embedded.learned_from["purchases"]
    assert embedded.learned_from["purchases"].items() >= {"split": "leave-one-out", "until": None}.items()
    store = EmbeddingStore.open(tmp_path / "emb")
    assert store.learned_from == store.take([0, 1]).learned_from == embedded.learned_from
    assert store.select(["text"]).learned_from == {}
    quantizer = small_quantizer(store)
    sold, later = store.take(range(9)), store.take(range(9, 12))
    table = build_semantic_ids(quantizer, sold)
    table.save_pretrained(tmp_path / "ids")
    for one in (SemanticIdTable.from_pretrained(tmp_path / "ids"), add_items(table, quantizer, later)):
        assert one.report["purchases"]["learned_from"] == store.learned_from["purchases"]
        assert remove_items(one, ["i3"]).report == {"purchases": {"learned_from": store.learned_from["purchases"]}}


def test_refusals():
    with pytest.raises(ValueError, match="users who bought two different items, got none among 2 training sequences"):
        co_purchase_embeddings([np.array([0, 0]), np.array([1])], 3)
    with pytest.raises(ValueError, match="size: expected at least 1 number an item, got 0"):
        co_purchase_embeddings([np.array([0, 1])], 3, size=0)
    with pytest.raises(ValueError, match="Expected embeddings without 'purchases'"):
        add_co_purchases(add_co_purchases(catalogue(), purchases()), purchases())
    with pytest.raises(ValueError, match="i11"):
        items = pd.DataFrame({"item_id": ITEMS[:11], "title": ITEMS[:11]})
        add_co_purchases(embed_items(items, make_encoders(image_model=None)), purchases())


def test_a_folder_that_was_edited_is_refused(tmp_path):
    embedded = add_co_purchases(catalogue(), purchases())
    embedded.save(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["modalities"]["purchases"]["dimension"] = "64"
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="expected of purchases its dimension.*Was the file edited"):
        nobody_bought(catalogue(), tmp_path)
