"""The section `stage` of benchmarks/gpu.py: the command line on a GPU, as a user runs it."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS, STEP = 20.0, 0.018  # seconds before the first step and of each, 1,024 rows of all lengths on an H100


def stage(args, left):
    """`macrec train` for some minutes, then `macrec evaluate`."""
    data = ROOT.parent / "shared" / "data" / "instruments"
    minutes, deadline = min(args.train_minutes, (left - 60) / 60), time.monotonic() + left
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
        found["evaluate"] = verb([*words, "--device", device], deadline)
    return found


def verb(words, deadline):
    started, command = time.monotonic(), [sys.executable, "-m", "macrec_hf.cli", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1, deadline - started))
    print("\n".join((done.stdout + done.stderr[-1500:]).splitlines()[-30:]))
    took = time.monotonic() - started
    print(f"macrec {words[0]}, rc {done.returncode}: {took:.1f} s", flush=True)
    done.check_returncode()
    return took
