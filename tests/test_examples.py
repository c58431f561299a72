"""The numbered examples run one after the other on a tiny shop, as their README says, and show what they promise."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from macrec_hf import SemanticIdTable

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {
    "1_semantic_ids.py": ["--items", "30", "--customers", "24", "--epochs", "3"],
    "2_train_recommender.py": ["--epochs", "1", "--d-model", "16"],
    "3_recommend_and_evaluate.py": ["--num-beams", "30"],
    "4_tiger_and_mql4grec.py": ["--quantizer-epochs", "2", "--epochs", "0.2"],
    "6_living_catalogue.py": ["--epochs", "0.2"],
}
ALONE = ["5_ablations.py"]
FURTHER = {"7_other_libraries.py": ["--epochs", "1"]}  # needs a library that is no part of the package
SHOWN = {
    "1_semantic_ids.py": r"after training: [\d.]+\ntext: \d+ of 30 items[\s\S]*<a_\d+><b_\d+><c_\d+><d_\d+> <A_",
    "2_train_recommender.py": r"saved to .*model",
    "3_recommend_and_evaluate.py": r"ensemble: HR@10 [\d.]+[\s\S]*difference of scores (0\.0e\+00|\d\.\de-0[4-9])",
    "7_other_libraries.py": r"sasrec: trained[\s\S]*cornac_tiger: HR@10 [\d.]+ \([\s\S]*Verdict",
    "6_living_catalogue.py": r"before: {[\s\S]*at once: {.*new items reached[\s\S]*fine-tuned: {.*cosine to",
    "4_tiger_and_mql4grec.py": r"TIGER: \d+ examples, HR@10[\s\S]*MQL4GRec: \d+ examples[\s\S]*MACRec: \d+ examples",
}


def run(name: str, arguments: list[str], monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    for name, arguments in SMALL.items():
        run(name, ["--output", str(tmp_path), *arguments], monkeypatch)
        assert re.search(SHOWN[name], capsys.readouterr().out), f"{name} did not print what it should"
    pytest.importorskip("cornac", reason="the other examples ran; 7_other_libraries.py needs macrec-hf[baselines]")
    for name, arguments in FURTHER.items():
        run(name, ["--output", str(tmp_path), *arguments], monkeypatch)
        assert re.search(SHOWN[name], capsys.readouterr().out), f"{name} did not print what it should"


@pytest.mark.parametrize("name", [*list(SMALL)[1:], *FURTHER])
def test_an_example_says_which_one_comes_before_it(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SystemExit, match=r"run examples/\d_\w+\.py first"):
        run(name, ["--output", str(tmp_path)], monkeypatch)


def test_every_example_is_short_and_in_the_table():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = sorted(EXAMPLES.glob("[0-9]_*.py"))
    assert [script.name for script in scripts] == sorted([*SMALL, *ALONE, *FURTHER])
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 90
        assert f"\npython examples/{script.name}\n" in text
        assert f"`python examples/{script.name}`" in table


ABLATIONS = [
    "--items", "30", "--customers", "24", "--seeds", "2", "--drop-photos", "0.2",
    "--rows", "MACRec,TIGER (image),photos missing",
    "--quantize", "--num-levels 2 --codebook-size 12 --hidden-sizes 16 --num-pseudo-labels 4 --epochs 1 "
    "--evaluations 1 --contrastive-weights 0,0.1",
    "--train", "--d-model 16 --d-kv 8 --d-ff 16 --num-heads 2 --num-layers 1 --num-decoder-layers 1 --max-steps 1",
]  # fmt: skip


def test_the_ablations_fill_both_tables_and_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    run("5_ablations.py", ["--output", str(tmp_path), *ABLATIONS], monkeypatch)
    shown = capsys.readouterr().out
    text = (tmp_path / "ablations.md").read_text(encoding="utf-8")
    assert text in shown and re.search(
        r"\| TIGER \(image\) \| ([\d.]+ \([\d.]+–[\d.]+\) \| ){5}[+-][^|]* p [\d.]+ \|", text
    )
    found = json.loads((tmp_path / "ablations.json").read_text())
    assert list(found["rows"]) == ["MACRec", "TIGER (image)", "photos missing"]
    for name, row in found["rows"].items():
        tests = [tmp_path / f"seed_{seed}" / "models" / name / "test" / "metrics.json" for seed in range(2)]
        metrics = [json.loads(path.read_text())["ensemble"] for path in tests]
        for metric, one in row["metrics"].items():
            mean = (metrics[0][metric] + metrics[1][metric]) / 2
            assert one["value"] == pytest.approx(mean) and one["low"] <= one["value"]
            full = found["rows"]["MACRec"]["metrics"][metric]["value"]
            if metric in row["against_first"]:
                assert row["against_first"][metric]["difference"] == pytest.approx(one["value"] - full)
    counts = {name: {m: items for m, (_, items) in rates.items()} for name, rates in found["collision_rates"].items()}
    both = {"text": 30, "image": 30}
    assert counts == {"cross-modal": both, "image": {"image": 30}, "photos missing": both | {"image": 24}}
    table = SemanticIdTable.from_pretrained(tmp_path / "seed_1" / "ids" / "photos missing")
    assert (table.codes["image"][:, 0] < 0).sum() == 6  # a fifth of 30

    # Again: nothing is done twice. One step taken back: that one alone. Other flags: refused.
    (tmp_path / "seed_0" / "models" / "TIGER (image)" / "test" / "evaluate_step.json").unlink()
    run("5_ablations.py", ["--output", str(tmp_path), *ABLATIONS], monkeypatch)
    assert re.findall(r"^\$ macrec (\w+)", capsys.readouterr().out, re.M) == ["evaluate"]
    with pytest.raises(SystemExit, match=r"expected what `macrec quantize .*made. Choose another --output"):
        run("5_ablations.py", ["--output", str(tmp_path), *ABLATIONS, "--quantize", "--num-levels 3"], monkeypatch)
