"""Sizes from a shop's numbers: the doctor's rules hold, bounds are kept, and the configurations take them."""

import dataclasses

import pytest

from macrec_hf import (
    MacRecConfig,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainingArguments,
    MacRecTrainingArguments,
    quantizer_sizes,
    recommender_sizes,
)
from macrec_hf.doctor.advice import CHECKS

MODALITIES = {"text": 384, "image": 512}


def limit(title):
    return next(check.limit for check in CHECKS if check.title == title)


def test_codes_that_are_chosen_fix_what_follows_from_them():
    """Fewest levels with 50 IDs an item, for later items too; pseudo-labels two a code."""
    few = quantizer_sizes(120, MODALITIES, codebook_size=3)
    assert (few.codebook_size, few.num_pseudo_labels) == (3, 6)
    assert 3 ** (few.num_levels - 1) < 6000 <= 3**few.num_levels
    auto = quantizer_sizes(120, MODALITIES)
    later = quantizer_sizes(120, MODALITIES, num_later_items=10_000)
    assert auto.codebook_size == later.codebook_size and later.num_train_epochs == auto.num_train_epochs
    assert 15 ** (later.num_levels - 1) < 50 * 10_120 <= 15**later.num_levels
    with pytest.raises(ValueError, match="codebook_size: expected at least 2 codes, got 1"):
        quantizer_sizes(120, MODALITIES, codebook_size=1)


@pytest.mark.parametrize("num_items", [64, 100, 200, 333, 1_000, 2_615, 10_000, 1_000_000])
def test_the_doctor_is_content_with_the_codebooks(num_items):
    sizes = quantizer_sizes(num_items, MODALITIES)
    assert num_items / sizes.codebook_size >= limit("Codebook too large: few items a code")
    assert sizes.codebook_size**sizes.num_levels / num_items >= limit("Codebook too small")
    shorter = sizes.codebook_size ** (sizes.num_levels - 1) / num_items
    assert sizes.num_levels == 3 or shorter < limit("Codebook too small")
    assert sizes.num_pseudo_labels == 2 * sizes.codebook_size


def test_large_catalogues_get_the_papers_codebooks_and_batches():
    sizes, paper = quantizer_sizes(1_000_000, {"text": 4096, "image": 768}), MacRecQuantizerConfig()
    for name in ("num_levels", "codebook_size", "num_pseudo_labels"):
        assert getattr(sizes, name) == getattr(paper, name)
    assert sizes.per_device_train_batch_size == MacRecQuantizerTrainingArguments("out").per_device_train_batch_size
    assert sizes.hidden_sizes == (2048, 1024, 512, 256, 128) and sizes.num_train_epochs == 20


def test_a_small_catalogue_is_one_batch_of_narrow_layers():
    sizes = quantizer_sizes(200, {"text": 199, "image": 128})
    assert sizes.hidden_sizes == (256, 128) and sizes.per_device_train_batch_size == 200
    assert sizes.num_train_epochs == 1000  # a step each
    assert quantizer_sizes(3_000, {"text": 1_280}).hidden_sizes == (1024, 512, 256, 128)
    assert quantizer_sizes(30, {"text": 29}).hidden_sizes == (128,)
    assert quantizer_sizes(1, {"text": 1}).codebook_size == 8


def test_more_examples_are_seen_less_often_and_in_all_not_too_many():
    for users, purchases in ((60, 600), (300, 3_000), (917, 16_686), (1_000, 100_000), (100_000, 2_000_000)):
        sizes, examples = recommender_sizes(users, purchases), (2 + 4 / 20) * (purchases - 3 * users)
        epochs = sizes.num_train_epochs
        assert epochs == 40 or epochs * examples <= 1_500_000 < (epochs + 1) * examples or epochs == 2
        assert epochs * examples <= 1_500_000 or epochs == 2
    assert recommender_sizes(300, 3_000).num_train_epochs == 40
    assert recommender_sizes(1_000, 100_000).num_train_epochs == 7
    assert recommender_sizes(1_000, 100_000, num_tasks=2).num_train_epochs == 7
    assert recommender_sizes(1_000, 100_000, num_tasks=2, num_cross_modal=1).num_train_epochs == 14
    alone = recommender_sizes(1_000, 100_000, num_tasks=2, num_cross_modal=2)
    assert (alone.num_train_epochs, alone.cross_modal_rate) == (7, 1)


