"""The last word of an evaluation: is the model worth more than the best that a shop can do without it?"""

from collections.abc import Mapping
from typing import Any

from ..model.blend import BLEND
from ..model.ensemble import ENSEMBLE
from .leakage import Leakage

METRIC = "ndcg@10"  # what training chooses checkpoints by, too
_ALSO = "hr@10"  # said beside it


def verdict(
    report: Mapping[str, Any],
    summary_row: str,
    model_rows: list[str],
    leakage: Leakage | None = None,
    doubt: str = "",
    has_chosen: bool = False,
    serves: str | None = None,
    hidden: float | None = None,
) -> dict[str, Any]:
    """Compares the model's summary row with the best other row, by NDCG@10 on the same users.

    Args:
        report: one column of an evaluation, as `evaluation.report.evaluation_report` gives it with a summary row.
        summary_row: such as "ensemble".
        model_rows: the model's rows; the others are baselines and the lists of other libraries.
        leakage, doubt: what the model has learned of the test, as `find_leakage` says it.
        has_chosen: whether the purchases that are predicted have chosen the model, as those of validation have.
        serves: in words, which source stands in the summary row; None: it is a row of its own.
        hidden: NDCG@10 of the summary row with own history hidden, where the report shows it.

    Returns:
        "row", "best" (the name of the best other row), "metric", "difference", "low", "high" and "p_value" of the
        paired bootstrap, "coverage" of both, "outcome" ("better", "worse" or "undecided": the 95 % interval holds 0),
        "trusted" (False where the model was trained on what tests it, None where that cannot be told or chose it),
        "doubt" (a sentence, "" where there is none), "advice" (sentences, none where the model is better) and "text",
        all of it in words.
    """
    others = [name for name in report["coverage"] if name not in model_rows]
    best = max(others, key=lambda name: report[name][METRIC])
    difference = report["differences"][best][METRIC]
    outcome = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "undecided"
    advice = [] if outcome == "better" else _advice(report, summary_row, model_rows, best)
    coverage = {name: report["coverage"][name] for name in (summary_row, best)}
    found = {"row": summary_row, "best": best, "metric": METRIC, **difference, "coverage": coverage}
    text = _text(report, found, model_rows, outcome, advice, "" if serves is None else f", which is {serves},")
    if hidden is not None and hidden > report[summary_row][METRIC]:
        text += f" With own history hidden it finds more, {hidden:.4f}: `recommend --exclude-history`."
    trusted = None if leakage is None or leakage.is_possible or has_chosen else True
    if leakage is not None and leakage.is_real:
        trusted = False
    text += f" {doubt}" * bool(doubt)
    return found | {"outcome": outcome, "trusted": trusted, "doubt": doubt, "advice": advice, "text": text}


def _advice(report: Mapping[str, Any], summary_row: str, model_rows: list[str], best: str) -> list[str]:
    """What to try, the likeliest first."""
    advice = []
    if max(report[name][METRIC] for name in model_rows if name != BLEND) <= report["popularity"][METRIC]:
        advice.append(
            "the model does not beat the bestsellers, so it has hardly learned, or learned by heart: where "
            "eval_ndcg@10 in training_log.json still rose at the end, train longer (--epochs, --patience 0); where it "
            "was highest long before, shorter (fewer --epochs), or with more --dropout-rate"
        )
    alone = _best_alone(report, summary_row, model_rows)
    if alone == ENSEMBLE:  # beside a blend
        advice.append(f"the model without the purchases finds more ({report[alone][METRIC]:.4f}): --fusion average")
    elif alone is not None:
        advice.append(
            f"{alone} alone finds more ({report[alone][METRIC]:.4f}): recommend with --modality {alone}, and look at "
            "the IDs of the others with `macrec doctor`"
        )
    if best == "recent_then_popularity":
        advice.append("customers buy again what they had: a list of their own items is hard to beat here")
    if not advice:
        advice.append(
            "train longer or wider (--epochs, --d-model), and look with `macrec doctor` whether items with the same "
            "first codes are alike"
        )
    if best == "markov_chain":
        advice.append(
            "where the next purchase follows from the last one, as the next volume of a series does, `macrec train "
            "--num-item-positions 20` learns that sooner"
        )
    return advice


def _best_alone(report: Mapping[str, Any], summary_row: str, model_rows: list[str]) -> str | None:
    """The model's row that finds most, where one finds more than the summary row."""
    best = max(model_rows, key=lambda name: report[name][METRIC])
    return best if report[best][METRIC] > report[summary_row][METRIC] else None


def _most_by_hr(report: Mapping[str, Any], best: str, model_rows: list[str]) -> str:
    """Which other row has the highest HR@10, where that is not the best by NDCG@10."""
    most = max((name for name in report["coverage"] if name not in model_rows), key=lambda name: report[name][_ALSO])
    found = report[most][_ALSO]
    return f" ({found:.4f} of {most}, the best baseline by HR@10)" if found > report[best][_ALSO] else ""


def _text(
    report: Mapping[str, Any],
    found: Mapping[str, Any],
    model_rows: list[str],
    outcome: str,
    advice: list[str],
    which: str,
) -> str:
    ours, best, coverage = found["row"], found["best"], found["coverage"]
    also = report["differences"][best][_ALSO]
    words = {"better": "is better than", "worse": "is worse than", "undecided": "cannot be told apart from"}
    text = (
        f"Verdict: {ours}{which} {words[outcome]} {best}, the best baseline, by NDCG@10: {report[ours][METRIC]:.4f} "
        f"against {report[best][METRIC]:.4f}, difference {found['difference']:+.4f} "
        f"[{found['low']:+.4f}, {found['high']:+.4f}]; {_ALSO.upper()} {report[ours][_ALSO]:.4f} against "
        f"{report[best][_ALSO]:.4f}, {also['difference']:+.4f} [{also['low']:+.4f}, {also['high']:+.4f}]"
        f"{_most_by_hr(report, best, model_rows)}; coverage {coverage[ours]:.3f} against {coverage[best]:.3f}."
    )
    alone = _best_alone(report, ours, model_rows)
    if ours != ENSEMBLE and ENSEMBLE in model_rows and alone != ENSEMBLE:  # a blend, which may owe little to the model
        text += f" The model without the purchases: {report[ENSEMBLE][METRIC]:.4f}."
    if outcome == "better" and alone is not None:  # else it is among the advice
        name = "The model without the purchases" if alone == ENSEMBLE else f"{alone} alone"
        text += f" {name} finds more here: {report[alone][METRIC]:.4f}."
    return text + (f" To try: {'; '.join(advice)}." if advice else "")
