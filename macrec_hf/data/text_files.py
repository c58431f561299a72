"""Text files as people have them: gzipped or not, in any encoding that shows what it is, lines and JSON of any length.

Whatever is wrong with a file is said in one line that names it: cut off, no gzip file, another encoding, no JSON.
"""

import gzip
import io
import json
import logging
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import IO, Any, TypeVar, cast

logger = logging.getLogger(__name__)

LINE_LIMIT = 2**26
"""Characters of a line. Photos stand in tables as base64; a small gzip file can unfold to gigabytes."""
JSON_LIMIT = 2**29
"""Characters of a file that is one JSON value."""
TOLERATED, TOLERATED_SHARE = 100, 0.01
"""Broken lines that are skipped: so many, and this share of the good ones, but fewer than there are good ones."""
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive (an .xlsx is one too). Unpack it, or save the sheet as CSV UTF-8",
    b"PAR1": "a Parquet file. Give it a name that ends with .parquet",
    b"BZh": "packed with bzip2. Unpack it",
    b"\xfd7zXZ": "packed with xz. Unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd. Unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook. Save the sheet as CSV UTF-8",
}
Parsed = TypeVar("Parsed")


@contextmanager
def open_text(path: str | PathLike[str], errors: str = "strict", newline: str | None = None) -> Iterator[IO[str]]:
    """Opens a text file, gzipped or not, whatever its name says about that.

    Args:
        path: of a file in UTF-8, or in UTF-16 or UTF-32 as their byte-order mark or their NULs show; the mark is
            passed over.
        errors: what becomes of bytes that are no text, "strict" or "replace".
        newline: as of the built-in `open`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: also from the `with` block while the file is read: a folder, a `.gz` that is cut off, damaged or no
            gzip file, another kind of file, another encoding (with the line).
    """
    path, encoding = Path(path), "utf-8"
    with _gzip_errors(path):
        try:
            with _open_bytes(path) as file:
                encoding = json.detect_encoding(file.peek(4)[:4])  # type: ignore[attr-defined]
                with io.TextIOWrapper(file, encoding, errors, newline) as text:
                    yield text
        except UnicodeDecodeError as error:
            raise ValueError(_encoding_message(path, encoding)) from error


def text_lines(
    path: str | PathLike[str], errors: str = "strict", newline: str | None = None
) -> Iterator[tuple[int, str | None]]:
    """The lines of a file with their numbers from 1; None for one of more than `LINE_LIMIT` characters.

    Args:
        errors, newline: as of [`open_text`].

    Raises:
        FileNotFoundError, ValueError: as [`open_text`].
    """
    with open_text(path, errors, newline) as file:
        number = 0
        while line := file.readline(LINE_LIMIT):
            number += 1
            if len(line) < LINE_LIMIT or line.endswith("\n"):
                yield number, line
                continue
            while line and not line.endswith("\n"):
                line = file.readline(LINE_LIMIT)
            yield number, None


def parsed_lines(
    path: str | PathLike[str], parse: Callable[[str], Parsed], expected: str, errors: str = "strict", remedy: str = ""
) -> Iterator[tuple[int, Parsed]]:
    """What `parse` makes of each line that is not blank; some broken lines are skipped and counted in a warning.

    Args:
        parse: of one line; raises ValueError, with the reason in a few words, for a broken one.
        expected, remedy: what a line should be and what to do, for the message.

    Yields:
        The line's number from 1, and what it holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as [`open_text`]; more broken lines than 100 plus 1 % of the good ones, or as many as good ones.
    """
    good, bad, first, reason = 0, 0, (0, ""), ""
    for number, line in text_lines(path, errors):
        if line is not None and not line.strip():
            continue
        try:
            if line is None:
                raise ValueError(f"more than {LINE_LIMIT:,} characters")
            parsed = parse(line)
        except ValueError as error:
            bad += 1
            if bad == 1:
                first, reason = (number, shortened((line or "").strip())), str(error)
            if bad > TOLERATED + TOLERATED_SHARE * good:
                break
        else:
            good += 1
            yield number, parsed
    if bad and (bad >= good or bad > TOLERATED + TOLERATED_SHARE * good):
        raise ValueError(
            f"{path}, line {first[0]}: expected {expected}, got {bad:,} broken lines and {good:,} good ones. The "
            f"first is line {first[0]}: {reason}, got {first[1]}.{remedy}"
        )
    if bad:
        lines = f"{bad:,} broken line{'s' * (bad > 1)}"
        warn_once(logger, f"{path}: skipped {lines}. The first is line {first[0]}: {reason}, got {first[1]}.")


