import json
import os
import re

import pytest
from folder_listings import check_modes, check_names, documented

from macrec_hf.cli import demo, main
from macrec_hf.cli.demo import choose_customers, evaluated_lists, run_verb, stages
from macrec_hf.demo.page import headline, ranked_results, repeats, write_page
from macrec_hf.demo.shop import make_demo_shop

METRICS = {
    "split": "test",
    "num_users": 7,
    "text": {"hr@1": 0.1, "hr@5": 0.2, "hr@10": 0.3, "ndcg@10": 0.25},
    "ensemble": {"hr@1": 0.2, "hr@5": 0.4, "hr@10": 0.6, "ndcg@10": 0.5},
    "popularity": {"hr@1": 0.0, "hr@5": 0.05, "hr@10": 0.06, "ndcg@10": 0.03},
    "intervals": {"text": {"hr@10": [0.2, 0.4]}},
    "coverage": {"text": 0.5},
    "quoted": "shown",
    "repeat_rate": 0.25,
    "verdict": {"row": "ensemble", "best": "popularity", "outcome": "better", "text": "<ensemble>: `macrec doctor`."},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_demo_shop(tmp_path_factory.mktemp("shop"), num_items=30, num_customers=20, seed=0)


def test_whole_demo_on_a_tiny_shop(tmp_path, monkeypatch, capfd):
    shorter = {"quantize": ["--epochs", "40"], "train": ["--epochs", "4"]}  # of 1,000 and 15
    monkeypatch.setattr(demo, "stages", lambda *of: [[*words, *shorter.get(words[0], [])] for words in stages(*of)])
    before = os.umask(0o027)
    try:
        assert main(["demo", "--output", str(tmp_path / "demo"), "--num-items", "40", "--num-customers", "30"]) == 0
    finally:
        os.umask(before)
    check_names(tmp_path / "demo", documented("data_formats.md", "The folder of `macrec demo`"))
    check_names(tmp_path / "demo" / "ids", documented("data_formats.md", "Semantic IDs"))
    check_names(tmp_path / "demo" / "model", documented("architecture.md", "A model directory"))
    for part in ("shop", "ids", "model"):
        check_modes(tmp_path / "demo" / part, 0o027)
    out = capfd.readouterr().out
    verbs = re.findall(r"^\$ macrec (\w+) ", out, re.M)
    assert verbs == ["embed", "quantize", "train", "evaluate", "recommend"]
    assert not re.search("^Next: ", out, re.M), "the demo itself goes on"
    assert out.splitlines()[-2].endswith("index.html")
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("<figure") >= 6 * (1 + 10) and page.count("<svg") == 4
    assert "Nothing was logged" not in page
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page), "the page must not load anything"
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    column = metrics if metrics["quoted"] == "shown" else metrics["hidden"]
    assert f"{column['ensemble']['hr@10']:.3f}" in page and f"{column['popularity']['hr@10']:.3f}" in page
    assert out.splitlines()[-1] == metrics["verdict"]["text"] and "Verdict: blend" in page
    plain = re.sub(r"<[^>]*>", "", page)
    assert (
        "semantic IDs</h2>" in page
        and "macrec app " in plain
        and f"({metrics['verdict']['best'].replace('_', '-')})" in page
    )
    for line in re.findall(r"^\$ (.*)$", out, re.M):
        assert line.split(" --")[0] in plain


def test_customers_histories_stop_before_their_last_purchase(shop, tmp_path):
    examples = choose_customers(shop, tmp_path)
    bought = {}
    for line in shop.interactions.read_text().splitlines()[1:]:
        user, item, _ = line.split(",")
        bought.setdefault(user, []).append(item)
    users = [json.loads(line) for line in (tmp_path / "users.jsonl").read_text().splitlines()]
    assert len(examples) == len(users) == 6
    for example, user in zip(examples, users, strict=True):
        assert [*example["history"], example["target"]] == bought[example["user_id"]]
        assert user == {"user_id": example["user_id"], "history": example["history"]}


def test_commands_are_chained_by_their_outputs(shop, tmp_path):
    embed, quantize, train, evaluate, recommend = stages(shop, tmp_path, seed=7)
    after = lambda words, flag: words[words.index(flag) + 1]  # noqa: E731
    assert after(quantize, "--embeddings") == after(embed, "--output")
    assert after(train, "--semantic-ids") == after(quantize, "--output")
    assert after(evaluate, "--model") == after(recommend, "--model") == after(train, "--output")
    assert after(quantize, "--seed") == after(train, "--seed") == "7"


def test_a_verb_that_fails_stops_the_demo(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="macrec embed --items .*nowhere.jsonl.* ended with status 1"):
        run_verb(["embed", "--items", str(tmp_path / "nowhere.jsonl"), "--output", str(tmp_path / "emb")])
    assert "no such file" in capfd.readouterr().err


