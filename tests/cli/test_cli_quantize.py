"""`macrec quantize --method residual-kmeans`, and what comes after it."""

import json
import re

import numpy as np
import pytest
import torch

from macrec_hf import EmbeddingStore, MacRecRecommender, SemanticIdTable
from macrec_hf.catalogue.residual_kmeans import residual_kmeans
from macrec_hf.cli.main import main

SIZES = ["--num-levels", "2", "--codebook-size", "8"]
TRAINING = "--d-model 8 --d-kv 4 --d-ff 8 --num-heads 2 --num-layers 1 --num-decoder-layers 1 --max-steps 2".split()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal((30, size)).astype("f4") for name, size in (("text", 6), ("image", 5))}
    EmbeddingStore(arrays, missing={"image": ["7"]}).save(folder / "emb")
    lines = [f"{user},{item},{time}" for user in range(8) for time, item in enumerate(random.permutation(30)[:5])]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    words = ["quantize", "--embeddings", str(folder / "emb"), "--output", str(folder / "ids"), *SIZES, "--seed", "3"]
    assert main([*words, "--method", "residual-kmeans"]) == 0
    return folder


def test_it_writes_what_the_trained_quantizer_writes(shop):
    table, store = SemanticIdTable.from_pretrained(shop / "ids"), EmbeddingStore.open(shop / "emb")
    assert table.collision_rate("text") == 0 and (table.codes["image"][7] == -1).all()
    report = json.loads((shop / "ids" / "report.json").read_text())
    assert report["steps"] == 0 and report["collisions"]["text"]["num_items"] == 30
    (line,) = json.loads((shop / "ids" / "training_log.json").read_text())
    assert line["step"] == 0 and line["settings"]["seed"] == 3 and line["settings"]["method"] == "residual-kmeans"
    expected = residual_kmeans(store, 2, 8, seed=3).encode({"text": torch.from_numpy(np.array(store.arrays["text"]))})
    kept = int((expected["text"] == table.codes["text"]).all(1).sum())
    assert kept == 30 - report["collisions"]["text"]["num_moved"]


def test_doctor_train_and_new_items_go_on_from_there(shop, capsys):
    words = ["doctor", str(shop / "ids"), "--embeddings", str(shop / "emb"), "--json", "--map", "none"]
    assert main(words) == 0
    before = json.loads(capsys.readouterr().out)["modalities"]["text"]["collisions"]["before"]
    report = json.loads((shop / "ids" / "report.json").read_text())
    assert before == pytest.approx(report["collisions"]["text"]["collision_rate_before"])
    words = ["train", "--interactions", str(shop / "interactions.csv"), "--semantic-ids", str(shop / "ids")]
    assert main([*words, "--output", str(shop / "model"), "--num-beams", "5", *TRAINING]) == 0
    card = (shop / "model" / "README.md").read_text()
    assert "residual k-means without any training" in card and "cross-modal contrastive" not in card
    recommender = MacRecRecommender.from_pretrained(shop / "model")
    rows = np.random.default_rng(1).standard_normal((1, 6)).astype("f4")
    recommender.add_items({"text": rows, "image": rows[:, :5]}, ["new"])
    assert recommender.table.item_ids[-1] == "new"
    assert len(recommender.recommend([["new", "3"]], top_k=4)[0]) == 4


def test_a_training_does_not_go_on_from_it(shop, capsys):
    words = ["quantize", "--embeddings", str(shop / "emb"), "--output", str(shop / "ids"), *SIZES]
    assert main([*words, "--contrastive-weights", "0,0", "--resume"]) == 1
    assert "--method was residual-kmeans, is macrec" in capsys.readouterr().err
    assert SemanticIdTable.from_pretrained(shop / "ids").num_items == 30


@pytest.mark.parametrize(
    "words, message",
    [
        (["--epochs", "3", "--hidden-sizes", "8"], "expected no flag of a training, got --epochs, --hidden-sizes"),
        (["--resume"], "got --resume. It takes --embeddings"),
        (["--tf32", "true"], "got --tf32.*did you mean --method macrec"),
        (["--codebook-size", "2"], "space"),
    ],
)
def test_what_says_how_to_train_is_refused(shop, tmp_path, capsys, words, message):
    flags = ["--embeddings", str(shop / "emb"), "--output", str(tmp_path / "ids"), *SIZES, *words]
    assert main(["quantize", *flags, "--method", "residual-kmeans"]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "ids" / "semantic_ids.json").exists()
