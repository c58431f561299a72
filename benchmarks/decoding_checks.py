"""What the decoder's lists are worth, and how it grows.

`python benchmarks/decoding_checks.py scale|places|survival|joint`

    scale     builds tries of 10 K to 10 M random distinct IDs (4 levels x 256 codes), with the memory of their
              tensors and the most that building took beside the codes (Linux), and times the beam search of the same
              users on each, interleaved
    places    decodes a million list places under random limits and counts those that are invalid or repeated
    survival  how much of the exact first ten of each user 5, 10, 20 and 50 beams find
    joint     both modalities' beams in one batch against one batch after the other, for 1 to 64 users

The data are those of `decoding.py`. The model is randomly initialised, at the paper's size, or far smaller for
`places`, where only the limits are on trial. `survival --model DIR` takes a trained model, with its own catalogue.
"""

import argparse
import statistics
import time
from pathlib import Path

import decoding
import numpy as np
import torch
from decoding import CODEBOOK_SIZE, COMPACT_OFFSET, NUM_LEVELS, build_model, level_offsets

from macrec_hf.cpu import accelerate
from macrec_hf.model.beam_search import BeamRequest, beam_search, joint_beam_search
from macrec_hf.model.model_decoding import exact_scores
from macrec_hf.model.model_files import load_model_directory
from macrec_hf.model.trie import SemanticIdTrie


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=["scale", "places", "survival", "joint"])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000], help="scale")
    parser.add_argument("--users", type=int, default=64, help="users of a batch (default 64)")
    parser.add_argument("--repeats", type=int, default=5, help="scale: timings of each size (default 5)")
    parser.add_argument("--places", type=int, default=1_000_000, help="places to decode (default 1,000,000)")
    parser.add_argument("--model", help="survival: a model directory (default: random weights)")
    parser.add_argument("--modality", default="text", help="survival: whose IDs (default text)")
    args = parser.parse_args()
    vocab_size = COMPACT_OFFSET + 2 * NUM_LEVELS * CODEBOOK_SIZE
    small = {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8} if args.check == "places" else {}
    model = accelerate(build_model(vocab_size, **small))
    with torch.no_grad():
        {"scale": scale, "places": places, "survival": survival, "joint": joint}[args.check](model, args)


def distinct_codes(num_items):
    keys = torch.randint(CODEBOOK_SIZE**NUM_LEVELS, (int(num_items * 1.02) + 100,)).unique()
    keys = keys[torch.randperm(len(keys))[:num_items]]
    return torch.stack([keys // CODEBOOK_SIZE**level % CODEBOOK_SIZE for level in reversed(range(NUM_LEVELS))], dim=1)


def build(codes):
    return SemanticIdTrie(codes, CODEBOOK_SIZE, level_offsets(COMPACT_OFFSET))


def size_of(trie):
    tensors = [entry for value in vars(trie).values() for entry in (value if isinstance(value, list) else [value])]
    distinct = {entry.data_ptr(): entry for entry in tensors if isinstance(entry, torch.Tensor)}
    return sum(tensor.nbytes for tensor in distinct.values())


def resident(reset=False):
    """KiB of memory: with `reset` those now, and the peak is counted anew; else the peak. 0 without /proc."""
    status, peak = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not peak.exists():
        return 0
    if reset:
        peak.write_text("5")
    name = "VmRSS" if reset else "VmHWM"
    return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])


def scale(model, args):
    torch.manual_seed(0)
    histories = torch.randint(COMPACT_OFFSET, model.config.vocab_size, (args.users, 29))
    tries = {}
    for num_items in args.items:
        codes = distinct_codes(num_items)
        before = resident(reset=True)
        start = time.perf_counter()
        tries[num_items] = build(codes)
        seconds = time.perf_counter() - start
        size, peak = size_of(tries[num_items]) / 2**20, (resident() - before) / 2**10
        print(f"{num_items:>12,} items: built in {seconds:6.2f} s, {size:7.1f} MiB, {peak:7.0f} MiB while building")
    seconds = {num_items: [] for num_items in tries}
    for repeat in range(args.repeats + 1):
        for num_items, trie in tries.items():
            start = time.perf_counter()
            beam_search(model, histories, None, trie, 20)
            if repeat:
                seconds[num_items].append(time.perf_counter() - start)
    for num_items, times in seconds.items():
        print(f"{num_items:>12,} items: {statistics.median(times) * 1e3:8.1f} ms for {args.users} users")


