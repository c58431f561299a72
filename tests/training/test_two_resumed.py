"""A run of two processes, killed in the middle of an epoch and resumed, ends with the bits of an uninterrupted one."""

import json

import pytest
from forks import run_alone
from killing import compare
from launching import launch
from two_resumed import forked

from macrec_hf.training.checkpoints import checkpoints_in


def last_state(output):
    return json.loads((checkpoints_in(output / "checkpoints")[0] / "trainer_state.json").read_text())


def last_metrics(state):
    """What the last evaluation found, without its times."""
    line = [line for line in state["log_history"] if line["step"] == 24 and "eval_runtime" in line][-1]
    return {name: value for name, value in line.items() if not name.endswith(("runtime", "per_second"))}


@pytest.mark.parametrize(
    "stages, launched",
    [
        pytest.param(["quantize"], False, id="forked"),
        pytest.param(["quantize", "train"], True, marks=pytest.mark.slow, id="launched"),
    ],
)
def test_two_processes_resume_within_an_epoch_to_the_same_bits(tmp_path, stages, launched):
    if launched:
        done = launch("tests/two_resumed.py", str(tmp_path), *stages)
    else:
        done = run_alone(lambda: forked(tmp_path, stages))
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in stages:
        landed = json.loads((tmp_path / f"{stage}.json").read_text())
        assert 6 <= landed["step"] < 24 and landed["epoch"] % 1 > 0, landed
        compare(tmp_path / stage / "whole", tmp_path / stage / "part", stage)
        whole, part = (last_state(tmp_path / stage / name) for name in ("whole", "part"))
        assert whole["global_step"] == part["global_step"] == 24
        assert last_metrics(whole) == last_metrics(part)
