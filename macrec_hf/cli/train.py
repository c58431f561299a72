"""`macrec train`: fine-tunes the recommender on the six tasks and writes a whole model directory."""

import math
import time
from pathlib import Path

from .common import (
    add_config_flags,
    add_training_flags,
    chosen_fields,
    last_checkpoint,
    make_output,
    progress_callback,
    read_pairs,
    read_titles,
    seconds_since,
    write_json,
)

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
    "implicit_alignment_weight",
    "alignment_temperature",
)


def add_arguments(parser) -> None:
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
    parser.add_argument("--weight-decay", type=float, default=0.01, help="AdamW's weight decay (default: 0.01; ours)")
    parser.add_argument(
        "--warmup", type=float, default=0.05, help="share of the steps with a rising rate (default: 0.05; ours)"
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


def _config_class():
    from ..configuration_macrec import MacRecConfig

    return MacRecConfig


def open_semantic_ids(argument: str):
    """The table behind `--semantic-ids`."""
    from ..semantic_ids import SemanticIdTable

    pairs = read_pairs(argument)
    return SemanticIdTable.from_pretrained(argument) if pairs is None else SemanticIdTable.from_index_json(**pairs)


def run(args) -> str:
    from transformers import EarlyStoppingCallback, set_seed

    from ..modeling_macrec import MacRecForConditionalGeneration
    from ..tokenization_macrec import SemanticIdTokenizer
    from ..trainer_macrec import MacRecTrainer

    start, output = time.time(), make_output(args.output)
    table, titles = open_semantic_ids(args.semantic_ids), read_titles(args.items)
    tokenizer = SemanticIdTokenizer.from_table(table)
    tasks = build_tasks(args, table, output)
    set_seed(args.seed)
    config = _config_class()(
        vocab_size=len(tokenizer),
        num_levels=table.num_levels,
        max_history=args.max_history,
        **chosen_fields(args, FIELDS),
    )
    trainer = MacRecTrainer(
        MacRecForConditionalGeneration(config),
        training_arguments(args, len(tasks["train"]), output),
        train_dataset=tasks["train"],
        eval_dataset=tasks["validation"],
        processing_class=tokenizer,
        table=table,
        num_eval_users=args.eval_users or None,
    )
    progress_callback(trainer, ["loss", "eval_loss", "eval_hr@10", "eval_ndcg@10"])
    if args.patience:
        trainer.add_callback(EarlyStoppingCallback(args.patience))
    trainer.train(resume_from_checkpoint=last_checkpoint(output / "checkpoints", args.resume))
    if not trainer.is_world_process_zero():
        return ""
    write_model(args, trainer, table, tokenizer, titles, output)
    best = trainer.state.best_metric
    found = "" if best is None else f", best validation NDCG@10 {best:.4f}"
    return (
        f"{len(tasks['train'])} examples, {trainer.state.global_step} steps in {seconds_since(start)}{found}: {output}"
    )


def build_tasks(args, table, output: Path):
    """Train and validation examples as token ids, cached under the output folder."""
    from ..dataset_builders import RecommendationTasksBuilder

    builder = RecommendationTasksBuilder(
        interactions=args.interactions,
        semantic_ids=table,
        tasks=args.tasks.split(",") if args.tasks else None,
        max_history=args.max_history,
        cache_dir=str(output / "cache"),
    )
    builder.download_and_prepare()
    return builder.as_dataset()


def training_arguments(args, num_examples: int, output: Path):
    """Trainer's arguments: the checkpoint with the best validation NDCG@10 is kept."""
    from transformers import Seq2SeqTrainingArguments

    epochs = args.epochs if args.epochs is not None else args.default_epochs
    steps_per_epoch = math.ceil(num_examples / args.batch_size)
    steps = args.max_steps or math.ceil(steps_per_epoch * epochs)
    every = min(steps, max(1, round(steps_per_epoch * args.eval_every)))
    return Seq2SeqTrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=epochs,
        max_steps=args.max_steps or -1,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=round(steps * args.warmup),
        seed=args.seed,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, min(50, every // 5)),
        load_best_model_at_end=True,
        metric_for_best_model="ndcg@10",
        greater_is_better=True,
        generation_num_beams=args.num_beams,
        report_to="none",
        dataloader_pin_memory=False,
    )


def write_model(args, trainer, table, tokenizer, titles, output: Path) -> None:
    """The whole model directory, the quantizer beside it where `--semantic-ids` has one."""
    import numpy as np

    from ..model_directory import save_model_directory
    from ..modeling_macrec_quantizer import MacRecQuantizer
    from ..readers import leave_one_out, read_interactions, user_histories

    folder = None if read_pairs(args.semantic_ids) else Path(args.semantic_ids) / "quantizer"
    quantizer = MacRecQuantizer.from_pretrained(folder) if folder is not None and folder.is_dir() else None
    histories = user_histories(read_interactions(args.interactions), table.row_of)
    known, _ = leave_one_out(histories, "test")
    counts = np.bincount(np.concatenate(known), minlength=table.num_items)
    save_model_directory(
        output,
        model=trainer.model.eval(),
        tokenizer=tokenizer,
        table=table,
        quantizer=quantizer,
        item_counts=counts,
        item_titles=titles,
    )
    write_json(output / "training_log.json", trainer.state.log_history)
