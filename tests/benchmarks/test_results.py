"""The tables of benchmarks/results.py against figures by hand, and the lists that they come from."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from macrec_hf import MacRecRecommender, evaluate

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = "--hidden-sizes 16 --codebook-size 12 --num-pseudo-labels 4 --epochs 1 --evaluations 1"
TINY = "--d-model 16 --d-kv 8 --d-ff 16 --num-heads 2 --num-layers 1 --num-decoder-layers 1 --max-steps 2"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import result_lists
    import results

    return result_lists, results


def write_predictions(path: Path, places: dict[str, list[int | None]]) -> None:
    """A user a place: the target stands at that place of its list (0 is the first), or nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for user in range(len(next(iter(places.values())))):
        lists = {}
        for name, of_users in places.items():
            items = [[f"other{rank}", -float(rank)] for rank in range(12)]
            if of_users[user] is not None:
                items[of_users[user]][0] = "wanted"
            lists[name] = items
        lines.append({"user_id": f"u{user}", "target": "wanted", **lists, "hidden": lists})
    path.write_text("\n".join(json.dumps(line) for line in reversed(lines)) + "\n")


# Oldest last in the file; the third user has no test purchase.
PURCHASES = pd.DataFrame(
    [("u0", "wanted", 3), ("u0", "thing", 2), ("u0", "other0", 1), ("u2", "thing", 1), ("u2", "wanted", 2)]
    + [("u1", "other1", 1), ("u1", "other0", 2), ("u1", "wanted", 3)],
    columns=["user_id", "item_id", "timestamp"],
)


def write_other(path: Path, places: dict[str, int]) -> None:
    lines = []
    for user, place in places.items():
        items = [f"other{rank}" for rank in range(12)]
        lines.append({"user_id": user, "items": [*items[:place], "wanted", *items[place:]]})
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


@pytest.fixture
def figures(tmp_path, scripts):
    """The file of two users and two seeds; another row, one of another library, and counting."""
    folder = tmp_path / "shop"
    counted = {"popularity": [None, 5]}
    write_predictions(folder / "MACRec" / "0" / "lists.jsonl", {"blend": [0, 1], "ensemble": [3, None], **counted})
    write_predictions(folder / "MACRec" / "1" / "lists.jsonl", {"blend": [0, 0], "ensemble": [0, None], **counted})
    for seed in range(2):
        write_predictions(folder / "TIGER" / str(seed) / "lists.jsonl", {"ensemble": [9, 10]})
    coverage = {"blend": 0.5, "ensemble": 0.25, "popularity": 0.01}
    report = {"quoted": "shown", "model_rows": ["ensemble", "blend"], "num_users": 2, "num_items": 40}
    report |= {"coverage": coverage, "hidden": {"coverage": coverage}}
    for name in ("MACRec", "TIGER"):
        (folder / name / "0" / "evaluation.json").write_text(json.dumps(report))
    one = {"minutes": 1.5, "converged": True, "configuration": {"width": 64}}
    for name, kept in (("MACRec", one), ("TIGER", one | {"converged": False}), ("others/sasrec", one)):
        path = folder / (f"{name}.json" if "/" in name else f"{name}/record.json")
        path.parent.mkdir(exist_ok=True)
        seeds = [0] if "/" in name else [0, 1]
        path.write_text(
            json.dumps({"tried": [one], "kept": [kept | {"seed": seed, "model": str(seed)} for seed in seeds]})
        )
    path = tmp_path / "figures" / "shop.json"
    for name in ("MACRec", "TIGER"):
        scripts[1].keep_figures(folder, name, PURCHASES, path)
    write_other(folder / "others" / "sasrec.seed-0.jsonl", {"u1": 11, "u0": 2, "u2": 0})
    with pytest.raises(SystemExit, match="expected lists of the 2 users with a test purchase, got 3"):
        scripts[1].keep_other_figures(folder / "others", "sasrec", {"seeds": [0]}, PURCHASES, path)
    write_other(folder / "others" / "sasrec.seed-0.jsonl", {"u1": 11, "u0": 2})
    scripts[1].keep_other_figures(folder / "others", "sasrec", {"seeds": [0]}, PURCHASES, path)
    return path


