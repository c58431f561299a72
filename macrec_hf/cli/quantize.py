"""`macrec quantize`: trains the quantizer, resolves collisions, writes the table and the quantizer."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.sizes import QuantizerSizes, quantizer_sizes
from .common import (
    add_config_flags,
    check_writable,
    chosen_fields,
    follow,
    named_device,
    num_processes,
    process_state,
    seconds_since,
    write_json,
)
from .inputs import add_interaction_columns, add_until, interaction_columns, open_embeddings, sold_part
from .next_steps import after_quantize
from .numbers import whole
from .run_folder import FINISHED, begin, finish, finished_before, last_checkpoint, open_run
from .sizing import add_size_flag, sizes_line, with_sizes
from .trainer_flags import (
    add_trainer_flags,
    checked_arguments,
    defaults_of,
    settings_of_run,
    training_settings,
    training_steps,
)

if TYPE_CHECKING:
    from ..catalogue.embedding_store import EmbeddingStore
    from ..model.configuration_macrec import MacRecQuantizerConfig
    from ..model.modeling_macrec_quantizer import MacRecQuantizer
    from ..model.semantic_ids import SemanticIdTable
    from ..training.training_args import MacRecQuantizerTrainingArguments

HELP = "Trains the cross-modal quantizer on a catalogue's embeddings and gives every item its semantic IDs."
RESULT = "semantic_ids.json"
_OTHERS = ("semantic_ids.*", "checksums.json", "quantizer")
_UNTRAINED = ("num_levels", "codebook_size")  # the fields of a quantizer that nothing is trained for
_TAKEN_UNTRAINED = (
    "embeddings", "item_ids", "output", "overwrite", "modalities", "method", "size", "seed", *_UNTRAINED,
)  # fmt: skip
_OF_ITEMS = ("interactions", "until", "user_column", "item_column", "time_column")
FIELDS = (
    "num_levels",
    "codebook_size",
    "codebook_dim",
    "hidden_sizes",
    "dropout",
    "num_pseudo_labels",
    "commitment_weight",
    "contrastive_weights",
    "alignment_weight",
    "contrastive_temperature",
    "contrastive_normalize",
)
SIZED = tuple(field.name for field in dataclasses.fields(QuantizerSizes))
_FASTER = "--epochs lowered, --hidden-sizes narrower, fewer --num-levels, or a GPU (--device cuda)"
_EVERY = dict.fromkeys(("eval_strategy", "eval_steps", "save_strategy", "save_steps"), "use --evaluations")
_UPLOADS = dict.fromkeys(
    (
        "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision",
    ),
    "macrec train uploads the model with its semantic IDs and quantizer; for these alone: hf upload USER/NAME FOLDER",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embeddings", required=True, help="folder of `macrec embed`, or text=a.npy,image=b.npy")
    parser.add_argument("--item-ids", help="JSON list of item ids, a row each, for .npy files (default: the folder's)")
    parser.add_argument("--output", required=True, help="folder for the semantic IDs and the quantizer")
    add_until(parser, "codes")
    add_interaction_columns(parser)
    parser.add_argument(
        "--modalities", help="use only these, in this order: text,image (default: all of --embeddings)"
    )
    parser.add_argument(
        "--method",
        choices=("macrec", "residual-kmeans"),
        default="macrec",
        help="macrec: the trained quantizer; residual-kmeans: k-means on the embeddings and what each level leaves "
        "over, without any training (default: macrec; paper)",
    )
    parser.add_argument(
        "--patience",
        type=whole(0),
        default=0,
        help="stop after so many evaluations without a lower reconstruction loss, in the last fifth of the steps; the "
        "learning rate falls over all that are planned (default: 0 = never; ours)",
    )
    parser.add_argument(
        "--health-page",
        metavar="FILE.html",
        help="page of `macrec doctor`, written anew at each evaluation, its figures beside it as JSON (default: none)",
    )
    parser.add_argument(
        "--evaluations", type=whole(1), default=20, help="evaluations during training (default: 20; ours)"
    )
    add_size_flag(parser)
    add_trainer_flags(parser, "MacRecQuantizerTrainingArguments", _EVERY | _UPLOADS, SIZED)
    add_config_flags(parser, "MacRecQuantizerConfig", FIELDS, "quantizer", SIZED)


def _config_class() -> type["MacRecQuantizerConfig"]:
    from ..model.configuration_macrec import MacRecQuantizerConfig

    return MacRecQuantizerConfig


def _arguments_class() -> type["MacRecQuantizerTrainingArguments"]:
    from ..training.training_args import MacRecQuantizerTrainingArguments

    return MacRecQuantizerTrainingArguments


def run(args: argparse.Namespace) -> str:
    return cluster(args) if args.method == "residual-kmeans" else train(args)


def train(args: argparse.Namespace) -> str:
    """The trained quantizer."""
    import torch
    from transformers import set_seed

    from ..catalogue.collision_resolution import check_space
    from ..catalogue.indexing import build_semantic_ids
    from ..doctor.health_callback import CodebookHealthCallback
    from ..model.modeling_macrec_quantizer import MacRecQuantizer
    from ..training.trainer_quantizer import MacRecQuantizerTrainer

    check_writable(args.health_page)
    named_device(args)  # refused before the work
    start, output = args.started, open_run(args, Path(args.output), RESULT, _OTHERS)
    whole = open_embeddings(args)
    store, until = sold_part(whole, args)
    given, args = args, sized(args, store, len(whole))
    set_seed(args.seed)
    config = _config_class()(modalities=store.modalities, **chosen_fields(args, FIELDS))
    for name in store.modalities:  # before the training rather than after it
        check_space(int(whole.present[name].sum()), 0, config.num_levels, config.codebook_size)
    arguments = training_arguments(args, len(store), output)
    settings = settings_of_run(args, _arguments_class()) | {name: getattr(config, name) for name in FIELDS}
    settings |= {"method": args.method, **settings_of_items(args, whole)}
    if finished_before(output, settings, args.resume, arguments.distributed_state):
        return f"Finished before, nothing to do: {output}" if arguments.process_index == 0 else ""
    checkpoint = last_checkpoint(output, args.resume, settings)
    model = MacRecQuantizer(config)
    trainer = MacRecQuantizerTrainer(model, arguments, train_dataset=store)
    trainer.run_settings = settings
    sizes = sizes_line(args, given, SIZED, f"{len(store):,} items")
    shown = ["loss", "eval_collision_rate", "eval_reconstruction_loss"]
    follow(trainer, shown, len(store), args.patience, sizes, _FASTER)
    if args.health_page:
        trainer.add_callback(CodebookHealthCallback(args.health_page))
    begin(output, arguments.distributed_state, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    quantizer = trainer.accelerator.unwrap_model(trainer.model).eval()
    with torch.no_grad():
        table = build_semantic_ids(quantizer, store, None, accelerator=trainer.accelerator)
    if table is not None:  # the main process
        table = with_later_items(table, quantizer, whole, until)
        write_all(output, table, quantizer, whole, trainer.state.global_step)
    finish(output, trainer, settings, args.keep_checkpoints)
    return "" if table is None else f"{summary(table, output, start)}\n{after_quantize(given)}"


def cluster(args: argparse.Namespace) -> str:
    """Residual k-means: the main process does all of it."""
    from ..catalogue.collision_resolution import check_space
    from ..catalogue.indexing import build_semantic_ids
    from ..catalogue.residual_kmeans import residual_kmeans

    refuse_training_flags(args)
    if not process_state("cpu").is_main_process:
        return ""
    output, whole = open_run(args, Path(args.output), RESULT, _OTHERS), open_embeddings(args)
    store, until = sold_part(whole, args)
    args = sized(args, store, len(whole))
    config = _config_class()(method=args.method, modalities=store.modalities, **chosen_fields(args, _UNTRAINED))
    for name in store.modalities:  # before the work rather than after it
        check_space(int(whole.present[name].sum()), 0, config.num_levels, config.codebook_size)
    begin(output, process_state("cpu"), None)
    quantizer = residual_kmeans(store, config.num_levels, config.codebook_size, args.seed)
    table = with_later_items(build_semantic_ids(quantizer, store), quantizer, whole, until)
    write_all(output, table, quantizer, whole, steps=0)
    settings = {name: getattr(config, name) for name in _UNTRAINED} | {"method": args.method, "seed": args.seed}
    settings |= settings_of_items(args, whole)
    write_json(output / FINISHED, [{"step": 0, "epoch": 0, "settings": settings, "keep_checkpoints": False}])
    return f"{summary(table, output, args.started)}\n{after_quantize(args)}"


def refuse_training_flags(args: argparse.Namespace) -> None:
    """Refuses what says how to train; a flag that repeats its default asks for nothing."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [
        action.option_strings[0]
        for action in parser._actions
        if action.dest not in (*_TAKEN_UNTRAINED, *_OF_ITEMS)
        and getattr(args, action.dest, action.default) != action.default
    ]
    if given:
        taken = ", ".join("--" + name.replace("_", "-") for name in _TAKEN_UNTRAINED if name != "method")
        raise ValueError(
            f"--method residual-kmeans: expected no flag of a training, got {', '.join(given)}. It takes {taken}. "
            "Leave the others out, or did you mean --method macrec?"
        )


