"""A model directory carries its code: where `macrec_hf` is absent, `trust_remote_code=True` loads every part."""

import json

import pytest
import torch
from hub_tools import MODALITIES, NUM_ITEMS, clean_process, drawn_histories, tiny_recommender
from local_hub import TOKEN, local_hub
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

import macrec_hf
from macrec_hf import MacRecRecommender
from macrec_hf.hub.remote_code import code_files
from macrec_hf.model.configuration_macrec import MacRecConfig, MacRecQuantizerConfig

HISTORIES = drawn_histories(20)
EMBEDDINGS = {"text": [[0.1 * (row - column) for column in range(6)] for row in range(8)],
              "image": [[0.2 * (row + column) - 1 for column in range(5)] for row in range(8)]}  # fmt: skip

# What somebody types who has transformers and torch, but not macrec_hf.
STRANGER = """
import importlib.util, json, sys
assert importlib.util.find_spec("macrec_hf") is None, "the environment is not clean"
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

name, output, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
where = given["where"]
trust = {"trust_remote_code": True, **where}
config = AutoConfig.from_pretrained(name, **trust)
tokenizer = AutoTokenizer.from_pretrained(name, **trust)
model = AutoModelForSeq2SeqLM.from_pretrained(name, **trust).eval()
quantizer = AutoModel.from_pretrained(name, subfolder="quantizer", **trust).eval()
table = get_class_from_dynamic_module("semantic_ids.SemanticIdTable", name, **where).from_pretrained(name, **where)
Trie = get_class_from_dynamic_module("trie.SemanticIdTrie", name, **where)
Processor = get_class_from_dynamic_module("logits_process.SemanticIdLogitsProcessor", name, **where)
search = get_class_from_dynamic_module("beam_search.semantic_id_beam_search", name, **where)
found = {"kind": [type(part).__name__ for part in (config, tokenizer, model, quantizer, table)]}
for modality in table.modalities:
    trie = Trie.from_table(table, tokenizer, modality)
    texts = ["".join(token for item in history[-5:] for token in table.tokens(item, modality))
             for history in given["histories"]]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ways = {"search": {"custom_generate": search, "trie": trie}, "processor": {"logits_processor": [Processor(trie)]},
            "plain": {"modality": modality}}
    for way, arguments in ways.items():
        written = model.generate(**batch, num_beams=10, num_return_sequences=10, **arguments)
        leaves = trie.leaf_of_tokens(written[:, 1:4])
        assert (leaves >= 0).all(), "an ID that no item has"
        found[f"{modality} {way}"] = [[table.item_ids[int(trie.leaf_items(leaf)[0])] for leaf in leaves[at : at + 10]]
                                      for at in range(0, len(leaves), 10)]
import pathlib, shutil, huggingface_hub
spoilt = pathlib.Path(output + ".spoilt")
shutil.copytree(huggingface_hub.snapshot_download(name, **where), spoilt, dirs_exist_ok=True)
weights = bytearray((spoilt / "model.safetensors").read_bytes())
weights[-9] ^= 1
(spoilt / "model.safetensors").write_bytes(weights)
try:
    AutoModelForSeq2SeqLM.from_pretrained(spoilt, trust_remote_code=True)
except ValueError as error:
    found["spoilt"] = str(error)
codes = quantizer.encode({key: torch.tensor(value) for key, value in given["embeddings"].items()})
found["codes"] = {key: value.tolist() for key, value in codes.items()}
if given["code"] == "recommender":
    recommend = pipeline("semantic-id-recommendation", model=name, **trust)
    found["pipeline"] = recommend(given["histories"], top_k=5, batch_size=8)
    try:
        recommend.save_pretrained(output + ".again")
    except RuntimeError as error:
        found["saving"] = str(error)
else:
    try:
        pipeline("semantic-id-recommendation", model=name, **trust)
    except KeyError as error:
        found["pipeline"] = str(error)
json.dump(found, open(output, "w"))
"""


@pytest.fixture(scope="module")
def recommender():
    return tiny_recommender(seed=1, item_counts=torch.arange(NUM_ITEMS))


@pytest.fixture(scope="module")
def run_clean(tmp_path_factory):
    with clean_process(tmp_path_factory.mktemp("environment")) as run:
        yield run


def expected(recommender) -> dict:
    """What the installed package says."""
    encoded = recommender.quantizer.encode({key: torch.tensor(value) for key, value in EMBEDDINGS.items()})
    wanted = {"codes": {key: value.tolist() for key, value in encoded.items()}}
    wanted["pipeline"] = recommender.recommend(HISTORIES, top_k=5)
    for modality in MODALITIES:
        ranked = recommender.recommend(HISTORIES, top_k=10, num_beams=10, modality=modality)
        wanted[modality] = [[item for item, _ in of_user] for of_user in ranked]
    return wanted


