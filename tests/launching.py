"""Runs scripts and modules under `accelerate launch` with a shipped configuration."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "examples" / "accelerate_configs" / "cpu_2_processes.yaml"


def launch(*command, timeout=600, config=CONFIG, folder=ROOT):
    """Runs a script or `-m module` under `accelerate launch` with a shipped configuration."""
    chosen = ["--config_file", str(config)] if config else []
    words = [sys.executable, "-m", "accelerate.commands.launch", *chosen, *command]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout)
    return done
