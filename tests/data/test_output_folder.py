"""Folders that are replaced as a whole: kills, readers meanwhile, second writers, full disks."""

import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from full_disk import files_of_at_most
from kill_points import POINTS, killed_at

from macrec_hf.data.output_folder import LOCK, finish_moving, locked, output_folder
from macrec_hf.model.files import JOURNAL, reading

PATTERNS = ("*.txt", "part/*")


def write(folder: Path, text: str, *more: str) -> None:
    """Three files, one of them in a folder below, and those of `more`; `key.txt` is the one readers need."""
    with output_folder(folder, last="key.txt", stale=("old_*",)) as beside:
        (beside / "part").mkdir()
        for name in ("a.txt", "part/b.txt", "key.txt", *more):
            (beside / name).write_text(text)


def read(folder: Path) -> set[str]:
    """The texts of all files; more than one is a mixture."""
    with reading(folder, *PATTERNS):
        names = ["key.txt", "a.txt", "part/b.txt", *(path.name for path in folder.glob("old_*"))]
        return {(folder / name).read_text() for name in names}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_is_replaced_and_other_files_stay(tmp_path):
    write(tmp_path / "out", "1", "old_one.txt")
    (tmp_path / "out" / "notes.md").write_text("mine")
    (tmp_path / "out" / "part" / "left.txt").write_text("of an earlier writing")
    write(tmp_path / "out", "2")
    assert read(tmp_path / "out") == {"2"}
    assert names(tmp_path / "out") == {"a.txt", "part/b.txt", "key.txt", "notes.md"}


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "out", "1")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*")}
    assert modes == {"a.txt": 0o640, "key.txt": 0o640, "part": 0o750, "b.txt": 0o640}


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "out", "1")
    assert read(tmp_path / "out") == {"1"} and not (tmp_path / "out" / "part").is_symlink()
    assert (tmp_path / "elsewhere" / "b.txt").read_text() == "kept"


@pytest.mark.parametrize("older", [True, False])
def test_no_kill_leaves_a_mixture_and_the_next_writer_finishes(tmp_path, older):
    seen, finished, point = [], [], 0
    while True:
        folder = tmp_path / str(point)
        folder.mkdir()
        if older:
            write(folder, "1", "old_one.txt")
        if not killed_at(lambda: write(folder, "2"), folder, point):  # noqa: B023
            break
        try:
            seen.append(read(folder))
        except OSError:
            seen.append("refused")
        with locked(folder):  # any writer
            try:
                finished.append(read(folder))
            except OSError:
                finished.append("refused")
        write(folder, "3")
        assert read(folder) == {"3"} and names(folder) == {"a.txt", "part/b.txt", "key.txt"}
        point += 1
    assert point > 15 and {"2"} in seen and "refused" in seen and (not older or {"1"} in seen)
    assert all(found in ("refused", {"1"}, {"2"}) for found in seen)
    # Once moving had begun it is ended; before, the old whole is there, or nothing.
    assert set(map(str, finished)) == ({"{'1'}", "{'2'}"} if older else {"refused", "{'2'}"})


def test_a_folder_that_is_being_moved_is_refused_with_what_to_do(tmp_path):
    write(tmp_path / "out", "1")
    point = 6
    while not (tmp_path / "out" / JOURNAL).is_dir():
        assert killed_at(lambda: write(tmp_path / "out", "2"), tmp_path / "out", point)
        point += 1
    with pytest.raises(OSError, match="being moved into place.*run the command again that wrote them"):
        read(tmp_path / "out")
    finish_moving(tmp_path / "out")
    assert read(tmp_path / "out") == {"2"}


def test_an_error_leaves_all_as_it_was(tmp_path):
    write(tmp_path / "out", "1")
    for folder in ("out", "new"):
        with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / folder, last="key.txt") as beside:
            (beside / "key.txt").write_text("half")
            raise KeyboardInterrupt
    assert read(tmp_path / "out") == {"1"} and names(tmp_path) == {"out/a.txt", "out/part/b.txt", "out/key.txt"}
    assert not (tmp_path / "new").exists()


