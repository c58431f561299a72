"""Every verb, stopped before each of its file operations: a reader finds the old whole, the new whole, or an error."""

import os
import random
import shutil
import signal
import sys

import pytest
from full_disk import files_of_at_most
from kill_points import (
    IN_PLACE,
    POINTS,
    READERS,
    killed_at,
    older_output,
    points_of,
    prepare_shop,
    run_verb,
    words_of,
)

from macrec_hf.cli.main import main
from macrec_hf.data.output_folder import LOCK, locked

FULL = []  # disks that stay full
SLOW = ("train", "app")  # many points
VERBS = [pytest.param(verb, marks=pytest.mark.slow if verb in SLOW else ()) for verb in READERS]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return prepare_shop(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def older(shop, tmp_path_factory):
    """`older(verb)`: an output of state `a`, made once, and what a reader finds there."""
    made = {}

    def of(verb):
        if verb not in made:
            folder = tmp_path_factory.mktemp("older") / verb
            made[verb] = folder, older_output(verb, shop, folder)
        return made[verb]

    return of


def found_in(verb, folder, **known):
    """The name of the contents that a reader finds, "refused", or "mixture"."""
    try:
        found = READERS[verb](folder)
    except (OSError, ValueError):
        return "refused"
    return next((name for name, contents in known.items() if found == contents), "mixture")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("over_older", [True, False])
def test_no_point_leaves_a_mixture(shop, older, tmp_path, verb, over_older):
    if verb in IN_PLACE and not over_older:
        return  # they write into a model alone
    told = points_of(verb, shop, tmp_path, older(verb)[0] if over_older else None)
    assert told["mixture"] == 0 and told["new"] and sum(told.values()) > 8
    assert bool(told["old"]) == over_older


@pytest.mark.parametrize("verb", SLOW)
def test_kills_of_long_verbs(shop, older, tmp_path, verb):
    """A sample of what `test_no_point_leaves_a_mixture` looks at: what takes the places, killed in earnest."""
    saved, old = older(verb)
    words, output = words_of(verb, shop, "b", tmp_path / "out"), tmp_path / "out"
    total = [0]

    def count() -> None:
        total[0] += 1

    shutil.copytree(saved, output)
    with POINTS.watched(output, count):
        run_verb(words)
    new, seen = READERS[verb](output), []
    for point in random.Random(0).sample(range(total[0] - 70, total[0]), 4):
        shutil.rmtree(output)
        shutil.copytree(saved, output)
        assert killed_at(lambda: run_verb(words), output, point)
        seen.append(found_in(verb, output, old=old, new=new))
    assert "mixture" not in seen
    run_verb(words)  # whatever the kill has left
    assert found_in(verb, output, new=new) == "new" and not list(output.glob(".macrec-*"))


def ended(words, before):
    """Status and standard error of a verb in a fork, in which `before` is called first."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the tests may ignore it
        status = 99
        try:
            before()
            status = main([*words, *(["--disable-tqdm", "true"] if words[0] in ("quantize", "train") else [])])
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def answer(verb, text):
    """The lines that the verb itself wrote to standard error."""
    assert "Traceback" not in text, text
    return [line for line in text.replace("\r", "\n").splitlines() if f"macrec {verb}: " in line]


def send_at(point, output, number):
    """Sends a signal at a file operation."""
    left = [point]

    def at_point() -> None:
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), number)

    POINTS.root, POINTS.at_point = str(output), at_point


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_verb_with_one_line(shop, older, tmp_path, verb, number):
    output, (saved, old) = tmp_path / "out", older(verb)
    for point in (0, 3, 5):
        shutil.copytree(saved, output)
        status, text = ended(words_of(verb, shop, "b", output), lambda: send_at(point, output, number))  # noqa: B023
        lines = answer(verb, text)
        assert status == 128 + number and len(lines) == 1 and lines[0].startswith(f"macrec {verb}: stopped.")
        assert not [path for path in output.rglob("*") if ".partial" in path.name or path.name == LOCK]
        # The reports of an evaluation are a few operations: the signal may come when they are in place.
        assert found_in(verb, output, old=old) == "old" or (verb == "evaluate" and point)
        shutil.rmtree(output)


@pytest.mark.parametrize("verb", READERS)
def test_a_full_disk_ends_a_verb_with_one_line(shop, older, tmp_path, verb):
    output, (saved, old) = tmp_path / "out", older(verb)
    for size in (0, 100):
        shutil.copytree(saved, output)

        def fill() -> None:
            FULL.append(files_of_at_most(size))  # noqa: B023
            FULL[-1].__enter__()

        status, text = ended(words_of(verb, shop, "b", output), fill)
        lines = answer(verb, text)
        assert status == 1 and len(lines) == 1
        assert "could not be written" in lines[0] and "Is the disk full" in lines[0]
        assert not [path for path in output.rglob("*") if ".partial" in path.name or path.name == LOCK]
        assert found_in(verb, output, old=old) == "old"
        shutil.rmtree(output)


def test_a_full_disk_at_the_end_of_a_training_names_resume(shop, tmp_path):
    words = [*words_of("train", shop, "a", tmp_path / "out"), "--keep-checkpoints", "--max-steps", "2"]
    run_verb(words)
    resumed = [*words, "--resume", "--max-steps", "3", "--save-total-limit", "1"]

    def fill_later() -> None:
        def at_point() -> None:
            if list((tmp_path / "out" / "checkpoints").glob("checkpoint-3")):
                FULL.append(files_of_at_most(100))
                FULL[-1].__enter__()

        POINTS.root, POINTS.at_point = str(tmp_path / "out"), at_point

    status, text = ended(resumed, fill_later)
    (line,) = answer("train", text)
    assert status == 1 and "Is the disk full" in line
    assert line.endswith("The same command with --resume goes on from the last checkpoint.")


@pytest.mark.parametrize("verb", READERS)
def test_a_second_writer_is_refused_at_once(shop, older, tmp_path, verb, capfd):
    if verb == "evaluate":
        return  # its outputs are files, which do not meet
    output, (saved, old) = tmp_path / "out", older(verb)
    shutil.copytree(saved, output)
    capfd.readouterr()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(output):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    try:
        assert main(words_of(verb, shop, "b", output)) == 1
        assert f"expected to be the only one that writes there, but process {child} does" in capfd.readouterr().err
        assert found_in(verb, output, old=old) == "old"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run_verb(words_of(verb, shop, "b", output))
    assert found_in(verb, output, old=old) != "old"
