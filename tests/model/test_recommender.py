import copy
import pickle

import numpy as np
import pytest
import torch
from hub_tools import tiny_recommender
from huggingface_hub import HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from local_hub import TOKEN, local_hub
from transformers import T5Config, T5ForConditionalGeneration, pipeline
from transformers.utils import logging

from macrec_hf.model.configuration_macrec import MacRecConfig
from macrec_hf.model.ensemble import Decoding, history_sources, rank_catalogue
from macrec_hf.model.model_decoding import exact_scores
from macrec_hf.model.modeling_macrec import MacRecForConditionalGeneration
from macrec_hf.model.ranked_lists import Recommendation
from macrec_hf.model.recommender import MacRecRecommender
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer, TaskEncoder
from macrec_hf.model.trie import SemanticIdTrie

NUM_ITEMS = 25
HISTORIES = [["i1", "i7"], ["i3"], ["i2", "i2", "i9", "i4"]]


def make_recommender(item_counts=None, seed=0):
    generator = np.random.default_rng(seed)
    codes = {}
    for name in ("text", "image"):
        numbers = generator.permutation(64)[:NUM_ITEMS]
        codes[name] = torch.from_numpy(np.stack(np.unravel_index(numbers, (4, 4, 4)), axis=1))
    codes["text"][11] = codes["text"][12]  # one shared ID
    codes["text"][20] = codes["image"][20] = -1  # an item without any ID
    table = SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], codes, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(seed)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, max_history=3, d_model=16, d_kv=8, d_ff=32, num_heads=2,
        num_layers=1, num_decoder_layers=1, initializer_factor=0.5,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config)
    return MacRecRecommender(model=model, tokenizer=tokenizer, table=table, item_counts=item_counts)


@pytest.fixture(scope="module")
def recommender():
    return make_recommender()


def exact_means(recommender, history):
    """{item id: mean of its two log-probabilities}, by teacher forcing."""
    scores = []
    encoder = TaskEncoder(recommender.tokenizer, recommender.table, max_history=3)
    for name in recommender.table.modalities:
        trie = SemanticIdTrie.from_table(recommender.table, recommender.tokenizer, name)
        rows = np.array([recommender.table.row_of[item] for item in history])
        ids = torch.tensor([encoder.source(rows, f"{name}_to_{name}")])
        scores.append(exact_scores(recommender.model, ids, torch.ones_like(ids), trie)[0])
    means = torch.stack(scores).mean(dim=0)
    return {item: float(mean) for item, mean in zip(recommender.table.item_ids, means, strict=True) if mean > -np.inf}


def test_the_ranking_is_that_of_exact_scores(recommender):
    found = recommender.recommend(HISTORIES, top_k=NUM_ITEMS)
    for history, ranked in zip(HISTORIES, found, strict=True):
        expected = exact_means(recommender, history)
        assert sorted(item for item, _ in ranked) == sorted(expected)
        for item, score in ranked:
            assert isinstance(score, float) and score == pytest.approx(expected[item], abs=1e-4)
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)


def test_the_end_of_a_long_history_counts(recommender):
    long = ["i8", "i9", *HISTORIES[2][-3:]]
    assert recommender.recommend([long]) == recommender.recommend([HISTORIES[2]])  # max_history is 3
    assert recommender.recommend([["i1", "i7"]]) != recommender.recommend([["i7", "i1"]])


@pytest.mark.parametrize("modality", ["text", "image", "ensemble"])
@pytest.mark.parametrize("fusion", ["average", "authors"])
def test_it_is_the_evaluation_path(recommender, modality, fusion):
    rows = [np.array([recommender.table.row_of[item] for item in history]) for history in HISTORIES]
    tries = {m: SemanticIdTrie.from_table(recommender.table, recommender.tokenizer, m) for m in ("text", "image")}
    sources = history_sources(TaskEncoder(recommender.tokenizer, recommender.table, max_history=3), rows, list(tries))
    decoding = Decoding(num_beams=8, top_k=5, modality=modality, fusion=fusion)
    lists = rank_catalogue(recommender.model, tries, sources, decoding)[modality]
    found = recommender.recommend(HISTORIES, top_k=5, num_beams=8, modality=modality, fusion=fusion)
    for user, ranked in enumerate(found):
        assert [f"i{row}" for row in lists.items[user]] == [item for item, _ in ranked]