def check(found: dict, wanted: dict) -> None:
    kinds = ["MacRecConfig", "SemanticIdTokenizer", "MacRecForConditionalGeneration", "MacRecQuantizer"]
    assert found["kind"] == [*kinds, "SemanticIdTable"]
    assert found["codes"] == wanted["codes"]
    assert "model.safetensors: expected the file that was saved with" in found["spoilt"]
    for modality in MODALITIES:
        for way in ("search", "processor", "plain"):
            assert found[f"{modality} {way}"] == wanted[modality]
    if isinstance(found["pipeline"], str):
        assert "Unknown task semantic-id-recommendation" in found["pipeline"]
        return
    assert "pip install macrec-hf" in found["saving"]
    for ranked, of_user in zip(found["pipeline"], wanted["pipeline"], strict=True):
        assert [place["item_id"] for place in ranked] == [item for item, _ in of_user]
        assert [place["score"] for place in ranked] == pytest.approx([score for _, score in of_user], abs=1e-5)


@pytest.mark.parametrize("code", [True, "recommender"])
def test_a_stranger_gets_the_same_lists_from_the_hub_and_then_without_it(
    tmp_path, monkeypatch, recommender, run_clean, code
):
    given = {"histories": HISTORIES, "embeddings": EMBEDDINGS, "where": {"revision": "v1"}, "code": code}
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        recommender.push_to_hub("somebody/shop", token=TOKEN, private=True, include_code=code)
        commit = hub["somebody/shop"].sha("main")
        hub["somebody/shop"].tags["v1"] = commit
        tiny_recommender(seed=9).push_to_hub("somebody/shop", token=TOKEN)  # main goes on; v1 stays
        assert hub["somebody/shop"].sha("main") != commit
        for place, more in (("online", {"HF_TOKEN": TOKEN}), ("offline", {"HF_HUB_OFFLINE": "1"})):
            output, before = tmp_path / f"{place}.json", len(hub.requests)
            environment = hub.environment(tmp_path / "home", **more)
            run_clean(STRANGER, "somebody/shop", str(output), json.dumps(given), env=environment, cwd=tmp_path)
            check(json.loads(output.read_text()), expected(recommender))
            assert (len(hub.requests) > before) == (place == "online")
        assert not [route for route in hub.unknown if "shop" in route]


def test_with_the_package_its_own_classes_are_used(tmp_path, recommender):
    directory = recommender.save_pretrained(tmp_path / "model")
    for trust in (None, True, False):
        arguments = {} if trust is None else {"trust_remote_code": trust}
        config = AutoConfig.from_pretrained(directory, **arguments)
        assert type(config) is MacRecConfig
        tokenizer = AutoTokenizer.from_pretrained(directory, **arguments)
        if trust is not True:  # for tokenizers alone, transformers runs the code beside them if it is trusted
            assert type(tokenizer) is macrec_hf.SemanticIdTokenizer
        model = AutoModelForSeq2SeqLM.from_pretrained(directory, **arguments)
        assert type(model) is macrec_hf.MacRecForConditionalGeneration
        quantizer = AutoModel.from_pretrained(directory, subfolder="quantizer", **arguments)
        assert type(quantizer) is macrec_hf.MacRecQuantizer
        for part in (config, model.config, quantizer.config):
            assert not hasattr(part, "auto_map") and not hasattr(part, "custom_pipelines")


def test_code_goes_along_unless_it_is_told_not_to(tmp_path, recommender):
    names = {path.name for path in code_files()}
    assert {"modeling_macrec.py", "modeling_macrec_quantizer.py", "tokenization_macrec.py"} <= names
    assert not {"__init__.py", "recommender.py", "scoring.py"} & names and len(names) <= 20
    more = {path.name for path in code_files("recommender")}
    assert names | {"recommender.py", "pipeline.py"} <= more and len(more) <= 25
    with pytest.raises(ValueError, match="include_code: expected True, False or 'recommender', got 'all'"):
        code_files("all")
    directory = recommender.save_pretrained(tmp_path / "model")
    assert "custom_pipelines" not in (directory / "config.json").read_text()
    MacRecRecommender.from_pretrained(directory).save_pretrained(directory, include_code="recommender")
    assert {path.name for path in directory.glob("*.py")} == more
    MacRecRecommender.from_pretrained(directory).save_pretrained(directory)  # what went along before goes away
    assert {path.name for path in directory.glob("*.py")} == names and not list(directory.rglob("quantizer/*.py"))
    (directory / "notes.py").write_text("theirs")
    MacRecRecommender.from_pretrained(directory).save_pretrained(directory, include_code=False)
    assert [path.name for path in directory.rglob("*.py")] == ["notes.py"]
    for path in directory.rglob("*.json"):
        assert "auto_map" not in path.read_text() and "custom_pipelines" not in path.read_text(), path
    assert MacRecRecommender.from_pretrained(directory).recommend(HISTORIES) == recommender.recommend(HISTORIES)


def test_other_unknown_fields_of_a_configuration_stay():
    config = MacRecConfig(vocab_size=40, shop="books", auto_map={"AutoConfig": "x.Y"}, custom_pipelines={"t": {}})
    assert config.shop == "books" and "auto_map" not in config.to_dict()
    quantizer = MacRecQuantizerConfig(modalities={"text": 3}, encoders={"text": "e"}, auto_map={"AutoModel": "x.Y"})
    assert quantizer.encoders == {"text": "e"} and not hasattr(quantizer, "auto_map")
