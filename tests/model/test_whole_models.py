"""A model is loaded whole or not at all: no weight is drawn, no file of another model is taken."""

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hub_tools import NUM_ITEMS, drawn_histories, tiny_recommender
from local_hub import TOKEN, local_hub
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecRecommender, SemanticIdTable
from macrec_hf.catalogue.ids_folder import write_ids
from macrec_hf.data.fingerprints import history_fingerprints, item_hashes
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.blend import Blend
from macrec_hf.model.configuration_macrec import MacRecQuantizerConfig
from macrec_hf.model.files import CHECKSUMS_NAME
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer
from macrec_hf.training.serving_counts import refresh_directory

HISTORIES = drawn_histories(4)


def made(seed=0):
    """With counts, titles, a quantizer and a blend."""
    random = np.random.default_rng(seed)
    recommender = tiny_recommender(seed, item_counts=torch.arange(NUM_ITEMS))
    bought = [random.integers(0, NUM_ITEMS, size=6) for _ in range(30)]
    blend = Blend({"near_log": 0.5, "model_text": 1.0, "alike_text": 0.3}, "blend", {"window": 4})
    recommender._set_blend(blend, count_purchases(bought, NUM_ITEMS, window=4))
    hashes = item_hashes(recommender.table.item_ids)
    recommender.learned_histories = torch.from_numpy(history_fingerprints(bought, hashes))
    return recommender


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        made(seed).save_pretrained(folder / str(seed), include_code=False)
    return folder


@pytest.fixture
def directory(whole, tmp_path):
    """A copy without checksums, so that what is told is told without them."""
    shutil.copytree(whole / "0", tmp_path / "model")
    (tmp_path / "model" / CHECKSUMS_NAME).unlink()
    return tmp_path / "model"


