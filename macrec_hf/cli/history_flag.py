"""`--history`: item ids with commas between them, whatever characters the ids hold."""

import re
from collections.abc import Iterable

_ID = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*))\s*(?:,|$)')  # in quotes, or up to the next comma


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


def _written(item_id: str) -> str:
    plain = item_id == item_id.strip() and "," not in item_id and not item_id.startswith('"')
    return item_id if plain else '"' + item_id.replace('"', '""') + '"'
