"""What one GPU does: `python benchmarks/gpu.py [--minutes 7] [--output gpu.json]`.

Sections, each printed as it ends and written as JSON into `--output`; what the minutes do not suffice for is left out
with a word:

    card        its products and copies at best, as a measure for all that follows
    loader      examples a second that `MacRecTrainer`'s loader delivers, with two workers and in this process
    launches    kernels by kind, of transformers' layers and of `macrec_hf.gpu`'s; counted, so the same anywhere
    parity      lists of `beam_search` against `generate` in float32, and of bfloat16 and float16 against float32
    decode      users a second by batch, of `beam_search` in four precisions, recorded as a CUDA graph and launched
                one kernel at a time, of both modalities in one batch, of `generate` with our processor, and of the
                field's loop (a dict of prefixes asked by a Python function)
    train       examples a second of `MacRecTrainer`'s step with histories of six items, five steps in a row, by batch
                and precision, recorded and launched, and of a plain T5 with 32,100 further tokens and no alignment;
                and of real batches of all lengths
    kernels     kernels of a training step and of a decode, the operations that take most of the device's time, and
                the bytes that all of them move in a second of it, to be held against those of a copy
    stage       `macrec train` for two minutes and `macrec evaluate` on all users, as a user runs them
    compiled    the step in bfloat16 under `torch.compile`

`--rehearse` goes through all of it on a CPU with tiny models in a minute or two, to find what is missing before a GPU
is paid for. The model is of the paper's size and randomly initialised, but in `stage`; IDs and histories are
those of `../shared/data/instruments`, or synthetic ones of the same size. Medians of ten calls.
"""

import argparse
import atexit
import json
import statistics
import sys
import tempfile
import time
import traceback
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import decoding
import launches as counting
import numpy as np
import torch
import training
from gpu_stage import stage
from torch.profiler import ProfilerActivity, profile
from transformers import T5Config, T5ForConditionalGeneration

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf import (  # noqa: E402
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecTrainer,
    MacRecTrainingArguments,
    SemanticIdTokenizer,
)
from macrec_hf.gpu import accelerate  # noqa: E402
from macrec_hf.gpu.buckets import bucket_of  # noqa: E402
from macrec_hf.gpu.recordings import Recordings  # noqa: E402
from macrec_hf.model.beam_search import BeamRequest, joint_beam_search  # noqa: E402
from macrec_hf.model.trie import SemanticIdTrie  # noqa: E402

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAUNCHED = "bf16, launched one by one"
COMPILED = {"torch_compile": True, "torch_compile_mode": "reduce-overhead"}
STEPS = {
    "float32": {"tf32": False},
    "tf32": {"tf32": True},
    "bf16": {"tf32": True, "bf16": True},
    LAUNCHED: {"tf32": True, "bf16": True},
    "bf16, transformers' layers": {"tf32": True, "bf16": True, "use_gpu_kernels": False},
}
LENGTH = 28  # of a batch's histories: the bucket of six items
IN_A_ROW = 5  # steps without a wait in between, as in a training
NEVER = 10**9
COMPILING = 75  # seconds that have to be left for a compiler; an H200's host took 42
TINY = dict(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1)
OFFSETS = decoding.level_offsets(decoding.COMPACT_OFFSET)


def main():
    args = parse_arguments()
    deadline, found = time.monotonic() + 60 * args.minutes, {"torch": torch.__version__}
    sections, failed = [card, loader, launches, parity, decode, train, kernels, stage, compiled], []
    for section in sections:
        if section.__name__ not in args.sections.split(","):
            continue
        left = deadline - time.monotonic()
        if left < 20:
            print(f"{section.__name__}: left out, {left:.0f} s are left", flush=True)
            continue
        try:
            found[section.__name__] = figures = section(args, left)
            if figures and None in figures.values():  # a verb that failed
                failed.append(section.__name__)
        except Exception:  # the other sections are worth having
            traceback.print_exc()
            failed.append(section.__name__)
        print(f"# {section.__name__}: {args.minutes * 60 - (deadline - time.monotonic()):.0f} s so far", flush=True)
        Path(args.output).write_text(json.dumps(found, indent=2))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7, help="of all sections together (default 7)")
    parser.add_argument("--output", default="gpu.json", help="figures as JSON (default gpu.json)")
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu to rehearse")
    parser.add_argument("--batches", default="1,64,512,2048", help="users of a decode (default 1,64,512,2048)")
    parser.add_argument("--rows", default="256,1024,4096", help="rows of a training step (default 256,1024,4096)")
    parser.add_argument("--repeats", type=int, default=10, help="calls that a median is of (default 10)")
    parser.add_argument("--train-minutes", type=float, default=2, help="of `macrec train` (default 2)")
    names = "card,loader,launches,parity,decode,train,kernels,stage,compiled"
    parser.add_argument("--sections", default=names, help=f"which (default {names})")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny models, everything once")
    args = parser.parse_args()
    if args.rehearse:
        args.device, args.batches, args.rows, args.repeats, args.train_minutes = "cpu", "1,4", "16", 1, 0.1
    args.sizes = TINY if args.rehearse else {}
    return args


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call, args, repeats=None):
    """The median time of a call.

    After three that are not timed, of the third of which a recording may be made, and on a GPU after a quarter of a
    second of such, until which its clock may be rising.
    """
    for _ in range(3):
        call()
    wait(args.device)
    times, begun, rising = [], time.perf_counter(), 0.25 if args.device == "cuda" else 0.0
    while len(times) < (repeats or args.repeats):
        start = time.perf_counter()
        call()
        wait(args.device)
        if start - begun >= rising:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def say(name, value, unit):
    print(f"{name:60s}{value:12,.1f} {unit}", flush=True)
    return value


