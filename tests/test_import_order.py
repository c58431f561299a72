"""A folder imports only from folders before it, and `model/`, which a Hub repository carries, from itself alone.

A submodule is looked up by transformers as the file `a.b.py`, so what travels imports `.x` and never `..x`.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "macrec_hf"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# Floors from the ground up; folders of one floor do not import each other. "" is `macrec_hf/` itself.
FLOORS = [
    ["model"],
    ["cpu", "gpu"],
    ["data"],
    ["catalogue"],
    ["evaluation"],
    ["hub"],
    ["training"],
    ["doctor"],
    ["app", "demo"],
    [""],
    ["cli"],
]
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
TRAVELS_WITH = {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy"}
# The recommender fetches these by name. Where they are absent, methods that write or change the catalogue say so, and
# the model's device is slower.
FETCHED = {
    ("model/recommender.py", name)
    for name in (
        "macrec_hf.hub.saving",
        "macrec_hf.catalogue.indexing",
        "macrec_hf.cpu",
        "macrec_hf.gpu",
        "macrec_hf.training.blend_fitting",
        "macrec_hf.training.serving_counts",
    )
}


def folder_of(file: str) -> str:
    return file.rpartition("/")[0]


def imports(file: str) -> list[str]:
    """Dotted names of all imports of a file, those inside functions and of `import_module("…")` included.

    Ours are written from the package's root: `model.losses`, `data`; others begin with a slash: `/torch`.
    """
    found = []
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += ["/" + name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append("/" + str(node.module))
        elif isinstance(node, ast.ImportFrom):
            here = [part for part in folder_of(file).split("/") if part]
            assert node.level <= 1 + len(here), f"{file}: {'.' * node.level} leaves the package"
            above = here[: len(here) + 1 - node.level]
            if node.module:
                found.append(".".join([*above, node.module]))
            else:
                found += [".".join([*above, name.name]) for name in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "import_module",
            "package_part",
        ):
            if node.args and isinstance(node.args[0], ast.Constant):
                by_part = getattr(node.func, "id", "") == "package_part"
                found.append(("/macrec_hf." if by_part else "/") + node.args[0].value)
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_folder_imports_only_from_folders_before_it(file):
    here = folder_of(file)
    assert here in FLOOR, f"{file}: the folder stands in no floor; add it to FLOORS and to docs/architecture.md"
    for name in imports(file):
        if name.startswith("/"):
            ours = name[1:].split(".")[0] == "macrec_hf"
            assert not ours or (file, name[1:]) in FETCHED, f"{file} imports {name[1:]}: write it with dots"
            continue
        if name.split(".")[0] == "__version__":
            continue
        target = name.split(".")[0]
        if not (PACKAGE / target).is_dir():
            assert (PACKAGE / f"{target}.py").is_file(), f"{file} imports {name}, which lies in no folder"
            target = ""
        assert target == here or FLOOR[target] < FLOOR[here], f"{file} imports {name}, which is not below it"


@pytest.mark.parametrize("file", [file for file in FILES if folder_of(file) == "model"])
def test_what_travels_imports_itself_and_the_libraries_of_its_requirements(file):
    import sys

    for name in imports(file):
        if name.startswith("/"):
            root = name[1:].split(".")[0]
            allowed = root in TRAVELS_WITH or root in sys.stdlib_module_names or (file, name[1:]) in FETCHED
            assert allowed, f"{file} imports {root}: a process without macrec_hf may lack it"
        else:
            assert name.count(".") == 1, f"{file} imports {name}: only `.x` travels"


def test_a_verb_imports_no_other_verb():
    from macrec_hf.cli.main import VERBS

    for verb in VERBS:
        others = {f"cli.{name}" for name in VERBS} - {f"cli.{verb}"}
        assert not others & set(imports(f"cli/{verb}.py")), verb


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_too_long_to_read(file):
    assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= 400


def test_few_files_travel():
    assert len([file for file in FILES if folder_of(file) == "model" and file != "model/__init__.py"]) <= 25


def test_evaluate_is_imported_by_its_metric_alone():
    """`import evaluate` takes seconds: nobody pays for it but who asks for the metric."""
    users = [file for file in FILES if re.search(r"^\s*(import|from) evaluate\b", (PACKAGE / file).read_text(), re.M)]
    assert users == ["evaluation/evaluate_metric.py"]
