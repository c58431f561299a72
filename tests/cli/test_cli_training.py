"""Both training verbs: same seed, same result; an unwritable output; patience that outlasts an interruption."""

import json

import numpy as np
import pytest
import torch
from killing import compare, make_inputs, words
from safetensors.torch import load_file

from macrec_hf import SemanticIdTable, read_interactions
from macrec_hf.cli.main import main
from macrec_hf.cli.run_folder import FINISHED
from macrec_hf.cpu import has_bf16_units
from macrec_hf.data.histories import user_histories
from macrec_hf.data.splits import validation_halves
from macrec_hf.training.checkpoints import checkpoints_in


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.mark.parametrize("stage", ["quantize", "train"])
def test_the_same_seed_gives_the_same_bits(inputs, tmp_path, stage):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main([*words(stage, inputs, tmp_path / name), "--max-steps", "9", "--seed", seed]) == 0
    compare(tmp_path / "a", tmp_path / "b", stage)  # weights, IDs and the optimizer's state
    with pytest.raises(RuntimeError, match="differs from that of the uninterrupted run"):
        compare(tmp_path / "a", tmp_path / "c", stage)


def test_the_quantizer_that_is_kept_is_the_trained_one(inputs, tmp_path):
    """Not the one with the lowest collision rate, which k-means seeds have before anything is learned."""
    assert main([*words("quantize", inputs, tmp_path), "--learning-rate", "0.01"]) == 0
    log = json.loads((tmp_path / "training_log.json").read_text())
    rates = [line["eval_collision_rate"] for line in log if "eval_collision_rate" in line]
    assert min(rates[:-1]) < rates[-1]
    last = checkpoints_in(tmp_path / "checkpoints")[0]
    assert last.name == "checkpoint-24"
    kept, trained = (load_file(folder / "model.safetensors") for folder in (tmp_path / "quantizer", last))
    assert kept.keys() == trained.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in trained.items())


@pytest.mark.parametrize("stage", ["quantize", "train"])
def test_an_output_that_cannot_be_written_is_found_first(inputs, tmp_path, stage, capsys):
    (tmp_path / "file").write_text("kept")
    assert main(words(stage, inputs, tmp_path / "file")) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "expected a folder that can be written" in error[0]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("stage", ["quantize", "train"])
def test_a_finished_run_resumed_writes_the_same_again(inputs, tmp_path, stage):
    # Hardly any rate: no evaluation is better than the first, so patience ends the run before its last step.
    arguments = [*words(stage, inputs, tmp_path / "out"), "--learning-rate", "1e-30", "--patience", "2"]
    assert main(arguments) == 0
    result = tmp_path / "out" / ("model.safetensors" if stage == "train" else "semantic_ids.safetensors")
    before, last = result.read_bytes(), checkpoints_in(tmp_path / "out" / "checkpoints")[0]
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] < 24
    result.unlink()
    (tmp_path / "out" / FINISHED).unlink()
    assert main(arguments) == 0  # with --resume, as after a kill between the last checkpoint and the result
    assert result.read_bytes() == before and checkpoints_in(tmp_path / "out" / "checkpoints")[0] == last


@pytest.mark.parametrize(("step", "hides"), [(1, True), (0, False)])
def test_a_model_knows_whether_anybody_buys_twice(inputs, tmp_path, step, hides):
    lines = [f"u{user},i{(user * 7 + step * place) % 60},{place}" for user in range(24) for place in range(6)]
    (tmp_path / "bought.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    arguments = [*words("train", inputs, tmp_path / "model"), "--max-steps", "2"]
    arguments[arguments.index("--interactions") + 1] = str(tmp_path / "bought.csv")
    assert main(arguments) == 0
    assert json.loads((tmp_path / "model" / "config.json").read_text())["hides_history"] is hides
    settings = json.loads((tmp_path / "model" / "training_log.json").read_text())[-1]["settings"]
    assert settings["precision"] == ("bfloat16 autocast" if has_bf16_units() else "float32")
    assert json.loads((tmp_path / "model" / "blend.json").read_text())["about"]["hides_history"] is hides
    # And a model that is trained further on other purchases knows theirs.
    further = arguments[: arguments.index("--d-model")] + arguments[arguments.index("--batch-size") :]
    further[further.index("--interactions") + 1] = str(inputs / "interactions.csv")
    further[further.index("--output") + 1] = str(tmp_path / "further")
    assert main([*further, "--start-from", str(tmp_path / "model")]) == 0
    assert json.loads((tmp_path / "further" / "config.json").read_text())["hides_history"] is True


def test_the_half_of_the_validation_users_that_chooses_is_all_that_training_looks_at(inputs, tmp_path):
    """The figure in the log is that of these users' lists, and not of all of them."""
    train = [*words("train", inputs, tmp_path / "model"), "--max-steps", "6", "--eval-users", "0", "--bf16", "false"]
    assert main(train) == 0
    log = json.loads((tmp_path / "model" / "training_log.json").read_text())
    told = max(entry["eval_ndcg@10"] for entry in log if "eval_ndcg@10" in entry)
    beams = train[train.index("--num-beams") + 1]
    bought = str(inputs / "interactions.csv")
    evaluate = ["evaluate", str(tmp_path / "model"), "--interactions", bought, "--split", "validation"]
    assert main([*evaluate, "--num-beams", beams, "--predictions", str(tmp_path / "lists.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    histories = user_histories(read_interactions(bought), SemanticIdTable.from_pretrained(inputs / "ids").row_of)
    half = {histories.user_ids[place] for place in validation_halves(histories.user_ids)[0]}
    gains = {}
    for line in lines:
        places = [place for place, (item, _) in enumerate(line["ensemble"]) if item == line["target"]]
        gains[line["user_id"]] = sum(1 / np.log2(place + 2) for place in places)
    found, everybody = np.mean([gains[user] for user in half]), np.mean([*gains.values()])
    assert told == pytest.approx(found, abs=1e-4) and abs(told - everybody) > 1e-3


def test_a_model_that_is_trained_further_keeps_its_history(inputs, tmp_path, capsys):
    first = [*words("train", inputs, tmp_path / "first"), "--max-history", "3", "--max-steps", "3"]
    small, further = first[: first.index("--d-model")], first[first.index("--num-beams") :]
    assert main(first) == 0, capsys.readouterr().err

    def kept(name, *more):
        flags = [*small, *further, "--output", tmp_path / name, "--start-from", tmp_path / "first", *more]
        if "--max-history" not in more:
            del flags[flags.index("--max-history") : flags.index("--max-history") + 2]
        assert main([str(word) for word in flags]) == 0, capsys.readouterr().err
        return json.loads((tmp_path / name / "config.json").read_text())["max_history"]

    assert kept("as-it-was") == 3
    assert kept("other", "--max-history", "2") == 2
    assert main([str(word) for word in [*first, "--start-from", tmp_path / "first"]]) == 1
    assert "expected none of its own, got --d-model" in capsys.readouterr().err
