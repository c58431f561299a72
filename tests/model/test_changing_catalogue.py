"""A recommender whose items come and go: it is one that was made anew from the other table."""

import threading

import numpy as np
import pytest
import torch
from hub_tools import NUM_ITEMS, drawn_histories, tiny_recommender

from macrec_hf import EmbeddingStore, MacRecRecommender, add_items, exact_scores, remove_items
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.blend import Blend, find_candidates

HISTORIES = [*drawn_histories(4, seed=5), []]
NEW = ["n1", "n2", "n3"]


def make():
    recommender = tiny_recommender(seed=2, item_counts=torch.arange(NUM_ITEMS))
    recommender.item_titles.update({"i3": "Mug", "i4": "Cap"})
    return recommender


def arrivals(names=NEW, seed=0):
    generator = np.random.default_rng(seed)
    sizes = {"text": 6, "image": 5}
    arrays = {name: generator.standard_normal((len(names), size)).astype("float32") for name, size in sizes.items()}
    return EmbeddingStore(arrays, names, missing={"image": names[:1]})


def anew(recommender, table, counts, titles):
    return MacRecRecommender(
        model=recommender.model, tokenizer=recommender.tokenizer, table=table, quantizer=recommender.quantizer,
        item_counts=counts, item_titles=titles,
    )  # fmt: skip


def answers(recommender, more=()):
    lists = [
        [found.as_dict() for found in ranked]
        for modality in ("ensemble", "text", "image")
        for ranked in recommender.recommend([*HISTORIES, *more], top_k=NUM_ITEMS + 3, modality=modality)
    ]
    source = torch.tensor([[5, 9, 20, 1]])
    scores = [exact_scores(recommender.model, source, torch.ones_like(source), t) for t in recommender.tries.values()]
    return lists, [score.tolist() for score in scores]


def check_same(found, expected, folder, more=()):
    assert found.table == expected.table and torch.equal(found.item_counts, expected.item_counts)
    wanted = answers(expected, more)
    assert answers(found, more) == wanted
    found.save_pretrained(folder)
    loaded = MacRecRecommender.from_pretrained(folder)
    assert answers(loaded, more) == wanted and loaded.table == expected.table


def test_it_is_one_made_anew_from_the_grown_table_and_again_from_what_is_left(tmp_path):
    recommender, store = make(), arrivals()
    old, before = recommender.table, answers(recommender)
    table = add_items(old, recommender.quantizer, store)
    expected = anew(recommender, table, torch.cat([torch.arange(NUM_ITEMS), torch.zeros(3, dtype=torch.long)]),
                    {"i3": "Mug", "i4": "Cap", "n2": "Lamp"})  # fmt: skip
    assert recommender.add_items(store, titles={"n2": "Lamp"}) is None
    assert recommender.table.report == table.report and recommender.table.report["text"]["num_items"] == 3
    check_same(recommender, expected, tmp_path / "grown", more=[["n1", "i3"], ["n2"]])
    assert "Lamp" in {found.title for found in recommender.recommend([["i1"]], top_k=NUM_ITEMS + 3)[0]}
    expected = anew(recommender, remove_items(table, ["i3", "n1", "i29"]), expected.item_counts[
        [row for row, item in enumerate(table.item_ids) if item not in ("i3", "n1", "i29")]
    ], {"i4": "Cap", "n2": "Lamp"})  # fmt: skip
    recommender.remove_items(["i3", "n1", "i29"])
    assert recommender.item_titles == {"i4": "Cap", "n2": "Lamp"}
    found = recommender.recommend([["i3", "i1"]], on_unknown="skip", top_k=50)[0]
    assert len(found) == NUM_ITEMS and not {"i3", "n1", "i29"} & set(dict(found))
    for history in ([["i3"]], [["n1"]]):
        with pytest.raises(ValueError, match="Unknown item"):
            recommender.recommend(history)
    twin = make()
    twin.add_items(dict(store[np.arange(3)]), NEW, None, {"image": np.array([False, True, True])})
    assert twin.table == table
    twin.remove_items(NEW)
    assert twin.table == old and answers(twin) == before


