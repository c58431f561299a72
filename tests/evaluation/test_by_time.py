"""`evaluate(split="time")` against brute force: means over purchases, users resampled with all of theirs, parts."""

import logging
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecRecommender, SemanticIdTable, evaluate
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.data.time_split import histories_until
from macrec_hf.evaluation.baselines import baseline_lists, best_window
from macrec_hf.evaluation.evaluate import rank_split
from macrec_hf.model.blend import Blend
from macrec_hf.model.ensemble import Decoding
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

NUM_ITEMS, NUM_USERS, CUT = 20, 14, "2020-02-01"


def purchases():
    """Random ones of two months: items from i15 on are sold in February only, and u0 and u1 come then."""
    random, rows = np.random.default_rng(3), []
    for user in range(NUM_USERS):
        for _ in range(random.integers(4, 12)):
            month = 2 if user < 2 else random.integers(1, 3)
            item = random.integers(NUM_ITEMS if month == 2 else 15)
            rows.append((f"u{user}", f"i{item}", pd.Timestamp(2020, month, random.integers(1, 29), tz="UTC")))
    rows += [("once", "i1", pd.Timestamp(2020, 1, 5, tz="UTC")), ("u3", "unheard", pd.Timestamp(2020, 2, 9, tz="UTC"))]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).sort_values("timestamp", kind="stable")


@pytest.fixture(scope="module")
def shop():
    """The purchases, those before the cut and those later as `{user: item ids}`, and a recommender."""
    random = np.random.default_rng(0)
    codes = {name: np.unravel_index(random.permutation(64)[:NUM_ITEMS], (4, 4, 4)) for name in ("text", "image")}
    tensors = {name: torch.from_numpy(np.stack(columns, axis=1)) for name, columns in codes.items()}
    table = SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], tensors, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        num_decoder_layers=1, initializer_factor=0.5, trained_until="2020-01-20",
    )  # fmt: skip
    frame = purchases()
    early = frame["timestamp"] < pd.Timestamp(CUT, tz="UTC")
    before, after = ({user: rows["item_id"].tolist() for user, rows in part.groupby("user_id", sort=False)}
                     for part in (frame[early], frame[~early]))  # fmt: skip
    counts = np.bincount([table.row_of[item] for items in before.values() for item in items], minlength=NUM_ITEMS)
    parts = {"model": MacRecForConditionalGeneration(config), "tokenizer": tokenizer, "table": table}
    return frame, before, after, MacRecRecommender(**parts, item_counts=counts)


def hit_lists(lists, after):
    """For each purchase its user, and whether it stands in the first ten places; its place from 0, 99 without."""
    return [(user, item, lists[user].index(item) if item in lists[user][:10] else 99)
            for user, items in after.items() for item in items]  # fmt: skip


def gain(place):
    return 1 / np.log2(place + 2) if place < 10 else 0.0


def bootstrap(pairs, seed):
    """Bounds of the mean over purchases, users drawn with replacement one by one."""
    users = list(dict.fromkeys(user for user, _ in pairs))
    values = {user: [value for owner, value in pairs if owner == user] for user in users}
    draws = np.random.default_rng(seed).integers(len(users), size=(1000, len(users)))
    means = [np.mean([value for place in row for value in values[users[place]]]) for row in draws]
    return np.quantile(means, [0.025, 0.975]), np.array(means)


