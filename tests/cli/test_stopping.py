"""Ctrl-C and SIGTERM: none is lost, the second leaves the tidying up alone, and what is ignored stays ignored."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from forks import run_alone

from macrec_hf.cli import embed, main, stopping
from macrec_hf.cli.stopping import stoppable


@pytest.fixture(autouse=True)
def plain_handlers():
    """A worker of the tests may ignore Ctrl-C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_swallowed_comes_again(monkeypatch, number):
    monkeypatch.setattr(stopping, "PAUSE", 0.2)
    swallowed, begun = 0, time.monotonic()
    with pytest.raises(KeyboardInterrupt), stoppable() as stop:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:  # as where the interpreter is in a finalizer
            swallowed += 1
        while time.monotonic() - begun < 300:  # it comes before
            time.sleep(0.01)
    assert swallowed == 1 and stop.status == 128 + number


class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_in_a_finalizer_is_raised_behind_it(monkeypatch, capsys):
    """There Python only prints the exception."""
    monkeypatch.setattr(stopping, "PAUSE", 600.0)  # what comes, does not come after the pause
    with pytest.raises(KeyboardInterrupt), stoppable():
        Finalized()
        time.sleep(60)
    assert "ignored" not in capsys.readouterr().err


def test_other_exceptions_that_cannot_be_raised_are_told_as_ever(monkeypatch):
    class Broken:
        def __del__(self):
            raise ValueError("told")

    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda what: told.append(what.exc_value))
    with stoppable():
        Broken()
    assert [str(error) for error in told] == ["told"]


def test_a_wait_that_python_does_not_end_by_itself_is_ended_too(monkeypatch):
    monkeypatch.setattr(stopping, "PAUSE", 0.2)
    with pytest.raises(KeyboardInterrupt), stoppable():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass
        threading.Event().wait(300)


def test_further_signals_leave_the_tidying_up_alone():
    """Ctrl-C under `accelerate launch` is followed by SIGTERM."""
    tidy = False
    with pytest.raises(KeyboardInterrupt), stoppable() as stop:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            tidy = True
    assert tidy and stop.status == 130


def test_nothing_comes_when_the_verb_has_ended(monkeypatch):
    monkeypatch.setattr(stopping, "PAUSE", 60.0)
    before = set(threading.enumerate())
    with stoppable():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass
    (reminder,) = set(threading.enumerate()) - before
    reminder.function(*reminder.args)  # as after the pause
    reminder.cancel()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_is_ignored_stays_ignored():
    """A shell ignores Ctrl-C for what runs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_verb_inside_another_leaves_the_answer_to_it():
    with stoppable() as outer, stoppable() as inner:
        assert outer is not None and inner is None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert outer.status == 143


def test_another_thread_may_run_a_verb():
    seen = []

    def run() -> None:
        with stoppable() as stop:
            seen.append(stop is not None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [True] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_ends_a_fork_as_without_a_handler():
    """A worker that loads data is ended by it, without a word."""
    reading, writing = os.pipe()
    with stoppable():
        child = os.fork()
        if child == 0:
            os.write(writing, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(reading, 1)  # a signal that comes while Python still starts the child is lost
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def demo_that_is_sent(number: int, folder: Path) -> int:
    embed.run = lambda args: os.kill(os.getpid(), number)
    return main(["demo", "--output", str(folder), "--num-items", "20", "--num-customers", "6"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_demo_is_stopped_with_one_line(tmp_path, name):
    done = run_alone(lambda: demo_that_is_sent(getattr(signal, name), tmp_path / "demo"))
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stderr.strip().splitlines()[-1] == "macrec demo: stopped." and "macrec embed" not in done.stderr
