"""Training verbs on two processes: whole, and killed within an epoch and resumed.

`forked(FOLDER, STAGES)`, and `python tests/two_resumed.py FOLDER STAGE …` under `accelerate launch`, leave
FOLDER/STAGE/{whole,part} and FOLDER/STAGE.json, which tells where the kill landed. Every run is a fork of a process
that has imported everything, with a port of its own.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from forks import fork_two, free_port
from killing import make_inputs, start, words

from macrec_hf.training.checkpoints import checkpoints_in

# Smaller batches than the other tests': 8 and 10 steps an epoch, a checkpoint every 3 and 2.
CHANGES = {"quantize": ["--batch-size", "4"], "train": ["--cross-modal-rate", "0.25"]}


def begin(arguments: list[str], log: Path, port: int, before: Callable[[], object] = lambda: None) -> int:
    """One run on a port of its own; the launcher's own meeting place stays unused."""
    os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(port), "False"
    return start(arguments, log, before)


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_within_an_epoch(output: Path, after: int) -> None:
    """`kill -9` of this process once a checkpoint of at least `after` steps is there.

    By a thread of its own: on a busy machine another process may look too late.
    """

    def watch() -> None:
        while not any(int(path.name[11:]) >= after for path in checkpoints_in(output / "checkpoints")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: Path, stages: list[str], port: int) -> None:
    rank = os.environ["RANK"]
    for stage in stages:
        log, inputs = folder / f"log-{rank}.txt", folder / "inputs"
        whole, part = (words(stage, inputs, folder / stage / name) + CHANGES[stage] for name in ("whole", "part"))
        if status := end(begin(whole, log, port)):
            raise RuntimeError(f"status {status}: {log.read_text()[-2000:]}")
        if end(begin(part, log, port + 1, lambda: kill_within_an_epoch(folder / stage / "part", 6))) == 0:  # noqa: B023
            raise RuntimeError("the run ended before it was killed")
        last = checkpoints_in(folder / stage / "part" / "checkpoints")[0]
        state = json.loads((last / "trainer_state.json").read_text())
        if rank == "0":
            (folder / f"{stage}.json").write_text(json.dumps({"step": state["global_step"], "epoch": state["epoch"]}))
        if status := end(begin(part, log, port + 2)):
            raise RuntimeError(f"status {status}: {log.read_text()[-2000:]}")
        port += 3


def forked(folder: Path, stages: list[str]) -> None:
    make_inputs(folder / "inputs")
    port = free_port()
    fork_two(lambda: main(folder, stages, port), port)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if os.environ["RANK"] == "0":
        make_inputs(place / "inputs")
        (place / "port.partial").write_text(str(free_port()))
        (place / "port.partial").rename(place / "port.txt")
    while not (place / "port.txt").exists():
        time.sleep(0.01)
    main(place, sys.argv[2:], int((place / "port.txt").read_text()))
    sys.stdout.flush()
    os._exit(0)