def test_figures_are_means_over_users_of_their_means_over_the_seeds(scripts, figures):
    rows, about = scripts[1].read_figures(figures)
    assert list(rows) == ["blend", "MACRec", "popularity", "TIGER", "sasrec"]
    assert (about["quoted"], about["num_users"], about["num_items"]) == ("shown", 2, 40)
    assert rows["TIGER"].coverage == [0.25, 0.25] and rows["sasrec"].coverage == [11 / 40, 11 / 40]
    second, third = 1 / math.log2(3), 1 / math.log2(5)
    np.testing.assert_allclose(rows["blend"].users[:, 0], [[1, 1], [1, (second + 1) / 2]])
    np.testing.assert_allclose(rows["MACRec"].users[:, 0], [[1, (third + 1) / 2], [0, 0]])
    np.testing.assert_allclose(rows["TIGER"].users[:, 0], [[1, 1 / math.log2(11)], [0, 0]])  # the eleventh is too late
    # Own items are left out of the hidden list: the third place becomes the second, the twelfth the tenth.
    np.testing.assert_allclose(
        rows["sasrec"].users, [[[1, 1 / math.log2(4)], [1, second]], [[0, 0], [1, 1 / math.log2(11)]]]
    )


def test_holm_is_the_step_down_rule(scripts):
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}
    adjusted = scripts[1].holm(values)
    # By the definition: the k-th smallest of m is rejected at level x where (m - j + 1) p_j <= x for all j <= k.
    for name, value in values.items():
        smaller = sorted(one for one in values.values() if one <= value)
        assert adjusted[name] == pytest.approx(max((4 - place) * one for place, one in enumerate(smaller)))


def test_the_page_gets_its_table_and_keeps_the_rest(scripts, figures, tmp_path, monkeypatch, capsys):
    page = tmp_path / "results.md"
    page.write_text("# Results\n<!-- table: shop -->\nold\n<!-- end -->\nSentences.\n")
    monkeypatch.setattr(sys, "argv", ["results.py", "--figures", str(figures.parent), "--page", str(page)])
    scripts[1].main()
    text = page.read_text()
    assert text.startswith("# Results\n<!-- table: shop -->\n| |") and text.endswith("<!-- end -->\nSentences.\n")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[1:]] == [
        "| **blend**", "| **MACRec**", "| sasrec", "| popularity", "| TIGER, not converged",
    ]  # fmt: skip
    assert "| 0.5000 (0.0000–1.0000) |" in table[3] and table[5].count(" p ") == 0 and table[2].count(" p ") == 1
    assert "- TIGER: 1, 1.5 to 1.5; kept `width 64`" in text
    # No place, and one without an end, or without one of its own.
    begun = "# Results\n<!-- table: shop -->\n"
    for place in ("# Results\n", begun, begun + "Prose.\n<!-- table: other -->\n<!-- end -->\n"):
        page.write_text(place)
        capsys.readouterr()
        scripts[1].main()
        assert page.read_text() == place
        assert re.search(r"\| \*\*blend\*\* [\s\S]*stays as it is: `<!-- table: shop -->`", capsys.readouterr().out)


def test_what_has_not_converged_is_not_tested_against(scripts, figures):
    rows, about = scripts[1].read_figures(figures)
    assert len(re.findall(r" p \d", scripts[1].table(rows, about))) == 6  # three other rows that converged, to both
    rows["MACRec"].record["kept"][1]["converged"] = False
    text = scripts[1].table(rows, about)
    assert len(re.findall(r" p \d", text)) == 2 and "| **MACRec**, not converged |" in text


def test_rows_of_other_users_or_purchases_are_refused_and_change_nothing(scripts, figures, tmp_path):
    before, folder = figures.read_text(), tmp_path / "shop"
    other = PURCHASES.assign(item_id=PURCHASES["item_id"].replace("thing", "other1"))  # the same targets
    with pytest.raises(SystemExit, match="TIGER: expected lists of the purchases of the rows before"):
        scripts[1].keep_figures(folder, "TIGER", other, figures)
    with pytest.raises(SystemExit, match="sasrec: expected lists of the purchases of the rows before"):
        scripts[1].keep_other_figures(folder / "others", "sasrec", {}, other, figures)
    for places in ([9], [9, 10, 11]):
        write_predictions(folder / "TIGER" / "1" / "lists.jsonl", {"ensemble": places})
        with pytest.raises(SystemExit, match="lists.jsonl: expected lists of the 2 users with a test purchase"):
            scripts[1].keep_figures(folder, "TIGER", PURCHASES, figures)
    assert figures.read_text() == before


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"rows": {"a": {"b": 1}}}', '{"rows": 3}'])
def test_damaged_figures_are_named(scripts, text, tmp_path):
    path = tmp_path / "demo.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match="demo.json: expected the figures of result_lists.py"):
        scripts[1].read_figures(path)


