"""`macrec_hf.evaluate` against the pieces that it is made of, and what it refuses."""

import json
import logging

import numpy as np
import pytest
import torch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecRecommender, SemanticIdTable, evaluate
from macrec_hf.data.readers import read_interactions
from macrec_hf.evaluation.baselines import BASELINES, baseline_lists, best_window
from macrec_hf.evaluation.evaluate import rank_split
from macrec_hf.evaluation.ranking_metrics import paired_bootstrap, ranking_metrics, user_metrics
from macrec_hf.model.ensemble import Decoding
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
    expected = {"num_beams": 20, "fusion": {"ensemble": "average"}, "max_history": 20, "limit_users": None, "seed": 0}
    expected |= {"dtype": "float32", "hides_history": False}
    assert report["settings"] == expected
    assert evaluate(recommender, read_interactions(path), split, batch_size=5) == report


@pytest.mark.parametrize(("split", "back"), [("test", 1), ("validation", 2)])
def test_the_hidden_column_is_what_is_recommended_without_the_history(shop, split, back):
    path, histories, recommender = shop
    ranking = rank_split(recommender, read_interactions(path), split, Decoding())
    known = [[f"0{row}" for row in rows[:-back]] for rows in histories]
    ids = recommender.table.item_ids
    for modality in ("text", "image", "ensemble"):
        for column, hide in (("shown", False), ("hidden", True)):
            found = ranking.columns[column][modality]
            lists = recommender.recommend(known, modality=modality, exclude_history=hide)
            for items, scores, expected in zip(found.items, found.scores, lists, strict=True):
                assert [ids[item] for item in items[:10] if item >= 0] == [item for item, _ in expected]
                assert scores[: len(expected)] == pytest.approx([score for _, score in expected])
    targets = np.array([rows[-back] for rows in histories])
    report = ranking.report()
    for name, figures in ranking_metrics(ranking.columns["hidden"], targets).items():
        assert report["hidden"][name] == pytest.approx(figures)
    assert report["hidden"]["co_visitation"] == report["hidden"]["co_visitation_new_items"]
    assert set(report["hidden"]) == {*report["coverage"], "coverage", "intervals", "differences"}
    repeats = [target in rows[:-back] for rows, target in zip(histories, targets, strict=True)]
    assert report["repeat_rate"] == pytest.approx(np.mean(repeats)) and report["quoted"] == "shown"


def test_differences_are_those_of_the_paired_bootstrap(shop):
    path, histories, recommender = shop
    ranking = rank_split(recommender, read_interactions(path), "test", Decoding(), seed=3)
    report, targets = ranking.report(), np.array([rows[-1] for rows in histories])
    for column, told in (("shown", report), ("hidden", report["hidden"])):
        figures = {name: user_metrics(ranked, targets) for name, ranked in ranking.columns[column].items()}
        assert set(told["differences"]) == set(figures) - {"ensemble"}
        for name, metrics in told["differences"].items():
            for metric, found in metrics.items():
                pair = figures["ensemble"][metric], figures[name][metric]
                assert found == pytest.approx(paired_bootstrap(*pair, num_resamples=1000, seed=3)._asdict())
    best = max(BASELINES, key=lambda name: report[name]["ndcg@10"])
    assert report["verdict"]["best"] == best and report["model_rows"] == ["text", "image", "ensemble"]
    assert report["verdict"]["difference"] == report["differences"][best]["ndcg@10"]["difference"]


