"""What a trainer logs of its validation users is what `evaluate` says of them, whatever their targets lack."""

import numpy as np
import pandas as pd
import pytest
import torch
from recommender_training import LEVELS, NUM_ITEMS, SIZE, make_trainer

from macrec_hf import MacRecRecommender, RecommendationTasksBuilder, SemanticIdTable, SemanticIdTokenizer, evaluate
from macrec_hf.cli.train import choosing_users
from macrec_hf.data.readers import read_interactions
from macrec_hf.data.splits import validation_halves
from macrec_hf.data.time_split import histories_until

NUM_USERS = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Items 0-4 have no image, 5 and 6 no text, 7 neither; the targets of validation are spread over all of them."""
    folder, random = tmp_path_factory.mktemp("gaps"), np.random.default_rng(3)
    codes = {}
    for name in ("text", "image"):
        distinct = random.permutation(SIZE**LEVELS)[:NUM_ITEMS]
        codes[name] = torch.from_numpy(np.stack(np.unravel_index(distinct, (SIZE,) * LEVELS), axis=1))
    codes["image"][:5], codes["text"][5:7] = -1, -1
    codes["image"][7] = codes["text"][7] = -1
    table = SemanticIdTable([f"{row:03}" for row in range(NUM_ITEMS)], codes, codebook_size=SIZE)
    histories = [random.integers(NUM_ITEMS, size=random.integers(3, 7)) for _ in range(NUM_USERS)]
    lines = [f"u{user},{row:03},{time}" for user, rows in enumerate(histories) for time, row in enumerate(rows)]
    path = folder / "interactions.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines, "short,003,1", "short,009,2"]))
    builder = RecommendationTasksBuilder(path, table, cache_dir=folder / "cache")
    builder.download_and_prepare()
    targets = np.array([rows[-2] for rows in histories])
    assert {0, 5, 7} <= set(targets.tolist()), "the test needs targets of every kind"
    return path, (table, SemanticIdTokenizer.from_table(table), builder.as_dataset())


def flat(report):
    """`evaluate`'s figures under the trainer's names."""
    parts = {f"{part}_": report[part] for part in ("text", "image")} | {"": report["ensemble"]}
    return {prefix + name: value for prefix, figures in parts.items() for name, value in figures.items()}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_trainers_figures_are_those_of_evaluate(shop, tmp_path, split):
    path, parts = shop
    table, tokenizer, tasks = parts
    trainer = make_trainer(parts, tmp_path)
    recommender = MacRecRecommender(model=trainer.model, tokenizer=tokenizer, table=table)
    report = evaluate(recommender, path, split, num_beams=NUM_ITEMS)
    figures = trainer.ranking(tasks[split])
    assert figures == pytest.approx(flat(report)) and 0 < figures["hr@5"] < 1
    logged = trainer.evaluate(tasks[split])
    assert {name: logged[f"eval_{name}"] for name in figures} == pytest.approx(figures)
    assert np.isfinite(logged["eval_loss"])


def test_by_time_every_later_purchase_of_a_user_is_ranked(shop, tmp_path):
    """By one list a user, as `evaluate` with a cut where validation begins does."""
    table, tokenizer, _ = shop[1]
    random, rows = np.random.default_rng(5), []
    for user in range(NUM_USERS):
        bought = random.integers(NUM_ITEMS, size=random.integers(4, 9))
        rows += [(f"u{user:02}", f"{item:03}", f"2020-01-{day:02}") for day, item in enumerate(bought, 1)]
    known = tmp_path / "interactions.csv"
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(known, index=False)
    builder = RecommendationTasksBuilder(known, table, cache_dir=tmp_path / "cache", until="2020-03-01")
    builder.download_and_prepare()
    tasks = builder.as_dataset()
    trainer = make_trainer((table, tokenizer, tasks), tmp_path)
    cut = histories_until(read_interactions(known), table.row_of, "2020-03-01").validates_from
    recommender = MacRecRecommender(model=trainer.model, tokenizer=tokenizer, table=table)
    report = evaluate(recommender, known, "time", cut=cut, num_beams=NUM_ITEMS)
    figures = trainer.ranking(tasks["validation"])
    assert report["num_purchases"] > report["num_users"] == len(set(tasks["validation"]["user"][:]))
    pairs = zip(tasks["validation"]["user"][:], tasks["validation"]["item"][:], strict=True)
    assert len(trainer._sources(tasks["validation"])[1]) == report["num_purchases"] > len(set(pairs))
    assert figures == pytest.approx(flat(report)) and 0 < figures["hr@5"] < 1
    trainer.args.num_eval_users = 3
    sources, targets, owners = trainer._sources(tasks["validation"])
    assert len(sources["text"]) == 3 < len(targets) and set(owners) == {0, 1, 2}


def test_a_shuffled_split_by_time_is_refused(shop, tmp_path):
    _, parts = shop
    rows = parts[2]["validation"]
    emptied = rows.map(lambda row, place: {"history": [] if place == 0 else row["history"]}, with_indices=True)
    with pytest.raises(ValueError, match="eval_dataset: expected each user's history in the first of the user's rows"):
        make_trainer(parts, tmp_path).ranking(emptied)


def test_users_of_whom_nothing_can_be_told_count_for_no_loss(shop, tmp_path):
    _, parts = shop
    rows = parts[2]["validation"]
    with_examples = rows.filter(lambda row: row["task"] >= 0)
    assert len(with_examples) < len(rows)
    trainer = make_trainer(parts, tmp_path)
    losses = [trainer.evaluate(dataset)["eval_loss"] for dataset in (rows, with_examples)]
    assert losses[0] == losses[1]


def test_one_half_of_the_validation_users_stops_the_training(shop):
    _, (_, _, tasks) = shop
    user_ids = [f"u{user}" for user in range(NUM_USERS)]
    half, other = validation_halves(user_ids)
    chosen = choosing_users(tasks["validation"], user_ids)
    assert set(chosen["user"][:]) == set(half.tolist()) and len(other)
    rows = [row for row in tasks["validation"] if row["user"] in half]
    assert list(chosen) == rows


def test_a_dataset_without_histories_cannot_be_ranked(shop, tmp_path):
    _, parts = shop
    with pytest.raises(ValueError, match=r"the columns of RecommendationTasksBuilder, found no \['history'\]"):
        make_trainer(parts, tmp_path).ranking(parts[2]["validation"].remove_columns("history"))
