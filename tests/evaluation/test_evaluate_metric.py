import math
import socket

import numpy as np
import pytest

from macrec_hf.evaluation.evaluate_metric import RankingMetrics
from macrec_hf.evaluation.ranking_metrics import hit_rate, ndcg, tied_ranks


def test_by_hand():
    # Targets at ranks 2 and 1. HR@1: 1/2; HR@2: 1. NDCG@2: (1/log2(3) + 1/log2(2)) / 2 = (0.630930 + 1) / 2.
    found = RankingMetrics().compute(predictions=[[3, 1, 2], [5, 4, 0]], references=[1, 5], ks=(1, 2))
    assert found == {"hr@1": 0.5, "hr@2": 1.0, "ndcg@1": 0.5, "ndcg@2": pytest.approx((1 / math.log2(3) + 1) / 2)}


def test_defaults_and_ties_agree_with_the_pure_functions():
    generator = np.random.default_rng(0)
    items = np.stack([generator.permutation(40)[:12] for _ in range(50)])
    scores = -np.sort(generator.integers(0, 5, size=(50, 12)), axis=1).astype(float)
    targets = generator.integers(0, 40, size=50)
    found = RankingMetrics().compute(predictions=items, references=targets, scores=scores)
    ranks = tied_ranks(items, targets, scores)
    assert list(found) == ["hr@1", "hr@5", "hr@10", "ndcg@1", "ndcg@5", "ndcg@10"]
    for k in (1, 5, 10):
        assert found[f"hr@{k}"] == pytest.approx(hit_rate(ranks, k).mean())
        assert found[f"ndcg@{k}"] == pytest.approx(ndcg(ranks, k).mean())


def test_item_ids_as_strings_keep_their_zeros():
    metric = RankingMetrics()
    lists = [["0108775", "108775", ""], ["a", "", ""]]
    found = metric.compute(predictions=lists, references=["108775", ""], ks=(1, 2))
    assert (found["hr@1"], found["hr@2"]) == (0.0, 0.5)  # rank 2; and an empty place is never a hit


def test_batches_add_up():
    metric = RankingMetrics()
    metric.add_batch(predictions=[[1, 2], [2, 1]], references=[1, 1])
    metric.add_batch(predictions=np.array([[3, 1]]), references=np.array([3]))
    assert metric.compute(ks=(1,))["hr@1"] == pytest.approx(2 / 3)


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="pad the short ones with -1"):
        RankingMetrics().compute(predictions=[[1, 2], [2]], references=[1, 1])


def test_it_needs_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert RankingMetrics().compute(predictions=[[1, 2]], references=[2], ks=(2,))["hr@2"] == 1.0
