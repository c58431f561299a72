"""docs/api.md holds every public name with its true signature and an example that runs; the README's
program runs, links lead somewhere, and the architecture page names files and functions that exist."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from docs_blocks import blocks_of, macrec_commands
from PIL import Image
from transformers import PreTrainedConfig, TrainingArguments

import macrec_hf
from macrec_hf import make_demo_shop
from macrec_hf.cli.main import build_parser

ROOT = Path(__file__).parents[1]
README, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "architecture.md"
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def sections() -> dict[str, str]:
    parts = re.split(r"^### `(\w+)`\n", API, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = sections()


def written_parameters(signature: str) -> list[str]:
    """`"f(a, *, b=1, **c)"` → `["a", "b", "c"]`, in inspect's order."""
    arguments = ast.parse(f"def {signature}: ...").body[0].args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    names += [arguments.vararg.arg] if arguments.vararg else []
    names += [argument.arg for argument in arguments.kwonlyargs]
    return names + ([arguments.kwarg.arg] if arguments.kwarg else [])


def true_parameters(thing) -> list[str]:
    if isinstance(thing, type) and issubclass(thing, (PreTrainedConfig, TrainingArguments)):
        # transformers adds the fields of all base classes; ours are those of the class body.
        return [name for name in vars(thing)["__annotations__"] if name != "model_type"]
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def own_methods(thing) -> set[str]:
    """Public methods and properties that a class of ours adds to what its bases have."""
    if not isinstance(thing, type):
        return set()
    inherited = {
        name for base in thing.__mro__[1:] if not base.__module__.startswith("macrec_hf") for name in dir(base)
    }
    return {
        name
        for name, member in vars(thing).items()
        if not name.startswith("_") and name not in inherited
        if isinstance(member, (classmethod, staticmethod, property)) or inspect.isfunction(member)
    }


@pytest.mark.parametrize("name", macrec_hf.__all__)
def test_every_public_name_is_documented_with_its_signature(name):
    assert name in SECTIONS, f"docs/api.md has no section '### `{name}`'"
    blocks = FENCE.findall(SECTIONS[name])
    assert len(blocks) >= 2, f"{name}: expected a signature and an example, each in a ```python block"
    assert blocks[0].startswith(f"{name}(")
    assert written_parameters(blocks[0].strip()) == true_parameters(getattr(macrec_hf, name))
    assert any(name in block for block in blocks[1:]), f"the example of {name} does not use it"


@pytest.mark.parametrize("name", macrec_hf.__all__)
def test_every_method_of_ours_is_documented_with_its_signature(name):
    thing = getattr(macrec_hf, name)
    written = re.findall(r"^- `(\w+)(\([^`]*\))?`", SECTIONS[name], re.M)
    # Attributes that are set in __init__ may be listed as well; methods and properties of ours must be.
    assert own_methods(thing) <= {method for method, _ in written}
    for method, arguments in written:
        if arguments:
            assert written_parameters(method + arguments) == true_parameters(getattr(thing, method)), method


def test_no_section_is_left_over():
    assert sorted(SECTIONS) == macrec_hf.__all__


