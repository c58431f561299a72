"""Ids: kept to the letter, and what is said of those that differ by a trifle."""

import json
from pathlib import Path

import pandas as pd
import pytest

from macrec_hf.data.ids import as_ids, unknown_items_message
from macrec_hf.data.readers import read_items

PATH = Path("t.csv")


def ids(*values) -> list[str]:
    return as_ids(pd.Series(list(values), dtype=object), "item_id", PATH).tolist()


def test_kept_to_the_letter(caplog):
    given = ["007", " i1", "I1", "i2\u200b", "é", "e\u0301x", "7.5", "-0", '"q"', "1e5", "🪑"]
    assert ids(*given) == given and ids(7, "x", 10**30) == ["7", "x", str(10**30)]
    assert not caplog.records


@pytest.mark.parametrize("broken", ["1,a\n2", "1\r\n2"])
def test_line_breaks_inside(broken):
    with pytest.raises(
        ValueError, match=r"t.csv: expected ids without line breaks in 'item_id', got .* in row 2. .*mark"
    ):
        ids("a", broken, "b")
    assert ids("a\n", "b") == ["a\n", "b"]  # blanks around it are another matter


@pytest.mark.parametrize("missing", [None, "", "  ", "\u3000", float("nan"), pd.NaT, pd.NA])
def test_missing(missing):
    with pytest.raises(ValueError, match="t.csv: expected a 'item_id' in every row, 1 have none, first in row 2"):
        ids("a", missing, "b")


@pytest.mark.parametrize("wrong", ["a\0", "a\0b", "\0"])
def test_nul(wrong):
    with pytest.raises(ValueError, match=r"t.csv: expected ids without NUL bytes in 'item_id', got .* in row 2"):
        ids("a", wrong)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("u1", "u1 "), ("u1", "\u00a0u1"), ("u1", "u\u200b1"), ("u1", "\ufeffu1"), ("u1", "u1\t"),
        ("caf\u00e9", "cafe\u0301"),
        ("7", "7.0"), ("7", "7.00"), ("7", "007"), ("u1 ", "u1\u00a0"), ("07", "007.0"), ("u1", '"u1'), ("u1", "u1\r"),
    ],
)  # fmt: skip
def test_two_spellings_of_one_id(caplog, one, other):
    assert ids(one, "x", other, one) == [one, "x", other, one]
    assert len(caplog.records) == 1
    assert f"1 ids in 'item_id' are spelled in two ways, such as {sorted([one, other])!r}" in caplog.text
    caplog.clear()
    assert ids(one, "y1") and ids(other, "y2") and not caplog.records


@pytest.mark.parametrize(
    ("named", "known", "said"),
    [
        ("100.0", "100", "only by a .0 at the end. A column with holes was read as numbers"),
        ("100", "100.0", "only by a .0 at the end"),
        ("108775", "0108775", "only by leading zeros. A spreadsheet"),
        ("108775.0", "0108775", "only by leading zeros and a .0 at the end"),
        ("i1 ", "i1", "only by blanks, quotation marks or invisible characters"),
        ("\u00a0i1", "i1", "only by blanks"),
        ("i\u200b1", "i1", "only by blanks"),
        ("cafe\u0301", "caf\u00e9", "only by blanks"),
        ("I1", "i1", "only by capital letters"),
        ("x", "y", "same export"),
    ],
)
def test_the_likely_cause_of_unknown_items(named, known, said):
    message = unknown_items_message(pd.Series([named, named]), {known: 0, "other": 1})
    assert (
        f"name 1 unknown items (in 2 interactions) that are not among the 2 of the catalogue, such as [{named!r}]"
        in (message)
    )
    assert said in message


@pytest.mark.parametrize("short", ["1.08E+12", "1E+15", "9,78E+12"])
def test_ids_that_a_spreadsheet_has_shortened(short):
    with pytest.raises(
        ValueError, match="t.csv: expected ids in 'item_id', got '.*' in row 2, a number that a spread"
    ):
        ids("a", short, "b")
    assert ids("1e5", "E+12", "1.5E+3x") == ["1e5", "E+12", "1.5E+3x"]


def test_a_table_that_was_written_column_by_column(tmp_path):
    pd.DataFrame({"item_id": ["a", "b"], "title": ["x", "y"]}).to_json(tmp_path / "i.jsonl")
    with pytest.raises(ValueError, match=r"i.jsonl: expected strings or .*, got \{'0': 'a'.* orient='records'"):
        read_items(tmp_path / "i.jsonl")


def test_words_for_nothing_are_told(caplog):
    assert ids("a", "nan", "NA") == ["a", "nan", "NA"]
    assert "t.csv: the id 'nan' stands in 'item_id'" in caplog.text and len(caplog.records) == 1


def test_messages_stay_short(tmp_path):
    with pytest.raises(ValueError, match="in row 1") as error:
        as_ids(pd.Series([["x" * 10**6]], dtype=object), "item_id", PATH)
    assert len(str(error.value)) < 300
    assert json.dumps(str(error.value))
