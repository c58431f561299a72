import numpy as np
import pytest
from full_disk import files_of_at_most
from kill_points import killed_at
from safetensors.numpy import save_file

from macrec_hf.model.files import replacing, replacing_files, replacing_together


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old" and beside.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path, before):
    path = tmp_path / "a.json"
    if before is not None:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the later one
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name_leaves_room_for_the_name_beside(tmp_path):
    path = tmp_path / ("n" * 250)
    with replacing(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"


def test_files_that_belong_together_are_never_of_two_writings(tmp_path):
    seen, point = [], 0
    while True:
        lists, report = tmp_path / f"{point}.jsonl", tmp_path / f"{point}.json"
        for path in (lists, report):
            path.write_text("old")

        def write() -> None:
            with replacing_together(lists, report) as besides:  # noqa: B023
                for beside in besides:
                    beside.write_text("new")

        if not killed_at(write, tmp_path, point):
            break
        seen.append(tuple(path.read_text() if path.is_file() else None for path in (lists, report)))
        point += 1
    assert ("old", "old") in seen and (None, None) in seen and ("new", None) in seen
    assert all(len(set(both) - {None}) <= 1 for both in seen)
    assert (lists.read_text(), report.read_text()) == ("new", "new")


def test_a_full_disk_is_told_with_the_file(tmp_path):
    rows = {"rows": np.zeros(5000)}
    for name, write in (
        ("text", lambda path: path.write_text("x" * 20_000)),
        ("weights", lambda path: save_file(rows, path)),
        ("rows", lambda path: np.save(path.open("wb"), rows["rows"])),
    ):
        with files_of_at_most(9000), pytest.raises(OSError, match=f"{name} could not be written.*Is the disk full"):
            with replacing(tmp_path / name) as beside:
                write(beside)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing_files(tmp_path, last="a"):
        (tmp_path / "nowhere").read_text()
    with pytest.raises(OSError, match="^unlike a full disk$"), replacing_files(tmp_path, last="a"):
        raise OSError("unlike a full disk")
