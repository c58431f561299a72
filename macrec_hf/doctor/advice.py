"""What a codebook report means: one table of limits, each with its reason, what it costs a shop and what to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from ..training.sizes import IDS_AN_ITEM, ITEMS_A_CODE, quantizer_sizes

Values = list[tuple[str, float]]  # (where, value)
MIN_CODES_FOR_SHARES = 20  # with fewer codes even use gives one code more than a twentieth of the items
MIN_ITEMS_FOR_AGREEMENT = 100  # of fewer, chance alone moves the shared information by more than its limit; ours
ITEMS_FOR_DEAD_CODES = 2  # with fewer, chance alone leaves a quarter of the codes it would use empty; ours
LEAST_CODES = quantizer_sizes(1, {"any": 1}).codebook_size  # `macrec quantize` chooses no fewer for any catalogue


@dataclass(frozen=True)
class Check:
    """One limit.

    Attributes:
        title: the problem, in words.
        measure: report → `[(where, value), ...]`; empty: the report does not know.
        figure: what the value is.
        limit: beyond it there is a problem.
        too: "low" or "high": on which side of the limit.
        form: format of a value, such as ".0%", or what writes it.
        reason: why the limit stands there.
        advice: what to do; or report → what to do, where that depends on the size of the catalogue.
        told: the problem and what it costs, for whoever has the shop: part of a sentence, in which `{shown}` is the
            worst value and `{where}` where it is.
        is_grave: whether it should be mended before a recommender is trained.
        needs: what the report needs for it, where it is more than the IDs.
    """

    title: str
    measure: Callable[[Mapping], Values]
    figure: str
    limit: float
    too: str
    form: str | Callable[[float], str]
    reason: str
    advice: str | Callable[[Mapping], str]
    told: str
    is_grave: bool = False
    needs: str = ""

    def is_beyond(self, value: float) -> bool:
        """Whether the value is on the wrong side of the limit."""
        return value < self.limit if self.too == "low" else value > self.limit

    def shown(self, value: float) -> str:
        """A value as text."""
        return f"{value:{self.form}}" if isinstance(self.form, str) else self.form(value)


def shared_words(value: float) -> str:
    """Shared information as text: what is no more than chance, and so 0 or a little below, is none."""
    return f"{value:.2f}" if value >= 0.005 else "none"


def _levels(report: Mapping, value: Callable[[Mapping, Mapping], float]) -> Values:
    """A value of every level that any item has a code on."""
    return [
        (f"{name}, level {number}", value(level, modality))
        for name, modality in report["modalities"].items()
        if modality["num_items"]
        for number, level in enumerate(modality["levels"], start=1)
    ]


def _spread(report: Mapping) -> Values:
    size = report["codebook_size"]
    return _levels(report, lambda level, modality: level["perplexity"] / min(size, modality["num_items"]))


def _largest(report: Mapping) -> Values:
    enough = report["codebook_size"] >= MIN_CODES_FOR_SHARES
    return _levels(report, lambda level, _: level["largest_share"]) if enough else []


def _dead(report: Mapping) -> Values:
    """Beside the codes that so many items would use if they were spread evenly at random: few leave codes empty."""
    size, modalities = report["codebook_size"], report["modalities"]
    enough = {name: one for name, one in modalities.items() if one["num_items"] >= ITEMS_FOR_DEAD_CODES * size}

    def share(level: Mapping, modality: Mapping) -> float:
        return max(0.0, 1 - (size - level["dead"]) / (size * (1 - (1 - 1 / size) ** modality["num_items"])))

    return _levels({"modalities": enough}, share) if size > LEAST_CODES else []


def _modalities(report: Mapping, value: Callable[[Mapping], float | None]) -> Values:
    values = [(name, value(modality)) for name, modality in report["modalities"].items() if modality["num_items"]]
    return [(name, number) for name, number in values if number is not None]


def _items_per_code(report: Mapping) -> Values:
    """One value for all modalities, which share the size; that one has few items is a check of its own."""
    can_shrink = report["codebook_size"] > LEAST_CODES and any(_modalities(report, lambda modality: 1.0))
    return [("the catalogue", report["num_items"] / report["codebook_size"])] if can_shrink else []


def _room(report: Mapping) -> Values:
    space = float(report["codebook_size"]) ** report["num_levels"]
    return _modalities(report, lambda modality: space / modality["num_items"])


def _coverage(report: Mapping) -> Values:
    several = len(report["modalities"]) > 1
    items = max(1, report["num_items"])
    return [(name, value["num_items"] / items) for name, value in report["modalities"].items() if several]


def _weakest(report: Mapping) -> Values:
    firsts = {name: value["levels"][0]["perplexity"] for name, value in report["modalities"].items()}
    best = max(firsts.values())
    return [(name, value / best) for name, value in firsts.items() if len(firsts) > 1 and best]


def _gain(report: Mapping, prefix: str, embedding: str) -> float | None:
    depths = report["similarity"].get(prefix, {}).get(embedding)
    return depths[0]["gain"] if depths else None


def _own_gain(report: Mapping) -> Values:
    gains = [(name, _gain(report, name, name)) for name in report["modalities"]]
    return [(name, gain) for name, gain in gains if gain is not None]


def _own_beside_other(report: Mapping) -> Values:
    """By how much a modality's own first code gathers its embeddings better than another modality's does."""
    found = []
    for name, own in _own_gain(report):
        gains = [_gain(report, other, name) for other in report["modalities"] if other != name]
        others = [gain for gain in gains if gain is not None]
        if others:
            found.append((name, own - max(others)))
    return found


def _shared_information(report: Mapping) -> Values:
    pairs = [pair for pair in report["agreement"] if pair["num_items"] >= MIN_ITEMS_FOR_AGREEMENT]
    values = [(" and ".join(pair["modalities"]), pair["depths"][0]["mutual_information"]) for pair in pairs]
    return [(names, value) for names, value in values if value is not None]


# Every advice on sizes comes from these two, so that none contradicts another and none exceeds the catalogue.
def _codes(report: Mapping) -> int:
    """The codes of a level that suit so many items, by the rule of `macrec quantize`: all modalities have as many."""
    num_items = report["num_items"]
    return min(report["codebook_size"], quantizer_sizes(num_items, {"any": 1}).codebook_size, num_items)


def _num_levels(report: Mapping) -> int:
    """The levels that leave room enough with so many codes, by the same rule; never fewer than there are."""
    codes, needed = max(2, _codes(report)), IDS_AN_ITEM * report["num_items"]
    return next(number for number in count(report["num_levels"]) if codes**number >= needed)


def _flags_of_sizes(report: Mapping) -> str:
    chosen = {"codebook-size": _codes(report), "num-levels": _num_levels(report)}
    flags = [f"--{name} {size}" for name, size in chosen.items() if size != report[name.replace("-", "_")]]
    return " ".join(["macrec quantize", *flags])


def _fewer_codes(report: Mapping) -> str:
    if _codes(report) < report["codebook_size"]:
        return f"`{_flags_of_sizes(report)}`: as many as it chooses by itself for so many items."
    return (
        "The codebook is not too large for the catalogue: it has collapsed in part. Train longer (--epochs), with a "
        "lower --learning-rate. It costs little to go on as it is."
    )


def _more_ids(report: Mapping) -> str:
    return f"`{_flags_of_sizes(report)}`: further levels make room and leave each code its items."


def _tell_apart(report: Mapping) -> str:
    more = max(_num_levels(report), report["num_levels"] + 1)
    return (
        f"A further level (`macrec quantize --num-levels {more}`) tells alike items apart. Equal embeddings collide "
        "whatever the levels: look for variants of one product with the same text or photo."
    )


def _own_codes(report: Mapping) -> str:
    weights = report.get("contrastive_weights")
    if weights is not None and not any(weights[:2]):
        return (
            "The first two levels are free of the contrastive loss already: train the quantizer longer (--epochs). If "
            "that does not help, leave this modality out (--modalities)."
        )
    return (
        "Keep the first two levels free of the contrastive loss, as they are without --contrastive-weights: from the "
        "first level on it erases what only one modality knows."
    )


CHECKS = (
    Check(
        "Items that share an ID", lambda report: _modalities(report, lambda m: m["collisions"]["after"]),
        "collision rate now", 0.0, "high", ".2%",
        "Items with the same ID cannot be told apart: the recommender ranks them in a tie.",
        "`macrec quantize` resolves collisions. Imported IDs can be used as they are, too: metrics count ties fairly.",
        "{shown} of the items have the same {where} ID as another one, so that recommendations cannot tell them apart",
        needs="IDs after resolution",
    ),
    Check(
        "Modalities agree by chance only", _shared_information, "first codes' shared information", 0.02, "low",
        shared_words,
        "A photo and a title of the same item share something, if only the kind of product; chance is 0.",
        "Check that row i of every embedding is the same item: shuffled rows look exactly like this.",
        "{where} have nothing in common, as if texts and photos of different items had been mixed up; recommendations "
        "would be little better than chance for one of the two",
        is_grave=True,
        needs=f"two modalities with {MIN_ITEMS_FOR_AGREEMENT} items",
    ),
    Check(
        "Collapsed codebook", _spread, "perplexity / codes that could be used", 0.10, "low", ".0%",
        "Below a tenth, a level of 256 codes says less than 5 of its 8 bits: the other codes are trained for nothing.",
        "Train the quantizer longer (--epochs), with a lower --learning-rate; a larger --commitment-weight keeps "
        "latents near their codes.",
        "nearly all the work is done by {shown} of the codes ({where}), so that items are hardly told apart there and "
        "recommendations are less exact than they could be",
        is_grave=True,
    ),
    Check(
        "One modality drowned: codes say nothing", _own_gain, "likeness gained by the same first code", 0.05, "low",
        "z.2f",
        "At 0.05, two items with the same first code are hardly more alike than any two items.",
        "Were the IDs made from these embeddings? If so, train the quantizer longer (--epochs), with a lower "
        "--alignment-weight.",
        "items with the same {where} code are hardly more alike than any two, so that the recommender learns nothing "
        "from this kind of data",
        is_grave=True,
        needs="--embeddings",
    ),
    Check(
        "One modality drowned: the other writes its codes", _own_beside_other, "own likeness − that by other's codes",
        0.0, "low", "z.2f",
        "Below zero, the other modality's first code tells more about these embeddings than their own first code.",
        _own_codes,
        "the {where} codes follow the other kind of data, so that what only this one shows is lost",
        needs="--embeddings and two modalities",
    ),
    Check(
        "One code swallows the catalogue", _largest, "items in the most used code", 0.20, "high", ".0%",
        "With a fifth of the items behind one code, that code says almost nothing, and it tops every beam.",
        "Look at those items: empty texts or one placeholder photo embed alike. List them as missing, or embed again.",
        "one code holds {shown} of the items ({where}), so that these are told apart late and come up too often",
        needs=f"{MIN_CODES_FOR_SHARES} codes a level",
    ),
    Check(
        "Modality missing from much of the catalogue", _coverage, "items with an ID", 0.50, "low", ".0%",
        "Below half, most histories have gaps in this modality, and the ensemble rests on the other one.",
        "Find the missing texts or photos, or train on the other modality alone (--modalities).",
        "only {shown} of the items have an ID of {where}, so that recommendations rest on the other kind of data",
        needs="two modalities",
    ),
    Check(
        "One modality drowned: few codes", _weakest, "first code's perplexity / best modality's", 1 / 3, "low", ".0%",
        "With less than a third of the other's codes in use, its first code says 1.6 bits less.",
        "Check that its embeddings differ between items: a dead encoder or placeholder photos embed alike.",
        "{where} tells items apart much worse than the other kind of data, so that it adds little to recommendations",
        needs="two modalities",
    ),
    Check(
        "Modalities say the same", _shared_information, "first codes' shared information", 0.80, "high", shared_words,
        "At 1 the groups are the same. Two modalities pay off by what they do not share (paper, Figure 1).",
        "Start the contrastive loss at a later level, or lower its weight; or go on with one modality.",
        "{where} say the same, so that the second costs time and adds nothing",
        needs=f"two modalities with {MIN_ITEMS_FOR_AGREEMENT} items",
    ),
    Check(
        "Many collisions before resolution", lambda report: _modalities(report, lambda m: m["collisions"]["before"]),
        "collision rate before", 0.10, "high", ".1%",
        "Twice the worst text figure of the paper's Table 4 (MQL4GRec's 5.2%). What shares an ID gets a code that is "
        "not its nearest, and so a less telling ID.",
        _tell_apart,
        "{shown} of the items got the same ID as another one at first ({where}) and had to give way, so that their "
        "IDs say less about them",
        needs="a table of `macrec quantize`, or its quantizer and --embeddings",
    ),
    Check(
        "Codebook too small", _room, "possible IDs / items", IDS_AN_ITEM, "low", ",.0f",
        f"Even codes drawn evenly at random make one item in a hundred share its ID at {IDS_AN_ITEM} IDs an item.",
        _more_ids,
        "there are only {shown} possible IDs for each item, so that items that come later get IDs that say little",
    ),
    Check(
        "Codebook too large: few items a code", _items_per_code, "items / codes of a level", ITEMS_A_CODE, "low",
        ".1f",
        "The paper's smallest data set has 24 items a code; below a third of that a token is seen in too few items.",
        _fewer_codes,
        "there are only {shown} items for each code, so that little is learned from one item about another",
        needs=f"more than {LEAST_CODES} codes a level",
    ),
    Check(
        "Dead codes", _dead, "1 − codes in use / codes that chance would use", 0.25, "high", ".0%",
        "So many items, spread evenly at random, would use a third more; what is never trained takes part in every "
        "softmax. Large codebooks thin out what "
        "each token sees (paper, parameter analysis).",
        _fewer_codes,
        "{shown} of the codes that so many items would use by chance are never used ({where}), so that a part "
        "of the model is never trained",
        needs=f"more than {LEAST_CODES} codes a level and {ITEMS_FOR_DEAD_CODES} items a code",
    ),
)  # fmt: skip


def findings(report: Mapping) -> list[dict]:
    """Every check, problems first, and of these the most costly first.

    Args:
        report: of [`codebook_report`]; where it has `contrastive_weights`, those of the quantizer's levels, advice
            goes by them.

    Returns:
        dicts with `title`, `status` ("warning", "ok", or "unknown" where the report cannot tell), `is_grave`, `told`
        (a problem and what it costs, in a shop's words), `figure`, `worst` (value; None if unknown), `limit`, `too`,
        `where` (places beyond the limit, each with its value), `shown` (the worst value as text), `shown_limit`,
        `reason`, `advice` and `needs`.
    """
    found = [_finding(check, report) for check in CHECKS]
    return sorted(found, key=_place)


def _place(finding: Mapping) -> int:
    """Grave problems, other problems, what is fine, what is not known."""
    if finding["status"] == "warning":
        return 0 if finding["is_grave"] else 1
    return 2 if finding["status"] == "ok" else 3


def _finding(check: Check, report: Mapping) -> dict[str, Any]:
    values = check.measure(report)
    worst_first = sorted(values, key=lambda pair: pair[1], reverse=check.too == "high")
    place, worst = worst_first[0] if worst_first else ("", None)
    beyond = [f"{where}: {check.shown(value)}" for where, value in values if check.is_beyond(value)]
    shown = "" if worst is None else check.shown(worst)
    return {
        "title": check.title,
        "status": "unknown" if worst is None else "warning" if beyond else "ok",
        "is_grave": check.is_grave,
        "told": check.told.format(shown=shown, where=place) if beyond else "",
        "figure": check.figure,
        "worst": worst,
        "limit": check.limit,
        "too": check.too,
        "where": beyond,
        "shown": shown,
        "shown_limit": f"{'at least' if check.too == 'low' else 'at most'} {check.shown(check.limit)}",
        "reason": check.reason,
        "advice": (check.advice if isinstance(check.advice, str) else check.advice(report)) if beyond else "",
        "needs": check.needs,
    }