def card(args, _):
    """TFLOP/s of products of 8,192 rows and columns, GB/s of copies."""
    print(torch.cuda.get_device_name() if args.device == "cuda" else "a CPU", torch.__version__, flush=True)
    size, found = 8192 if args.device == "cuda" else 256, {}
    for name, dtype in PRECISIONS.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        left, right = (torch.randn(size, size, device=args.device, dtype=dtype) for _ in range(2))
        found[name] = say(f"product, {name}", 2 * size**3 / seconds(lambda: left @ right, args) / 1e12, "TFLOP/s")  # noqa: B023
    found["copy"] = say("copy", copied(args), "GB/s")
    return found


def served(args, precision="float32", kernels=True):
    """A model, its trie and sources as tokens."""
    codes, histories, origin = decoding.load_data("text")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    vocabulary = decoding.COMPACT_OFFSET + 2 * decoding.NUM_LEVELS * decoding.CODEBOOK_SIZE
    model = decoding.build_model(vocabulary, **args.sizes).to(args.device, PRECISIONS[precision])
    model = accelerate(model) if kernels else model
    trie = SemanticIdTrie(torch.from_numpy(codes).to(args.device), decoding.CODEBOOK_SIZE, OFFSETS)
    chosen = np.random.default_rng(0).permutation(len(histories))
    return model, trie, [(codes[histories[user]] + OFFSETS).ravel() for user in chosen], origin


def at(args, size):
    """What the functions of benchmarks/decoding.py read."""
    return SimpleNamespace(batch_size=size, num_beams=20, device=args.device)


@torch.no_grad()
def parity(args, _):
    """Shares of equal places, and of the first ten that stay."""
    lists, found, users = {}, {}, 4 if args.rehearse else 48
    for precision in PRECISIONS:
        model, trie, sources, _ = served(args, precision)
        lists[precision] = decoding.fast_path(model, trie, at(args, users))(sources[:users]).cpu()
        if precision == "float32":
            sequences = decoding.plain_generate(model, trie, at(args, users))(sources[:users])[0][:, 1:].cpu()
            own = trie.leaf_tokens(lists[precision].flatten().to(args.device)).cpu()
            equal = (own == sequences).all(dim=1)
            found["generate"] = say("places equal to `generate`'s, float32", float(equal.sum()), f"of {len(equal)}")
    for precision in list(PRECISIONS)[1:]:
        pairs = zip(lists["float32"][:, :10].tolist(), lists[precision][:, :10].tolist(), strict=True)
        kept = statistics.mean(len(set(first) & set(second)) / 10 for first, second in pairs)
        found[precision] = say(f"of float32's first ten in {precision}", 100 * kept, "%")
    return found