def places(model, args):
    """Limits of every form in turn; each list is compared with what is allowed."""
    torch.manual_seed(0)
    trie = build(torch.from_numpy(decoding.load_data("text")[0]))
    has_id = trie.item_leaf >= 0
    seen = invalid = repeated = short = 0
    while seen < args.places:
        histories = torch.randint(COMPACT_OFFSET, model.config.vocab_size, (args.users, 13))
        share = float(np.random.default_rng(seen).choice([0.002, 0.02, 0.3, 1.0]))
        allowed = torch.rand(args.users, trie.num_items) < share
        excluded = torch.randint(-1, trie.num_items, (args.users, 20))
        leaves = beam_search(model, histories, None, trie, 50, allowed_items=allowed, excluded_items=excluded).leaves
        left = allowed & has_id
        left[torch.arange(args.users).repeat_interleave(20), excluded.clamp(min=0).flatten()] &= (
            excluded < 0
        ).flatten()
        open_leaves = torch.zeros(args.users, trie.num_leaves, dtype=torch.bool)
        user, item = torch.nonzero(left, as_tuple=True)
        open_leaves[user, trie.item_leaf[item]] = True
        found = leaves >= 0
        invalid += int((found & ~open_leaves.gather(1, leaves.clamp(min=0))).sum())
        ordered = leaves.sort(dim=1).values
        repeated += int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum())
        short += int((found.sum(1) != open_leaves.sum(1).clamp(max=50)).sum())
        seen += int(found.sum())
    print(f"{seen:,} places: {invalid} invalid, {repeated} repeated, {short} lists shorter than the allowed items")


def survival(model, args):
    codes, histories, origin = decoding.load_data(args.modality)
    if args.model:
        model, trie, sources = load_trained(args, histories)
        origin = f"{origin}, {args.model}"
    else:
        trie = build(torch.from_numpy(codes))
        sources = [(codes[history] + level_offsets(COMPACT_OFFSET)).ravel() for history in histories]
    chosen = np.random.default_rng(0).permutation(len(sources))[: args.users]
    overlap = {num_beams: [] for num_beams in (5, 10, 20, 50)}
    for user in chosen:
        source = decoding.pad([sources[user]])
        scores = exact_scores(model, *source, trie)[0]
        by_leaf = scores[trie.leaf_rows[trie.leaf_start[:-1]]]
        best = by_leaf.topk(10).indices.tolist()
        for num_beams, shares in overlap.items():
            found = beam_search(model, *source, trie, num_beams).leaves[0, :10].tolist()
            shares.append((len(set(best) & set(found)) / 10, best[0] in found))
    print(f"{origin}, {len(chosen)} users: share of the exact first ten IDs among the first ten of the beams, and of")
    print("the users whose exact first ID is among them")
    for num_beams, shares in overlap.items():
        tens, firsts = zip(*shares, strict=True)
        print(f"{num_beams:>4} beams: {statistics.mean(tens):.3f} {statistics.mean(firsts):.3f}")


def joint(model, args):
    codes, histories, origin = decoding.load_data("text")
    offsets = {"text": COMPACT_OFFSET, "image": COMPACT_OFFSET + NUM_LEVELS * CODEBOOK_SIZE}
    codes = {"text": codes, "image": decoding.load_data("image")[0]}
    tries = {
        name: SemanticIdTrie(torch.from_numpy(codes[name]), CODEBOOK_SIZE, level_offsets(offsets[name]))
        for name in offsets
    }
    generator = np.random.default_rng(0)
    print(f"{origin} and image, {torch.get_num_threads()} threads, {args.repeats} repeats: milliseconds, medians")
    for num_users in (1, 4, 16, 64):
        seconds = {"apart": [], "joint": []}
        for repeat in range(args.repeats + 1):
            chosen = sorted(generator.choice(len(histories), num_users), key=lambda user: -len(histories[user]))
            batches = {
                name: decoding.pad(
                    [(codes[name][histories[user]] + level_offsets(offsets[name])).ravel() for user in chosen]
                )
                for name in tries
            }
            for way in ("apart", "joint") if repeat % 2 else ("joint", "apart"):
                start = time.perf_counter()
                if way == "apart":
                    for name, batch in batches.items():
                        beam_search(model, *batch, tries[name], 20)
                else:
                    joint_beam_search(model, [BeamRequest(*batches[name], tries[name]) for name in tries], 20)
                if repeat:
                    seconds[way].append(time.perf_counter() - start)
        apart, together = (statistics.median(seconds[way]) * 1e3 for way in ("apart", "joint"))
        print(f"{num_users:>4} users: apart {apart:7.1f}, in one batch {together:7.1f}, ratio {apart / together:.2f}")


def load_trained(args, histories):
    """The model, its trie, and the token ids of the histories without `</s>`; its items must be those of the data."""
    parts = load_model_directory(args.model)
    trie = SemanticIdTrie.from_table(parts.table, parts.tokenizer, modality=args.modality)
    tokens = parts.tokenizer.item_token_ids(parts.table, args.modality)
    rows = np.array([parts.table.row_of[str(item)] for item in range(parts.table.num_items)])
    return (
        accelerate(parts.model.eval()),
        trie,
        [tokens[rows[history]].ravel().astype(np.int64) for history in histories],
    )


if __name__ == "__main__":
    main()
