"""`macrec quantize`: trains the quantizer, resolves collisions, writes the table and the quantizer."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_config_flags,
    check_writable,
    chosen_fields,
    follow,
    make_output,
    named_device,
    seconds_since,
    write_json,
)
from .inputs import open_embeddings
from .run_folder import finish, finished_before, last_checkpoint
from .trainer_flags import add_trainer_flags, settings_of_run, training_settings, training_steps

if TYPE_CHECKING:
    from ..model.configuration_macrec import MacRecQuantizerConfig
    from ..model.semantic_ids import SemanticIdTable
    from ..training.training_args import MacRecQuantizerTrainingArguments

HELP = "Trains the cross-modal quantizer on a catalogue's embeddings and gives every item its semantic IDs."
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
    parser.add_argument(
        "--modalities", help="use only these, in this order: text,image (default: all of --embeddings)"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=0,
        help="stop after so many evaluations without a lower reconstruction loss (default: 0 = never; ours)",
    )
    parser.add_argument(
        "--health-page",
        metavar="FILE.html",
        help="page of `macrec doctor`, written anew at each evaluation, its figures beside it as JSON (default: none)",
    )
    parser.add_argument("--evaluations", type=int, default=20, help="evaluations during training (default: 20; ours)")
    add_trainer_flags(parser, _arguments_class(), _EVERY | _UPLOADS)
    add_config_flags(parser, _config_class(), FIELDS, "quantizer")


def _config_class() -> type["MacRecQuantizerConfig"]:
    from ..model.configuration_macrec import MacRecQuantizerConfig

    return MacRecQuantizerConfig


def _arguments_class() -> type["MacRecQuantizerTrainingArguments"]:
    from ..training.training_args import MacRecQuantizerTrainingArguments

    return MacRecQuantizerTrainingArguments


def run(args: argparse.Namespace) -> str:
    import torch
    from transformers import set_seed

    from ..catalogue.collision_resolution import check_space
    from ..catalogue.ids_folder import write_ids
    from ..catalogue.indexing import build_semantic_ids
    from ..doctor.health_callback import CodebookHealthCallback
    from ..model.modeling_macrec_quantizer import MacRecQuantizer
    from ..training.trainer_quantizer import MacRecQuantizerTrainer

    check_writable(args.health_page)
    named_device(args)  # refused before the work
    start, output = args.started, make_output(args.output)
    store = open_embeddings(args)
    set_seed(args.seed)
    config = _config_class()(modalities=store.modalities, **chosen_fields(args, FIELDS))
    for name in store.modalities:  # before the training rather than after it
        check_space(int(store.present[name].sum()), 0, config.num_levels, config.codebook_size)
    arguments = training_arguments(args, len(store), output)
    settings = settings_of_run(args, _arguments_class()) | {name: getattr(config, name) for name in FIELDS}
    settings |= {"embeddings": store.fingerprint()}
    if finished_before(output, settings, args.resume, arguments.distributed_state):
        return f"Finished before, nothing to do: {output}" if arguments.process_index == 0 else ""
    checkpoint = last_checkpoint(output, args.resume, config, ("modalities", *FIELDS))
    model = MacRecQuantizer(config)
    trainer = MacRecQuantizerTrainer(model, arguments, train_dataset=store)
    follow(trainer, ["loss", "eval_collision_rate", "eval_reconstruction_loss"], args.patience)
    if args.health_page:
        trainer.add_callback(CodebookHealthCallback(args.health_page))
    logging.getLogger(__name__).info(
        "%d weights on %d items", sum(weight.numel() for weight in model.parameters()), len(store)
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    quantizer = trainer.accelerator.unwrap_model(trainer.model).eval()
    with torch.no_grad():
        table = build_semantic_ids(quantizer, store, None, accelerator=trainer.accelerator)
    if table is not None:  # the main process
        quantizer.config.embeddings_fingerprint = store.fingerprint()
        quantizer.config.encoders = store.encoders
        write_ids(output, table, quantizer)
        write_json(output / "report.json", {"collisions": table.report, "steps": trainer.state.global_step})
    finish(output, trainer, settings, args.keep_checkpoints)
    return "" if table is None else summary(table, output, start)


def training_arguments(args: argparse.Namespace, num_items: int, output: Path) -> "MacRecQuantizerTrainingArguments":
    """The trainer's arguments: the last weights are kept.

    Not those of the lowest collision rate: k-means seeds spread the codes before anything is learned, and training
    brings alike items together, so that rate is often lowest at the first checkpoint.
    """
    _, steps = training_steps(args, num_items)
    every = max(1, steps // max(1, args.evaluations))
    settings: dict[str, Any] = {"logging_steps": max(1, every // 5)}
    return _arguments_class()(**settings | training_settings(args, _arguments_class(), output, num_items, every))


def summary(table: "SemanticIdTable", output: Path, start: float) -> str:
    parts = [
        f"{name} {100 * report['collision_rate_before']:.2f} % → {100 * report['collision_rate_after']:.2f} %"
        for name, report in table.report.items()
    ]
    return f"{table.num_items} items in {seconds_since(start)}, collision rate {', '.join(parts)}: {output}"
