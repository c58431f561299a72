"""The lines of an evaluation above its verdict."""

import pytest

from macrec_hf.cli.tables import answer

FIGURES = {"hr@10": 0.2, "ndcg@10": 0.1}


def report(split, model_rows):
    rows = [*model_rows, "popularity"]
    column = {name: FIGURES for name in rows} | {"coverage": dict.fromkeys(rows, 0.5)}
    column["intervals"] = {name: {metric: [0.0, 0.2] for metric in FIGURES} for name in rows}
    verdict = {"row": model_rows[0], "best": "popularity"}
    facts = {"split": split, "num_users": 9, "quoted": "shown", "repeat_rate": 0.5, "settings": {"limit_users": None}}
    return column | facts | {"hidden": column, "model_rows": model_rows, "verdict": verdict}


@pytest.mark.parametrize(
    ("split", "model_rows", "is_said"),
    [("validation", ["blend", "ensemble"], True), ("test", ["blend", "ensemble"], False),
     ("validation", ["ensemble"], False)],
)  # fmt: skip
def test_a_blend_on_the_purchases_that_it_was_fitted_on_is_said_to_flatter(split, model_rows, is_said):
    lines = answer(report(split, model_rows))
    said = "the blend was fitted on validation purchases: its row here flatters it, --split test does not"
    assert lines.count(said) == is_said
