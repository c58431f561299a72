"""Times constrained decoding: `python benchmarks/decoding.py [--users 256] [--repeats 5] [--modality text]`.

One process, sides interleaved on the same users, fresh users in each repeat, medians over the repeats:

    (a) the field's loop: `generate` with `prefix_allowed_tokens_fn` over a trie of Python dicts, T5's 32,100 tokens
        plus the codes, `</s>` as part of the ID, users in file order
    (b) `generate` with `SemanticIdLogitsProcessor` and the compact vocabulary, users in file order
    (c) `beam_search`, users sorted by the length of their histories into batches and put back in order
    (d) (c) without the catalogue: every code of a level may follow
    (e) the arithmetic floor: the products that the model cannot do without, at the speed of torch's best product
    (f) the same at the speed of the product that `cpu/linear.py` takes instead, on processors where it does

The model is randomly initialised at the paper's size; the histories and IDs are those of `../shared/data/instruments`,
or a synthetic set of the same size where that is absent.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf.cpu import accelerate  # noqa: E402
from macrec_hf.cpu.linear import product_by_onednn, products_are_held_back  # noqa: E402
from macrec_hf.model.beam_search import beam_search  # noqa: E402
from macrec_hf.model.logits_process import SemanticIdLogitsProcessor  # noqa: E402
from macrec_hf.model.trie import SemanticIdTrie  # noqa: E402

CODEBOOK_SIZE, NUM_LEVELS, MAX_HISTORY = 256, 4, 20
T5_VOCABULARY = 32_100
COMPACT_OFFSET = 7  # 3 special and 4 task tokens
EOS, PAD = 1, 0
BY_ONEDNN = "2048x2048x2048, through oneDNN"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main():
    args = parse_arguments()
    codes, histories, origin = load_data(args.modality)
    clock = CLOCKS[args.clock]
    compact = accelerate(build_model(COMPACT_OFFSET + 2 * NUM_LEVELS * CODEBOOK_SIZE))
    field_model = build_model(T5_VOCABULARY + 2 * NUM_LEVELS * CODEBOOK_SIZE)
    field_offsets = level_offsets(T5_VOCABULARY)
    trie = SemanticIdTrie(torch.from_numpy(codes), CODEBOOK_SIZE, level_offsets(COMPACT_OFFSET))
    sides = {
        "a": field_loop(field_model, codes + np.array(field_offsets), args),
        "b": plain_generate(compact, trie, args),
        "c": fast_path(compact, trie, args),
        "d": fast_path(compact, EveryCode(trie), args),
    }
    users = draw_users(histories, args)
    print(
        f"{origin}: {len(codes):,} items, {trie.num_leaves:,} IDs, {args.users} users x {args.repeats} repeats, batch "
        f"{args.batch_size}, {args.num_beams} beams, {torch.get_num_threads()} threads, {args.clock} clock, "
        f"torch {torch.__version__}"
    )
    seconds, machine = measure(sides, users, histories, codes, field_offsets, clock, args)
    print_machine(machine)
    flops = statistics.median(
        sum(flops_of_user(NUM_LEVELS * len(histories[user]) + 1, compact.config, args.num_beams) for user in chosen)
        for chosen in users
    )
    report(seconds, machine, flops, args)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=256, help="users in each repeat (default 256)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats, each with fresh users (default 5)")
    parser.add_argument("--batch-size", type=int, default=64, help="users at a time (default 64)")
    parser.add_argument("--num-beams", type=int, default=20, help="beams (default 20, authors' code)")
    parser.add_argument("--modality", choices=["text", "image"], default="text", help="whose IDs (default text)")
    parser.add_argument(
        "--sides", default="abcd", help="which sides to run (default abcd; (a) takes most of the time)"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall (default), or cpu: processor seconds, for a machine that others use too (set OMP_NUM_THREADS=1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of users and weights (default 0)")
    return parser.parse_args()


def load_data(modality):
    """Codes `(num_items, num_levels)`, the test histories (item rows, the last 20), and where they are from."""
    folder = ROOT.parent / "shared" / "data" / "instruments"
    if not folder.exists():
        return (*synthetic_data(), "synthetic data of the size of Instruments")
    name = {"text": "Instruments.index_lemb.json", "image": "Instruments.index_vitemb.json"}[modality]
    index = json.loads((folder / name).read_text())
    codes = np.array([[int(token[3:-1]) for token in index[str(row)]] for row in range(len(index))])
    users = json.loads((folder / "Instruments.inter.json").read_text())
    return (
        codes,
        [np.array(items[:-1][-MAX_HISTORY:], dtype=int) for items in users.values()],
        f"Instruments, {modality}",
    )


def synthetic_data(num_items=6_250, num_users=17_112):
    generator = np.random.default_rng(0)
    keys = generator.choice(CODEBOOK_SIZE**NUM_LEVELS, num_items, replace=False)
    codes = np.stack(np.unravel_index(keys, (CODEBOOK_SIZE,) * NUM_LEVELS), axis=1)
    lengths = np.minimum(4 + generator.geometric(0.35, num_users), MAX_HISTORY)  # 4 at least, 7 on average
    return codes, [generator.integers(0, num_items, length) for length in lengths]


def level_offsets(first):
    return [first + level * CODEBOOK_SIZE for level in range(NUM_LEVELS)]


def build_model(vocab_size, **sizes):
    """Randomly initialised, of the paper's size unless `sizes` say otherwise."""
    torch.manual_seed(0)
    sizes = {"d_model": 128, "d_ff": 1024, "num_layers": 4, "num_heads": 6, "d_kv": 64, **sizes}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, decoder_start_token_id=PAD, **sizes)).eval()


