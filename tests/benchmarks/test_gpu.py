"""The benchmark of a GPU, rehearsed on a CPU: what it would measure can be measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {"card", "loader", "launches", "parity", "decode", "train", "kernels", "stage", "compiled"}


@pytest.mark.slow
def test_every_section_goes_through(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--output", str(tmp_path / "gpu.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found) == SECTIONS | {"torch"}
    here = (ROOT.parent / "shared" / "data" / "instruments").exists()
    assert (found["stage"] is not None) == here  # which needs the data set
    assert found["parity"]["bfloat16"] > 50 and found["decode"]
