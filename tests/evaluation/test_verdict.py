"""What the last line of an evaluation says."""

import pytest

from macrec_hf.evaluation.leakage import Leakage
from macrec_hf.evaluation.verdict import verdict

MODEL = ["text", "image", "ensemble"]


def report(differences, **figures):
    """A column of an evaluation in which the lists have these NDCG@10."""
    told = {
        name: {
            metric: {"difference": times * (figures["ensemble"] - figures[name]), "low": times * low,
                     "high": times * high, "p_value": 0.1}
            for metric, times in (("ndcg@10", 1), ("hr@10", 2))
        }
        for name, (low, high) in differences.items()
    }  # fmt: skip
    rows = {name: {"ndcg@10": value, "hr@10": 2 * value} for name, value in figures.items()}
    return rows | {"coverage": dict.fromkeys(figures, 0.25) | {"ensemble": 0.75}, "differences": told}


def judged(low, high, **changes):
    figures = dict(text=0.05, image=0.04, ensemble=0.06, popularity=0.03, co_visitation=0.055) | changes
    others = {name: (low, high) for name in figures if name not in MODEL}
    return verdict(report(others, **figures), "ensemble", MODEL)


def test_a_model_that_wins():
    found = judged(0.002, 0.008)
    assert (found["row"], found["best"], found["outcome"], found["advice"]) == (
        "ensemble", "co_visitation", "better", [],
    )  # fmt: skip
    assert found["difference"] == pytest.approx(0.005) and found["coverage"] == {
        "ensemble": 0.75,
        "co_visitation": 0.25,
    }
    assert found["text"] == (
        "Verdict: ensemble is better than co_visitation, the best baseline, by NDCG@10: 0.0600 against 0.0550, "
        "difference +0.0050 [+0.0020, +0.0080]; HR@10 0.1200 against 0.1100, +0.0100 [+0.0040, +0.0160]; "
        "coverage 0.750 against 0.250."
    )


def test_a_source_that_serves_alone_and_a_better_hidden_list_are_named():
    column = report({"popularity": (0.01, 0.05)}, text=0.05, image=0.04, ensemble=0.06, popularity=0.03)
    plain = verdict(column, "ensemble", MODEL)["text"]
    assert verdict(column, "ensemble", MODEL, hidden=0.06)["text"] == plain
    told = verdict(column, "ensemble", MODEL, serves="co_occurrence alone here", hidden=0.0712)["text"]
    assert told.startswith("Verdict: ensemble, which is co_occurrence alone here, is better than popularity")
    assert told.endswith("With own history hidden it finds more, 0.0712: `recommend --exclude-history`.")


def test_what_the_model_has_learned_of_the_test_is_the_last_word():
    column = report({"popularity": (0.01, 0.05)}, text=0.05, image=0.04, ensemble=0.06, popularity=0.03)
    found = verdict(column, "ensemble", MODEL, Leakage(2000, 1300, 1300, 1234, 9.0, 0.0), "Not to be trusted.")
    harmless = verdict(column, "ensemble", MODEL, Leakage(2000, 1233, 0, 0, 0.0, 0.0))  # customers were left out
    assert found["text"] == f"{harmless['text']} Not to be trusted."
    unknown = verdict(column, "ensemble", MODEL, Leakage(2000, 3, 3, 0, 2.0, 0.0), "Cannot be told.")
    silent = verdict(column, "ensemble", MODEL)  # no fingerprints
    assert silent == harmless | {"trusted": None}
    assert (harmless["trusted"], found["trusted"], unknown["trusted"]) == (True, False, None)
    assert (harmless["doubt"], unknown["doubt"]) == ("", "Cannot be told.")


def test_a_row_of_the_model_that_finds_more_than_the_winner_is_named():
    assert judged(0.002, 0.008, text=0.065, image=0.07)["text"].endswith(" image alone finds more here: 0.0700.")


def test_beside_a_blend_stands_what_the_model_finds_without_it():
    figures = dict(blend=0.07, text=0.05, image=0.04, ensemble=0.06, popularity=0.03)
    column = report({"popularity": (0.01, 0.05)}, **figures)
    text = verdict(column, "blend", ["blend", *MODEL])["text"]
    assert "0.0700 against 0.0300" in text and text.endswith(" The model without the purchases: 0.0600.")


@pytest.mark.parametrize(
    ("low", "high", "end"),
    [
        (0.01, 0.05, "0.250. The model without the purchases finds more here: 0.0800."),
        (-0.01, 0.05, "0.250. To try: the model without the purchases finds more (0.0800): --fusion average."),
    ],
)
def test_a_model_that_finds_more_than_its_blend_is_named_once(low, high, end):
    figures = dict(blend=0.07, text=0.05, image=0.04, ensemble=0.08, popularity=0.03)
    text = verdict(report({"popularity": (low, high)}, **figures), "blend", ["blend", *MODEL])["text"]
    assert text.endswith(end) and text.count("0.0800") == 1


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"co_visitation": 0.09}, "train longer or wider"),
        (
            {"ensemble": 0.02, "text": 0.01, "image": 0.01},
            "does not beat the bestsellers, so it has hardly learned, or learned by heart",
        ),
        ({"text": 0.08, "co_visitation": 0.09}, r"text alone finds more \(0.0800\): recommend with --modality text"),
        ({"recent_then_popularity": 0.2}, "customers buy again what they had"),
        ({"markov_chain": 0.2}, "--num-item-positions 20"),
        ({"sasrec": 0.2}, "worse than sasrec"),
    ],
)
def test_a_model_that_loses_is_told_what_to_try(changes, advice):
    found = judged(-0.2, -0.01, **changes)
    assert found["outcome"] == "worse"
    with pytest.raises(AssertionError, match=advice):
        raise AssertionError(found["text"])


def test_an_interval_that_holds_zero_decides_nothing():
    found = judged(-0.001, 0.011)
    assert found["outcome"] == "undecided" and "cannot be told apart from co_visitation" in found["text"]
    assert found["advice"]