def draw_users(histories, args):
    order = np.random.default_rng(args.seed).permutation(len(histories))
    return [np.sort(order[start : start + args.users]) for start in range(0, args.users * args.repeats, args.users)]


def pad(sources):
    """Right-padded `input_ids` and `attention_mask` of token arrays, with `</s>` added."""
    input_ids = torch.full((len(sources), max(map(len, sources)) + 1), PAD)
    for row, source in enumerate(sources):
        input_ids[row, : len(source)] = torch.from_numpy(source)
        input_ids[row, len(source)] = EOS
    return input_ids, (input_ids != PAD).long()


def batches(sources, args):
    device = getattr(args, "device", "cpu")  # benchmarks/gpu.py has one
    for start in range(0, len(sources), args.batch_size):
        yield tuple(tensor.to(device) for tensor in pad(sources[start : start + args.batch_size]))


def field_loop(model, item_tokens, args):
    """(a): a dict for each prefix, asked by a Python function for each beam at each step."""
    trie = {}
    for tokens in item_tokens.tolist():
        node = trie
        for token in [*tokens, EOS]:
            node = node.setdefault(token, {})

    def allowed(batch, sequence):
        node = trie
        for token in sequence.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [PAD]

    def run(sources):
        return [
            model.generate(
                input_ids,
                attention_mask=mask,
                num_beams=args.num_beams,
                num_return_sequences=args.num_beams,
                max_new_tokens=NUM_LEVELS + 1,
                prefix_allowed_tokens_fn=allowed,
            )
            for input_ids, mask in batches(sources, args)
        ]

    return run


def plain_generate(model, trie, args):
    """(b)"""
    processor = SemanticIdLogitsProcessor(trie)

    def run(sources):
        return [
            model.generate(
                input_ids,
                attention_mask=mask,
                num_beams=args.num_beams,
                num_return_sequences=args.num_beams,
                max_new_tokens=NUM_LEVELS,
                logits_processor=[processor],
            )
            for input_ids, mask in batches(sources, args)
        ]

    return run


def fast_path(model, trie, args):
    """(c) and (d)"""

    def run(sources):
        order = np.argsort([-len(source) for source in sources], kind="stable")
        parts = [
            beam_search(model, input_ids, mask, trie, args.num_beams).leaves
            for input_ids, mask in batches([sources[place] for place in order], args)
        ]
        return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

    return run


class EveryCode:
    """(d): looks like a trie to the beam search, but every code may follow; a node is its prefix as a number."""

    def __init__(self, trie):
        self.num_levels, self.codebook_size = trie.num_levels, trie.codebook_size
        self.level_offsets, self.device = trie.level_offsets, trie.device
        self.num_nodes = [self.codebook_size**depth for depth in range(self.num_levels + 1)]

    def children(self, depth, nodes):
        children = nodes.unsqueeze(-1) * self.codebook_size + torch.arange(self.codebook_size)
        return children, torch.ones_like(children, dtype=torch.bool)

    def child_tokens(self, depth, children):
        return children % self.codebook_size + self.level_offsets[depth]


