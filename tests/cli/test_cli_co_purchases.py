"""Embeddings of purchases from `macrec embed` to `macrec evaluate`, which refuse IDs that know what is predicted."""

import json

import numpy as np
import pytest

from macrec_hf import (
    EmbeddingStore,
    MacRecQuantizer,
    SemanticIdTable,
    add_items,
    co_purchase_ids,
    read_interactions,
)
from macrec_hf.cli.main import main

QUANTIZER = "--hidden-sizes 16 --codebook-size 8 --codebook-dim 4 --num-levels 2 --num-pseudo-labels 4 --max-steps 2"
RECOMMENDER = "--d-model 16 --d-kv 8 --d-ff 16 --num-layers 1 --num-decoder-layers 1 --num-heads 2 --max-steps 1"
NUM_ITEMS = 24


def call(verb, *words):
    return main([verb, *(str(word) for part in words for word in (part.split() if isinstance(part, str) else [part]))])


def write_purchases(path, last=None):
    generator, lines = np.random.default_rng(0), ["user_id,item_id,timestamp"]
    for user in range(16):
        bought = 12 * (user % 2) + generator.permutation(12)[:6]
        bought[-2:] = bought[-2:] if last is None else last
        lines += [f"u{user},i{item},2020-0{1 + day // 3}-{1 + day % 3:02}" for day, item in enumerate(bought)]
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """items.jsonl, interactions.csv, and emb/ and ids/ with purchases as a second modality."""
    folder = tmp_path_factory.mktemp("shop")
    items = [{"item_id": f"i{item}", "title": f"word{item % 5} thing{item % 7}"} for item in range(NUM_ITEMS)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    write_purchases(folder / "interactions.csv")
    words = ["--items", folder / "items.jsonl", "--interactions", folder / "interactions.csv", "--image-model", "none"]
    assert call("embed", *words, "--output", folder / "emb") == 0
    assert call("quantize", "--embeddings", folder / "emb", "--output", folder / "ids", QUANTIZER) == 0
    return folder


def test_files_of_the_folder_are_known_to_be_of_purchases(shop):
    files = {name: shop / "emb" / f"{name}.npy" for name in ("text", "purchases")}
    learned = EmbeddingStore.from_files(files, shop / "emb" / "item_ids.json").learned_from
    assert learned == EmbeddingStore.open(shop / "emb").learned_from and list(learned) == ["purchases"]
    renamed = EmbeddingStore.from_files({"other": files["purchases"]}, shop / "emb" / "item_ids.json")
    assert list(renamed.learned_from) == ["other"]


def test_items_may_say_item_id_where_purchases_do_not(shop, tmp_path):
    (tmp_path / "bought.csv").write_text((shop / "interactions.csv").read_text().replace("item_id", "sku", 1))
    words = ["--items", shop / "items.jsonl", "--output"]
    bought = ["--interactions", tmp_path / "bought.csv", "--item-column sku --image-model none"]
    assert call("embed", *words, tmp_path / "emb", *bought) == 0
    assert EmbeddingStore.open(tmp_path / "emb").fingerprint() == EmbeddingStore.open(shop / "emb").fingerprint()
    assert call("embed", *words, tmp_path / "later", "--like", tmp_path / "emb") == 0


def test_train_and_evaluate_take_ids_of_training_purchases_and_no_others(shop, tmp_path, capsys):
    assert EmbeddingStore.open(shop / "emb").learned_from["purchases"]["split"] == "leave-one-out"
    words = ["--semantic-ids", shop / "ids", "--output", tmp_path / "model", RECOMMENDER]
    write_purchases(tmp_path / "exchanged.csv", last=[0, 13])
    assert call("train", "--interactions", tmp_path / "exchanged.csv", *words) == 0  # others test, the same train
    assert call("evaluate", tmp_path / "model", "--interactions", shop / "interactions.csv") == 0
    with (shop / "interactions.csv").open() as file, (tmp_path / "grown.csv").open("w") as grown:
        grown.write(file.read() + "\nu0,i20,2020-03-01")
    capsys.readouterr()
    assert call("evaluate", tmp_path / "model", "--interactions", tmp_path / "grown.csv") == 1
    assert "the purchases that train here" in capsys.readouterr().err
    words[3] = tmp_path / "second"
    assert call("train", "--interactions", tmp_path / "grown.csv", *words) == 1
    assert call("train", "--interactions", shop / "interactions.csv", "--until", "2020-02-03", *words) == 1
    shown = capsys.readouterr().err
    assert "Was the file exchanged, or did it grow" in shown
    assert "expected semantic IDs made from purchases before 2020-02-03" in shown and "Traceback" not in shown
    assert not (tmp_path / "second").exists()


def test_a_t5_trains_on_ids_of_spectral_clusters(shop, tmp_path, capsys):
    interactions = read_interactions(shop / "interactions.csv")
    ids = [f"i{item}" for item in range(NUM_ITEMS)]
    co_purchase_ids(interactions, ids, num_levels=2, num_clusters=3, codebook_size=8).save_pretrained(tmp_path / "ids")
    words = ["--semantic-ids", tmp_path / "ids", "--interactions", shop / "interactions.csv", RECOMMENDER]
    assert call("train", *words, "--output", tmp_path / "model") == 0
    assert SemanticIdTable.from_pretrained(tmp_path / "model").report["purchases"]["learned_from"]["until"] is None
    assert call("evaluate", tmp_path / "model", "--interactions", shop / "interactions.csv") == 0
    with (shop / "interactions.csv").open() as file, (tmp_path / "grown.csv").open("w") as grown:
        grown.write(file.read() + "\nu0,i20,2020-03-01")
    assert call("evaluate", tmp_path / "model", "--interactions", tmp_path / "grown.csv") == 1


def test_by_time_the_purchases_before_validation_are_learned(shop, tmp_path):
    words = ["--items", shop / "items.jsonl", "--interactions", shop / "interactions.csv", "--image-model", "none"]
    assert call("embed", *words, "--until", "2020-02-03", "--output", tmp_path / "plain") == 0
    assert list(EmbeddingStore.open(tmp_path / "plain").modalities) == ["text"]
    assert call("embed", *words, "--until", "2020-02-03", "--co-purchases", "--output", tmp_path / "emb") == 0
    about = EmbeddingStore.open(tmp_path / "emb").learned_from["purchases"]
    assert about.items() >= {"split": "time", "until": "2020-02-03"}.items()


def test_refusals_of_embed(shop, tmp_path, capsys):
    items = ["--items", shop / "items.jsonl", "--output", tmp_path / "x"]
    purchases = ["--interactions", shop / "interactions.csv"]
    for words, message in (
        ([*items, "--co-purchases"], "--co-purchases: expected purchases to learn from, got no --interactions FILE"),
        (
            [*items, *purchases, "--like", shop / "emb"],
            "--like embeds items that arrive later, which nobody has bought",
        ),
    ):
        assert call("embed", *words) == 1
        assert message in capsys.readouterr().err


def test_items_that_arrive_later_get_ids_without_purchases(shop, tmp_path):
    arrived = [{"item_id": f"new{item}", "title": f"word{item} thing{item}"} for item in range(3)]
    (tmp_path / "arrived.jsonl").write_text("\n".join(map(json.dumps, arrived)))
    assert (
        call("embed", "--items", tmp_path / "arrived.jsonl", "--output", tmp_path / "x", "--like", shop / "emb") == 0
    )
    later, store = EmbeddingStore.open(tmp_path / "x"), EmbeddingStore.open(shop / "emb")
    assert later.modalities == store.modalities and not later.present["purchases"].any()
    quantizer = MacRecQuantizer.from_pretrained(shop / "ids" / "quantizer")
    grown = add_items(SemanticIdTable.from_pretrained(shop / "ids"), quantizer, later)
    assert (grown.codes["purchases"][-3:] == -1).all() and (grown.codes["text"][-3:] >= 0).all()
    assert grown.report["purchases"]["learned_from"] == store.learned_from["purchases"]
