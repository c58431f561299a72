"""`macrec train`: fine-tunes the recommender on the six tasks and writes a whole model directory."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.sizes import RecommenderSizes, recommender_sizes
from .card import training_facts
from .common import (
    add_config_flags,
    chosen_fields,
    follow,
    named_device,
    num_processes,
    process_state,
    seconds_since,
)
from .dates import has_later, note_dates, note_fitted, said_of_ids
from .inputs import (
    add_interaction_columns,
    add_title_column,
    digest_of_weights,
    interaction_columns,
    quantizer_folder,
    read_titles,
    table_and_quantizer,
)
from .next_steps import after_train, best_checkpoint
from .numbers import number, whole
from .run_folder import EXAMPLES, begin, finish, finished_before, last_checkpoint, model_written, open_run, preparing
from .seeds import seed_folder
from .sizing import add_size_flag, sizes_line, with_sizes
from .start_from import check_same_ids, first_model
from .trainer_flags import (
    add_trainer_flags,
    checked_arguments,
    defaults_of,
    settings_of_run,
    training_settings,
    training_steps,
)
from .training_purchases import fingerprints_of, learned_numbers, read_purchases

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from ..data.histories import Histories
    from ..model.configuration_macrec import MacRecConfig
    from ..model.semantic_ids import SemanticIdTable
    from ..model.tokenization_macrec import SemanticIdTokenizer
    from ..training.trainer_macrec import MacRecTrainer
    from ..training.training_args import MacRecTrainingArguments

HELP = "Trains the recommender on interactions and semantic IDs."
RESULT = "config.json"
# Of a model directory; what it may lack is listed where it is saved.
_SAVED = ("semantic_ids.json", "semantic_ids.safetensors", "README.md", "checksums.json", "tokenizer.json",
          "tokenizer_config.json", "generation_config.json", "training_log.json")  # fmt: skip
FIELDS = (
    "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "num_item_positions",
    "copy_initializer_factor", "dropout_rate", "attention_dropout_rate", "history_dropout_rate",
    "implicit_alignment_weight", "alignment_temperature",
)  # fmt: skip
SIZED = tuple(field.name for field in dataclasses.fields(RecommenderSizes))
_FASTER = (
    "--epochs lowered, --d-model, --d-ff, --num-layers and --num-decoder-layers smaller, a shorter --max-history, "
    "a lower --cross-modal-rate, fewer --tasks, or a GPU (--device cuda)"
)
_EVERY = dict.fromkeys(("eval_strategy", "eval_steps", "save_strategy", "save_steps"), "use --eval-every")
_UPLOADS = dict.fromkeys(
    ("hub_strategy", "hub_always_push"), "macrec train uploads the whole model directory, once, at its end"
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
    add_interaction_columns(parser, "--interactions and --items")
    add_title_column(parser)
    parser.add_argument(
        "--start-from",
        metavar="MODEL",
        help="model directory whose weights to fine-tune, its catalogue grown or not (default: new weights)",
    )
    parser.add_argument(
        "--until", metavar="DATE",
        help="learn from the purchases before that day alone, the latest fifth of which validates, for `macrec "
        "evaluate --split time --cut DATE` (default: none, leave-one-out)",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", help="names with commas between them (default: all; for two modalities the paper's six)"
    )
    parser.add_argument(
        "--patience",
        type=whole(0),
        default=10,
        help="stop after so many evaluations without a better NDCG@10, in the last fifth of the steps; 0 = never "
        "(default: 10; authors' code)",
    )
    parser.add_argument(
        "--eval-every",
        type=number(0, above=True),
        help="epochs between evaluations on the validation items (default: by --size, a tenth of them and at least 1, "
        "or 1; ours)",
    )
    parser.add_argument(
        "--seeds",
        type=whole(1),
        metavar="N",
        help="train N models with seeds --seed, --seed + 1, … into seed-<s>/ of --output; with --resume finished ones "
        "are left as they are (default: one model, in --output itself; the paper averages five)",
    )
    parser.add_argument(
        "--license", default="unknown", help="of the weights, for the model card, such as mit (default: unknown)"
    )
    add_size_flag(parser)
    add_trainer_flags(parser, "MacRecTrainingArguments", _EVERY | _UPLOADS, SIZED)
    add_config_flags(parser, "MacRecConfig", ("max_history", *FIELDS), "recommender", SIZED)


def _config_class() -> type["MacRecConfig"]:
    from ..model.configuration_macrec import MacRecConfig

    return MacRecConfig


def _arguments_class() -> type["MacRecTrainingArguments"]:
    from ..training.training_args import MacRecTrainingArguments

    return MacRecTrainingArguments


def run(args: argparse.Namespace) -> str:
    from ..hub.saving import parts_that_may_be_absent
    from ..training.checkpoints import discard

    named_device(args)  # refused before the work
    start, output = args.started, Path(args.output)
    if args.seeds is not None and getattr(args, "push_to_hub", False):
        raise ValueError(
            "--push-to-hub: expected one model, got --seeds, whose models would lie on top of each other in one "
            "repository. Leave one of the two away; hf upload USER/NAME FOLDER uploads the model that you choose."
        )
    others = (*_SAVED, *parts_that_may_be_absent())
    open_run(args, output, RESULT, others if args.seeds is None else ())
    folders = {args.seed: output}
    if args.seeds is not None:
        seeds = range(args.seed, args.seed + args.seeds)
        folders = {seed: open_run(args, seed_folder(output, seed), RESULT, others) for seed in seeds}
    summaries = [
        train_model(argparse.Namespace(**{**vars(args), "seed": seed}), folder, output / EXAMPLES)
        for seed, folder in folders.items()
    ]
    state = process_state(named_device(args))
    state.wait_for_everyone()
    if not state.is_main_process:
        return ""
    discard(output / EXAMPLES)
    trained = [summary for summary in summaries if summary is not None]
    if not trained:
        return f"Finished before, nothing to do: {output}"
    if args.seeds is None:
        return trained[0]
    kept = f" ({args.seeds - len(trained)} were finished)" if len(trained) < args.seeds else ""
    return f"{args.seeds} models{kept} in {seconds_since(start)}: {output}\n{after_train(args)}"


def train_model(args: argparse.Namespace, output: Path, examples: Path) -> str | None:
    """Trains one model into `output`.

    Returns:
        The summary line; `None` where this run was finished before.
    """
    import numpy as np
    from transformers import set_seed

    from ..model.model_files import local_directory
    from ..model.tokenization_macrec import SemanticIdTokenizer
    from ..training.blend_purchases import hides_history
    from ..training.cross_modal_rows import examples_of_an_epoch
    from ..training.trainer_macrec import MacRecTrainer

    start = args.started
    table, quantizer = table_and_quantizer(args.semantic_ids)
    tokenizer = SemanticIdTokenizer.from_table(table)
    start_from = None if args.start_from is None else local_directory(args.start_from)
    titles = read_titles(args.items, (args.item_column, "item_id"), args.title_column, table.item_ids, needed=True)
    histories, known = read_purchases(args, table)
    hides = hides_history(histories)
    given, args = args, sized(args, histories, table, bought_again=not hides)
    config = chosen_config(args, start_from, tokenizer, table)
    settings = settings_of_model(args, config, table, start_from)
    longer = f"--start-from {output} with another --output trains the model further. "
    state = process_state(named_device(args))
    if finished_before(output, settings, args.resume, state, longer):
        return None
    checkpoint = last_checkpoint(output, args.resume, settings)
    with preparing(examples, state):
        tasks = build_tasks(args, table, examples, config.max_history)
        dates = note_dates(args, config, histories)
        config.hides_history = hides
        set_seed(args.seed)
        num_examples = examples_of_an_epoch(tasks["train"], table.modalities, args.cross_modal_rate)
        trainer = MacRecTrainer(
            first_model(config, start_from),
            training_arguments(args, num_examples, output),
            train_dataset=tasks["train"],
            eval_dataset=choosing_users(tasks["validation"], histories.user_ids),
            processing_class=tokenizer,
            table=table,
            quantizer=quantizer,
            item_counts=np.bincount(np.concatenate(known), minlength=table.num_items),
            item_titles=titles,
        )
        trainer.run_settings = settings
    users, purchases, _ = learned_numbers(histories)
    data = f"{users:,} users with {purchases:,} purchases" + ("" if hides else ", repeats among them")
    sizes = sizes_line(args, given, SIZED, data)
    if dates:
        note_fitted(table, args.semantic_ids, dates["trained_until"])
        sizes += (
            f" Purchases before {dates['validates_from']} train, later ones before {dates['trained_until']} validate."
            + said_of_ids(table, dates["trained_until"])
        )
    learned = fingerprints_of(known, histories, table, start_from)
    if learned is None:
        sizes += (
            f" Whether {args.start_from} was trained on what will test this model is not known, and no evaluation can "
            "tell."
        )
    if not has_later(histories):
        sizes += f" There are none from {args.until} on, so nothing to evaluate with yet."
    shown = ["loss", "eval_loss", "eval_hr@10", "eval_ndcg@10"]
    follow(trainer, shown, num_examples, args.patience, sizes, _FASTER)
    begin(output, state, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    about = {"training": training_facts(args, trainer, histories), "license": args.license}
    with model_written(output, trainer.accelerator) as beside:
        trainer.save_model_directory(beside, learned_histories=learned, **about)
        blended = blend_sentence(args, beside, trainer, settings["interactions"])
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**about)
        blended += (
            f"\n{trainer.hub_model_id} has no counts of purchases and no blend, which are customers' data: lists are "
            "the model's own there. MacRecRecommender.push_to_hub uploads them with counts='rounded' or 'all'."
        )
    finish(output, trainer, settings | dates, args.keep_checkpoints)
    trained = f"{num_examples:,} examples, {trainer.state.global_step:,} steps in {seconds_since(start)}"
    following = after_train(args, table.item_ids[:2], has_later(histories))
    return f"{trained}{best_checkpoint(trainer.state)}: {output}{blended}\n{following}"


def blend_sentence(args: argparse.Namespace, output: Path, trainer: "MacRecTrainer", learned: str) -> str:
    """Fits the blend of a model directory; returns a line about it.

    Args:
        learned: digest of the interactions that the model was trained on.
    """
    from ..data.readers import read_interactions
    from ..data.table_files import file_digest
    from ..training.blend_fitting import blend_directory, blend_line

    if file_digest(args.interactions) != learned:
        return (
            f"\nno blend: {args.interactions} was changed while the model was trained. `macrec blend` fits one, from "
            "the file that the model has learned."
        )
    interactions = read_interactions(args.interactions, **interaction_columns(args))
    return "\nVerdict: " + blend_line(blend_directory(output, interactions, trainer.accelerator))


def sized(
    args: argparse.Namespace, histories: "Histories", table: "SemanticIdTable", bought_again: bool
) -> argparse.Namespace:
    """The flags with those that `--size` chooses; of a model that is trained further only those of the training."""
    from ..model.tokenization_macrec import all_tasks

    tasks = all_tasks(table.modalities)
    chosen = [name.strip() for name in args.tasks.split(",")] if args.tasks else list(tasks)
    crossing = sum(tasks[name].token is not None for name in chosen if name in tasks)
    users, purchases, held_out = learned_numbers(histories)
    sizes = recommender_sizes(
        users, purchases, len(chosen), num_processes(),
        num_cross_modal=crossing, num_held_out=held_out, bought_again=bought_again,
    )  # fmt: skip
    auto = dataclasses.asdict(sizes) if args.start_from is None else sizes.arguments
    return with_sizes(args, auto, defaults_of(_arguments_class(), SIZED))


def chosen_config(
    args: argparse.Namespace, start_from: Path | None, tokenizer: "SemanticIdTokenizer", table: "SemanticIdTable"
) -> "MacRecConfig":
    """The configuration of the model to train: by the flags, or that of `--start-from`."""
    chosen = chosen_fields(args, FIELDS)
    if start_from is None:
        history = chosen_fields(args, ["max_history"])
        return _config_class()(vocab_size=len(tokenizer), num_levels=table.num_levels, **history, **chosen)
    if chosen:
        flags = ", ".join("--" + name.replace("_", "-") for name in chosen)
        raise ValueError(
            f"--start-from takes its sizes and rates from the model: expected none of its own, got {flags}."
        )
    from ..model.semantic_ids import SemanticIdTable

    config = _config_class().from_pretrained(start_from)
    if (config.vocab_size, config.num_levels) != (len(tokenizer), table.num_levels):
        raise ValueError(
            f"--start-from {args.start_from}: expected semantic IDs of the same kind as the model's "
            f"({config.vocab_size} tokens, {config.num_levels} levels), got {len(tokenizer)} tokens and "
            f"{table.num_levels} levels. IDs of another quantizer need a model of their own: leave --start-from away."
        )
    check_same_ids(SemanticIdTable.from_pretrained(start_from), table, args.start_from)
    if args.max_history is not None:
        config.max_history = args.max_history
    return config


def settings_of_model(
    args: argparse.Namespace, config: "MacRecConfig", table: "SemanticIdTable", start_from: Path | None
) -> dict[str, Any]:
    """`{flag: value}` of what decides on the model, the files by their contents."""
    from ..data.table_files import file_digest

    fields = {name: getattr(config, name) for name in ("max_history", *FIELDS)}
    ids = quantizer_folder(args.semantic_ids)
    inputs: dict[str, Any] = {"interactions": file_digest(args.interactions), "semantic_ids": table.fingerprint()}
    inputs |= {"quantizer": digest_of_weights(ids), "start_from": digest_of_weights(start_from)}
    given = {name: getattr(args, name) for name in ("tasks", "until", "eval_every")}
    return settings_of_run(args, _arguments_class()) | fields | inputs | given | interaction_columns(args)


def build_tasks(args: argparse.Namespace, table: "SemanticIdTable", folder: Path, max_history: int) -> "DatasetDict":
    """Train and validation examples as token ids, kept in `folder`."""
    from ..data.dataset_builders import RecommendationTasksBuilder

    builder = RecommendationTasksBuilder(
        interactions=args.interactions,
        semantic_ids=table,
        tasks=args.tasks.split(",") if args.tasks else None,
        max_history=max_history,
        cache_dir=str(folder),
        until=args.until,
        **interaction_columns(args),
    )
    with process_state(named_device(args)).main_process_first():  # the others read what the main process has cached
        builder.download_and_prepare()
    return builder.as_dataset()


def choosing_users(validation: "Dataset", user_ids: list[str]) -> "Dataset":
    """The rows of the half of the validation users that stops the training; the other half stays for later fits."""
    import numpy as np

    from ..data.splits import validation_halves

    half, _ = validation_halves(user_ids)
    users = validation.select_columns("user").with_format("numpy")["user"][:]
    return validation.select(np.flatnonzero(np.isin(users, half)))


def training_arguments(args: argparse.Namespace, num_examples: int, output: Path) -> "MacRecTrainingArguments":
    """The trainer's arguments: the checkpoint with the best validation NDCG@10 is kept."""
    of_an_epoch, steps = training_steps(args, num_examples)
    epochs = args.eval_every or (1.0 if args.size == "paper" else max(1.0, steps / of_an_epoch / 10))
    every = min(steps, max(1, round(of_an_epoch * epochs)))
    settings: dict[str, Any] = {
        "load_best_model_at_end": True,
        "logging_steps": max(1, min(50, every // 5)),
        "hub_model_id": output.absolute().name,
        "hub_strategy": "end",
    }
    settings |= training_settings(args, _arguments_class(), output, num_examples, every)
    return checked_arguments(_arguments_class(), settings | {"num_eval_users": args.eval_users or None})
