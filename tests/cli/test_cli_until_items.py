"""`--until` of `macrec embed` and `macrec quantize`: learned from items sold before a day, all items served."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from macrec_hf import EmbeddingStore, MacRecQuantizer, SemanticIdTable, add_items, quantizer_sizes
from macrec_hf.cli.dates import note_fitted, said_of_ids
from macrec_hf.cli.main import main
from macrec_hf.data.learned_purchases import not_fitted_before

NUM_ITEMS, SOLD, UNTIL = 40, 28, "2020-02-01"
QUANTIZER = "--hidden-sizes 16 --codebook-size 8 --codebook-dim 4 --num-levels 3 --num-pseudo-labels 6 --max-steps 6"
KMEANS = "--method residual-kmeans --num-levels 3 --codebook-size 8"
RECOMMENDER = "--d-model 16 --d-kv 8 --d-ff 16 --num-layers 1 --num-decoder-layers 1 --num-heads 2 --num-beams 4"
WORDS = "red blue green mug lamp vase bowl chair small large round old".split()


def call(verb, *words):
    return main(
        [verb, *(str(word) for group in words for word in (group.split() if isinstance(group, str) else [group]))]
    )


def write_items(path, numbers, later_words=WORDS):
    """Items of random words and plain photos; from SOLD on their words are `later_words`."""
    random, rows = np.random.default_rng(0), []
    for item in range(NUM_ITEMS):
        draws = random.integers(len(WORDS), size=4)
        words = WORDS if item < SOLD else later_words
        photo = path.parent / f"{item}.png"
        if not photo.exists():
            Image.fromarray(np.random.default_rng(item).integers(0, 255, (3, 3, 3), dtype=np.uint8)).resize(
                (32, 32)
            ).save(photo)
        rows.append({"item_id": f"i{item}", "title": " ".join(words[draw] for draw in draws), "image": photo.name})
    path.write_text("\n".join(json.dumps(rows[item]) for item in numbers))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """items.jsonl, in which later items stand between the others, interactions.csv, emb/ and ids/ until February."""
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(1)
    write_items(folder / "items.jsonl", random.permutation(NUM_ITEMS))
    write_items(folder / "sold.jsonl", [item for item in random.permutation(NUM_ITEMS) if item < SOLD])
    lines = [f"u{item % 9},i{item},2020-01-{item % 28 + 1:02}" for item in range(SOLD)]
    for user in range(9):
        for month, items in ((1, SOLD), (2, NUM_ITEMS)):
            lines += [
                f"u{user},i{item},2020-{month:02}-{random.integers(1, 29):02}"
                for item in random.integers(items, size=5)
            ]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    assert call("embed", "--items", folder / "items.jsonl", "--output", folder / "emb", *dated(folder)) == 0
    words = ["--embeddings", folder / "emb", "--output", folder / "ids", QUANTIZER]
    assert call("quantize", *words, *dated(folder)) == 0
    return folder


def dated(folder):
    return ["--interactions", folder / "interactions.csv", "--until", UNTIL]


def rows_of(store, items):
    row_of = {item: row for row, item in enumerate(store.item_ids)}
    return store[[row_of[item] for item in items]]


def test_encoders_learn_from_items_sold_before(shop, tmp_path):
    """Sold items: as if there were no others. The others: as items that arrive later."""
    whole, (sold, later) = EmbeddingStore.open(shop / "emb"), ([f"i{item}" for item in part]
        for part in (range(SOLD), range(SOLD, NUM_ITEMS)))  # fmt: skip
    assert whole.item_ids == [json.loads(line)["item_id"] for line in (shop / "items.jsonl").read_text().splitlines()]
    write_items(tmp_path / "sold.jsonl", [int(item[1:]) for item in whole.item_ids if item in sold])
    write_items(tmp_path / "later.jsonl", range(SOLD, NUM_ITEMS))
    for item in range(NUM_ITEMS):
        (tmp_path / f"{item}.png").write_bytes((shop / f"{item}.png").read_bytes())
    assert call("embed", "--items", tmp_path / "sold.jsonl", "--output", tmp_path / "sold") == 0
    assert (
        call("embed", "--items", tmp_path / "later.jsonl", "--output", tmp_path / "later", "--like", tmp_path / "sold")
        == 0
    )
    for folder, items in (("sold", sold), ("later", later)):
        expected, found = rows_of(EmbeddingStore.open(tmp_path / folder), items), rows_of(whole, items)
        for name in ("text", "image"):
            assert np.abs(expected[name]).max() > 0.5 and np.allclose(found[name], expected[name], atol=1e-4)


def test_what_later_items_look_like_changes_no_earlier_item(shop, tmp_path):
    numbers = [int(item[1:]) for item in EmbeddingStore.open(shop / "emb").item_ids]
    for item in numbers:
        source = numbers[0] if item >= SOLD else item
        (tmp_path / f"{item}.png").write_bytes((shop / f"{source}.png").read_bytes())
    write_items(tmp_path / "items.jsonl", numbers, later_words=[f"{word}ish" for word in WORDS])
    assert call("embed", "--items", tmp_path / "items.jsonl", "--output", tmp_path / "emb", *dated(shop)) == 0
    assert (
        call("quantize", "--embeddings", tmp_path / "emb", "--output", tmp_path / "ids", QUANTIZER, *dated(shop)) == 0
    )
    sold = [f"i{item}" for item in range(SOLD)]
    stores = [EmbeddingStore.open(folder / "emb") for folder in (shop, tmp_path)]
    tables = [SemanticIdTable.from_pretrained(folder / "ids") for folder in (shop, tmp_path)]
    assert not stores[1].present["text"][stores[1].item_ids.index(f"i{NUM_ITEMS - 1}")]  # no word of it is known
    for name in ("text", "image"):
        one, other = (rows_of(store, sold)[name] for store in stores)
        assert np.array_equal(one, other)
        codes = [table.codes[name][[table.row_of[item] for item in sold]] for table in tables]
        assert torch.equal(*codes)
    weights = [load_file(folder / "ids" / "quantizer" / "model.safetensors") for folder in (shop, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("method", [QUANTIZER, KMEANS])
def test_later_items_get_their_ids_as_add_items_gives_them(shop, tmp_path, method):
    words = ["--embeddings", shop / "emb", "--output", tmp_path / "ids", method, *dated(shop)]
    assert call("quantize", *words) == 0
    store, table = EmbeddingStore.open(shop / "emb"), SemanticIdTable.from_pretrained(tmp_path / "ids")
    assert table.item_ids == store.item_ids and table.collision_rate("text") == table.collision_rate("image") == 0
    early = [row for row, item in enumerate(store.item_ids) if int(item[1:]) < SOLD]
    late = [row for row in range(NUM_ITEMS) if row not in early]
    quantizer = MacRecQuantizer.from_pretrained(tmp_path / "ids" / "quantizer")
    first = SemanticIdTable(
        [store.item_ids[row] for row in early], {name: codes[early] for name, codes in table.codes.items()}, 8
    )
    grown = add_items(first, quantizer, store.take(late))
    assert all(torch.equal(grown.codes[name], table.codes[name][[*early, *late]]) for name in ("text", "image"))
    report = json.loads((tmp_path / "ids" / "report.json").read_text())["collisions"]["text"]
    assert report["num_items"] == SOLD and report["later_items"]["num_items"] == NUM_ITEMS - SOLD
    settings = json.loads((tmp_path / "ids" / "training_log.json").read_text())[-1]["settings"]
    assert settings["until"] == UNTIL


def test_the_whole_way_by_time(shop, tmp_path, capsys):
    words = ["--semantic-ids", shop / "ids", "--output", tmp_path / "model", RECOMMENDER, "--max-steps", 2]
    assert call("train", "--interactions", shop / "interactions.csv", *words, "--until", UNTIL) == 0
    words = ["--model", tmp_path / "model", "--interactions", shop / "interactions.csv", "--cut", UNTIL]
    assert call("evaluate", *words, "--split", "time", "--output", tmp_path / "m.json") == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["num_unknown_items"] == 0 and report["unseen"]["num_purchases"] > 3
    assert report["num_items"] == NUM_ITEMS and report["unseen_places"]["ensemble"] > 0
    assert report["unseen_places"]["popularity"] == 0


def test_purchases_that_a_shared_configuration_names_change_nothing_without_a_date(shop, tmp_path, caplog):
    (tmp_path / "shop.yaml").write_text(f"interactions: {shop / 'interactions.csv'}\nco_purchases: false\n")
    shared = ["--config", tmp_path / "shop.yaml"]
    words = ["--items", shop / "items.jsonl", "--image-model", "none"]
    told = "--interactions changes nothing without --until: all items are learned from."
    assert call("embed", *words, "--output", tmp_path / "emb", *shared) == 0 and told in caplog.text
    assert list(EmbeddingStore.open(tmp_path / "emb").modalities) == ["text"]
    caplog.clear()
    quantize = ["quantize", "--embeddings", tmp_path / "emb", QUANTIZER, "--output"]
    assert call(*quantize, tmp_path / "ids", *shared) == 0 and told in caplog.text
    assert call(*quantize, tmp_path / "plain") == 0
    codes = [SemanticIdTable.from_pretrained(tmp_path / name).codes["text"] for name in ("ids", "plain")]
    assert torch.equal(*codes)


def test_days_of_an_earlier_log_that_are_numbers(tmp_path, caplog):
    table = SemanticIdTable(["a", "b"], {"text": [[0], [1]]}, codebook_size=2)
    for written, until, kept in (
        ("20240901", "20240801", "20240901"), ("213", "213", "213"), ("213.0", "250", "213"), ("x", "213", None),
        ("20240901", "2024-08-01", "2024-09-01"), ("2024-W14-1", "2024-08-01", "2024-04-01"),
        ("213", "2024-08-01", None),
    ):  # fmt: skip
        table.report = {"text": {"num_items": 2}}
        log = [{"step": 1, "settings": {"method": "macrec", "until": written}}]
        (tmp_path / "training_log.json").write_text(json.dumps(log))
        note_fitted(table, str(tmp_path), until)
        assert table.report["text"].get("fitted_until") == kept
        is_later = kept is not None and (written, until) == ("20240901", "20240801") or kept == "2024-09-01"
        assert said_of_ids(table, until).startswith(" The semantic IDs were fitted on items sold before") == is_later


def test_days_that_cannot_be_compared_are_not_called_later():
    report = {"text": {"fitted_until": "2024-01-01"}}
    said = not_fitted_before(report, ["text"], "20240601")
    assert said.endswith("sold before 2024-01-01, which cannot be compared with 20240601")
    assert not_fitted_before(report, ["text"], "2023-12-01").endswith("sold before 2024-01-01, later than 2023-12-01")


def test_what_is_refused(shop, tmp_path, capsys):
    embed = ["embed", "--items", shop / "items.jsonl", "--output", tmp_path / "emb"]
    quantize = ["quantize", "--embeddings", shop / "emb", "--output", tmp_path / "ids", QUANTIZER]
    (tmp_path / "other.csv").write_text("user_id,item_id,timestamp\na,x1,2020-01-01\na,x2,2020-03-01")
    other = ["--interactions", tmp_path / "other.csv", "--until", UNTIL]
    for words, message in (
        ([*embed, "--until", UNTIL], "Expected --interactions with --until"),
        ([*quantize, "--until", UNTIL], "Expected --interactions with --until"),
        (
            [*quantize, *dated(shop)[:2], "--until", "2020-01-01"],
            "until: expected purchases before 2020-01-01, got none",
        ),
        (
            [*quantize, *other],
            "expected embeddings of items that were sold before, such as ['x1'], got those of others",
        ),
        ([*embed, *other], "text: expected at least one item to learn from that can be encoded, got none"),
        ([*embed, "--like", shop / "emb", *dated(shop)], "expected no --until beside it"),
    ):
        assert call(*words) == 1
        assert message in capsys.readouterr().err


def test_sizes_are_of_the_items_that_were_sold(shop, tmp_path, capsys):
    planned = [quantizer_sizes(number, {"text": 256, "image": 256}) for number in (SOLD, NUM_ITEMS)]
    sold, everything = (sizes.per_device_train_batch_size for sizes in planned)
    assert sold != everything
    words = ["--embeddings", shop / "emb", "--output", tmp_path / "ids", QUANTIZER]
    assert call("quantize", *words, *dated(shop), "--verbose") == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"Sizes, by {SOLD} items"))
    assert f"batch_size {sold}" in header


def test_ids_of_a_later_day_than_the_training_are_named(shop, tmp_path, capsys):
    words = ["--interactions", shop / "interactions.csv", "--semantic-ids", shop / "ids", RECOMMENDER, "--max-steps 1"]
    for until, is_said in (("2020-01-25", True), (UNTIL, False)):
        assert call("train", *words, "--until", until, "--output", tmp_path / until, "--verbose") == 0
        said = f"The semantic IDs were fitted on items sold before {UNTIL}, later than 2020-01-25: what they know"
        assert (said in capsys.readouterr().out) is is_said


@pytest.mark.parametrize("written", ["20200201", "2020-W05-6"])
def test_ids_keep_the_day_by_its_one_name(shop, tmp_path, capsys, written):
    words = ["--embeddings", shop / "emb", "--output", tmp_path / "ids", QUANTIZER, "--interactions"]
    assert call("quantize", *words, shop / "interactions.csv", "--until", written) == 0
    report = SemanticIdTable.from_pretrained(tmp_path / "ids").report
    assert {part["fitted_until"] for part in report.values()} == {UNTIL}
    words = [
        "--interactions",
        shop / "interactions.csv",
        RECOMMENDER,
        "--max-steps 1",
        "--until",
        written,
        "--verbose",
    ]
    assert call("train", *words, "--semantic-ids", tmp_path / "ids", "--output", tmp_path / "model") == 0
    assert "makes figures by time too good" not in capsys.readouterr().out


@pytest.mark.parametrize("written", [UNTIL, "20200201", "nonsense", {"a": 1}])
def test_ids_that_keep_their_day_in_the_log_alone_get_it(shop, tmp_path, capsys, written):
    """As an earlier release wrote them."""
    shutil.copytree(shop / "ids", tmp_path / "ids")
    (tmp_path / "ids" / "checksums.json").unlink()
    path = tmp_path / "ids" / "semantic_ids.json"
    head = json.loads(path.read_text())
    for part in head["report"].values():
        assert part.pop("fitted_until") == UNTIL
    path.write_text(json.dumps(head))
    words = ["--interactions", shop / "interactions.csv", RECOMMENDER, "--max-steps 1", "--until", UNTIL, "--verbose"]
    log = json.loads((tmp_path / "ids" / "training_log.json").read_text())
    log[-1]["settings"]["until"] = written
    (tmp_path / "ids" / "training_log.json").write_text(json.dumps(log))
    assert call("train", *words, "--semantic-ids", tmp_path / "ids", "--output", tmp_path / "model") == 0
    is_day = written in (UNTIL, "20200201")
    assert ("makes figures by time too good" not in capsys.readouterr().out) == is_day
    report = SemanticIdTable.from_pretrained(tmp_path / "model").report["text"]
    assert report.get("fitted_until") == (UNTIL if is_day else None)
