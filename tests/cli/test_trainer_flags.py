"""The flags of both training verbs: made from the fields of their arguments, defaults included."""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from hub_tools import quantize, quantized_shop, tiny_shop, train
from local_hub import TOKEN, local_hub

from macrec_hf import MacRecQuantizerTrainingArguments, MacRecRecommender, MacRecTrainingArguments
from macrec_hf.cli import quantize as quantize_verb
from macrec_hf.cli import train as train_verb
from macrec_hf.cli.main import build_parser, main
from macrec_hf.cli.sizing import with_sizes
from macrec_hf.cli.trainer_flags import _ELSEWHERE, OWN_DEFAULTS, SHORT, Refused, defaults_of
from macrec_hf.cli.yaml_flags import yaml_arguments

VERBS = {"train": (train_verb, MacRecTrainingArguments), "quantize": (quantize_verb, MacRecQuantizerTrainingArguments)}
NEEDED = {
    "train": ["--interactions", "a", "--semantic-ids", "b", "--output", "c"],
    "quantize": ["--embeddings", "a", "--output", "c"],
}


def arguments(verb, *words, output="out"):
    """The Trainer's arguments that a command line makes, for 1,000 rows."""
    args = build_parser(verb).parse_args([*NEEDED[verb], "--size", "paper", *map(str, words)])
    args = with_sizes(args, {}, defaults_of(VERBS[verb][1], VERBS[verb][0].SIZED))
    return VERBS[verb][0].training_arguments(args, 1000, Path(output))


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_of_the_arguments_is_a_flag_or_is_refused(verb):
    flags = build_parser(verb)._option_string_actions
    for field in dataclasses.fields(VERBS[verb][1]):
        if field.init and field.name != "report_to":
            action = flags["--" + field.name.replace("_", "-")]
            assert isinstance(action, Refused) or action.dest == field.name
            if field.name in SHORT:
                assert flags["--" + SHORT[field.name].replace("_", "-")].dest == SHORT[field.name]
                assert isinstance(action, Refused)


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_are_those_of_the_class(verb, tmp_path):
    made, theirs = arguments(verb, output=tmp_path), VERBS[verb][1](str(tmp_path))
    set_by_the_verb = {
        "output_dir", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "logging_steps", "run_name",
        "project", "load_best_model_at_end", "warmup_steps", "hub_model_id", "hub_strategy", "do_eval", *OWN_DEFAULTS,
    }  # fmt: skip
    for field in dataclasses.fields(made):
        if field.init and field.name not in set_by_the_verb:
            assert getattr(made, field.name) == getattr(theirs, field.name), field.name
    assert made.seed == 0 and made.save_total_limit == 2


def test_fields_of_transformers_reach_the_trainer(tmp_path):
    words = (
        "--bf16 false --gradient-accumulation-steps 2 --dataloader-num-workers 3 --optim adafactor --torch-compile "
    )
    words += "false --lr-scheduler-type linear --max-grad-norm 0.5 --adam-beta2 0.95 --logging-steps 7 --tf32 false "
    words += '--run-name mine --lr-scheduler-kwargs {"last_epoch":-1} --save-total-limit 5 --weight-decay 0.2 '
    words += "--per-device-eval-batch-size 9 --batch-size 100 --warmup 0.5 --epochs 3 --eval-users 0 --num-beams 4"
    for verb in ("train", "quantize"):
        given = words.split() if verb == "train" else words.split()[:-4]
        made = arguments(verb, *given, output=tmp_path)
        assert (made.bf16, made.gradient_accumulation_steps, made.dataloader_num_workers) == (False, 2, 3)
        assert (made.optim.value, made.lr_scheduler_type.value, made.lr_scheduler_kwargs) == (
            "adafactor", "linear", {"last_epoch": -1},
        )  # fmt: skip
        assert (made.max_grad_norm, made.adam_beta2, made.weight_decay, made.run_name) == (0.5, 0.95, 0.2, "mine")
        assert (made.logging_steps, made.save_total_limit, made.num_train_epochs) == (7, 5, 3.0)
        assert (made.per_device_train_batch_size, made.per_device_eval_batch_size) == (100, 9)
        assert made.warmup_steps == 8  # half of 3 epochs, each of 10 batches, two to a step: 15 / 2, rounded
    assert arguments("train", *words.split(), output=tmp_path).num_eval_users is None


