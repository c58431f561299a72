"""People import from `macrec_hf` alone: type checkers find the same names, and examples and pages take no others."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import macrec_hf

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
DOTTED = re.compile(r"\bmacrec_hf\.(\w+(?:\.\w+)*)")
CANNOT_FAIL = {"baseline_lists", "exact_scores"}
NOT_FOR_USERS = {"examples/space/app.py", "docs/architecture.md"}  # the app itself; how the house is built


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(code: str) -> list[str]:
    """What a program imports of ours, such as `macrec_hf.read_items` or `macrec_hf.cli.main`."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{name.name}" for name in node.names]
    return [name for name in found if name.startswith("macrec_hf.")]


def is_public(name: str) -> bool:
    first, _, rest = name.removeprefix("macrec_hf.").partition(".")
    return first in macrec_hf.__all__ and not rest or first == "cli"  # `macrec_hf.cli` is the command line


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_examples_import_public_names_alone(path):
    inside = [name for name in imports(path.read_text(encoding="utf-8")) if not is_public(name)]
    assert not inside or name_of(path) in NOT_FOR_USERS


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_import_and_name_public_names_alone(path):
    text = path.read_text(encoding="utf-8")
    named = [f"macrec_hf.{name}" for name in DOTTED.findall(text)]
    for block in BLOCK.findall(text):
        named += imports(block) if "import" in block else []  # without: a signature, which is no program
    inside = [name for name in named if not is_public(name)]
    assert not inside or name_of(path) in NOT_FOR_USERS


def test_what_counts_as_an_import():
    code = (
        "from macrec_hf import a\nimport macrec_hf.data.readers as r\ndef f():\n    from macrec_hf.data import splits"
    )
    assert imports(code) == ["macrec_hf.a", "macrec_hf.data.readers", "macrec_hf.data.splits"]
    assert not any(map(is_public, [*imports(code), "macrec_hf.data", "macrec_hf.read_items.x"]))
    assert all(map(is_public, ["macrec_hf.read_items", "macrec_hf.cli.main"]))


def test_type_checkers_and_python_find_the_same_names():
    tree = ast.parse((ROOT / "macrec_hf" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    checked = {alias.name: node.module for node in block.body for alias in node.names}
    assert checked == macrec_hf._HOMES
    assert sorted(checked) == macrec_hf.__all__
    for name, home in checked.items():
        assert getattr(macrec_hf, name).__module__ == f"macrec_hf.{home}"


@pytest.mark.parametrize("name", [name for name in macrec_hf.__all__ if name.islower()])
def test_a_function_describes_its_arguments_and_what_it_refuses(name):
    function = getattr(macrec_hf, name)
    text = inspect.getdoc(function)
    described = re.findall(r"^    (\w+(?:, \w+)*): ", text, re.M)
    taken = {parameter.name for parameter in inspect.signature(function).parameters.values() if parameter.kind != 4}
    assert taken <= {argument for together in described for argument in together.split(", ")}
    assert "\nRaises:\n" in text or name in CANNOT_FAIL


def test_nothing_heavy_is_loaded_for_the_names():
    """Those that read tables and make shops need no torch; `dir` and completion load nothing at all."""
    program = (
        "import sys, macrec_hf; dir(macrec_hf); assert 'numpy' not in sys.modules; "
        "macrec_hf.read_items, macrec_hf.leave_one_out, macrec_hf.make_demo_shop; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
