"""Stops verbs before each of their file operations, and says what a reader finds then.

`python tests/kill_points.py FOLDER` prints for each verb how many points there are, and how many leave a mixture of
old and new. A kill is as good as a copy of the folder at that moment: what a process has not yet handed over to the
system is not in the copy either. So one run of a verb shows all of its points; `killed_at` kills in earnest.
"""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.catalogue.encoders import load_encoders
from macrec_hf.cli.main import build_parser, main
from macrec_hf.model.model_files import load_model_directory
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer
from macrec_hf.model.semantic_ids import SemanticIdTable

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
NOT_READ = ("checkpoints", ".examples")  # of a training alone
Contents = dict[str, object]  # {part: value}


class Points:
    """An audit hook that calls `at_point` before every change of a file under `root`."""

    def __init__(self) -> None:
        self.root, self.at_point = None, None
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.at_point is None or not (event in CHANGES or (event == "open" and self._writes(args))):
            return
        paths = [os.fsdecode(path) for path in args[:2] if isinstance(path, str | bytes | os.PathLike)]
        if any(path.startswith(self.root) for path in paths):
            at_point, self.at_point = self.at_point, None  # what it does is no point
            try:
                at_point()
            finally:
                self.at_point = at_point

    @staticmethod
    def _writes(args: tuple) -> bool:
        return isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))

    @contextmanager
    def watched(self, root: Path, at_point: Callable[[], None]):
        self.root, self.at_point = str(root), at_point
        try:
            yield
        finally:
            self.at_point = None


POINTS = Points()


def every_point(run: Callable[[], None], output: Path, copies: Path, read: Callable[[Path], Contents]) -> list[object]:
    """What `read` finds in a copy of `output` at each point and at the end: contents, or an error."""
    found: list[object] = []
    last = [None]

    def look() -> None:
        stamps = [(str(path), path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns)
                  for path in sorted(output.rglob("*")) if not set(path.relative_to(output).parts) & {*NOT_READ}
                  and (path.is_file() or path.is_dir())] if output.is_dir() else []  # fmt: skip
        if stamps and last[0] == stamps:
            found.append(found[-1])
            return
        last[0] = stamps
        copy = copies / str(len(found)) / output.name
        if output.is_dir():
            shutil.copytree(output, copy, ignore=shutil.ignore_patterns(*NOT_READ))
        try:
            found.append(read(copy))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            found.append(error)
        shutil.rmtree(copy.parent, ignore_errors=True)

    with POINTS.watched(output, look):
        run()
    look()
    return found


def judged(found: list[object], old: Contents | None, new: Contents) -> Counter:
    """How often there were the old contents, the new ones, a refusal, a mixture."""
    told = Counter()
    for contents in found:
        if isinstance(contents, Exception):
            told["refused"] += 1
        elif contents == new:
            told["new"] += 1
        elif contents == old:
            told["old"] += 1
        else:
            told["mixture"] += 1
    return told


def killed_at(run: Callable[[], None], output: Path, point: int) -> bool:
    """Runs it in a fork that ends before its file operation number `point`; False where it has fewer."""
    child = os.fork()
    if child == 0:
        left = [point]

        def count() -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

        with POINTS.watched(output, count):
            run()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


# ---- what readers find ----


def weights_of(model: torch.nn.Module) -> str:
    return str([(name, weight.double().sum().item()) for name, weight in model.state_dict().items()])


def read_embeddings(folder: Path) -> Contents:
    store = EmbeddingStore.open(folder)
    encoders = load_encoders(folder)
    return {
        "arrays": str({name: np.asarray(array, dtype=float).sum() for name, array in store.arrays.items()}),
        "ids": store.item_ids,
        "present": str({name: present.tolist() for name, present in store.present.items()}),
        "encoders": str({name: float(sum(map(np.sum, of.state.values()))) for name, of in encoders.items()}),
    }


def read_ids(folder: Path) -> Contents:
    table = SemanticIdTable.from_pretrained(folder)
    quantizer = MacRecQuantizer.from_pretrained(folder / "quantizer")
    report = json.loads((folder / "report.json").read_text())
    return {"table": table.fingerprint(), "quantizer": weights_of(quantizer), "report": str(report)}


def read_model(folder: Path) -> Contents:
    parts = load_model_directory(folder)
    quantizer, counts = parts.load_quantizer(), parts.purchase_counts
    return {
        "weights": weights_of(parts.model),
        "table": parts.table.fingerprint(),
        "tokens": len(parts.tokenizer),
        "item counts": str(parts.item_counts),
        "titles": parts.item_titles,
        "quantizer": quantizer and weights_of(quantizer),
        "counts": counts and str([counts.popularity.tolist(), counts.others.tolist()]),
        "blend": parts.blend and str(vars(parts.blend)),
    }


def read_reports(folder: Path) -> Contents:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds")
    return {"metrics": str(metrics), "lists": (folder / "lists.jsonl").read_text()}


def read_data(folder: Path) -> Contents:
    failed = folder / "failed_images.jsonl"
    texts = {name: (folder / name).read_text() for name in ("items.jsonl", "interactions.csv")}
    return texts | {"failed": failed.read_text() if failed.is_file() else ""}


def read_space(folder: Path) -> Contents:
    if not (folder / "app.py").is_file():
        raise FileNotFoundError("no app.py")
    photos = sorted(path.name for path in (folder / "photos").iterdir())
    model = read_model(folder / "model") if (folder / "model").is_dir() else None
    items = (folder / "items.jsonl").read_text()
    return {"app": (folder / "app.py").read_text(), "items": items, "photos": photos, "model": model}


