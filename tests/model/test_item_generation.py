"""Plain `generate` of a model that was loaded from a model directory: it writes IDs of items and nothing else."""

import copy
import json
import logging
import pickle

import pytest
import torch
from hub_tools import MODALITIES, drawn_histories, tiny_recommender
from local_hub import TOKEN, local_hub
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, LogitsProcessor
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    SemanticIdLogitsProcessor,
    SemanticIdTable,
    SemanticIdTrie,
    exact_scores,
    semantic_id_beam_search,
)
from macrec_hf.model.logits_process import logger
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer, level_offsets

RECOMMENDER = tiny_recommender(seed=1)
TABLE, TRIES = RECOMMENDER.table, RECOMMENDER.tries
NUM_IDS = sum(trie.num_leaves for trie in TRIES.values())


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return RECOMMENDER.save_pretrained(tmp_path_factory.mktemp("model") / "shop")


@pytest.fixture
def model(directory):
    return MacRecForConditionalGeneration.from_pretrained(directory).eval()


@pytest.fixture
def notices(monkeypatch):
    """What the module warns of."""
    found = []
    logging.Logger.warning_once.cache_clear()
    monkeypatch.setattr(logger, "warning", lambda message, *_: found.append(message))
    return found


def batch(modality="text"):
    histories = drawn_histories(4)
    texts = ["".join(token for item in history for token in TABLE.tokens(item, modality)) for history in histories]
    return dict(RECOMMENDER.tokenizer(texts, padding=True, return_tensors="pt"))


def leaves(sequences, modality):
    return TRIES[modality].leaf_of_tokens(sequences[:, 1:4])


def test_writes_ids_of_items_of_every_modality_in_the_order_of_their_scores(model, notices):
    found = model.generate(
        **batch(), num_beams=NUM_IDS, num_return_sequences=NUM_IDS, output_scores=True, return_dict_in_generate=True
    )
    assert found.sequences.shape == (4 * NUM_IDS, 4)
    tokens = torch.cat([trie.leaf_tokens(torch.arange(trie.num_leaves)) for trie in TRIES.values()])
    scores = torch.cat(
        [
            exact_scores(model, *batch().values(), trie)[:, trie.leaf_rows[trie.leaf_start[:-1]]]
            for trie in TRIES.values()
        ],
        dim=1,
    )
    best = scores.sort(descending=True)
    assert torch.equal(found.sequences[:, 1:].view(4, NUM_IDS, 3), tokens[best.indices])
    torch.testing.assert_close(found.sequences_scores.view(4, -1), best.values, atol=1e-4, rtol=0)
    assert not notices


@pytest.mark.parametrize("settings", [{}, {"num_beams": 1}, {"num_beams": 7, "num_return_sequences": 7}])
def test_a_modality_narrows_it(model, settings):
    other = {"text": "image", "image": "text"}
    for modality in MODALITIES:
        sequences = model.generate(**batch(), modality=modality, **settings)
        assert (leaves(sequences, modality) >= 0).all() and (leaves(sequences, other[modality]) < 0).all()
        processor = [SemanticIdLogitsProcessor(TRIES[modality])]
        assert torch.equal(sequences, model.generate(**batch(), logits_processor=processor, **settings))
    with pytest.raises(ValueError, match=r"modality: expected one of \['text', 'image'\].*got 'audio'"):
        model.generate(**batch(), modality="audio")


class Forbid(LogitsProcessor):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


