"""Example histories: of popular items, of different kinds, going on with what was bought together."""

import numpy as np
from app_tools import open_shop

from macrec_hf import MacRecRecommender
from macrec_hf.app.example_histories import LENGTH, NUM_EXAMPLES, example_histories
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.blend import Blend
from macrec_hf.model.semantic_ids import SemanticIdTable


def kind(table, item):
    return table.tokens(item, "text")[0]


def test_without_purchases_each_example_is_what_is_popular_of_one_kind():
    recommender = open_shop().recommender
    table, histories = recommender.table, example_histories(recommender)
    kinds = [kind(table, history[0]) for history in histories]
    assert 1 < len(histories) <= NUM_EXAMPLES and len(set(kinds)) == len(kinds)
    # The fixture's counts fall along the catalogue: the first items of a kind are its most popular.
    for history, own in zip(histories, kinds, strict=True):
        assert history == [item for item in table.item_ids if kind(table, item) == own][:LENGTH]
    assert histories[0][0] == table.item_ids[0]


def test_with_purchases_an_example_goes_on_with_what_was_bought_near():
    old = open_shop().recommender
    table = old.table
    other = next(row for row, item in enumerate(table.item_ids) if kind(table, item) != kind(table, table.item_ids[0]))
    bought = [[0, 38, 39], [0, 38], [39, 38], [other, 36], [37, 36], [0, 39]]
    counts = count_purchases([np.array(rows) for rows in bought], table.num_items)
    parts = {
        "model": old.model,
        "tokenizer": old.tokenizer,
        "quantizer": old.quantizer,
        "item_counts": old.item_counts,
    }
    recommender = MacRecRecommender(table=table, purchase_counts=counts, blend=Blend({}, "co_occurrence"), **parts)
    # 0 was bought twice right before 38, and once right before 39 and once at two steps.
    expected = [[0, 38, 39], [other, 36, 37]]
    assert example_histories(recommender) == [[table.item_ids[row] for row in rows] for rows in expected]
    assert LENGTH == 3


def test_a_catalogue_too_small_has_none():
    old = open_shop().recommender
    codes = {name: old.table.codes[name][:2] for name in old.table.modalities}
    small = SemanticIdTable(old.table.item_ids[:2], codes, old.table.codebook_size)
    assert example_histories(MacRecRecommender(model=old.model, tokenizer=old.tokenizer, table=small)) == []
