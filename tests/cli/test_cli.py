import itertools
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from macrec_hf import EmbeddingStore, MacRecRecommender, SemanticIdTable, SemanticIdTokenizer
from macrec_hf.cli import main
from macrec_hf.cli.common import read_bool, read_numbers
from macrec_hf.cli.inputs import read_pairs
from macrec_hf.cli.main import VERBS

QUANTIZER = (
    "--codebook-size 8 --num-levels 3 --codebook-dim 4 --hidden-sizes 16 --num-pseudo-labels 6 --batch-size 16".split()
)
RECOMMENDER = (
    "--d-model 16 --d-kv 8 --d-ff 24 --num-layers 1 --num-decoder-layers 1 --num-heads 2 --batch-size 32".split()
)
SMALL = ["--codebook-size", "2", "--num-levels", "2", "--contrastive-weights", "0,0"]  # four IDs


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    items = [f"{row:04}" for row in range(30)]
    arrays = {
        "text": random.standard_normal((30, 6)).astype("f4"),
        "image": random.standard_normal((30, 5)).astype("f4"),
    }
    EmbeddingStore(arrays, items, missing={"image": ["0007"]}).save(folder / "emb")
    lines = ["user_id,item_id,timestamp"]
    for user in range(20):
        bought = random.permutation(30)[: random.integers(3, 8)]
        lines += [f"{user:02},{items[item]},2020-01-{day + 1:02}" for day, item in enumerate(bought)]
    (folder / "interactions.csv").write_text("\n".join(lines))
    (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"{item},Thing {item}" for item in items)]))
    return folder


@pytest.fixture(scope="module")
def ids(shop):
    words = ["quantize", "--embeddings", shop / "emb", "--output", shop / "ids", "--epochs", 4, *QUANTIZER]
    assert main(list(map(str, words))) == 0
    return shop / "ids"


@pytest.fixture(scope="module")
def model(shop, ids):
    words = ["train", "--interactions", shop / "interactions.csv", "--semantic-ids", ids, "--output", shop / "model"]
    assert (
        main(list(map(str, [*words, "--epochs", 2, "--items", shop / "items.csv", "--num-beams", 5, *RECOMMENDER])))
        == 0
    )
    return shop / "model"


def test_quantize_writes_table_quantizer_log_and_report(shop, ids):
    table = SemanticIdTable.from_pretrained(ids)
    assert table.num_items == 30 and table.modalities == ("text", "image")
    assert table.collision_rate("text") == table.collision_rate("image") == 0
    assert (table.codes["image"][7] == -1).all()
    quantizer = AutoModel.from_pretrained(ids / "quantizer")
    assert quantizer.codebooks_seeded and quantizer.config.embeddings_fingerprint
    report = json.loads((ids / "report.json").read_text())
    codes = quantizer.encode({"text": torch.from_numpy(np.load(shop / "emb" / "text.npy"))})["text"]
    before = 1 - len({tuple(code) for code in codes.tolist()}) / 30
    assert report["collisions"]["text"]["collision_rate_before"] == pytest.approx(before)
    log = json.loads((ids / "training_log.json").read_text())
    assert any("eval_collision_rate" in line for line in log) and any("contrastive_loss_3" in line for line in log)


def test_train_writes_a_whole_model_directory(model, ids):
    assert json.loads((model / "training_log.json").read_text())
    names = {path.name for path in model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "semantic_ids.safetensors", "semantic_ids.json",
            "generation_config.json", "README.md", "quantizer"} <= names  # fmt: skip
    assert AutoModelForSeq2SeqLM.from_pretrained(model).config.num_levels == 3
    assert isinstance(AutoTokenizer.from_pretrained(model), SemanticIdTokenizer)
    assert SemanticIdTable.from_pretrained(model) == SemanticIdTable.from_pretrained(ids)
    assert AutoModel.from_pretrained(model, subfolder="quantizer").vocabulary()[0] == "<a_0>"


def test_evaluate_and_recommend_take_the_directory(shop, model, capsys):
    flags = ["--model", str(model), "--interactions", str(shop / "interactions.csv"), "--split", "test"]
    assert main(["evaluate", *flags, "--output", str(shop / "metrics.json"), "--num-beams", "30"]) == 0
    metrics = json.loads((shop / "metrics.json").read_text())
    assert metrics["num_users"] == 20 and 0 <= metrics["ensemble"]["hr@10"] <= 1
    capsys.readouterr()
    assert main(["recommend", "--model", str(model), "--history", "0001,0007", "--top-k", "3", "--json"]) == 0
    out = capsys.readouterr().out
    expected = MacRecRecommender.from_pretrained(model).recommend([["0001", "0007"]], top_k=3)[0]
    assert all(f"Thing {item}" in out for item, _ in expected) and len(expected) == 3


