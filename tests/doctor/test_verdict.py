"""The first sentences of a check-up."""

import pytest

from macrec_hf.doctor.blend_figures import blend_figures
from macrec_hf.doctor.verdict import blend_verdict, is_healthy, mend_first, verdict
from macrec_hf.model.blend import Blend

REPORT = {"num_items": 1200}
SHARED, ALIKE = "Items that share an ID", "One modality drowned: codes say nothing"
NDCG = {"popularity": 0.1, "co_occurrence": 0.3, "model": 0.2, "blend": 0.4}
ABOUT = {
    "num_users": 1500, "num_purchases": 1600, "target_among_candidates": 0.9, "best_source": "co_occurrence",
    "ndcg@10": NDCG, "weights": {"model_text": [0.5, 0.1], "before_log": [-0.2, 0.1], "own_recency": [0.1, 0.1]},
}  # fmt: skip


def finding(title, status="ok", is_grave=False, told="", advice=""):
    return {"title": title, "status": status, "is_grave": is_grave, "told": told, "advice": advice}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([finding(SHARED), finding(ALIKE)], "each of the 1,200 items has IDs of its own, and items whose IDs begin"),
        ([finding(SHARED), finding(ALIKE, "unknown")], "each of the 1,200 items has IDs of its own; nothing has"),
        ([finding(SHARED, "unknown")], "the codes suit the 1,200 items; nothing has to be done."),
    ],
)
def test_health_is_told_as_far_as_it_is_known(found, said):
    assert is_healthy(found) and verdict(REPORT, found).startswith("Healthy: ") and said in verdict(REPORT, found)


def test_the_gravest_problem_is_told_with_the_number_of_the_others():
    light, grave = (
        finding("a", "warning", told="one thing, so that x"),
        finding("b", "warning", True, "two, so that y"),
    )
    assert verdict(REPORT, [light]) == "Usable, but not as good as it could be: one thing, so that x."
    assert verdict(REPORT, [grave, light]) == (
        "Worth mending before training: two, so that y (and one more thing to look at)."
    )
    assert "(and 2 more things to look at)" in verdict(REPORT, [light, light, grave])


def test_only_what_is_grave_is_mended_before_a_training():
    light, grave = finding("a", "warning", advice="Look."), finding("b", "warning", True, advice="Train.")
    assert mend_first([grave, light]) == "Train." and mend_first([light, finding("c", is_grave=True)]) == ""


def test_figures_of_a_blend_are_ordered_and_weights_stand_under_their_kind():
    figures = blend_figures(Blend({"model_text": 1.0}, "blend", ABOUT))
    assert list(figures["ndcg@10"]) == ["blend", "co_occurrence", "model", "popularity"]
    assert figures["weights"] == {
        "what the model says": {"model_text": [0.5, 0.1]},
        "bought near what the customer has": {"before_log": [-0.2, 0.1]},
        "the customer has it already": {"own_recency": [0.1, 0.1]},
    }
    assert blend_figures(Blend({"model_text": 1.0}, "blend", {"window": 5})) is None


def test_what_serves_is_told_beside_the_best_single_source():
    figures = blend_figures(Blend({"model_text": 1.0}, "blend", ABOUT))
    assert blend_verdict(figures) == (
        "Recommendations are made by the blend of model and purchases, which scores 0.400; the best of these sources "
        "alone, items bought nearest to each other (co-occurrence), scores 0.300 (NDCG@10 on 1,500 validation "
        "customers)."
    )
    worse = blend_verdict(figures | {"serves": "co_occurrence"})
    assert "by items bought nearest to each other (co-occurrence) alone, because no blend" in worse
    assert "customers: 0.300)" in worse
    few = ABOUT | {"best_source": "popularity", "ndcg@10": {"popularity": 0.1}, "weights": {}}
    said = blend_verdict(blend_figures(Blend({}, "popularity", few)))
    assert "by best sellers alone, because there are too few customers to weigh sources" in said