def settings_of_items(args: argparse.Namespace, store: "EmbeddingStore") -> dict[str, Any]:
    """`{flag: value}` of what the quantizer learns from, the files by their contents."""
    from ..data.table_files import file_digest

    sold = {} if args.until is None else {"interactions": file_digest(args.interactions), **interaction_columns(args)}
    every = {"every_embedding": store.fingerprint(every_row=True), "encoders": store.encoders}
    return {"embeddings": store.fingerprint(), **every, "until": args.until, **sold}


def with_later_items(
    table: "SemanticIdTable", quantizer: "MacRecQuantizer", store: "EmbeddingStore", until: str | None
) -> "SemanticIdTable":
    """The table with the store's other items too, by [`add_items`], in the store's order.

    `report[modality]` stays about the items that were learned from; "later_items" in it is about the others.

    Args:
        until: the day before which the items were sold that were learned from, kept in the report; None: all are.
    """
    import numpy as np

    from ..catalogue.indexing import add_items
    from ..data.learned_purchases import FITTED_UNTIL
    from ..model.semantic_ids import SemanticIdTable

    rows = [row for row, item in enumerate(store.item_ids) if item not in table.row_of]
    for report in table.report.values() if until is not None else ():
        report[FITTED_UNTIL] = until
    if not rows:
        return table
    grown = add_items(table, quantizer, store.take(rows))
    order = np.array([grown.row_of[item] for item in store.item_ids])
    codes = {name: grown.codes[name][order] for name in grown.modalities}
    whole = SemanticIdTable(store.item_ids, codes, grown.codebook_size)
    whole.report = {name: report | {"later_items": grown.report[name]} for name, report in table.report.items()}
    return whole


