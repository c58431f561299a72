"""The paper's Instruments row on one GPU: `python benchmarks/paper_instruments.py --minutes 60 [--output paper/]`.

Three systems learn the published IDs of `../shared/data/instruments`, or of `--data`, at the paper's size (T5 of 4 + 4
layers, width 128, 6 heads of 64; batches of 1,024), all at once on the device, each in a process of its own:

    TIGER     the text IDs alone, one task
    MQL4GRec  both modalities and six tasks, without the alignment loss
    MACRec    the same with the alignment loss

`--minutes` are the training's; preparing comes before, evaluating after. The learning rate rises and falls by the
clock, so that it ends with the minutes however fast the device is. `--validations` times a validation of 2,000 users
(of the half that may stop a training) chooses the weights; one that is best at the end is marked "still rising".

The table counts items, ties by their expected value, as `macrec evaluate` does. In the same line stands the
string-level HR@10, which counts an ID that several items share as a hit, as the paper does (of the ensemble: an item
with the target's ID in one of the modalities), and the paper's own HR@10 and NDCG@10 (Table 2). Every system leaves in
`--output/SYSTEM` its model with a blend fitted, `report.json`, `lists.jsonl` of a hundred places for
`macrec evaluate --lists`, and a log.

Rehearsed on a CPU by `--device cpu --size small --minutes 1 --users 200`.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAPER = {"TIGER": (0.1221, 0.0950), "MQL4GRec": (0.1291, 0.0997), "MACRec": (0.1363, 0.1046)}  # HR@10, NDCG@10
SIZES = {
    "paper": {},  # the configuration's defaults
    "small": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4},
}
WARM_UP = 0.05  # of the minutes
PLACES = 100


def main():
    args = parse_arguments()
    if args.system:
        learn(args)
        return
    args.output.mkdir(parents=True, exist_ok=True)
    children = {}
    for name in PAPER:
        log = (args.output / f"{name}.log").open("w")
        words = [sys.executable, __file__, "--system", name, *sys.argv[1:]]
        children[name] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    print(f"three trainings of {args.minutes} minutes each, at once: {args.output}/*.log", flush=True)
    failed = [name for name, child in children.items() if child.wait() != 0]
    for name in failed:
        print(f"{name} failed:\n" + "\n".join((args.output / f"{name}.log").read_text().splitlines()[-15:]))
    print_table(args.output, [name for name in PAPER if name not in failed])
    sys.exit(1 if failed else 0)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of training, all systems at once (default 60)")
    parser.add_argument("--output", type=Path, default=Path("paper"), help="folder for it all (default paper)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "instruments")
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--batch-size", type=int, default=1024, help="examples of a step (default 1024: paper)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cuda (default), or cpu to rehearse")
    parser.add_argument("--users", type=int, help="evaluate so many users, evenly spaced (default all)")
    parser.add_argument("--validations", type=int, default=10, help="during the training (default 10)")
    parser.add_argument("--no-blend", dest="blend", action="store_false", help="without a blend and its row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", choices=PAPER, help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args()


def learn(args):
    """One system: trains until the minutes are over, saves the model with a blend, evaluates, writes lists."""
    from macrec_hf import Decoding, MacRecRecommender, read_interactions
    from macrec_hf.evaluation.evaluate import rank_split

    folder = args.output / args.system
    trainer, by_clock = make_trainer(args, folder)
    trainer.train()
    trainer.save_model_directory(folder / "model")
    recommender = MacRecRecommender.from_pretrained(folder / "model", device=args.device)
    interactions = read_interactions(args.data / "Instruments.inter.json")
    if args.blend:
        recommender.fit_blend(interactions)
        recommender.save_pretrained(folder / "model")
    ranking = rank_split(recommender, interactions, "test", Decoding(batch_size=512), limit_users=args.users)
    report = ranking.report()
    best = ranking.columns["shown"]["ensemble"].items if "ensemble" in report else None
    if best is not None:
        report["ensemble"]["string_hr@10"] = shared_hits(recommender.table, best, ranking.users.targets)
    report["training"] = {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "validation": by_clock.curve,
        "still_rising": by_clock.curve[-1] >= max(by_clock.curve),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    make_lists(args, recommender, interactions, folder / "lists.jsonl")


def shared_hits(table, lists, targets):
    """HR@10 of lists of items where each item that has the target's ID in one of the modalities is a hit.

    The modalities' own string-level figures come from the evaluation, which ranks IDs there.
    """
    import numpy as np

    targets, best = np.asarray(targets)[:, None], lists[:, :10]
    hits = best == targets
    for codes in (codes.numpy() for codes in table.codes.values()):
        hits |= (codes[best] == codes[targets]).all(axis=-1) & (best >= 0) & (codes[targets][..., 0] >= 0)
    return float(hits.any(axis=1).mean())


def make_trainer(args, folder):
    import numpy as np
    import torch
    from transformers import set_seed

    from macrec_hf import (
        MacRecConfig,
        MacRecForConditionalGeneration,
        MacRecTrainer,
        MacRecTrainingArguments,
        RecommendationTasksBuilder,
        SemanticIdTable,
        SemanticIdTokenizer,
        read_interactions,
        user_histories,
        validation_halves,
    )

    files = {"text": args.data / "Instruments.index_lemb.json", "image": args.data / "Instruments.index_vitemb.json"}
    table = SemanticIdTable.from_index_json(**({"text": files["text"]} if args.system == "TIGER" else files))
    purchases = args.data / "Instruments.inter.json"
    builder = RecommendationTasksBuilder(str(purchases), table, cache_dir=str(folder / "tasks"))
    builder.download_and_prepare()
    tasks = builder.as_dataset()
    half, _ = validation_halves(user_histories(read_interactions(purchases), table.row_of).user_ids)
    users = np.asarray(tasks["validation"].select_columns("user").with_format("numpy")["user"][:])
    tokenizer = SemanticIdTokenizer.from_table(table)
    alignment = {"implicit_alignment_weight": 0.0} if args.system == "MQL4GRec" else {}
    set_seed(args.seed)
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    arguments = MacRecTrainingArguments(
        str(folder / "training"),
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=512,
        learning_rate=1e-3,
        embedding_learning_rate=1e-2,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.01,
        num_train_epochs=1e6,  # the clock ends it
        eval_strategy="steps",
        eval_steps=10**9,  # the clock says when
        save_strategy="steps",
        save_steps=10**9,
        save_total_limit=1,
        logging_steps=100,
        load_best_model_at_end=True,
        num_eval_users=2000,
        report_to="none",
        seed=args.seed,
        bf16=args.device == "cuda",
        use_cpu=args.device == "cpu",
        dataloader_pin_memory=args.device == "cuda",
        disable_tqdm=True,
    )
    by_clock = clock_callback(60 * args.minutes, args.validations)
    trainer = MacRecTrainer(
        MacRecForConditionalGeneration(MacRecConfig(**tokenizer.config_fields, **SIZES[args.size], **alignment)),
        arguments,
        train_dataset=tasks["train"],
        eval_dataset=tasks["validation"].select(np.flatnonzero(np.isin(users, half))),
        processing_class=tokenizer,
        table=table,
        callbacks=[by_clock],
    )
    return trainer, by_clock


def factor(passed):
    """Of the learning rate after this share of the time: a straight rise, then half a cosine down to 0."""
    if passed < WARM_UP:
        return passed / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (passed - WARM_UP) / (1 - WARM_UP))))


def clock_callback(seconds, validations):
    """Learning rate, validations and the end of a training by the clock, which starts with its first step.

    `curve` holds NDCG@10 of every validation. The time that validations take is a part of the training's.
    """
    from transformers import TrainerCallback

    class ByClock(TrainerCallback):
        def __init__(self):
            self.curve, self.started, self.rates = [], None, None

        def passed(self):
            return (time.monotonic() - self.started) / seconds

        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            if self.started is None:
                self.started, self.rates = time.monotonic(), [group["lr"] for group in optimizer.param_groups]
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor(max(self.passed(), 1e-3))

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = self.passed() >= 1
            due = control.should_training_stop or int(self.passed() * validations) > len(self.curve)
            control.should_evaluate = control.should_save = due

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            self.curve.append(metrics["eval_ndcg@10"])
            figures = f"HR@10 {metrics['eval_hr@10']:.4f}, NDCG@10 {metrics['eval_ndcg@10']:.4f}"
            minutes = (time.monotonic() - self.started) / 60
            print(f"step {state.global_step}, {minutes:.1f} minutes: validation {figures}", flush=True)

    return ByClock()


def make_lists(args, recommender, interactions, path):
    """A hundred places of each user by the model alone, the form that the blend of other programs can take."""
    import numpy as np

    from macrec_hf import leave_one_out, user_histories, write_lists

    table = recommender.table
    histories = user_histories(interactions, table.row_of)
    known, _ = leave_one_out(histories, "test")
    chosen = np.unique(np.linspace(0, len(known) - 1, args.users or len(known)).astype(int))
    asked = [[table.item_ids[row] for row in known[user]] for user in chosen]
    found = recommender.recommend(asked, top_k=PLACES, num_beams=PLACES, fusion="average")
    lists = np.full((len(asked), PLACES), -1)
    for row, ranked in zip(lists, found, strict=True):
        items = [table.row_of[item] for item, _ in ranked]
        row[: len(items)] = items
    write_lists(path, [histories.user_ids[user] for user in chosen], lists, table.item_ids)


def print_table(output, names):
    print(f"{'':22}{'HR@10':>9}{'string':>9}{'NDCG@10':>9}{'paper HR@10':>13}{'NDCG@10':>9}")
    for name in names:
        report = json.loads((output / name / "report.json").read_text())
        training = report["training"]
        for row in [*report["model_rows"], "item_regression", "co_occurrence"]:
            figures = report[row]
            string = f"{figures['string_hr@10']:.4f}" if "string_hr@10" in figures else "–"
            paper = PAPER[name] if row == {"TIGER": "text"}.get(name, "ensemble") else None
            theirs = f"{paper[0]:>13.4f}{paper[1]:>9.4f}" if paper else ""
            print(f"{name + ' ' + row:22}{figures['hr@10']:>9.4f}{string:>9}{figures['ndcg@10']:>9.4f}{theirs}")
        print(f"  {training['steps']} steps, {training['epochs']:.1f} epochs"
              + (", NOT CONVERGED: validation was still rising" if training["still_rising"] else ""))  # fmt: skip


if __name__ == "__main__":
    main()
