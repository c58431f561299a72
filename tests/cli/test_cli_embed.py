import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, ViTConfig, ViTImageProcessorPil, ViTModel

from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.cli import main

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
COLOURS = [(200, 30, 30), (40, 60, 200), (30, 160, 60), (220, 200, 40)]
TITLES = ["red mug", "blue mug", "green lamp", "yellow lamp"]


@pytest.fixture
def shop(tmp_path):
    """Four items with photos; the third photo is broken, the fourth item has no text."""
    rows = []
    for number, (colour, title) in enumerate(zip(COLOURS, TITLES, strict=True)):
        Image.new("RGB", (24, 24), colour).save(tmp_path / f"{number}.png")
        rows.append({"item_id": f"0{number}", "title": title, "text": "", "image": f"{number}.png"})
    (tmp_path / "2.png").write_bytes(b"not a picture")
    rows[3]["title"] = ""
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def embed(shop, *flags, items="items.jsonl", output="emb"):
    return main(["embed", "--items", str(shop / items), "--output", str(shop / output), *map(str, flags)])


def test_offline_by_default(shop, capfd, caplog):
    assert embed(shop) == 0
    out = capfd.readouterr().out
    assert [line.split(" ")[0] for line in out.splitlines()] == ["4", "Next:"]
    whole = (
        "4 items, 3 with text (encoder offline, 2 numbers each, from title), 3 with image (encoder offline, 2 numbers"
    )
    assert whole in out
    assert "02: 2.png: no picture, or in none of the formats" in caplog.text
    store = EmbeddingStore.open(shop / "emb")
    assert store.modalities == {"text": 2, "image": 2}
    assert store.item_ids == ["00", "01", "02", "03"]
    assert store.present["text"].tolist() == [True, True, True, False]
    assert store.present["image"].tolist() == [True, True, False, True]


def test_texts_in_columns_of_other_names_are_not_passed_over_in_silence(shop, capfd, caplog):
    header, rows = "sku;name;category;photo", [f"{number};{title};mug;0.png" for number, title in enumerate(TITLES)]
    (shop / "items.csv").write_text("\n".join([header, *rows]))
    words = ["--item-column", "sku", "--image-column", "photo"]
    assert embed(shop, *words, items="items.csv") == 0
    assert "1 number each, from category), 4 with image" in capfd.readouterr().out
    assert "No item has a title or a text" in caplog.text and "--title-column" in caplog.text
    caplog.clear()
    assert embed(shop, *words, "--title-column", "name", "--overwrite", items="items.csv") == 0
    assert "from title, category), 4 with image" in capfd.readouterr().out
    assert embed(shop, *words, "--text-columns", "name", "--overwrite", items="items.csv") == 0
    assert "from name), 4 with image" in capfd.readouterr().out and "No item has a title" not in caplog.text
    assert embed(shop, *words, "--text-model", "none", "--overwrite", items="items.csv") == 0
    assert "from" not in capfd.readouterr().out and "No item has a title" not in caplog.text


def test_a_catalogue_of_one_word(shop):
    (shop / "items.csv").write_text("item_id,title\n1,mug\n2,mug\n3,\n")
    assert embed(shop, items="items.csv") == 0
    store = EmbeddingStore.open(shop / "emb")
    assert store.arrays["text"].tolist() == [[0], [0], [0]] and store.present["text"].tolist() == [True, True, False]
    (shop / "items.csv").write_text("item_id,title\n1,mug\n2,\n")
    assert embed(shop, "--overwrite", items="items.csv") == 0
    (shop / "later.csv").write_text("item_id,title\n8,mug\n9,lamp\n")
    assert embed(shop, "--like", shop / "emb", items="later.csv", output="later") == 0


