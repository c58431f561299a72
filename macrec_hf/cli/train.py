"""`macrec train`: fine-tunes the recommender on the six tasks and writes a whole model directory."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .card import training_facts
from .common import (
    add_config_flags,
    add_training_flags,
    chosen_fields,
    follow,
    last_checkpoint,
    make_output,
    process_state,
    read_bool,
    seconds_since,
    training_settings,
    training_steps,
    write_json,
)
from .inputs import open_semantic_ids, read_pairs, read_titles
from .seeds import FINISHED, is_finished, seed_folder

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict

    from ..data.readers import Histories
    from ..model.configuration_macrec import MacRecConfig
    from ..model.modeling_macrec import MacRecForConditionalGeneration
    from ..model.modeling_macrec_quantizer import MacRecQuantizer
    from ..model.semantic_ids import SemanticIdTable
    from ..model.tokenization_macrec import SemanticIdTokenizer
    from ..training.training_args import MacRecTrainingArguments

HELP = "Trains the recommender on interactions and semantic IDs."
FIELDS = (
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "dropout_rate",
    "attention_dropout_rate",
    "history_dropout_rate",
    "implicit_alignment_weight",
    "alignment_temperature",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interactions", required=True, help="interactions.csv/.jsonl/.parquet, or X.inter.json")
    parser.add_argument(
        "--semantic-ids",
        required=True,
        help="folder of `macrec quantize`, or text=X.index_lemb.json,image=X.index_vitemb.json",
    )
    parser.add_argument("--output", required=True, help="folder for the model directory")
    parser.add_argument(
        "--items", help="items.jsonl, whose titles the model directory keeps to show them (default: none)"
    )
    parser.add_argument(
        "--start-from",
        metavar="MODEL",
        help="model directory whose weights to fine-tune, its catalogue grown or not (default: new weights)",
    )
    parser.add_argument(
        "--tasks", help="names with commas between them (default: all; for two modalities the paper's six)"
    )
    parser.add_argument(
        "--max-history", type=int, default=20, help="items of a history that are read (default: 20; authors' code)"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=10,
        help="stop after so many evaluations without a better NDCG@10; 0 = never (default: 10; authors' code)",
    )
    parser.add_argument(
        "--eval-every",
        type=float,
        default=1.0,
        help="epochs between evaluations on the validation items (default: 1; ours)",
    )
    parser.add_argument(
        "--eval-users",
        type=int,
        default=2000,
        help="validation users to rank, evenly spaced; 0 = all (default: 2000; ours)",
    )
    parser.add_argument(
        "--num-beams", type=int, default=20, help="beam width of the evaluations (default: 20; authors' code)"
    )
    parser.add_argument(
        "--embedding-learning-rate", type=float, help="of the token embeddings (default: --learning-rate)"
    )
    parser.add_argument("--weight-decay", type=float, default=0.01, help="AdamW's weight decay (default: 0.01; ours)")
    parser.add_argument(
        "--warmup", type=float, default=0.05, help="share of the steps with a rising rate (default: 0.05; ours)"
    )
    parser.add_argument(
        "--bf16",
        type=read_bool,
        metavar="true|false",
        help="compute in bfloat16 where that is safe (default: on a CPU that multiplies it, unless accelerate was "
        "told a precision; ours)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="train N models with seeds --seed, --seed + 1, … into seed-<s>/ of --output; with --resume finished ones "
        "are left as they are (default: one model, in --output itself; the paper averages five)",
    )
    parser.add_argument(
        "--license", default="unknown", help="of the weights, for the model card, such as mit (default: unknown)"
    )
    add_training_flags(
        parser,
        epochs=200,
        epochs_source="authors' code, at most",
        batch_size=256,
        batch_source="ours",
        rate=1e-3,
        rate_source="ours",
    )
    add_config_flags(parser, _config_class(), FIELDS, "recommender")


def _config_class() -> type["MacRecConfig"]:
    from ..model.configuration_macrec import MacRecConfig

    return MacRecConfig


def run(args: argparse.Namespace) -> str:
    start, output = time.time(), make_output(args.output)
    if args.seeds is None:
        return train_model(args, output, output / "cache")
    if args.seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {args.seeds}.")
    summaries = []
    for seed in range(args.seed, args.seed + args.seeds):
        folder = make_output(seed_folder(output, seed))
        if not args.resume:
            (folder / FINISHED).unlink(missing_ok=True)
        if not is_finished(folder):
            of_seed = argparse.Namespace(**{**vars(args), "seed": seed})
            summaries.append(train_model(of_seed, folder, output / "cache"))
    if summaries and not summaries[-1]:  # not the main process
        return ""
    kept = f" ({args.seeds - len(summaries)} were finished)" if len(summaries) < args.seeds else ""
    return f"{args.seeds} models{kept} in {seconds_since(start)}: {output}"


def train_model(args: argparse.Namespace, output: Path, cache: Path) -> str:
    """Trains one model into `output`; returns the summary line, empty in other processes than the main one."""
    from transformers import set_seed

    from ..model.tokenization_macrec import SemanticIdTokenizer
    from ..training.trainer_macrec import MacRecTrainer

    start = time.time()
    table = open_semantic_ids(args.semantic_ids)
    tokenizer = SemanticIdTokenizer.from_table(table)
    tasks = build_tasks(args, table, cache)
    histories, counts = read_purchases(args.interactions, table)
    quantizer = quantizer_of(args.semantic_ids)
    set_seed(args.seed)
    model = first_model(args, tokenizer, table)
    config = model.config
    fixed = ("vocab_size", "num_levels", "max_history", *FIELDS)
    checkpoint = last_checkpoint(output / "checkpoints", args.resume, config, fixed)
    trainer = MacRecTrainer(
        model,
        training_arguments(args, len(tasks["train"]), output),
        train_dataset=tasks["train"],
        eval_dataset=tasks["validation"],
        processing_class=tokenizer,
        table=table,
        quantizer=quantizer,
        item_counts=counts,
        item_titles=read_titles(args.items),
    )
    follow(trainer, ["loss", "eval_loss", "eval_hr@10", "eval_ndcg@10"], args.patience)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model_directory(output, training=training_facts(args, trainer, histories), license=args.license)
    if not trainer.is_world_process_zero():
        return ""
    write_json(output / FINISHED, trainer.state.log_history)
    best = trainer.state.best_metric
    found = "" if best is None else f", best validation NDCG@10 {best:.4f}"
    return (
        f"{len(tasks['train'])} examples, {trainer.state.global_step} steps in {seconds_since(start)}{found}: {output}"
    )


def first_model(
    args: argparse.Namespace, tokenizer: "SemanticIdTokenizer", table: "SemanticIdTable"
) -> "MacRecForConditionalGeneration":
    """The model to train: new, or that of `--start-from`."""
    from ..model.model_files import local_directory
    from ..model.modeling_macrec import MacRecForConditionalGeneration

    chosen = chosen_fields(args, FIELDS)
    if args.start_from is None:
        config = _config_class()(
            vocab_size=len(tokenizer), num_levels=table.num_levels, max_history=args.max_history, **chosen
        )
        return MacRecForConditionalGeneration(config)
    if chosen:
        flags = ", ".join("--" + name.replace("_", "-") for name in chosen)
        raise ValueError(
            f"--start-from takes its sizes and rates from the model: expected none of its own, got {flags}."
        )
    model = MacRecForConditionalGeneration.from_pretrained(local_directory(args.start_from))
    if (model.config.vocab_size, model.config.num_levels) != (len(tokenizer), table.num_levels):
        raise ValueError(
            f"--start-from {args.start_from}: expected semantic IDs of the same kind as the model's "
            f"({model.config.vocab_size} tokens, {model.config.num_levels} levels), got {len(tokenizer)} tokens and "
            f"{table.num_levels} levels. IDs of another quantizer need a model of their own: leave --start-from away."
        )
    return model


def build_tasks(args: argparse.Namespace, table: "SemanticIdTable", cache: Path) -> "DatasetDict":
    """Train and validation examples as token ids, cached."""
    from ..data.dataset_builders import RecommendationTasksBuilder

    builder = RecommendationTasksBuilder(
        interactions=args.interactions,
        semantic_ids=table,
        tasks=args.tasks.split(",") if args.tasks else None,
        max_history=args.max_history,
        cache_dir=str(cache),
    )
    with process_state().main_process_first():  # the others read what the main process has cached
        builder.download_and_prepare()
    return builder.as_dataset()


def read_purchases(interactions: str, table: "SemanticIdTable") -> tuple["Histories", "np.ndarray"]:
    """Everybody's history, and how often each item was bought, each user's last purchase left out: it tests."""
    import numpy as np

    from ..data.readers import read_interactions, user_histories
    from ..data.splits import leave_one_out

    histories = user_histories(read_interactions(interactions), table.row_of)
    known, _ = leave_one_out(histories, "test")
    return histories, np.bincount(np.concatenate(known), minlength=table.num_items)


def quantizer_of(semantic_ids: str) -> "MacRecQuantizer | None":
    """The quantizer that stands in a folder of `macrec quantize`; None for other people's IDs."""
    from ..model.modeling_macrec_quantizer import MacRecQuantizer

    folder = None if read_pairs(semantic_ids) else Path(semantic_ids) / "quantizer"
    return MacRecQuantizer.from_pretrained(folder) if folder is not None and folder.is_dir() else None


def training_arguments(args: argparse.Namespace, num_examples: int, output: Path) -> "MacRecTrainingArguments":
    """The trainer's arguments: the checkpoint with the best validation NDCG@10 is kept."""
    from ..training.training_args import MacRecTrainingArguments

    of_an_epoch, steps = training_steps(args, num_examples)
    every = min(steps, max(1, round(of_an_epoch * args.eval_every)))
    return MacRecTrainingArguments(
        weight_decay=args.weight_decay,
        warmup_steps=round(steps * args.warmup),
        logging_steps=max(1, min(50, every // 5)),
        load_best_model_at_end=True,
        generation_num_beams=args.num_beams,
        num_eval_users=args.eval_users or None,
        embedding_learning_rate=args.embedding_learning_rate,
        bf16=args.bf16,
        **training_settings(args, output, every),
    )