def test_what_the_caller_says_takes_its_place_and_other_processors_come_first(model):
    plain = model.generate(**batch(), modality="text")
    forbidden = int(plain[0, 1])
    without = model.generate(**batch(), modality="text", logits_processor=[Forbid(forbidden)])
    assert (without[:, 1] != forbidden).all() and (leaves(without, "text") >= 0).all()
    few = SemanticIdTable(["only"], {"text": TABLE.codes["text"][:1]}, codebook_size=4)
    offsets = level_offsets(TABLE, "text")
    trie = SemanticIdTrie(few.codes["text"], 4, offsets)
    beams = {"num_beams": 2, "num_return_sequences": 1}
    for own in (
        {"logits_processor": [SemanticIdLogitsProcessor(trie)]},
        {"custom_generate": semantic_id_beam_search, "trie": trie},
        {
            "prefix_allowed_tokens_fn": lambda _, ids: trie.leaf_tokens(torch.tensor([0]))[0, len(ids) - 1 :][
                :1
            ].tolist()
        },
    ):
        sequences = model.generate(**batch(), **beams, **own)
        assert (trie.leaf_of_tokens(sequences[:, 1:4]) == 0).all()
        with pytest.raises(ValueError, match="modality: expected None, got 'text' with a processor, prefix_allowed"):
            model.generate(**batch(), modality="text", **own)


def test_without_a_table_there_is_one_notice(directory, notices):
    model = MacRecForConditionalGeneration.from_pretrained(directory, semantic_ids=None)
    for _ in range(2):
        free = model.generate(**batch(), num_beams=5, num_return_sequences=5)
    assert len(notices) == 1 and "no item's ID: no semantic IDs lie beside" in notices[0]
    assert ((leaves(free, "text") < 0) & (leaves(free, "image") < 0)).any()
    with pytest.raises(ValueError, match="modality: expected None, got 'text' with no IDs"):
        model.generate(**batch(), modality="text")
    model.semantic_ids = TABLE
    assert (leaves(model.generate(**batch(), modality="text"), "text") >= 0).all()
    fresh = MacRecForConditionalGeneration(model.config)
    assert fresh.semantic_ids is None


def test_a_new_table_is_followed(model):
    model.generate(**batch())
    model.semantic_ids = SemanticIdTable(["a"], {name: TABLE.codes[name][3:4] for name in MODALITIES}, codebook_size=4)
    for modality in MODALITIES:
        sequences = model.generate(**batch(), modality=modality)
        wanted = TRIES[modality].leaf_tokens(TRIES[modality].item_leaf[3:4])
        assert torch.equal(sequences[:, 1:], wanted.expand(4, -1))


def test_items_without_an_id_in_a_modality(model):
    absent = torch.full_like(TABLE.codes["image"], -1)
    model.semantic_ids = SemanticIdTable(
        TABLE.item_ids, {"text": TABLE.codes["text"], "image": absent}, codebook_size=4
    )
    assert (leaves(model.generate(**batch(), num_return_sequences=9), "text") >= 0).all()
    with pytest.raises(ValueError, match=r"expected one of \['text'\], in which items have IDs, got 'image'"):
        model.generate(**batch(), modality="image")


def test_sampling_on_a_catalogue_of_sixteen_items(model):
    codes = torch.stack(torch.meshgrid(*[torch.arange(4)] * 2, indexing="ij"), dim=-1).view(16, 2)
    codes = torch.cat([codes, codes[:, :1]], dim=1)
    model.semantic_ids = SemanticIdTable(list("abcdefghijklmnop"), {"text": codes, "image": codes}, codebook_size=4)
    own = [SemanticIdLogitsProcessor(SemanticIdTrie(codes, 4, level_offsets(TABLE, "text")))]
    ways = ({}, {"generation_config": GenerationConfig(do_sample=True, max_new_tokens=3)}, {"logits_processor": own})
    for settings in ways:
        torch.manual_seed(0)
        settings = settings if "generation_config" in settings else {"do_sample": True, **settings}
        if "generation_config" not in settings:
            settings = {"num_return_sequences": 30, **settings}
        sequences = model.generate(**batch(), **settings)
        tries = {name: SemanticIdTrie(codes, 4, level_offsets(TABLE, name)) for name in MODALITIES}
        found = torch.stack([trie.leaf_of_tokens(sequences[:, 1:4]) for trie in tries.values()])
        assert (found.amax(0) >= 0).all()
        assert len(sequences) == 4 or len(sequences.unique(dim=0)) > 8
    assert settings.get("num_beams") is None and model.generation_config.num_beams == 20
    model.generation_config.num_beams = 2  # chosen by somebody: it stays
    out = model.generate(**batch(), do_sample=True, modality="text", return_dict_in_generate=True)
    assert isinstance(out, GenerateBeamEncoderDecoderOutput)
    model.generation_config.num_beams = 20
    for beams in (5, 20):
        with pytest.raises(ValueError, match=rf"at most 4 to sample with.*got {beams}.*pass num_beams=1 to sample"):
            model.generate(**batch(), do_sample=True, num_beams=beams, modality="text")


