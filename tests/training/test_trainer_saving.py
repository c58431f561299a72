"""A trainer saves and uploads whole model directories; a Hub on loopback takes them."""

import pytest
import torch
from huggingface_hub import ModelCard
from local_hub import TOKEN, card_errors, local_hub
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecRecommender,
    MacRecTrainer,
    SemanticIdTokenizer,
    build_semantic_ids,
)

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


def make_trainer(parts, folder, with_table=True, **changes):
    model, tokenizer, table, quantizer = parts
    arguments = Seq2SeqTrainingArguments(str(folder), report_to="none", use_cpu=True, **changes)
    catalogue = {"table": table, "quantizer": quantizer} if with_table else {}
    return MacRecTrainer(model, arguments, processing_class=tokenizer, **catalogue)


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
    trainer = make_trainer(
        parts, tmp_path / "run", hub_model_id="somebody/shop", hub_token=TOKEN, hub_private_repo=True
    )
    (tmp_path / "run" / "runs").mkdir(parents=True)
    (tmp_path / "run" / "runs" / "events.out.tfevents.1").write_text("not for the Hub")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        trainer.push_to_hub(license="mit", item_counts=torch.arange(9))
        repository = hub["somebody/shop"]
        assert repository.private and WHOLE | {"item_counts.safetensors"} <= set(repository.files())
        pickles = [name for name in repository.files() if name.endswith((".bin", ".pt", ".pth"))]
        assert not pickles and not any("runs" in name for name in repository.files())
        check(MacRecRecommender.from_pretrained("somebody/shop", token=TOKEN), parts)
        assert ModelCard.load("somebody/shop", token=TOKEN).data.license == "mit"
        assert AutoTokenizer.from_pretrained("somebody/shop", token=TOKEN).num_levels == 4
        # A later save without counts and quantizer leaves none of the old ones; it does not wait for the upload.
        trainer.quantizer = None
        trainer.push_to_hub(blocking=False, commit_message="Second").result(timeout=60)
        left = set(repository.files())
        assert "item_counts.safetensors" not in left and not any(name.startswith("quantizer") for name in left)
        with pytest.raises(ValueError, match="license"):
            trainer.push_to_hub(license="ours")


def test_save_model_pushes_where_the_arguments_say_so(parts, tmp_path, monkeypatch):
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        where = dict(hub_model_id="somebody/other", hub_token=TOKEN, push_to_hub=True)
        make_trainer(parts, tmp_path / "run", **where).save_model()
        assert WHOLE <= set(hub["somebody/other"].files()) and WHOLE <= files_in(tmp_path / "run")


def test_without_a_table_it_is_trainers_own(parts, tmp_path, monkeypatch):
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        trainer = make_trainer(parts, tmp_path / "run", False, hub_model_id="somebody/plain", hub_token=TOKEN)
        trainer.push_to_hub()
        found = set(hub["somebody/plain"].files())
        assert {"model.safetensors", "tokenizer.json"} <= found and "semantic_ids.json" not in found