def test_models_by_path_with_flags(shop, capfd):
    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "mug": 3, "blue": 4}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        shop / "bert"
    )
    BertModel(BertConfig(vocab_size=8, **TOWER)).save_pretrained(shop / "bert")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **TOWER)).save_pretrained(shop / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(shop / "vit")
    flags = ["--text-model", shop / "bert", "--image-model", shop / "vit", "--pooling", "cls", "--batch-size", 2,
             "--max-length", 1, "--device", "cpu", "--no-standardize"]  # fmt: skip
    assert embed(shop, *flags) == 0
    store = EmbeddingStore.open(shop / "emb")
    with torch.no_grad():
        expected = BertModel.from_pretrained(shop / "bert").eval()(torch.tensor([[2]])).last_hidden_state[0, 0]
    np.testing.assert_allclose(store.arrays["text"][0], expected.numpy(), rtol=1e-4, atol=1e-5)
    about = json.loads((shop / "emb" / "meta.json").read_text())["modalities"]
    assert about["text"]["encoder"] == str(shop / "bert")
    assert about["text"]["settings"] == {
        "pooling": "cls",
        "max_length": 1,
        "standardize": False,
        "columns": ["title", "text"],
        "item_column": "item_id",
        "title_column": "title",
        "image_column": "image",
        "missing_reasons": {"03": "empty text"},
    }
    assert about["image"]["dimension"] == 16
    # Items that arrive later, with the same encoders
    assert embed(shop, "--like", shop / "emb", "--device", "cpu", output="later") == 0
    later = EmbeddingStore.open(shop / "later")
    for modality in ("text", "image"):
        np.testing.assert_allclose(later.arrays[modality], store.arrays[modality], rtol=1e-4, atol=1e-5)


def test_one_modality_on_request_or_for_want_of_photos(shop):
    assert embed(shop, "--image-model", "none") == 0
    assert list(EmbeddingStore.open(shop / "emb").modalities) == ["text"]
    (shop / "texts.csv").write_text("item_id,title\na,red mug\nb,blue lamp\nc,red lamp\n")
    assert embed(shop, items="texts.csv", output="texts") == 0
    assert list(EmbeddingStore.open(shop / "texts").modalities) == ["text"]
    assert not (shop / "texts" / "image.npy").exists()


def test_text_columns(shop):
    (shop / "items.csv").write_text("item_id,title,maker\na,mug,fox\nb,mug,owl\nc,mug,fox\n")
    assert embed(shop, "--text-columns", "maker", items="items.csv") == 0
    rows = EmbeddingStore.open(shop / "emb").arrays["text"]
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-5)
    assert np.linalg.norm(rows[0] - rows[1]) > 1


def test_columns_of_words_that_are_not_read_are_named(shop, capsys, caplog):
    rows = [
        {"item_id": "a", "title": "mug", "description": "of clay", "made in": "Spain", "price": 3, "sku": "X1"},
        {"item_id": "b", "title": "lamp", "description": "of glass", "made in": "Italy", "price": 4, "sku": "X2"},
        {"item_id": "c", "title": "rug", "description": "of wool", "made in": "Spain", "price": "5", "sku": "X3"},
    ]
    pictures = [{"photo": f"photos/{row['item_id']}.png", "page": f"https://shop/{row['item_id']}"} for row in rows]
    more = [
        {
            "cost": f"{n}.99 EUR",
            "since": f"2020-01-0{n}T00:00:00Z",
            "gift": n > 1,
            "tone": f"#ff00a{n}",
            "use": f"in/outdoor {n}",
        }
        for n in (1, 2, 3)
    ]
    aisles = ["Home/Kitchen", "Home/Living", "Home/Living"]
    lines = [
        json.dumps(row | picture | further | {"note": " ", "aisle": aisle})
        for row, picture, further, aisle in zip(rows, pictures, more, aisles, strict=True)
    ]
    (shop / "rich.jsonl").write_text("\n".join(lines))
    assert embed(shop, "--image-model", "none", items="rich.jsonl") == 0
    told = capsys.readouterr().out
    assert "Not read: description, made in, use, aisle, which hold words too." in told
    assert "--text-columns 'title,description,made in,use,aisle'\n" in told
    everything = ["--image-model", "none", "--overwrite", "--text-columns", "title,description,made in"]
    assert embed(shop, *everything, items="rich.jsonl") == 0
    assert "from title, description, made in)" in (told := capsys.readouterr().out) and "Not read" not in told
    assert embed(shop, "--image-model", "none", "--overwrite", "--text-columns", "title,note", items="rich.jsonl") == 0
    assert "no item has a word in 'note'" in caplog.text


def embeddings(folder):
    return EmbeddingStore.open(folder).arrays