@pytest.mark.parametrize("num_beams", [2, 3, 4])
def test_sampling_with_as_many_beams_as_first_codes_writes_items_alone(model, num_beams):
    """Also where most codes have one code after them, so that fewer may follow than are drawn."""
    codes = torch.tensor([[0, 1, 2], [1, 0, 3], [2, 2, 2], [3, 1, 0], [3, 1, 1]])
    model.semantic_ids = SemanticIdTable(list("abcde"), {"text": codes, "image": codes}, codebook_size=4)
    trie = SemanticIdTrie(codes, 4, level_offsets(TABLE, "text"))
    for seed in range(20):
        torch.manual_seed(seed)
        sequences = model.generate(
            **batch(), do_sample=True, num_beams=num_beams, num_return_sequences=num_beams, modality="text"
        )
        assert (trie.leaf_of_tokens(sequences[:, 1:4]) >= 0).all()


def test_offsets_are_those_of_the_tokenizer():
    for names in (("text",), ("text", "image"), ("a", "b", "c")):
        table = SemanticIdTable(["i"], {name: [[1, 0, 2]] for name in names}, codebook_size=5)
        tokenizer = SemanticIdTokenizer.from_table(table)
        for name in names:
            expected = tokenizer.convert_tokens_to_ids(table.tokens("i", name))
            assert [
                first + code for first, code in zip(level_offsets(table, name), (1, 0, 2), strict=True)
            ] == expected
            assert level_offsets(tokenizer, name) == level_offsets(table, name)


def test_saving_keeps_the_table_beside_the_weights(tmp_path, model):
    model.save_pretrained(tmp_path / "again")
    assert SemanticIdTable.from_pretrained(tmp_path / "again") == TABLE
    again = MacRecForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.semantic_ids == TABLE and torch.equal(again.generate(**batch()), model.generate(**batch()))
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other" / "semantic_ids.json").exists()
    bare = MacRecForConditionalGeneration(model.config)
    bare.save_pretrained(tmp_path / "bare")
    assert not (tmp_path / "bare" / "semantic_ids.json").exists()
    assert MacRecForConditionalGeneration.from_pretrained(tmp_path / "bare").semantic_ids is None
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert not [name for name in config if "semantic" in name or "tries" in name]


def test_a_recommender_saves_its_own_table_whatever_the_model_came_with(tmp_path, model):
    few = SemanticIdTable(TABLE.item_ids[:9], {n: c[:9] for n, c in TABLE.codes.items()}, codebook_size=4)
    grown = type(RECOMMENDER)(model=model, tokenizer=RECOMMENDER.tokenizer, table=few)
    assert MacRecForConditionalGeneration.from_pretrained(grown.save_pretrained(tmp_path / "m")).semantic_ids == few


def test_copies_pickles_and_more_tokens(model):
    expected = model.generate(**batch(), num_return_sequences=9)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.generate(**batch(), num_return_sequences=9), expected)
    model.resize_token_embeddings(model.config.vocab_size + 5)
    both = model.generate(**batch(), num_return_sequences=20)
    assert (torch.maximum(leaves(both, "text"), leaves(both, "image")) >= 0).all()
    assert not [name for name in model.state_dict() if "semantic" in name]


