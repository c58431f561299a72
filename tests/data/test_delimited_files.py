"""CSV and TSV: what properly written files hold comes back, and no row of any other is merged, moved or lost."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.data import delimited_files, text_files
from macrec_hf.data.delimited_files import read_delimited

ROWS = [
    ["id", "title", "text"],
    ["1", "a, b", 'he said "no"'],
    ["2", "two\nlines, of\nwords", '"'],
    ["3", '24" screen', "a;b\tc|d"],
    ["NA", "ends with a mark\"", "\r\n"],
]  # fmt: skip


def written(rows, path: Path, **how) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **how).writerows(rows)
    return path


def rows_of(path: Path) -> list[list[str | None]]:
    columns = read_delimited(path)
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def read(tmp_path, text: str, name: str = "t.csv") -> list[list[str | None]]:
    (tmp_path / name).write_bytes(text.encode())
    return rows_of(tmp_path / name)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_fields(tmp_path, quoting, separator, name, end):
    path = written(ROWS, tmp_path / name, delimiter=separator, quoting=quoting, lineterminator=end)
    assert rows_of(path) == ROWS


def test_empty_fields_blank_lines_and_names(tmp_path):
    assert read(tmp_path, "\n\nid , title,\n\n1,,x\n   \n,,\n2,\"\",\n") == [
        ["id", "title", "Unnamed: 2"], ["1", None, "x"], ["2", None, None],
    ]  # fmt: skip
    assert read(tmp_path, "id,title\n1,\\N\n2,a\\N\n") == [["id", "title"], ["1", None], ["2", "a\\N"]]
    assert read(tmp_path, "id,title\n1,a\n,,,,\n\x1a") == [["id", "title"], ["1", "a"]]  # of a sheet, of DOS
    assert read(tmp_path, "id\n1\n\n2\n") == [["id"], ["1"], ["2"]]
    assert read(tmp_path, "id,title\r1,a\r2,b\r") == [["id", "title"], ["1", "a"], ["2", "b"]]  # of an old Mac
    assert read_delimited(tmp_path / "t.csv") and read(tmp_path, "id,title\n") == [["id", "title"]]
    assert read(tmp_path, "") == read(tmp_path, "\n\n") == [[]]


def test_texts_of_several_lines_with_as_many_commas_as_a_row(tmp_path):
    """Their lines do not begin with anything like an id."""
    rows = [["id", "title", "text"], ["i1", "one,two\nthree,four", "x"], ["i2", "a", "S,M\nL,XL\n\nred,blue"]]
    assert rows_of(written(rows, tmp_path / "t.csv", lineterminator="\n")) == rows
    rows = [["id", "title"], ["17", "red\nblue,green"], ["18", "b"]]
    assert rows_of(written(rows, tmp_path / "t.csv", lineterminator="\n")) == rows


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n".lower()])
def test_a_line_that_names_the_separator(tmp_path, first):
    assert read(tmp_path, first + "id;title, short\n1;a,b\n") == [["id", "title, short"], ["1", "a,b"]]


def test_the_header_shows_the_separator(tmp_path):
    assert read(tmp_path, "id;title;size, in cm\n1;a;2,5\n") == [["id", "title", "size, in cm"], ["1", "a", "2,5"]]
    assert read(tmp_path, 'id,"a;b;c"\n1,x\n') == [["id", "a;b;c"], ["1", "x"]]
    assert read(tmp_path, "id,title\n1,a\n", "t.tsv") == [["id", "title"], ["1", "a"]]
    assert read(tmp_path, 'id, title, text\n1, "a, b", c\n') == [["id", "title", "text"], ["1", "a, b", "c"]]


SWALLOWING = 'id,title,text\n1,a,b\n2,"24 inch,flat\n3,c,d\n4,"Deluxe" edition,box\n5,e,f\n'


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_marks_of_a_writer_that_never_quotes(tmp_path, name):
    """Five rows: the mark that opens i2's title would run on to that in i4's."""
    text = SWALLOWING if name == "t.csv" else SWALLOWING.replace(",", "\t")
    assert read(tmp_path, text, name)[1:] == [
        ["1", "a", "b"], ["2", '"24 inch', "flat"], ["3", "c", "d"], ["4", '"Deluxe" edition', "box"], ["5", "e", "f"],
    ]  # fmt: skip
    one = text.replace('Deluxe" edition', "x").replace('"x', "x")
    assert len(read(tmp_path, one, name)) == 6


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (SWALLOWING.replace("5,e,f", '5,"e, e",f'), 3),  # one field is quoted, so marks mean something
        ('id,title,text\n1,"12\\" shelf, oak",b\n2,c,d\n', 2),
        ('id,title,text\n1,a,b\n2,"24 inch,flat\n3,c,d\n4,Deluxe 24",box\n', 3),  # closes as if it were meant
        ('id,title,text\n1,"a,b\n2,c",d\n', 2),
        ('id,title,text\n1,"a,b\n\n2,c",d\n', 2),
        ('id,title,text\n1,a,b\n"2,c,d\n3",e,f\n', 3),  # before an id
        ("id,title,text\n" + "".join(f"{k**9 % 65521:04x},a,b\n" for k in range(40)) + 'f7a0,"a,b\n7f3a,c",d\n', 42),
        ('id,title,text\n1,a,"b\n2,c,d\n3,e,f", x\n', 2),
        ('id,title,text\n1,"a",b\n2,"c"d,e\n', 3),
        ('id,title,text\n1,a,b\n2,c\n', 3),
        ('id,title,text\n1,a,b\n2,c,d,e\n', 3),
        ('id,title,text\n1,a,b\n2,"c\nc",d,e\n', 3),
        ('id,title\n1,a\\,b\n', 2),
        ('id,title,text\n1,"c ""d"",e\n', 2),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused_by_their_line(tmp_path, text, line):
    for name, content in (("t.csv", text), ("u.csv", text.replace("\n", "\r\n"))):
        with pytest.raises(ValueError, match=rf"{name}, line {line}: expected "):
            read(tmp_path, content, name)


def test_what_refusals_say(tmp_path):
    with pytest.raises(
        ValueError, match="line 3: expected 2 fields as in the header, got 3: '2,b,c'. .*stands in quot"
    ):
        read(tmp_path, "id,title\n1,a\n2,b,c\n")
    with pytest.raises(ValueError, match=r"line 2: expected quotation marks that pair.*read on to line 4"):
        read(tmp_path, 'id,title\n1,"a\n2,b\n3,c" d,e\n4,"d"\n')
    with pytest.raises(ValueError, match="ends 1 lines below, and every line between looks like a row"):
        read(tmp_path, 'id,title,text\n1,"a,b\n2,c",d\n')
    with pytest.raises(ValueError, match="got 2: '1,.*A quotation mark opens a field that ends 1 lines below"):
        read(tmp_path, 'id,title,text\n1,"a,b\n2,c,d"\n3,e,f\n')
    with pytest.raises(ValueError, match="line 3: expected 2 fields .*Remove a comma at the end of the line"):
        read(tmp_path, "id,title\n1,a\n2,b,\n")
    with pytest.raises(ValueError, match="Line 1 was taken for the header: remove lines above the names"):
        read(tmp_path, "# 2020\nid,title\n1,a\n")
    with pytest.raises(ValueError, match="each column once, got 'title' as columns 2 and 4"):
        read(tmp_path, "id,title,text,title\n1,a,b,c\n")
    with pytest.raises(ValueError, match="t.csv, line 3: expected text in UTF-8"):
        (tmp_path / "t.csv").write_bytes("id,title\n1,a\n2,ü\n".encode("latin-1"))
        read_delimited(tmp_path / "t.csv")


def test_a_field_without_end_stops_at_the_limit_of_a_line(tmp_path, monkeypatch):
    for module in (delimited_files, text_files):
        monkeypatch.setattr(module, "LINE_LIMIT", 100)
    limit = csv.field_size_limit()
    with pytest.raises(ValueError, match="t.csv, line 2: expected quotation marks that pair"):
        read(tmp_path, 'id,title\n1,"a\n' + "2,b,c\n" * 50)
    with pytest.raises(ValueError, match="t.csv, line 2: expected less than 100 characters"):
        read(tmp_path, "id,title\n" + "x" * 200)
    with pytest.raises(ValueError, match="t.csv, line 1: expected a header, got more than 100 characters"):
        read(tmp_path, "x" * 200)
    assert csv.field_size_limit() == limit


TEXTS = st.text(alphabet='ab,;" \n\t\\', max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS), max_size=5),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t")]),
)
def test_whatever_csv_writes_is_read_or_refused(tmp_path_factory, rows, quoting, kind):
    """Refused is only a field of several lines that look like rows."""
    name, separator = kind
    path = tmp_path_factory.mktemp("csv") / name
    given = [[f"i{place}", *row] for place, row in enumerate(rows)]
    written([["id", "title", "text"], *given], path, quoting=quoting, delimiter=separator, lineterminator="\n")
    try:
        found = rows_of(path)[1:]
    except ValueError as error:
        assert "looks like a row of its own" in str(error) and any("\n" in text for row in rows for text in row)
        return
    assert found == [[cell or None for cell in row] for row in given]  # the alphabet has no N, for \\N is no value


RAW = st.text(alphabet='ab" \\', max_size=5).map(str.lstrip)  # a blank after a comma is taken for a sentence's


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(RAW, RAW), max_size=6), st.sampled_from([",", "\t"]))
def test_a_writer_that_never_quotes_loses_no_row(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("raw") / ("t.csv" if separator == "," else "t.tsv")
    given = [("id", "title", "text"), *((f"i{place}", *row) for place, row in enumerate(rows))]
    lines = [separator.join(row) for row in given]
    path.write_text("\n".join(lines) + "\n")
    try:
        found = rows_of(path)[1:]
    except ValueError as error:
        assert f"{path}, line " in str(error)
        return
    assert [row[0] for row in found] == [f"i{n}" for n in range(len(rows))]
    for row, texts in zip(found, rows, strict=True):
        for cell, text in zip(row[1:], texts, strict=True):
            alone = next(csv.reader(io.StringIO(text)), [""])[0]  # a field that is whole between marks loses them
            assert (cell or "") in (text, alone)


@pytest.mark.parametrize(
    ("fields", "are_numbers"),
    [
        (["7", "-12", "1700000000123456789"], True),
        (["7", "007"], False),
        (["7", "1.5"], False),
        (["7", " 8"], False),
        (["7", "1_0"], False),
        (["7", "-0"], False),
        (["7", ""], False),
        (["7", "٣"], False),
        (["7", str(2**63)], False),
        (["7", "9" * 5000], False),
    ],
    ids=["whole", "zeros", "point", "blank", "line", "minus", "empty", "arabic", "65 bits", "long"],
)
def test_only_numbers_whose_texts_can_be_had_back_come_as_numbers(tmp_path, monkeypatch, fields, are_numbers):
    """Rows are read one at a time, so that the column has numbers in it when the text comes."""
    monkeypatch.setattr(delimited_files, "_ROWS_AT_A_TIME", 1)
    path = tmp_path / "t.csv"
    path.write_text("id,time\n" + "".join(f"00,{field}\n" for field in fields))
    texts, columns = read_delimited(path), read_delimited(path, numbers="time")
    assert texts["time"] == [field or None for field in fields]
    assert columns["id"] == texts["id"] and isinstance(columns["time"], np.ndarray) == are_numbers
    assert list(map(str, columns["time"])) == list(map(str, texts["time"]))
