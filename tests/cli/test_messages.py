"""What people wrote into ids and titles cannot write to a terminal."""

import json

from macrec_hf.cli.main import main
from macrec_hf.cli.messages import for_terminal
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
