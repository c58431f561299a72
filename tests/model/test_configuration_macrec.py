import dataclasses

import pytest

from macrec_hf import MacRecConfig, MacRecQuantizerConfig


def test_modalities_keep_their_order_through_json(tmp_path):
    config = MacRecQuantizerConfig(modalities={"zebra": 3, "apple": 4, "mango": 5})
    assert config.modalities == (("zebra", 3), ("apple", 4), ("mango", 5))
    config.save_pretrained(tmp_path)
    loaded = MacRecQuantizerConfig.from_pretrained(tmp_path)
    assert loaded.modalities == config.modalities and loaded.to_dict() == config.to_dict()


def test_the_papers_numbers():
    config = MacRecQuantizerConfig()
    assert (config.num_levels, config.codebook_size, config.num_pseudo_labels) == (4, 256, 512)
    assert config.contrastive_weights == (0.0, 0.0, 0.1, 0.1)
    assert (config.alignment_weight, config.contrastive_temperature, config.commitment_weight) == (0.001, 0.1, 0.25)


def test_contrastive_weights_follow_the_number_of_levels():
    assert MacRecQuantizerConfig(num_levels=3).contrastive_weights == (0.0, 0.0, 0.1)
    assert MacRecQuantizerConfig(num_levels=1).contrastive_weights == (0.0,)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"modalities": {}}, "at least one"),
        ({"modalities": (("text", 3), ("text", 4))}, "each name once"),
        ({"modalities": {"te xt": 3}}, "letters, digits"),
        ({"modalities": 7}, "expected a dict"),
        ({"modalities": {"text": 0}}, "at least 1"),
        ({"num_levels": 0}, "num_levels"),
        ({"codebook_size": True}, "codebook_size"),
        ({"contrastive_weights": (0, 0, 0.1, -0.1)}, "contrastive_weights: expected numbers of at least 0"),
        ({"contrastive_weights": (0.1,)}, "one weight for each of the 4 levels"),
        ({"contrastive_temperature": 0.0}, "above 0"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
        ({"alignment_weight": -1.0}, "at least 0"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MacRecQuantizerConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"alignment_temperature": 0.0},
        {"implicit_alignment_weight": -0.1},
        {"copy_initializer_factor": -1.0},
        {"copy_initializer_factor": float("nan")},
        {"num_item_positions": -1},
        {"num_item_positions": True},
        {"num_item_positions": False},
        {"num_item_positions": 2.0},
    ],
)
def test_wrong_recommender_values_are_named(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        MacRecConfig(**changes)


@pytest.mark.parametrize("config_class", [MacRecQuantizerConfig, MacRecConfig])
def test_every_field_of_ours_says_what_it_means_and_where_it_comes_from(config_class):
    ours = [field for field in dataclasses.fields(config_class) if field.name in config_class.__annotations__]
    ours = [field for field in ours if field.name not in ("model_type", "keys_to_ignore_at_inference")]
    assert len(ours) >= 11 and all(field.metadata["help"] and field.metadata["source"] for field in ours)
