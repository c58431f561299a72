"""The clock and the table of benchmarks/paper_instruments.py; its trainings need a GPU."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from macrec_hf import SemanticIdTable

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import paper_instruments

    return paper_instruments


def test_the_rate_rises_and_falls_with_the_time(script):
    rates = [script.factor(share / 100) for share in range(101)]
    assert rates[0] == 0 and rates[5] == 1 == max(rates) and rates[100] == pytest.approx(0)
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert script.factor(1.5) == pytest.approx(0)  # a last step that takes longer


def test_the_clock_sets_rates_asks_for_ten_validations_and_ends(script, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: now[0]))
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 10.0}])
    clock, state, ends = script.clock_callback(20.0, 10), SimpleNamespace(global_step=1), []
    for step in range(21):
        control = SimpleNamespace(should_training_stop=False, should_evaluate=False, should_save=False)
        clock.on_step_begin(None, state, control, optimizer=optimizer)
        slow, fast = (group["lr"] for group in optimizer.param_groups)
        assert fast == pytest.approx(10 * slow) and slow == pytest.approx(script.factor(max(step / 20, 1e-3)))
        now[0] += 1
        clock.on_step_end(None, state, control)
        ends.append(control.should_training_stop)
        if control.should_evaluate:
            assert control.should_save
            clock.on_evaluate(None, state, control, metrics={"eval_hr@10": 0.1, "eval_ndcg@10": step / 100})
        if ends[-1]:
            break
    assert ends == [False] * 19 + [True] and clock.curve == pytest.approx([step / 100 for step in range(1, 20, 2)])


def test_the_paper_stands_in_the_line_that_it_is_of(script, tmp_path, capsys):
    figures = {"hr@10": 0.12, "ndcg@10": 0.09}
    report = {name: figures | {"string_hr@10": 0.13} for name in ("text", "image", "ensemble")}
    training = {"steps": 7, "epochs": 0.5, "validation": [0.1], "still_rising": True}
    report |= dict.fromkeys(("blend", "item_regression", "co_occurrence"), figures) | {
        "model_rows": ["text", "image", "ensemble", "blend"]
    }
    (tmp_path / "MACRec").mkdir()
    (tmp_path / "MACRec" / "report.json").write_text(json.dumps(report | {"training": training}))
    script.print_table(tmp_path, ["MACRec"])
    lines = capsys.readouterr().out.splitlines()
    assert "0.1200   0.1300   0.0900       0.1363   0.1046" in lines[3] and lines[3].startswith("MACRec ensemble")
    assert not any("0.1363" in line for line in [*lines[:3], *lines[4:]])
    assert "NOT CONVERGED" in lines[-1]


def test_an_item_with_the_targets_id_is_a_hit(script):
    codes = {"text": [[0, 1], [0, 1], [2, 2], [3, 3]], "image": [[1, 1], [2, 2], [-1, -1], [2, 2]]}
    table = SemanticIdTable(["a", "b", "c", "d"], codes, codebook_size=4)
    targets = np.array([1, 1, 1, 2, 2, 0])
    lists = np.array([[0, -1], [3, -1], [2, -1], [2, -1], [-1, -1], [3, 2]])
    # the text ID of item 0, the image ID of item 3, nothing, the item itself, no list, nothing
    assert script.shared_hits(table, lists, targets) == pytest.approx(3 / 6)