@pytest.mark.parametrize("hide", [False, True])
def test_figures_are_means_over_later_purchases(shop, hide):
    frame, before, after, recommender = shop
    report = evaluate(recommender, frame, "time", cut=CUT, seed=5)
    column = report["hidden"] if hide else report
    users = list(after)
    sold = {item for items in before.values() for item in items}
    rows = {user: np.array([recommender.table.row_of[item] for item in items]) for user, items in before.items()}
    histories = [rows.get(user, np.zeros(0, dtype=int)) for user in users]
    popular = baseline_lists(list(rows.values()), histories, NUM_ITEMS, NUM_ITEMS)["popularity"].items
    found = {"popularity": {user: [f"i{row}" for row in items if not (hide and f"i{row}" in before.get(user, ()))]
                            for user, items in zip(users, popular.tolist(), strict=True)}}  # fmt: skip
    for name in ("text", "image", "ensemble"):
        lists = recommender.recommend([before.get(user, []) for user in users], modality=name, exclude_history=hide)
        found[name] = {user: [item for item, _ in ranked] for user, ranked in zip(users, lists, strict=True)}
    gains = {}
    for name, lists in found.items():
        places = hit_lists(lists, after)
        parts = {
            "all": places,
            "seen": [one for one in places if one[1] in sold],
            "unseen": [one for one in places if one[1] not in sold],
            "new_customers": [one for one in places if one[0] not in before],
        }
        for part, some in parts.items():
            told = column if part == "all" else column[part]
            assert told[name]["hr@10"] == pytest.approx(np.mean([place < 10 for _, _, place in some]))
            assert told[name]["hr@1"] == pytest.approx(np.mean([place < 1 for _, _, place in some]))
            pairs = [(user, gain(place)) for user, _, place in some]
            assert told[name]["ndcg@10"] == pytest.approx(np.mean([value for _, value in pairs]))
            bounds, means = bootstrap(pairs, 5)
            assert told["intervals"][name]["ndcg@10"] == pytest.approx(bounds)
            if part == "all":
                gains[name] = means
            else:
                assert told["num_purchases"] == len(some)
                assert told["num_users"] == len({user for user, _, _ in some})
        shown = [item for ranked in lists.values() for item in ranked[:10]]
        assert column["unseen_places"][name] == pytest.approx(np.mean([item not in sold for item in shown]))
        assert column["coverage"][name] == pytest.approx(len(set(shown)) / NUM_ITEMS)
    difference = column["differences"]["popularity"]["ndcg@10"]
    assert difference["difference"] == pytest.approx(column["ensemble"]["ndcg@10"] - column["popularity"]["ndcg@10"])
    bounds = np.quantile(gains["ensemble"] - gains["popularity"], [0.025, 0.975])
    assert [difference["low"], difference["high"]] == pytest.approx(bounds)
    assert column["new_customers"]["ensemble"] == pytest.approx(column["new_customers"]["popularity"] | {
        name: value for name, value in column["new_customers"]["ensemble"].items() if name.startswith("string")
    })  # fmt: skip


def test_where_the_model_serves_new_customers_get_what_is_popular(shop):
    frame, _, _, recommender = shop
    recommender._set_blend(Blend({}, "model", {"window": 5, "hides_history": True}), count_purchases([], NUM_ITEMS))
    report = evaluate(recommender, frame, "time", cut=CUT)
    recommender._set_blend(None, None)
    for column in (report, report["hidden"]):
        for part in (column, column["seen"], column["new_customers"]):
            assert part["blend"] == part["ensemble"]
        assert column["new_customers"]["blend"]["hr@10"] == column["new_customers"]["popularity"]["hr@10"] > 0
    said = report["verdict"]["text"]
    assert "blend, which is the model alone here for customers with a history, " in said
    assert report["quoted"] == "shown" and said.endswith("By default `recommend` hides own history with this model.")