def test_loads_on_the_meta_device_and_by_auto_classes(directory):
    model = MacRecForConditionalGeneration.from_pretrained(directory, device_map="meta")
    assert model.semantic_ids == TABLE and model.device.type == "meta"
    with torch.device("meta"):
        assert MacRecForConditionalGeneration(model.config).device.type == "meta"
    assert AutoModelForSeq2SeqLM.from_pretrained(directory).semantic_ids == TABLE
    loaded, _ = MacRecForConditionalGeneration.from_pretrained(directory, output_loading_info=True)
    assert loaded.semantic_ids == TABLE
    state = loaded.state_dict()
    unnamed = MacRecForConditionalGeneration.from_pretrained(None, config=loaded.config, state_dict=state)
    assert unnamed.semantic_ids is None


def test_a_table_of_another_model_is_refused(directory, model):
    model.resize_token_embeddings(level_offsets(TABLE, "image")[2] + 2)
    row = int(torch.nonzero(TABLE.codes["image"][:, 2] >= 2)[0])
    with pytest.raises(ValueError, match=rf"below the model's vocab_size \(29\), got .* for item 'i{row}'"):
        model.generate(**batch())
    config = MacRecConfig(num_levels=4, vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1)
    deeper = MacRecForConditionalGeneration(config)
    deeper.semantic_ids = TABLE
    with pytest.raises(ValueError, match="expected IDs of 4 codes, as the model's config has them, got 3"):
        deeper.generate(**batch())


def test_a_table_that_is_not_whole_is_refused(tmp_path, model):
    model.save_pretrained(tmp_path)
    (tmp_path / "semantic_ids.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        MacRecForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "semantic_ids.safetensors").unlink()
    with pytest.raises(OSError, match="semantic_ids.safetensors"):
        MacRecForConditionalGeneration.from_pretrained(tmp_path)


def test_from_the_hub_with_revision_and_subfolder(tmp_path, monkeypatch, model, notices):
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        model.push_to_hub("somebody/model", token=TOKEN)
        hub["somebody/model"].tags["v1"] = hub["somebody/model"].sha("main")
        model.semantic_ids = SemanticIdTable(["x"], {n: c[:1] for n, c in TABLE.codes.items()}, codebook_size=4)
        model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="somebody/model", token=TOKEN)
        zeros = {name: torch.zeros_like(weight) for name, weight in model.state_dict().items()}
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "private.txt").write_text("not to be sent")
        named = {"repo_id": "somebody/zeros", "commit_message": "Nothing learned", "token": TOKEN}
        model.save_pretrained(tmp_path / "other", push_to_hub=True, state_dict=zeros, **named)
        sent = MacRecForConditionalGeneration.from_pretrained("somebody/zeros", token=TOKEN)
        assert not any(weight.any() for weight in sent.state_dict().values())
        assert "private.txt" not in hub["somebody/zeros"].files() and sent.semantic_ids == model.semantic_ids
        where = {"revision": "v1", "token": TOKEN, "cache_dir": tmp_path / "cache"}
        first = MacRecForConditionalGeneration.from_pretrained("somebody/model", **where)
        second = AutoModelForSeq2SeqLM.from_pretrained("somebody/model", token=TOKEN)
        assert first.semantic_ids == TABLE and second.semantic_ids == model.semantic_ids
        again = MacRecForConditionalGeneration.from_pretrained("somebody/model", local_files_only=True, **where)
        assert again.semantic_ids == TABLE

        files = {f"inner/{name}": data for name, data in hub["somebody/model"].files("v1").items()}
        hub["somebody/model"].commit("main", files, "moved")
        inner = MacRecForConditionalGeneration.from_pretrained("somebody/model", subfolder="inner", token=TOKEN)
        assert inner.semantic_ids == TABLE

        bare = MacRecForConditionalGeneration(model.config)
        bare.push_to_hub("somebody/bare", token=TOKEN)
        loaded = MacRecForConditionalGeneration.from_pretrained("somebody/bare", token=TOKEN)
        assert loaded.semantic_ids is None
        loaded.generate(**batch())
        assert len(notices) == 1
