"""The product on which the demo explains semantic IDs."""

import torch

from macrec_hf import SemanticIdTable
from macrec_hf.demo.one_product import ALIKE, one_product

CODES = {
    "text": torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0], [2, 2, 2], [0, 1, 2]]),
    "image": torch.tensor([[3, 0, 0], [3, 0, 1], [3, 0, 2], [4, 0, 0], [-1, -1, -1], [3, 1, 0]]),
}
IDS = ["a", "b", "c", "d", "e", "f"]
PRODUCTS = {item: {"item_id": item, "title": item, "image": None} for item in IDS}
TABLE = SemanticIdTable(IDS, CODES, codebook_size=5)


def test_the_one_with_most_others_that_begin_alike():
    found = one_product(TABLE, PRODUCTS, ["d", "e", "b"])
    assert found["product"]["item_id"] == "b"
    text, image = found["ids"]
    assert (text["tokens"], text["first"], image["tokens"]) == ("<a_0><b_1><c_0>", "<a_0>", "<A_3><B_0><C_1>")
    assert [product["item_id"] for product in text["alike"]] == ["c", "f", "a"]  # two codes in common, then one
    assert [product["item_id"] for product in image["alike"]] == ["a", "c", "f"]


def test_a_product_alone_and_one_without_an_id():
    (alone,) = ([part["alike"] for part in one_product(TABLE, PRODUCTS, ["d"])["ids"]],)
    assert alone == [[], []]
    without = one_product(TABLE, PRODUCTS, ["e"])["ids"][1]
    assert (without["tokens"], without["first"], without["alike"]) == ("", "", [])


def test_only_so_many_are_shown():
    codes = {"text": torch.tensor([[0, place] for place in range(9)])}
    many = SemanticIdTable([str(place) for place in range(9)], codes, codebook_size=9)
    products = {item: {"item_id": item} for item in many.item_ids}
    assert len(one_product(many, products, ["0"])["ids"][0]["alike"]) == ALIKE
