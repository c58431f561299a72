"""`macrec doctor` on index files, on a folder of IDs and on a model directory."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from macrec_hf import (
    EmbeddingStore,
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    SemanticIdTable,
    SemanticIdTokenizer,
    add_items,
    build_semantic_ids,
)
from macrec_hf.cli import main
from macrec_hf.hub.saving import save_model_directory
from macrec_hf.model.blend import Blend

INSTRUMENTS = Path(__file__).parents[2].parent / "shared" / "data" / "instruments"
ITEMS = 60


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Embeddings, IDs with their quantizer, items with photos and a model directory."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    ids = [f"{row:03}" for row in range(ITEMS)]
    arrays = {name: random.standard_normal((ITEMS, 6)).astype("f4") for name in ("text", "image")}
    store = EmbeddingStore(arrays, ids)
    store.save(folder / "emb")
    torch.manual_seed(0)
    quantizer = MacRecQuantizer(
        MacRecQuantizerConfig(
            modalities={"text": 6, "image": 6}, num_levels=2, codebook_size=16, codebook_dim=4, hidden_sizes=(8,),
            contrastive_weights=(0.0, 0.1),
        )
    )  # fmt: skip
    quantizer.config.embeddings_fingerprint = store.fingerprint()
    table = build_semantic_ids(quantizer, store)
    table.save_pretrained(folder / "ids")
    quantizer.save_pretrained(folder / "ids" / "quantizer")
    tokenizer = SemanticIdTokenizer.from_table(table)
    model = MacRecForConditionalGeneration(
        MacRecConfig(vocab_size=len(tokenizer), num_levels=2, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    titles = {item: f"Thing {item}" for item in ids}
    save_model_directory(
        folder / "model", model=model, tokenizer=tokenizer, table=table, quantizer=quantizer, item_titles=titles
    )
    Image.new("RGB", (20, 30), "blue").save(folder / "blue.jpg")
    lines = [json.dumps({"item_id": item, "title": f"Shirt {item}", "image": "blue.jpg"}) for item in ids]
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder


def doctor(*words):
    return main(["doctor", *map(str, words)])


def test_a_folder_of_ids_with_embeddings_and_items(shop, tmp_path, capsys):
    page = tmp_path / "report.html"
    words = ["--embeddings", shop / "emb", "--items", shop / "items.jsonl", "--map", "pca"]
    assert doctor(shop / "ids", *words, "--output", page) == 0
    out = capsys.readouterr().out
    said, figures, following = out.splitlines()
    assert re.match(r"(Usable, but not as good as it could be|Worth mending before training): .*, so that .*\.$", said)
    assert re.match(
        r"60 items, 10 of 13 checks could be made: \d+ to look at \(.*\) in .* s: .*report\.html$", figures
    )
    train = "macrec train --interactions interactions.csv --semantic-ids "
    first = "before training, mend that. " if said.startswith("Worth mending before training") else train
    assert following.startswith(f"Next: {first}") and train in following
    text = page.read_text()
    assert "Shirt 0" in text and text.count("data:image/jpeg;base64,") >= 16 and "<h2>Maps" in text
    assert not re.search(r"https?:|<script|<link", re.sub(r'src="data:[^"]*"', "", text))
    before = SemanticIdTable.from_pretrained(shop / "ids").report["text"]["collision_rate_before"]
    assert before > 0 and f"{before:.2%}" in text
    assert not list(tmp_path.glob("*.partial"))


def test_photos_outside_the_folder_are_shown_only_when_allowed(shop, tmp_path, capsys, caplog):
    rows = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    named = [{**row, "image": row["image"] and str((shop / row["image"]).resolve())} for row in rows]
    items = tmp_path / "elsewhere.jsonl"
    items.write_text("\n".join(map(json.dumps, named)))
    page = tmp_path / "report.html"
    assert doctor(shop / "ids", "--items", items, "--map", "none", "--output", page) == 0
    assert page.read_text().count("data:image/jpeg;base64,") == 0
    assert "photos lie outside the folder of the items file" in caplog.text
    assert doctor(shop / "ids", "--items", items, "--map", "none", "--output", page, "--allow-outside") == 0
    assert page.read_text().count("data:image/jpeg;base64,") >= 16


def test_json_alone_writes_no_page(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert doctor(shop / "ids", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    table = SemanticIdTable.from_pretrained(shop / "ids")
    assert figures["modalities"]["image"]["levels"][0]["used"] == len(set(table.codes["image"][:, 0].tolist()))
    assert figures["modalities"]["text"]["collisions"]["moved"] == table.report["text"]["num_moved"] > 0
    assert len(figures["checks"]) == 13 and figures["similarity"] == {}
    assert figures["contrastive_weights"] == [0.0, 0.1], "the quantizer's, by which advice goes"
    assert not list(tmp_path.iterdir())
    assert doctor(shop / "ids") == 0 and (tmp_path / "report.html").is_file()


def test_a_model_directory_knows_titles_and_collisions(shop, tmp_path, capsys):
    assert doctor(shop / "model", "--output", tmp_path / "page.html", "--json") == 0
    figures, page = json.loads(capsys.readouterr().out), (tmp_path / "page.html").read_text()
    assert figures["modalities"]["text"]["collisions"]["before"] > 0
    assert "Thing 0" in page and "data:image" not in page


def test_a_model_with_a_blend_is_told_with_its_sources(shop, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(shop / "model", folder)
    about = {
        "num_users": 30, "num_purchases": 30, "target_among_candidates": 0.9, "best_source": "model",
        "ndcg@10": {"model": 0.25, "popularity": 0.1, "blend": 0.5}, "weights": {"model_text": [0.3, 0.1]},
        "window": 5,
    }  # fmt: skip
    Blend({"model_text": 1.0}, "blend", about).save(folder)
    assert doctor(folder, "--output", tmp_path / "page.html") == 0
    second = capsys.readouterr().out.splitlines()[1]
    assert second.startswith("Recommendations are made by the blend of model and purchases, which scores 0.500; the")
    assert "What recommendations rest on" in (tmp_path / "page.html").read_text()
    assert doctor(folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["blend"]["ndcg@10"] == {"blend": 0.5, "model": 0.25, "popularity": 0.1}
    assert doctor(shop / "model", "--json") == 0 and json.loads(capsys.readouterr().out)["blend"] is None


def test_collisions_that_nobody_recorded_are_counted_again(shop, tmp_path, capsys):
    table = SemanticIdTable.from_pretrained(shop / "ids")
    recorded, table.report = table.report, {}
    table.save_pretrained(tmp_path / "ids")
    assert doctor(tmp_path / "ids", "--json") == 0
    assert json.loads(capsys.readouterr().out)["modalities"]["text"]["collisions"]["before"] is None
    (tmp_path / "ids" / "quantizer").symlink_to(shop / "ids" / "quantizer")
    assert doctor(tmp_path / "ids", "--embeddings", shop / "emb", "--json") == 0
    found = json.loads(capsys.readouterr().out)["modalities"]
    for name in ("text", "image"):
        assert found[name]["collisions"]["before"] == pytest.approx(recorded[name]["collision_rate_before"])
        assert found[name]["collisions"]["moved"] == recorded[name]["num_moved"]
    other = EmbeddingStore({name: np.ones((ITEMS, 6), dtype="f4") for name in ("text", "image")}, table.item_ids)
    other.save(tmp_path / "other")
    assert doctor(tmp_path / "ids", "--embeddings", tmp_path / "other", "--json") == 0
    assert json.loads(capsys.readouterr().out)["modalities"]["text"]["collisions"]["before"] is None


def test_collisions_of_items_that_came_later_are_not_the_catalogues(shop, tmp_path, capsys):
    store, quantizer = EmbeddingStore.open(shop / "emb"), MacRecQuantizer.from_pretrained(shop / "ids" / "quantizer")
    first = build_semantic_ids(quantizer, store.take(range(ITEMS - 2)))
    add_items(first, quantizer, store.take([ITEMS - 2, ITEMS - 1])).save_pretrained(tmp_path / "grown")
    assert doctor(tmp_path / "grown", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    told = report["modalities"]["text"]
    assert told["num_items"] == ITEMS and told["collisions"]["before"] is told["collisions"]["moved"] is None
    assert doctor(tmp_path / "grown", "--output", tmp_path / "page.html") == 0
    made = sum(check["status"] != "unknown" for check in report["checks"])
    assert made < len(report["checks"])
    assert f"{ITEMS} items, {made} of {len(report['checks'])} checks could be made: " in capsys.readouterr().out


def test_published_ids_are_read_and_judged(capsys):
    if not INSTRUMENTS.is_dir():
        pytest.skip("needs ../shared/data/instruments")
    files = [INSTRUMENTS / f"Instruments.index_{name}.json" for name in ("lemb", "vitemb")]
    assert doctor(f"text={files[0]},image={files[1]}", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    # 5,988 distinct text IDs over 6,250 items, as the data's own description says.
    assert figures["modalities"]["text"]["collisions"]["after"] == pytest.approx(262 / 6250)
    assert figures["modalities"]["image"]["collisions"]["after"] == 0
    titles = [check["title"] for check in figures["checks"] if check["status"] == "warning"]
    assert "Collapsed codebook" in titles and "Items that share an ID" in titles


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all"], "Expected 'nowhere/at/all' to be a folder, a repository of the Hub"),
        (["{shop}"], "Expected semantic_ids.json in"),
        (["{shop}/ids", "--output", "{shop}/no/page.html"], "expected a folder {shop}/no to write into"),
        (["{shop}/ids", "--items", "{shop}/none.jsonl"], "none.jsonl"),
        (["{shop}/ids", "--items", "{shop}/other.jsonl"], "items: expected the items of the semantic IDs"),
        (["{shop}/ids", "--embeddings", "{shop}/ids"], "expected a folder of embeddings with item_ids.json"),
        (["text={shop}/none.json"], "Expected an index.json of modality 'text'"),
    ],
)
def test_what_cannot_be_examined_is_said(words, message, shop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (shop / "other.jsonl").write_text(json.dumps({"item_id": "x", "title": "Other"}))
    assert doctor(*(word.format(shop=shop) for word in words)) == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("macrec doctor: error: ") and message.format(shop=shop) in err
    assert not list(tmp_path.iterdir())


def test_photos_in_a_column_of_another_name_are_asked_for(shop, tmp_path, caplog):
    lines = [json.dumps({"item_id": f"{row:03}", "title": "Shirt", "photo": "blue.jpg"}) for row in range(ITEMS)]
    (shop / "other.jsonl").write_text("\n".join(lines))
    words = ["doctor", shop / "ids", "--items", shop / "other.jsonl", "--output", tmp_path / "page.html"]
    assert main(list(map(str, words))) == 0
    assert "other.jsonl: no photos to show" in caplog.text and "--image-column" in caplog.text
    caplog.clear()
    assert main(list(map(str, [*words, "--image-column", "photo"]))) == 0 and "no photos" not in caplog.text
    (shop / "other.jsonl").write_text("\n".join(lines).replace("photo", "image").replace("blue.jpg", ""))
    assert main(list(map(str, words))) == 0 and "no photos" not in caplog.text  # a shop without photos knows it
