"""Damages the files of small folders, one at a time, and looks what the loading of them says.

`PYTHONPATH=.:tests python tests/damage.py --minutes 10 --seed 0` damages model directories, folders of semantic IDs
and of embeddings for ten minutes; every case has a number, and `--case N` tries that one alone.

A case ends well where the folder is refused by one line that names it, or where it is read. What is read gives the
lists of the undamaged folder, as long as the file stands in `checksums.json`, and else whole lists of finite scores.
"""

import argparse
import json
import math
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hub_tools import NUM_ITEMS, drawn_histories, tiny_recommender
from safetensors.numpy import load_file, save_file
from transformers.utils import logging

from macrec_hf import EmbeddingStore, MacRecRecommender, SemanticIdTable
from macrec_hf.catalogue.ids_folder import write_ids
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.doctor.figures import codebook_report
from macrec_hf.model.blend import Blend
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer

HISTORIES = [[], *drawn_histories(3)]
SHAPES = [[], {}, None, "x", 3, -1, 10**12, 1e400, [[]], [{}], {"x": {}}, [1, 2], True]
LEAVES = [10**12, -1, 0, 10**400, math.nan, math.inf, True, "x", None, [], {}, 1e308, 0.5, "../x", ["x"], 7]
SECONDS = 60  # of a case; a folder takes a tenth of a second


def make_folders(folder: Path) -> dict[str, Path]:
    """A model directory with everything in it, IDs and embeddings; "other-…": those of another seed."""
    made = {}
    for seed, start in ((0, ""), (1, "other-")):
        random = np.random.default_rng(seed)
        recommender = tiny_recommender(seed, item_counts=torch.arange(NUM_ITEMS))
        bought = [random.integers(0, NUM_ITEMS - 2, size=6) for _ in range(40)]
        days = [np.sort(random.integers(19_000, 19_200, size=6)) for _ in bought]
        recommender._items.titles.update({f"i{row}": f"Thing {row}" for row in range(0, NUM_ITEMS, 2)})
        weights = {"near_log": 0.5, "sold_log": 0.2, "model_text": 1.0, "alike_text": 0.3, "own": -1.0}
        about = {"window": 4, "hides_history": bool(seed)}
        recommender._set_blend(Blend(weights, "blend", about), count_purchases(bought, NUM_ITEMS, window=4, days=days))
        made[f"{start}model"] = recommender.save_pretrained(folder / f"{start}model", include_code=False)
        made[f"{start}ids"] = folder / f"{start}ids"
        made[f"{start}ids"].mkdir()
        write_ids(made[f"{start}ids"], recommender.table, recommender.quantizer, {})
        arrays = {
            name: random.standard_normal((NUM_ITEMS, size)).astype("f4") for name, size in (("text", 6), ("image", 5))
        }
        store = EmbeddingStore(arrays, recommender.table.item_ids, {"image": ["i3"]})
        made[f"{start}emb"] = store.save(folder / f"{start}emb")
    return made


def read_model(folder: Path) -> list:
    recommender = MacRecRecommender.from_pretrained(folder)
    lists = [recommender.recommend(HISTORIES, top_k=5, num_beams=5, fusion=fusion) for fusion in (None, "average")]
    return [[[tuple(place) for place in ranked] for ranked in of_fusion] for of_fusion in lists]


def read_ids(folder: Path) -> list:
    table = SemanticIdTable.from_pretrained(folder)
    codebook_report(table, before=table.report)
    books = []
    if (folder / "quantizer").is_dir():
        quantizer = MacRecQuantizer.from_pretrained(folder / "quantizer")
        books = [quantizer.encode({"text": torch.ones(1, 6)})["text"].tolist()]
    return [table.fingerprint(), *books]


def read_embeddings(folder: Path) -> list:
    store = EmbeddingStore.open(folder).check_finite()
    return [store.fingerprint(every_row=True)]


READERS = {"model": read_model, "ids": read_ids, "emb": read_embeddings}


