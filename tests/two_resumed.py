"""Training verbs on two processes: whole, and killed within an epoch and resumed.

`python tests/two_resumed.py FOLDER STAGE …`, alone (then it forks the two) or under `accelerate launch`, leaves
FOLDER/STAGE/{whole,part} and FOLDER/STAGE.json, which tells where the kill landed. Every run is a fork of a process
that has imported everything, with a port of its own.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from forks import fork_two, free_port
from killing import make_inputs, start, words

from macrec_hf.training.checkpoints import checkpoints_in

# Smaller batches than the other tests': 8 and 10 steps an epoch, a checkpoint every 3 and 2.
CHANGES = {"quantize": ["--batch-size", "4"], "train": []}


def begin(arguments: list[str], log: Path, port: int) -> int:
    """One run on a port of its own; the launcher's own meeting place stays unused."""
    os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(port), "False"
    return start(arguments, log)


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_within_an_epoch(child: int, output: Path, after: int) -> None:
    """`kill -9` once a checkpoint of at least `after` steps is there."""
    begun = time.time()
    while not any(int(path.name[11:]) >= after for path in checkpoints_in(output / "checkpoints")):
        if time.time() - begun > 300 or os.waitpid(child, os.WNOHANG)[0]:
            raise RuntimeError(f"{output}: no checkpoint to kill after")
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    if end(child) == 0:
        raise RuntimeError("the run ended before it was killed")


def main(folder: Path, stages: list[str], port: int) -> None:
    rank = os.environ["RANK"]
    for stage in stages:
        log, inputs = folder / f"log-{rank}.txt", folder / "inputs"
        whole, part = (words(stage, inputs, folder / stage / name) + CHANGES[stage] for name in ("whole", "part"))
        if status := end(begin(whole, log, port)):
            raise RuntimeError(f"status {status}: {log.read_text()[-2000:]}")
        kill_within_an_epoch(begin(part, log, port + 1), folder / stage / "part", 6)
        last = checkpoints_in(folder / stage / "part" / "checkpoints")[0]
        state = json.loads((last / "trainer_state.json").read_text())
        if rank == "0":
            (folder / f"{stage}.json").write_text(json.dumps({"step": state["global_step"], "epoch": state["epoch"]}))
        if status := end(begin(part, log, port + 2)):
            raise RuntimeError(f"status {status}: {log.read_text()[-2000:]}")
        port += 3


if __name__ == "__main__":
    place, names = Path(sys.argv[1]), sys.argv[2:]
    if not (place / "port.txt").exists() and os.environ.get("RANK", "0") == "0":
        make_inputs(place / "inputs")
        (place / "port.partial").write_text(str(free_port()))
        (place / "port.partial").rename(place / "port.txt")
    while not (place / "port.txt").exists():
        time.sleep(0.01)
    number = int((place / "port.txt").read_text())
    if "RANK" in os.environ:
        main(place, names, number)
    else:
        fork_two(lambda: main(place, names, number), number)
    sys.stdout.flush()
    os._exit(0)
