"""The verbs under `accelerate launch` with the shipped CPU configuration: two processes, one output."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import PartialState
from folder_listings import check_names, documented
from forks import fork_two, free_port, run_alone
from killing import NUM_ITEMS, make_inputs, words
from launching import CONFIG, launch
from safetensors.torch import load_file

from macrec_hf import EmbeddingStore, MacRecQuantizer, SemanticIdTable, build_semantic_ids
from macrec_hf.cli.main import main
from macrec_hf.training.checkpoints import what_is_wrong


def run(*arguments):
    done = launch("-m", "macrec_hf.cli", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", sorted(CONFIG.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_are_accelerate_s(path):
    from accelerate.commands.config.config_args import ClusterConfig

    content = yaml.safe_load(path.read_text())
    assert ClusterConfig.from_yaml_file(str(path)).num_processes == content["num_processes"]
    assert path.name in (CONFIG.parents[2] / "docs" / "training.md").read_text()


@pytest.mark.slow
def test_quantize_train_and_evaluate_on_two_processes(tmp_path):
    make_inputs(tmp_path)
    out = run(*words("quantize", tmp_path, tmp_path / "ids2"))
    assert out.count(f"{NUM_ITEMS} items in") == 1  # one summary, of the main process
    table = SemanticIdTable.from_pretrained(tmp_path / "ids2")
    assert table.num_items == NUM_ITEMS and table.collision_rate("text") == 0.0
    quantizer = MacRecQuantizer.from_pretrained(tmp_path / "ids2" / "quantizer")
    assert table == build_semantic_ids(quantizer, EmbeddingStore.open(tmp_path / "emb"))  # encoded by both, as by one
    best = tmp_path / "ids2" / "checkpoints" / "checkpoint-24"
    assert what_is_wrong(best) is None and {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {
        file.name for file in best.iterdir()
    }
    arguments = words("train", tmp_path, tmp_path / "model")
    arguments[arguments.index("--semantic-ids") + 1] = str(tmp_path / "ids2")
    arguments.remove("--keep-checkpoints")
    assert run(*arguments).count(" steps in ") == 1
    check_names(tmp_path / "model", documented("architecture.md", "A model directory") - {"item_titles.json"})
    assert run(*arguments) == f"Finished before, nothing to do: {tmp_path / 'model'}\n"
    metrics, lists = [], []
    for name in ("together", "alone"):
        path = tmp_path / f"{name}.json"
        command = ["evaluate", "--model", tmp_path / "model", "--interactions", tmp_path / "interactions.csv"]
        command += ["--output", path, "--predictions", tmp_path / f"{name}.jsonl", "--batch-size", "5"]
        command = [str(word) for word in [*command, "--num-beams", "5", "--split", "validation"]]
        assert run(*command) if name == "together" else main(command) == 0
        metrics.append(json.loads(Path(path).read_text()))
        lists.append([json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()])
    assert metrics[0]["num_users"] == metrics[1]["num_users"] == 24
    for together, alone in (metrics, [report["hidden"] for report in metrics]):
        for part in alone["coverage"]:
            assert together[part] == pytest.approx(alone[part], abs=1e-6)
    assert metrics[0]["verdict"]["text"] == metrics[1]["verdict"]["text"]
    assert [line["user_id"] for line in lists[0]] == [f"u{user}" for user in range(24)]  # each user once
    for together, alone in zip(*lists, strict=True):
        assert [item for item, _ in together["ensemble"]] == [item for item, _ in alone["ensemble"]]
        assert together["popularity"] == alone["popularity"] and together["target"] == alone["target"]
    counts = tmp_path / "model" / "purchase_counts.safetensors"
    kept = counts.read_bytes()
    counts.unlink()
    command = ["refresh", str(tmp_path / "model"), "--interactions", str(tmp_path / "interactions.csv")]
    assert run(*command).count(f" of {NUM_ITEMS} items counted in ") == 1
    assert counts.read_bytes() == kept


@pytest.mark.parametrize("launched", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forked", "launched"])
def test_embed_on_two_processes_writes_what_one_writes(tmp_path, launched):
    lines = [json.dumps({"item_id": f"i{row}", "title": f"blue {'lamp chair cup'.split()[row % 3]} {row}",
                         "text": "wood " * (row % 5)}) for row in range(30)]  # fmt: skip
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    for name in ("together", "alone"):
        command = ["embed", "--items", str(tmp_path / "items.jsonl"), "--output", str(tmp_path / name)]
        command += ["--batch-size", "4"]
        if name == "alone":
            assert main(command) == 0
        elif launched:
            assert run(*command)
        else:
            both = lambda: main(command) or PartialState().num_processes != 2  # noqa: B023, E731
            done = run_alone(lambda: fork_two(both, free_port()))  # noqa: B023, runs at once
            assert done.returncode == 0 and "30 items" in done.stdout, done.stderr
    for file in ("text.npy", "item_ids.json", "text_encoder.safetensors"):
        assert (tmp_path / "together" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


@pytest.mark.slow
def test_a_recommender_trained_under_fsdp_is_that_of_ddp(tmp_path):
    make_inputs(tmp_path)
    fsdp = ["--config_file", str(CONFIG.parent / "gpu_8_fsdp.yaml"), "--num_processes", "2", "--mixed_precision", "no"]
    losses = []
    for name in ("ddp", "fsdp"):
        changes = ["--dropout-rate", "0", "--num-layers", "2", "--num-decoder-layers", "2", "--eval-users", "7"]
        arguments = [*words("train", tmp_path, tmp_path / name), *changes, "--eval-every", "0.5"]
        if name == "ddp":
            run(*arguments)
        else:
            done = launch(*fsdp, "--main_process_port", "0", "tests/sharded.py", *arguments, config=None)
            assert done.returncode == 0, done.stderr[-3000:]
        (last,) = (tmp_path / name / "checkpoints").glob("checkpoint-24")
        assert (last / "pytorch_model_fsdp.bin").is_file() == (name == "fsdp") and what_is_wrong(last) is None
        log = json.loads((tmp_path / name / "training_log.json").read_text())
        losses.append([line["eval_loss"] for line in log if "eval_loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and losses[0][-1] < losses[0][0]
    ddp, sharded = (load_file(tmp_path / name / "model.safetensors") for name in ("ddp", "fsdp"))
    assert ddp.keys() == sharded.keys()
    for key, weight in ddp.items():
        torch.testing.assert_close(sharded[key], weight, rtol=1e-3, atol=1e-3, msg=key)
    assert (
        main(["evaluate", "--model", str(tmp_path / "fsdp"), "--interactions", str(tmp_path / "interactions.csv")])
        == 0
    )