@pytest.mark.parametrize(
    "words, message",
    [
        ("train --num-train-epochs 3", "--num-train-epochs is no flag of macrec train: use --epochs."),
        ("train --per-device-train-batch-size 3", "use --batch-size."),
        ("train --output-dir x", "use --output."),
        ("train --eval-strategy no", "use --eval-every."),
        ("quantize --save-steps 5", "use --evaluations."),
        ("train --load-best-model-at-end false", "macrec train sets this itself."),
        ("quantize --remove-unused-columns true", "macrec quantize sets this itself."),
        ("train --use-cpu true", "use --device cpu."),
        ("train --hub-token secret", "use the variable HF_TOKEN"),
        ("train --hub-strategy every_save", "uploads the whole model directory, once"),
        ("quantize --push-to-hub true", "macrec train uploads the model with its semantic IDs"),
        ("train --num_train_epochs 3", "--num_train_epochs is no flag of macrec train: use --epochs."),
        ("train --epoch 3", "--epoch is no flag of macrec train. Did you mean --epochs?"),
        ("train --gradient_accumulation_steps 3", "Did you mean --gradient-accumulation-steps?"),
        ("train --interaction x", "Did you mean --interactions?"),
        ("evaluate --modell x", "Did you mean --model?"),
        ("prepare --kcore=3", "Did you mean --k-core?"),
        ("embed --zzzzzzzz", "--zzzzzzzz is no flag of macrec embed. `macrec embed --help` lists them all."),
        ("train --bf16 perhaps", "expected true or false, got 'perhaps'"),
        ("train --optim sgdd", "invalid choice: 'sgdd'"),
        ("train --lr-scheduler-kwargs {a}", "expected a JSON object or the path of one"),
        ("train --epochs 2 --max-steps 3", "not allowed with argument --epochs"),
    ],
)
def test_one_line_says_which_flag_was_meant(capsys, words, message):
    error = refusal(capsys, *words.split())
    assert message in error and error.startswith(f"macrec {words.split()[0]}: error: ")


def test_a_misspelt_key_of_a_yaml_file(tmp_path, capsys):
    for key, message in {"epoch": "Did you mean --epochs?", "learning_rat": "Did you mean --learning-rate?"}.items():
        (tmp_path / "q.yaml").write_text(yaml.safe_dump({key: 1}))
        assert main(["quantize", *NEEDED["quantize"], f"--config={tmp_path / 'q.yaml'}"]) == 1
        error = capsys.readouterr().err
        assert f"'{key}' is no flag of macrec quantize. {message}" in error and error.count("\n") == 1
    (tmp_path / "q.yaml").write_text("num_train_epochs: 3\n")
    assert "use --epochs" in refusal(capsys, "quantize", *NEEDED["quantize"], "--config", str(tmp_path / "q.yaml"))
    assert "expected one argument" in refusal(capsys, "quantize", *NEEDED["quantize"], "--config")


def test_yaml_takes_fields_of_transformers_in_its_own_types(tmp_path):
    content = {"bf16": False, "adam_beta1": 0.8, "lr_scheduler_kwargs": {"last_epoch": -1}, "max_grad_norm": 2}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(content))
    words = yaml_arguments(str(tmp_path / "t.yaml"), build_parser("train"))
    made = arguments("train", *words, output=tmp_path)
    assert (made.bf16, made.adam_beta1, made.lr_scheduler_kwargs) == (False, 0.8, {"last_epoch": -1})


@pytest.mark.parametrize(
    "file, words, steps", [("epochs: 9", ["--max-steps", 3], 3), ("max_steps: 9", ["--epochs", 1], 2)]
)
def test_steps_of_the_command_line_beat_epochs_of_the_file(tmp_path, capsys, file, words, steps):
    shop = tiny_shop(tmp_path)
    (shop / "q.yaml").write_text(f"{file}\nbatch_size: 12\n")
    flags = ["quantize", "--embeddings", shop / "emb", "--output", shop / "ids", "--config", shop / "q.yaml", *words]
    assert main([str(word) for word in flags]) == 0, capsys.readouterr().err
    assert json.loads((shop / "ids" / "report.json").read_text())["steps"] == steps


