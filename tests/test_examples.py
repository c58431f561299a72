"""The numbered examples run one after the other on a tiny shop, as their README says, and show what they promise."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {
    "1_semantic_ids.py": ["--items", "30", "--customers", "24", "--epochs", "3"],
    "2_train_recommender.py": ["--epochs", "1", "--d-model", "16"],
    "3_recommend_and_evaluate.py": ["--num-beams", "30"],
    "4_tiger_and_mql4grec.py": ["--quantizer-epochs", "2", "--epochs", "0.2"],
}
SHOWN = {
    "1_semantic_ids.py": r"after training: [\d.]+\ntext: \d+ of 30 items[\s\S]*<a_\d+><b_\d+><c_\d+><d_\d+> <A_",
    "2_train_recommender.py": r"saved to .*model",
    "3_recommend_and_evaluate.py": r"ensemble: HR@10 [\d.]+[\s\S]*difference of scores (0\.0e\+00|\d\.\de-0[4-9])",
    "4_tiger_and_mql4grec.py": r"TIGER: \d+ examples, HR@10[\s\S]*MQL4GRec: \d+ examples[\s\S]*MACRec: \d+ examples",
}


def run(name: str, arguments: list[str], monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_examples_run_in_order(tmp_path, monkeypatch, capsys):
    for name, arguments in SMALL.items():
        run(name, ["--output", str(tmp_path), *arguments], monkeypatch)
        assert re.search(SHOWN[name], capsys.readouterr().out), f"{name} did not print what it should"


@pytest.mark.parametrize("name", list(SMALL)[1:])
def test_an_example_says_which_one_comes_before_it(name, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"run examples/\d_\w+\.py first"):
        run(name, ["--output", str(tmp_path)], monkeypatch)


def test_every_example_is_short_and_in_the_table():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert [script.name for script in scripts] == list(SMALL)
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 80
        assert f"\npython examples/{script.name}\n" in text
        assert f"`python examples/{script.name}`" in table
