import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.catalogue.encoders import load_encoders, make_encoders
from macrec_hf.catalogue.indexing import build_semantic_ids
from macrec_hf.catalogue.item_encoders import embed_items, encode_photos, encode_texts, item_texts
from macrec_hf.catalogue.offline_encoders import OfflineImageEncoder, OfflineTextEncoder, photo_histograms
from macrec_hf.catalogue.transformer_encoders import TransformerImageEncoder, TransformerTextEncoder
from macrec_hf.data.readers import read_items
from macrec_hf.model.configuration_macrec import MacRecQuantizerConfig
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer

HM = Path(__file__).parents[2].parent / "shared" / "data" / "hm"
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["[PAD]", "[UNK]", "red", "blue", "warm", "wool", "scarf", "lamp", "desk", "mug"]
TEXTS = ["red wool scarf", "blue mug", "desk lamp warm warm wool mug", "lamp"]


def save_tokenizer(folder, **special):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", model_max_length=12, **special)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    save_tokenizer(tmp_path / "bert", pad_token="[PAD]")
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, initializer_range=0.5, **TOWER)
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    save_tokenizer(tmp_path / "clip", pad_token="[PAD]")
    config = CLIPConfig(
        text_config={**TOWER, "vocab_size": len(WORDS), "eos_token_id": 9, "bos_token_id": 1},
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=6,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def photos(tmp_path):
    """Four photos: two reds, two blues, sizes and modes mixed."""
    rng = np.random.default_rng(0)
    paths = []
    for number, (colour, size) in enumerate([((210, 30, 30), (40, 40)), ((190, 40, 35), (60, 44)),
                                             ((30, 40, 210), (50, 50)), ((40, 60, 190), (33, 70))]):  # fmt: skip
        pixels = np.clip(np.array(colour) + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)
        paths.append(tmp_path / f"photo{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return [str(path) for path in paths]


def bert_reference(folder, text, pooling):
    """One text alone, no padding, no batching."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        output = BertModel.from_pretrained(folder).eval()(**tokenizer([text], return_tensors="pt"))
    states = output.last_hidden_state[0]
    return {"mean": states.mean(0), "cls": states[0], "pooler": output.pooler_output[0]}[pooling].numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_text_model_equals_one_text_at_a_time(bert, pooling):
    encoder = TransformerTextEncoder(bert, pooling, device="cpu", standardize=False)
    embeddings, reasons = encode_texts(TEXTS, encoder, batch_size=3, progress=False)
    expected = np.stack([bert_reference(bert, text, pooling) for text in TEXTS])
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert reasons == {} and embeddings.dtype == np.float32


def test_long_texts_are_cut_at_max_length(bert):
    encoder = TransformerTextEncoder(bert, "mean", max_length=2, device="cpu", standardize=False)
    embeddings, _ = encode_texts(TEXTS, encoder, progress=False)
    np.testing.assert_allclose(embeddings[0], bert_reference(bert, "red wool", "mean"), rtol=1e-4, atol=1e-5)
    assert (
        TransformerTextEncoder(bert, max_length=500, device="cpu", standardize=False).max_length == 12
    )  # the tokenizer's limit


def test_seq2seq_model_gives_its_encoder(tmp_path):
    torch.manual_seed(0)
    tokenizer = save_tokenizer(tmp_path, pad_token="[PAD]")
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    embeddings, _ = encode_texts(
        TEXTS, TransformerTextEncoder(tmp_path, device="cpu", standardize=False), progress=False
    )
    with torch.no_grad():
        states = model.encoder(**tokenizer([TEXTS[2]], return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(embeddings[2], states[0].mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_tokenizer_without_pad_token_pads_with_its_end(tmp_path, bert):
    save_tokenizer(bert, eos_token="mug")
    embeddings, _ = encode_texts(TEXTS, TransformerTextEncoder(bert, device="cpu", standardize=False), progress=False)
    np.testing.assert_allclose(embeddings[0], bert_reference(bert, TEXTS[0], "mean"), rtol=1e-4, atol=1e-5)


def test_clip_gives_both_towers_projected(clip, photos):
    text, image = (
        TransformerTextEncoder(clip, device="cpu", standardize=False),
        TransformerImageEncoder(clip, device="cpu", standardize=False),
    )
    assert text.pooling == image.pooling == "pooler"
    texts, _ = encode_texts(["red mug", "blue wool mug"], text, progress=False)
    images, _ = encode_photos(photos, image, batch_size=3, progress=False)
    model = CLIPModel.from_pretrained(clip).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(Image.open(photos[1]), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        vision = model.vision_model(pixels)
        expected_image = model.visual_projection(vision.pooler_output)[0].numpy()
        expected_text = model.text_projection(model.text_model(torch.tensor([[2, 9]])).pooler_output)[0].numpy()
    np.testing.assert_allclose(images[1], expected_image, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(texts[0], expected_text, rtol=1e-4, atol=1e-5)
    means, _ = encode_photos(
        photos, TransformerImageEncoder(clip, "mean", device="cpu", standardize=False), progress=False
    )
    np.testing.assert_allclose(means[1], vision.last_hidden_state[0].mean(0).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "clip_vision", "resnet"])
def test_vision_models_of_any_kind(tmp_path, photos, kind):
    torch.manual_seed(0)
    if kind == "vit":
        model = ViTModel(ViTConfig(image_size=32, patch_size=8, **TOWER))
    elif kind == "clip_vision":
        model = CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=8, **TOWER))
    else:
        model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    model.eval().save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    embeddings, _ = encode_photos(
        photos, TransformerImageEncoder(tmp_path, device="cpu", standardize=False), progress=False
    )
    with torch.no_grad():
        states = model(processor(Image.open(photos[3]), return_tensors="pt")["pixel_values"]).last_hidden_state[0]
    expected = states.mean((1, 2)) if states.ndim == 3 else states.mean(0)
    np.testing.assert_allclose(embeddings[3], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_pooler_without_weights_is_refused(tmp_path, bert):
    model = BertModel.from_pretrained(bert, add_pooling_layer=False)
    model.save_pretrained(tmp_path / "bare")
    save_tokenizer(tmp_path / "bare", pad_token="[PAD]")
    TransformerTextEncoder(tmp_path / "bare", "mean", device="cpu")
    with pytest.raises(ValueError, match="expected weights for the whole model.*use pooling 'mean' or 'cls'"):
        TransformerTextEncoder(tmp_path / "bare", "pooler", device="cpu")


def test_missing_body_weights_are_refused(tmp_path, bert):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="of another architecture"):
        TransformerTextEncoder(bert, device="cpu")


def test_model_without_pooler_is_refused(tmp_path):
    save_tokenizer(tmp_path, pad_token="[PAD]")
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a model with a pooler, got one without"):
        encode_texts(
            TEXTS, TransformerTextEncoder(tmp_path, "pooler", device="cpu", standardize=False), progress=False
        )


def test_unknown_pooling_is_refused(bert):
    with pytest.raises(ValueError, match="pooling: expected one of mean, cls, pooler, got 'max'"):
        TransformerTextEncoder(bert, "max", device="cpu")


def test_overflowing_model_is_refused(bert):
    encoder = TransformerTextEncoder(bert, device="cpu")
    encoder.model.embeddings.word_embeddings.weight.data[WORDS.index("mug")] = float("nan")
    with pytest.raises(ValueError, match="expected finite embeddings.*2 items"):
        encode_texts(TEXTS, encoder, progress=False)


def test_models_are_standardised_by_one_number(bert):
    raw, _ = encode_texts(TEXTS, TransformerTextEncoder(bert, device="cpu", standardize=False), progress=False)
    encoded, _ = encode_texts(TEXTS, TransformerTextEncoder(bert, device="cpu"), progress=False)
    rows = np.array([bool(text.strip()) for text in TEXTS])
    centred = raw[rows] - raw[rows].mean(axis=0)
    np.testing.assert_allclose(encoded[rows], centred / np.sqrt((centred**2).mean()), rtol=1e-4, atol=1e-5)
    assert not encoded[~rows].any()


def test_offline_text_agrees_with_dense_arithmetic():
    texts = ["red wool scarf", "blue wool scarf", "red mug", "a mug", "red wool scarf"]
    embeddings, _ = encode_texts(texts, OfflineTextEncoder(), progress=False)
    # By hand: words and neighbouring pairs, tf = 1 + ln(count), idf = ln((1 + n) / (1 + df)) + 1, unit rows.
    grams = [t.split() + [" ".join(pair) for pair in zip(t.split(), t.split()[1:], strict=False)] for t in texts]
    vocabulary = sorted({gram for row in grams for gram in row})
    counts = np.array([[row.count(gram) for gram in vocabulary] for row in grams], dtype=float)
    weights = counts * (np.log(6 / (1 + (counts > 0).sum(0))) + 1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(weights)
    rows = left[:, :4] * values[:4]  # at most num_items - 1 dimensions
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows -= rows.mean(0)
    rows /= np.sqrt((rows**2).mean())
    assert embeddings.shape == (5, 4)
    np.testing.assert_allclose(embeddings @ embeddings.T, rows @ rows.T, atol=1e-3)  # up to signs of the axes
    np.testing.assert_allclose(embeddings[0], embeddings[4], atol=1e-5)


def test_offline_encoders_are_centred_scaled_and_deterministic(photos):
    for make, encode, inputs in (
        (OfflineTextEncoder, encode_texts, TEXTS),
        (OfflineImageEncoder, encode_photos, photos),
    ):
        first, _ = encode(inputs, make(), batch_size=2, progress=False)
        again, _ = encode(inputs, make(), batch_size=3, progress=False)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_allclose(first.mean(0), 0, atol=1e-5)
        assert (first**2).mean() == pytest.approx(1, rel=1e-4)


def test_offline_images_find_the_colour(photos):
    embeddings, _ = encode_photos(photos, OfflineImageEncoder(), progress=False)
    distances = np.linalg.norm(embeddings[:, None] - embeddings, axis=-1) + 1e9 * np.eye(4)
    assert distances.argmin(1).tolist() == [1, 0, 3, 2]


def test_histograms_see_where_and_in_which_direction():
    left = np.full((96, 96, 3), 255, dtype=np.uint8)
    left[:, :48] = (220, 0, 0)
    here, there = photo_histograms(Image.fromarray(left)), photo_histograms(Image.fromarray(left[:, ::-1]))
    assert np.linalg.norm(here) ** 2 == pytest.approx(1 + 0.25 * 96 / (96 + 0.02 * 96 * 96), rel=0.7)
    assert np.abs(here - there).max() > 0.1
    stripes = np.zeros((96, 96, 3), dtype=np.uint8)
    stripes[::8] = stripes[1::8] = stripes[2::8] = 255
    lying, standing = (
        photo_histograms(Image.fromarray(stripes)),
        photo_histograms(Image.fromarray(stripes.transpose(1, 0, 2))),
    )
    edges = slice(-16 * 8, None)
    assert lying[edges].reshape(16, 8).argmax(1).tolist() == [4] * 16  # gradient straight down: half of the half turn
    assert standing[edges].reshape(16, 8).argmax(1).tolist() == [0] * 16


@pytest.mark.parametrize("num_items", [1, 2])
def test_offline_encoders_take_tiny_catalogues(photos, num_items):
    for encoder, encode, inputs in (
        (OfflineTextEncoder(), encode_texts, TEXTS),
        (OfflineImageEncoder(), encode_photos, photos),
    ):
        embeddings, _ = encode(inputs[:num_items], encoder, progress=False)
        assert embeddings.shape == (num_items, 1) and np.isfinite(embeddings).all()


def test_identical_items_stay_finite(photos):
    for encoder, encode, inputs in (
        (OfflineTextEncoder(), encode_texts, ["red mug"] * 5),
        (OfflineTextEncoder(), encode_texts, ["mug"] * 5),  # one word in all
        (OfflineImageEncoder(), encode_photos, [photos[0]] * 5),
    ):
        embeddings, _ = encode(inputs, encoder, progress=False)
        assert np.abs(embeddings - embeddings[0]).max() < 1e-3 and np.isfinite(embeddings).all()


def test_texts_without_words_are_refused():
    with pytest.raises(ValueError, match="text: expected words in at least one of 2 texts, got none"):
        encode_texts(["!!!", "???"], OfflineTextEncoder(), progress=False)


def items_table(photos, texts=TEXTS):
    ids = [f"i{row}" for row in range(len(texts))]
    return pd.DataFrame({"item_id": ids, "title": texts, "text": [""] * len(texts), "image": photos})


def test_broken_missing_and_empty_items_are_listed_and_do_not_stop_the_run(tmp_path, photos):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff this is no picture")
    whole = Path(photos[0]).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    paths = [
        *photos,
        str(tmp_path / "broken.jpg"),
        str(tmp_path / "none.jpg"),
        None,
        str(tmp_path / "half.png"),
        "http://x/y",
    ]
    items = items_table(paths, [*TEXTS, "red", "blue", "  ", "", "warm lamp"])
    embedded = embed_items(items, make_encoders(), progress=False)
    embedded.save(tmp_path / "emb")
    meta = json.loads((tmp_path / "emb" / "meta.json").read_text())["modalities"]
    assert meta["text"]["missing"] == ["i6", "i7"]
    assert meta["image"]["missing"] == ["i4", "i5", "i6", "i7", "i8"]
    reasons = meta["image"]["settings"]["missing_reasons"]
    assert reasons["i5"] == "no such file" and reasons["i6"] == "no photo named"
    assert "broken.jpg" in reasons["i4"] and str(tmp_path) not in reasons["i4"]
    assert "truncated" in reasons["i7"] and "URL" in reasons["i8"]
    store = EmbeddingStore.open(tmp_path / "emb")
    assert store.present["image"].tolist() == [True] * 4 + [False] * 5
    assert not store.arrays["image"][4:].any()
    # The rest is what it would be without them.
    alone, _ = encode_photos(photos, OfflineImageEncoder(), progress=False)
    np.testing.assert_allclose(store.arrays["image"][:4], alone, atol=1e-5)


def test_odd_photos_are_opened(tmp_path):
    rgb = Image.new("RGB", (30, 20), (200, 20, 20))
    rgb.save(tmp_path / "a.png")
    transparent = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    transparent.paste((200, 20, 20, 255), (5, 5, 25, 15))
    transparent.save(tmp_path / "b.png")
    on_white = Image.new("RGB", (30, 20), "white")
    on_white.paste((200, 20, 20), (5, 5, 25, 15))
    on_white.save(tmp_path / "c.png")
    rgb.convert("L").save(tmp_path / "d.png")
    rgb.convert("CMYK").save(tmp_path / "e.jpg")
    rgb.convert("P").save(tmp_path / "f.gif")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png", "e.jpg", "f.gif")]
    embeddings, reasons = encode_photos(paths, OfflineImageEncoder(), progress=False)
    assert reasons == {}
    np.testing.assert_allclose(embeddings[1], embeddings[2], atol=1e-5)  # transparent means white
    assert np.linalg.norm(embeddings[0] - embeddings[5]) < 0.5 * np.linalg.norm(embeddings[0] - embeddings[3])


def test_turned_photo_is_set_upright(tmp_path):
    upright = Image.new("RGB", (32, 48), "white")
    upright.paste((200, 20, 20), (0, 0, 32, 16))
    upright.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it right
    upright.rotate(90, expand=True).save(tmp_path / "b.png", exif=exif)
    upright.rotate(90, expand=True).save(tmp_path / "c.png")
    embeddings, _ = encode_photos([str(tmp_path / f"{n}.png") for n in "abc"], OfflineImageEncoder(), progress=False)
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-5)
    assert np.linalg.norm(embeddings[0] - embeddings[2]) > 0.5


def test_catalogue_without_photos_gives_text_only_and_the_other_way_round(photos):
    without = items_table([None] * 4)
    assert list(embed_items(without, make_encoders(), progress=False).modalities) == ["text"]
    assert list(embed_items(without.drop(columns="image"), make_encoders(), progress=False).modalities) == ["text"]
    silent = items_table(photos, [""] * 4)
    assert list(embed_items(silent, make_encoders(), progress=False).modalities) == ["image"]
    with pytest.raises(ValueError, match="expected at least one item|Expected items with text or photos"):
        embed_items(items_table([None] * 4, [""] * 4), make_encoders(), progress=False)


def test_what_is_no_items_table_or_no_encoder_of_it_is_refused():
    items = items_table([None] * 4)
    with pytest.raises(ValueError, match=r"expected a table with a column 'item_id', got \['title', 'image'\]"):
        embed_items(items[["title", "image"]], make_encoders())
    with pytest.raises(ValueError, match=r"expected some of 'text' and 'image', got \['audio'\]"):
        embed_items(items, {"audio": OfflineTextEncoder()})


def test_what_was_embedded_is_a_store_that_becomes_semantic_ids(photos):
    embeddings = embed_items(items_table([*photos[:3], None]), make_encoders(), progress=False)
    sizes = {"text": 3, "image": 2}
    assert repr(embeddings) == f"EmbeddedCatalogue(num_items=4, modalities={sizes}, missing={{'image': 1}})"
    assert embeddings.encoders == {"text": "offline", "image": "offline"}
    assert isinstance(embeddings.item_encoders["text"], OfflineTextEncoder)
    assert embeddings.reasons == {"text": {}, "image": {"i3": "no photo named"}}
    config = MacRecQuantizerConfig(modalities=sizes, num_levels=3, codebook_size=4, codebook_dim=4, hidden_sizes=(8,))
    torch.manual_seed(0)
    quantizer = MacRecQuantizer(config)
    quantizer.set_codebooks({name: torch.randn(3, 4, 4) for name in sizes})
    table = build_semantic_ids(quantizer, embeddings)
    assert table.item_ids == ["i0", "i1", "i2", "i3"] and table.codes["image"][:, 0].ge(0).tolist() == [True] * 3 + [
        False
    ]


def test_photos_of_which_none_can_be_read_are_refused():
    with pytest.raises(ValueError, match="image: expected at least one .*no such file, such as 'nowhere/a.jpg'"):
        embed_items(items_table(["nowhere/a.jpg"] * 4), make_encoders(), progress=False)


def test_later_items_land_in_the_same_space(tmp_path, photos, bert):
    for text_model in ("offline", str(bert)):
        embedded = embed_items(
            items_table(photos), make_encoders(text_model, pooling="mean", device="cpu"), progress=False
        )
        embedded.save(tmp_path / "emb")
        encoders = load_encoders(tmp_path / "emb", device="cpu")
        later = items_table([photos[2], photos[0]], [TEXTS[2], TEXTS[0]])
        again = embed_items(later, encoders, progress=False)
        for modality, array in embedded.arrays.items():
            np.testing.assert_allclose(again.arrays[modality], array[[2, 0]], rtol=1e-4, atol=1e-5)


def test_later_text_without_a_known_word_is_missing(tmp_path, photos):
    embed_items(items_table(photos), make_encoders(), progress=False).save(tmp_path)
    later = embed_items(items_table(photos[:2], ["red mug", "zzz yyy"]), load_encoders(tmp_path), progress=False)
    assert later.reasons["text"] == {"i1": "no word known to the encoder"}
    assert not later.arrays["text"][1].any()


def test_encoders_of_foreign_folders_are_refused(tmp_path, photos):
    with pytest.raises(FileNotFoundError, match="found no meta.json"):
        load_encoders(tmp_path)
    embed_items(items_table(photos), make_encoders(), progress=False).save(tmp_path / "emb")
    (tmp_path / "emb" / "text_encoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="expected the state of an offline encoder"):
        load_encoders(tmp_path / "emb")
    EmbeddingStore({"text": np.zeros((2, 3), dtype=np.float32)}, ["a", "b"]).save(tmp_path / "theirs")
    with pytest.raises(ValueError, match="These embeddings were made elsewhere"):
        load_encoders(tmp_path / "theirs")


def test_item_texts_join_what_exists():
    items = pd.DataFrame(
        {
            "text": ["Warm.", ""],
            "title": ["Scarf", "Mug"],
            "brand": ["Fox", None],
            "category": [["Home", "Cups"], None],
        }
    )
    assert item_texts(items) == ["Scarf. Fox. Home Cups. Warm.", "Mug"]
    assert item_texts(items, ["brand", "title"]) == ["Fox. Scarf", "Mug"]
    with pytest.raises(ValueError, match=r"text_columns: expected columns of the items, .* got also \['colour'\]"):
        item_texts(items, ["title", "colour"])


def test_columns_of_numbers_among_the_texts_are_named(caplog):
    items = pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["Scarf 2", "1984", "Mug", "Lamp"],
            "price": ["12.99", "$3", None, "1,200.00 €"],
            "stock": [3, 0, 7, 1],
        }
    )
    encoders = make_encoders(image_model=None)
    embed_items(items, encoders, text_columns=["title", "price", "stock"], progress=False)
    assert "all values of 'price', 'stock' are numbers" in caplog.text and "--text-columns title," in caplog.text
    caplog.clear()
    embed_items(items, encoders, progress=False)  # later items, in the same columns
    embed_items(items, make_encoders(image_model=None), text_columns=["title"], progress=False)
    assert caplog.text == ""


@pytest.mark.skipif(not HM.is_dir(), reason="needs the H&M test data beside the project")
def test_neighbours_of_real_products_are_products_of_their_type():
    items = read_items(HM / "items.jsonl").iloc[:400].reset_index(drop=True)
    kinds = items["text"].str.split(" | ", regex=False).str[0].to_numpy()
    store = embed_items(items, make_encoders(), progress=False)
    by_chance = (kinds[:, None] == kinds).mean()
    for modality, at_least in (("text", 5), ("image", 2)):
        rows = store.arrays[modality]
        distances = ((rows[:, None] - rows) ** 2).sum(-1) + 1e9 * np.eye(len(rows))
        share = (kinds[distances.argmin(1)] == kinds).mean()
        assert share > at_least * by_chance, f"{modality}: {share:.2f} against {by_chance:.2f} by chance"
