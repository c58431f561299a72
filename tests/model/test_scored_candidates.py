"""Blends that go by what the model says of each candidate, whether or not its beams found it."""

import numpy as np
import pandas as pd
import pytest
import torch
from hub_tools import NUM_ITEMS, drawn_histories, tiny_recommender

from macrec_hf import evaluate, exact_scores
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.blend import Blend
from macrec_hf.model.ranked_lists import Candidates

WEIGHTS = {"scored_text": 0.7, "scored_image": 0.4}
ABOUT = {"window": 5, "hides_history": False}


def weighed_scores(recommender, history):
    """Of the whole catalogue, which is so small that all of it is candidates."""
    known = [recommender.table.row_of[item] for item in history]
    total = torch.zeros(NUM_ITEMS)
    for name in ("text", "image"):
        source = recommender.task_encoder.source(known, f"{name}_to_{name}")
        scores = exact_scores(recommender.model, torch.tensor([source]), None, recommender.tries[name])[0]
        total += WEIGHTS[f"scored_{name}"] * scores
    return total.log_softmax(0).numpy()


@pytest.fixture
def recommender():
    found = tiny_recommender()
    counts = count_purchases([np.arange(NUM_ITEMS), np.arange(5)], NUM_ITEMS, window=5)
    found._set_blend(Blend(WEIGHTS, "blend", ABOUT), counts)
    return found


def test_lists_are_the_weighed_scores_of_all_candidates(recommender):
    histories = drawn_histories(20)
    found = recommender.recommend(histories, num_beams=2, top_k=NUM_ITEMS)  # beams would find few
    for history, ranked in zip(histories, found, strict=True):
        wanted = weighed_scores(recommender, history)
        assert len(ranked) == NUM_ITEMS
        scores = {recommender.table.row_of[item]: score for item, score in ranked}
        assert np.allclose([scores[row] for row in range(NUM_ITEMS)], wanted, atol=1e-4)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_an_evaluation_ranks_by_them_too(recommender):
    histories = [[f"i{item}" for item in row] for row in np.random.default_rng(0).integers(0, NUM_ITEMS, (40, 5))]
    bought = [(f"u{user}", item, at) for user, items in enumerate(histories) for at, item in enumerate(items)]
    report = evaluate(recommender, pd.DataFrame(bought, columns=["user_id", "item_id", "timestamp"]), num_beams=2)
    places = []
    for *history, target in histories:
        order = np.argsort(-weighed_scores(recommender, history), kind="stable")
        places.append(list(order).index(recommender.table.row_of[target]) + 1)
    gains = [1 / np.log2(place + 1) if place <= 10 else 0 for place in places]
    assert report["blend"]["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-9) and 0 < np.mean(gains) < 1
    assert report["blend"]["ndcg@10"] != report["ensemble"]["ndcg@10"]


def test_blends_of_earlier_releases_go_by_what_the_beams_found():
    asked = []

    def score(items):
        asked.append(items)
        return {"text": np.zeros(items.shape)}

    candidates = Candidates(np.array([[0, 1]]), {"near_log": np.zeros((1, 2))})
    for weights, serves in (
        ({"near_log": 1.0, "scored_text": 0.0}, "blend"),
        ({"model_text": 1.0, "missed_text": -1.0}, "blend"),
        ({"scored_text": 1.0}, "co_occurrence"),
    ):
        assert Blend(weights, serves, ABOUT).scored(candidates, score) is candidates and not asked
    found = Blend({"near_log": 1.0, "scored_text": 0.1}, "blend", ABOUT).scored(candidates, score)
    assert list(found.terms) == ["near_log", "scored_text"] and len(asked) == 1


def test_which_of_equal_candidates_are_scored_depends_on_no_other_user(monkeypatch):
    monkeypatch.setattr("macrec_hf.model.blend.MOST_SCORED", 3)
    alone = np.arange(12)[None]
    beside = np.stack([np.pad(alone[0], (0, 40), constant_values=-1), np.arange(52)])
    asked = []
    for items in (alone, beside):
        candidates = Candidates(items, {"near_log": np.zeros(items.shape)})
        blend = Blend({"near_log": 1.0, "scored_text": 1.0}, "blend", ABOUT)
        blend.scored(candidates, lambda items: asked.append(items) or {"text": np.zeros(items.shape)})
    assert asked[0].tolist() == [[0, 1, 2]] and asked[1].tolist() == [[0, 1, 2]] * 2


def test_of_very_many_candidates_the_best_by_the_other_terms_are_scored(recommender, monkeypatch):
    """The others have the lowest score of these."""
    counts = recommender._items.inputs.counts
    recommender._set_blend(Blend(WEIGHTS | {"sold_log1p": 3.0}, "blend", ABOUT), counts)
    histories = drawn_histories(20)
    everything = recommender.recommend(histories, top_k=NUM_ITEMS)
    monkeypatch.setattr("macrec_hf.model.blend.MOST_SCORED", 5)
    found = recommender.recommend(histories, top_k=NUM_ITEMS)
    bought_twice = {f"i{row}" for row in range(5)}
    for some, all_of_them in zip(found, everything, strict=True):
        assert [one for one in some if one[0] in bought_twice] != [] and len(some) == NUM_ITEMS
        order = [[item for item, _ in ranked if item in bought_twice] for ranked in (some, all_of_them)]
        assert order[0] == order[1]
        rest = {round(score, 9) for item, score in some if item not in bought_twice}
        assert len(rest) == 1 and rest.pop() <= min(score for item, score in some if item in bought_twice)
    assert any(
        [item for item, _ in some] != [item for item, _ in one] for some, one in zip(found, everything, strict=True)
    )


def test_who_has_no_id_in_a_modality_goes_by_the_others():
    nothing = -np.inf
    scores = {
        "text": np.array([[-1.0, nothing, nothing, -4.0], [nothing] * 4, [nothing] * 4]),
        "image": np.array([[-3.0, -5.0, nothing, nothing], [-2.0, -1.0, -6.0, nothing], [nothing] * 4]),
    }
    items = np.array([[0, 1, 2, 3], [0, 1, 2, -1], [0, 1, -1, -1]])
    found = Candidates(items, {"near_log": np.zeros((3, 4))}).with_scores(scores)
    assert list(found.terms) == ["near_log", "scored_text", "scored_image"]
    # The lowest of the first user is item 1 with -5, by images alone; item 0 has -2 in the mean of both.
    assert found.terms["scored_text"].tolist() == [[-1, -5, -5, -4], [-2, -1, -6, -6], [0] * 4]
    assert found.terms["scored_image"].tolist() == [[-3, -5, -5, -4], [-2, -1, -6, -6], [0] * 4]
    assert list(found.without("scored_text", "near").terms) == ["scored_image"]
