"""Times training steps: `python benchmarks/training.py [--stages recommender,quantizer] [--steps 4] [--repeats 3]`.

One process, sides interleaved, fresh batches in each repeat, medians over the repeats; a step is everything from rows
to moved weights (collating, both passes, clipping, AdamW). In its turn each side first takes one step that is not
timed, because the sides differ in what becomes of freed memory:

    (a) the field's loop. Recommender: T5's 32,100 tokens plus the codes, `</s>` in the labels, strings tokenised by
        the collator, random batches padded to their longest source, attention and dropout as T5 had them when the
        scripts were written. Quantizer: rows fetched one by one, positives drawn item by item in Python, in several
        ways (`--draws`): by searching the batch's labels once for each item, by looking up which of the catalogue's
        items with the same label are in the batch, as the paper's public code does, or by comparing labels one by one
    (p) ours with transformers' layers and torch's products: batches of `MacRecTrainer` and its `training_step`; 50
        batches a repeat, which are the groups by length of 12,800 examples: long and short ones in their shares
    (b) the same accelerated by `macrec_hf.cpu`, in float32; of the quantizer `MacRecQuantizerTrainer`'s step
    (h) the same in bfloat16 autocast, the default on CPUs that multiply it
    (e) the arithmetic floor: the products of a step as T5 and the quantizer are written, at the speed of torch's best
        product
    (f) the same at the speed of the product that `cpu/linear.py` takes instead, on processors where it does

Both sides of a stage have the same tasks, losses, sizes (the paper's) and batch size. The recommender reads
`../shared/data/instruments`, or a synthetic set of the same size where that is absent; the quantizer's catalogue is
6,250 random items of 4096 + 768 dimensions.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from decoding import floors, machine_speed, print_machine, print_ratios
from transformers import T5Config, T5ForConditionalGeneration

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf import (  # noqa: E402
    EmbeddingStore,
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    MacRecTrainer,
    MacRecTrainingArguments,
    RecommendationTasksBuilder,
    SemanticIdTable,
    SemanticIdTokenizer,
)
from macrec_hf.cpu.memory import KEPT, keep_freed_memory  # noqa: E402
from macrec_hf.model.losses import alignment_loss  # noqa: E402

T5_VOCABULARY = 32_100
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 1
GROUPED = 50  # batches that transformers sorts by length together
BY_ITSELF = 2**25  # what glibc comes to; the field's loop leaves it there
DRAWS = {}  # name: function, filled below


def main():
    args = parse_arguments()
    print(f"{torch.get_num_threads()} threads, {args.clock} clock, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for stage in args.stages.split(","):
            {"recommender": recommender, "quantizer": quantizer}[stage](args, Path(folder))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default="recommender,quantizer", help="which stages (default both)")
    parser.add_argument("--sides", default="apbh", help="which sides (default apbh)")
    parser.add_argument(
        "--steps", type=int, default=4, help="steps in each repeat, but 50 of our recommender's (default 4)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="repeats (default 3)")
    parser.add_argument("--batch-size", type=int, default=256, help="of the recommender (default 256)")
    parser.add_argument(
        "--draws", nargs="+", choices=DRAWS, default=list(DRAWS), help="how (a) draws positives (default all ways)"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall (default), or cpu: processor seconds")
    return parser.parse_args()


def recommender(args, folder):
    table, tasks = instruments(folder)
    tokenizer = SemanticIdTokenizer.from_table(table)

    def ours(name, **chosen):
        torch.manual_seed(0)
        trainer = MacRecTrainer(
            MacRecForConditionalGeneration(MacRecConfig(vocab_size=len(tokenizer))),
            MacRecTrainingArguments(
                str(folder / name),
                per_device_train_batch_size=args.batch_size,
                report_to="none",
                use_cpu=True,
                dataloader_pin_memory=False,
                **chosen,
            ),
            train_dataset=tasks,
            processing_class=tokenizer,
            table=table,
        )
        return OurSteps(trainer, lambda batch: flops_of_batch(batch, trainer.model.config))

    sides = {
        "a": FieldRecommender(tasks, table, tokenizer, args.batch_size),
        "p": ours("plain", use_cpu_kernels=False, bf16=False),
        "b": ours("accelerated", bf16=False),
        "h": ours("bf16", bf16=True),
    }
    report("recommender", "examples", args.batch_size, sides, args)


def quantizer(args, folder):
    batch_size, generator = 1024, np.random.default_rng(0)
    sizes = {"text": 4096, "image": 768}
    arrays = {name: generator.standard_normal((6_250, size), dtype=np.float32) for name, size in sizes.items()}
    store = EmbeddingStore(arrays)
    torch.manual_seed(0)
    model = MacRecQuantizer(MacRecQuantizerConfig(modalities=sizes))
    trainer = MacRecQuantizerTrainer(
        model,
        MacRecQuantizerTrainingArguments(
            str(folder / "quantizer"),
            per_device_train_batch_size=batch_size,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=store,
    )
    # Any labels and codebooks cost a step the same: k-means is timed elsewhere.
    labels = {name: generator.integers(0, model.config.num_pseudo_labels, 6_250) for name in sizes}
    trainer.data_collator.labels = labels
    model.set_codebooks({name: torch.randn_like(values) for name, values in model.codebooks.items()})
    ours = OurSteps(trainer, lambda batch: flops_of_quantizer(batch, model))
    sides = {"a": FieldQuantizer(arrays, labels, model, batch_size), "b": ours}
    for draw in args.draws:
        sides["a"].draw = DRAWS[draw]
        report(f"quantizer, positives of (a) by {draw}", "items", batch_size, sides, args)


NAMES = {"a": "field's loop", "p": "plain", "b": "accelerated", "h": "accelerated, bf16"}


def report(stage, unit, batch_size, sides, args):
    """Runs the sides in turn and prints rates and ratios."""
    clock, order = CLOCKS[args.clock], [side for side in args.sides if side in sides]
    seconds, examples, speeds = {side: [] for side in order}, {side: [] for side in order}, {}
    for repeat in range(args.repeats + WARM_UP):
        turn = repeat % len(order)
        for side in order[turn:] + order[:turn]:
            steps = GROUPED if getattr(sides[side], "grouped", False) else args.steps
            keep_freed_memory(BY_ITSELF if side in "ap" else KEPT)
            sides[side].step()  # not timed: under the other side's setting the memory went back to the system
            sides["b"].flops = 0.0
            start = clock()
            done = sum(sides[side].step() for _ in range(steps))
            elapsed = clock() - start
            if repeat >= WARM_UP:
                seconds[side].append(elapsed)
                examples[side].append(done)
                if side == "b":
                    each = sides["b"].flops / done
            speeds = {name: max(speed, speeds.get(name, 0)) for name, speed in machine_speed(clock).items()}
    print(f"\n{stage}: batch {batch_size}, {args.repeats} repeats of {args.steps} steps")
    print_machine(speeds)
    rates = {
        side: statistics.median(done / time for done, time in zip(examples[side], seconds[side], strict=True))
        for side in order
    }
    for side, rate in rates.items():
        print(f"({side}) {NAMES[side]:20s}{rate:9.1f} {unit}/s")
    if "b" in order:
        for letter, (name, speed) in floors(speeds).items():
            rates[letter] = speed / each
            print(f"({letter}) {name:20s}{rates[letter]:9.1f} {unit}/s ({each / 1e9:.3f} GFLOP each)")
    print_ratios(rates, ("pa", "ba", "ha", "bp", "hp", "hb", "be", "bf"))


class OurSteps:
    """(b): the trainer's own batches, step and optimizer."""

    def __init__(self, trainer, count):
        self.trainer, self.model, self.count, self.flops = trainer, trainer.model, count, 0.0
        self.grouped = trainer.args.train_sampling_strategy == "group_by_length"
        trainer.current_gradient_accumulation_steps = 1  # what `train` sets
        self.optimizer = trainer.create_optimizer()
        self.model = trainer.accelerator.prepare_model(trainer.model)  # autocast, where it is asked for
        self.batches = forever(trainer.get_train_dataloader())
        self.model.train()

    def step(self):
        batch = next(self.batches)
        self.trainer.training_step(self.model, batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.model.zero_grad()
        self.flops += self.count(batch)
        rows = batch["labels"] if "labels" in batch else next(iter(batch["embeddings"].values()))
        return len(rows)


def forever(loader):
    while True:
        yield from loader


# Recommender


def instruments(folder):
    """The table and the training examples of all six tasks."""
    source = ROOT.parent / "shared" / "data" / "instruments"
    if source.exists():
        table = SemanticIdTable.from_index_json(
            text=source / "Instruments.index_lemb.json", image=source / "Instruments.index_vitemb.json"
        )
        interactions = source / "Instruments.inter.json"
    else:
        table, interactions = synthetic(folder)
    builder = RecommendationTasksBuilder(interactions, table, cache_dir=str(folder / "cache"))
    builder.download_and_prepare()
    return table, builder.as_dataset()["train"]


def synthetic(folder, num_items=6_250, num_users=17_112):
    generator = np.random.default_rng(0)
    codes = {}
    for name in ("text", "image"):
        keys = generator.choice(256**4, num_items, replace=False)
        codes[name] = torch.from_numpy(np.stack(np.unravel_index(keys, (256,) * 4), axis=1))
    table = SemanticIdTable([str(row) for row in range(num_items)], codes)
    lengths = np.minimum(5 + generator.geometric(0.3, num_users), 40)
    users = {str(user): generator.integers(0, num_items, length).tolist() for user, length in enumerate(lengths)}
    path = folder / "Synthetic.inter.json"
    path.write_text(json.dumps(users))
    return table, path


class FieldRecommender:
    """(a): strings until the collator, T5's vocabulary, no order of lengths."""

    def __init__(self, tasks, table, tokenizer, batch_size):
        self.rows = [
            {
                "source": "".join(tokenizer.convert_ids_to_tokens(row["input_ids"][:-1])),
                "target": "".join(tokenizer.convert_ids_to_tokens(row["labels"])),
                "item": row["item"],
            }
            for row in tasks.select(np.random.default_rng(0).permutation(len(tasks))[: 40 * batch_size])
        ]
        self.tokenizer = with_t5_vocabulary(tokenizer)
        self.names = [["".join(table.tokens(item, name)) for item in table.item_ids] for name in table.modalities]
        self.batches = forever(
            torch.utils.data.DataLoader(self.rows, batch_size, shuffle=True, collate_fn=self.collate, drop_last=True)
        )
        torch.manual_seed(0)
        config = MacRecConfig().to_dict()
        sizes = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate")
        config = T5Config(
            vocab_size=len(self.tokenizer), decoder_start_token_id=0, **{name: config[name] for name in sizes}
        )
        config._attn_implementation = "eager"
        self.model = T5ForConditionalGeneration(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def collate(self, rows):
        batch = dict(self.tokenizer([row["source"] for row in rows], padding=True, return_tensors="pt"))
        labels = self.tokenizer([row["target"] for row in rows], padding=True, return_tensors="pt")["input_ids"]
        items = sorted({row["item"] for row in rows})
        aligned = [
            self.tokenizer([names[item] for item in items], padding=True, return_tensors="pt")["input_ids"]
            for names in self.names
        ]
        return {**batch, "labels": labels, "aligned": aligned}

    def step(self):
        batch = next(self.batches)
        aligned = batch.pop("aligned")
        loss = self.model(**batch).loss
        first, second = (self.model.encoder(input_ids=tokens)[0].mean(dim=1) for tokens in aligned)
        loss = loss + 0.01 * alignment_loss(first, second, 0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return len(batch["labels"])


def with_t5_vocabulary(tokenizer):
    """A tokenizer of as many tokens as T5's, to which the codes were added, as the scripts do it."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"word{place}": place for place in range(3, T5_VOCABULARY)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    full = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    full.add_tokens([token for token in tokenizer.get_vocab() if token not in words])
    return full


def flops_of_batch(batch, config):
    """Products of one step without padding: those of the forward pass, three times (the backward pass has two for
    each); a product of (m, k) and (k, n) is 2·m·k·n."""
    inner = config.num_heads * config.d_kv
    project, dense = 2 * config.d_model * inner, 2 * 2 * config.d_model * config.d_ff

    def encoder(lengths):
        return config.num_layers * (lengths * (4 * project + dense) + 2 * 2 * lengths**2 * inner).sum()

    lengths = batch["attention_mask"].sum(dim=1).double()
    examples, levels = batch["labels"].shape
    attention = 2 * 2 * inner * (levels * lengths + levels * (levels + 1) / 2).sum()
    rows = examples * levels * (6 * project + dense)
    decoder = config.num_decoder_layers * (rows + attention + lengths.sum() * 2 * project)
    head = examples * levels * 2 * config.d_model * config.vocab_size
    modalities, items, _ = batch["alignment_input_ids"].shape
    aligned = encoder(torch.full((modalities * items,), float(levels)).double())
    aligned += 2 * items**2 * config.d_model
    return 3 * float(encoder(lengths) + decoder + head + aligned)


# Quantizer


class FieldQuantizer:
    """(a): a dataset of items, fetched and collated one by one; positives drawn with a Python loop over the batch."""

    def __init__(self, arrays, labels, like, batch_size):
        self.arrays, self.labels = arrays, labels
        self.members = {name: members_by_label(values.tolist()) for name, values in labels.items()}
        self.model = MacRecQuantizer(like.config).train()
        for module in self.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.__class__ = torch.nn.Linear  # torch's own products
        self.model.set_codebooks(like.codebooks)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batches = forever(torch.utils.data.DataLoader(self, batch_size, shuffle=True))

    def __len__(self):
        return len(self.arrays["text"])

    def __getitem__(self, row):
        embeddings = {name: torch.tensor(array[row]) for name, array in self.arrays.items()}
        labels = {name: int(self.labels[name][row]) for name in embeddings}
        return {"embeddings": embeddings, "pseudo_labels": labels, "items": row}

    def step(self):
        batch = next(self.batches)
        items = batch.pop("items")
        # The forward pass draws its own, by tensor operations: what is timed here is drawing them as the scripts do,
        # for each level with a contrastive loss.
        for _ in range(sum(weight > 0 for weight in self.model.config.contrastive_weights)):
            for name, labels in batch["pseudo_labels"].items():
                self.draw(labels, items, self.members[name])
        self.model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return len(next(iter(batch["embeddings"].values())))


def members_by_label(labels):
    """label → the catalogue's rows that have it."""
    members = {}
    for row, label in enumerate(labels):
        members.setdefault(label, []).append(row)
    return members


def drawn_by_looking_up(labels, items, members):
    """A batch-mate with the same label for each item, found among the catalogue's items that have it."""
    places = {int(item): place for place, item in enumerate(items)}
    positives = []
    for place, label in enumerate(labels):
        mates = [places[item] for item in members[int(label)] if places.get(item, place) != place]
        positives.append(random.choice(mates) if mates else place)
    return torch.tensor(positives)


def drawn_by_searching(labels, *_):
    """A batch-mate with the same label for each item, the labels searched once an item."""
    positives = []
    for place in range(len(labels)):
        mates = [mate for mate in torch.nonzero(labels == labels[place]).flatten().tolist() if mate != place]
        positives.append(random.choice(mates) if mates else place)
    return torch.tensor(positives)


def drawn_by_comparing(labels, *_):
    """The same, the labels of a tensor compared one at a time."""
    positives = []
    for place, own in enumerate(labels):
        mates = [mate for mate, label in enumerate(labels) if label == own and mate != place]
        positives.append(random.choice(mates) if mates else place)
    return torch.tensor(positives)


def flops_of_quantizer(batch, model):
    """Products of one step: encoders and decoders three times (forward and twice backward; the first layer's input
    needs no gradient), nearest codes once, the similarities of the in-batch losses three times."""
    config, total = model.config, 0
    for name, rows in batch["embeddings"].items():
        weights = [module.weight for module in model.quantizers[name].modules() if isinstance(module, torch.nn.Linear)]
        products = sum(2 * len(rows) * weight.numel() for weight in weights)
        total += 3 * products - 2 * len(rows) * weights[0].numel()
        total += config.num_levels * 2 * len(rows) * config.codebook_size * config.codebook_dim
    similarities = 2 * len(rows) ** 2 * config.codebook_dim
    pairs = len(config.modalities) * (len(config.modalities) - 1)
    terms = sum(weight > 0 for weight in config.contrastive_weights) * pairs + pairs
    return total + 3 * terms * similarities


DRAWS |= {"search": drawn_by_searching, "lookup": drawn_by_looking_up, "compare": drawn_by_comparing}

if __name__ == "__main__":
    main()