def change_weights(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


Q = "encoder.block.0.layer.0.SelfAttention.q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(Q), rf"all weights that .*config.json names, but the file of weights lacks {Q}\. Was one"),
        (lambda w: w.pop("shared.weight"), r"lacks (decoder.embed_tokens|shared).weight"),
        (lambda w: w.update(extra=torch.ones(2)), r"no other weights than .*config.json names, .* has extra too"),
        (lambda w: w.update({Q: w[Q][:5]}), rf"sizes that .*names, got others: {Q} has the shape \(5, 16\)"),
        (lambda w: w[Q].view(-1)[3:4].fill_(torch.nan), rf"expected finite weights, got NaN or infinity in {Q}\."),
        (lambda w: w[Q].view(-1)[3:4].fill_(-torch.inf), rf"finite weights, got NaN or infinity in {Q}\."),
        (lambda w: w.update({Q: w[Q] * 0 + 3e38, "encoder.final_layer_norm.weight": torch.full((16,), 3e38)}),
         "expected finite scores, got NaN"),
    ],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_configuration_are_refused(directory, change, message):
    change_weights(directory / "model.safetensors", change)
    with pytest.raises(ValueError, match=message):
        MacRecRecommender.from_pretrained(directory).recommend(HISTORIES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 2}, r"lacks encoder\.block\.1\..* and 7 more"),
        ({"num_decoder_layers": 3}, r"lacks decoder\.block\.1\."),
        ({"d_ff": 64}, r"wi.weight has the shape \(32, 16\) instead of \(64, 16\)"),
        ({"num_layers": 10**12}, r"config.json: num_layers: expected .* at most 1,000, got 1000000000000"),
        ({"num_layers": 10**400}, "num_layers: .* a number of more than 30 digits"),
        ({"d_model": 10**9}, "d_model: expected .* at most 1,000,000"),
        ({"d_model": 10**6, "d_ff": 10**7}, "at most 20,000,000,000 weights"),
        ({"vocab_size": 10**15}, "vocab_size: expected"),
        ({"vocab_size": 9_000_000}, r"decoder.*weight|shared.weight has the shape .* instead of \(9000000, 16\)"),
        ({"num_layers": "4"}, "config.json: .*num_layers.* Was the file edited"),
        ({"num_heads": True}, "num_heads"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon: expected a number above 0"),
        ({"num_levels": 10**9}, "num_levels: expected .* at most 26"),
        ({"dense_act_fn": "nothing"}, "config.json: .*nothing"),
    ],
)
def test_configurations_that_no_weights_have_are_refused_before_anything_is_built(directory, changes, message):
    change_json(directory / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        MacRecRecommender.from_pretrained(directory)
    assert "\n" not in str(error.value) and "config.json" in str(error.value)


@pytest.mark.parametrize("content", ["[]", "3", "null", "[" * 100_000, "{", '"x"'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "semantic_ids.json", "blend.json",
                                  "item_titles.json", "quantizer/config.json", "checksums.json"])  # fmt: skip
def test_json_of_another_shape_is_named(directory, name, content):
    (directory / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}") as error:
        MacRecRecommender.from_pretrained(directory)
    assert "\n" not in str(error.value)


def test_without_a_configuration_no_default_is_taken(directory):
    (directory / "quantizer" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="quantizer: expected config.json beside the weights, found none"):
        MacRecQuantizer.from_pretrained(directory / "quantizer")


def test_a_quantizer_is_whole_too_and_is_that_of_the_ids(directory, whole):
    path = directory / "quantizer" / "model.safetensors"
    change_weights(path, lambda w: w.pop("quantizers.text.encoder.1.weight"))
    with pytest.raises(ValueError, match=r"quantizer/config.json names, but the file of weights lacks .*encoder\.1"):
        MacRecQuantizer.from_pretrained(directory / "quantizer")
    shutil.copyfile(whole / "0" / "quantizer" / "model.safetensors", path)
    change_weights(path, lambda w: w["quantizers.text.codebooks"].fill_(torch.nan))
    with pytest.raises(ValueError, match="NaN or infinity in quantizers.text.codebooks"):
        MacRecRecommender.from_pretrained(directory)
    other = MacRecQuantizer(MacRecQuantizerConfig(modalities={"image": 5, "text": 6}, num_levels=3, codebook_size=4,
                                                  hidden_sizes=(4,), codebook_dim=4))  # fmt: skip
    other.save_pretrained(directory / "quantizer")
    with pytest.raises(ValueError, match=r"expected the quantizer of the semantic IDs.*\('image', 'text'\)"):
        MacRecRecommender.from_pretrained(directory)


@pytest.mark.parametrize("changes", [{"num_levels": 10**9}, {"codebook_size": 10**9}, {"hidden_sizes": [10**9]},
                                     {"hidden_sizes": 3}, {"dropout": "x"}, {"codebook_dim": 10**12}])  # fmt: skip
def test_sizes_of_a_quantizer_are_bounded(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        MacRecQuantizerConfig(modalities={"text": 6}, **changes)


def test_rows_that_the_caller_asks_to_add_are_drawn(directory):
    """Of the table of tokens, by the arguments of transformers; nothing else is."""
    words = {"vocab_size": 60, "ignore_mismatched_sizes": True, "semantic_ids": None}
    assert len(MacRecForConditionalGeneration.from_pretrained(directory, **words).shared.weight) == 60
    change_weights(directory / "model.safetensors", lambda w: w.pop(Q))
    with pytest.raises(ValueError, match=f"lacks {Q}"):
        MacRecForConditionalGeneration.from_pretrained(directory, **words)


CHANGED = [
    "config.json", "model.safetensors", "semantic_ids.json", "semantic_ids.safetensors", "tokenizer.json",
    "blend.json", "item_counts.safetensors", "learned_histories.safetensors", "purchase_counts.safetensors",
    "quantizer/model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_file_that_was_changed_is_named(whole, tmp_path, name):
    shutil.copytree(whole / "0", tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    if path.suffix == ".json":
        content += b" "
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    wrong = r"(its bytes have changed|it has .* instead).*remove checksums.json"
    with pytest.raises(
        ValueError, match=rf"{name}: expected the file that was saved with .*checksums.json, but {wrong}"
    ):
        MacRecRecommender.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / CHECKSUMS_NAME).unlink()
    if name not in ("purchase_counts.safetensors", "semantic_ids.safetensors"):  # their last number is no possible one
        MacRecRecommender.from_pretrained(tmp_path / "model").recommend(HISTORIES)


@pytest.mark.parametrize("name", CHANGED)
def test_a_file_of_another_model_is_refused_and_one_that_is_gone(whole, tmp_path, name):
    shutil.copytree(whole / "0", tmp_path / "model")
    shutil.copyfile(whole / "1" / name, tmp_path / "model" / name)
    if (whole / "0" / name).read_bytes() != (whole / "1" / name).read_bytes():
        with pytest.raises(ValueError, match=f"{name}|semantic_ids"):
            MacRecRecommender.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises((ValueError, OSError), match=Path(name).name):
        MacRecRecommender.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("counts", ["none", "rounded"])
def test_fingerprints_of_customers_stay_at_home_with_the_counts(whole, tmp_path, counts):
    recommender = MacRecRecommender.from_pretrained(whole / "0")
    assert len(recommender.learned_histories) == 30
    recommender.save_pretrained(tmp_path / "all", include_code=False)
    assert torch.equal(
        MacRecRecommender.from_pretrained(tmp_path / "all").learned_histories, recommender.learned_histories
    )
    recommender.save_pretrained(tmp_path / "all", include_code=False, counts=counts)  # takes the earlier file away
    assert not (tmp_path / "all" / "learned_histories.safetensors").exists()
    assert MacRecRecommender.from_pretrained(tmp_path / "all").learned_histories is None


@pytest.mark.parametrize("tensor", [torch.zeros(30), torch.zeros(6, 5, dtype=torch.int64), torch.tensor(3)])
def test_fingerprints_are_whole_numbers_in_a_row(directory, tensor):
    save_file({"learned_histories": tensor}, directory / "learned_histories.safetensors")
    with pytest.raises(ValueError, match="expected learned_histories, int64 of one dimension, got .*torch.*Copy it"):
        MacRecRecommender.from_pretrained(directory)


def test_titles_of_other_items_are_refused(directory):
    (directory / "item_titles.json").write_text('{"i0": "Mug", "other": "Vase"}')
    with pytest.raises(
        ValueError, match=r"item_titles.json: expected titles of the table's items.*such as \['other'\]"
    ):
        MacRecRecommender.from_pretrained(directory)
    (directory / "item_titles.json").write_text('{"i0": "Red mug"}')  # people may edit them
    assert MacRecRecommender.from_pretrained(directory).item_titles == {"i0": "Red mug"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "quantizer/model.safetensors", "blend.json"])
def test_nothing_is_counted_into_a_directory_that_will_not_load(whole, tmp_path, name):
    shutil.copytree(whole / "0", tmp_path / "model")
    content = bytearray((tmp_path / "model" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "model" / name).write_bytes(content)
    purchases = pd.DataFrame([("u", "i0", 1)], columns=["user_id", "item_id", "timestamp"])
    with pytest.raises(ValueError, match=name):
        refresh_directory(tmp_path / "model", purchases)


def test_what_is_added_or_left_over_is_refused(whole, tmp_path):
    recommender = tiny_recommender(0)
    recommender.save_pretrained(tmp_path / "bare", include_code=False)
    shutil.copyfile(whole / "1" / "item_counts.safetensors", tmp_path / "bare" / "item_counts.safetensors")
    with pytest.raises(ValueError, match="item_counts.safetensors: .* but it was not there"):
        MacRecRecommender.from_pretrained(tmp_path / "bare")


def test_without_checksums_ids_of_another_model_are_told_by_the_configuration(directory, whole):
    for name in ("semantic_ids.json", "semantic_ids.safetensors"):
        shutil.copyfile(whole / "1" / name, directory / name)
    for load in (MacRecRecommender, MacRecForConditionalGeneration):
        with pytest.raises(ValueError, match="expected the semantic IDs that were saved with the model, got others"):
            load.from_pretrained(directory)
    given = SemanticIdTable.from_pretrained(directory)  # whoever gives a table has chosen it
    assert MacRecForConditionalGeneration.from_pretrained(directory, semantic_ids=given).semantic_ids is given
    change_json(directory / "config.json", table_fingerprint=None)  # a model of an earlier release
    assert MacRecRecommender.from_pretrained(directory).recommend(HISTORIES)


def test_swapped_modalities_are_noticed(directory):
    def swap(codes):
        codes["text"], codes["image"] = codes["image"].clone(), codes["text"].clone()

    change_weights(directory / "semantic_ids.safetensors", swap)
    with pytest.raises(ValueError, match="items, codes or their modalities differ"):
        MacRecRecommender.from_pretrained(directory)


def test_a_tokenizer_with_tokens_in_another_order_is_refused(directory):
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["<a_0>"], vocabulary["<A_0>"] = vocabulary["<A_0>"], vocabulary["<a_0>"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected in tokenizer.json the tokens of the semantic IDs, in their order"):
        MacRecRecommender.from_pretrained(directory)


def test_every_way_to_write_keeps_the_checksums_true(whole, tmp_path):
    """Counts anew, a blend anew, items added, weights and IDs saved into the folder by themselves."""
    place = tmp_path / "model"
    shutil.copytree(whole / "0", place)
    recommender = MacRecRecommender.from_pretrained(place)
    count_purchases([np.arange(4)], NUM_ITEMS, window=4).save(place)
    Blend({"sold_log": 1.0}, "blend", {"window": 4}).save(place)
    assert MacRecRecommender.from_pretrained(place).blend.weights == {"sold_log": 1.0}
    with torch.no_grad():
        recommender.model.shared.weight[5] += 1
    recommender.model.save_pretrained(place)
    recommender.quantizer.save_pretrained(place / "quantizer")
    assert MacRecRecommender.from_pretrained(place).recommend(HISTORIES)
    recommender.model.save_pretrained(place, max_shard_size="4KB")
    (place / "model.safetensors").unlink(missing_ok=True)
    assert MacRecRecommender.from_pretrained(place).recommend(HISTORIES)
    recommender = MacRecRecommender.from_pretrained(whole / "0")
    recommender.add_items({"text": torch.ones(1, 6), "image": torch.ones(1, 5)}, ["new"])
    recommender.save_pretrained(place)
    assert MacRecRecommender.from_pretrained(place).table.item_ids[-1] == "new"
    recommender.remove_items(["i3"])
    recommender.save_pretrained(place)
    assert "i3" not in MacRecRecommender.from_pretrained(place).table.row_of


def test_ids_have_checksums_of_their_own(tmp_path):
    recommender = tiny_recommender(0)
    (tmp_path / "ids").mkdir()
    write_ids(tmp_path / "ids", recommender.table, recommender.quantizer, {})
    assert SemanticIdTable.from_pretrained(tmp_path / "ids") == recommender.table
    path = tmp_path / "ids" / "semantic_ids.safetensors"
    change_weights(path, lambda codes: codes["text"][0].fill_(1))
    with pytest.raises(ValueError, match="semantic_ids.safetensors: expected the file that was saved with"):
        SemanticIdTable.from_pretrained(tmp_path / "ids")
    recommender.table.save_pretrained(tmp_path / "ids")
    assert SemanticIdTable.from_pretrained(tmp_path / "ids") == recommender.table
    other = tiny_recommender(1)
    shutil.rmtree(tmp_path / "ids" / "quantizer")
    other.quantizer.save_pretrained(tmp_path / "elsewhere" / "quantizer")
    shutil.copytree(tmp_path / "elsewhere" / "quantizer", tmp_path / "ids" / "quantizer")
    with pytest.raises(ValueError, match="quantizer/model.safetensors: expected the file that was saved"):
        MacRecQuantizer.from_pretrained(tmp_path / "ids" / "quantizer")


def test_counts_that_were_left_out_are_told_and_lost_ones_are_an_error(whole, tmp_path, caplog):
    recommender = MacRecRecommender.from_pretrained(whole / "0")
    recommender.save_pretrained(tmp_path / "shared", counts="none", include_code=False)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").addHandler(caplog.handler)
        shared = MacRecRecommender.from_pretrained(tmp_path / "shared")
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "counts of purchases were left out when it was saved" in caplog.text
    assert "No counts of purchases are in here" in (tmp_path / "shared" / "README.md").read_text()
    assert shared.recommend(HISTORIES) == recommender.recommend(HISTORIES, fusion="average")
    for name, other in (("blend.json", "purchase_counts.safetensors"), ("purchase_counts.safetensors", "blend.json")):
        place = tmp_path / name
        shutil.copytree(whole / "0", place)
        (place / CHECKSUMS_NAME).unlink()
        (place / name).unlink()
        with pytest.raises((ValueError, FileNotFoundError), match=rf"{name}.*copied in part"):
            MacRecRecommender.from_pretrained(place)
        assert (place / other).is_file()


def test_a_push_leaves_counts_out_unless_told_and_the_card_says_so(whole, tmp_path, monkeypatch, caplog):
    recommender = MacRecRecommender.from_pretrained(whole / "0")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    counts = {"purchase_counts.safetensors", "blend.json"}
    with local_hub(monkeypatch, tmp_path) as hub:
        for repository, told, said in (
            ("a/none", {}, "No counts of purchases are in here"),
            ("a/rounded", {"counts": "rounded"}, "without pairs of fewer than five customers"),
            ("a/all", {"counts": "all"}, "a pair that one customer bought says what that customer bought"),
        ):
            caplog.clear()
            recommender.push_to_hub(repository, token=TOKEN, include_code=False, **told)
            files = hub[repository].files()
            assert counts & set(files) == (counts if told else set())
            card = files["README.md"].decode()
            assert said in card and card.count("## Customers' data") == 1
            assert ("they are customers' data" in caplog.text) is not bool(told)


def test_the_card_says_what_lies_there_and_not_what_was_asked_for(whole, tmp_path):
    recommender, card = MacRecRecommender.from_pretrained(whole / "0"), tmp_path / "rounded" / "README.md"
    recommender.save_pretrained(card.parent, counts="rounded", include_code=False)
    rounded = "without pairs of fewer than five customers"
    assert rounded in card.read_text()
    again = MacRecRecommender.from_pretrained(card.parent).save_pretrained(tmp_path / "again", include_code=False)
    assert rounded in (again / "README.md").read_text()  # loaded and saved it holds no more than before
    rows = [(f"u{user}", recommender.table.item_ids[user % 7 + step], step) for user in range(12) for step in range(3)]
    card.write_bytes(card.read_bytes().replace(b"## Limits", b"caf\xe9\r\n\n## Limits"))
    refresh_directory(card.parent, pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))
    told = card.read_bytes()
    assert rounded.encode() not in told and b"that one customer bought" in told.replace(b"\n", b" ")
    assert b"caf\xe9\r\n" in told and told.count(b"## Customers' data") == 1
    recommender._set_blend(None, None)
    recommender.save_pretrained(tmp_path / "none", include_code=False, card=told.decode(errors="replace"))
    assert "No counts of purchases are in here" in (tmp_path / "none" / "README.md").read_text()


def test_a_blend_needs_the_quantizer_that_it_was_fitted_with(directory):
    shutil.rmtree(directory / "quantizer")
    with pytest.raises(ValueError, match="expected the quantizer that tells .* weight of alike_text.*got none"):
        MacRecRecommender.from_pretrained(directory)


def test_a_model_with_numbers_that_are_none_is_neither_saved_nor_served(tmp_path):
    recommender = tiny_recommender(0)
    with torch.no_grad():
        recommender.model.shared.weight[4] = torch.nan
    with pytest.raises(ValueError, match="model: expected finite weights, got NaN or infinity in shared.weight"):
        recommender.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="expected finite scores, got NaN"):
        recommender.recommend(HISTORIES)


@pytest.mark.parametrize("changes", [{"num_layers": 0}, {"d_model": -1}, {"num_heads": 2.0}, {"dropout_rate": 1.5}])
def test_sizes_of_a_recommender_are_checked_where_it_is_made(changes):
    with pytest.raises(Exception, match=next(iter(changes))):
        MacRecConfig(**changes)


def test_models_that_are_loaded_at_once_are_whole_and_so_are_later_ones(tmp_path):
    tiny_recommender(0).save_pretrained(tmp_path / "model")
    before = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(MacRecForConditionalGeneration.from_pretrained, tmp_path / "model") for _ in range(6)]
    models = [load.result() for load in loads]
    assert PreTrainedModel.tie_weights is before
    for model in (*models, MacRecForConditionalGeneration(models[0].config)):
        assert model.encoder.embed_tokens.weight is model.shared.weight