def json_lines(path: str | PathLike[str], errors: str = "strict") -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one JSON object a line, with the lines' numbers; values as [`parse_json`] gives them.

    Raises:
        FileNotFoundError, ValueError: as [`parsed_lines`].
    """
    remedy = (
        " If it is one JSON list, or objects over several lines: `jq -c .[]` or `jq -c .` writes one object a line."
    )
    return parsed_lines(path, json_object, "one JSON object a line", errors, remedy)


def json_object(line: str) -> dict[str, Any]:
    """The object that a line holds.

    Raises:
        ValueError: the line holds none.
    """
    value = parse_json(line)
    if not isinstance(value, dict):
        raise ValueError(f"no JSON object but {json_kind(value)}")
    return value


def parse_json(text: str) -> Any:
    """JSON → Python; NaN, which Python writes for what is missing, becomes None, and half an emoji U+FFFD.

    Control characters may stand in strings.

    Raises:
        ValueError: no JSON, a key that stands twice in an object with different values, an integer of more digits than
            Python reads, or values nested too deeply. The message is the reason in a few words.
    """
    try:
        value = _DECODER.decode(text.strip().removeprefix("\ufeff"))
        return _whole_letters(value) if _HALF.search(text) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.pos + 1})") from error
    except RecursionError as error:
        raise ValueError("values nested too deeply") from error
    except ValueError as error:
        raise ValueError("a number with too many digits" if "digits" in str(error) else str(error)) from error


def read_json(path: str | PathLike[str], errors: str = "strict") -> Any:
    """The value of a file that is one JSON value, as [`parse_json`] gives it.

    Raises:
        FileNotFoundError, ValueError: as [`open_text`] and [`parse_json`], with the file's name.
    """
    with open_text(path, errors, newline="") as file:
        text = file.read(JSON_LIMIT + 1)
    if len(text) > JSON_LIMIT:
        raise ValueError(f"{path}: expected at most {JSON_LIMIT:,} characters of JSON, got more.")
    try:
        return parse_json(text)
    except ValueError as error:
        cause = " Was it cut off?" if isinstance(error.__cause__, json.JSONDecodeError) else ""
        raise ValueError(f"{path}: it is no JSON that can be read: {error}.{cause}") from error


@lru_cache(maxsize=1000)
def warn_once(logger: logging.Logger, message: str) -> None:
    """A warning about a file, which one verb may read several times."""
    logger.warning(message)


def json_kind(value: Any) -> str:
    """What JSON calls a value."""
    kinds = {bool: "true or false", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")


def json_id(what: str, value: Any) -> str:
    """An id in JSON as a text, a whole number written out; ValueError where it is neither."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{what} {shortened(value)} is neither a text nor a whole number")
    return str(value)


def shortened(value: Any, length: int = 60) -> str:
    """A value as it is shown in a message: its `repr`, cut where it is long."""
    if isinstance(value, (str, bytes)):
        value = value[: length + 1]
    shown = repr(value)
    return shown if len(shown) <= length + 2 else shown[:length] + "…"


@contextmanager
def _gzip_errors(path: Path) -> Iterator[None]:
    """Whatever `gzip` raises, as a ValueError that names the file."""
    try:
        yield
    except EOFError as error:
        raise ValueError(f"{path} is cut off: its gzip data end too early. Download or copy it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: its gzip data cannot be read ({error}). Download it again.") from error