@pytest.mark.parametrize("modality", ["text", "ensemble"])
def test_as_many_as_asked_for_and_none_twice(recommender, modality):
    for top_k, num_beams in ((1, 20), (10, 20), (20, 3)):
        found = recommender.recommend(HISTORIES, top_k=top_k, num_beams=num_beams, modality=modality)
        assert [len({item for item, _ in ranked}) for ranked in found] == [top_k] * 3
    everything = recommender.recommend(HISTORIES, top_k=500)
    assert [len(ranked) for ranked in everything] == [NUM_ITEMS - 1] * 3  # one item has no ID


def test_allowed_and_excluded_items(recommender):
    full = recommender.recommend(HISTORIES, top_k=NUM_ITEMS)
    allowed, excluded = ["i3", "i5", "i11", "i12"], ["i12", "i5"]
    found = recommender.recommend(HISTORIES, top_k=10, num_beams=2, allowed_items=allowed, excluded_items=excluded)
    for ranked, everything in zip(found, full, strict=True):
        expected = [item for item, _ in everything if item in ("i3", "i11")]
        assert [item for item, _ in ranked] == expected
    per_user = recommender.recommend(HISTORIES, allowed_items=[["i3"], ["i5", "i4"], []])
    assert [sorted(item for item, _ in ranked) for ranked in per_user] == [["i3"], ["i4", "i5"], []]


def test_history_is_hidden_only_on_request(recommender):
    open_lists = recommender.recommend(HISTORIES, top_k=NUM_ITEMS)
    hidden = recommender.recommend(HISTORIES, top_k=NUM_ITEMS, exclude_history=True, excluded_items=["i5"])
    for history, everything, ranked in zip(HISTORIES, open_lists, hidden, strict=True):
        assert set(history) <= {item for item, _ in everything}
        expected = [item for item, _ in everything if item not in [*history, "i5"]]
        assert [item for item, _ in ranked] == expected


def test_models_are_written_and_read_without_bars_which_stay_on_for_others(recommender, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)  # a command line may have switched them off
    enable_progress_bars()
    recommender.save_pretrained(tmp_path / "model")
    MacRecRecommender.from_pretrained(tmp_path / "model")
    assert capfd.readouterr().err == "" and logging.is_progress_bar_enabled()
    T5ForConditionalGeneration.from_pretrained(tmp_path / "model", config=T5Config.from_pretrained(tmp_path / "model"))
    assert "Loading weights: 100%" in capfd.readouterr().err
    disable_progress_bars()
    recommender.save_pretrained(tmp_path / "again")
    assert are_progress_bars_disabled() and logging.is_progress_bar_enabled()
    enable_progress_bars()


def test_without_a_blend_the_configuration_decides_on_own_items():
    recommender = make_recommender()
    shown = recommender.recommend(HISTORIES, exclude_history=False)
    hidden = recommender.recommend(HISTORIES, exclude_history=True)
    assert shown != hidden
    for noted, expected in ((None, shown), (False, shown), (True, hidden)):
        recommender.model.config.hides_history = noted
        assert recommender.recommend(HISTORIES) == expected
        assert recommender.recommend(HISTORIES, exclude_history=False) == shown
    with pytest.raises(ValueError, match="hides_history: expected true, false or none, got 'yes'"):
        MacRecConfig(hides_history="yes")


def test_unknown_items(recommender):
    with pytest.raises(ValueError, match="Unknown item 'nobody' in history 1"):
        recommender.recommend([["i1"], ["i2", "nobody"]])
    with pytest.raises(ValueError, match="history 0: expected item ids as texts, got 1 .int."):
        recommender.recommend([[1, 2]])
    with pytest.raises(ValueError, match="Unknown item 'nobody' in allowed_items"):
        recommender.recommend([["i1"]], allowed_items=["nobody"])
    found = recommender.recommend([["i1", "nobody", "i7"]], on_unknown="skip", excluded_items=["nobody"])
    assert found == recommender.recommend([["i1", "i7"]])


def test_unknown_items_of_limits_are_left_out_with_a_word(recommender, caplog):
    arguments = {"on_unknown": "skip", "top_k": 3, "num_beams": 2}
    told = [
        (
            {"allowed_items": (item for item in ["i3", "x", "i5", "y"])},
            "2 unknown items of allowed_items, such as ['x', 'y'].",
        ),
        (
            {"allowed_items": ["x"]},
            "1 unknown items of allowed_items, such as ['x']. Nothing is left of it, so nothing",
        ),
        ({"allowed_items": [["i3"], ["x"], ["y", "i4"]]}, "['x', 'y']. Nothing is left of it for 1 of 3 histories,"),
        (
            {"excluded_items": ["x", "i2", "y", "z", "w"]},
            "4 unknown items of excluded_items, such as ['x', 'y', 'z'].",
        ),
        ({"excluded_items": ["x"]}, "1 unknown items of excluded_items, such as ['x']."),
        ({"allowed_items": ["i3"], "excluded_items": [[], ["i4"], []]}, ""),
    ]
    for limits, message in told:
        caplog.clear()
        with caplog.at_level("WARNING"):
            recommender.recommend(HISTORIES, **arguments, **limits)
        assert message in caplog.text and bool(message) == ("Left out" in caplog.text)
        assert message.endswith(".") <= ("Nothing" not in caplog.text)
    (kept,) = recommender.recommend([["i1"]], allowed_items=["x", "i5"], **arguments)
    assert [item for item, _ in kept] == ["i5"]