def test_where_nobody_buys_twice_the_hidden_column_is_quoted(shop, tmp_path):
    _, _, recommender = shop
    generator = np.random.default_rng(5)
    lines = [f"u{user},0{row},{day}" for user in range(9) for day, row in enumerate(generator.permutation(20)[:6])]
    (tmp_path / "once.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    report = evaluate(recommender, tmp_path / "once.csv")
    assert (report["repeat_rate"], report["quoted"]) == (0.0, "hidden")
    assert report["verdict"]["coverage"]["ensemble"] == report["hidden"]["coverage"]["ensemble"]
    best = report["verdict"]["best"]
    assert report["verdict"]["difference"] == report["hidden"]["differences"][best]["ndcg@10"]["difference"]


def test_short_users_are_counted_and_nothing_else_of_the_last_two_purchases(shop, tmp_path):
    path, histories, recommender = shop
    (tmp_path / "more.csv").write_text(path.read_text() + "short,03,1\nshort,07,2\nonce,07,1\n")
    report = evaluate(recommender, tmp_path / "more.csv")
    assert (report["num_users"], report["num_short_users"]) == (NUM_USERS, 2)
    train = [*(rows[:-2] for rows in histories), np.array([3, 7]), np.array([7])]
    lists = baseline_lists(train, [rows[:-1] for rows in histories], NUM_ITEMS)
    for name, figures in ranking_metrics(lists, np.array([rows[-1] for rows in histories])).items():
        assert report[name] == pytest.approx(figures)


def test_of_some_users_baselines_are_those_of_all(shop):
    """Also the co-occurrence, whose width validation chooses: by everybody's."""
    path, _, recommender = shop
    everybody, some = (
        rank_split(recommender, read_interactions(path), "test", Decoding(num_beams=4), limit_users=limit)
        for limit in (None, 5)
    )
    places = [everybody.users.user_ids.index(user) for user in some.users.user_ids]
    assert len(places) == 5 and some.model["shown"]["text"].items.shape[0] == 5
    for column, lists in some.columns.items():
        for name in set(BASELINES) - {"random"}:
            assert np.array_equal(lists[name].items, everybody.columns[column][name].items[places]), (column, name)
    assert best_window(*everybody._explained()) == best_window(*some._explained())


def write_lists(path, width, histories, random):
    rows = [{"user_id": f"u{user}", "items": [f"0{row}" for row in random.permutation(NUM_ITEMS)[:width]]}
            for user in range(len(histories))]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return np.array([[int(item[1:]) for item in row["items"]] for row in rows])


def test_lists_of_another_library_stand_in_the_table(shop, tmp_path, caplog):
    path, histories, recommender = shop
    random, targets = np.random.default_rng(8), np.array([rows[-1] for rows in histories])
    whole = write_lists(tmp_path / "long.jsonl", NUM_ITEMS, histories, random)
    write_lists(tmp_path / "short.jsonl", 12, histories, random)
    files = {"sasrec": tmp_path / "long.jsonl", "brief": str(tmp_path / "short.jsonl")}
    logger = logging.getLogger("macrec_hf.evaluation.evaluate")
    logger.addHandler(caplog.handler)
    report = evaluate(recommender, path, lists=files)
    logger.removeHandler(caplog.handler)
    assert report["sasrec"]["hr@10"] == np.mean((whole[:, :10] == targets[:, None]).any(axis=1))
    hits = []
    for items, rows in zip(whole.tolist(), histories, strict=True):
        new = [item for item in items if item not in rows[:-1]]
        hits.append(rows[-1] in new[:10])
    assert report["hidden"]["sasrec"]["hr@10"] == np.mean(hits)
    assert "brief" in report and "brief" not in report["hidden"]
    assert (
        f"brief: some lists have fewer than {min(50, NUM_ITEMS)} places" in caplog.text
        and "sasrec:" not in caplog.text
    )
    assert {"sasrec", "brief"} <= set(report["differences"]) and "sasrec" in report["intervals"]
    some = evaluate(recommender, path, lists=files, limit_users=4)  # a line of every user, some of whom are evaluated
    assert some["sasrec"]["hr@1"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    more = tmp_path / "more.csv"  # a user with one purchase is counted, not evaluated, and may have a list
    more.write_text(path.read_text() + "late,01,3\n")
    with (tmp_path / "long.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"user_id": "late", "items": ["02"]}))
    assert evaluate(recommender, more, lists={"sasrec": tmp_path / "long.jsonl"})["num_users"] == NUM_USERS
    for name in ("popularity", "text", "hidden", "seeds"):
        with pytest.raises(ValueError, match=f"lists: expected a name .* got '{name}'"):
            evaluate(recommender, path, lists={name: tmp_path / "long.jsonl"})


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
