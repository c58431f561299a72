"""What people wrote into ids and titles cannot write to a terminal."""

import io
import json

from tqdm import tqdm

from macrec_hf.cli.main import main
from macrec_hf.cli.messages import PlainLines, for_terminal
from macrec_hf.cli.recommend import _table


def test_titles_cannot_write_to_the_terminal():
    entry = {"item_id": "a\x1b[2J", "score": 0.0, "title": "half \ud83d\nrank \u202emug \x9b1m", "reasons": ["a\tb"]}
    shown = _table({"user_id": "u\r1", "recommendations": [entry]})
    assert shown.split("\n") == [
        "user u\\u000d1",
        "rank  item_id         score",
        "   1  a\\u001b[2J     0.0000  half \\ud83d\\u000arank \\u202emug \\u009b1m  (a\\u0009b)",
    ]


def test_json_stays_what_it_was():
    entry = {"title": "Stühle 👩\u200d🌾 \x9b\x7f\u2067"}
    shown = for_terminal(json.dumps(entry, ensure_ascii=False))
    assert "Stühle 👩\u200d🌾 " in shown and "\x9b" not in shown and json.loads(shown) == entry


def test_an_error_shows_no_escape_sequence(tmp_path, capsys):
    assert main(["recommend", "--model", str(tmp_path / "a\x1b[2Jb"), "--history", "i1"]) == 1
    error = capsys.readouterr().err
    assert "\x1b" not in error and "[2Jb" in error


def test_a_bar_in_a_file_is_a_line_for_each_state_that_it_shows():
    """A bar with another one below it, and what is written beside them."""
    file = io.StringIO()
    lines = PlainLines(file, every=0)
    shown = dict(file=lines, mininterval=0, bar_format="{l_bar} {n_fmt} of {total_fmt} [{elapsed}<{postfix}]")
    with tqdm(total=2, desc="steps", **shown) as bar:
        for place in range(2):
            with tqdm(total=1, desc="inside", leave=False, **shown) as inside:
                inside.start_t -= 61
                inside.update()
            bar.start_t -= 60
            bar.set_postfix(loss=place)
            bar.update()
    print("done", file=lines)
    print(file=lines)
    print("two\nlines", file=lines)
    found = file.getvalue()
    assert "\r" not in found and "\x1b" not in found
    assert found.splitlines()[-4:] == ["done", "", "two", "lines"]
    bars = dict.fromkeys(found.splitlines()[:-4])
    assert list(bars) == [
        "inside: 100%| 1 of 1 [01:01<]", "steps:   0%| 0 of 2 [01:00<, loss=0]",
        "steps:  50%| 1 of 2 [01:00<, loss=0]", "steps:  50%| 1 of 2 [02:00<, loss=1]",
        "steps: 100%| 2 of 2 [02:00<, loss=1]",
    ]  # fmt: skip


def test_states_of_a_bar_are_lines_half_a_minute_apart():
    """What tqdm draws again below each line that is written is no news."""
    file = io.StringIO()
    with tqdm(total=100, file=PlainLines(file), mininterval=0) as bar:
        bar.start_t -= 5
        for _ in range(100):
            bar.update()
            bar.refresh()
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].startswith("1%|") and lines[-1].startswith("100%|")