def test_what_was_left_out_and_who_gets_what_is_popular_is_said_each_time(caplog):
    recommender = make_recommender(torch.arange(NUM_ITEMS))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("WARNING"):
            recommender.recommend([["i1", "x"], ["nobody"], []], on_unknown="skip", num_beams=2, top_k=2)
        assert "Left out 2 unknown items of the histories, such as ['x', 'nobody']" in caplog.text
        assert "2 of 3 histories hold no item that the model can read, such as history 1" in caplog.text
        assert "recommending what is popular there" in caplog.text
    caplog.clear()
    recommender.recommend([["i1"]], num_beams=2, top_k=2)
    assert not caplog.text


@pytest.mark.parametrize("history", [[], ["nobody"], ["i20"]])
def test_nothing_to_read_is_answered_by_popularity(history):
    counts = torch.zeros(NUM_ITEMS, dtype=torch.long)
    counts[4], counts[9], counts[2] = 5, 7, 5
    recommender = make_recommender(counts)
    known, popular = recommender.recommend([["i1"], history], top_k=3, on_unknown="skip")
    assert known == recommender.recommend([["i1"]], top_k=3)[0]
    # counts plus one, of 17 + 25 in all: item 9 has 8/42, items 2 and 4 have 6/42 each, the lower row first
    expected = [("i9", np.log(8 / 42)), ("i2", np.log(6 / 42)), ("i4", np.log(6 / 42))]
    assert [item for item, _ in popular] == [item for item, _ in expected]
    assert [score for _, score in popular] == pytest.approx([score for _, score in expected])
    limits = {"allowed_items": ["i9", "i4", "i7"], "excluded_items": [[], ["i9"]]}
    limited = recommender.recommend([["i1"], history], on_unknown="skip", **limits)[1]
    assert [item for item, _ in limited] == ["i4", "i7"]


def test_an_entry_is_a_pair_that_knows_probability_and_title():
    recommender = make_recommender(torch.arange(NUM_ITEMS))
    untitled = recommender.recommend([HISTORIES[0]], top_k=3)[0]
    recommender.item_titles.update({"i3": "Blue mug", "i4": ""})
    (ranked,) = recommender.recommend([HISTORIES[0]], top_k=NUM_ITEMS)
    assert ranked[:3] == untitled and [found.title for found in untitled] == [None] * 3
    assert dict(ranked) == {found.item_id: found.score for found in ranked}
    assert [(item, score) for item, score in ranked] == ranked
    assert {found.item_id: found.title for found in ranked if found.title} == {"i3": "Blue mug"}
    expected = exact_means(recommender, HISTORIES[0])
    for found in ranked:
        assert found.probability == pytest.approx(np.exp(expected[found.item_id]), rel=1e-3)
    for again in (pickle.loads(pickle.dumps(ranked)), copy.deepcopy(ranked)):
        assert again == ranked and [found.as_dict() for found in again] == [found.as_dict() for found in ranked]
    named = next(found for found in ranked if found.title)
    assert list(named.as_dict()) == ["item_id", "score", "probability", "title", "reasons"]
    assert repr(named) == (
        f"Recommendation('i3', {named.score!r}, probability={named.probability:.3g}, title='Blue mug')"
    )
    assert repr(Recommendation("i1", -2.0)) == "Recommendation('i1', -2.0)"


def test_probabilities_are_there_where_the_score_is_a_log_probability():
    recommender = make_recommender(torch.arange(NUM_ITEMS))
    for modality, fusion, known in (
        ("ensemble", "average", True),
        ("text", "authors", True),  # nothing is fused
        ("ensemble", "authors", False),
    ):
        ranked, popular = recommender.recommend([["i1"], []], modality=modality, fusion=fusion)
        assert all((found.probability is not None) == known for found in ranked)
        assert [found.probability for found in popular] == pytest.approx([(25 - n) / 325 for n in range(10)])
    ranked = recommender.recommend([["i1"]], top_k=NUM_ITEMS, modality="image")[0]
    assert sum(found.probability for found in ranked) < 1


