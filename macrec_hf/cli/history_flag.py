"""`--history`: item ids with commas between them, whatever characters the ids hold."""

import re
import shlex
from collections.abc import Collection, Iterable, Sequence

_ID = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*))\s*(?:,|$)')  # in quotes, or up to the next comma
_MOST_PIECES = 10  # of one id: a history of thousands is not tried in all ways


def history_words(item_ids: Iterable[str]) -> list[str]:
    """The flag with a history, as words of a command line."""
    text = history_text(item_ids)
    return [f"--history={text}"] if text.startswith("-") else ["--history", text]


def history_text(item_ids: Iterable[str]) -> str:
    """A history as `--history` takes it."""
    return ",".join(map(_written, item_ids))


def read_history(text: str) -> list[str]:
    """The ids of a history; blanks around them and empty places do not count, unless they stand in quotes.

    An id in quotes may hold commas, and quotes that stand twice, as in a CSV file: `"a,b",c` or `"5"" disk"`.
    """
    pairs = (match.groups(default="") for match in _ID.finditer(text))
    return [item for quoted, bare in pairs if (item := quoted.replace('""', '"') or bare.strip())]


def quotes_missing(pieces: Sequence[str], known: Collection[str]) -> str:
    """The end of an error about unknown items, where some of a history's pieces are one known id with its commas.

    Args:
        pieces: of `read_history`.
        known: ids of the catalogue.
    """
    known, whole, start = set(known), list[str](), 0
    while start < len(pieces):
        ends = range(min(len(pieces), start + _MOST_PIECES), start, -1)
        runs = ((comma.join(pieces[start:end]), end) for end in ends for comma in (",", ", "))
        item, start = next((run for run in runs if run[0] in known), (pieces[start], start + 1))
        whole.append(item)
    if whole == list(pieces):
        return ""
    return f" An id that holds a comma stands in quotes: {shlex.join(history_words(whole))}."


def _written(item_id: str) -> str:
    plain = item_id == item_id.strip() and "," not in item_id and not item_id.startswith('"')
    return item_id if plain else '"' + item_id.replace('"', '""') + '"'
