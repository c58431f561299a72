"""The templates of the model card: what comes from data is escaped for the place in Markdown where it stands."""

import json
import re
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def text(value: object) -> str:
    """A line of text that is neither HTML nor the border of a table's cell; integers with commas."""
    line = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    return escape(line, quote=False).replace("\\", "\\\\").replace("|", "\\|")


def literal(value: str) -> str:
    """A string of Python, on one line; the marks around a card's results are HTML comments, so it begins none."""
    return json.dumps(value, ensure_ascii=False).replace("<!--", "\\u003c!--")


def span(value: str) -> str:
    """Code within a line."""
    line = " ".join(value.split())
    ticks = _ticks(line, 1)
    space = " " if "`" in line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fenced(value: str, language: str) -> str:
    """A block of code, between fences that nothing in it closes."""
    ticks = _ticks(value, 3)
    return f"{ticks}{language}\n{value}\n{ticks}"


def _ticks(value: str, least: int) -> str:
    return "`" * max(least, *(len(run) + 1 for run in re.findall("`+", value)), 0)


_environment = Environment(
    loader=PackageLoader("macrec_hf.hub", "."),
    autoescape=False,  # not HTML: each place has its filter
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters.update(text=text, literal=literal, span=span, fenced=fenced)


def render(template: str, **values: Any) -> str:
    """The text of a template of this folder."""
    return _environment.get_template(template).render(values)
