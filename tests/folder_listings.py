"""Whether a folder holds what the documentation lists, with the permissions that the umask leaves."""

import re
from fnmatch import fnmatch
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def documented(page: str, heading: str) -> set[str]:
    """Names and patterns of the first listing under a heading; folders end with a slash.

    The folder itself stands in a line of its own, or is left out.
    """
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    lines = re.search(r"(?:^    .*\n)+", text, re.M)[0].splitlines()
    return set(re.findall(r"[\w*]+(?:\.\w+|/)(?= |$)", "\n".join(lines[lines[0].endswith("/") :]), re.M))


def check_names(folder: Path, expected: set[str]) -> None:
    """Every name stands in the listing, and every line of the listing has a name."""
    found = {path.name + "/" * path.is_dir() for path in folder.iterdir()}
    assert {name for name in found if not any(fnmatch(name, pattern) for pattern in expected)} == set()
    assert {pattern for pattern in expected if not any(fnmatch(name, pattern) for name in found)} == set()


def check_modes(folder: Path, umask: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, f"{path}: {mode:o}"
