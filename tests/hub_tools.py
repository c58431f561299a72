"""A tiny recommender with all its parts, a tiny shop for the command line, and an environment without `macrec_hf`."""

import atexit
import json
import shutil
import subprocess
import sysconfig
import tempfile
import venv
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.cli.main import main
from macrec_hf.model.configuration_macrec import MacRecConfig, MacRecQuantizerConfig
from macrec_hf.model.modeling_macrec import MacRecForConditionalGeneration
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer
from macrec_hf.model.recommender import MacRecRecommender
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

NUM_ITEMS = 30
MODALITIES = ("text", "image")


def tiny_recommender(seed: int = 0, item_counts=None) -> MacRecRecommender:
    """30 items with IDs of 3 codes from 4, drawn weights, and a quantizer of the same shape."""
    generator = np.random.default_rng(seed)
    codes = {}
    for name in MODALITIES:
        numbers = generator.permutation(64)[:NUM_ITEMS]
        codes[name] = torch.from_numpy(np.stack(np.unravel_index(numbers, (4, 4, 4)), axis=1))
    table = SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], codes, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(seed)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, max_history=5, d_model=16, d_kv=8, d_ff=32, num_heads=2,
        num_layers=1, num_decoder_layers=1, initializer_factor=0.5,
    )  # fmt: skip
    sizes = {"text": 6, "image": 5}
    quantizer = MacRecQuantizer(
        MacRecQuantizerConfig(modalities=sizes, num_levels=3, codebook_size=4, codebook_dim=4, hidden_sizes=(8,))
    ).eval()
    quantizer.set_codebooks({name: torch.randn(3, 4, 4) for name in sizes})
    model = MacRecForConditionalGeneration(config)
    return MacRecRecommender(
        model=model, tokenizer=tokenizer, table=table, quantizer=quantizer, item_counts=item_counts
    )


def drawn_histories(count: int, seed: int = 0) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    return [[f"i{item}" for item in generator.integers(0, NUM_ITEMS, generator.integers(1, 8))] for _ in range(count)]


def tiny_shop(folder: Path) -> Path:
    """24 items, 12 people with 6 interactions each, embeddings of both modalities."""
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal((24, size)).astype("float32") for name, size in (("text", 6), ("image", 5))}
    EmbeddingStore(arrays, [f"i{row}" for row in range(24)]).save(folder / "emb")
    rows = [f"u{user},i{item},{time}" for user in range(12) for time, item in enumerate(random.integers(0, 24, 6))]
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    return folder


def quantize(shop: Path, *more: str) -> int:
    sizes = ["--hidden-sizes", "8", "--codebook-size", "8", "--codebook-dim", "4", "--num-pseudo-labels", "4"]
    return main(["quantize", "--embeddings", str(shop / "emb"), "--output", str(shop / "ids"), *sizes,
                 "--max-steps", "6", "--evaluations", "1", *more])  # fmt: skip


def train(shop: Path, *more: str) -> int:
    sizes = ["--d-model", "8", "--d-kv", "4", "--d-ff", "8", "--num-layers", "1", "--num-decoder-layers", "1"]
    return main(["train", "--interactions", str(shop / "interactions.csv"), "--semantic-ids", str(shop / "ids"),
                 "--output", str(shop / "model"), *sizes, "--num-heads", "2", "--max-steps", "4", "--num-beams", "2",
                 "--batch-size", "32", *more])  # fmt: skip


@cache
def _made_shop() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="shop-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if quantize(tiny_shop(folder)) or train(folder):
        raise RuntimeError("the tiny shop could not be made; its error stands above")
    return folder


def quantized_shop(folder: Path) -> Path:
    """`tiny_shop` and its `ids`, made once a process."""
    return shutil.copytree(_made_shop(), folder, ignore=shutil.ignore_patterns("model"), dirs_exist_ok=True)


def trained_shop(folder: Path) -> Path:
    """`tiny_shop`, its `ids` and its `model`, made once a process."""
    return shutil.copytree(_made_shop(), folder, dirs_exist_ok=True)


def clean_python(folder: Path) -> Path:
    """The interpreter of a new environment with torch, transformers and what these two require, and nothing else.

    No `macrec_hf`, and none of what else it requires: scipy, scikit-learn, datasets, pandas, accelerate.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    asked = [python, "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    here = Path(sysconfig.get_path("purelib"))
    for name in sorted(required_by("torch", "transformers")):
        for entry in {Path(file).parts[0] for file in metadata.files(name) or () if ".." not in Path(file).parts}:
            if not (packages / entry).exists():
                (packages / entry).symlink_to(here / entry)
    script = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, sys.argv[1:])))"
    absent = ["macrec_hf", "scipy", "sklearn", "datasets", "pandas", "accelerate"]
    subprocess.run([python, "-Ic", script, *absent], check=True)
    return python


def required_by(*names: str) -> set[str]:
    """These distributions and all that they need, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(line) for line in metadata.requires(name) or ()]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


# A fork for each program: it reads its own variables, since nothing that reads those of the Hub is loaded before.
SERVER = """
import gc, json, os, sys, traceback
import numpy, safetensors.torch, tokenizers, torch._dynamo
gc.freeze()
for line in sys.stdin:
    program, arguments, variables, folder = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(2, 1)
            os.environ.clear()
            os.environ.update(variables)
            os.chdir(folder)
            sys.argv[1:] = arguments
            exec(program, {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def clean_process(folder: Path):
    """`run(program, *arguments, env=, cwd=)`: the program in a process of its own, in a clean environment."""
    python, said = clean_python(folder / "venv"), folder / "said.txt"
    command = [python, "-Ic", SERVER]
    with said.open("w") as err, Popen(command, stdin=PIPE, stdout=PIPE, stderr=err, text=True) as server:

        def run(program: str, *arguments: str, env: dict[str, str], cwd: Path) -> None:
            server.stdin.write(json.dumps([program, arguments, env, str(cwd)]) + "\n")
            server.stdin.flush()
            assert server.stdout.readline() == "0\n", said.read_text()[-3000:]

        yield run
