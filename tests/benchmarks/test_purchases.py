"""What the systems of benchmarks/baselines may learn and are asked: the same as ours, which they do not import."""

import json
from pathlib import Path

import numpy as np
import pytest

from macrec_hf import leave_one_out, read_interactions, user_histories, validation_halves
from macrec_hf.evaluation.outside_lists import is_long_enough, read_lists
from macrec_hf.evaluation.ranking_metrics import ndcg as our_ndcg
from macrec_hf.evaluation.ranking_metrics import tied_ranks

FOLDER = Path(__file__).parents[2] / "benchmarks" / "baselines"
LINES = """user_id,item_id,timestamp
b,03,2020-01-05
a,01,2020-01-03
a,02,2020-01-01
b,02,2020-01-04
a,03,2020-01-03
c,04,2020-01-01
b,01,2020-01-06
a,02,2020-01-09
b,01,2020-01-07
c,01,2020-01-02
"""


@pytest.fixture
def purchases_module(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import purchases

    return purchases


def named(item_ids, histories):
    return [[item_ids[row] for row in history] for history in histories]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_split_is_ours(kind, tmp_path, purchases_module):
    path = tmp_path / ("x.csv" if kind == "csv" else "x.inter.json")
    published = {"7": [3, 1, 2, 1], "1": [2, 2, 4], "12": [5, 1]}
    path.write_text(LINES if kind == "csv" else json.dumps(published))
    found = purchases_module.read_purchases(path)
    interactions = read_interactions(path)
    ids = interactions["item_id"].unique().tolist()
    ours = user_histories(interactions, {item: row for row, item in enumerate(ids)})
    assert found.user_ids == ours.user_ids
    train, _ = leave_one_out(ours, "train")
    assert named(found.item_ids, found.training()) == named(ids, train)
    for split in ("validation", "test"):
        known, targets = leave_one_out(ours, split)
        histories, expected = found.asked(split)
        assert named(found.item_ids, histories) == named(ids, known)
        assert [found.item_ids[row] for row in expected] == [ids[row] for row in targets]
    assert found.choosing().tolist() == validation_halves(ours.user_ids)[0].tolist()


def test_the_halves_are_ours(purchases_module):
    users = [str(user) for user in range(40)]
    found = purchases_module.Purchases([], users, [], [])
    assert found.choosing().tolist() == validation_halves(users)[0].tolist()


def test_pieces_hold_every_pair_of_neighbours_once(purchases_module):
    for length in range(2, 7):
        for size in range(0, 15):
            pieces = purchases_module.in_pieces(np.arange(size), length)
            pairs = [pair for piece in pieces for pair in zip(piece[:-1].tolist(), piece[1:].tolist(), strict=True)]
            assert pairs == [(row, row + 1) for row in range(size - 1)]
            assert all(2 <= len(piece) <= length for piece in pieces)
            assert size < 2 or pieces[-1][-1] == size - 1


def test_figures_are_ours_and_own_items_go(purchases_module):
    generator = np.random.default_rng(0)
    lists = np.array([generator.permutation(30)[:20] for _ in range(50)])
    targets = generator.integers(0, 30, 50)
    assert purchases_module.ndcg(lists, targets) == pytest.approx(our_ndcg(tied_ranks(lists, targets), 10).mean())
    histories = [generator.integers(0, 30, 4) for _ in range(50)]
    left = purchases_module.without_own(lists, histories)
    for row, history, before in zip(left.tolist(), histories, lists.tolist(), strict=True):
        kept = [item for item in before if item not in history.tolist()]
        assert row == kept + [-1] * (20 - len(kept))


def test_lists_are_long_and_evaluate_reads_them(tmp_path, purchases_module):
    items = [f"i{row}" for row in range(70)]
    found = purchases_module.Purchases(items, ["a", "b"], [np.array([5, 6, 5, 5])] * 2, [np.array([6, 6, 6])])
    purchases_module.write_lists(tmp_path / "x.jsonl", found, [np.array([3, -1]), np.array([-1, -1])])
    lists = read_lists(tmp_path / "x.jsonl", ["a", "b"], [], {item: row for row, item in enumerate(items)})
    assert is_long_enough(lists, lists, [np.array([5, 6])] * 2, 70) and lists.items.shape == (2, 70)
    assert lists.items[0, :4].tolist() == [3, 6, 5, 0]  # 6 was bought five times in what trains, 5 twice
    assert lists.items[1, :3].tolist() == [6, 5, 0]