def _open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if they are gzip, whether or not its name says so."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: expected a file.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    if not path.is_file():  # reading a pipe would wait for its writer
        raise ValueError(f"{path}: expected a regular file, got something else. Write it to a file first.")
    file = open(path, "rb")  # noqa: SIM115
    head = file.peek(8)[:8]
    if head.startswith(b"\x1f\x8b"):
        file.close()
        return cast(IO[bytes], gzip.open(path, "rb"))
    kind = next((kind for mark, kind in _OTHER_KINDS.items() if head.startswith(mark)), None)
    if kind is None and path.name.lower().endswith(".gz") and head:
        begins = shortened(head)
        page = head.lstrip().startswith(b"<")
        kind = f"no gzip file, it begins with {begins}. " + (
            "That looks like a web page: download the file again" if page
            else "If it is unpacked already, remove .gz from its name; else download it again"
        )  # fmt: skip
    if kind is not None:
        file.close()
        raise ValueError(f"{path} is {kind}.")
    return file


# What shops' programs write that is not UTF-8, by the name that `iconv` knows. Bytes do not tell which one is right:
# whoever knows the words sees it.
_OTHER_ENCODINGS = {"WINDOWS-1252": "cp1252", "WINDOWS-1251": "cp1251", "CP932": "cp932", "GB18030": "gb18030"}
_SHOWN = 16  # letters from the first byte that is no UTF-8 on; as many of them go before


def _encoding_message(path: Path, encoding: str) -> str:
    """Where the file is no text in its encoding, and how the line reads in others."""
    save = 'save it as UTF-8 (Excel: "CSV UTF-8")'
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"{path} cannot be read as {encoding.upper()}, which its first bytes show. Was it cut off? Else {save}."
    with _open_bytes(path) as file:
        number, line, start = next(filter(None, map(_undecodable, enumerate(file, start=1))))
    told = f"{path}, line {number}: expected text in UTF-8, got the byte 0x{line[start]:02x}"
    if line[start] == 0xED and line[start + 1 : start + 2] >= b"\xa0":
        return f"{told}: half an emoji, as programs write it that cut texts after so many letters. Correct the line."
    readings = _readings(line, start)
    if not readings:
        return f"{told}. Is it written in another encoding, or no text? Else {save}."
    shown = ", ".join(f"{name}: {text!r}" for name, text in readings.items())
    return (
        f"{told}. In other encodings the line reads so: {shown}. If one of these is right, convert the file: "
        f"`iconv -f NAME -t UTF-8 {shlex.quote(str(path))} > {shlex.quote('utf8_' + path.name)}`. Or {save}."
    )


def _readings(line: bytes, start: int) -> dict[str, str]:
    """What stands around a byte in each encoding in which the whole line is text."""
    readings = {}
    for name, encoding in _OTHER_ENCODINGS.items():
        try:
            text = line.rstrip(b"\r\n").decode(encoding)
        except UnicodeDecodeError:
            continue
        place = len(line[:start].decode(encoding, "ignore"))
        shown = re.sub("[\t\xa0\xad\u3000]", " ", text[max(0, place - _SHOWN) : place + _SHOWN])
        if shown.isprintable():
            readings[name] = shown.strip()
    return readings


def _undecodable(numbered: tuple[int, bytes]) -> tuple[int, bytes, int] | None:
    try:
        numbered[1].decode("utf-8")
    except UnicodeDecodeError as error:
        return *numbered, error.start
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise ValueError(f"the key {shortened(key)} stands twice in one object")
    return made


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _whole_letters(value: Any) -> Any:
    """The same value with U+FFFD for halves of emojis, which no file could hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_letters(part) for part in value]
    if isinstance(value, dict):
        return {_whole_letters(key): _whole_letters(part) for key, part in value.items()}
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, strict=False)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