def test_large_shops_get_the_papers_model_and_small_ones_a_narrow_one():
    paper, large, small = MacRecConfig(), recommender_sizes(100_000, 1_000_000), recommender_sizes(300, 3_000)
    for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "dropout_rate"):
        assert getattr(large, name) == getattr(paper, name)
    assert small.d_model < large.d_model and small.num_layers < large.num_layers
    assert (small.max_history, recommender_sizes(10, 30).max_history) == (10, 5)
    assert recommender_sizes(10, 3_000).max_history == paper.max_history == 20


def test_before_a_date_no_purchase_is_held_out_of_each_user():
    by_last_two, by_date = recommender_sizes(1_000, 100_000), recommender_sizes(1_000, 98_000, num_held_out=0)
    assert by_date.num_train_epochs == by_last_two.num_train_epochs < recommender_sizes(1_000, 50_000).num_train_epochs
    with pytest.raises(ValueError, match="num_held_out: expected at least 0, got -1"):
        recommender_sizes(10, 100, num_held_out=-1)


def test_models_of_shops_that_sell_the_same_again_begin_by_copying():
    assert recommender_sizes(300, 3_000).copy_initializer_factor == 0
    again = recommender_sizes(300, 3_000, bought_again=True)
    assert again.copy_initializer_factor == again.config["copy_initializer_factor"] > 0
    assert dataclasses.replace(again, copy_initializer_factor=0.0) == recommender_sizes(300, 3_000)


def test_processes_share_the_batch():
    assert quantizer_sizes(3_000, MODALITIES, num_processes=4).per_device_train_batch_size == 256
    alone, eight = recommender_sizes(300, 3_000), recommender_sizes(300, 3_000, num_processes=8)
    assert eight.per_device_train_batch_size * 8 == alone.per_device_train_batch_size
    changed = dataclasses.replace(eight, per_device_train_batch_size=alone.per_device_train_batch_size)
    assert changed == alone


def test_configurations_and_arguments_take_their_fields(tmp_path):
    quantizer, recommender = quantizer_sizes(200, MODALITIES), recommender_sizes(300, 3_000)
    assert MacRecQuantizerConfig(modalities=MODALITIES, **quantizer.config).num_levels == quantizer.num_levels
    assert MacRecConfig(**recommender.config).d_model == recommender.d_model
    arguments = MacRecQuantizerTrainingArguments(str(tmp_path), **quantizer.arguments)
    assert arguments.num_train_epochs == quantizer.num_train_epochs
    assert MacRecTrainingArguments(str(tmp_path), **recommender.arguments).learning_rate == recommender.learning_rate
    for sizes in (quantizer, recommender):
        assert sizes.config | sizes.arguments == dataclasses.asdict(sizes)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="num_items: expected at least 1, got 0"):
        quantizer_sizes(0, MODALITIES)
    with pytest.raises(ValueError, match=r"modalities\['text'\]: expected at least 1, got 0"):
        quantizer_sizes(5, {"text": 0})
    with pytest.raises(ValueError, match="modalities: expected at least one"):
        quantizer_sizes(5, {})
    with pytest.raises(ValueError, match="num_purchases: expected at least 1, got 0"):
        recommender_sizes(3, 0)
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"num_cross_modal: expected 0 to 2, as many as num_tasks, got {number}"):
            recommender_sizes(60, 600, num_tasks=2, num_cross_modal=number)
