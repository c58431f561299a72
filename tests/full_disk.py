"""A disk that is full, as far as one process can tell."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size):
    """The nearest thing to a full disk that needs no disk: writing past `size` bytes of a file fails (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
