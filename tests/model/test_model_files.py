import json
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from macrec_hf.hub.saving import save_model_directory
from macrec_hf.model.configuration_macrec import MacRecConfig, MacRecQuantizerConfig
from macrec_hf.model.model_files import load_model_directory
from macrec_hf.model.modeling_macrec import MacRecForConditionalGeneration
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer


def make_parts(seed=0, modalities=("text", "image")):
    """A perturbed tiny model and what belongs to it; the modalities' order is not the alphabet's."""
    generator = np.random.default_rng(seed)
    codes = {name: generator.integers(0, 4, size=(6, 3)) for name in modalities}
    codes[modalities[-1]][2] = -1
    table = SemanticIdTable([f"0{row}" for row in range(6)], codes, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(seed)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, max_history=7, d_model=8, d_kv=4, d_ff=16, num_heads=2,
        num_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return {"model": model, "tokenizer": tokenizer, "table": table}


@pytest.fixture(scope="module")
def quantizer():
    torch.manual_seed(1)
    config = MacRecQuantizerConfig(
        modalities={"text": 6, "image": 5}, num_levels=3, codebook_size=4, codebook_dim=4, hidden_sizes=(8,)
    )
    return MacRecQuantizer(config).eval()


def test_everything_comes_back(tmp_path, quantizer):
    parts, counts = make_parts(), torch.arange(6)
    save_model_directory(tmp_path / "a" / "model", **parts, quantizer=quantizer, item_counts=counts)
    loaded = load_model_directory(tmp_path / "a" / "model")
    assert loaded.table == parts["table"] and loaded.table.modalities == ("text", "image")
    assert loaded.tokenizer.get_vocab() == parts["tokenizer"].get_vocab()
    assert loaded.item_counts.tolist() == counts.tolist()
    assert not loaded.model.training and loaded.model.config.max_history == 7
    for (name, weight), (_, expected) in zip(
        loaded.model.state_dict().items(), parts["model"].state_dict().items(), strict=True
    ):
        assert torch.equal(weight, expected), name
    embeddings = {"text": torch.randn(9, 6), "image": torch.randn(9, 5)}
    for name, codes in loaded.load_quantizer().encode(embeddings).items():
        assert torch.equal(codes, quantizer.encode(embeddings)[name])
    assert AutoTokenizer.from_pretrained(tmp_path / "a" / "model").get_vocab() == parts["tokenizer"].get_vocab()


def test_generation_config_is_that_of_semantic_ids(tmp_path):
    save_model_directory(tmp_path / "model", **make_parts())
    config = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert (config["max_new_tokens"], config["length_penalty"]) == (3, 0.0)


def test_nothing_is_a_pickle(tmp_path, quantizer):
    save_model_directory(tmp_path / "model", **make_parts(), quantizer=quantizer, item_counts=np.arange(6))
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png", ".py"}
    for path in files:
        assert not zipfile.is_zipfile(path)
        with pytest.raises(ValueError):
            list(pickletools.genops(path.read_bytes()))


def test_the_card_names_catalogue_and_results(tmp_path, quantizer):
    metrics = {"ensemble": {"hr@10": 0.125, "ndcg@10": 0.0625}, "coverage": {"text": 0.5}}
    save_model_directory(tmp_path / "model", **make_parts(), quantizer=quantizer, metrics=metrics)
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: macrec_hf" in card
    assert "| ensemble |  |  | 0.1250 |  | 0.0625 |" in card and "| coverage" not in card
    assert "| image | 5 |" in card and '"00", "01"' in card
    save_model_directory(tmp_path / "model", **make_parts(), card="Mine.")
    assert (tmp_path / "model" / "README.md").read_text() == "Mine."


def test_saving_again_leaves_nothing_of_the_old_and_all_of_others(tmp_path, quantizer):
    directory = tmp_path / "model"
    save_model_directory(directory, **make_parts(), quantizer=quantizer, item_counts=torch.ones(6, dtype=torch.long))
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "notes.txt").write_text("mine")
    (directory / "model-00001-of-00002.safetensors").write_bytes(b"old")
    new = make_parts(seed=5)
    save_model_directory(directory, **new)
    loaded = load_model_directory(directory)
    assert loaded.table == new["table"] and loaded.item_counts is None and loaded.load_quantizer() is None
    assert (directory / "checkpoints" / "notes.txt").read_text() == "mine"
    assert not (directory / "model-00001-of-00002.safetensors").exists()
    assert not [path for path in directory.rglob("*partial*")]


