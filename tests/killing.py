"""Kills a verb with `kill -9` again and again, resumes it, and compares what it ends with to an uninterrupted run.

`run` writes where every kill landed, judged by what it left behind, and goes on until at least so many have landed in
each place. Every attempt is a fork of a process that has imported everything, killed by the parent.
"""

import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from forks import own_bar_lock

import macrec_hf
from macrec_hf.cli.main import main
from macrec_hf.model.files import JOURNAL
from macrec_hf.training.checkpoints import SAVING, checkpoints_in

NUM_ITEMS, STEPS, EVERY = 60, 24, 3
LOADED = [getattr(macrec_hf, name) for name in macrec_hf.__all__]  # imported before the forks


def make_inputs(folder: Path) -> None:
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((8, 12))
    cluster = draw.integers(8, size=NUM_ITEMS)
    arrays = {m: (centres[cluster] + 0.2 * draw.standard_normal((NUM_ITEMS, 12))).astype("f4") for m in "ab"}
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    macrec_hf.EmbeddingStore({"text": arrays["a"], "image": arrays["b"]}, ids).save(folder / "emb")
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)[:NUM_ITEMS]
    table = macrec_hf.SemanticIdTable(ids, {"text": codes, "image": codes.flip(0)}, codebook_size=4)
    table.save_pretrained(folder / "ids")
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{user},i{(user * 7 + step) % NUM_ITEMS},{step}" for user in range(24) for step in range(6)]
    (folder / "interactions.csv").write_text("\n".join(lines))


def words(stage: str, folder: Path, output: Path) -> list[str]:
    length = ["--max-steps", str(STEPS), "--output", str(output), "--patience", "0", "--resume", "--keep-checkpoints"]
    if stage == "quantize":
        small = "--hidden-sizes 16 --codebook-size 8 --codebook-dim 4 --num-levels 3 --num-pseudo-labels 6"
        every = f"--dropout 0.1 --batch-size 16 --contrastive-weights 0,0.1,0.1 --evaluations {STEPS // EVERY}"
        return ["quantize", "--embeddings", str(folder / "emb"), *small.split(), *every.split(), *length]
    small = "--d-model 16 --d-kv 8 --d-ff 16 --num-layers 1 --num-decoder-layers 1 --num-heads 2 --num-beams 4"
    every = f"--batch-size 32 --eval-every {EVERY / 19:.3f} --eval-users 8"
    inputs = ["--interactions", str(folder / "interactions.csv"), "--semantic-ids", str(folder / "ids")]
    return ["train", *inputs, *small.split(), *every.split(), *length]


def start(arguments: list[str], log: Path, before: Callable[[], object] = lambda: None) -> int:
    """Forks; the child runs the verb, after `before`."""
    gc.freeze()  # what is loaded is no garbage, and each of a child's trainings would look through all of it
    child = os.fork()
    if child == 0:
        own_bar_lock()
        os.nice(5)  # on a busy core it is the parent, which watches for the moment, that should be woken
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            before()
            status = main(arguments)
            sys.stdout.flush()
            os._exit(status)
    return child


def finished(child: int) -> int | None:
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def ended(status: int, log: Path) -> None:
    """The run ended before it was killed; raises where it failed."""
    if status:
        raise RuntimeError(f"the verb failed: {log.read_text()[-2000:]}")


def debris(output: Path) -> dict[str, tuple]:
    """What is being written: `{place: identity}`."""
    found = {}
    beside = next(output.glob(".macrec-*.partial"), output / JOURNAL) if output.is_dir() else output / JOURNAL
    for what, path in (("save", output / "checkpoints" / SAVING), ("ids", beside)):
        try:
            inner = sorted(path.rglob("*"))
            if inner:
                found[what] = (path.stat().st_ino, path.stat().st_mtime_ns, len(inner))
        except FileNotFoundError:
            pass
    return found


