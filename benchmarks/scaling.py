"""A catalogue from embeddings to tokenizer at growing sizes: `python benchmarks/scaling.py [--items 10000 100000]`.

Each size in a process of its own: embeddings of 256 + 128 dimensions are written to disk and read memory-mapped, then
pseudo-labels, codebook seeds, quantizer (`--steps`), encoding, collision resolution, tokenizer and trie. One item in
twenty is a copy of another, so that at least a tenth of the items share codes. Encoding and resolution run twice: with
the codebooks as so few steps leave them, where nearly all items share codes, and with codebooks seeded anew. Printed:
seconds of each stage and the peak of the process's anonymous memory (pages of the mapped file can be dropped by the
system and do not count).

`--collapsed` shows instead what happens when all items get the same code and the code space cannot hold them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf import (  # noqa: E402
    EmbeddingStore,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    SemanticIdTokenizer,
    SemanticIdTrie,
    build_semantic_ids,
)
from macrec_hf.catalogue.indexing import encode_catalogue  # noqa: E402

SIZES = {"text": 256, "image": 128}
CHUNK = 50_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=300, help="of the quantizer (default 300)")
    parser.add_argument("--one", action="store_true", help="run the one size in this process, print JSON")
    parser.add_argument("--collapsed", action="store_true", help="show the error of a collapsed catalogue")
    args = parser.parse_args()
    if args.collapsed:
        collapsed()
    elif args.one:
        print(json.dumps(one_size(args.items[0], args.steps)))
    else:
        results = [in_a_process(items, args.steps) for items in args.items]
        print(as_table(args.items, results))


def in_a_process(items, steps):
    command = [sys.executable, __file__, "--one", "--items", str(items), "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def as_table(sizes, results):
    lines = ["| | " + " | ".join(f"{size:,} items" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in results[0]:
        lines.append(f"| {name} | " + " | ".join(str(result[name]) for result in results) + " |")
    return "\n".join(lines)


def one_size(num_items, steps):
    folder = Path(tempfile.mkdtemp(dir=ROOT))  # the temporary folder of a system may lie in memory
    memory, result, watch = PeakMemory(), {}, Stopwatch()
    try:
        write_embeddings(folder, num_items)
        result["write embeddings, s"] = watch()
        store = EmbeddingStore.from_files({name: folder / f"{name}.npy" for name in SIZES}, ids(num_items))
        torch.manual_seed(0)
        quantizer = MacRecQuantizer(MacRecQuantizerConfig(modalities=SIZES, hidden_sizes=(128, 64)))
        trainer = MacRecQuantizerTrainer(quantizer, arguments(folder, steps), train_dataset=store)
        trainer.prepare_catalogue(seed_codebooks=False)
        result["pseudo-labels, s"] = watch()
        trainer.prepare_catalogue()
        result["codebook seeds, s"] = watch()
        trainer.train()
        result[f"{steps} steps of 1,024 items, s"] = watch()
        resolve(quantizer, store, result, watch, "after training")
        # So few steps move the latents away from their codebooks; seeded where the latents now are, the codebooks
        # leave the copies alone in shared IDs, which is nearer to what a long training comes to.
        for module in quantizer.quantizers.values():
            module.codebooks_seeded.fill_(False)
        trainer.prepare_catalogue()
        watch()
        table = resolve(quantizer, store, result, watch, "seeded again")
        table.save_pretrained(folder / "ids")
        tokenizer = SemanticIdTokenizer.from_table(table)
        tokenizer.save_pretrained(folder / "ids")
        result["table and tokenizer written, s"] = watch()
        for name in SIZES:
            SemanticIdTrie.from_table(table, tokenizer, name)
        result["two tries, s"] = watch()
    finally:
        shutil.rmtree(folder)
    result["peak anonymous memory, MB"] = memory.stop()
    return result


def resolve(quantizer, store, result, watch, when):
    """Semantic IDs of the catalogue; into `result`: the times and the collisions."""
    encode_catalogue(quantizer, store)
    result[f"encode, {when}, s"] = encoding = watch()
    table = build_semantic_ids(quantizer, store)
    result[f"resolve, {when}, s"] = round(max(watch() - encoding, 0.0), 1)
    shared = max(part["num_shared"] for part in table.report.values())
    result[f"items in shared IDs, {when}"] = f"{shared:,} ({shared / len(store.item_ids):.0%})"
    result[f"collision rate resolved, {when}"] = max(part["collision_rate_after"] for part in table.report.values())
    return table


def arguments(folder, steps):
    return MacRecQuantizerTrainingArguments(
        str(folder / "training"),
        max_steps=steps,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def ids(num_items):
    return [f"i{row}" for row in range(num_items)]


def write_embeddings(folder, num_items):
    """Items around 2,000 centres that both modalities share, chunk by chunk; every twentieth copies its neighbour."""
    generator = np.random.default_rng(0)
    centres = {name: generator.standard_normal((2_000, size), dtype=np.float32) for name, size in SIZES.items()}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (num_items, size))
        for name, size in SIZES.items()
    }
    for start in range(0, num_items, CHUNK):
        rows = min(CHUNK, num_items - start)
        of = generator.integers(0, 2_000, rows)
        for name, size in SIZES.items():
            values = centres[name][of] + generator.standard_normal((rows, size), dtype=np.float32)
            values[19::20] = values[18::20][: len(values[19::20])]
            files[name][start : start + rows] = values
    for file in files.values():
        file.flush()


class Stopwatch:
    """Seconds since the last call."""

    def __init__(self):
        self.start = time.perf_counter()

    def __call__(self):
        now = time.perf_counter()
        elapsed, self.start = now - self.start, now
        return round(elapsed, 1)


class PeakMemory:
    """The highest anonymous memory of this process, looked at ten times a second."""

    def __init__(self):
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.done.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, anonymous)

    def stop(self):
        self.done.set()
        self.thread.join()
        return self.peak // 1024


def collapsed():
    """10,000 items with the same embedding, and IDs of 2 levels x 8 codes."""
    quantizer = MacRecQuantizer(
        MacRecQuantizerConfig(modalities={"text": 16}, num_levels=2, codebook_size=8, hidden_sizes=(16,))
    )
    try:
        build_semantic_ids(quantizer, {"text": torch.ones(10_000, 16)}, ids(10_000))
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