def test_a_blend_is_judged_in_the_order_in_which_it_is_shown(shop):
    frame, before, _, recommender = shop
    sold = count_purchases(
        [[recommender.table.row_of[item] for item in items] for items in before.values()], NUM_ITEMS
    )
    recommender._set_blend(Blend({"sold": 1.0}, "blend", {"window": 5, "hides_history": False}), sold)
    ranking = rank_split(recommender, frame, "time", Decoding(), cut=CUT)
    report, users = ranking.report(), ranking.users
    recommender._set_blend(None, None)
    for name, column in (("shown", report), ("hidden", report["hidden"])):
        lists, found = ranking.columns[name]["blend"], []
        assert any(len(np.unique(scores[scores > -np.inf])) < (scores > -np.inf).sum() for scores in lists.scores)
        for owner, target in zip(users.owners, users.targets, strict=True):
            items = lists.items[owner].tolist()
            found.append((users.histories[owner], target, gain(items.index(target) if target in items else 99)))
        for part, chosen in (
            (column, found),
            (column["new_customers"], [one for one in found if not len(one[0])]),
            (column["seen"], [one for one in found if not users.unseen[one[1]]]),
        ):
            assert part["blend"]["ndcg@10"] == pytest.approx(np.mean([value for _, _, value in chosen]))


def test_the_facts_beside_the_figures(shop, caplog):
    frame, before, after, recommender = shop
    logger = logging.getLogger("macrec_hf.evaluation.evaluate")
    logger.addHandler(caplog.handler)
    report = evaluate(recommender, frame, "time", cut=CUT)
    logger.removeHandler(caplog.handler)
    assert "1 of" in caplog.text and "such as ['unheard']: they count as misses of every list" in caplog.text
    later = [(user, item) for user, items in after.items() for item in items]
    assert (report["num_users"], report["num_purchases"]) == (len(after), len(later))
    assert (report["split"], report["cut"], report["num_new_customers"], report["num_unknown_items"]) == (
        "time",
        CUT,
        2,
        1,
    )
    assert report["num_short_users"] == len(set(before) - set(after)) >= 1
    assert report["settings"]["trained_until"] == "2020-01-20"
    repeats = np.mean([item in before.get(user, ()) for user, item in later])
    assert report["repeat_rate"] == pytest.approx(repeats) and report["quoted"] == "shown"
    assert report["verdict"]["difference"] == report["differences"][report["verdict"]["best"]]["ndcg@10"]["difference"]


def test_the_width_of_co_occurrence_is_chosen_on_the_latest_fifth_before_the_cut(shop, monkeypatch):
    frame, _, _, recommender = shop
    asked = []

    def watched(*given):
        asked.append(given)
        return best_window(*given)

    monkeypatch.setattr(import_module("macrec_hf.evaluation.evaluate"), "best_window", watched)
    evaluate(recommender, frame, "time", cut=CUT)
    ((counted, _, histories, targets, owners),) = asked
    until = histories_until(frame, recommender.table.row_of, CUT)
    explained = sorted((*histories[owner], target) for owner, target in zip(owners, targets, strict=True))
    pairs = zip(until.items, until.later, strict=True)
    assert explained == sorted((*rows, item) for rows, later in pairs for item in later) and len(explained) > 5
    assert sum(map(len, counted)) == sum(map(len, [*until.items, *until.short_items]))


def test_no_list_knows_a_purchase_after_the_cut(shop):
    frame, _, _, recommender = shop
    random, changed = np.random.default_rng(1), frame.copy()
    late = (frame["timestamp"] >= pd.Timestamp(CUT, tz="UTC")).to_numpy()
    changed.loc[late, "item_id"] = random.permutation(frame.loc[late, "item_id"].to_numpy())
    assert (changed["item_id"] != frame["item_id"]).sum() > 20
    one, other = (rank_split(recommender, rows, "time", Decoding(), cut=CUT) for rows in (frame, changed))
    assert one.users.user_ids == other.users.user_ids
    for column in ("shown", "hidden"):
        for name, ranked in one.columns[column].items():
            assert np.array_equal(ranked.items, other.columns[column][name].items), name


def test_users_whose_history_says_nothing_get_what_is_popular_with_few_beams_too(shop):
    frame, _, _, recommender = shop
    ranking = rank_split(recommender, frame, "time", Decoding(num_beams=3), cut=CUT)
    new = [len(history) == 0 for history in ranking.users.histories]
    assert np.array_equal(ranking.unread, new) and sum(new) == 2
    for column in ("shown", "hidden"):
        lists = ranking.columns[column]
        for name in ("text", "image", "ensemble"):
            assert np.array_equal(lists[name].items[new][:, :10], lists["popularity"].items[new])
            assert (lists[name].items[~np.array(new)] >= 0).any()