def damage_json(path: Path, random: np.random.Generator) -> str:
    """Another shape, or one value inside changed or removed."""
    if random.random() < 0.25:
        shape = SHAPES[random.integers(len(SHAPES))]
        path.write_text("[" * 100_000 if random.random() < 0.1 else json.dumps(shape))
        return f"the shape {shape!r}"
    content = json.loads(path.read_text())
    place, key = content, None
    for _ in range(random.integers(1, 4)):
        if not isinstance(place, dict | list) or not place:
            break
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        parent, key = place, keys[random.integers(len(keys))]
        place = parent[key]
    if key is None:
        return "nothing"
    if random.random() < 0.2:
        del parent[key]
        told = f"without {key!r}"
    else:
        parent[key] = LEAVES[random.integers(len(LEAVES))]
        told = f"{key!r} = {str(parent[key])[:30]}"
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    path.write_text(json.dumps(content))
    sys.set_int_max_str_digits(limit)
    return told


def damage_tensors(path: Path, random: np.random.Generator) -> str:
    """One tensor of a file changed, dropped, renamed or swapped with another."""
    tensors = load_file(path)
    about = {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(size)).get("__metadata__", {})
    names = sorted(tensors)
    name = names[random.integers(len(names))]
    array = tensors[name].copy()
    way = random.integers(9)
    if way == 0:
        del tensors[name]
    elif way == 1:
        tensors[f"{name}_2"] = tensors.pop(name)
    elif way == 2:
        other = names[random.integers(len(names))]
        tensors[name], tensors[other] = tensors[other], array
    elif way == 3:
        tensors[name] = array[: len(array) // 2].copy() if array.ndim else array
    elif way == 4:
        tensors[name] = array.astype("f8" if array.dtype.kind != "f" else "i4")
    elif way == 5 and array.size:
        array.flat[random.integers(array.size)] = (
            -3 if array.dtype.kind in "iu" else np.nan if array.dtype.kind == "f" else 1
        )
        tensors[name] = array
    elif way == 6 and array.size:
        array.flat[random.integers(array.size)] = (
            2**30 if array.dtype.kind in "iu" else 1e38 if array.dtype.kind == "f" else 1
        )
        tensors[name] = array
    elif way == 7:
        tensors[name] = array[None]
    else:
        tensors["extra"] = np.zeros(3, dtype="f4")
    save_file(tensors, path, metadata=about)
    return f"way {way} of {name}"


def damage_array(path: Path, random: np.random.Generator) -> str:
    """An `.npy` with other contents, or another head."""
    array, way = np.load(path), random.integers(7)
    if way == 0:
        array = array.astype(["i4", "f2", "f8", ">f4", "S3", "c8", "?"][random.integers(7)])
    elif way == 1:
        array = array[:-1] if random.random() < 0.5 else array.T
    elif way == 2:
        array[random.integers(len(array))] = np.nan
    elif way == 3:
        array = array.ravel() if random.random() < 0.5 else array[None]
    elif way == 4:
        array = array[:, :0]
    elif way == 5:
        array = array.astype("f8")
        array[0, 0] = 1e300
    else:
        content = path.read_bytes()
        shape = [
            b"(10000000000000, 6)",
            b"(-1, 6)",
            b"(3, {})",
            b"30, 6",
            b"((30,), 6)",
            b"(30, 10" + b"0" * 40 + b")",
        ]
        head = content[:128].replace(str(array.shape).encode(), shape[random.integers(len(shape))])
        path.write_bytes(head[:128].ljust(128) + content[128:])
        return "another head"
    np.save(path, array)
    return f"way {way}"


def damage(path: Path, other: Path, random: np.random.Generator) -> str:
    """Damages one file; says how."""
    way, content = random.integers(10), path.read_bytes()
    if way == 0:
        path.write_bytes(content[: random.integers(len(content) + 1)])
        return "cut off"
    if way == 1 and content:
        changed = bytearray(content)
        for place in random.integers(0, min(len(changed), 300 if random.random() < 0.5 else len(changed)), 3):
            changed[place] = random.integers(256)
        path.write_bytes(bytes(changed))
        return "three bytes"
    if way == 2:
        path.unlink()
        return "deleted"
    if way == 3 and other.is_file():
        shutil.copyfile(other, path)
        return "another model's"
    if way == 4:
        path.write_bytes(content + bytes(random.integers(0, 256, 9, dtype=np.uint8)))
        return "nine bytes more"
    try:
        if path.suffix == ".json":
            return damage_json(path, random)
        if path.suffix == ".safetensors":
            return damage_tensors(path, random)
        if path.suffix == ".npy":
            return damage_array(path, random)
    except (TypeError, ValueError):  # what cannot be damaged so
        pass
    path.write_bytes(b"")
    return "empty"


def run_case(case: int, folders: dict[str, Path], expected: dict[str, list], work: Path) -> tuple[str, str]:
    """How a case ended, in a word and in words: "refused", "same", "read", or "WRONG"."""
    random = np.random.default_rng(case)
    kind = ["model", "model", "model", "ids", "emb"][case % 5]
    folder = work / kind
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folders[kind], folder)
    listed = set()
    if (folder / "checksums.json").is_file():
        listed = set(json.loads((folder / "checksums.json").read_text())["files"])
        if random.random() < 0.5:
            (folder / "checksums.json").unlink()
            listed = set()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[random.integers(len(files))]
    name = path.relative_to(folder).as_posix()
    told = f"{case}: {kind}/{name}: {damage(path, folders[f'other-{kind}'] / name, random)}"
    told += "" if listed else " (no checksums)"
    try:
        signal.alarm(SECONDS)
        found = READERS[kind](folder)
    except (ValueError, OSError) as error:
        message = str(error)
        if (
            "\n" in message
            or len(message) > 1500
            or not (str(folder) in message or name in message or path.stem in message)
        ):
            return "WRONG", f"{told}: no house's line: {type(error).__name__}: {message[:300]}"
        return "refused", f"{told}: {message}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "WRONG", f"{told}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    if found == expected[kind]:
        return "same", told
    if name in listed or kind == "ids" and listed:
        return "WRONG", f"{told}: other lists than before, with checksums"
    if kind == "model" and not whole_lists(found):
        return "WRONG", f"{told}: lists that are not whole: {str(found)[:200]}"
    return "read", told


