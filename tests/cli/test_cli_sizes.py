"""`--size`: from the data, the paper's, or the user's field by field."""

import argparse
import json

import pytest
from hub_tools import quantized_shop, tiny_shop

from macrec_hf import (
    MacRecConfig,
    MacRecQuantizerConfig,
    load_recommendation_tasks,
    quantizer_sizes,
    recommender_sizes,
)
from macrec_hf.cli.main import main
from macrec_hf.cli.sizing import sizes_line, with_sizes

AUTO = {"num_levels": 3, "hidden_sizes": (256, 128), "num_train_epochs": 50.0}


def given(**flags):
    empty = dict.fromkeys(("num_levels", "hidden_sizes", "epochs"))
    return argparse.Namespace(**{"size": "auto", **empty, **flags})


def test_explicit_flags_beat_the_data_and_the_paper_field_by_field():
    filled = with_sizes(given(epochs=2.0), AUTO, {"num_train_epochs": 1000.0})
    assert (filled.num_levels, filled.hidden_sizes, filled.epochs) == (3, (256, 128), 2.0)
    paper = with_sizes(given(size="paper", hidden_sizes=(8,)), AUTO, {"num_train_epochs": 1000.0})
    assert (paper.num_levels, paper.hidden_sizes, paper.epochs) == (None, (8,), 1000.0)


def test_the_line_says_what_was_chosen_and_what_was_given():
    user = given(epochs=2.0)
    line = sizes_line(with_sizes(user, AUTO, {}), user, AUTO, "200 items")
    assert line == "Sizes, by 200 items: num_levels 3, hidden_sizes 256,128. Yours: epochs 2."


def test_both_verbs_take_the_sizes_of_the_shop_and_write_them_down(tmp_path, capsys):
    shop = tiny_shop(tmp_path)
    (shop / "q.yaml").write_text("codebook_size: 9\n")
    words = ["quantize", "--embeddings", str(shop / "emb"), "--output", str(shop / "ids")]
    assert main([*words, "--config", str(shop / "q.yaml"), "--max-steps", "2"]) == 0, capsys.readouterr().err
    auto, config = (
        quantizer_sizes(24, {"text": 6, "image": 5}),
        MacRecQuantizerConfig.from_pretrained(shop / "ids/quantizer"),
    )
    assert config.codebook_size == 9 != auto.codebook_size
    assert (config.num_levels, config.hidden_sizes) == (auto.num_levels, auto.hidden_sizes)
    settings = json.loads((shop / "ids" / "training_log.json").read_text())[-1]["settings"]
    assert settings["batch_size"] == auto.per_device_train_batch_size == 24
    out = capsys.readouterr().out
    assert "Sizes, by 24 items: num_levels" in out and "Yours: codebook_size 9." in out and "24 examples" in out

    words = ["train", "--interactions", str(shop / "interactions.csv"), "--semantic-ids", str(shop / "ids")]
    words += ["--output", str(shop / "model"), "--max-steps", "2", "--num-beams", "2", "--d-ff", "8"]
    assert main(words) == 0, capsys.readouterr().err
    auto, config = recommender_sizes(12, 72, bought_again=True), MacRecConfig.from_pretrained(shop / "model")
    assert config.d_ff == 8 != auto.d_ff
    assert all(getattr(config, name) == value for name, value in auto.config.items() if name != "d_ff")
    settings = json.loads((shop / "model" / "training_log.json").read_text())[-1]["settings"]
    assert settings["learning_rate"] == auto.learning_rate and settings["batch_size"] == 64
    assert "Sizes, by 12 users with 72 purchases, repeats among them: d_model" in capsys.readouterr().out

    again = [*words[:5], "--output", str(shop / "further"), "--max-steps", "1", "--num-beams", "2"]
    assert main([*again, "--start-from", str(shop / "model")]) == 0, capsys.readouterr().err
    assert MacRecConfig.from_pretrained(shop / "further").d_ff == 8  # the model's own sizes


@pytest.mark.parametrize("again", [False, True])
def test_a_model_begins_by_copying_where_the_validation_purchases_are_bought_again(tmp_path, capsys, again):
    shop = quantized_shop(tmp_path)
    lines = [f"u{user},i{(user + time) % 12},{time}" for user in range(12) for time in range(6)]
    lines[4] = lines[4].replace("i4", "i0") if again else lines[4]  # the purchase of one user that validates
    (shop / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines))
    words = ["train", "--interactions", str(shop / "interactions.csv"), "--semantic-ids", str(shop / "ids")]
    words += ["--output", str(shop / "model"), "--max-steps", "1", "--num-beams", "2"]
    assert main(words) == 0, capsys.readouterr().err
    config = MacRecConfig.from_pretrained(shop / "model")
    expected = recommender_sizes(12, 72, bought_again=again).copy_initializer_factor
    assert config.copy_initializer_factor == expected and config.hides_history is not again


def test_the_papers_sizes_are_the_configurations_defaults(tmp_path, capsys):
    shop = tiny_shop(tmp_path)
    words = ["quantize", "--embeddings", str(shop / "emb"), "--output", str(shop / "ids"), "--size", "paper"]
    assert main([*words, "--max-steps", "1", "--hidden-sizes", "8"]) == 0, capsys.readouterr().err
    config, paper = MacRecQuantizerConfig.from_pretrained(shop / "ids" / "quantizer"), MacRecQuantizerConfig()
    assert (config.codebook_size, config.num_pseudo_labels) == (paper.codebook_size, paper.num_pseudo_labels)
    assert config.hidden_sizes == (8,)
    settings = json.loads((shop / "ids" / "training_log.json").read_text())[-1]["settings"]
    assert settings["batch_size"] == 1024


@pytest.mark.parametrize("tasks", [None, "text_to_text", "text_to_image,item_text_to_image"])
def test_the_header_and_the_steps_are_of_what_an_epoch_goes_through(tmp_path, capsys, tasks):
    shop = quantized_shop(tmp_path)
    words = ["train", "--interactions", str(shop / "interactions.csv"), "--semantic-ids", str(shop / "ids")]
    words += ["--output", str(shop / "model"), "--epochs", "3", "--batch-size", "8"]
    words += ["--gradient-accumulation-steps", "2", "--dataloader-drop-last", "true", "--seeds", "1"]
    words += ["--d-model", "8", "--d-ff", "8", "--num-beams", "2"]
    assert main([*words, *([] if tasks is None else ["--tasks", tasks])]) == 0, capsys.readouterr().err
    chosen = {"cache_dir": tmp_path / "cache", "tasks": tasks and tasks.split(",")}
    made = load_recommendation_tasks(shop / "interactions.csv", shop / "ids", **chosen)["train"]["task"]
    crossing = sum(task >= 2 for task in made)
    share = 20 if crossing < len(made) else 1
    examples = len(made) - crossing + -(-crossing // share)
    steps = 3 * -(-(examples // 8) // 2)
    out = capsys.readouterr().out
    assert (
        f"\n{examples:,} examples an epoch, " in out and f": {steps:,} steps (3 epochs), ends at step {steps:,}" in out
    )
    log = json.loads((shop / "model" / "seed-0" / "training_log.json").read_text())
    assert log[-1]["step"] == steps and log[-1]["settings"]["cross_modal_rate"] == 1 / share
    assert max(entry["epoch"] for entry in log) == 3