def test_lists_of_other_libraries_may_be_of_everybody(shop, tmp_path):
    frame, _, after, recommender = shop
    ids = frame["user_id"].unique()
    lines = [f'{{"user_id": "{user}", "items": ["{after[user][0] if user in after else "i2"}"]}}' for user in ids]
    (tmp_path / "lists.jsonl").write_text("\n".join(lines).replace("unheard", "i1"))
    report = evaluate(recommender, frame, "time", cut=CUT, lists={"oracle": tmp_path / "lists.jsonl"})
    hits = [item == items[0] for items in after.values() for item in items]
    assert report["oracle"]["hr@1"] == pytest.approx(np.mean(hits)) and "oracle" not in report["hidden"]
    with pytest.raises(ValueError, match="lists: expected a name .* got 'unseen'"):
        evaluate(recommender, frame, "time", cut=CUT, lists={"unseen": tmp_path / "lists.jsonl"})


def test_what_it_refuses(shop):
    frame, _, _, recommender = shop
    with pytest.raises(ValueError, match="cut: expected a date with a split by time, .* got none"):
        evaluate(recommender, frame, "time")
    with pytest.raises(ValueError, match="cut: expected none with the split 'test', .* got '2020-02-01'"):
        evaluate(recommender, frame, "test", cut=CUT)
    with pytest.raises(
        ValueError, match="cut: expected 2020-01-20 or later, until which the model has learned, got 2020-01-19"
    ):
        evaluate(recommender, frame, "time", cut="2020-01-19")
    with pytest.raises(
        ValueError, match="all purchases before 2020-01-20.* evaluate it with --split time --cut 2020-01-20"
    ):
        evaluate(recommender, frame, "test")


def test_a_model_that_does_not_say_until_when_it_learned_is_told_of(shop, caplog):
    frame, _, _, recommender = shop
    config = recommender.model.config
    del config.trained_until
    logger = logging.getLogger("macrec_hf.evaluation.evaluate")
    logger.addHandler(caplog.handler)
    report = evaluate(recommender, frame, "time", cut=CUT, limit_users=3)
    logger.removeHandler(caplog.handler)
    config.trained_until = "2020-01-20"
    assert "does not say until when it has learned" in caplog.text and report["num_users"] == 3
    assert report["settings"]["trained_until"] is None


def test_ids_that_may_know_later_items_are_named(shop, caplog):
    frame, before, after, recommender = shop
    sold, later = ({item for items in bought.values() for item in items} for bought in (before, after))
    first = (
        f"and {len((later - sold).intersection(recommender.table.item_ids))} of 20 items were first sold from {CUT} on"
    )
    logger = logging.getLogger("macrec_hf.evaluation.evaluate")
    logger.addHandler(caplog.handler)
    kept = recommender.table.report
    for fitted, said in (
        (None, "The semantic IDs do not say that they were fitted on items sold before a date (--until), "),
        ("2020-02-15", "The semantic IDs were fitted on items sold before 2020-02-15, later than 2020-02-01, "),
        ("2020-02-01", ""),
    ):
        caplog.clear()
        recommender.table.report = {name: {"fitted_until": fitted} for name in recommender.table.modalities}
        evaluate(recommender, frame, "time", cut=CUT)
        assert ("makes figures by time too good" in caplog.text) is bool(said) and said + first * bool(
            said
        ) in caplog.text
        caplog.clear()
        evaluate(recommender, frame[frame["item_id"].isin(sold)], "time", cut=CUT)
        assert "too good. macrec embed" not in caplog.text  # nothing that is new is bought
    recommender.table.report = kept
    logger.removeHandler(caplog.handler)
