import numpy as np
import pandas as pd
import pytest

from macrec_hf import SemanticIdTable, co_purchase_ids


def shop(groups=4, size=10, users=80, last=None):
    """Users buy six items of one group each; the groups have nothing to do with each other."""
    generator, rows = np.random.default_rng(0), []
    for user in range(users):
        bought = (user % groups) * size + generator.permutation(size)[:6]
        bought[-2:] = bought[-2:] if last is None else last
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(bought)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def ids(count):
    return [f"i{item}" for item in range(count)]


def test_what_is_bought_together_begins_alike_and_every_id_is_its_own(tmp_path):
    table = co_purchase_ids(shop(), ids(43), num_levels=3, num_clusters=5, codebook_size=12)
    codes = table.codes["purchases"].numpy()
    assert codes.shape == (43, 3) and table.collision_rate("purchases") == 0
    first = codes[:, 0]
    assert [len(set(first[start : start + 10])) for start in range(0, 40, 10)] == [1] * 4
    assert len(set(first.tolist())) == 5 and len(set(first[40:].tolist())) == 1  # nobody bought the last three
    assert (codes[:, 2] == 0).all()  # every cluster was small enough for the second code
    table.save_pretrained(tmp_path)
    assert SemanticIdTable.from_pretrained(tmp_path) == table
    assert SemanticIdTable.from_pretrained(tmp_path).report == table.report


def test_purchases_that_test_change_no_id():
    first, second, other = (
        co_purchase_ids(frame, ids(40), num_levels=3, num_clusters=4, codebook_size=8)
        for frame in (shop(), shop(last=[0, 39]), shop(users=60))
    )
    assert first == second and first.report == second.report and first.report != other.report
    assert first.report["purchases"]["learned_from"]["split"] == "leave-one-out"


@pytest.mark.parametrize(("groups", "levels"), [(1, 3), (2, 2), (1, 2)])
def test_clusters_that_are_too_large_are_parted(groups, levels):
    """Spectral clusters are uneven, and two codes of 8 hold 60 items only where the clusters are full."""
    table = co_purchase_ids(shop(groups, 60 // groups), ids(60), num_levels=levels, num_clusters=3, codebook_size=8)
    assert table.collision_rate("purchases") == 0 and table.codes["purchases"].max() < 8


def test_refusals():
    with pytest.raises(ValueError, match="num_clusters: expected 2 to codebook_size, 8, got 9"):
        co_purchase_ids(shop(), ids(40), num_clusters=9, codebook_size=8)
    with pytest.raises(ValueError, match="Expected at most 36 items, which is what 2 codes of 6 tell apart, got 40"):
        co_purchase_ids(shop(), ids(40), num_levels=2, num_clusters=3, codebook_size=6)
    with pytest.raises(ValueError, match="i3"):
        co_purchase_ids(shop(), ids(30))