def test_the_help_shows_ours_first_and_the_rest_compactly(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    first, rest = text.split("more arguments of transformers' Trainer:")
    assert "--epochs X" in first and "default: by --size, or 200; authors' code" in " ".join(first.split())
    assert "--gradient-accumulation-steps N" in rest and "--gradient-accumulation-steps" not in first
    assert not re.search(r"--(num-train-epochs|output-dir|use-cpu) ", text)
    shown = [block for block in re.split(r"\n(?=  --)", rest) if block.startswith("  --")]
    assert len(shown) > 50 and all(len(block.splitlines()) <= 4 for block in shown)
    usage = text.split("\n\n")[0]
    assert usage == (
        "usage: macrec train --interactions INTERACTIONS --semantic-ids SEMANTIC_IDS --output OUTPUT [flags]"
    )


def test_accumulation_counts_in_the_steps_of_an_epoch(tmp_path, capsys):
    shop = tiny_shop(tmp_path)
    more = ["--epochs", "2", "--batch-size", "6", "--gradient-accumulation-steps", "2", "--contrastive-weights"]
    sizes = ["--hidden-sizes", "8", "--codebook-size", "8", "--num-levels", "3"]
    words = ["quantize", "--embeddings", str(shop / "emb"), "--output", str(shop / "ids"), *sizes, *more, "0,0,0"]
    assert main([*words, "--evaluations", "2", "--warmup", "0.5"]) == 0, capsys.readouterr().err
    log = json.loads((shop / "ids" / "training_log.json").read_text())
    assert [line["step"] for line in log if "eval_collision_rate" in line] == [2, 4]  # 24 items, 12 a step


def test_push_to_hub_uploads_the_whole_model_directory(tmp_path, monkeypatch, capsys):
    shop = quantized_shop(tmp_path)
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        more = ["--push-to-hub", "true", "--hub-model-id", "somebody/shop", "--license", "mit"]
        assert train(shop, *more) == 0, capsys.readouterr().err
        files = hub["somebody/shop"].files()
        assert {"config.json", "semantic_ids.safetensors", "quantizer/config.json", "README.md"} <= set(files)
        assert not any(name.endswith((".bin", ".pt")) for name in files)
        here = MacRecRecommender.from_pretrained(shop / "model")
        there = MacRecRecommender.from_pretrained("somebody/shop", token=TOKEN)
        parts = {name: getattr(here, name) for name in ("model", "tokenizer", "table", "quantizer")}
        alone = MacRecRecommender(**parts)  # without the blend, which stays here
        assert there.recommend([["i1", "i7"]], top_k=3) == alone.recommend([["i1", "i7"]], top_k=3)
        assert here.blend is not None and there.blend is None
        assert "somebody/shop has no counts of purchases and no blend" in capsys.readouterr().out
        assert b"license: mit" in files["README.md"] and b"macrec train" in files["README.md"]
    assert train(shop, "--push-to-hub", "true", "--seeds", "2") == 1
    assert "--push-to-hub: expected one model, got --seeds" in capsys.readouterr().err


def test_the_repository_is_named_after_the_output_unless_it_has_a_name(tmp_path):
    assert arguments("train", output=tmp_path / "shop").hub_model_id == "shop"
    assert arguments("train", "--hub-model-id", "me/mine", output=tmp_path).hub_model_id == "me/mine"


def test_no_progress_bar_where_none_is_wanted(tmp_path, capsys):
    shop = tiny_shop(tmp_path)
    assert quantize(shop, "--disable-tqdm", "true") == 0
    quiet = capsys.readouterr().err
    assert quantize(shop, "--overwrite") == 0
    assert "loss=" not in quiet and "loss=" in capsys.readouterr().err


def test_every_short_flag_stands_in_the_table():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `--([\w-]+)` \| `(\w+)` \|", text, re.M))
    renamed = {name: re.fullmatch(r"use --([\w-]+)(?: cpu)?", remedy) for name, remedy in _ELSEWHERE.items()}
    assert table == {found[1]: name for name, found in renamed.items() if found}


def test_refused_is_no_value_of_the_namespace():
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", action=Refused, remedy="use --new")
    assert vars(parser.parse_args([])) == {}


def test_one_yaml_file_serves_several_verbs(tmp_path, capsys, caplog):
    (tmp_path / "shop.yaml").write_text("title_column: name\nseed: 3\n")
    assert main(["quantize", *NEEDED["quantize"], f"--config={tmp_path / 'shop.yaml'}"]) == 1  # for want of files
    assert "is no flag" not in capsys.readouterr().err
    assert "left out title_column, of other verbs than macrec quantize" in caplog.text and "seed" not in caplog.text
