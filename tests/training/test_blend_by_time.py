"""A blend that is fitted before a date: on the latest purchases before it, as of the day when validation began."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from blend_tools import tiny_recommender

from macrec_hf import MacRecRecommender, evaluate
from macrec_hf.data.time_split import histories_until
from macrec_hf.evaluation.baselines import best_window
from macrec_hf.training.blend_fitting import blend_line, clustered_error, fit_and_count, fit_blend
from macrec_hf.training.blend_purchases import candidates_to_weigh, hides_history, purchases_to_explain

NUM_ITEMS, UNTIL = 24, "2024-05-01"


@pytest.fixture(scope="module")
def purchases():
    """300 customers walk along a ring of items for half a year; the last two items are sold from April on."""
    generator = np.random.default_rng(3)
    rows = []
    for user in range(300):
        item, day = int(generator.integers(NUM_ITEMS - 2)), int(generator.integers(0, 150))
        for _ in range(generator.integers(3, 9)):
            shown = item if day < 91 or generator.random() < 0.8 else NUM_ITEMS - 1 - int(generator.integers(2))
            rows.append((f"u{user}", f"i{shown}", pd.Timestamp("2024-01-01") + pd.Timedelta(days=day)))
            item, day = (item + 1) % (NUM_ITEMS - 2), day + int(generator.integers(1, 9))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def recommender():
    """An untrained model that says that it has learned until May."""
    made = tiny_recommender(NUM_ITEMS)
    made.model.config.trained_until = UNTIL
    return made


def test_what_is_explained_by_hand(purchases, recommender):
    row_of = recommender.table.row_of
    known = histories_until(purchases, row_of, UNTIL)
    start, end = pd.Timestamp(known.validates_from), pd.Timestamp(UNTIL)
    explained = purchases_to_explain(purchases, row_of, UNTIL)
    early = purchases[purchases["timestamp"] < start]
    later = purchases[(purchases["timestamp"] >= start) & (purchases["timestamp"] < end)]
    whom = [user for user in early["user_id"].unique() if user in set(later["user_id"])]
    wanted = [[row_of[item] for item in later.loc[later["user_id"] == user, "item_id"]] for user in whom]
    found = [explained.targets[explained.owners == user].tolist() for user in range(len(explained.histories))]
    assert sorted(found) == sorted(wanted)  # all of them: fewer than 200 are in the half that chose nothing
    assert sum(map(len, explained.counted)) == len(early) and len(found) > 30
    assert (explained.days == (start - pd.Timestamp("1970-01-01")).days).all()
    assert max(map(max, explained.counted_days)) < explained.days[0]


def test_the_width_of_co_occurrence_is_chosen_on_what_is_explained(purchases, recommender, monkeypatch):
    asked = []

    def watched(*given):
        asked.append(given)
        return best_window(*given)

    monkeypatch.setattr("macrec_hf.training.blend_purchases.best_window", watched)
    explained = purchases_to_explain(purchases, recommender.table.row_of, UNTIL)
    about = candidates_to_weigh(recommender, explained)[2]
    ((counted, _, histories, targets, owners),) = asked
    assert counted is explained.counted and histories is explained.histories and len(targets) > 30
    assert np.array_equal(targets, explained.targets) and np.array_equal(owners, explained.owners)
    assert about["window"] == best_window(*asked[0])


def test_own_items_are_left_out_by_what_was_bought_before_the_date(purchases, recommender):
    """They are where nobody buys twice before it, whatever comes later."""
    row_of = recommender.table.row_of
    once = purchases.drop_duplicates(["user_id", "item_id"])
    later = once[once["timestamp"] < UNTIL].assign(timestamp=pd.Timestamp("2024-09-01"))
    again = pd.concat([once, once.assign(timestamp=once["timestamp"] + pd.Timedelta(days=20))])
    for bought, hides in ((once, True), (pd.concat([once, later]), True), (again, False)):
        assert hides_history(histories_until(bought.sort_values("timestamp"), row_of, UNTIL)) == hides


def test_newcomers_are_served_what_sold_best_to_newcomers(purchases, recommender):
    """Items 5, 6 and 7 are sold to the newcomers and in the last week before them; the bestsellers are others."""
    row_of = recommender.table.row_of
    start = pd.Timestamp(histories_until(purchases, row_of, UNTIL).validates_from)
    late = [(f"n{n}", f"i{5 + n % 3}", start + pd.Timedelta(days=n % 20)) for n in range(30)]
    before = [("w", f"i{5 + n % 3}", start - pd.Timedelta(days=1 + n % 6)) for n in range(60)]
    more = pd.DataFrame(late, columns=purchases.columns)
    more = pd.concat([purchases, more, pd.DataFrame(before, columns=purchases.columns)], ignore_index=True)
    known = histories_until(more, row_of, UNTIL)
    start = pd.Timestamp(known.validates_from)
    early = set(more.loc[more["timestamp"] < start, "user_id"])
    later = more[(more["timestamp"] >= start) & (more["timestamp"] < pd.Timestamp(UNTIL))]
    wanted = later.loc[~later["user_id"].isin(early), "item_id"].map(row_of)
    assert sorted(np.concatenate(known.newcomers)) == sorted(wanted) and len(known.newcomers) >= 30
    made = copy.copy(recommender)
    blend = made.fit_blend(more)
    term = blend.about["without_history"]
    assert term == "sold_in_7_days"
    ((first, *_),) = made.recommend([[]], top_k=3)
    sold, day = made.purchase_counts, np.full(NUM_ITEMS, made.purchase_counts.last_day)
    week = sold.sold(np.arange(NUM_ITEMS), day, 7)
    assert week[row_of[first[0]]] == week.max() and first.reasons == ("sells well",)


def test_later_purchases_change_nothing(purchases, recommender):
    blend, counts = fit_and_count(recommender, purchases)
    changed = purchases.copy()
    changed.loc[changed["timestamp"] >= UNTIL, "item_id"] = "i0"
    again, same = fit_and_count(recommender, changed)
    assert vars(again) == vars(blend)
    assert int(counts.popularity.sum()) == int((purchases["timestamp"] < UNTIL).sum())
    assert np.array_equal(counts.popularity, same.popularity) and np.array_equal(counts.others, same.others)
    assert blend.about["num_purchases"] > blend.about["num_users"] and "with" in blend_line(blend)


def test_its_row_stands_in_the_evaluation_by_time(purchases, recommender, tmp_path):
    made = copy.copy(recommender)
    made.fit_blend(purchases)
    report = evaluate(made, purchases, "time", cut=UNTIL)
    assert report["verdict"]["row"] == "blend" and report["blend"]["ndcg@10"] > report["ensemble"]["ndcg@10"]
    assert report["settings"]["fusion"] == {"ensemble": "average", "blend": made.blend.serves}
    made.save_pretrained(tmp_path / "model")
    again = evaluate(MacRecRecommender.from_pretrained(tmp_path / "model"), purchases, "time", cut=UNTIL)
    assert json.dumps(again["blend"]) == json.dumps(report["blend"])


def test_the_error_of_a_mean_over_purchases():
    values, owners = np.array([1.0, 2.0, 4.0, 8.0, 3.0]), np.arange(5)
    assert clustered_error(values, owners) == pytest.approx(values.std(ddof=1) / np.sqrt(5))
    # twice the same purchases of the same users is no more knowledge
    assert clustered_error(np.tile(values, 2), np.tile(owners, 2)) == pytest.approx(clustered_error(values, owners))


def test_a_model_that_has_seen_the_purchases_gets_a_larger_weight(purchases):
    """Why nobody fits on purchases that the model was trained on: it looks better than it is."""
    torch.manual_seed(0)
    innocent, guilty = tiny_recommender(NUM_ITEMS), tiny_recommender(NUM_ITEMS)
    explained = purchases_to_explain(purchases, innocent.table.row_of, None)
    encoder = guilty.task_encoder
    rows = [encoder.source(history, "text_to_text") for history in explained.histories]
    width = max(map(len, rows))
    sources = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    targets = torch.tensor([encoder.target(int(target), "text_to_text") for target in explained.targets])
    optimizer = torch.optim.Adam(guilty.model.parameters(), lr=0.02)
    guilty.model.train()
    for _ in range(150):
        optimizer.zero_grad()
        guilty.model(input_ids=sources, attention_mask=(sources != 0).long(), labels=targets).loss.backward()
        optimizer.step()
    guilty.model.eval()
    weights = [fit_blend(model, purchases).about["weights"]["scored_text"] for model in (innocent, guilty)]
    assert weights[1][0] > weights[0][0] + 5 * weights[0][1] and weights[1][0] > 1
