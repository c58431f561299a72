import numpy as np
import pytest
import torch

from macrec_hf import cornac_baseline
from macrec_hf.evaluation.baselines import popularity

SMALL = {
    "SASRec": {"n_epochs": 20, "embedding_dim": 16, "max_len": 4, "batch_size": 64, "n_sample": 16, "dropout": 0.0,
               "learning_rate": 0.01},
    "BERT4Rec": {"n_epochs": 20, "embedding_dim": 16, "dropout": 0.0, "max_len": 4, "batch_size": 64, "n_sample": 32,
                 "learning_rate": 0.01},
    "TIGER": {"n_epochs": 25, "tokenizer": "rkmeans", "rqvae_codebook_size": 8, "rqvae_num_levels": 2, "max_len": 2,
              "d_model": 16, "d_ff": 32, "num_heads": 2, "d_kv": 8, "num_enc_layers": 1, "num_dec_layers": 1,
              "n_beams": 10, "learning_rate": 0.02, "batch_size": 64},
}  # fmt: skip
NUM_ITEMS = 13  # item 12 is never bought


def chains(count, length, generator):
    """Item i is followed by 5 i + 1 of 12, so that the next item is known and every item is equally popular."""
    found = np.empty((count, length), dtype=np.int64)
    found[:, 0] = generator.integers(0, 12, count)
    for step in range(1, length):
        found[:, step] = (5 * found[:, step - 1] + 1) % 12
    return found


def features():
    return np.random.default_rng(0).normal(size=(NUM_ITEMS, 6)).astype(np.float32)


def test_without_cornac_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cornac", None)
    with pytest.raises(ValueError, match=r"Expected Cornac to be installed.*pip install 'macrec-hf\[baselines\]'"):
        cornac_baseline("SASRec")


@pytest.mark.parametrize("name", list(SMALL))
def test_each_model_learns_a_rule_that_popularity_cannot_know(name):
    pytest.importorskip("cornac")
    generator = np.random.default_rng(0)
    train, asked = list(chains(150, 5, generator)), list(chains(40, 4, generator))
    baseline = cornac_baseline(name, features() if name == "TIGER" else None, **SMALL[name])
    before = torch.random.get_rng_state()
    lists = baseline(train, [*asked, np.array([], dtype=int)], NUM_ITEMS, 20, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert lists.shape == (41, 20) and lists.dtype == np.int64
    for row in lists:
        assert sorted(row[:NUM_ITEMS]) == list(range(NUM_ITEMS)) and (row[NUM_ITEMS:] == -1).all()
    next_items = (5 * np.array([history[-1] for history in asked]) + 1) % 12
    assert (lists[:-1, 0] == next_items).mean() > 0.8
    assert lists[-1].tolist() == popularity(train, [np.array([])], NUM_ITEMS, 20)[0].tolist()
    assert (lists == baseline(train, [*asked, np.array([], dtype=int)], NUM_ITEMS, 20, 1)).all()


def test_lists_are_cut_and_nobody_may_ask():
    pytest.importorskip("cornac")
    train = list(chains(20, 4, np.random.default_rng(1)))
    baseline = cornac_baseline("SASRec", n_epochs=1, embedding_dim=8)
    assert baseline(train, train[:3], NUM_ITEMS, 4, 0).shape == (3, 4)
    assert baseline(train, [], NUM_ITEMS, 4, 0).shape == (0, 4)


def test_refusals():
    pytest.importorskip("cornac")
    with pytest.raises(
        ValueError, match=r"next-item models, such as SASRec, BERT4Rec or TIGER, got 'sasrec'.*Capitals"
    ):
        cornac_baseline("sasrec")
    with pytest.raises(ValueError, match="next-item models.*got 'MF'"):
        cornac_baseline("MF")
    with pytest.raises(ValueError, match="SASRec: expected options of Cornac's constructor, got {'epochs': 3}"):
        cornac_baseline("SASRec", epochs=3)
    with pytest.raises(ValueError, match="item_features: expected a row for each item, of which TIGER makes its IDs"):
        cornac_baseline("TIGER")
    baseline = cornac_baseline("TIGER", features()[:-1], **SMALL["TIGER"])
    with pytest.raises(ValueError, match="a row for each of the 13 items of the catalogue, in its order, got 12"):
        baseline([np.array([0, 1])], [], NUM_ITEMS, 4, 0)
