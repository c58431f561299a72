"""`pipeline("semantic-id-recommendation")`: the recommender's own lists, in transformers' form."""

import pytest
import torch
from hub_tools import NUM_ITEMS, drawn_histories, tiny_recommender
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from macrec_hf import MacRecRecommender, SemanticIdRecommendationPipeline

TASK = "semantic-id-recommendation"
HISTORIES = drawn_histories(7, seed=5)


@pytest.fixture(scope="module")
def recommender():
    made = tiny_recommender(seed=2, item_counts=torch.arange(NUM_ITEMS))
    made.item_titles.update({f"i{row}": f"Thing {row}" for row in range(0, NUM_ITEMS, 2)})
    return made


@pytest.fixture(scope="module")
def directory(tmp_path_factory, recommender):
    return recommender.save_pretrained(tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture(scope="module")
def pipe(directory):
    return pipeline(TASK, model=str(directory), device="cpu")


def as_dicts(found):
    return [
        [
            {
                "item_id": each.item_id,
                "score": pytest.approx(each.score, abs=1e-5),
                "probability": None if each.probability is None else pytest.approx(each.probability, abs=1e-5),
                "title": each.title,
                "reasons": list(each.reasons),
            }
            for each in user
        ]
        for user in found
    ]


def test_it_is_a_task_like_any_other(pipe):
    assert TASK in PIPELINE_REGISTRY.get_supported_tasks()
    assert type(pipe) is SemanticIdRecommendationPipeline and pipe.task == TASK


def test_one_history_gives_one_list_and_several_give_several(pipe, recommender):
    wanted = as_dicts(recommender.recommend(HISTORIES))
    assert pipe(HISTORIES) == wanted
    assert pipe(HISTORIES[0]) == wanted[0]
    assert pipe(tuple(HISTORIES[0])) == wanted[0]
    assert pipe([]) == []
    assert pipe({"history": HISTORIES[1]}) == wanted[1]


@pytest.mark.parametrize("batch_size", [2, 3, 7, 64])
def test_batches_change_nothing(pipe, recommender, batch_size):
    assert pipe(HISTORIES, batch_size=batch_size, top_k=4) == as_dicts(recommender.recommend(HISTORIES, top_k=4))


def test_a_batch_is_decoded_together(directory, monkeypatch):
    sizes = []
    pipe = pipeline(TASK, model=str(directory), device="cpu", batch_size=3)
    recommend = pipe.recommender.recommend
    monkeypatch.setattr(
        pipe.recommender, "recommend", lambda histories, **kwargs: sizes.append(len(histories)) or recommend(histories)
    )
    pipe(HISTORIES)
    assert sizes == [3, 3, 1]


def test_data_sets_and_generators_stream(pipe, recommender):
    from datasets import Dataset

    wanted = as_dicts(recommender.recommend(HISTORIES))
    rows = Dataset.from_dict({"history": HISTORIES, "user_id": [f"u{row}" for row in range(7)]})
    for given in (KeyDataset(rows, "history"), (history for history in HISTORIES)):
        found = pipe(given, batch_size=4)
        assert not isinstance(found, list)
        assert list(found) == wanted


def test_options_are_those_of_recommend(pipe, directory, recommender):
    options = {
        "top_k": 3, "num_beams": 5, "modality": "image", "exclude_history": True,
        "allowed_items": [f"i{item}" for item in range(20)], "excluded_items": ["i3"],
    }  # fmt: skip
    wanted = as_dicts(recommender.recommend(HISTORIES, **options))
    assert pipe(HISTORIES, **options) == wanted
    assert pipeline(TASK, model=str(directory), device="cpu", **options)(HISTORIES, batch_size=7) == wanted
    assert pipe(["i1", "nobody"], on_unknown="skip") == pipe(["i1"])
    authors = as_dicts(recommender.recommend(HISTORIES[:2], fusion="authors"))
    assert pipe(HISTORIES[:2], fusion="authors", batch_size=2) == authors


def test_nobody_without_a_past_is_left_out_of_a_batch(pipe, recommender):
    histories = [["i1"], [], ["i2", "i3"], []]
    assert pipe(histories, batch_size=2) == as_dicts(recommender.recommend(histories))
    assert pipe([[]]) == as_dicts(recommender.recommend([[]]))


def test_it_takes_a_recommender_and_saves_all_of_it(tmp_path, recommender):
    pipe = pipeline(TASK, model=recommender.model, recommender=recommender, device="cpu")
    pipe.save_pretrained(tmp_path / "model")
    again = MacRecRecommender.from_pretrained(tmp_path / "model")
    # A model that was loaded knows where the rest is.
    found = pipeline(TASK, model=again.model, device="cpu")(HISTORIES)
    assert found == as_dicts(recommender.recommend(HISTORIES))
    assert again.recommend(HISTORIES) == recommender.recommend(HISTORIES) and again.quantizer is not None


def test_refusals(pipe, recommender):
    with pytest.raises(ValueError, match="got the text 'i1'. Put item ids into a list"):
        pipe("i1")
    with pytest.raises(ValueError, match="Unknown item 'nobody' in history 0"):
        pipe(["nobody"])
    with pytest.raises(ValueError, match="Expected a history of item ids"):
        pipe([["i1"], 7])
    with pytest.raises(ValueError, match="Expected options among top_k, .*, got temperature"):
        pipe(["i1"], temperature=2.0)
    with pytest.raises(ValueError, match="allowed_items: expected item ids that hold for every history"):
        pipe(["i1"], allowed_items=[["i1"]])
    with pytest.raises(ValueError, match="knows no such place. Pass recommender="):
        SemanticIdRecommendationPipeline(tiny_recommender().model, recommender.tokenizer)
