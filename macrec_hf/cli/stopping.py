"""Ctrl-C and SIGTERM: a verb tidies up and ends with one line, wherever it is."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

# Seconds for tidying up. Meanwhile nothing else stops it: after Ctrl-C `accelerate launch` sends SIGTERM as well.
PAUSE = 5.0


class Stop:
    """Handler of both signals. It raises KeyboardInterrupt, again and again until the verb has ended.

    Once is not enough: where the interpreter happens to be in a callback or a finalizer, it tells `sys.unraisablehook`
    about the exception and goes on. And some library may catch it.

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
        if self._since > 0 and time.monotonic() - self._since < PAUSE:
            return
        if self._since < 0:
            self.status = 128 + number
        self._since = time.monotonic()
        self._remind_in(PAUSE, number)
        raise KeyboardInterrupt

    def _remind_in(self, seconds: float, number: int) -> None:
        reminder = threading.Timer(seconds, self._remind, [number])
        reminder.daemon = True
        reminder.start()

    def unraisable(self, what: "sys.UnraisableHookArgs", others: Callable[["sys.UnraisableHookArgs"], object]) -> None:
        """Of what could not be raised: our exception is raised anew, the rest goes to the hook that was there."""
        if what.exc_type is KeyboardInterrupt and self._since > 0:
            self._since = 0.0
            self._remind_in(0.02, self.status - 128)  # not in here, where nothing can be raised either
        else:
            others(what)

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
    hook = sys.unraisablehook
    try:
        for number in taken:
            signal.signal(number, stop)
        sys.unraisablehook = partial(stop.unraisable, others=hook)
        yield stop
    finally:
        stop.end()
        sys.unraisablehook = hook
        for number, handler in taken.items():
            signal.signal(number, handler)