def kill_once(arguments, output: Path, log: Path, target: str, duration: float, chance: random.Random) -> str | None:
    """One attempt; where the kill landed, or None where the run ended before it."""
    before, begun = debris(output), time.time()
    child, seen, wait_for = start(arguments, log), set(), chance.randint(1, 2)
    delay = chance.uniform(0.0, duration)
    while True:
        status = finished(child)
        if status is not None:
            return ended(status, log)
        now = debris(output)
        if target in now and now[target][:1] != before.get(target, ())[:1]:
            seen.add(now[target][0])
            if len(seen) >= (wait_for if target == "save" else 1):
                time.sleep(chance.uniform(0.0, 0.004))
                os.kill(child, signal.SIGSTOP)  # a busy machine may have let the write end: then the next one
                status = os.waitpid(child, os.WUNTRACED)[1]
                if not os.WIFSTOPPED(status):
                    return ended(os.waitstatus_to_exitcode(status), log)
                if debris(output).get(target, ())[:1] == now[target][:1]:
                    break
                os.kill(child, signal.SIGCONT)
        if target == "any" and time.time() - begun > delay:
            break
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    if os.WIFEXITED(os.waitpid(child, 0)[1]):
        return None
    after = debris(output)
    last = [path.name for path in checkpoints_in(output / "checkpoints")][:1] or ["no checkpoint"]
    for what, text in (("ids", "while IDs were written"), ("save", "inside a checkpoint save")):
        if what in after and after[what] != before.get(what):
            return f"{text} (newest whole: {last[0]})"
    return f"between saves, after {last[0]}"


def compare(whole: Path, part: Path, stage: str) -> None:
    names = ["model.safetensors"]
    if stage == "quantize":
        names = ["semantic_ids.safetensors", "semantic_ids.json", "quantizer/model.safetensors", "report.json"]
    for name in names:
        if (whole / name).read_bytes() != (part / name).read_bytes():
            raise RuntimeError(f"{part / name} differs from that of the uninterrupted run")
    ends = [checkpoints_in(path / "checkpoints")[0] for path in (whole, part)]
    states = [
        {name: torch.load(end / name, weights_only=False) for name in ("optimizer.pt", "scheduler.pt")} for end in ends
    ]
    flat = [torch.utils._pytree.tree_leaves(state) for state in states]
    for a, b in zip(*flat, strict=True):
        if not (torch.equal(a, b) if torch.is_tensor(a) else a == b):
            raise RuntimeError(f"{part}: the optimizer ends in another state")


def run(stage: str, folder: Path, kills: int, in_saves: int, in_ids: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make_inputs(folder)
    log, chance, begun = folder / "log.txt", random.Random(0), time.time()
    child = start(words(stage, folder, folder / "whole"), log)
    while (status := finished(child)) is None:
        time.sleep(0.01)
    if status:
        raise RuntimeError(log.read_text()[-2000:])
    duration, landed, rounds = time.time() - begun, [], 0

    def missing() -> tuple[int, int, int]:
        """How many kills are still wanted: of any kind, inside saves, while IDs are written."""
        found = [sum(text.startswith(what) for text in landed) for what in ("", "inside", "while")]
        return tuple(max(0, wanted - number) for wanted, number in zip((kills, in_saves, in_ids), found, strict=True))

    while any(missing()) or rounds == 0:
        rounds += 1
        if rounds > 30:
            raise RuntimeError(f"kills do not land: {landed}")
        output, labels = folder / f"part{rounds}", None
        arguments = words(stage, folder, output)
        while True:
            rest, saves, ids = missing()
            target = "any"
            if saves + ids >= rest or chance.random() < 0.4:
                target = "save"
            if ids and chance.random() < 0.5:
                target = "ids"
            if not any((rest, saves, ids)):
                target = "never"
            where = kill_once(arguments, output, log, target, duration, chance)
            file = output / "checkpoints" / "pseudo_labels.npz"
            if labels is not None and labels != file.stat().st_mtime_ns:
                raise RuntimeError("the pseudo-labels were computed again")
            labels = file.stat().st_mtime_ns if file.is_file() else None
            if where is None:
                break
            landed.append(where)
            if len(landed) > 5 * kills:
                raise RuntimeError(f"kills land elsewhere: {landed}")
            sys.stdout.write(f"{stage} kill {len(landed):2}: {where}\n")
            sys.stdout.flush()
        compare(folder / "whole", output, stage)
        sys.stdout.write(f"{stage}: {output.name} ended bit-identical to the uninterrupted run\n")
    saves, ids = (sum(text.startswith(what) for text in landed) for what in ("inside", "while"))
    sys.stdout.write(f"{stage}: {len(landed)} kills, {saves} inside a save, {ids} while IDs were written\n")
    passed = log.read_text().count("cut short")
    sys.stdout.write(f"{stage}: {passed} warnings of a half-written checkpoint\n")
    sys.stdout.flush()
