"""A trainer saves and uploads whole model directories; a Hub on loopback takes them."""

import numpy as np
import pytest
import recommender_training
import torch
from huggingface_hub import ModelCard
from killing import NUM_ITEMS, make_inputs, words
from local_hub import TOKEN, card_errors, local_hub
from safetensors.torch import load_file
from transformers import AutoTokenizer

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecRecommender,
    MacRecTrainer,
    MacRecTrainingArguments,
    SemanticIdTokenizer,
    build_semantic_ids,
)
from macrec_hf.cli.main import main
from macrec_hf.training.trainer_saving import purchases_shown

WHOLE = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "semantic_ids.json", "semantic_ids.safetensors", "README.md", "code_usage.png", "quantizer/config.json",
    "quantizer/model.safetensors",
}  # fmt: skip
TINY = dict(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    sizes = dict(hidden_sizes=(8,), codebook_size=8, codebook_dim=4, num_pseudo_labels=3)
    quantizer = MacRecQuantizer(MacRecQuantizerConfig(modalities={"text": 6, "image": 5}, **sizes))
    embeddings = {"text": torch.randn(9, 6), "image": torch.randn(9, 5)}
    table = build_semantic_ids(quantizer, embeddings, [f"i{row}" for row in range(9)])
    tokenizer = SemanticIdTokenizer.from_table(table)
    model = MacRecForConditionalGeneration(MacRecConfig(vocab_size=len(tokenizer), **TINY))
    return model, tokenizer, table, quantizer


def make_trainer(parts, folder, with_table=True, more=None, **changes):
    model, tokenizer, table, quantizer = parts
    arguments = MacRecTrainingArguments(str(folder), report_to="none", use_cpu=True, **changes)
    catalogue = {"table": table, "quantizer": quantizer} if with_table else {}
    return MacRecTrainer(model, arguments, processing_class=tokenizer, **catalogue, **(more or {}))


def files_in(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check(loaded: MacRecRecommender, parts):
    model, _, table, quantizer = parts
    assert loaded.table == table
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in loaded.model.state_dict().items())
    codebooks = loaded.quantizer.codebooks
    assert all(torch.equal(codebooks[name], values) for name, values in quantizer.codebooks.items())
    assert len(loaded.recommend([["i1", "i7"]], top_k=3)[0]) == 3


def test_save_model_writes_a_whole_directory(parts, tmp_path):
    make_trainer(parts, tmp_path / "run").save_model(str(tmp_path / "model"))
    assert WHOLE <= files_in(tmp_path / "model") and "training_args.bin" not in files_in(tmp_path / "model")
    check(MacRecRecommender.from_pretrained(tmp_path / "model"), parts)
    assert card_errors((tmp_path / "model" / "README.md").read_text()) == []


def test_push_to_hub_uploads_a_whole_directory_and_nothing_else(parts, tmp_path, monkeypatch):
    where = dict(hub_model_id="somebody/shop", hub_token=TOKEN, hub_private_repo=True)
    trainer = make_trainer(parts, tmp_path / "run", more={"item_counts": torch.arange(9)}, **where)
    (tmp_path / "run" / "runs").mkdir(parents=True)
    (tmp_path / "run" / "runs" / "events.out.tfevents.1").write_text("not for the Hub")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        trainer.push_to_hub(license="mit")
        repository = hub["somebody/shop"]
        assert repository.private and WHOLE | {"item_counts.safetensors"} <= set(repository.files())
        pickles = [name for name in repository.files() if name.endswith((".bin", ".pt", ".pth"))]
        assert not pickles and not any("runs" in name for name in repository.files())
        check(MacRecRecommender.from_pretrained("somebody/shop", token=TOKEN), parts)
        assert ModelCard.load("somebody/shop", token=TOKEN).data.license == "mit"
        assert AutoTokenizer.from_pretrained("somebody/shop", token=TOKEN).num_levels == 4
        # A later save without counts and quantizer leaves none of the old ones; it does not wait for the upload.
        trainer.quantizer = trainer.item_counts = None
        trainer.push_to_hub(blocking=False, commit_message="Second").result(timeout=600)
        left = set(repository.files())
        assert "item_counts.safetensors" not in left and not any(name.startswith("quantizer") for name in left)
        with pytest.raises(ValueError, match="license"):
            trainer.push_to_hub(license="ours")


def test_counts_and_titles_are_saved_with_the_model(parts, tmp_path, monkeypatch):
    counts, titles = np.array([3, 0, 5, 0, 0, 1, 2, 0, 9]), {"i1": "Mug", "i4": "Lamp"}
    more = {"item_counts": counts, "item_titles": titles}
    where = dict(hub_model_id="somebody/counted", hub_token=TOKEN)
    trainer = make_trainer(parts, tmp_path / "run", more=more, **where)
    trainer.save_model(str(tmp_path / "model"))
    with local_hub(monkeypatch, tmp_path / "cache"):
        trainer.push_to_hub()
        for source in (tmp_path / "model", "somebody/counted"):
            loaded = MacRecRecommender.from_pretrained(source, token=TOKEN)
            assert loaded.item_counts.tolist() == counts.tolist() and loaded.item_titles == titles
            assert loaded.recommend([[]], top_k=1)[0][0][0] == "i8"  # nobody's history: the most frequent item


def test_without_counts_those_of_the_training_examples_are_saved(tmp_path):
    shop = recommender_training.make_shop(tmp_path)
    trainer = recommender_training.make_trainer(shop, tmp_path / "run")
    trainer.save_model(str(tmp_path / "model"))
    bought = {}
    for line in (tmp_path / "interactions.csv").read_text().splitlines()[1:]:
        user, item, _ = line.split(",")
        bought.setdefault(user, []).append(int(item))
    # All but the first, which is no target, and the last two, which validate and test.
    expected = np.bincount(np.concatenate([items[1:-2] for items in bought.values()]), minlength=14)
    assert MacRecRecommender.from_pretrained(tmp_path / "model").item_counts.tolist() == expected.tolist()
    train = shop[2]["train"]
    alone = train.filter(lambda row: row["task"] == 3)  # of one task
    assert purchases_shown(alone, 14).tolist() == expected.tolist()
    assert purchases_shown(train.select([]), 14).tolist() == [0] * 14
    assert purchases_shown(train.to_iterable_dataset(), 14) is None
    assert purchases_shown(train.remove_columns("user"), 14) is purchases_shown(None, 14) is None


def test_train_and_its_trainer_write_the_same_directory(tmp_path):
    """`macrec train` goes through the trainer's saving: the same files, of which the card knows more."""
    make_inputs(tmp_path)
    assert main([*words("train", tmp_path, tmp_path / "verb"), "--max-steps", "3"]) == 0
    directory = tmp_path / "verb"
    counts = load_file(directory / "item_counts.safetensors")["item_counts"]
    lines = [line.split(",") for line in (tmp_path / "interactions.csv").read_text().splitlines()[1:]]
    taken = [int(item[1:]) for _, item, time in lines if time != "5"]  # all but each user's last of six
    assert torch.equal(counts, torch.from_numpy(np.bincount(taken, minlength=NUM_ITEMS)))
    loaded = MacRecRecommender.from_pretrained(directory)
    args = MacRecTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True)
    tokenizer = SemanticIdTokenizer.from_table(loaded.table)
    parts = {"processing_class": tokenizer, "table": loaded.table, "item_counts": counts}
    MacRecTrainer(loaded.model, args, **parts).save_model(str(tmp_path / "own"))
    work = {name for name in files_in(directory) if name.startswith("checkpoints/")}
    more = {"training_log.json", "learned_histories.safetensors", "blend.json", "purchase_counts.safetensors"}
    assert files_in(directory) - work - more == files_in(tmp_path / "own")
    for name in files_in(tmp_path / "own") - {"README.md", "checksums.json"}:
        assert (directory / name).read_bytes() == (tmp_path / "own" / name).read_bytes(), name


def test_a_whole_directory_needs_a_table(parts, tmp_path):
    with pytest.raises(ValueError, match="table: expected the catalogue's SemanticIdTable, got None"):
        make_trainer(parts, tmp_path / "run", False).save_model_directory(tmp_path / "model")


def test_save_model_pushes_where_the_arguments_say_so(parts, tmp_path, monkeypatch):
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        where = dict(hub_model_id="somebody/other", hub_token=TOKEN, push_to_hub=True)
        make_trainer(parts, tmp_path / "run", **where).save_model()
        assert WHOLE <= set(hub["somebody/other"].files()) and WHOLE <= files_in(tmp_path / "run")


def test_without_a_table_it_is_trainers_own(parts, tmp_path, monkeypatch):
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        trainer = make_trainer(parts, tmp_path / "run", False, hub_model_id="somebody/plain", hub_token=TOKEN)
        trainer.model.semantic_ids = None  # other tests have trained the same model with a table
        trainer.push_to_hub()
        found = set(hub["somebody/plain"].files())
        assert {"model.safetensors", "tokenizer.json"} <= found and "semantic_ids.json" not in found
