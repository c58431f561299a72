"""Text files as people have them: what is read in spite of its encoding or packing, and what is refused by name."""

import codecs
import gzip
import json
import logging
import os
import re
from pathlib import Path

import pytest

from macrec_hf.data import text_files
from macrec_hf.data.text_files import json_lines, open_text, parse_json, parsed_lines, read_json, shortened, text_lines

WORDS = "stühle\nüber 3 €\n椅子 🪑\n"


def whole(path: Path) -> str:
    with open_text(path) as file:
        return file.read()


def lines_of(path: Path) -> list[tuple[int, dict]]:
    return list(json_lines(path))


@pytest.mark.parametrize(
    "encoded",
    [
        WORDS.encode(),
        codecs.BOM_UTF8 + WORDS.encode(),
        codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + WORDS.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + WORDS.encode("utf-32-be"),
        WORDS.encode("utf-16-le"),  # without a mark, as the NULs between Latin letters show
        WORDS.encode("utf-16-be"),
        WORDS.encode("utf-32-le"),
    ],
    ids=["utf-8", "bom-8", "bom-16le", "bom-16be", "bom-32le", "bom-32be", "16le", "16be", "32le"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "packed.txt"])
def test_encodings_that_show_what_they_are(tmp_path, encoded, name):
    (tmp_path / name).write_bytes(encoded if name == "a.txt" else gzip.compress(encoded))
    assert whole(tmp_path / name) == WORDS
    assert list(text_lines(tmp_path / name)) == list(enumerate(WORDS.splitlines(keepends=True), start=1))


def test_empty_files(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.gz").write_bytes(gzip.compress(b""))
    assert whole(tmp_path / "a.txt") == whole(tmp_path / "a.gz") == "" and lines_of(tmp_path / "a.txt") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(os.urandom(5000).hex().encode())[:-900], "a.gz is cut off.*Download or copy it again"),
        (gzip.compress(b"x" * 99)[:-3], "a.gz is cut off"),
        (gzip.compress(b"x" * 99)[:12], "a.gz is cut off"),
        (gzip.compress(b"x" * 99)[:-8] + b"12345678", "a.gz is damaged: its gzip data cannot be read"),
        (gzip.compress(b"x" * 99)[:10] + b"\xff" * 30, "a.gz is damaged"),
        (gzip.compress(b"x" * 99) + b"garbage", "a.gz is damaged"),
        (b'{"a": 1}', r"a.gz is no gzip file, it begins with b'.\"a\": 1.'.*remove .gz from its name"),
        (b"<!DOCTYPE html>", "a.gz is no gzip file.*looks like a web page: download the file again"),
        (b"PK\x03\x04rest", "a.gz is a zip archive.*CSV UTF-8"),
        (b"PAR1rest", "a.gz is a Parquet file"),
    ],
    ids=range(10),
)
def test_gzip_files_that_are_none(tmp_path, content, said):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        whole(tmp_path / "a.gz")
    with pytest.raises(ValueError, match=said):
        lines_of(tmp_path / "a.gz")
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "a.gz")


@pytest.mark.parametrize("packed", [False, True])
def test_another_encoding_is_named_with_its_line(tmp_path, packed):
    path = tmp_path / "a.csv"
    content = ("a\n" * 9000 + "stühle\n").encode("cp1252")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r"a.csv, line 9001: .*got the byte 0xfc.*WINDOWS-1252: 'stühle'.*`iconv"):
        whole(path)
    with open_text(path, errors="replace") as file:
        assert file.readlines()[-1] == "st\ufffdhle\n"


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        ("1;Schöne Größe", "cp1252", "WINDOWS-1252"),
        ("1;Melkwegpost – uitbreiding", "cp1252", "WINDOWS-1252"),
        ("Crème «\xa0Beauté\xa0»", "cp1252", "WINDOWS-1252"),
        ("Knäckebröd ÅÄÖ", "cp1252", "WINDOWS-1252"),
        ("£ 5", "cp1252", "WINDOWS-1252"),
        ("С капюшоном", "cp1251", "WINDOWS-1251"),
        ("soft\xadhyphen é", "cp1252", "WINDOWS-1252"),
        ("u1,i1,1,ソファ", "cp932", "CP932"),
        ("1;フード", "cp932", "CP932"),
        ("①木製\u3000ソファ", "cp932", "CP932"),
        ("木制\u3000椅子", "gb18030", "GB18030"),
        ("椅子", "gbk", "GB18030"),
        ("T恤", "gbk", "GB18030"),
    ],
)
def test_a_line_in_another_encoding_is_shown_in_those_in_which_it_is_text(tmp_path, text, encoding, name):
    (tmp_path / "a.csv").write_bytes(f"id;title\n{text}\n".encode(encoding))
    shown = re.sub("[\xa0\xad\u3000]", " ", text)
    with pytest.raises(ValueError, match=f"line 2: .*{name}: '[^']*{re.escape(shown[-8:])}'.*`iconv -f NAME -t UTF-8"):
        whole(tmp_path / "a.csv")


