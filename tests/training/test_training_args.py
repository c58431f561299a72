"""The arguments of both trainers: defaults with their sources, refusals, and a caller's object that stays as it is."""

import dataclasses
import re

import pytest
import quantizer_training
import recommender_training
import torch
from torch import nn
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, TrainerCallback, TrainingArguments

from macrec_hf import (
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    MacRecTrainer,
    MacRecTrainingArguments,
)
from macrec_hf.cpu.byte_dropout import ByteDropout
from macrec_hf.training import training_args

BOTH = [MacRecTrainingArguments, MacRecQuantizerTrainingArguments]
TRAINERS = {MacRecTrainingArguments: MacRecTrainer, MacRecQuantizerTrainingArguments: MacRecQuantizerTrainer}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return recommender_training.make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def make(shop, tmp_path):
    """`make(arguments_class, args, **kwargs)`: a trainer with these arguments."""

    def trainer(arguments_class, args, **kwargs):
        if arguments_class is MacRecQuantizerTrainingArguments:
            made = quantizer_training.make_trainer(tmp_path / "made", model_changes={"dropout": 0.1}, use_cpu=True)
            return MacRecQuantizerTrainer(made.model, args, train_dataset=quantizer_training.make_store(), **kwargs)
        table, tokenizer, tasks = shop
        model = recommender_training.make_trainer(shop, tmp_path / "made", use_cpu_kernels=False).model
        data = {"train_dataset": tasks["train"], "eval_dataset": tasks["validation"]}
        return MacRecTrainer(model, args, processing_class=tokenizer, table=table, **data, **kwargs)

    return trainer


# ---- defaults ----


@pytest.mark.parametrize("arguments_class", BOTH)
def test_every_field_of_ours_says_what_it_is_and_where_its_default_comes_from(arguments_class):
    fields = {field.name: field for field in dataclasses.fields(arguments_class)}
    for name in vars(arguments_class)["__annotations__"]:
        assert re.search(r"\w+.* \((paper|authors' code|ours)\)$", fields[name].metadata["help"]), name


@pytest.mark.parametrize("arguments_class", BOTH)
def test_they_can_be_read_from_the_command_line_as_those_of_transformers(arguments_class, tmp_path):
    words = ["--output_dir", str(tmp_path), "--learning_rate", "0.25", "--no_use_cpu_kernels", "--use_cpu"]
    (args,) = HfArgumentParser(arguments_class).parse_args_into_dataclasses(words)
    assert args == arguments_class(str(tmp_path), learning_rate=0.25, use_cpu_kernels=False, use_cpu=True)


def test_the_metric_that_a_best_checkpoint_is_chosen_by(tmp_path):
    args = MacRecTrainingArguments(str(tmp_path))
    assert (args.metric_for_best_model, args.greater_is_better) == ("ndcg@10", True)
    args = MacRecTrainingArguments(str(tmp_path), metric_for_best_model="loss")
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)
    args = MacRecQuantizerTrainingArguments(str(tmp_path))
    assert (args.metric_for_best_model, args.greater_is_better) == ("reconstruction_loss", False)


# ---- what is refused ----


@pytest.mark.parametrize("arguments_class", BOTH)
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"remove_unused_columns": True}, "remove_unused_columns: expected False, got True"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: expected 0, got 0.1"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(tmp_path, arguments_class, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments_class(str(tmp_path), **changes)


def test_arguments_that_fit_one_stage_alone_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_sampling_strategy: expected 'random' or 'sequential'"):
        MacRecQuantizerTrainingArguments(str(tmp_path), train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match="num_eval_users: expected a number of at least 1, got 0"):
        MacRecTrainingArguments(str(tmp_path), num_eval_users=0)


@pytest.mark.parametrize("arguments_class", BOTH)
@pytest.mark.parametrize("other", [TrainingArguments, Seq2SeqTrainingArguments, *BOTH])
def test_arguments_of_another_class_are_refused_and_the_right_one_is_named(make, tmp_path, arguments_class, other):
    if other is arguments_class:
        return
    name = arguments_class.__name__
    expected = f"args: expected {name}, got {other.__name__}.*from macrec_hf import {name}"
    with pytest.raises(TypeError, match=expected):
        make(arguments_class, other(str(tmp_path), report_to="none", use_cpu=True))


@pytest.mark.parametrize("arguments_class", BOTH)
def test_a_loss_function_of_the_callers_is_refused(make, tmp_path, arguments_class):
    args = arguments_class(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="compute_loss_func: expected None, got .*override compute_loss"):
        make(arguments_class, args, compute_loss_func=lambda outputs, labels, num_items_in_batch=None: outputs.loss)


@pytest.mark.parametrize("name", ["compute_metrics", "preprocess_logits_for_metrics"])
def test_metrics_of_predictions_are_refused_where_nothing_is_predicted(make, tmp_path, name):
    args = MacRecQuantizerTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match=f"{name}: expected None, got .*predicts nothing"):
        make(MacRecQuantizerTrainingArguments, args, **{name: lambda *given: {}})


