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


def test_with_purchases_an_example_goes_on_with_what_most_customers_bought_near():
    old = open_shop().recommender
    table, kinds = old.table, [kind(old.table, item) for item in old.table.item_ids]
    other = next(row for row in range(len(kinds)) if kinds[row] != kinds[0])
    bought = [*[[0, 38, 39]] * 3, [0, 38], *[[other, 36]] * 3, *[[37, other]] * 2]
    counts = count_purchases([np.array(rows) for rows in bought], table.num_items)
    parts = {"model": old.model, "tokenizer": old.tokenizer, "quantizer": old.quantizer, "table": table}
    blend = Blend({}, "co_occurrence")
    recommender = MacRecRecommender(item_counts=old.item_counts, purchase_counts=counts, blend=blend, **parts)
    # 36 was bought near nothing else by three customers: the most popular of its kind follows.
    same = next(row for row in range(len(kinds)) if kinds[row] == kinds[36] and row not in (0, 38, 39, other, 36))
    expected = [[0, 38, 39], [other, 36, same]]
    assert example_histories(recommender)[:2] == [[table.item_ids[row] for row in rows] for rows in expected]


def test_a_catalogue_too_small_has_none():
    old = open_shop().recommender
    codes = {name: old.table.codes[name][:2] for name in old.table.modalities}
    small = SemanticIdTable(old.table.item_ids[:2], codes, old.table.codebook_size)
    assert example_histories(MacRecRecommender(model=old.model, tokenizer=old.tokenizer, table=small)) == []