def test_flags_may_stand_in_yaml_and_the_command_line_wins(shop, capsys):
    content = (
        f"embeddings: {shop / 'emb'}\nepochs: 9\ncodebook_size: 8\nnum-levels: 2\ncodebook_dim: 4\n"
        "hidden_sizes: [16, 8]\ncontrastive_weights: [0, 0.1]\nmodalities: [image, text]\n"
    )
    (shop / "q.yaml").write_text(content)
    assert main(["quantize", "--config", str(shop / "q.yaml"), "--output", str(shop / "ids2"), "--epochs", "1"]) == 0
    config = AutoModel.from_pretrained(shop / "ids2" / "quantizer").config
    assert (config.num_levels, config.hidden_sizes, config.contrastive_weights) == (2, (16, 8), (0.0, 0.1))
    assert [name for name, _ in config.modalities] == ["image", "text"]
    assert json.loads((shop / "ids2" / "training_log.json").read_text())[-1]["epoch"] == 1


def test_other_peoples_embeddings(shop):
    pairs = f"text={shop / 'emb' / 'text.npy'},image={shop / 'emb' / 'image.npy'}"
    flags = ["--item-ids", str(shop / "emb" / "item_ids.json"), "--max-steps", "1", *QUANTIZER]
    assert main(["quantize", "--embeddings", pairs, "--output", str(shop / "ids3"), *flags]) == 0
    assert SemanticIdTable.from_pretrained(shop / "ids3").item_ids == [f"{row:04}" for row in range(30)]


def test_quantize_resumes_bit_for_bit(shop, ids):
    words = ["quantize", "--embeddings", str(shop / "emb"), *QUANTIZER, "--evaluations", "4"]
    words += ["--lr-scheduler-type", "constant", "--warmup", "0"]  # a plan of four steps begins as one of eight
    assert main([*words, "--output", str(shop / "once"), "--max-steps", "8"]) == 0
    shorter = ["--max-steps", "4", "--evaluations", "2", "--keep-checkpoints"]
    assert main([*words, "--output", str(shop / "twice"), *shorter]) == 0
    assert main([*words, "--output", str(shop / "twice"), "--max-steps", "8", "--resume"]) == 0
    logs = [json.loads((shop / name / "training_log.json").read_text()) for name in ("once", "twice")]
    last = [[line for line in log if "eval_reconstruction_loss" in line][-1] for log in logs]
    assert last[0]["step"] == last[1]["step"] == 8
    assert last[0]["eval_reconstruction_loss"] == last[1]["eval_reconstruction_loss"]