def test_ids_may_hold_what_looks_like_the_end_of_a_line(scripts, tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps({"user_id": "u\u2028\x85", "target": "x"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert scripts[1].read_predictions(path) == [{"user_id": "u\u2028\x85", "target": "x"}]


def test_without_the_row_that_others_are_compared_with_there_is_no_table(
    scripts, figures, tmp_path, monkeypatch, capsys
):
    scripts[1].keep_figures(tmp_path / "shop", "TIGER", PURCHASES, tmp_path / "alone" / "shop.json")
    monkeypatch.setattr(sys, "argv", ["results.py", "--figures", str(tmp_path / "alone"), "--page", "none.md"])
    scripts[1].main()
    assert capsys.readouterr().out == "shop: MACRec, which the others are compared with, has no row yet.\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "0"], "--jobs: expected at least 1"),
        (["--configurations", "0"], "--configurations: expected at least 1"),
        (["--seeds", "1,2"], "--seeds: expected 0 and those after it"),
        (["--rows", "MACRecc"], "--rows: expected some of MACRec"),
        (["--others", "sasrec"], "--others: expected some of own_sasrec, own_fdsa, got sasrec"),
        (["--interactions", "a.csv"], "--items: expected the items to embed, or --embeddings"),
        (["--interactions", "a.jsonl", "--items", "b"], "read .csv or .json, got a.jsonl"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused_before_any_training(scripts, flags, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["result_lists.py", *flags])
    with pytest.raises(SystemExit, match=re.escape(message)):
        scripts[0].main()


@pytest.mark.slow
def test_lists_become_a_table(scripts, tmp_path, monkeypatch):
    words = ["--shop", "30x24", "--output", str(tmp_path), "--rows", "MACRec,residual k-means,LETTER-like,P5-CID IDs"]
    words += ["--figures", str(tmp_path / "figures"), "--configurations", "1", "--seeds", "0,1", "--jobs", "2"]
    words += ["--quantize", SMALL, "--train", TINY]
    monkeypatch.setattr(sys, "argv", ["result_lists.py", *words])
    scripts[0].main()
    kept = tmp_path / "figures" / "demo.json"
    rows, _ = scripts[1].read_figures(kept)
    report = json.loads((tmp_path / "demo" / "MACRec" / "tried" / "0" / "evaluation.json").read_text())
    assert {"blend", "MACRec", "residual k-means", "LETTER-like", "P5-CID IDs", "own_sasrec", "own_fdsa"} < set(rows)
    for name in ("hr@10", "ndcg@10"):  # as evaluate says it, without ties
        place = ["hr@10", "ndcg@10"].index(name)
        assert rows["blend"].figures[0, :, 0, place].mean() == pytest.approx(report["blend"][name])
        assert rows["popularity"].users[:, 1, place].mean() == pytest.approx(report["hidden"]["popularity"][name])
    # As `macrec evaluate --lists` says it of a system of others.
    lists = {"own_fdsa": tmp_path / "demo" / "others" / "own_fdsa.seed-1.jsonl"}
    recommender = MacRecRecommender.from_pretrained(tmp_path / "demo" / "MACRec" / "tried" / "0")
    other = evaluate(recommender, tmp_path / "demo" / "shop" / "interactions.csv", lists=lists)
    for column, part in enumerate((other, other["hidden"])):
        hits, gains = rows["own_fdsa"].figures[1, :, column].mean(axis=0)
        assert (hits, gains) == (pytest.approx(part["own_fdsa"]["hr@10"]), pytest.approx(part["own_fdsa"]["ndcg@10"]))
    record = rows["MACRec"].record
    assert len(record["tried"]) == 1 and [one["seed"] for one in record["kept"]] == [0, 1]
    lists = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    before = kept.read_text()
    kept.write_text(before.replace("P5-CID IDs", "another"))
    scripts[0].main()  # nothing is made twice, but for what is not kept: that from what lies there
    assert lists == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    after = json.loads(kept.read_text())["rows"]
    assert after["P5-CID IDs"] == after["another"] == json.loads(before)["rows"]["P5-CID IDs"]
    for flags, message in (
        (["--seeds", "0"], "MACRec: in .* by .*'seeds': .0, 1.*Take another --name"),
        (["--shop", "40x30"], "expected what its models were made with"),
        (["--train", TINY.replace("16", "32")], "expected what its models were made with.*take another --output"),
    ):
        monkeypatch.setattr(sys, "argv", ["result_lists.py", *words, *flags])
        with pytest.raises(SystemExit, match=message):
            scripts[0].main()
    monkeypatch.setattr(sys, "argv", ["result_lists.py", *words])
    shutil.rmtree(tmp_path / "demo" / "MACRec")
    scripts[0].main()  # nor are the lists looked for once the row is kept
    assert not (tmp_path / "demo" / "MACRec").exists()
