"""A file imports only from floors below its own or files above it on its floor, as the README's tree lists them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "macrec_hf"
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def planned_order() -> dict[str, tuple[int, int]]:
    """`{file: (floor, place)}` from the lines `floor N: …` and `name.py  phrase` of the README's tree."""
    order, floor = {}, -1
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"\s+floor (\d+):", line):
            floor = int(heading[1])
        elif floor >= 0 and (entry := re.match(r" {8}((?:cli/)?\w+\.py)\s", line)):
            order.setdefault(entry[1], (floor, len(order)))
    return order


ORDER = planned_order()


def imports(file: str) -> list[tuple[int, str]]:
    """`(dots, module)` of each import of ours in a file, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "macrec_hf"):
            found += [(node.level, node.module)] if node.module else [(node.level, name.name) for name in node.names]
        elif isinstance(node, ast.Import):
            found += [(0, name.name) for name in node.names if name.name.split(".")[0] == "macrec_hf"]
    return found


def test_every_file_stands_in_the_tree():
    assert sorted(ORDER) == FILES


@pytest.mark.parametrize("file", FILES)
def test_imports_only_from_below(file):
    in_cli = file.startswith("cli/")
    for dots, module in imports(file):
        assert dots == 1 or (dots == 2 and in_cli), f"{file}: {'.' * dots}{module} is not a single-dot import"
        if file == "__init__.py" or module == "__version__":
            continue  # the package itself holds all names and is above everything
        target = f"cli/{module}.py" if in_cli and dots == 1 else f"{module}.py"
        assert target in ORDER, f"{file} imports {module}, which is no file of the package"
        assert ORDER[file][0] > 0, f"{file} is on floor 0, which imports nothing of ours, but imports {module}"
        assert ORDER[target] < ORDER[file], f"{file} imports {target}, which is above it"


def test_evaluate_is_imported_by_metrics_alone():
    """`import evaluate` takes seconds: nobody pays for it but who asks for the metric."""
    users = [file for file in FILES if re.search(r"^\s*(import|from) evaluate\b", (PACKAGE / file).read_text(), re.M)]
    assert set(users) <= {"metrics.py"}