def test_later_items_are_read_from_the_same_columns(shop, caplog):
    """Ids, titles, photos and texts stand in other columns than the usual ones, which hold something else."""
    usual = {"item_id": "x", "title": "pink", "text": "silver", "image": "none.png", "brand": "acme"}
    rows = [
        {**usual, "sku": f"s{number}", "name": title, "photo": f"{number}.png", "note": f"note {number}"}
        for number, title in enumerate(["red mug", "blue mug", "no photo", "yellow lamp"])
    ]
    (shop / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (shop / "later.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    flags = ["--item-column", "sku", "--title-column", "name", "--image-column", "photo"]
    assert embed(shop, *flags, "--text-columns", "title,note", items="all.jsonl") == 0
    assert embed(shop, "--like", shop / "emb", items="later.jsonl", output="later") == 0
    assert EmbeddingStore.open(shop / "later").item_ids == ["s0", "s1"]
    for modality, later in embeddings(shop / "later").items():
        np.testing.assert_allclose(later, embeddings(shop / "emb")[modality][:2], atol=1e-6)
    # and those after them are embedded like the later ones
    assert embed(shop, "--like", shop / "later", items="later.jsonl", output="last") == 0
    np.testing.assert_allclose(embeddings(shop / "last")["text"], embeddings(shop / "later")["text"], atol=1e-6)
    caplog.clear()
    given = ["--like", shop / "emb", "--title-column", "title", "--text-columns", "brand,title"]
    assert embed(shop, *given, items="later.jsonl", output="other") == 0
    assert "['brand', 'title'] are read, the earlier items were embedded by ['title', 'note']" in caplog.text
    rows = [{"sku": "n", "name": "red mug", "photo": "0.png"}]
    (shop / "less.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert embed(shop, "--like", shop / "emb", items="less.jsonl", output="less") == 0
    assert "the table has no ['note'], by which the earlier items were embedded too" in caplog.text


def test_columns_that_are_none_are_refused(shop, capfd):
    assert embed(shop) == 0
    meta = shop / "emb" / "meta.json"
    content = json.loads(meta.read_text())
    content["modalities"]["text"]["settings"]["columns"] = 5
    meta.write_text(json.dumps(content))
    assert embed(shop, "--like", shop / "emb", output="later") == 1
    assert "meta.json: expected the names of the text columns in 'columns', got 5" in capfd.readouterr().err


def test_later_items_leave_columns_out_that_the_first_did_not_have(shop):
    first = [{"item_id": str(number), "title": title} for number, title in enumerate(TITLES)]
    later = [{**row, "brand": "acme", "category": "kitchen"} for row in first]
    for name, rows in (("first", first), ("later", later)):
        (shop / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert embed(shop, items="first.jsonl") == 0
    assert embed(shop, "--like", shop / "emb", items="later.jsonl", output="later") == 0
    np.testing.assert_allclose(embeddings(shop / "later")["text"], embeddings(shop / "emb")["text"], atol=1e-6)


def test_flags_from_yaml(shop):
    (shop / "embed.yaml").write_text("image-model: none\nbatch_size: 2\n")
    assert embed(shop, "--config", shop / "embed.yaml") == 0
    assert list(EmbeddingStore.open(shop / "emb").modalities) == ["text"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text-model", "none", "--image-model", "none"], "expected at least one modality"),
        (["--like", "x", "--text-model", "offline"], "--like takes models and pooling from the earlier folder"),
        (["--like", "x", "--max-length", "9"], "--like takes length, seed and standardising from the earlier folder"),
        (["--like", "nowhere"], "expected a folder that `macrec embed` wrote"),
        (["--pooling", "cls"], "--pooling says how a model's states become one vector: expected --text-model"),
        (["--text-model", "no/such/model"], "no/such/model: expected a folder, or the name of a model of the Hub"),
        (["--text-columns", "colour"], r"--text-columns: expected columns of the items, .*, got also \['colour'\]"),
    ],
)
def test_refusals(shop, capfd, flags, message):
    assert embed(shop, *flags) == 1
    err = capfd.readouterr().err
    assert err.startswith("macrec embed: error: ") and "Traceback" not in err
    assert re.search(message, err)


def test_output_that_cannot_be_written_is_found_before_any_work(shop, capfd):
    (shop / "file").write_text("")
    assert embed(shop, output="file/emb") == 1
    assert "--output" in capfd.readouterr().err


def test_help_names_every_default(capfd):
    with pytest.raises(SystemExit):
        main(["embed", "--help"])
    text = capfd.readouterr().out
    for flag in ("--items", "--output", "--text-model", "--image-model", "--pooling", "--batch-size", "--max-length",
                 "--device", "--seed", "--like", "--text-columns"):  # fmt: skip
        assert flag in text
    assert "default: offline" in text and "default: 32" in text and "default: 256" in text
