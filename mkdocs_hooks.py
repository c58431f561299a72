"""What the site needs beyond docs/: pages made of files that live elsewhere, links that lead there, formulas, search.

On GitHub, `docs/` links to the README, the examples and the licence by their relative paths. The site has these files
as pages of its own, so such links are bent to them; a link to any other file outside `docs/` stays as it is, and
strict mode refuses it. Formulas are written as GitHub reads them and become MathML, which browsers show by themselves.
"""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parent
LANGUAGES = {".py": "python", ".yaml": "yaml"}
LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")
HELP = "<!-- help of every verb -->"
MATH = re.compile(r"^```math\n(.*?)(?: \\tag\{(\d+)\})?\n```$", re.M | re.S)
MATH_IN_LINE = re.compile(r"\$`([^`]+)`\$")
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def pages_from_elsewhere() -> dict[str, str]:
    """`{path in the repository: path of its page on the site}`."""
    examples = (path for suffix in ("md", "py", "yaml") for path in (ROOT / "examples").rglob(f"*.{suffix}"))
    paths = ["README.md", "LICENSE", *sorted(path.relative_to(ROOT).as_posix() for path in examples)]
    pages = {path: path if path.endswith(".md") else f"{path}.md" for path in paths}
    return pages | {"README.md": "overview.md"}  # a README.md would become the landing page


PAGES = pages_from_elsewhere()
IN_NAVIGATION = {"overview.md", "examples/README.md"}
SOURCES = {page: path for path, page in PAGES.items()}


def on_files(files, config):
    for path, page in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            text = f"# {posixpath.basename(path)}\n\n```{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}```\n"
        inclusion = InclusionLevel.INCLUDED if page in IN_NAVIGATION else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page, content=text, inclusion=inclusion))
    return files


def on_page_markdown(markdown, page, config, files):
    """Bends links between docs/ and the files that live elsewhere; code is left alone."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def bend(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target == "examples":
            target = "examples/README.md"
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(here) or ".")

    page.meta.setdefault("search", {"boost": boost_of(here)})
    markdown = MATH_IN_LINE.sub(lambda match: convert(match[1]), MATH.sub(equation, markdown))
    parts = FENCE.split(markdown.replace(HELP, help_of_every_verb()) if HELP in markdown else markdown)
    return "".join(part if part.startswith("```") else LINK.sub(bend, part) for part in parts)


def equation(match: re.Match) -> str:
    """A formula on a line of its own, with its number at the right if it has one."""
    number = f"<span>({match[2]})</span>" if match[2] else ""
    return f'<div class="equation">{convert(match[1], display="block")}{number}</div>'


def boost_of(page: str) -> float:
    """What a page counts in the search: most what explains, less what lists names, least the listings of examples."""
    if page.endswith((".py.md", ".yaml.md", "LICENSE.md")):
        return 0.01
    return 0.2 if page.startswith("reference/") or page in ("api.md", "overview.md", "results.md") else 1.0


def help_of_every_verb() -> str:
    """`macrec VERB --help` of every verb, each under a heading of its own."""
    from macrec_hf.cli.main import VERBS, build_parser

    return "\n".join(
        f"## macrec {verb}\n\n{what[0].upper()}{what[1:]}.\n\n```text\n{build_parser(verb).format_help()}```\n"
        for verb, what in VERBS.items()
    )