def whole_lists(found: list) -> bool:
    """Five different items for everybody, best first, with finite scores."""
    for ranked in (ranked for of_fusion in found for ranked in of_fusion):
        scores = [score for _, score in ranked]
        if len({item for item, _ in ranked}) != 5 or not all(map(math.isfinite, scores)):
            return False
        if scores != sorted(scores, reverse=True):
            return False
    return True


def stop(*_: object) -> None:
    raise SystemExit(f"longer than {SECONDS} s")


def run_cases(cases: range, seconds: float, folder: Path, shown: bool = False) -> tuple[Counter, list[str]]:
    """How many cases ended how, and those that ended wrongly."""
    verbosity, handler = logging.get_verbosity(), signal.signal(signal.SIGALRM, stop)
    logging.set_verbosity_error()
    started, ends, wrong = time.monotonic(), Counter(), []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folders = make_folders(folder)
            expected = {kind: READERS[kind](folders[kind]) for kind in READERS}
            for case in cases:
                if time.monotonic() - started > seconds:
                    break
                end, told = run_case(case, folders, expected, folder / "work")
                ends[end] += 1
                wrong += [told] * (end == "WRONG")
                if end == "WRONG" or shown:
                    sys.stdout.write(f"{end}: {told}\n")
                    sys.stdout.flush()
    finally:
        logging.set_verbosity(verbosity)
        signal.signal(signal.SIGALRM, handler)
    return ends, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--shown", action="store_true", help="every case, not the wrong ones alone")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    torch.set_num_threads(1)
    first = args.seed * 1_000_000 if args.case is None else args.case
    cases = range(first, first + 1_000_000 if args.case is None else first + 1)
    with tempfile.TemporaryDirectory() as place:
        ends, _ = run_cases(cases, args.minutes * 60, Path(place), args.shown or args.case is not None)
    sys.stdout.write(f"{sum(ends.values())} cases: {dict(ends)}\n")