# ---- the caller's object ----


@pytest.mark.parametrize("arguments_class", BOTH)
def test_the_callers_arguments_stay_as_they_are(make, tmp_path, arguments_class, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # of which the trainer takes one, for itself
    options = dict(max_steps=2, eval_strategy="steps", eval_steps=1, save_steps=1, push_to_hub=False, report_to="none")
    options["bf16"] = False  # else a CPU that multiplies it is chosen
    args = arguments_class(str(tmp_path / "run"), disable_tqdm=True, load_best_model_at_end=True, **options)
    before, text, gpus = dict(vars(args)), args.to_json_string(), args.n_gpu
    trainer = make(arguments_class, args)
    trainer.train()
    assert trainer.args is not args and trainer.args.n_gpu == 1 and gpus == 2
    assert dict(vars(args)) == before and args.to_json_string() == text and args.n_gpu == gpus


@pytest.mark.parametrize("arguments_class", BOTH)
def test_without_arguments_a_trainer_takes_the_defaults_of_its_class(make, tmp_path, arguments_class, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make(arguments_class, None)
    assert type(trainer.args) is arguments_class and TRAINERS[arguments_class] is type(trainer)
    assert trainer.args.output_dir == ("macrec" if arguments_class is MacRecTrainingArguments else "macrec_quantizer")


# ---- speed on a CPU ----


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("arguments_class", BOTH)
def test_faster_layers_on_a_cpu_can_be_left_out(shop, tmp_path, arguments_class, fast):
    if arguments_class is MacRecTrainingArguments:
        trainer = recommender_training.make_trainer(shop, tmp_path, use_cpu_kernels=fast)
    else:
        trainer = quantizer_training.make_trainer(tmp_path, model_changes={"dropout": 0.1}, use_cpu_kernels=fast)
    kinds = {type(module) for module in trainer.model.modules()}
    assert (ByteDropout in kinds, nn.Dropout in kinds) == (fast, not fast)


# ---- precision ----


def test_bf16_is_the_default_on_cpus_that_multiply_it(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)

    def chosen(**given):
        return MacRecTrainingArguments(str(tmp_path), use_cpu=True, **given)

    for able in (True, False):
        monkeypatch.setattr(training_args, "has_bf16_units", lambda able=able: able)
        assert chosen().bf16 is able and chosen(bf16=False).bf16 is False and chosen(bf16=True).bf16 is True
        assert MacRecQuantizerTrainingArguments(str(tmp_path), use_cpu=True).bf16 is False
    assert all(kind(str(tmp_path), bf16=True).bf16 for kind in BOTH)  # nobody has to name use_cpu
    monkeypatch.setattr(training_args, "has_bf16_units", lambda: True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # what `accelerate launch` was told
    assert chosen().bf16 is False


class Ends(TrainerCallback):
    """Evaluates after the first and the last epoch alone."""

    def on_epoch_end(self, args, state, control, **_):
        control.should_evaluate = round(state.epoch) in (1, args.num_train_epochs)


def test_a_training_in_bf16_ends_near_the_one_in_float32(shop, tmp_path):
    runs, changes = {}, dict(num_train_epochs=30, per_device_train_batch_size=64, save_strategy="no")
    for half in (False, True):
        trainer = recommender_training.make_trainer(shop, tmp_path / str(half), [Ends()], bf16=half, **changes)
        trainer.train()
        assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
        runs[half] = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert [line["epoch"] for line in runs[False]] == [1, 30]
    first, (exact, half) = runs[False][0], (runs[name][-1] for name in (False, True))
    assert exact["eval_loss"] < 0.7 * first["eval_loss"]
    assert half["eval_loss"] == pytest.approx(exact["eval_loss"], rel=0.1) and half["eval_loss"] != exact["eval_loss"]


def test_a_quantizer_in_bf16_has_the_losses_and_the_ids_of_float32(tmp_path):
    curves = {}
    for half in (False, True):
        changes = dict(num_train_epochs=15, bf16=half, eval_strategy="no", save_strategy="no")
        trainer = quantizer_training.make_trainer(tmp_path / str(half), **changes)
        trainer.train()
        assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
        curves[half] = torch.tensor([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert not torch.equal(curves[True], curves[False])
    assert curves[False][-5:].mean() < curves[False][:5].mean()
    assert (curves[True] / curves[False] - 1).abs().mean() < 0.05
    embeddings = {
        name: torch.from_numpy(quantizer_training.make_store().arrays[name][:]) for name in ("text", "image")
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = trainer.model.encode(embeddings)
    exact = trainer.model.encode(embeddings)  # of the same weights
    for name in embeddings:
        assert (autocast[name] == exact[name]).all(dim=1).float().mean() > 0.9


@pytest.mark.parametrize("kind", BOTH)
def test_memory_is_pinned_for_an_accelerator_alone(tmp_path, kind):
    assert kind(str(tmp_path)).dataloader_pin_memory is torch.accelerator.is_available()
