"""Every code block of the quickstart, the recipes and docs/serving.md runs, in order, as a reader would type it."""

import functools
import gzip
import json
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from docs_blocks import FILES, ROOT, blocks_of, macrec_commands, page_before, run_page

from macrec_hf import SemanticIdTable
from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.demo.shop import make_demo_shop

RECIPES = ROOT / "docs" / "recipes"
QUICKSTART = ROOT / "docs" / "quickstart.md"
PAGES = [QUICKSTART, *sorted(RECIPES.glob("*.md")), ROOT / "docs" / "serving.md"]
MOST_SKIPPED = 12  # the two of docs/serving.md are run in test_docs_serving.py
# What is no program, and so is not run: excerpts of files and of what a program says.
EXCERPTS = {"text", "json", "yaml", "csv"}


def name(page) -> str:
    return str(page.relative_to(ROOT))


def published_ids(folder):
    """MQL4GRec's layout: random IDs, of which some are shared."""
    random = np.random.default_rng(0)
    items = [str(item) for item in range(30)]
    codes = {modality: random.integers(0, 4, (30, 4)) for modality in ("text", "image")}
    table = SemanticIdTable(items, {modality: np.minimum(code, 1) for modality, code in codes.items()})
    (folder / "raw").mkdir()
    table.to_index_json("text", folder / "raw" / "Instruments.index_lemb.json")
    table.to_index_json("image", folder / "raw" / "Instruments.index_vitemb.json")
    histories = {str(user): random.permutation(30)[:6].tolist() for user in range(20)}
    (folder / "raw" / "Instruments.inter.json").write_text(json.dumps(histories))


class Photos(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def amazon_dump(request):
    """A category of the 2018 release in miniature, its photos on a server on loopback."""
    servers = []

    def write(folder):
        shop = make_demo_shop(folder / "elsewhere", num_items=20, num_customers=60)
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Photos, directory=shop.items.parent))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        photos = f"http://127.0.0.1:{server.server_port}/images"
        raw = folder / "raw"
        raw.mkdir()
        with gzip.open(raw / "Musical_Instruments_5.json.gz", "wt") as file:
            for row in read_interactions(shop.interactions).itertuples():
                review = {"reviewerID": row.user_id, "asin": row.item_id, "unixReviewTime": int(row.timestamp)}
                file.write(json.dumps(review) + "\n")
        with gzip.open(raw / "meta_Musical_Instruments.json.gz", "wt") as file:
            for row in read_items(shop.items).itertuples():
                item = {"asin": row.item_id, "title": row.title, "description": [row.text]}
                file.write(json.dumps(item | {"imageURLHighRes": [f"{photos}/{row.item_id}.jpg"]}) + "\n")

    yield write
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The folder that the quickstart leaves, for the pages that go on there."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page(QUICKSTART, folder)
    return folder


def prepare(page, folder, request):
    """What the page says that a reader has."""
    if page_before(page) == QUICKSTART:
        shutil.copytree(request.getfixturevalue("quickstart"), folder, dirs_exist_ok=True)
    if page.stem == "imported_ids":
        published_ids(folder)
    if page.stem == "amazon":
        request.getfixturevalue("amazon_dump")(folder)
    if page.stem in ("space", "serving"):
        pytest.importorskip("gradio", reason="a page and a service need the extra [app]")


SLOW = {"several_gpus"}  # two processes


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else ()) for page in PAGES], ids=name
)
def test_every_block_runs(page, tmp_path, monkeypatch, request):
    if page == QUICKSTART:
        folder = request.getfixturevalue("quickstart")
        assert (folder / "model" / "config.json").is_file() and (folder / "metrics.json").is_file()
        return
    prepare(page, tmp_path, request)
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [QUICKSTART, RECIPES / "own_shop.md"], ids=name)
def test_commands_run_in_a_shell_too(page, tmp_path, monkeypatch, request):
    """Each as a process of its own, as a reader runs them."""
    prepare(page, tmp_path, request)
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, shell=True)


def test_few_blocks_are_skipped_each_with_its_reason():
    skipped = [block for page in PAGES for block in blocks_of(page) if block.skipped is not None]
    assert len(skipped) <= MOST_SKIPPED, [f"{block.place}: {block.skipped}" for block in skipped]
    assert all(len(block.skipped.split()) >= 3 for block in skipped)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_program_hides_from_the_test(page):
    """Programs stand in python and bash blocks, which are run; the other blocks are excerpts; none is indented."""
    text = page.read_text(encoding="utf-8")
    opening = re.findall(r"^```(\S*)$", text, re.M)[::2]
    assert set(opening) <= {"python", "bash"} | EXCERPTS
    assert len(blocks_of(page)) == sum(language in ("python", "bash") for language in opening) > 0
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    assert not re.search(r"\n\n {4,}\S", prose)
    excerpts = re.findall(rf"^```(?:{'|'.join(EXCERPTS)})\n(.*?)^```$", text, re.M | re.S)
    assert not any(re.search(r"^\s*(\$|macrec|python|pip) ", excerpt, re.M) for excerpt in excerpts)
    assert len(re.findall("<!-- test:", text)) == len(re.findall(r"^<!-- test: .+ -->$", text, re.M))


def test_how_blocks_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("docs_blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        'A\n\n<!-- test: "9" → "1" -->\n```python\nx = 9\n```\n\n<!-- test: skip, for fun -->\n```bash\nls\n```\n'
    )
    first, second = blocks_of(page)
    assert (first.place, first.code, first.skipped) == ("page.md:5", "x = 1\n", None)
    assert second.skipped == "for fun"
    page.write_text('<!-- test: "8" → "1" -->\n```python\nx = 9\n```\n')
    with pytest.raises(ValueError, match="does not hold '8'"):
        blocks_of(page)
    page.write_text("<!-- test: fast -->\n```python\nx = 9\n```\n")
    with pytest.raises(ValueError, match="got 'fast'"):
        blocks_of(page)
    assert macrec_commands("# a\nmacrec embed --items a.csv \\\n  --output b # so\n") == [
        ["embed", "--items", "a.csv", "--output", "b"]
    ]
    text = "cat > a <<'YAML'\nx: 1\nYAML\ncat > b <<'END'\nYAML\nEND\n"
    assert FILES.match(text + "macrec demo\n")[0] == text and FILES.match("macrec demo\n")[0] == ""
    assert macrec_commands("macrec demo | tail\n") is None and macrec_commands("ls\n") is None