def test_other_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"title\n" + b"\x81\x98\xff\xff" * 9)
    with pytest.raises(ValueError, match="line 2: .*another encoding, or no text"):
        whole(path)
    path.write_bytes(b"fine\ncut \xed\xa0\xbd\n")
    with pytest.raises(ValueError, match="line 2: .*half an emoji"):
        whole(path)
    path.write_bytes("über".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match="cannot be read as UTF-16, which its first bytes show. Was it cut off"):
        whole(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        whole(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a folder: expected a file"):
        whole(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: expected a regular file"):
        whole(tmp_path / "pipe")


def test_a_line_has_a_limit(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(text_files, "LINE_LIMIT", 20)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": "' + "x" * 95 + '"}\n{"a": 2}\n{"a": "1234567890"}\n')
    assert [(number, row is None) for number, row in text_lines(tmp_path / "a.jsonl")] == [
        (1, False), (2, True), (3, False), (4, False),
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert lines_of(tmp_path / "a.jsonl") == [(1, {"a": 1}), (3, {"a": 2}), (4, {"a": "1234567890"})]
    assert "skipped 1 broken line. The first is line 2: more than 20 characters" in caplog.text


BROKEN = [
    ('{"a": ', r"no JSON \("),
    ("\0\0\0", r"no JSON \("),
    ('["a"]', "no JSON object but a list"),
    ("3", "no JSON object but a number"),
    ("[" * 100_000, "values nested too deeply"),
    ('{"a": ' * 50_000 + "1" + "}" * 50_000, "values nested too deeply"),
    ('{"a": ' + "9" * 5000 + "}", "a number with too many digits"),
    ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
]


@pytest.mark.parametrize(("line", "said"), BROKEN)
def test_one_broken_line_is_skipped_and_counted(tmp_path, caplog, line, said):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n' + line + '\n{"a": 2}\n')
    with caplog.at_level(logging.WARNING):
        assert lines_of(tmp_path / "a.jsonl") == [(1, {"a": 1}), (4, {"a": 2})]
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match=said):
        text_files.json_object(line)
    assert "a.jsonl: skipped 1 broken line. The first is line 3: " in caplog.text and len(caplog.text) < 400


def test_many_broken_lines_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    for good, bad, fine in [(1, 1, False), (2, 1, True), (300, 102, True), (300, 104, False), (0, 1, False)]:
        path.write_text('{"a": 1}\n' * good + "{\n" * bad)
        if fine:
            assert len(lines_of(path)) == good
        else:
            with pytest.raises(ValueError, match=f"line {good + 1}: expected one JSON object.* and {good} good"):
                lines_of(path)


def test_a_parser_of_ones_own(tmp_path):
    (tmp_path / "a.txt").write_text("1\n2\nx\n")
    assert list(parsed_lines(tmp_path / "a.txt", int, "a number")) == [(1, 1), (2, 2)]
    (tmp_path / "a.txt").write_text("y\nx\n")
    with pytest.raises(ValueError, match="a.txt, line 1: expected a number, got 2 broken lines and 0 good.*'y'"):
        list(parsed_lines(tmp_path / "a.txt", int, "a number"))


def test_json_values():
    assert parse_json('{"a": NaN, "b": [NaN, 1], "c": -Infinity}') == {"a": None, "b": [None, 1], "c": -float("inf")}
    assert parse_json('{"a": 1, "a": 1}') == {"a": 1}  # says the same twice
    assert parse_json('\ufeff{"a": 1}\r\n') == {"a": 1}  # files that were joined keep their marks
    assert parse_json(str(2**70)) == 2**70 and parse_json('"a\tb\x0b"') == "a\tb\x0b"


def test_half_an_emoji_is_replaced():
    chair = json.dumps("🪑")  # both halves, escaped
    assert parse_json(f'{{"a": {chair}}}') == {"a": "🪑"}
    assert parse_json('{"a": "x\\ud83d", "\\uDE00b": ["\\ud83d"]}') == {"a": "x\ufffd", "\ufffdb": ["\ufffd"]}
    assert parse_json('"\\\\ud83d"') == "\\ud83d"  # a backslash, no escape


def test_a_file_that_is_one_value(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{"1": [2]}')
    assert read_json(path) == {"1": [2]}
    for content, said in [('{"1": [2', "no JSON that can be read.*cut off"), ("[" * 100_000, "nested too deeply"),
                          ('{"1": 1, "1": 2}', "'1' stands twice")]:  # fmt: skip
        path.write_text(content)
        with pytest.raises(ValueError, match=f"a.json: .*{said}"):
            read_json(path)
    monkeypatch.setattr(text_files, "JSON_LIMIT", 5)
    with pytest.raises(ValueError, match="a.json: expected at most 5 characters of JSON"):
        read_json(path)


def test_values_in_messages_are_short():
    assert shortened("abc") == "'abc'" and shortened(b"abc") == "b'abc'" and shortened([1, 2]) == "[1, 2]"
    assert len(shortened("x" * 10**6)) < 70 and shortened("x" * 100).endswith("…")
    assert len(shortened(bytes(10**6))) < 70
