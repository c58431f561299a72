"""Reads the code blocks of a page of docs/ and runs them as a reader would: in order, in one empty folder.

A comment before a block changes what the test runs, and is not shown on the page:

    <!-- test: "epochs: 20" → "max_steps: 2" -->     smaller than a reader would take
    <!-- test: skip, it needs eight GPUs -->         not run, for this reason
    <!-- test: after docs/quickstart.md -->          the page goes on in the folder that another one left
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from macrec_hf.cli import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"((?:^<!-- test: [^\n]* -->\n)*)^```(python|bash)\n(.*?)^```$", re.M | re.S)
DIRECTIVE = re.compile(r"^<!-- test: (.*) -->$", re.M)
AFTER = re.compile(r"^<!-- test: after (\S+) -->$", re.M)
FILES = re.compile(r"(?:^cat > \S+ <<'(\w+)'\n.*?^\1\n)*", re.M | re.S)
REPLACEMENT = re.compile(r'"([^"]+)" → "([^"]*)"')


def page_before(page: Path) -> Path | None:
    """The page whose folder this one goes on in."""
    found = AFTER.search(page.read_text(encoding="utf-8"))
    return ROOT / found[1] if found else None


@dataclass(frozen=True)
class Block:
    """One block: where it stands, what it is written in, what to run, and why it is left out, if it is."""

    place: str
    language: str
    code: str
    skipped: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        _block(f"{page.relative_to(ROOT)}:{text[: match.start(3)].count(chr(10)) + 1}", *match.groups())
        for match in BLOCK.finditer(text)
    ]


def _block(place: str, directives: str, language: str, code: str) -> Block:
    skipped = None
    for directive in DIRECTIVE.findall(directives):
        replacement = REPLACEMENT.fullmatch(directive)
        if replacement:
            if replacement[1] not in code:
                raise ValueError(f"{place}: the block does not hold {replacement[1]!r}, to be replaced.")
            code = code.replace(replacement[1], replacement[2])
        elif directive.startswith("skip, "):
            skipped = directive.removeprefix("skip, ")
        elif not directive.startswith("after "):
            raise ValueError(f'{place}: expected `"old" → "new"`, `skip, …` or `after …`, got {directive!r}.')
    return Block(place, language, code, skipped)


def run_page(page: Path, folder: Path, shell: bool = False) -> None:
    """Runs a page's blocks in `folder`, which has to be the working directory.

    Python blocks share one namespace. Bash blocks go to bash, with `macrec` and `python` on the path. Where nothing
    but `macrec` commands follows the files that a block writes, the commands are run in this process instead, unless
    `shell`: imports take seconds.
    """
    namespace: dict = {"__name__": "page"}
    for block in blocks_of(page):
        if block.skipped:
            continue
        files = FILES.match(block.code)[0]
        commands = macrec_commands(block.code[len(files) :]) if block.language == "bash" and not shell else None
        if block.language == "python":
            exec(compile("\n" * int(block.place.split(":")[1]) + block.code, block.place, "exec"), namespace)
        elif commands is not None:
            if files:
                run_bash(replace(block, code=files), folder)
            for words in commands:
                if main(words) != 0:
                    raise RuntimeError(f"{block.place}: `macrec {shlex.join(words)}` failed.")
        else:
            run_bash(block, folder)


def macrec_commands(code: str) -> list[list[str]] | None:
    """The words of each `macrec` command; None where the block holds anything else."""
    lines = [line for line in code.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    words = [shlex.split(line, comments=True) for line in lines] if "<<" not in code else []
    plain = words and all(line[0] == "macrec" and not {"|", ">", "&&"} & set(line) for line in words)
    return [line[1:] for line in words] if plain else None


def run_bash(block: Block, folder: Path) -> None:
    tools = folder / ".tools"
    if not tools.is_dir():
        tools.mkdir()
        for name, command in {"macrec": "-m macrec_hf.cli", "python": "", "accelerate": f"{_ACCELERATE}"}.items():
            (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
            (tools / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{block.place} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


_ACCELERATE = "-m accelerate.commands.accelerate_cli"