def test_ctrl_c_at_any_point_leaves_the_old_or_the_new_and_nothing_beside(tmp_path):
    seen = []
    for point in range(40):
        write(tmp_path / "out", "1")
        left = [point]

        def stop() -> None:
            left[0] -= 1  # noqa: B023
            if left[0] == -1:  # noqa: B023
                raise KeyboardInterrupt

        try:
            with POINTS.watched(tmp_path / "out", stop):
                write(tmp_path / "out", "2")
            break
        except KeyboardInterrupt:
            seen += read(tmp_path / "out")
            assert names(tmp_path / "out") == {"a.txt", "part/b.txt", "key.txt"}
    assert set(seen) == {"1", "2"} and len(seen) > 15


def test_a_full_disk_is_one_line_and_leaves_the_old(tmp_path):
    write(tmp_path / "out", "1")
    with files_of_at_most(1000), pytest.raises(OSError, match="out could not be written: .*Is the disk full"):
        write(tmp_path / "out", "2" * 2000)
    assert read(tmp_path / "out") == {"1"} and len(names(tmp_path / "out")) == 3


def test_whoever_reads_while_it_is_replaced_is_told(tmp_path):
    write(tmp_path / "out", "1")
    with pytest.raises(OSError, match="but they were replaced. Try again"), reading(tmp_path / "out", *PATTERNS):
        write(tmp_path / "out", "2")
    with pytest.raises(OSError, match="but they were replaced"), reading(tmp_path / "out", *PATTERNS):
        write(tmp_path / "out", "3")
        raise ValueError("what the mixture looked like")
    with reading(tmp_path / "out", *PATTERNS):  # of no concern
        (tmp_path / "out" / "notes.md").write_text("mine")


def test_a_reader_beside_a_writer_never_sees_a_mixture(tmp_path):
    write(tmp_path / "out", "first")
    writer = os.fork()
    if writer == 0:
        for turn in range(1_000_000):
            write(tmp_path / "out", str(turn))
    found, refused, end = set(), 0, time.monotonic() + 300
    try:
        while (len(found) < 40 or not refused) and time.monotonic() < end:
            try:
                texts = read(tmp_path / "out")
                assert len(texts) == 1
                found |= texts
            except OSError:
                refused += 1
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert len(found) >= 40 and refused


def hold(folder: Path, released: Path) -> int:
    """A process that has the lock of a folder until it is killed, or `released` is there."""
    child = os.fork()
    if child == 0:
        with locked(folder):
            while not released.exists():
                time.sleep(0.01)
        os._exit(0)
    while not (folder / LOCK).is_file() or not (folder / LOCK).read_text():
        time.sleep(0.01)
    return child


@pytest.mark.parametrize("kill", [False, True])
def test_a_second_writer_is_refused_with_the_number_of_the_first(tmp_path, kill):
    write(tmp_path / "out", "1")
    child = hold(tmp_path / "out", tmp_path / "released")
    with pytest.raises(OSError, match=f"out: expected to be the only one that writes there, but process {child} does"):
        write(tmp_path / "out", "2")
    assert read(tmp_path / "out") == {"1"}  # readers are not kept out
    if kill:
        os.kill(child, signal.SIGKILL)
    else:
        (tmp_path / "released").touch()
    os.waitpid(child, 0)
    assert (tmp_path / "out" / LOCK).exists() == kill  # but nobody holds it
    write(tmp_path / "out", "3")
    assert read(tmp_path / "out") == {"3"} and not (tmp_path / "out" / LOCK).exists()


def test_a_lock_may_be_taken_again_by_its_thread_alone(tmp_path):
    refusals = []

    def other() -> None:
        try:
            write(tmp_path, "2")
        except OSError as error:
            refusals.append(str(error))

    with locked(tmp_path):
        write(tmp_path, "1")
        assert (tmp_path / LOCK).is_file()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert read(tmp_path) == {"1"} and f"process {os.getpid()} does" in refusals[0]
    assert not (tmp_path / LOCK).exists()


def test_a_fork_neither_has_nor_keeps_its_parents_lock(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                write(tmp_path, "2")
                os._exit(0)
            except OSError:
                os._exit(3)  # refused, as another process
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        sleeper = os.fork()
        if sleeper == 0:
            time.sleep(60)
            os._exit(0)
    write(tmp_path, "3")  # although the fork of the one that had the lock is still there
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    assert read(tmp_path) == {"3"}


def test_without_such_locks_writing_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("macrec_hf.data.output_folder.fcntl", None)  # as on Windows
    write(tmp_path / "out", "1")
    write(tmp_path / "out", "2")
    assert read(tmp_path / "out") == {"2"} and names(tmp_path / "out") == {"a.txt", "part/b.txt", "key.txt"}
