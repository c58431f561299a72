"""The documentation builds as a site: strictly, with every public name, and with nothing from another host."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import macrec_hf
from macrec_hf.cli.main import VERBS

pytest.importorskip("mkdocs", reason="the site needs the extra [docs]")

ROOT = Path(__file__).parents[1]


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        names = ("href",) if tag == "link" else ("src", "srcset", "data", "poster")
        if tag != "a" and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.addresses += [attributes[name] for name in names if attributes.get(name)]


def test_no_page_loads_anything_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        outside = [address for address in parser.addresses if re.match(r"(\w+:)?//", address)]
        assert not outside, f"{page.relative_to(site)} loads {outside}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style
    # The theme's program fetches two helpers from elsewhere: one for diagrams, one for browsers of before 2020.
    programs = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.js"))
    assert set(re.findall(r"https://unpkg\.com/([\w-]+)", programs)) <= {"mermaid", "resize-observer-polyfill"}
    assert not any('class="mermaid"' in page.read_text(encoding="utf-8") for page in pages)


def test_every_public_name_and_every_verb_has_its_place(site):
    reference = {page.name: page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html")}
    for name in macrec_hf.__all__:
        assert sum(f'id="macrec_hf.{name}"' in text for text in reference.values()) == 1, name
    assert all(f'id="macrec-{verb}"' in reference["command_line.html"] for verb in VERBS)
    assert "--config FILE.yaml" in reference["command_line.html"]


def test_docstrings_are_read_as_they_are_meant(site):
    quantizer = (site / "reference" / "quantizer.html").read_text(encoding="utf-8")
    assert re.search(r"Codewords per level\. Default <code>256</code> \(paper: M = 256\)", quantizer, re.I)
    pages = [page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html")]
    # A section that was not recognised stays in the text; a reference that was not, in brackets.
    assert not any(re.search(r"<p>(Args|Returns|Raises|Attributes):", page) for page in pages)
    assert not any(re.search(r"\[<code>[\w.~]+</code>\]", page) for page in pages)


def test_formulas_are_part_of_the_page(site):
    index = (site / "paper_index.html").read_text(encoding="utf-8")
    numbers = re.findall(r'<div class="equation"><math .*?</math><span>\((\d+)\)</span></div>', index)
    assert numbers == [str(number) for number in range(1, 20)]
    for page in site.rglob("*.html"):  # neither a formula that was not converted, nor a word of TeX that was not known
        text = page.read_text(encoding="utf-8")
        assert "language-math" not in text and "$<code>" not in text, page
        assert not any("\\" in formula for formula in re.findall(r"<math .*?</math>", text)), page


# What a stranger types first, and the pages one of which has to come first.
STRANGERS = {
    "cold start": {"recipes/own_shop.html", "concepts/semantic_ids.html", "concepts/blend.html"},
    "new item": {"recipes/own_shop.html", "concepts/semantic_ids.html"},
    "collision": {"concepts/semantic_ids.html"},
    "counting": {"concepts/blend.html"},
    "beam": {"decoding.html"},
    "batch size": {"training.html"},
    "GPU": {"recipes/several_gpus.html", "training.html"},
    "serve": {"serving.html"},
    "csv": {"recipes/own_shop.html", "data_formats.html"},
}


@pytest.mark.browser
def test_the_search_of_a_page_that_is_opened_as_a_file_finds_what_a_stranger_looks_for(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    chromium = shutil.which("chromium") or pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((site / "index.html").as_uri())
        for words, wanted in STRANGERS.items():
            page.locator("input.md-search__input").fill("")
            page.locator(".md-search-result__item").first.wait_for(state="detached")
            page.keyboard.type(words)
            first = page.locator(".md-search-result__item a").first.get_attribute("href")
            assert first.removeprefix(f"{site.as_uri()}/").split("?")[0] in wanted, (words, first)
        browser.close()


def test_links_out_of_docs_lead_to_pages(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="overview.html"' in home and 'href="examples/index.html"' in home
    overview = (site / "overview.html").read_text(encoding="utf-8")
    assert 'href="data_formats.html"' in overview and 'href="LICENSE.html"' in overview
    assert "Apache License" in (site / "LICENSE.html").read_text(encoding="utf-8")
    assert (site / "examples" / "1_semantic_ids.py.html").is_file()


def build_of(line: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """The build of a site by our rules that has one page of ours, with `line`."""
    for name in ("mkdocs_hooks.py", "mkdocs_docstrings.py"):
        shutil.copy(ROOT / name, tmp_path)
    rules = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[0]
    (tmp_path / "mkdocs.yml").write_text(rules, encoding="utf-8")
    (tmp_path / "macrec_hf").symlink_to(ROOT / "macrec_hf")
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "LICENSE", "docs/iframe-worker.js", "docs/site.css"):
        (tmp_path / name).touch()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{line}\n", encoding="utf-8")
    return build(tmp_path, tmp_path / "site")


def build_with(line: str, tmp_path: Path) -> str:
    """What a build says that has to fail, because its page has `line`."""
    done = build_of(line, tmp_path)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_a_page_without_faults_builds(tmp_path):
    done = build_of("[a](index.md#page) $`x`$", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<math" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_links_that_lead_nowhere_end_the_build(tmp_path):
    said = build_with("[a](gone.md) [b](index.md#away) [c](../setup.py) [`d`][macrec_hf.lost]", tmp_path)
    assert all(target in said for target in ("'gone.md'", "#away", "'../setup.py'", "'macrec_hf.lost'"))
    assert "in strict mode" in said


def test_an_unknown_name_ends_the_build(tmp_path):
    assert "macrec_hf.gone could not be found" in build_with("::: macrec_hf.gone", tmp_path)


DOCS = ROOT / "docs"
CONCEPTS = [*sorted((DOCS / "concepts").glob("*.md")), DOCS / "decoding.md", DOCS / "doctor.md"]


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda page: page.stem)
def test_each_concept_says_how_when_and_when_not(page):
    headings = re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.M)
    wanted = [heading for heading in headings if re.match("How it works|When (not )?to use", heading)]
    assert [heading.removesuffix(" it") for heading in wanted] == ["How it works", "When to use", "When not to use"]