@torch.no_grad()
def decode(args, left):
    """Milliseconds by batch, which is on the device already; `generate` and the field's loop are given lists."""
    found, started = {}, time.monotonic()

    def timed(name, size, call, repeats=None):
        if time.monotonic() - started < left / 2:
            took = seconds(call, args, repeats)
            found[f"{name}, {size} users"] = 1000 * took
            say(f"{name}, {size} users: {1000 * took:.1f} ms", size / took, "users/s")

    for precision in PRECISIONS:
        model, trie, sources, origin = served(args, precision)
        search = model.search_kernels.run_batch
        for size in map(int, args.batches.split(",")):
            one = BeamRequest(*next(decoding.batches(sources[:size], at(args, size))), trie)
            for name, requests in (("beam_search", [one]), ("both modalities", [one, one])):
                timed(f"{name}, {precision}", size, partial(joint_beam_search, model, requests, 20))
            if precision == "bfloat16":
                recordings, search.recordings = search.recordings, Recordings(seen=NEVER)
                timed(f"launched one by one, {precision}", size, partial(joint_beam_search, model, [one], 20))
                search.recordings = recordings
            if precision == "float32" and size in (4, 64, 512):
                run = decoding.plain_generate(model, trie, at(args, size))
                timed(f"generate, {origin}", size, partial(run, sources[:size]), 3)
    codes, histories, _ = decoding.load_data("text")
    field = decoding.level_offsets(decoding.T5_VOCABULARY)
    size = decoding.T5_VOCABULARY + 2 * decoding.NUM_LEVELS * decoding.CODEBOOK_SIZE
    model, few = decoding.build_model(size, **args.sizes).to(args.device), 4 if args.rehearse else 64
    run = decoding.field_loop(model, codes + np.array(field), at(args, few))
    timed("the field's loop", few, partial(run, [(codes[histories[user]] + field).ravel() for user in range(few)]), 1)
    return found


def loader(args, _):
    """Examples a second that arrive, without a model to wait for."""
    found, rows = {}, 64 if args.rehearse else 1024
    with tempfile.TemporaryDirectory() as folder:
        for workers in (2, 0):
            trainer = our_trainer(args, Path(folder), rows, dataloader_num_workers=workers).trainer
            batches = iter(trainer.get_train_dataloader())
            next(batches)  # the workers' start is not the loader's speed
            started, examples = time.perf_counter(), 0
            for place, batch in enumerate(batches):
                examples += len(batch["labels"])
                if place == (3 if args.rehearse else 100):
                    break
            took = time.perf_counter() - started
            found[f"{workers} workers"] = say(f"loader, {rows} rows, {workers} workers", examples / took, "examples/s")
    return found


