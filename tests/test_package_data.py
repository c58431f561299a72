"""What a wheel installs: templates, styles and scripts beside the code."""

import runpy
import subprocess
from pathlib import Path

import setuptools

ROOT = Path(__file__).parents[1]


def test_every_file_that_is_no_code_is_package_data(monkeypatch):
    monkeypatch.chdir(ROOT)
    told = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    listed = subprocess.run(["git", "ls-files", "macrec_hf"], cwd=ROOT, capture_output=True, text=True, check=True)
    others = {name for name in listed.stdout.split() if not name.endswith(".py")}
    folders = [(package, ROOT / package.replace(".", "/")) for package in told["packages"]]
    installed = {
        path.relative_to(ROOT).as_posix()
        for package, folder in folders
        for key in ("", package)
        for pattern in told["package_data"].get(key, [])
        for path in folder.glob(pattern)
    }
    assert len(others) > 10 and others - installed == set()
