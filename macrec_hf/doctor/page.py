"""A codebook report as one HTML page that a person reads in a minute; nothing is loaded from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

from .advice import findings
from .html_page import bar_chart, line_chart, scatter_chart, table, whole_page

STYLE = """
:root { --warn: #b3541e; --warn-page: #fdf3ec; }
.verdict { font-size: 17px; margin: 18px 0 12px; }
.problem { border-left: 5px solid var(--warn); background: var(--warn-page); padding: 12px 16px; margin: 0 0 10px;
  border-radius: 8px; }
.problem h3 { color: var(--warn); margin: 0 0 2px; } .problem p { margin: 2px 0; }
.good { border-left: 5px solid var(--hit); padding: 10px 16px; background: var(--card); border-radius: 8px; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 16px; }
.maps .card { margin: 0; }
.mark { font-weight: 700; } .warning .mark, td.warning { color: var(--warn); } .ok .mark { color: var(--hit); }
table.checks td { white-space: normal; vertical-align: top; } table.checks td.number { white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 16px 0; }
.tiles .card { margin: 0; padding: 12px 16px; } .tiles b { display: block; font-size: 22px; line-height: 1.3; }
.tiles span { color: var(--soft); font-size: 13px; }
h4 .code { font-family: ui-monospace, monospace; text-transform: none; letter-spacing: 0; color: var(--ink); }
figure .none { width: 96px; height: 96px; border-radius: 8px; border: 1px dashed var(--line); }
figure img { object-fit: cover; } .row { flex-wrap: wrap; }
"""
ORDINALS = ("first code", "first two codes", "first three codes", "first four codes")
MARKS = {"warning": "look", "ok": "fine", "unknown": "not known"}


def report_page(
    report: Mapping,
    *,
    title: str = "Semantic IDs: a check-up",
    facts: Sequence[str] = (),
    examples: Mapping | None = None,
    items: Mapping[str, Mapping] | None = None,
    maps: Mapping | None = None,
    curves: Mapping | None = None,
) -> str:
    """The page as text.

    Args:
        report: of [`codebook_report`].
        facts: sentences under the title.
        examples: of [`prefix_examples`], with `items`: `{item id: {"title": str, "photo": data address or None}}`.
        maps: of [`embedding_maps`].
        curves: `{title of a chart: {name of a line: [(step, value), ...]}}`.
    """
    found = findings(report)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="soft">{escape(fact)}</p>' for fact in facts),
        *tiles(report),
        *verdict(found),
        *usage_section(report),
        *collision_section(report),
        *(agreement_section(report) if report["agreement"] else []),
        *likeness_section(report, examples, items or {}),
        *(map_section(maps) if maps else []),
        *(curve_section(curves) if curves else []),
        *check_section(found),
    ]
    return whole_page(title, body, STYLE)


def prefix_words(depth: int) -> str:
    """How a person calls the first `depth` codes."""
    return ORDINALS[depth - 1] if depth <= len(ORDINALS) else f"first {depth} codes"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def tiles(report: Mapping) -> list[str]:
    """The figures that matter most, worst modality and level first."""
    modalities = {name: value for name, value in report["modalities"].items() if value["num_items"]}
    levels = [level for value in modalities.values() for level in value["levels"]]
    size = report["codebook_size"]
    shown = []
    if levels:
        used, even = (min(level[key] for level in levels) / size for key in ("used", "perplexity"))
        shown.append((f"{used:.0%}", "of the codes in use, on the level with the fewest"))
        shown.append((f"{even:.0%}", "of the codes would do if evenly used (perplexity), on the worst level"))
    for moment, words in (("before", "share an ID before resolution"), ("after", "share an ID now")):
        rates = [value["collisions"][moment] for value in modalities.values()]
        if rates and None not in rates:
            shown.append((f"{max(rates):.1%}", f"{words}{', the worse modality' if len(rates) > 1 else ''}"))
    for pair in report["agreement"][:1]:
        shared = pair["depths"][0]["mutual_information"]
        shown.append((_number(shared, ".2f"), "shared information of the first codes: 0 = by chance, 1 = the same"))
    cards = (f'<div class="card"><b>{value}</b><span>{words}</span></div>' for value, words in shown)
    return ['<div class="tiles">', *cards, "</div>"]


def verdict(found: Sequence[Mapping]) -> list[str]:
    """What to look at, in words; or that nothing is amiss."""
    problems = [finding for finding in found if finding["status"] == "warning"]
    fine = sum(finding["status"] == "ok" for finding in found)
    unknown = len(found) - fine - len(problems)
    rest = f"{fine} of {len(found)} checks are fine" + (f", {unknown} could not be made" if unknown else "") + "."
    if not problems:
        return [f'<p class="verdict good">Nothing to mend: {rest}</p>']
    things = "One thing" if len(problems) == 1 else f"{len(problems)} things"
    lines = [f'<p class="verdict"><b>{things} to look at.</b> {rest}</p>']
    for finding in problems:
        where = "; ".join(map(escape, finding["where"][:6])) + ("; …" if len(finding["where"]) > 6 else "")
        lines.append(
            f'<div class="problem"><h3>{escape(finding["title"])}</h3><p>{escape(finding["figure"].capitalize())} '
            f"should be {finding['shown_limit']}. Here: {where}.</p><p>{escape(finding['reason'])}</p>"
            f"<p><b>What to do:</b> {escape(finding['advice'])}</p></div>"
        )
    return lines


def usage_section(report: Mapping) -> list[str]:
    """Figure 4 of the paper for every level, and the numbers behind it."""
    modalities, size = report["modalities"], report["codebook_size"]
    width = -(-size // max(1, len(next(iter(modalities.values()))["levels"][0]["bars"])))
    columns = 3 if report["num_levels"] % 3 == 0 else 2
    group = f"{width} codes to a bar" if width > 1 else "a bar each"
    lines = [
        "<h2>How the codes are used</h2>",
        f'<p class="soft">Items per code, codes sorted from the most used to the least, {group} (as in Figure 4 of '
        "the paper). The flatter, the more each code tells; a cliff at the right is codes that nobody uses.</p>",
        f'<div class="charts" style="grid-template-columns: repeat({columns}, 1fr)">',
    ]
    for level in range(report["num_levels"]):
        bars = {name: value["levels"][level]["bars"] for name, value in modalities.items()}
        even = max(value["num_items"] for value in modalities.values()) * width / size
        lines.append(f'<div class="card"><h3>Level {level + 1}</h3>{bar_chart(bars, even)}</div>')
    rows = [
        [
            f"{escape(name)}, level {number}",
            f"{level['used']} of {size}",
            f"{level['dead']}",
            f"{level['perplexity']:.1f}",
            f"{level['gini']:.2f}",
            f"{level['largest_share']:.1%}",
        ]
        for name, value in modalities.items()
        for number, level in enumerate(value["levels"], start=1)
    ]
    head = ["", "codes used", "dead codes", "perplexity", "Gini", "items in the most used code"]
    return [
        *lines,
        "</div>",
        f'<div class="card" style="margin-top:16px">{table(head, rows)}</div>',
        '<p class="soft">Perplexity: to how many evenly used codes the use amounts. Gini: 0 = all codes alike, '
        "towards 1 = one code has everything.</p>",
    ]


def collision_section(report: Mapping) -> list[str]:
    """Table 4 of the paper for this catalogue."""
    rows = [
        [
            escape(name),
            f"{value['num_items']:,}",
            _number(value["collisions"]["before"], ".2%"),
            _number(value["collisions"]["after"], ".2%"),
            _number(value["collisions"]["moved"], ","),
        ]
        for name, value in report["modalities"].items()
    ]
    head = ["", "items with an ID", "before resolution", "now", "items moved by it"]
    unknown = any(value["collisions"]["before"] is None for value in report["modalities"].values())
    how = " A dash: not recorded; --embeddings and a folder with its quantizer tell." if unknown else ""
    return [
        "<h2>Items that share an ID</h2>",
        f'<div class="card">{table(head, rows)}</div>',
        '<p class="soft">1 − distinct IDs / items. The paper (Table 4) has 2.4–4.2% for text and 3.2–25.2% for '
        f"images before resolution.{how}</p>",
    ]


def agreement_section(report: Mapping) -> list[str]:
    """Whether the modalities group items alike."""
    rows = [
        [
            escape(" and ".join(pair["modalities"])),
            prefix_words(depth["depth"]),
            _number(depth["mutual_information"], ".3f"),
            f"{100 * depth['both']:.2g}%",
            f"{100 * depth['expected']:.2g}%",
            "–" if depth["lift"] is None else f"{depth['lift']:,.1f} ×",
        ]
        for pair in report["agreement"]
        for depth in pair["depths"]
        if depth["expected"]
    ]
    head = ["", "prefix", "shared information", "pairs alike in both", "by chance", "times chance"]
    return [
        "<h2>Do the modalities agree?</h2>",
        f'<div class="card">{table(head, rows, text_columns=2)}</div>',
        '<p class="soft">Shared information: adjusted mutual information of the groups, 0 = by chance, 1 = the same '
        "groups. Pairs alike in both: item pairs with the same prefix in both modalities, beside what two unrelated "
        "groupings of these sizes would have. Between the two extremes is good: each modality adds something.</p>",
    ]


def likeness_section(report: Mapping, examples: Mapping | None, items: Mapping) -> list[str]:
    """Numbers where there are embeddings, pictures where there are items."""
    lines = ["<h2>Do items with the same prefix look alike?</h2>"]
    if report["similarity"]:
        lines += _likeness_table(report)
    if examples:
        lines += [_example_card(name, value, items) for name, value in examples["modalities"].items()]
        random = _shown_items(examples["random"], items)
        lines.append(f'<div class="card"><h3>For comparison: drawn at random</h3>{random}</div>')
    if not report["similarity"] and not examples:
        lines.append('<p class="soft">--embeddings gives the numbers, --items the pictures.</p>')
    return lines


def _likeness_table(report: Mapping) -> list[str]:
    depths = range(1, report["num_levels"] + 1)
    rows: list[list[str]] = []
    best: dict[str, float | None] = {}
    for name, by_embedding in report["similarity"].items():
        for seen, values in by_embedding.items():
            best.setdefault(seen, values[0]["random"])
            cells = [_number(value["same"], ".2f") for value in values]
            rows.append([f"{escape(seen)} embeddings", f"{escape(name)} codes", _number(best[seen], ".2f"), *cells])
    rows.sort(key=lambda row: row[0])
    pairs = [depth for depth in depths if any(row[2 + depth] != "–" for row in rows)]
    rows = [[*row[:3], *(row[2 + depth] for depth in pairs)] for row in rows]
    head = ["likeness of", "same prefix of", "any two items", *(prefix_words(depth) for depth in pairs)]
    return [
        f'<div class="card">{table(head, rows, text_columns=2)}</div>',
        '<p class="soft">Mean cosine of two items’ embeddings. It should rise from left to right, and most for a '
        "modality’s own codes.</p>",
    ]


def _example_card(name: str, value: Mapping, items: Mapping) -> str:
    rows = []
    for group in value["groups"]:
        tokens, size = escape("".join(group["tokens"])), group["size"]
        rows.append(f'<h4><span class="code">{tokens}</span> · {size} items</h4>{_shown_items(group["items"], items)}')
    title = f"The same {prefix_words(value['depth'])} of {escape(name)}"
    return f'<div class="card"><h3>{title}</h3>{"".join(rows)}</div>'


def _shown_items(item_ids: Sequence[str], items: Mapping) -> str:
    figures = []
    for item in item_ids:
        title = escape(items[item]["title"] or item)
        photo = items[item]["photo"]
        image = f'<img src="{photo}" alt="{title}">' if photo else '<div class="none"></div>'
        figures.append(f"<figure>{image}<figcaption>{title}</figcaption></figure>")
    return f'<div class="row">{"".join(figures)}</div>'


def map_section(maps: Mapping) -> list[str]:
    """Figure 1 of the paper: each modality's embeddings, coloured by its own and by the others' first codes."""
    cards = [
        f'<div class="card"><h3>{escape(seen)} embeddings, coloured by the first {escape(name)} code</h3>'
        f"{scatter_chart(value['points'], by['groups'], by['names'])}</div>"
        for seen, value in maps.items()
        for name, by in sorted(value["by"].items(), key=lambda pair: pair[0] != seen)
    ]
    return [
        "<h2>Maps</h2>",
        '<p class="soft">A dot is an item; near dots have like embeddings (as in Figure 1 of the paper). The ten most '
        "used first codes have a colour. Left: a modality’s own codes should form patches. Right: where the other "
        "modality’s codes form patches too, the two agree.</p>",
        '<div class="maps">',
        *cards,
        "</div>",
    ]


def curve_section(curves: Mapping) -> list[str]:
    """Figures over the steps of a training."""
    cards = (f'<div class="card"><h3>{escape(name)}</h3>{line_chart(lines)}</div>' for name, lines in curves.items())
    return ["<h2>During training</h2>", '<div class="charts">', *cards, "</div>"]


def check_section(found: Sequence[Mapping]) -> list[str]:
    """All limits, each with its reason."""
    rows = []
    for finding in found:
        measured = finding["shown"] or f"needs {finding['needs'] or 'more'}"
        rows.append(
            f'<tr class="{finding["status"]}"><td class="mark">{MARKS[finding["status"]]}</td>'
            f"<td>{escape(finding['title'])}</td><td>{escape(finding['figure'])}</td>"
            f'<td class="number">{escape(measured)}</td><td class="number">{finding["shown_limit"]}</td>'
            f"<td>{escape(finding['reason'])}</td></tr>"
        )
    head = "<tr><th></th><th>check</th><th>figure</th><th class=number>worst</th><th class=number>limit</th>"
    return [
        "<h2>What was checked, and why the limits stand where they do</h2>",
        f'<div class="card"><table class="checks">{head}<th>reason</th></tr>{"".join(rows)}</table></div>',
    ]
