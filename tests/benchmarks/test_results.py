"""The tables of benchmarks/results.py against figures by hand, and the lists that they come from."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = "--hidden-sizes 16 --codebook-size 12 --num-pseudo-labels 4 --epochs 1 --evaluations 1"
TINY = "--d-model 16 --d-kv 8 --d-ff 16 --num-heads 2 --num-layers 1 --num-decoder-layers 1 --max-steps 2"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import result_lists
    import results

    return result_lists, results


def write_predictions(path: Path, places: dict[str, list[int | None]], only_shown: tuple[str, ...] = ()) -> None:
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
        hidden = {name: lists[name] for name in lists if name not in only_shown}
        lines.append({"user_id": f"u{user}", "target": "wanted", **lists, "hidden": hidden})
    path.write_text("\n".join(json.dumps(line) for line in reversed(lines)) + "\n")


@pytest.fixture
def lists(tmp_path):
    """Two users, two seeds; another row, one of another library, and counting."""
    folder = tmp_path / "shop"
    counted = {"popularity": [None, 5], "sasrec": [0, 11]}
    write_predictions(
        folder / "MACRec" / "seed-0.jsonl", {"blend": [0, 1], "ensemble": [3, None], **counted}, ("sasrec",)
    )
    write_predictions(
        folder / "MACRec" / "seed-1.jsonl", {"blend": [0, 0], "ensemble": [0, None], **counted}, ("sasrec",)
    )
    for seed in range(2):
        write_predictions(folder / "TIGER" / f"seed-{seed}.jsonl", {"ensemble": [9, 10]})
    coverage = {"blend": 0.5, "ensemble": 0.25, "popularity": 0.01}
    report = {"quoted": "shown", "model_rows": ["ensemble", "blend"], "num_users": 2, "num_items": 40}
    report |= {"coverage": coverage, "hidden": {"coverage": coverage}}
    (folder / "MACRec" / "seed-0.json").write_text(json.dumps(report))
    one = {"minutes": 1.5, "converged": True, "configuration": {"width": 64}}
    for name, kept in (("MACRec", one), ("TIGER", one | {"converged": False}), ("others/sasrec", one)):
        path = folder / (f"{name}.json" if "/" in name else f"{name}/record.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"tried": [one], "kept": [kept]}))
    return tmp_path


def test_figures_are_means_over_users_of_their_means_over_the_seeds(scripts, lists):
    rows, _ = scripts[1].read_rows(lists / "shop")
    assert list(rows) == ["blend", "MACRec", "TIGER", "sasrec", "popularity"]
    second, third = 1 / math.log2(3), 1 / math.log2(5)
    np.testing.assert_allclose(rows["blend"].users[:, 0], [[1, 1], [1, (second + 1) / 2]])
    np.testing.assert_allclose(rows["MACRec"].users[:, 0], [[1, (third + 1) / 2], [0, 0]])
    np.testing.assert_allclose(rows["TIGER"].users[:, 0], [[1, 1 / math.log2(11)], [0, 0]])  # the eleventh is too late
    np.testing.assert_allclose(rows["sasrec"].users, [[[1, 1], [0, 0]], [[0, 0], [0, 0]]])  # hidden: left out


def test_holm_is_the_step_down_rule(scripts):
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}
    adjusted = scripts[1].holm(values)
    # By the definition: the k-th smallest of m is rejected at level x where (m - j + 1) p_j <= x for all j <= k.
    for name, value in values.items():
        smaller = sorted(one for one in values.values() if one <= value)
        assert adjusted[name] == pytest.approx(max((4 - place) * one for place, one in enumerate(smaller)))


def test_the_page_gets_its_table_and_keeps_the_rest(scripts, lists, tmp_path, monkeypatch, capsys):
    page = tmp_path / "results.md"
    page.write_text("# Results\n<!-- table: shop -->\nold\n<!-- end -->\nSentences.\n")
    monkeypatch.setattr(sys, "argv", ["results.py", "--lists", str(lists), "--page", str(page)])
    scripts[1].main()
    text = page.read_text()
    assert text.startswith("# Results\n<!-- table: shop -->\n| |") and text.endswith("<!-- end -->\nSentences.\n")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[1:]] == [
        "| **blend**", "| sasrec", "| **MACRec**", "| popularity", "| TIGER, not converged",
    ]  # fmt: skip
    assert "| 0.5000 (0.0000–1.0000) |" in table[2] and table[5].count(" p ") == 0 and table[3].count(" p ") == 1
    assert "- TIGER: 1, 1.5 to 1.5; kept `width 64`" in text
    for place in ("# Results\n", "# Results\n<!-- table: shop -->\n"):  # no place, and one without an end
        page.write_text(place)
        capsys.readouterr()
        scripts[1].main()
        assert page.read_text() == place
        assert re.search(r"\| \*\*blend\*\* [\s\S]*stays as it is: `<!-- table: shop -->`", capsys.readouterr().out)


def test_rows_of_other_users_are_refused(scripts, lists):
    write_predictions(lists / "shop" / "TIGER" / "seed-1.jsonl", {"ensemble": [9]})
    with pytest.raises(SystemExit, match="expected predictions of the same users"):
        scripts[1].read_rows(lists / "shop")


@pytest.mark.slow
def test_lists_become_a_table(scripts, tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    page.write_text("<!-- table: demo -->\n<!-- end -->\n")
    words = ["--shop", "30x24", "--output", str(tmp_path), "--rows", "MACRec,residual k-means,LETTER-like,P5-CID IDs"]
    words += ["--configurations", "1", "--seeds", "0,1", "--jobs", "2", "--quantize", SMALL, "--train", TINY]
    monkeypatch.setattr(sys, "argv", ["result_lists.py", *words])
    scripts[0].main()
    rows, report = scripts[1].read_rows(tmp_path / "demo")
    assert {"blend", "MACRec", "residual k-means", "LETTER-like", "P5-CID IDs", "own_sasrec", "own_fdsa"} < set(rows)
    for name in ("hr@10", "ndcg@10"):  # as evaluate says it, without ties
        place = ["hr@10", "ndcg@10"].index(name)
        assert rows["blend"].figures[0, :, 0, place].mean() == pytest.approx(report["blend"][name])
        assert rows["popularity"].users[:, 1, place].mean() == pytest.approx(report["hidden"]["popularity"][name])
    record = json.loads((tmp_path / "demo" / "MACRec" / "record.json").read_text())
    assert len(record["tried"]) == 1 and [one["seed"] for one in record["kept"]] == [0, 1]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    scripts[0].main()  # nothing is made twice
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
