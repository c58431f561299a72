import re

import numpy as np
import pytest

from macrec_hf import EmbeddingStore, SemanticIdTable, codebook_report
from macrec_hf.doctor.advice import findings
from macrec_hf.doctor.page import prefix_words, report_page
from macrec_hf.doctor.pictures import embedding_maps, prefix_examples


def parts(num_items=80):
    random = np.random.default_rng(0)
    text = random.integers(4, size=(num_items, 2))
    table = SemanticIdTable([f"i{row}" for row in range(num_items)], {"text": text, "image": text[:, ::-1].copy()}, 8)
    arrays = {name: random.standard_normal((num_items, 5)).astype("f4") for name in ("text", "image")}
    return table, EmbeddingStore(arrays, table.item_ids)


def test_a_page_of_ids_alone_holds_their_figures_and_needs_nothing_else():
    table, _ = parts()
    report = codebook_report(table)
    page = report_page(report, facts=["80 <items>"])
    assert "80 &lt;items&gt;" in page and page.count("<svg") == 2
    level = report["modalities"]["text"]["levels"][0]
    for cell in ("4 of 8", f"{level['perplexity']:.1f}", f"{level['gini']:.2f}", f"{level['largest_share']:.1%}"):
        assert f'<td class="number">{cell}</td>' in page
    collisions = report["modalities"]["text"]["collisions"]["after"]
    assert f'<td class="number">–</td><td class="number">{collisions:.2%}</td>' in page
    assert report["agreement"][0]["depths"][0]["mutual_information"] < 0
    assert '<td>first code</td>\n<td class="number">none</td>' in page and "-0.00" not in page
    assert "--embeddings gives the numbers, --items the pictures" in page and "<h2>Maps" not in page
    assert not re.search(r"https?:|<script|<link", page), "the page must not load anything"


def test_problems_stand_first_with_what_to_do():
    page = report_page(codebook_report(parts()[0]))
    problem = page.index("Items that share an ID</h3>")
    assert "things to look at" in page and problem < page.index("How the codes are used")
    assert "<b>What to do:</b> <code>macrec quantize</code> resolves <a" in page
    first = page.index('<div class="verdict warn">')
    assert page.index("<h1>") < first < page.index('<div class="tiles">') < problem
    assert page.count('class="warning"') == page.count('class="problem"') > 0


@pytest.mark.parametrize(("unknown", "rest"), [(0, "13 of 13 checks are fine."), (4, "checks are fine, 4 could not")])
def test_no_problem_is_said_plainly(monkeypatch, unknown, rest):
    report = codebook_report(parts()[0])
    fine = [check | {"status": "ok" if row >= unknown else "unknown"} for row, check in enumerate(findings(report))]
    monkeypatch.setattr("macrec_hf.doctor.page.findings", lambda report: fine)
    page = report_page(report)
    assert "Nothing to mend: " in page and rest in page and "to look at" not in page and 'class="problem"' not in page


def test_items_maps_and_curves_are_shown():
    table, store = parts()
    examples = prefix_examples(table, dict.fromkeys(table.item_ids))
    items = {item: {"title": f"Thing <{item}>", "photo": None} for item in table.item_ids}
    items[examples["random"][0]]["photo"] = "data:image/jpeg;base64,AAAA"
    maps = embedding_maps(table, store, "pca")
    curves = {"Collision rate": {"text": [(0, 0.5), (4, 0.25)]}}
    page = report_page(codebook_report(table, store), examples=examples, items=items, maps=maps, curves=curves)
    first = examples["random"][0]
    assert f'<figcaption title="Thing &lt;{first}&gt;">Thing' in page and "-webkit-line-clamp: 4" in page
    assert page.count("<figure>") == 8 * (3 + 3 + 1) and "Thing &lt;i" in page and "Thing <" not in page
    assert page.count("data:image/jpeg;base64,AAAA") >= 1
    assert page.count("<svg") == 2 + 4 + 1
    assert page.index("text embeddings, coloured by the first text") < page.index(
        "text embeddings, coloured by the first image"
    )
    assert "During training" in page and ">text 0.25<" in page
    assert "any two items" in page and "text embeddings</td><td>image codes" in page


def test_a_blend_is_told_with_its_sources_and_weights():
    blend = {
        "serves": "blend", "best": "popularity", "num_users": 30, "num_purchases": 31, "target_among_candidates": 0.5,
        "ndcg@10": {"blend": 0.4, "popularity": 0.1},
        "weights": {"what the model says": {"model_text": [0.5, 0.1], "missed_text": [-0.25, 0.1]}},
    }  # fmt: skip
    page = report_page(codebook_report(parts()[0]), blend=blend)
    assert page.index("Recommendations are made by the") < page.index('<div class="tiles">')
    rows = re.findall(r"<td>([^<]*)</td>\s*<td class=\"number\">([-+.\d]+)</td>", page)
    assert ("the blend of model and purchases, which serves", "0.400") in rows and ("best sellers", "0.100") in rows
    assert ("model_text", "+0.50") in rows and ("missed_text", "-0.25") in rows and "50% of these" in page
    assert 'class="bar more" style="width:100.0%"' in page and 'class="bar less" style="width:50.0%"' in page
    assert "What recommendations rest on" not in report_page(codebook_report(parts()[0]))


def test_every_link_leads_to_a_place_on_the_page():
    page = report_page(codebook_report(*parts()))
    targets = set(re.findall(r'href="([^"]*)"', page))
    assert targets and all(f'id="{target.removeprefix("#")}"' in page for target in targets)


def test_prefix_words():
    assert (
        prefix_words(1) == "first code"
        and prefix_words(3) == "first three codes"
        and prefix_words(6) == "first 6 codes"
    )