def machine_speed(clock, repeats=7):
    """FLOP/s of the best of several float32 products, for two shapes; through oneDNN, where the package uses it."""
    speeds = {}
    for rows, inner, columns in ((2048, 2048, 2048), (1280, 128, 1024)):
        left, right, product = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
        best = best_time(lambda: torch.mm(left, right, out=product), clock, repeats)  # noqa: B023
        speeds[f"{rows}x{inner}x{columns}"] = 2 * rows * inner * columns / best
    if products_are_held_back():
        left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
        best = best_time(lambda: product_by_onednn(left, right), clock, repeats)
        speeds[BY_ONEDNN] = 2 * 2048**3 / best
    return speeds


def best_time(call, clock, repeats):
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def print_machine(machine):
    for name, speed in machine.items():
        print(f"float32 product {name}: {speed / 1e9:.0f} GFLOP/s")


def floors(machine):
    """`{letter: (name, FLOP/s)}` of the arithmetic floor, by torch's own products and by the best there is."""
    speeds = {"e": ("arithmetic floor", max(speed for name, speed in machine.items() if name != BY_ONEDNN))}
    if BY_ONEDNN in machine:
        speeds["f"] = ("floor through oneDNN", machine[BY_ONEDNN])
    return speeds


def flops_of_user(source_length, config, num_beams):
    """Products of one user without padding: an encoder pass, cross-attention keys and values once, then one decoder
    row for the first level and `num_beams` for each further one; a product of (m, k) and (k, n) is 2·m·k·n."""
    inner, layers = config.num_heads * config.d_kv, config.num_layers
    project, dense = 2 * config.d_model * inner, 2 * 2 * config.d_model * config.d_ff
    encoder = layers * source_length * (4 * project + dense + 2 * 2 * source_length * inner)
    cross_states = layers * source_length * 2 * project
    decoder = 0
    for level in range(NUM_LEVELS):
        rows = 1 if level == 0 else num_beams
        attention = 2 * 2 * inner * (source_length + level + 1)
        decoder += rows * (layers * (6 * project + dense + attention) + 2 * config.d_model * config.vocab_size)
    return encoder + cross_states + decoder


def measure(sides, users, histories, codes, field_offsets, clock, args):
    """Seconds of each side in each repeat, and the best speed of each product over all of them."""
    seconds, machine = {side: [] for side in args.sides}, {}
    with torch.no_grad():
        for repeat, chosen in enumerate(users):
            compact_sources = [(codes[histories[user]] + level_offsets(COMPACT_OFFSET)).ravel() for user in chosen]
            field_sources = [(codes[histories[user]] + field_offsets).ravel() for user in chosen]
            turn = repeat % len(args.sides)  # each side comes first in turn
            for side in args.sides[turn:] + args.sides[:turn]:
                sources = field_sources if side == "a" else compact_sources
                if repeat == 0:
                    sides[side](sources[:8])
                start = clock()
                sides[side](sources)
                seconds[side].append(clock() - start)
                machine = {name: max(speed, machine.get(name, 0)) for name, speed in machine_speed(clock).items()}
    return seconds, machine


def report(seconds, machine, flops, args):
    names = {"a": "field's loop", "b": "generate + processor", "c": "beam_search", "d": "beam_search, no catalogue"}
    rates = {side: args.users / statistics.median(times) for side, times in seconds.items()}
    for side, rate in rates.items():
        print(f"({side}) {names[side]:28s}{rate:9.1f} users/s")
    for letter, (name, speed) in floors(machine).items():
        rates[letter] = args.users * speed / flops
        print(f"({letter}) {name:28s}{rates[letter]:9.1f} users/s ({flops / args.users / 1e9:.3f} GFLOP a user)")
    print_ratios(rates, ("ba", "ca", "cb", "ce", "cf", "dc"))


def print_ratios(rates, pairs):
    for above, below in pairs:
        if above in rates and below in rates:
            print(f"({above})/({below}) = {rates[above] / rates[below]:.2f}")


if __name__ == "__main__":
    main()