def test_nothing_to_read_without_counts_is_an_error(recommender):
    with pytest.raises(ValueError, match="History 1 holds no item that the model can read.*item_counts"):
        recommender.recommend([["i1"], ["nobody"]], on_unknown="skip")


def test_no_histories(recommender):
    assert recommender.recommend([]) == []


def test_batches_do_not_matter(recommender):
    together = recommender.recommend(HISTORIES, batch_size=64)
    alone = [recommender.recommend([history])[0] for history in HISTORIES]
    for ranked, expected in zip(together, alone, strict=True):
        assert [item for item, _ in ranked] == [item for item, _ in expected]


def test_saved_and_loaded_it_recommends_the_same(tmp_path):
    recommender = make_recommender(torch.arange(NUM_ITEMS), seed=2)
    recommender.save_pretrained(tmp_path / "model")
    loaded = MacRecRecommender.from_pretrained(tmp_path / "model")
    assert loaded.recommend(HISTORIES, top_k=9) == recommender.recommend(HISTORIES, top_k=9)
    assert loaded.recommend([[]]) == recommender.recommend([[]])
    assert loaded.quantizer is None


def test_the_quantizer_travels_along(tmp_path):
    from macrec_hf.model.configuration_macrec import MacRecQuantizerConfig
    from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer

    config = MacRecQuantizerConfig(modalities={"text": 3, "image": 2}, num_levels=3, codebook_size=4, codebook_dim=2)
    recommender = make_recommender()
    recommender._quantizer = MacRecQuantizer(config)
    recommender.save_pretrained(tmp_path / "first")
    MacRecRecommender.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    again = MacRecRecommender.from_pretrained(tmp_path / "second")
    for name in ("text", "image"):
        assert torch.equal(again.quantizer.codebooks[name], recommender.quantizer.codebooks[name])
    assert again.quantizer is again.quantizer


def test_refusals(recommender):
    with pytest.raises(ValueError, match="Put a single history into a list"):
        recommender.recommend(["i1", "i7"])
    for top_k in (0, None):
        with pytest.raises(ValueError, match=f"top_k: expected a whole number of at least 1, got {top_k}"):
            recommender.recommend(HISTORIES, top_k=top_k)
    with pytest.raises(ValueError, match="num_beams: expected a whole number of at least 1, got 2.5"):
        recommender.recommend(HISTORIES, num_beams=2.5)
    with pytest.raises(ValueError, match="on_unknown: expected 'raise' or 'skip', got 'ignore'"):
        recommender.recommend(HISTORIES, on_unknown="ignore")
    with pytest.raises(ValueError, match="modality: expected 'ensemble' or one of 'text', 'image', got 'sound'"):
        recommender.recommend(HISTORIES, modality="sound")
    with pytest.raises(ValueError, match="one list of item ids for each of the 3 histories, got 2"):
        recommender.recommend(HISTORIES, excluded_items=[["i1"], ["i2"]])


def test_it_comes_back_from_the_hub(tmp_path, monkeypatch):
    recommender = make_recommender(torch.arange(NUM_ITEMS), seed=3)
    with local_hub(monkeypatch, tmp_path) as hub:
        recommender.push_to_hub("somebody/shop", token=TOKEN, card="Mine.")
        files = hub["somebody/shop"].files()
        assert {"config.json", "model.safetensors", "semantic_ids.json", "README.md"} <= set(files)
        assert files["README.md"] == b"Mine." and not any("partial" in name for name in files)
        not_ours = dict.fromkeys(["checkpoint-9/optimizer.pt", "checkpoints/model.safetensors"], b"not ours to fetch")
        hub["somebody/shop"].add(not_ours)
        loaded = MacRecRecommender.from_pretrained("somebody/shop", cache_dir=tmp_path)
        with pytest.raises(OSError, match="'somebody/else' to be a model directory or a repository of the Hub"):
            MacRecRecommender.from_pretrained("somebody/else", cache_dir=tmp_path)
    assert loaded.recommend(HISTORIES) == recommender.recommend(HISTORIES)
    assert not [path for name in ("checkpoint*", "*.pt", "*.py") for path in tmp_path.rglob(name)]


