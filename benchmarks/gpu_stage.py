"""The section `stage` of benchmarks/gpu.py: the command line on a GPU, as a user runs it."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS, STEP = 20.0, 0.018  # seconds before the first step and of each, 1,024 rows of all lengths on an H100
EVALUATION = 45  # seconds that have to be left for one


def stage(args, left):
    """`macrec train` for some minutes, then `macrec evaluate`."""
    data = ROOT.parent / "shared" / "data" / "instruments"
    minutes, deadline = min(args.train_minutes, (left - 2 * EVALUATION) / 60), time.monotonic() + left
    if not data.exists() or (minutes < 0.5 and not args.rehearse):
        print(f"stage: left out, {'no time is left' if data.exists() else f'{data} is not there'}")
        return None
    device, purchases = args.device, str(data / "Instruments.inter.json")
    index = f"text={data / 'Instruments.index_lemb.json'},image={data / 'Instruments.index_vitemb.json'}"
    sizes = ["--bf16", "true", "--size", "paper", "--batch-size", "1024", "--eval-users", "2000"]
    with tempfile.TemporaryDirectory() as folder:
        model, found = Path(folder) / "model", {}
        steps = "2" if args.rehearse else str(int((minutes * 60 - IMPORTS) / STEP))
        if args.rehearse:
            users = dict(list(json.loads(Path(purchases).read_text()).items())[:60])
            purchases = str(Path(folder) / "Instruments.inter.json")
            Path(purchases).write_text(json.dumps(users))
            sizes += ["--batch-size", "8", "--eval-users", "4", "--d-model", "16", "--num-layers", "1"]
        words = ["train", "--interactions", purchases, "--semantic-ids", index, "--output", str(model), *sizes]
        found["train"] = verb([*words, "--max-steps", steps, "--device", device], deadline)
        words = ["evaluate", "--model", str(model), "--interactions", purchases, "--split", "test", "--no-card"]
        for dtype in ("bfloat16", "float32"):
            if deadline - time.monotonic() < EVALUATION and not args.rehearse:
                print(f"evaluate in {dtype}: left out")
                continue
            found[f"evaluate, {dtype}"] = verb([*words, "--dtype", dtype, "--device", device], deadline)
    return found


def verb(words, deadline):
    """Seconds that a verb took, each line of it after the second at which it came; None where it failed."""
    started, command = time.monotonic(), [sys.executable, "-m", "macrec_hf.cli", *words]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, text=True, env=environment, **pipes) as child:
        stopped = threading.Timer(max(1, deadline - started), child.kill)
        stopped.start()
        for line in child.stdout:
            if "\r" not in line and "it/s" not in line:
                print(f"{time.monotonic() - started:7.1f} s  {line.rstrip()[:300]}", flush=True)
        child.wait()
        stopped.cancel()
    took = time.monotonic() - started
    print(f"macrec {words[0]}, rc {child.returncode}: {took:.1f} s", flush=True)
    return None if child.returncode else took