def test_the_examples_of_the_api_page_run(tmp_path, monkeypatch):
    """All of them, in the page's order and in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    before = API.split("\n### ", 1)[0]
    blocks = FENCE.findall(before) + [block for text in SECTIONS.values() for block in FENCE.findall(text)[1:]]
    namespace = {"__name__": "api_page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/api.md, example {number}", "exec"), namespace)


def test_the_program_of_the_readme_trains_and_recommends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks_of(README) if block.language == "python")
    assert len([line for line in block.code.splitlines() if line]) <= 15
    assert set(re.findall(r"^\s*(?:from|import) (\w+)", block.code, re.M)) == {"macrec_hf"}
    make_demo_shop("shop", num_items=40, num_customers=60)
    namespace = {"__name__": "readme"}
    exec(compile(block.code, block.place, "exec"), namespace)
    table = namespace["table"]
    assert max(table.collision_rate(modality) for modality in table.modalities) == 0
    shown = re.findall(r"Recommendation\('(p\d{4})', -\d+\.\d+", capsys.readouterr().out)
    assert len(set(shown)) == 5 and set(shown) <= set(table.item_ids)


def test_the_readme_is_short_and_its_commands_are_read():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
    (block,) = (block for block in blocks_of(README) if block.language == "bash")
    commands = macrec_commands(block.code)
    assert commands is not None and len(commands) == len(block.code.splitlines()) == 8
    for verb, *flags in commands:
        build_parser(verb).parse_args(flags)  # ends the test where a flag is unknown or a required one is missing
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"make ([a-z-]+)", README.read_text(encoding="utf-8"))) <= {*targets, "test-slow"}


PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.png"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_pictures_are_small_and_shown(picture):
    assert picture.stat().st_size <= 250_000
    with Image.open(picture) as opened:
        assert opened.format == "PNG" and opened.width == 900
    shown = re.compile(rf"!\[[^]]+\]\((\S*pictures/{picture.name})\)")
    assert any(shown.search(page.read_text(encoding="utf-8")) for page in PAGES)


def test_the_readme_shows_the_stages_the_demo_the_app_and_the_doctor():
    shown = re.findall(r"!\[[^]]+\]\((\S+)\)", README.read_text(encoding="utf-8"))
    assert [Path(picture).name for picture in shown] == ["stages.svg", "demo.png", "app.png", "doctor.png"]
    assert all((ROOT / picture).is_file() for picture in shown)


PATHS = re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|css|js|jinja|md))`", ARCHITECTURE.read_text(encoding="utf-8"))


def test_the_architecture_page_names_files_that_are_there():
    assert len(PATHS) > 50
    lost = [path for path in PATHS if not any((root / path).exists() for root in (ROOT, ROOT / "macrec_hf"))]
    assert lost == []


def test_the_way_of_one_item_names_functions_that_are_there():
    """Each step ends with (`folder/file.py`: `function`, `Class.method`)."""
    way = ARCHITECTURE.read_text(encoding="utf-8").split("## One item", 1)[1].split("\n## ", 1)[0]
    steps = re.findall(r"\(`([\w/]+\.py)`:\s+((?:`[\w.]+`[,\s]*)+)\)$", way, re.M)
    assert len(steps) == len(re.findall(r"^\d+\. ", way, re.M)) == 22
    for path, names in steps:
        module = import_module(f"macrec_hf.{path.removesuffix('.py').replace('/', '.')}")
        for name in re.findall(r"`([\w.]+)`", names):
            thing = module
            for part in name.split("."):
                thing = getattr(thing, part)
            assert inspect.getmodule(thing) is module, f"{path}: {name} stands elsewhere"


PAPER_INDEX = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")


def test_the_paper_index_has_every_equation_once_and_in_order():
    formulas = "".join(re.findall(r"^```math\n(.*?)^```$", PAPER_INDEX, re.M | re.S))
    assert re.findall(r"^\S.* = .* \\tag\{(\d+)\}$", formulas, re.M) == [str(number) for number in range(1, 20)]


def test_the_paper_index_names_symbols_that_are_there():
    dotted = set(re.findall(r"`((?:model|catalogue|evaluation)\.\w+\.\w+)`", PAPER_INDEX))
    assert len(dotted) >= 14
    for name in dotted:
        home, _, symbol = name.rpartition(".")
        assert hasattr(import_module(f"macrec_hf.{home}"), symbol), name
    public = set(re.findall(r"`((?:MacRec|SemanticId|Recommendation)\w+(?:\.\w+)?)`", PAPER_INDEX))
    assert len(public) >= 6
    for name in public:
        thing = macrec_hf
        for part in name.split("."):
            thing = getattr(thing, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor[1:] in anchors, f"{page.name} links to {target}{anchor}, which is no heading there"