def test_revisions_private_repositories_and_the_cache(tmp_path, monkeypatch):
    first, second = make_recommender(seed=3), make_recommender(seed=4)
    with local_hub(monkeypatch, tmp_path) as hub:
        with pytest.raises(OSError, match="a token is needed|401"):
            first.push_to_hub("somebody/shop")
        commit = first.push_to_hub("somebody/shop", token=TOKEN, private=True).oid
        HfApi(token=TOKEN).create_branch("somebody/shop", branch="next")
        second.push_to_hub("somebody/shop", token=TOKEN, revision="next")
        assert hub["somebody/shop"].private and hub["somebody/shop"].sha("main") == commit
        with pytest.raises(OSError, match="'somebody/shop' to be a model directory or a repository of the Hub"):
            MacRecRecommender.from_pretrained("somebody/shop")
        for revision, recommender in ((None, first), (commit, first), ("next", second)):
            where = {"token": TOKEN, "revision": revision}
            assert MacRecRecommender.from_pretrained("somebody/shop", **where).recommend(HISTORIES) == (
                recommender.recommend(HISTORIES)
            )
            assert SemanticIdTable.from_pretrained("somebody/shop", **where) == recommender.table
        pipe = pipeline("semantic-id-recommendation", model="somebody/shop", revision="next", token=TOKEN)
        assert [place["item_id"] for place in pipe(HISTORIES[0])] == [
            item for item, _ in second.recommend(HISTORIES[:1])[0]
        ]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = MacRecRecommender.from_pretrained("somebody/shop", revision="next")
    assert offline.recommend(HISTORIES) == second.recommend(HISTORIES)


def test_a_new_push_leaves_nothing_of_the_old_and_all_of_others(tmp_path, monkeypatch):
    whole, bare = tiny_recommender(item_counts=torch.ones(30, dtype=torch.long)), make_recommender(seed=4)
    with local_hub(monkeypatch, tmp_path) as hub:
        whole.push_to_hub("somebody/shop", token=TOKEN, include_code="recommender")
        hub["somebody/shop"].add({"notes/quantizer.txt": b"theirs", "notes.py": b"theirs"})
        before = set(hub["somebody/shop"].files())
        assert {"quantizer/config.json", "item_counts.safetensors", "trie.py", "recommender.py"} <= before
        bare.push_to_hub("somebody/shop", token=TOKEN, include_code=False)
        code = {name for name in before if name.endswith(".py")} - {"notes.py"}
        gone = {"quantizer/config.json", "quantizer/model.safetensors", "item_counts.safetensors", *code}
        assert before - set(hub["somebody/shop"].files()) == gone
        assert MacRecRecommender.from_pretrained("somebody/shop").recommend(HISTORIES) == bare.recommend(HISTORIES)


def test_the_card_goes_along(tmp_path):
    recommender = make_recommender(seed=3)
    recommender.save_pretrained(tmp_path / "first", card="Ours, by hand.")
    loaded = MacRecRecommender.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "README.md").read_text() == "Ours, by hand."
    loaded.save_pretrained(tmp_path / "third", license="mit")
    assert "license: mit" in (tmp_path / "third" / "README.md").read_text()


@pytest.mark.parametrize("given", ["bfloat16", torch.bfloat16])
def test_it_is_loaded_in_the_type_and_onto_the_device_that_were_asked_for(tmp_path, recommender, given):
    recommender.save_pretrained(tmp_path)
    loaded = MacRecRecommender.from_pretrained(tmp_path, dtype=given, device="auto")
    there = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    assert loaded.model.dtype == torch.bfloat16 and loaded.model.device.type == there.type
    found, exact = ({item: score for item, score in one.recommend(HISTORIES[:1], top_k=NUM_ITEMS)[0]}
                    for one in (loaded, recommender))  # fmt: skip
    assert found == pytest.approx(exact, abs=0.1) and found != exact
    assert MacRecRecommender.from_pretrained(tmp_path).model.dtype == torch.float32  # as it was saved


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"torch_dtype": "float16"},
            "among device, dtype, max_history, use_cpu_kernels, .*revision, .*torch_dtype. Did you mean dtype",
        ),
        ({"revison": "v1"}, "got revison. Did you mean revision?"),
        ({"allow_patterns": "*"}, "got allow_patterns"),
    ],
)
def test_arguments_that_nobody_takes_are_refused(tmp_path, recommender, given, message):
    recommender.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=message):
        MacRecRecommender.from_pretrained(tmp_path, **given)
    if "dtype" not in message:
        with pytest.raises(TypeError, match=f"Expected arguments among revision, .*{message}"):
            SemanticIdTable.from_pretrained(tmp_path, **given)


def test_arguments_of_the_hub_are_taken_for_a_folder_too(tmp_path, recommender):
    recommender.save_pretrained(tmp_path)
    where = {"revision": "main", "token": None, "cache_dir": tmp_path, "local_files_only": True}
    loaded = MacRecRecommender.from_pretrained(tmp_path, force_download=False, **where)
    assert loaded.recommend(HISTORIES) == recommender.recommend(HISTORIES)
