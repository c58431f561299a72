"""docs/api.md holds every public name with its true signature and an example that runs; links lead somewhere."""

import ast
import inspect
import re
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedConfig, TrainingArguments

import macrec_hf

ROOT = Path(__file__).parents[1]
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


def test_the_examples_of_the_api_page_and_the_readme_run(tmp_path, monkeypatch, capsys):
    """All of them, in the page's order and in one namespace, as a reader would type them; then the README's."""
    monkeypatch.chdir(tmp_path)
    before = API.split("\n### ", 1)[0]
    blocks = FENCE.findall(before) + [block for text in SECTIONS.values() for block in FENCE.findall(text)[1:]]
    namespace = {"__name__": "api_page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/api.md, example {number}", "exec"), namespace)
    # The README recommends with what `make demo` left; here that is the model that the API page has saved.
    shutil.copytree("model", "demo/model")
    (readme,) = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(readme.strip().splitlines()) <= 16
    exec(compile(readme, "README.md", "exec"), {"__name__": "readme"})
    assert re.search(r"\['<A_\d+>', '<B_\d+>', '<C_\d+>', '<D_\d+>'\]\n(i\d+ -\d+\.\d+\n){5}", capsys.readouterr().out)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor[1:] in anchors, f"{page.name} links to {target}{anchor}, which is no heading there"