def launches(args, _):
    """Kernels by kind, before and after `accelerate`."""
    found = counting.counts(**args.sizes)
    for name, kinds in found.items():
        print(f"{name}: {kinds.total()} launches: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(10)))
    return {name: dict(kinds) for name, kinds in found.items()}


@cache
def examples():
    """The table and the examples, made once for all sections."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return training.instruments(Path(folder.name))


def our_trainer(args, folder, rows, **chosen):
    table, tasks = examples()
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    trainer = MacRecTrainer(
        MacRecForConditionalGeneration(MacRecConfig(vocab_size=len(tokenizer), **args.sizes)),
        MacRecTrainingArguments(
            str(folder / "trainer"),
            per_device_train_batch_size=rows,
            report_to="none",
            use_cpu=args.device == "cpu",
            dataloader_pin_memory=args.device == "cuda",
            **chosen,
        ),
        train_dataset=tasks,
        processing_class=tokenizer,
        table=table,
    )
    return training.OurSteps(trainer, lambda batch: 0.0)


def train(args, left):
    """Milliseconds a step, by rows and precision; the memory of each."""
    found, started = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for rows in map(int, args.rows.split(",")):
            for name, chosen in STEPS.items():
                if time.monotonic() - started > left * 0.4:
                    print(f"step of {rows} rows, {name}: left out")
                else:
                    found |= step(args, Path(folder), rows, name, chosen)
            found[f"plain T5, {rows} rows"] = 1000 * plain_t5(args, rows)
        rows = 16 if args.rehearse else 1024
        ours = our_trainer(args, Path(folder), rows, bf16=True)
        for name in ("the first", "the next"):
            wait(args.device)
            start, many = time.perf_counter(), 2 if args.rehearse else 100
            for _ in range(many):
                ours.step()
            wait(args.device)
            took = (time.perf_counter() - start) / many
            found[f"{name} {many} real batches, {rows} rows"] = 1000 * took
            say(f"{name} {many} real batches of {rows} rows: {1000 * took:.1f} ms", rows / took, "examples/s")
    return found


def compiled(args, left):
    """Milliseconds of a compiled step, by rows; the last section, since nothing can stop a compiler that has begun."""
    found, started = {}, time.monotonic()
    chosen = STEPS["bf16"] | COMPILED | ({"torch_compile_backend": "eager"} if args.rehearse else {})
    with tempfile.TemporaryDirectory() as folder:
        for rows in map(int, args.rows.split(",")):
            if left - (time.monotonic() - started) < (0 if args.rehearse else COMPILING):
                print(f"step of {rows} rows, bf16 compiled: left out")
                continue
            start = time.monotonic()
            found |= step(args, Path(folder), rows, "bf16 compiled", chosen)
            say(f"    with the compiler, {rows} rows", time.monotonic() - start, "s")
    return found


def step(args, folder, rows, name, chosen):
    """Milliseconds of a step, and on a GPU MiB; nothing of one that fails, for want of a compiler or of memory."""
    chosen = {key: value for key, value in chosen.items() if args.device == "cuda" or key != "tf32"}
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        ours = our_trainer(args, folder, rows, **chosen)
        if name == LAUNCHED:
            ours.trainer.recorded_step = None
        six_items(ours, args)
        took = seconds(lambda: [ours.step() for _ in range(IN_A_ROW)], args) / IN_A_ROW
    except Exception as error:
        print(f"step of {rows} rows, {name}: {type(error).__name__}: {str(error)[:300]}")
        return {}
    found = {f"{name}, {rows} rows": 1000 * took}
    say(f"step of {rows} rows, {name}: {1000 * took:.1f} ms", rows / took, "examples/s")
    if args.device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
        found[f"{name}, {rows} rows, MiB"] = say("    memory at most", memory, "MiB")
    return found


def six_items(ours, args):
    """The same steps, of one batch again and again, whose histories have six items; not every way pads to a bucket."""
    batch = next(ours.batches)
    while bucket_of(batch["input_ids"].shape[1]) != LENGTH and not args.rehearse:
        batch = next(ours.batches)
    ours.batches = iter(lambda: dict(batch), None)
    return ours


def plain_t5(args, rows, length=25):
    """A step of transformers' T5 with 32,100 further tokens in bfloat16: sources of six items, no alignment."""
    sizes = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate")
    config, vocabulary = MacRecConfig(**args.sizes).to_dict(), decoding.T5_VOCABULARY + 2048
    plain = {name: config[name] for name in sizes}
    model = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **plain))
    model = model.to(args.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=args.device == "cuda")
    batch = {
        "input_ids": torch.randint(3, vocabulary, (rows, length), device=args.device),
        "labels": torch.randint(3, vocabulary, (rows, 4), device=args.device),
    }

    def step():
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    took = seconds(lambda: [step() for _ in range(IN_A_ROW)], args) / IN_A_ROW
    say(f"plain T5, 32 k tokens, bf16, {rows} rows: {1000 * took:.1f} ms", rows / took, "examples/s")
    return took


def kernels(args, _):
    """Kernels of a step of 1,024 rows and of a decode of 512 users with histories of six items."""
    users, rows = (4, 16) if args.rehearse else (512, 1024)
    model, trie, sources, _ = served(args, "bfloat16")
    run, some = decoding.fast_path(model, trie, at(args, users)), [source[:LENGTH] for source in sources[:users]]
    moved = counting.bytes_moved(LENGTH, users, rows, **args.sizes)
    with tempfile.TemporaryDirectory() as folder:
        calls = {"step": six_items(our_trainer(args, Path(folder), rows, bf16=True), args).step}
        calls["decode"] = torch.no_grad()(lambda: run(some))
        found = {name: profiled(f"{name} in bfloat16", call, args) for name, call in calls.items()}
    copies = copied(args)
    for name, one in found.items():
        one["moved_gb"] = say(f"{name}: moved by its operations", moved[name] / 1e9, "GB")
        if one["device_ms"]:
            one["gb_s"] = say("    per second of the device", moved[name] / one["device_ms"] / 1e6, "GB/s")
            one["of_a_copy"] = say("    of the speed of copies", 100 * one["gb_s"] / copies, "%")
    return found


def copied(args):
    """GB/s of copies."""
    values = torch.empty(2**28 if args.device == "cuda" else 2**20, device=args.device)
    target = torch.empty_like(values)
    return 2 * 4 * values.numel() / seconds(lambda: target.copy_(values), args) / 1e9


def profiled(name, call, args):
    call()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (args.device == "cuda")
    with profile(activities=activities) as seen:
        call()
        wait(args.device)
    events = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.device_time_total for event in events) / 1000
    print(f"{name}: {len(events)} kernels and copies, {busy:.1f} ms of the device")
    by = "self_device_time_total" if args.device == "cuda" else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=by, row_limit=12, max_name_column_width=50))
    return {"kernels": len(events), "device_ms": busy}


if __name__ == "__main__":
    main()