def test_resuming_with_other_settings_is_refused(shop, ids, capsys):
    """From checkpoints; of a finished run that has none: test_run_folder.py."""
    words = ["quantize", "--embeddings", str(shop / "emb"), "--output", str(shop / "kept"), *QUANTIZER]
    assert main([*words, "--max-steps", "1", "--keep-checkpoints"]) == 0
    assert main([*words, "--max-steps", "2", "--resume", "--hidden-sizes", "8"]) == 1
    error = capsys.readouterr().err
    assert "expected the settings that" in error and "--hidden-sizes was [16], is [8]. Repeat the flags" in error
    words = ["train", "--interactions", str(shop / "interactions.csv"), "--semantic-ids", str(ids), *RECOMMENDER]
    words += ["--output", str(shop / "kept_model"), "--num-beams", "5"]
    assert main([*words, "--max-steps", "1", "--keep-checkpoints"]) == 0
    assert main([*words, "--max-steps", "2", "--resume", "--d-ff", "12"]) == 1
    assert "--d-ff was 24, is 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["quantize", "--embeddings", "nowhere", "--output", "{out}"], "got 'nowhere', where nothing is"),
        (["quantize", "--embeddings", "text=a.npy", "--output", "{out}"], "got 'text=a.npy', where nothing is"),
        (["quantize", "--embeddings", "text={emb}/text.npy", "--output", "{out}"], "needs --item-ids"),
        (["quantize", "--embeddings", "{emb}", "--output", "{out}", "--modalities", "sound"], "expected some of"),
        (["quantize", "--embeddings", "{emb}", "--output", "{file}/below"], "expected a folder that can be written"),
        (["quantize", "--embeddings", "{emb}", "--output", "{out}", *SMALL], "4 IDs, and 26 of 30 items are left"),
        (
            ["quantize", "--embeddings", "text=a.npy,text=b.npy", "--output", "{out}"],
            "Expected pairs such as text=a,image=b",
        ),
        (["quantize", "--embeddings", "text=a,text=b", "--output", "{out}"], "each name once"),
        (["quantize", "--config", "nowhere.yaml"], "expected a YAML file"),
        (["quantize", "--config", "{yaml}"], "'colour' is no flag of macrec quantize"),
        (["train", "--interactions", "nowhere.csv", "--semantic-ids", "{out}", "--output", "{out}"], "nowhere.csv"),
        (
            ["train", "--interactions", "{bought}", "--semantic-ids", "nowhere/", "--output", "{out}"],
            "error: --semantic-ids: expected 'nowhere/' to be a directory or a repository",
        ),
    ],
)
def test_one_clear_error(shop, tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.yaml").write_text("colour: red\n")
    (tmp_path / "bought.csv").write_text("user_id,item_id,timestamp\nu,i,1\n")
    places = dict(
        out=tmp_path / "out",
        emb=shop / "emb",
        bought=tmp_path / "bought.csv",
        file=tmp_path / "file",
        yaml=tmp_path / "bad.yaml",
    )
    assert main([word.format(**places) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1, "expected one line"
    assert not list((tmp_path / "out").glob("*")), "expected the error before any work"
    assert message in error and f"macrec {words[0]}: error:" in error and "Traceback" not in error


def test_help_version_and_unknown_verbs(capsys):
    assert main(["--help"]) == 0 and "macrec VERB" in capsys.readouterr().out
    assert main(["--version"]) == 0
    pattern = r"macrec_hf 0\.\S+ \(transformers 5\.\S+, torch 2\.\S+, Python 3\.\S+\)\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)
    assert main(["bake"]) == 2 and "'bake' is no verb" in capsys.readouterr().err
    for verb, words in {
        "quantize": ["default: by --size, or 256; paper: M = 256"],
        "train": ["default: by --size, or 128; authors' code"],
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert stopped.value.code == 0 and all(word in shown for word in words)


# `python -m macrec_hf.cli`, ended where torch is there and the seconds that transformers takes would begin.
USES_TORCH = """
import runpy, sys
class End:
    def find_spec(self, name, *rest):
        if name.startswith("transformers.") and hasattr(sys.modules.get("torch"), "compile"):
            sys.exit()
sys.meta_path.insert(0, End())
sys.argv[1:] = ["recommend", "--model", "nowhere", "--history", "i1"]
runpy.run_module("macrec_hf.cli", run_name="__main__")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what GNU's thread library says of itself")
@pytest.mark.parametrize(
    "command, chosen, spins",
    [
        (["-c", USES_TORCH], {}, "0"),
        (["-c", USES_TORCH], {"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"),
        # The library's default: who imports the package, or calls `main` with words of their own, chooses.
        (["-c", "import macrec_hf.cli, torch; macrec_hf.cli.main(['--version'])"], {}, "300000"),
    ],
)
def test_waiting_threads_of_the_command_line_sleep(command, chosen, spins):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **chosen}
    shown = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in shown.stderr


def test_a_summary_counts_from_the_start_by_a_clock_that_cannot_go_backwards(model, monkeypatch, capsys):
    """The process's start where it is the command line, the verb's where a process runs several."""
    words = ["recommend", "--model", str(model), "--history", "0001"]
    clock = itertools.count(1e9, -60)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(sys.modules["macrec_hf.cli.main"], "_STARTED", time.monotonic() - 120)
    assert main(words) == 0
    assert re.search(r"for 1 user in \d+\.\d s\n", capsys.readouterr().out)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which else would stay set
    monkeypatch.setattr(sys, "argv", ["macrec", *words])
    assert main() == 0
    assert re.search(r"for 1 user in 2 min \d+ s\n", capsys.readouterr().out)


CHEAP = [["--help"], ["--version"], ["bake"]]
# Not these two: their flags are fields of transformers' own training arguments, which load torch.
CHEAP += [[verb, "--help"] for verb in VERBS if verb not in ("quantize", "train")]


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_asking_for_help_costs_less_than_loading_torch(words, cost_of_torch):
    tries = (processor_seconds("-m", "macrec_hf.cli", *words) for _ in range(3))
    assert any(seconds < cost_of_torch / 2 for seconds in tries)


@pytest.fixture(scope="module")
def cost_of_torch():
    return processor_seconds("-c", "import torch")


def processor_seconds(*words: str) -> float:
    """User and system time of a Python process."""
    before = os.times()
    subprocess.run([sys.executable, *words], capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_readers_of_flag_values():
    assert read_numbers("512,256") == (512, 256) and read_numbers("0,0.1") == (0, 0.1) and read_bool("No") is False
    assert read_pairs("image=b.npy,text=a.npy") == {"image": "b.npy", "text": "a.npy"} and read_pairs("emb/") is None
    for reader, text in ((read_numbers, "a,b"), (read_bool, "maybe")):
        with pytest.raises(Exception, match="expected"):
            reader(text)
