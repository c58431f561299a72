"""Ctrl-C and SIGTERM: a verb tidies up and ends with one line, wherever it is."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds for tidying up. Meanwhile nothing else stops it: after Ctrl-C `accelerate launch` sends SIGTERM as well.
PAUSE = 5.0


class Stop:
    """Handler of both signals. It raises KeyboardInterrupt, again and again until the verb has ended.

    Once is not enough: where the interpreter happens to be in a callback or a finalizer, it prints the exception and
    goes on.

    Attributes:
        status: the exit status that the signal asks for.
    """

    def __init__(self) -> None:
        self.status = 128 + signal.SIGINT
        self._process, self._since, self._is_over = os.getpid(), float("-inf"), False

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        if os.getpid() != self._process and number == signal.SIGTERM:  # a worker of the verb: as without a handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if time.monotonic() - self._since < PAUSE:
            return
        if self._since < 0:
            self.status = 128 + number
        self._since = time.monotonic()
        reminder = threading.Timer(PAUSE, self._remind, [number])
        reminder.daemon = True
        reminder.start()
        raise KeyboardInterrupt

    def _remind(self, number: int) -> None:
        if not self._is_over and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def end(self) -> None:
        """The verb has ended."""
        self._is_over = True


@contextmanager
def stoppable() -> Iterator[Stop | None]:
    """While a verb runs, both signals raise KeyboardInterrupt.

    None where a verb runs inside another, which answers them. Signals that are ignored, as in the background of a
    shell, or that somebody else handles, stay so.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if any(isinstance(handler, Stop) for handler in handlers.values()):
        yield None
        return
    stop, plain = Stop(), (signal.default_int_handler, signal.SIG_DFL)
    may = threading.current_thread() is threading.main_thread()  # no other thread may handle signals
    taken = {number: handler for number, handler in handlers.items() if may and handler in plain}
    try:
        for number in taken:
            signal.signal(number, stop)
        yield stop
    finally:
        stop.end()
        for number, handler in taken.items():
            signal.signal(number, handler)
