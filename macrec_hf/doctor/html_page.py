"""How the HTML pages of the package are written: from templates that escape whatever they are given.

A template is named by its path in the package. `page.html.jinja` is the page that others extend, with `page.css`;
`pieces.html.jinja` and `charts.html.jinja` are what they share. Nothing is loaded from elsewhere.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from .charts import bar_chart, line_chart, scatter_chart
from .glossary import explained, with_commands
from .photos import photo_source

# All is HTML but what says by its name that it is something else.
environment = Environment(
    loader=PackageLoader("macrec_hf", "."),
    autoescape=select_autoescape(disabled_extensions=("py.jinja", "md.jinja"), default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
environment.globals.update(
    bar_chart=bar_chart, line_chart=line_chart, scatter_chart=scatter_chart, photo_source=photo_source
)


def number(value: float | None, form: str) -> str:
    """A number in a format of Python; a dash where there is none."""
    return "–" if value is None else f"{value:{form}}"


environment.filters.update(number=number, explained=explained, with_commands=with_commands)


def render(template: str, **values: Any) -> str:
    """The text of a template, such as `doctor/templates/report.html.jinja`."""
    return environment.get_template(template).render(values)