# ---- a shop in two states ----


def make_shop(folder: Path) -> None:
    """Texts, photos, purchases and raw data, each in two states, `a` and `b`."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for state in "ab":
        (folder / state).mkdir(parents=True)
        lines = []
        for row in range(24):
            words = " ".join(draw.choice(["red", "blue", "lamp", "mug", "oak", "tin", "tall", "flat"], 5))
            Image.new("RGB", (16, 16), tuple(map(int, draw.integers(0, 255, 3)))).save(folder / state / f"{row}.png")
            missing = row == (3 if state == "a" else 7)
            photo = {} if missing else {"image": f"{row}.png"}
            lines.append(json.dumps({"item_id": f"i{row}", "title": words, **photo}))
        (folder / state / "items.jsonl").write_text("\n".join(lines))
        rows = [f"u{user},i{item},{time}" for user in range(12) for time, item in enumerate(draw.integers(0, 24, 6))]
        (folder / state / "purchases.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
        raw = folder / state / "raw"
        raw.mkdir()
        rows = [f"u{user}\ti{item}\t{time}" for user in range(9) for time, item in enumerate(draw.integers(0, 9, 5))]
        (raw / "shop.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows))
        rows = [f"i{row}\t{state} thing {row}" for row in range(9)]
        (raw / "shop.item").write_text("item_id:token\ttitle:token_seq\n" + "\n".join(rows))


SIZES = {
    "quantize": "--hidden-sizes 8 --codebook-size 8 --codebook-dim 4 --num-pseudo-labels 4 --max-steps 4 "
    "--evaluations 1",
    "train": "--d-model 8 --d-kv 4 --d-ff 8 --num-layers 1 --num-decoder-layers 1 --num-heads 2 --max-steps 4 "
    "--num-beams 2 --batch-size 32",
    "evaluate": "--num-beams 2 --no-card",
}


def words_of(verb: str, shop: Path, state: str, output: Path) -> list[str]:
    """The command line of a verb, which writes into `output`; what it reads are the outputs of state `a`."""
    here = shop / state
    purchases = ["--interactions", str(here / "purchases.csv")]
    seed = ["--seed", "0" if state == "a" else "1"]
    lists = ["--output", str(output / "metrics.json"), "--predictions", str(output / "lists.jsonl")]
    words = {
        "embed": ["--items", str(here / "items.jsonl"), "--output", str(output)],
        "quantize": ["--embeddings", str(shop / "emb"), "--output", str(output), *seed],
        "train": [*purchases, "--semantic-ids", str(shop / "ids"), "--output", str(output), *seed],
        "blend": ["--model", str(output), *purchases],
        "refresh": ["--model", str(output), *purchases],
        "evaluate": ["--model", str(shop / "model"), *purchases, *lists],
        "prepare": ["--format", "recbole", "--input", str(here / "raw"), "--output", str(output), "--k-core", "1"],
        "app": [str(shop / ("model" if state == "a" else "other")), "--items", str(here / "items.jsonl"), "--space",
                str(output)],
    }[verb]  # fmt: skip
    over = "--overwrite"
    known = over in build_parser(verb)._option_string_actions
    return [verb, *words, *SIZES.get(verb, "").split(), *([over] if known else [])]


READERS: dict[str, Callable[[Path], Contents]] = {
    "embed": read_embeddings, "quantize": read_ids, "train": read_model, "blend": read_model, "refresh": read_model,
    "evaluate": read_reports, "prepare": read_data, "app": read_space,
}  # fmt: skip
IN_PLACE = ("blend", "refresh")  # they have no empty folder to write into


def run_verb(words: list[str]) -> None:
    status = main(words)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with {status}")


def prepare_shop(folder: Path) -> Path:
    """A shop with the outputs of state `a` that verbs read, and a second model."""
    shop = folder / "shop"
    make_shop(shop)
    for verb, output, state in (("embed", "emb", "a"), ("quantize", "ids", "a"), ("train", "model", "a"),
                                ("train", "other", "b")):  # fmt: skip
        run_verb(words_of(verb, shop, state, shop / output))
    return shop


def older_output(verb: str, shop: Path, folder: Path) -> Contents:
    """An output of state `a`, and what a reader finds there."""
    if verb in IN_PLACE:
        shutil.copytree(shop / "model", folder)
    else:
        folder.mkdir(parents=True)
        run_verb(words_of(verb, shop, "a", folder))
    return READERS[verb](folder)


def points_of(verb: str, shop: Path, folder: Path, older: Path | None) -> Counter:
    """Judges every point of a verb that writes over a copy of an older output, or into an empty folder."""
    output, old = folder / "out", None
    if older is not None:
        shutil.copytree(older, output)
        old = READERS[verb](output)
    else:
        output.mkdir(parents=True)
    found = every_point(lambda: run_verb(words_of(verb, shop, "b", output)), output, folder / "copies", READERS[verb])
    new = READERS[verb](output)
    if old == new or found[-1] != new:
        raise RuntimeError(f"{verb}: expected another result than before, {'got the same' if old == new else found}")
    return judged(found, old, new)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    made = prepare_shop(place)
    for name in sys.argv[2:] or READERS:
        for over in (True, False)[: 1 if name in IN_PLACE else 2]:
            older = place / f"{name}-older" if over else None
            if older is not None:
                older_output(name, made, older)
            told = points_of(name, made, place / f"{name}-{over}", older)
            where = "over an older one" if over else "into an empty folder"
            sys.stdout.write(f"RESULT {name} {where}: {sum(told.values())} points, {dict(told)}\n")
            sys.stdout.flush()
