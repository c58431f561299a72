"""`macrec_hf.evaluate` against the pieces that it is made of, and what it refuses."""

import numpy as np
import pytest
import torch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecRecommender, SemanticIdTable, evaluate
from macrec_hf.data.readers import read_interactions
from macrec_hf.evaluation.baselines import BASELINES, baseline_lists
from macrec_hf.evaluation.ranking_metrics import ranking_metrics
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

NUM_ITEMS, NUM_USERS = 20, 12


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """An interactions.csv, the users' histories as table rows, and a recommender that knows the catalogue."""
    folder, generator = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    codes = {name: np.unravel_index(generator.permutation(64)[:NUM_ITEMS], (4, 4, 4)) for name in ("text", "image")}
    table = SemanticIdTable(
        [f"0{row}" for row in range(NUM_ITEMS)],
        {name: torch.from_numpy(np.stack(columns, axis=1)) for name, columns in codes.items()},
        codebook_size=4,
    )
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        num_decoder_layers=1, initializer_factor=0.5,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config)
    recommender = MacRecRecommender(model=model, tokenizer=tokenizer, table=table)
    histories = [generator.integers(0, NUM_ITEMS, size=generator.integers(3, 9)) for _ in range(NUM_USERS)]
    lines = [f"u{user},0{row},{day}" for user, rows in enumerate(histories) for day, row in enumerate(rows)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    return folder / "interactions.csv", histories, recommender


@pytest.mark.parametrize(("split", "back"), [("test", 1), ("validation", 2)])
def test_the_figures_are_those_of_the_recommended_lists(shop, split, back):
    path, histories, recommender = shop
    report = evaluate(recommender, path, split)
    known = [[f"0{row}" for row in rows[:-back]] for rows in histories]
    targets = np.array([rows[-back] for rows in histories])
    for modality in ("text", "image", "ensemble"):
        lists = recommender.recommend(known, modality=modality)
        ranks = [[item for item, _ in ranked].index(f"0{target}") if f"0{target}" in dict(ranked) else 99
                 for ranked, target in zip(lists, targets, strict=True)]  # fmt: skip
        for k in (1, 5, 10):
            assert report[modality][f"hr@{k}"] == pytest.approx(np.mean(np.array(ranks) < k))
        gains = [1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks]
        assert report[modality]["ndcg@10"] == pytest.approx(np.mean(gains))
    baselines = baseline_lists([rows[:-2] for rows in histories], [rows[:-back] for rows in histories], NUM_ITEMS)
    for name, figures in ranking_metrics(baselines, targets).items():
        assert report[name] == pytest.approx(figures)
    assert (report["split"], report["num_users"], report["num_items"]) == (split, NUM_USERS, NUM_ITEMS)
    assert set(report["coverage"]) == set(report["intervals"]) == {"text", "image", "ensemble", *BASELINES}
    expected = {"num_beams": 20, "fusion": "average", "max_history": 20, "limit_users": None, "seed": 0}
    assert report["settings"] == expected
    assert evaluate(recommender, read_interactions(path), split, batch_size=5) == report


def test_some_users_are_evenly_spaced_and_counts_are_of_everybody(shop):
    path, histories, recommender = shop
    report = evaluate(recommender, path, limit_users=3, num_beams=4, fusion="authors")
    chosen = [histories[user] for user in (0, 5, 11)]
    train, known = [rows[:-2] for rows in histories], [rows[:-1] for rows in chosen]
    lists = baseline_lists(train, known, NUM_ITEMS)
    for name, figures in ranking_metrics(lists, np.array([rows[-1] for rows in chosen])).items():
        assert report[name] == pytest.approx(figures)
    assert report["num_users"] == 3 and report["settings"]["limit_users"] == 3
    assert evaluate(recommender, path, limit_users=500)["num_users"] == NUM_USERS


def test_what_it_refuses(shop, tmp_path):
    path, _, recommender = shop
    with pytest.raises(FileNotFoundError, match="no such file"):
        evaluate(recommender, tmp_path / "none.csv")
    with pytest.raises(ValueError, match="Expected split 'train', 'validation' or 'test', got 'dev'"):
        evaluate(recommender, path, "dev")
    with pytest.raises(ValueError, match="Expected split 'validation' or 'test', got 'train'"):
        evaluate(recommender, path, "train")
    with pytest.raises(ValueError, match="limit_users: expected at least 1 user, or None for all, got 0"):
        evaluate(recommender, path, limit_users=0)
    with pytest.raises(ValueError, match="num_beams: expected a whole number of at least 1, got 0"):
        evaluate(recommender, path, num_beams=0)
