"""Two processes that train together: what `accelerate launch` starts, as forks of one that has imported everything."""

import os
import socket
import sys
import traceback
from collections.abc import Callable


def free_port() -> int:
    """A port that the system would give away, with a few above it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(probe.getsockname()[1], 65_000)


def fork(run: Callable[[], None], **environment: str) -> int:
    """Starts `run` in a process of its own with these variables; returns its number."""
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # torch sometimes aborts while it leaves a process group
    return child


def fork_two(run: Callable[[], None], port: int) -> None:
    """`run` as ranks 0 and 1; raises where one fails."""
    same = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    wait_for(*[fork(run, RANK=str(rank), LOCAL_RANK=str(rank), **same) for rank in (0, 1)])


def wait_for(*children: int) -> None:
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses):
        raise RuntimeError(f"the processes ended with {statuses}")