@pytest.mark.parametrize("exists", [False, True])
def test_a_save_that_fails_changes_nothing(tmp_path, quantizer, exists):
    directory, old = tmp_path / "model", make_parts()
    if exists:
        save_model_directory(directory, **old)

    class Broken:
        config = quantizer.config

        def save_pretrained(self, folder):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        save_model_directory(directory, **make_parts(seed=3), quantizer=Broken())
    assert sorted(path.name for path in tmp_path.iterdir()) == (["model"] if exists else [])
    if exists:
        assert load_model_directory(directory).table == old["table"]
        assert not [path for path in directory.rglob("*partial*")]


def test_weights_in_several_files(tmp_path):
    parts = make_parts()
    save_model_directory(tmp_path / "model", **parts)
    parts["model"].save_pretrained(tmp_path / "model", max_shard_size="2KB")
    (tmp_path / "model" / "model.safetensors").unlink(missing_ok=True)
    loaded = load_model_directory(tmp_path / "model").model
    assert torch.equal(loaded.shared.weight, parts["model"].shared.weight)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", "the model's configuration"),
        ("model.safetensors", "the weights"),
        ("tokenizer.json", "the tokenizer"),
        ("tokenizer_config.json", "the tokenizer's modalities"),
        ("semantic_ids.safetensors", "the items' codes"),
        ("semantic_ids.json", "the items' ids"),
    ],
)
def test_a_missing_part_is_named(tmp_path, name, what):
    save_model_directory(tmp_path / "model", **make_parts())
    (tmp_path / "model" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"found no {name} \({what}\)"):
        load_model_directory(tmp_path / "model")


def test_a_newer_format_is_refused(tmp_path):
    save_model_directory(tmp_path / "model", **make_parts())
    path = tmp_path / "model" / "semantic_ids.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="(?s)99.*[Uu]pgrade macrec_hf"):
        load_model_directory(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "semantic_ids.json", "model.safetensors", "semantic_ids.safetensors"])
def test_a_part_that_was_cut_off_is_named(tmp_path, name):
    save_model_directory(tmp_path / "model", **make_parts())
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{name}: expected a part .* cannot be read.*cut off"):
        load_model_directory(tmp_path / "model")
    if name.startswith("semantic_ids"):
        with pytest.raises(ValueError, match="to hold a saved SemanticIdTable, but they cannot be read.*cut off"):
            SemanticIdTable.from_pretrained(tmp_path / "model")


def test_another_kind_of_model_and_other_sizes_are_refused(tmp_path):
    save_model_directory(tmp_path / "model", **make_parts())
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"d_ff": 99}))
    with pytest.raises(ValueError, match="weights of the sizes that .*config.json names, got others"):
        load_model_directory(tmp_path / "model")
    path.write_text(json.dumps(config | {"model_type": "macrec9"}))
    with pytest.raises(ValueError, match="expected model_type 'macrec', got 'macrec9'.*newer release. Upgrade"):
        load_model_directory(tmp_path / "model")


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    parts, other = make_parts(), make_parts(modalities=("image", "text"))
    with pytest.raises(ValueError, match="Were they made for different catalogues"):
        save_model_directory(tmp_path / "model", **{**parts, "table": other["table"]})
    small = MacRecForConditionalGeneration(MacRecConfig(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1))
    with pytest.raises(ValueError, match="vocabulary of 31 tokens"):
        save_model_directory(tmp_path / "model", **{**parts, "model": small})
    for counts in (torch.ones(5, dtype=torch.long), torch.ones(6), -torch.ones(6, dtype=torch.long)):
        with pytest.raises(ValueError, match="item_counts: expected whole numbers"):
            save_model_directory(tmp_path / "model", **parts, item_counts=counts)
    assert not (tmp_path / "model").exists()


def test_a_model_with_adapters_is_refused(tmp_path):
    """They are saved under names that no model has: what is loaded again would have weights drawn anew."""

    class Adapted(torch.nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

    Adapted.__module__ = "peft.tuners.lora.layer"  # PEFT is not among our requirements
    parts = make_parts()
    attention = parts["model"].encoder.block[0].layer[0].SelfAttention
    attention.q = Adapted(attention.q)
    with pytest.raises(ValueError, match=r"Adapted at encoder\.block\.0.*\.q\. Save the model that merge_and_unload"):
        save_model_directory(tmp_path / "model", **parts)
    assert not (tmp_path / "model").exists()


def test_neither_directory_nor_repository(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="to be a model directory or a repository of the Hub"):
        load_model_directory("nobody/nothing", cache_dir=tmp_path)
    with pytest.raises(OSError, match="to be a model directory or a repository of the Hub"):
        load_model_directory(tmp_path / "absent")
