"""A codebook report as one HTML page that a person reads in a minute; nothing is loaded from elsewhere."""

from collections.abc import Mapping, Sequence

from .advice import findings, shared_words
from .blend_figures import source_words
from .glossary import glossary
from .html_page import render
from .verdict import blend_verdict, is_healthy, verdict

ORDINALS = ("first code", "first two codes", "first three codes", "first four codes")


def report_page(
    report: Mapping,
    *,
    title: str = "Semantic IDs: a check-up",
    facts: Sequence[str] = (),
    examples: Mapping | None = None,
    items: Mapping[str, Mapping] | None = None,
    maps: Mapping | None = None,
    curves: Mapping | None = None,
    blend: Mapping | None = None,
) -> str:
    """The page as text.

    Args:
        report: of [`codebook_report`].
        facts: sentences under the title.
        examples: of [`prefix_examples`], with `items`: `{item id: {"title": str, "photo": data address or None}}`.
        maps: of [`embedding_maps`].
        curves: `{title of a chart: {name of a line: [(step, value), ...]}}`.
        blend: of [`blend_figures`].
    """
    found = findings(report)
    return render(
        "doctor/templates/report.html.jinja",
        report=report,
        title=title,
        facts=facts,
        tiles=tiles(report),
        found=found,
        healthy=is_healthy(found),
        verdict=verdict(report, found),
        blend=blend,
        blend_verdict=blend_verdict(blend) if blend else None,
        heaviest=heaviest(blend) if blend else None,
        source_words=source_words,
        glossary=glossary(),
        shared_words=shared_words,
        usage=usage(report),
        likeness=likeness_rows(report),
        prefix_words=prefix_words,
        examples=examples,
        items=items,
        maps=maps,
        curves=curves,
    )


def prefix_words(depth: int) -> str:
    """How a person calls the first `depth` codes."""
    return ORDINALS[depth - 1] if depth <= len(ORDINALS) else f"first {depth} codes"


def tiles(report: Mapping) -> list[tuple[str, str]]:
    """The figures that matter most, each with its words, worst modality and level first."""
    modalities = {name: value for name, value in report["modalities"].items() if value["num_items"]}
    levels = [level for value in modalities.values() for level in value["levels"]]
    size = report["codebook_size"]
    shown = []
    if levels:
        used, even = (min(level[key] for level in levels) / size for key in ("used", "perplexity"))
        shown.append((f"{used:.0%}", "of the codes in use, on the level with the fewest"))
        shown.append((f"{even:.0%}", "of the codes would do if evenly used (perplexity), on the worst level"))
    worse = ", the worse modality" if len(modalities) > 1 else ""
    what = "IDs fewer than items"
    for moment, words in (("before", f"{what} before resolution"), ("after", f"{what} now")):
        rates = [value["collisions"][moment] for value in modalities.values()]
        if rates and None not in rates:
            shown.append((f"{max(rates):.1%}", f"{words}{worse}"))
    for pair in report["agreement"][:1]:
        shared = pair["depths"][0]["mutual_information"]
        if shared is not None:
            shown.append(
                (shared_words(shared), "shared information of the first codes: none = by chance, 1 = the same")
            )
    return shown


def heaviest(blend: Mapping) -> float:
    """The largest of the weights either way, for the lengths of bars."""
    return max((abs(weight) for terms in blend["weights"].values() for weight, _ in terms.values()), default=0) or 1.0


def usage(report: Mapping) -> dict:
    """Figure 4 of the paper: `levels`, `{modality: heights of the bars}` for each; `width`, codes to a bar; `even`,
    the height of a bar if all codes of the largest modality were used alike."""
    modalities, size = report["modalities"], report["codebook_size"]
    levels = [
        {name: value["levels"][level]["bars"] for name, value in modalities.items()}
        for level in range(report["num_levels"])
    ]
    width = -(-size // max(1, len(next(iter(levels[0].values())))))
    even = max(value["num_items"] for value in modalities.values()) * width / size
    return {"levels": levels, "width": width, "even": even}


def likeness_rows(report: Mapping) -> list[dict]:
    """A row for each modality's codes in each modality's embeddings, ordered by the latter.

    Returns:
        dicts with `seen` (modality of the embeddings), `name` (of the codes), `random` (mean cosine of any two items)
        and `same`: `{prefix in words: mean cosine or None}`, prefixes that no row knows left out.
    """
    rows: list[dict] = []
    random: dict[str, float | None] = {}
    for name, by_embedding in report["similarity"].items():
        for seen, values in by_embedding.items():
            same = {prefix_words(value["depth"]): value["same"] for value in values}
            random.setdefault(seen, values[0]["random"])
            rows.append({"seen": seen, "name": name, "random": random[seen], "same": same})
    known = {words for row in rows for words, value in row["same"].items() if value is not None}
    for row in rows:
        row["same"] = {words: value for words, value in row["same"].items() if words in known}
    return sorted(rows, key=lambda row: row["seen"])
