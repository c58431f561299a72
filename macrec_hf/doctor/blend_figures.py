"""What `blend.json` says, for a page: what each source finds alone, and the weights by kinds of terms."""

from typing import Any

from ..model.blend import BLEND, MODEL, OFFSETS, SOURCES, Blend
from ..model.ranked_lists import SCORED

# A kind of terms and how their names begin; a name belongs to the first kind that fits.
KINDS = {
    "what the model says": (SCORED, "model_", "missed_"),
    "bought near what the customer has": tuple(f"{name}_" for name in OFFSETS),
    "sells well": ("sold", "days_since_sale"),
    "the customer has it already": ("own",),
    "looks or reads alike": ("alike_",),
    "nobody has bought it yet": ("is_new", "family"),
}
SOURCE_WORDS = {
    BLEND: "the blend of model and purchases",
    MODEL: "the model",
    "popularity": "best sellers",
    "recent_then_popularity": "the customer's own items before best sellers",
    "co_visitation": "items bought within five purchases of each other (co-visitation)",
    "co_visitation_new_items": "co-visitation, without what the customer has",
    "co_occurrence": "items bought nearest to each other (co-occurrence)",
    "markov_chain": "items bought right after the last one (Markov chain)",
    "item_regression": "items that those of the history explain best (item regression)",
}


def source_words(name: str) -> str:
    """A source of recommendations, in words."""
    return SOURCE_WORDS[name]


def blend_figures(blend: Blend) -> dict[str, Any] | None:
    """The figures of a blend as a dict that `json.dumps` takes; None where its file does not tell them.

    Returns:
        `serves` (the blend or the one source that serves), `best` (the best single source), `num_users`,
        `num_purchases` and `target_among_candidates` (of the validation that it was fitted on), `ndcg@10` (`{source:
        value}`, the best first) and `weights` (`{kind: {term: [standardised weight, its standard error]}}`, none where
        there were too few customers).
    """
    about, known = blend.about, {BLEND, MODEL, *SOURCES}
    figures = about.get("ndcg@10", {})
    if blend.serves not in figures or about.get("best_source") not in figures or not figures.keys() <= known:
        return None
    return {
        "serves": blend.serves,
        "best": about["best_source"],
        **{name: about[name] for name in ("num_users", "num_purchases", "target_among_candidates")},
        "ndcg@10": dict(sorted(figures.items(), key=lambda pair: -pair[1])),
        "weights": _by_kind(about.get("weights", {})),
    }


def _by_kind(weights: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for term, weight in weights.items():
        kind = next((kind for kind, begins in KINDS.items() if term.startswith(begins)), "other terms")
        found.setdefault(kind, {})[term] = weight
    return found
