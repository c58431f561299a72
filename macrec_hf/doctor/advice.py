"""What a codebook report means: one table of limits, each with its reason and what to do beyond it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Values = list[tuple[str, float]]  # (where, value)
MIN_CODES_FOR_SHARES = 20  # with fewer codes even use gives one code more than a twentieth of the items


@dataclass(frozen=True)
class Check:
    """One limit.

    Attributes:
        title: the problem, in words.
        measure: report → `[(where, value), ...]`; empty: the report does not know.
        figure: what the value is.
        limit: beyond it there is a problem.
        too: "low" or "high": on which side of the limit.
        form: format of a value, such as ".0%".
        reason: why the limit stands there.
        advice: what to do.
        needs: what the report needs for it, where it is more than the IDs.
    """

    title: str
    measure: Callable[[Mapping], Values]
    figure: str
    limit: float
    too: str
    form: str
    reason: str
    advice: str
    needs: str = ""

    def is_beyond(self, value: float) -> bool:
        """Whether the value is on the wrong side of the limit."""
        return value < self.limit if self.too == "low" else value > self.limit


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
    return _levels(report, lambda level, _: level["dead"] / report["codebook_size"])


def _modalities(report: Mapping, value: Callable[[Mapping], float | None]) -> Values:
    values = [(name, value(modality)) for name, modality in report["modalities"].items() if modality["num_items"]]
    return [(name, number) for name, number in values if number is not None]


def _items_per_code(report: Mapping) -> Values:
    return _modalities(report, lambda modality: modality["num_items"] / report["codebook_size"])


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
    pairs = [(" and ".join(pair["modalities"]), pair["depths"][0]) for pair in report["agreement"]]
    return [(names, d["mutual_information"]) for names, d in pairs if d["mutual_information"] is not None]


CHECKS = (
    Check(
        "Collapsed codebook", _spread, "perplexity / codes that could be used", 0.10, "low", ".0%",
        "Below a tenth, a level of 256 codes says less than 5 of its 8 bits: the other codes are trained for nothing.",
        "Train longer, with a lower learning rate, or let the trainer seed the codebooks anew (k-means); a larger "
        "commitment weight keeps latents near their codes.",
    ),
    Check(
        "One code swallows the catalogue", _largest, "items in the most used code", 0.20, "high", ".0%",
        "With a fifth of the items behind one code, that code says almost nothing, and it tops every beam.",
        "Look at those items: empty texts or one placeholder photo embed alike. List them as missing, or embed again.",
    ),
    Check(
        "Codebook too large: dead codes", _dead, "codes that nobody uses", 0.25, "high", ".0%",
        "A quarter of the tokens is never trained and yet takes part in every softmax. Large codebooks thin out what "
        "each token sees (paper, parameter analysis).",
        "If every level has them: halve --codebook-size. If only the first, it has collapsed in part: train longer, "
        "with a lower learning rate.",
    ),
    Check(
        "Codebook too large: few items a code", _items_per_code, "items / codes of a level", 8, "low", ".1f",
        "The paper's smallest data set has 24 items a code; below a third of that a token is seen in too few items.",
        "Halve --codebook-size until there are eight items a code.",
    ),
    Check(
        "Codebook too small", _room, "possible IDs / items", 50, "low", ",.0f",
        "Even codes drawn evenly at random would make one item in a hundred share its ID at 50 IDs an item.",
        "Add a level (--num-levels), or double --codebook-size.",
    ),
    Check(
        "Many collisions before resolution", lambda report: _modalities(report, lambda m: m["collisions"]["before"]),
        "collision rate before", 0.10, "high", ".1%",
        "Twice the worst text figure of the paper's Table 4 (5.2%). What shares an ID gets a code that is not its "
        "nearest, and so a less telling ID.",
        "Train the quantizer longer, add a level, or double --codebook-size. Equal embeddings collide whatever the "
        "codebook: look for variants of one product with the same text or photo.",
        "a table of `macrec quantize`, or its quantizer and --embeddings",
    ),
    Check(
        "Items that share an ID", lambda report: _modalities(report, lambda m: m["collisions"]["after"]),
        "collision rate now", 0.0, "high", ".2%",
        "Items with the same ID cannot be told apart: the recommender ranks them in a tie.",
        "`macrec quantize` resolves collisions. Imported IDs can be used as they are, too: metrics count ties fairly.",
        "IDs after resolution",
    ),
    Check(
        "Modality missing from much of the catalogue", _coverage, "items with an ID", 0.50, "low", ".0%",
        "Below half, most histories have gaps in this modality, and the ensemble rests on the other one.",
        "Find the missing texts or photos, or train on the other modality alone (--modalities).",
        "two modalities",
    ),
    Check(
        "One modality drowned: few codes", _weakest, "first code's perplexity / best modality's", 1 / 3, "low", ".0%",
        "With less than a third of the other's codes in use, its first code says 1.6 bits less.",
        "Check that its embeddings differ between items (dead encoder, placeholder photos), and standardize them.",
        "two modalities",
    ),
    Check(
        "One modality drowned: codes say nothing", _own_gain, "likeness gained by the same first code", 0.05, "low",
        ".2f",
        "At 0.05, two items with the same first code are hardly more alike than any two items.",
        "Were the IDs made from these embeddings? If so, train longer with lower contrastive and alignment weights.",
        "--embeddings",
    ),
    Check(
        "One modality drowned: the other writes its codes", _own_beside_other, "own likeness − that by other's codes",
        0.0, "low", ".2f",
        "Below zero, the other modality's first code tells more about these embeddings than their own first code.",
        "Keep the first levels free of the contrastive loss (--contrastive-weights 0,0,0.1,0.1 is the paper's choice: "
        "from the first level on it erases what only one modality knows).",
        "--embeddings and two modalities",
    ),
    Check(
        "Modalities agree by chance only", _shared_information, "first codes' adjusted mutual information", 0.02,
        "low", ".3f",
        "A photo and a title of the same item share something, if only the kind of product; chance is 0.",
        "Check that row i of every embedding is the same item: shuffled rows look exactly like this.",
        "two modalities",
    ),
    Check(
        "Modalities say the same", _shared_information, "first codes' adjusted mutual information", 0.80, "high",
        ".3f",
        "At 1 the groups are the same. Two modalities pay off by what they do not share (paper, Figure 1).",
        "Start the contrastive loss at a later level, or lower its weight; or go on with one modality.",
        "two modalities",
    ),
)  # fmt: skip


def findings(report: Mapping) -> list[dict]:
    """Every check, problems first.

    Args:
        report: of [`codebook_report`].

    Returns:
        dicts with `title`, `status` ("warning", "ok", or "unknown" where the report cannot tell), `figure`, `worst`
        (value; None if unknown), `limit`, `too`, `where` (places beyond the limit, each with its value), `shown` (the
        worst value as text), `shown_limit`, `reason`, `advice` and `needs`.
    """
    found = [_finding(check, check.measure(report)) for check in CHECKS]
    return sorted(found, key=lambda finding: ("warning", "ok", "unknown").index(finding["status"]))


def _finding(check: Check, values: list[tuple[str, float]]) -> dict:
    numbers = [value for _, value in values]
    worst = (min(numbers) if check.too == "low" else max(numbers)) if numbers else None
    beyond = [f"{where}: {value:{check.form}}" for where, value in values if check.is_beyond(value)]
    return {
        "title": check.title,
        "status": "unknown" if worst is None else "warning" if beyond else "ok",
        "figure": check.figure,
        "worst": worst,
        "limit": check.limit,
        "too": check.too,
        "where": beyond,
        "shown": "" if worst is None else f"{worst:{check.form}}",
        "shown_limit": f"{'at least' if check.too == 'low' else 'at most'} {check.limit:{check.form}}",
        "reason": check.reason,
        "advice": check.advice,
        "needs": check.needs,
    }