def test_a_new_item_is_a_candidate_of_the_blend_at_once():
    """Nobody has bought it: what the content says of it stands in its terms, and by that weight it is listed."""
    recommender = make()
    bought = [np.random.default_rng(user).integers(0, NUM_ITEMS, 6) for user in range(30)]
    counts = count_purchases(bought, NUM_ITEMS, window=4)
    recommender._set_blend(Blend({"alike_text": 1.0}, about={"window": 4}), counts)
    store = arrivals()
    recommender.add_items(store)
    inputs, row_of = recommender._items.inputs, recommender.table.row_of
    assert inputs.counts.popularity[[row_of[item] for item in NEW]].tolist() == [0, 0, 0]
    histories = [np.array([row_of[item] for item in items]) for items in (["i1", "n2"], ["i3"])]
    found = find_candidates(inputs, histories, {})
    vectors = inputs.content["text"]
    for user, history in enumerate(histories):
        mean = sum(vectors[row] / place for place, row in enumerate(history[::-1], 1))
        for item in NEW:
            (place,) = np.flatnonzero(found.items[user] == row_of[item])
            likeness = vectors[row_of[item]] @ mean / np.linalg.norm(mean)
            assert found.terms["alike_text"][user, place] == pytest.approx(likeness, abs=1e-6)
            assert found.terms["is_new"][user, place] == 1 and found.terms["near_count"][user, place] == 0
    (found, _) = recommender.recommend([["n2"], ["i3"]], top_k=3)
    assert "n2" in dict(found)  # like itself, although nobody has bought it


def test_a_model_that_was_loaded_writes_the_new_items_and_a_shared_one_is_left_alone(tmp_path):
    make().save_pretrained(tmp_path / "model")
    loaded = MacRecRecommender.from_pretrained(tmp_path / "model")
    shared = anew(loaded, loaded.table, None, {})
    shared.add_items(arrivals())
    assert loaded.model.semantic_ids is loaded.table and shared.item_counts is None
    loaded.add_items(arrivals())
    assert loaded.model.semantic_ids is loaded.table and loaded.table == shared.table
    loaded.remove_items(NEW)
    assert loaded.model.semantic_ids is loaded.table and loaded.table.num_items == NUM_ITEMS


def test_what_is_refused_changes_nothing(monkeypatch):
    recommender = make()
    before = recommender._items
    with pytest.raises(ValueError, match="Expected new items, got 1 that the table has already"):
        recommender.add_items(arrivals(["i3", "n1"]))
    with pytest.raises(ValueError, match="titles: expected those of the new items, such as .*got one of 'i3'"):
        recommender.add_items(arrivals(), titles={"n1": "Lamp", "i3": "Mug"})
    with pytest.raises(ValueError, match="embeddings with the quantizer's modalities and sizes"):
        recommender.add_items({"text": np.zeros((1, 7), "float32")}, ["n1"])
    with pytest.raises(ValueError, match="Expected items of the table, got 1 that it does not have"):
        recommender.remove_items(["i3", "n1"])
    with pytest.raises(ValueError, match="expected at least one item with an ID"):
        recommender.remove_items(recommender.table.item_ids)
    bare = MacRecRecommender(model=recommender.model, tokenizer=recommender.tokenizer, table=recommender.table)
    with pytest.raises(ValueError, match="quantizer: expected the one that gave the items their semantic IDs, got"):
        bare.add_items(arrivals())
    bare.remove_items(["i3"])  # takes none
    assert bare.table.num_items == NUM_ITEMS - 1 and recommender._items is before
    monkeypatch.setattr("macrec_hf.model.files.find_spec", lambda name: None)
    for change in (lambda: recommender.add_items(arrivals()), lambda: recommender.remove_items(["i3"])):
        with pytest.raises(RuntimeError, match="which adds and removes items, .*pip install macrec-hf"):
            change()


def test_another_thread_sees_the_catalogue_before_or_after():
    recommender, store = make(), arrivals()
    before = recommender.recommend(HISTORIES[:2], top_k=50)
    recommender.add_items(store)
    after = recommender.recommend(HISTORIES[:2], top_k=50)
    recommender.remove_items(NEW)
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(recommender.recommend(HISTORIES[:2], top_k=50))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(8):
        recommender.add_items(store)
        recommender.remove_items(NEW)
    done.set()
    reader.join()
    assert seen and all(lists in (before, after) for lists in seen)