def test_page_marks_the_purchase_that_was_found(shop, tmp_path):
    def product(number, title):
        return {"item_id": str(number), "title": title, "image": shop.images / f"p{number:04d}.jpg"}

    mug, lamp, odd = product(1, "Red mug"), product(2, "Lamp"), product(3, "<b>Cap</b> & co")
    found = {"name": "c1", "history": [mug], "target": lamp, "recommended": [odd, lamp]}
    missed = {"name": "c2", "history": [mug], "target": lamp, "recommended": [odd]}
    page = write_page(
        tmp_path / "a.html",
        customers=[found, missed],
        metrics=METRICS,
        curves={"Loss": {"training": [(1, 2.0), (5, 1.0)]}},
        facts=["One & two"],
        commands=[("macrec embed", 3.4)],
        example={
            "product": mug,
            "ids": [
                {"modality": "text", "tokens": "<a_1><b_2>", "first": "<a_1>", "alike": [lamp]},
                {"modality": "image", "tokens": "<A_7><B_2>", "first": "<A_7>", "alike": []},
            ],
        },
        next_steps=[("look & see", "macrec app model")],
    ).read_text()
    assert page.count('<figure class="hit">') == 1 and page.count("<figure>") == 6 + 2
    assert "text: <code>&lt;a_1&gt;&lt;b_2&gt;</code>" in page and "No other product begins with" in page
    assert "<span>macrec</span> <span>app</span> <span>model</span> </code>" in page and "# look &amp; see" in page
    assert "ten by the best count (popularity) 6%" in page and "&lt;ensemble&gt;: <code>macrec doctor</code>." in page
    assert "25% of the next purchases are of a product that the customer has" in page
    assert "<b>Cap</b>" not in page and "&lt;b&gt;Cap&lt;/b&gt; &amp; co" in page and "One &amp; two" in page
    assert page.count("data:image/jpeg;base64,") == 7 + 2 and "# 3 s" in page


def test_results_are_sorted_and_hold_only_rows_of_figures(shop, tmp_path):
    assert [row["name"] for row in ranked_results(METRICS)] == [
        "the model, by text and photo",
        "the model, by text alone",
        "best sellers",
    ]
    told = {"customers": [], "curves": {}, "facts": [], "commands": [], "next_steps": []}
    told["example"] = {"product": {"title": "Mug", "image": shop.images / "p0001.jpg"}, "ids": []}
    table = write_page(tmp_path / "a.html", metrics=METRICS, **told).read_text().split("<table>")[1]
    assert re.findall(r"<td>([^<]+)</td>", table) == [row["name"] for row in ranked_results(METRICS)]
    assert re.findall(r"width:([\d.]+)%", table) == ["100.0", "50.0", "10.0"]
    hidden = METRICS | {"quoted": "hidden", "hidden": {"popularity": METRICS["text"], "text": METRICS["popularity"]}}
    assert [row["name"] for row in ranked_results(hidden)] == ["best sellers", "the model, by text alone"]
    assert table.count('class="ours"') == 2 and "7 customers" in table and ">0.600<" in table


def test_lists_of_the_page_are_those_that_were_judged(tmp_path):
    line = {"user_id": "u", "target": "a", "blend": [["b", -1], ["a", -2]], "hidden": {"blend": [["c", -1]]}}
    (tmp_path / "lists.jsonl").write_text(json.dumps(line) + "\n\n")
    assert evaluated_lists(tmp_path / "lists.jsonl", "blend", "shown") == {"u": ["b", "a"]}
    assert evaluated_lists(tmp_path / "lists.jsonl", "blend", "hidden") == {"u": ["c"]}


@pytest.mark.parametrize(
    ("outcome", "said", "won"),
    [
        ("better", "Ten recommendations hold a customer's next purchase 60% of the time, ten by the best count", True),
        ("worse", "Counting wins here: ten products by the best count (co-occurrence) hold a customer's next ", False),
        ("undecided", "Nobody wins here: ten products by the best count (co-occurrence) hold", False),
    ],
)
def test_the_page_says_what_came_out(outcome, said, won, shop, tmp_path):
    verdict = METRICS["verdict"] | {"outcome": outcome, "best": "co_occurrence"}
    metrics = METRICS | {"verdict": verdict, "co_occurrence": METRICS["text"]}
    text, is_won = headline(metrics)
    assert text.startswith(said) and is_won is won
    assert all(figure in text for figure in ("60%", "30%", "6%"))
    told = {"customers": [], "curves": {}, "facts": [], "commands": [], "next_steps": []}
    told["example"] = {"product": {"title": "Mug", "image": shop.images / "p0001.jpg"}, "ids": []}
    page = write_page(tmp_path / "a.html", metrics=metrics, **told).read_text()
    assert f'<div class="verdict{"" if won else " warn"}">' in page


def test_where_nobody_buys_twice_the_page_says_so():
    assert "lists leave out what the customer has" in repeats(METRICS | {"quoted": "hidden", "repeat_rate": 0.0})
