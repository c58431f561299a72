"""Processes as forks of one that has imported everything, which takes seconds: alone, and two that train together."""

import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable

from accelerate.state import AcceleratorState, GradientState
from tqdm import std


def free_port() -> int:
    """A port that the system would give away, with a few above it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(probe.getsockname()[1], 65_000)


def own_bar_lock() -> None:
    """tqdm's lock is shared by all forks: without one of its own, each would wait for ever for one that was killed."""
    bars = [std.tqdm]
    for bar in bars:  # subclasses may have been given the shared one
        bar.set_lock(threading.RLock())
        bars += bar.__subclasses__()


def fork(run: Callable[[], int | None], **environment: str) -> int:
    """Starts `run`, which may return a status, in a process of its own with these variables; returns its number."""
    gc.freeze()  # what is loaded is no garbage, and each of a child's trainings would look through all of it
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        own_bar_lock()
        status = 1
        try:
            status = run() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # torch sometimes aborts while it leaves a process group
    return child


def run_alone(run: Callable[[], int | None], **environment: str) -> subprocess.CompletedProcess:
    """`run` as in a process of its own that has not trained yet: how it ended, and what it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:

        def begin() -> int | None:
            for number, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            return run()

        status = os.waitstatus_to_exitcode(os.waitpid(fork(begin, **environment), 0)[1])
        written = []
        for file in (out, err):
            file.seek(0)
            written.append(file.read().decode())
    return subprocess.CompletedProcess(run, status, *written)


def fork_two(run: Callable[[], None], port: int) -> None:
    """`run` as ranks 0 and 1; raises where one fails."""
    same = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    same["ACCELERATE_USE_CPU"] = "true"
    wait_for(*[fork(run, RANK=str(rank), LOCAL_RANK=str(rank), **same) for rank in (0, 1)])


def wait_for(*children: int) -> None:
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses):
        raise RuntimeError(f"the processes ended with {statuses}")