def write_all(
    output: Path, table: "SemanticIdTable", quantizer: "MacRecQuantizer", store: "EmbeddingStore", steps: int
) -> None:
    """Semantic IDs and the quantizer, which learns what it was made of, and how it went."""
    from ..catalogue.ids_folder import write_ids

    quantizer.config.embeddings_fingerprint = store.fingerprint()
    quantizer.config.encoders = store.encoders
    write_ids(output, table, quantizer, {"collisions": table.report, "steps": steps})


def sized(args: argparse.Namespace, store: "EmbeddingStore", num_all: int) -> argparse.Namespace:
    """The flags with those that `--size` chooses: by the items that are learned from, with IDs enough for all."""
    auto = quantizer_sizes(
        len(store),
        store.modalities,
        num_processes(),
        codebook_size=args.codebook_size,
        num_later_items=num_all - len(store),
    )
    return with_sizes(args, dataclasses.asdict(auto), defaults_of(_arguments_class(), SIZED))


def training_arguments(args: argparse.Namespace, num_items: int, output: Path) -> "MacRecQuantizerTrainingArguments":
    """The trainer's arguments: the last weights are kept.

    Not those of the lowest collision rate: k-means seeds spread the codes before anything is learned, and training
    brings alike items together, so that rate is often lowest at the first checkpoint.
    """
    _, steps = training_steps(args, num_items)
    every = max(1, steps // max(1, args.evaluations))
    settings: dict[str, Any] = {"logging_steps": max(1, every // 5)}
    settings |= training_settings(args, _arguments_class(), output, num_items, every)
    return checked_arguments(_arguments_class(), settings)


def summary(table: "SemanticIdTable", output: Path, start: float) -> str:
    parts = [
        f"{name} {100 * report['collision_rate_before']:.2f} % → {100 * report['collision_rate_after']:.2f} %"
        for name, report in table.report.items()
    ]
    return f"{table.num_items} items in {seconds_since(start)}, collision rate {', '.join(parts)}: {output}"
