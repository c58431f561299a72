"""Fitting a blend: against another optimiser, and on a shop that is made so that counting knows the answer."""

import json
import logging
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from blend_tools import tiny_recommender

from macrec_hf import MacRecRecommender, evaluate
from macrec_hf.data.fingerprints import history_fingerprints, item_hashes
from macrec_hf.data.histories import user_histories
from macrec_hf.data.item_regression import with_item_regression
from macrec_hf.data.splits import before_test
from macrec_hf.model.blend import Blend
from macrec_hf.model.model_files import tell_of_lost_terms
from macrec_hf.model.purchase_counts import PurchaseCounts
from macrec_hf.model.ranked_lists import Candidates
from macrec_hf.training.blend_fitting import (
    Choices,
    blend_directory,
    blend_line,
    fit_and_guard,
    fit_blend,
    fit_weights,
    standard_errors,
)
from macrec_hf.training.blend_purchases import candidates_to_weigh, hides_history, purchases_to_explain
from macrec_hf.training.serving_counts import refresh_directory, serving_counts

NUM_ITEMS = 24


def walks(customers):
    """Customers walk in steps of one along a ring of items, and now and then jump: a table with dates."""
    generator = np.random.default_rng(2)
    rows = []
    for user in range(customers):
        item, day = int(generator.integers(NUM_ITEMS)), int(generator.integers(0, 200))
        for _ in range(generator.integers(4, 9)):
            rows.append((f"u{user}", f"i{item}", pd.Timestamp("2024-01-01") + pd.Timedelta(days=day)))
            item = (item + 1) % NUM_ITEMS if generator.random() < 0.8 else int(generator.integers(NUM_ITEMS))
            day += int(generator.integers(1, 6))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def purchases():
    return walks(300)


@pytest.fixture(scope="module")
def recommender():
    """An untrained model over two modalities: it knows nothing."""
    return tiny_recommender(NUM_ITEMS)


@pytest.fixture(scope="module")
def blended(recommender, purchases, tmp_path_factory):
    """(the recommender with a blend, the directory that it was saved to)."""
    recommender.fit_blend(purchases)
    folder = tmp_path_factory.mktemp("blended")
    return recommender, recommender.save_pretrained(folder / "model")


def test_weights_are_those_of_another_optimiser():
    generator = np.random.default_rng(0)
    items = np.where(generator.random((80, 12)) < 0.85, np.arange(12), -1)
    items[:, 0] = 0
    terms = {name: generator.normal(size=(80, 12)) * scale for name, scale in (("a", 1.0), ("b", 50.0), ("c", 0.01))}
    targets = np.array([generator.choice(row[row >= 0]) for row in items])
    choices = Choices.of([Candidates(items, terms)], targets)
    found = fit_weights(choices, 0.01)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    of_terms = torch.from_numpy(choices.terms).double()

    def loss():
        optimizer.zero_grad()
        scores = (of_terms @ weights).masked_fill(torch.from_numpy(items < 0), -torch.inf)
        value = torch.nn.functional.cross_entropy(scores, torch.from_numpy(targets)) + 0.01 * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert np.allclose(found, weights.detach().numpy(), atol=1e-5)
    hessian = torch.autograd.functional.hessian(
        lambda w: (
            torch.nn.functional.cross_entropy(
                (of_terms @ w).masked_fill(torch.from_numpy(items < 0), -torch.inf), torch.from_numpy(targets)
            )
            + 0.01 * (w**2).sum()
        ),
        weights.detach(),
    )
    wanted = torch.linalg.inv(80 * hessian).diagonal().sqrt().numpy()
    assert np.allclose(standard_errors(choices, found, 0.01), wanted, rtol=1e-4)


def test_counts_carry_it_where_the_model_knows_nothing(blended):
    about = blended[0].blend.about
    assert about["best_source"] != "model" and about["without_history"] == "sold_log1p"  # there are no newcomers
    assert about["ndcg@10"]["blend"] >= about["ndcg@10"][about["best_source"]] - about["difference"][1]
    for name in ("text", "image"):
        weight, error = about["weights"][f"scored_{name}"]
        assert abs(weight) < 2 * error
    assert about["ndcg@10"]["blend"] > about["ndcg@10"]["model"] + 0.2
    assert blended[0].blend.serves == "blend"


def test_a_model_that_knows_nothing_changes_nothing(recommender):
    """NDCG@10 within 0.005 of the counts alone: two weights more are fitted on 500 purchases."""
    known = purchases_to_explain(walks(1_000), recommender.table.row_of, None)
    blocks, ranked, _ = candidates_to_weigh(recommender, known)
    alone = [replace(block, candidates=block.candidates.without("scored_")) for block in blocks]
    both, counts = (fit_and_guard(some, ranked).about for some in (blocks, alone))
    assert both["weights"].keys() - counts["weights"].keys() == {"scored_text", "scored_image"}
    assert both["ndcg@10"]["blend"] == pytest.approx(counts["ndcg@10"]["blend"], abs=0.005)


def test_which_purchases_it_was_fitted_on(blended, purchases):
    """All but two of each customer were counted; the fingerprint knows no order of customers, but every purchase."""
    about = blended[0].blend.about["counted"]
    early = purchases.groupby("user_id", sort=False).head(10**6)
    early = early[early.groupby("user_id").cumcount(ascending=False) >= 2]
    days = early["timestamp"].dt.strftime("%Y-%m-%d")
    assert (about["purchases"], about["from"], about["to"]) == (len(early), days.min(), days.max())
    assert about["as_of"] is None  # every customer's own last purchase
    row_of = blended[0].table.row_of

    def fingerprint(table):
        return purchases_to_explain(table, row_of, None).told()["fingerprint"]

    assert fingerprint(purchases) == about["fingerprint"]
    backwards = purchases.iloc[::-1].sort_values("timestamp", kind="stable", ascending=True)
    assert list(backwards["user_id"].unique()) != list(purchases["user_id"].unique())
    assert fingerprint(backwards) == about["fingerprint"]
    for place in (0, -2):  # of the first customer: one that is counted, one that is explained
        changed = purchases.copy()
        row = changed.index[changed["user_id"] == "u0"][place]
        changed.loc[row, "item_id"] = "i1" if changed.loc[row, "item_id"] == "i0" else "i0"
        assert fingerprint(changed) != about["fingerprint"]


def test_a_part_of_the_purchases_is_counted_with_a_notice(blended, purchases, caplog):
    folder = blended[1]
    refresh_directory(folder, purchases)
    assert "fewer than" not in caplog.text
    refresh_directory(folder, purchases.iloc[:100])
    known = blended[0].blend.about["counted"]["purchases"]
    assert f"100 purchases are fewer than the {known:,} that the weights of the blend" in caplog.text
    refresh_directory(folder, purchases)


def test_what_a_blend_was_fitted_on_is_learned_too(recommender, purchases, tmp_path, caplog):
    grown = pd.concat([purchases, purchases.groupby("user_id").tail(1)])  # everybody buys once more
    hashes, row_of = item_hashes(recommender.table.item_ids), recommender.table.row_of
    first = history_fingerprints(before_test(user_histories(purchases, row_of)), hashes)
    fit_blend(recommender, purchases)
    assert recommender.learned_histories is None  # what the model has learned is not known
    recommender.learned_histories = torch.from_numpy(first)
    recommender.save_pretrained(tmp_path / "model", include_code=False)
    for bought, trusted in ((purchases, True), (grown, False)):
        blend_directory(tmp_path / "model", bought, Accelerator(cpu=True))
        report = evaluate(MacRecRecommender.from_pretrained(tmp_path / "model"), purchases, "test", num_beams=2)
        assert report["verdict"]["trusted"] is trusted
    shrunk = purchases.drop(purchases.groupby("user_id").tail(1).index)  # what the model knows may be tested there
    blend_directory(tmp_path / "model", shrunk, Accelerator(cpu=True))
    assert MacRecRecommender.from_pretrained(tmp_path / "model").learned_histories is None
    assert "no evaluation of it can " in caplog.text
    recommender.learned_histories = None


def test_who_is_left_out_of_the_fit_is_told(recommender, purchases):
    blend = fit_blend(recommender, purchases)
    assert blend.about["target_among_candidates"] == 1 and "left out" not in blend_line(blend)
    blend.about["target_among_candidates"] = 0.875
    assert "users, 12.5% of whose purchases are not among their candidates and were left out" in blend_line(blend)


def test_its_lists_are_served_by_default_and_come_back(blended, purchases):
    recommender, folder = blended
    again = MacRecRecommender.from_pretrained(folder)
    history = [["i3", "i4", "i5"], []]
    found = recommender.recommend(history, top_k=3)
    for ours, loaded in zip(found, again.recommend(history, top_k=3), strict=True):
        assert [tuple(pair) for pair in loaded] == [tuple(pair) for pair in ours]  # to the last bit
    assert found[0][0].item_id == "i6" and "bought after i5" in found[0][0].reasons
    assert len(found[1]) == 3  # nobody without a list
    (popular,) = recommender.recommend([[]], top_k=3, fusion="average")  # by the purchases that the blend counted
    assert popular[0].item_id == f"i{int(recommender.purchase_counts.popularity.argmax())}"
    assert recommender.recommend(history[:1], top_k=3, fusion="average") != found[:1]
    assert not recommender.recommend(history[:1], top_k=3, fusion="average")[0][0].reasons


def test_limits_hold(blended):
    recommender = blended[0]
    (found,) = recommender.recommend([["i5"]], top_k=5, allowed_items=["i6", "i7", "i20"], excluded_items=["i7"])
    assert sorted(item for item, _ in found) == ["i20", "i6"]
    (hidden,) = recommender.recommend([["i5", "i6"]], top_k=NUM_ITEMS, exclude_history=True)
    assert {"i5", "i6"}.isdisjoint(item for item, _ in hidden) and len(hidden) == NUM_ITEMS - 2


def test_what_serves_counts_all_purchases_and_refresh_counts_the_same(blended, purchases):
    recommender, folder = blended
    assert int(recommender.purchase_counts.popularity.sum()) == len(purchases)
    before = (folder / "purchase_counts.safetensors").read_bytes()
    refresh_directory(folder, purchases)
    assert (folder / "purchase_counts.safetensors").read_bytes() == before
    counts = PurchaseCounts.load(folder)
    assert np.array_equal(counts.regression, with_item_regression(counts).regression) and counts.regression.any()
    refresh_directory(folder, purchases.iloc[: len(purchases) // 2])
    assert int(MacRecRecommender.from_pretrained(folder).purchase_counts.popularity.sum()) == len(purchases) // 2
    refresh_directory(folder, purchases)


def test_a_refresh_and_an_evaluation_say_that_weights_of_recent_sales_find_no_days(blended, purchases, caplog):
    recommender, folder = blended
    assert any(name.startswith("sold_in_") for name in recommender.blend.serving_weights)
    told = "No day of the purchases is known"
    refresh_directory(folder, purchases)
    evaluate(recommender, purchases)
    assert told not in caplog.text
    of_excel = purchases.assign(timestamp=45_000 + np.arange(len(purchases)) % 500)
    refresh_directory(folder, of_excel)
    assert told in caplog.text and "sold_in_7_days" in caplog.text
    caplog.clear()
    MacRecRecommender.from_pretrained(folder).refresh(of_excel)
    assert told in caplog.text
    caplog.clear()
    MacRecRecommender.from_pretrained(folder)  # of counts whose days may have been left out on purpose
    assert not caplog.text
    evaluate(recommender, of_excel)
    assert told in caplog.text
    caplog.clear()
    replace(recommender.blend, serves="co_occurrence").save(folder)
    refresh_directory(folder, of_excel)
    assert told not in caplog.text
    about = recommender.blend.about | {"without_history": "sold_in_30_days"}
    counting = replace(recommender.blend, serves="co_occurrence", about=about)
    tell_of_lost_terms(counting, regression=True, days=False)
    assert "The blend goes by sold_in_30_days," in caplog.text
    caplog.clear()
    tell_of_lost_terms(counting, regression=True, days=False, newcomers=False)
    assert not caplog.text
    caplog.clear()
    holidays = Blend({"model_holidays": 1.0, "alike_days": 1.0}, "blend", {"window": 10})
    tell_of_lost_terms(holidays, regression=True, days=False)
    assert not caplog.text
    family = Blend({"family1_30_days_text": 1.0, "near_log": 1.0}, "blend", {"window": 10})
    tell_of_lost_terms(family, regression=True, days=False)
    assert "The blend goes by family1_30_days_text," in caplog.text
    recommender.blend.save(folder)
    refresh_directory(folder, purchases)


def test_a_refresh_says_that_weights_of_an_item_regression_find_none(blended, purchases, monkeypatch, caplog):
    recommender, folder = blended
    before = (folder / "purchase_counts.safetensors").read_bytes()
    assert any(name.startswith("regression_") for name in recommender.blend.serving_weights)
    refresh_directory(folder, purchases)
    assert "item regression" not in caplog.text
    monkeypatch.setattr("macrec_hf.data.item_regression.MOST_PURCHASES", 3)
    refresh_directory(folder, purchases)
    assert "The blend goes by one" in caplog.text and PurchaseCounts.load(folder).regression is None
    caplog.clear()
    MacRecRecommender.from_pretrained(folder)
    assert "The blend goes by one" in caplog.text
    caplog.clear()
    report = evaluate(recommender, purchases)
    assert "The blend goes by one" in caplog.text
    assert "No item regression is made for a table or new weights of more than 1 purchases" in caplog.text
    assert "item_regression" not in report and "co_occurrence" in report
    caplog.clear()
    replace(recommender.blend, serves="model").save(folder)
    refresh_directory(folder, purchases)
    assert "The blend goes by one" not in caplog.text
    recommender.blend.save(folder)
    weighed, ranked, _ = candidates_to_weigh(
        recommender, purchases_to_explain(purchases, recommender.table.row_of, None)
    )
    without = fit_and_guard(weighed, ranked)
    assert "item_regression" not in without.about["ndcg@10"] and "co_occurrence" in without.about["ndcg@10"]
    assert not any(name.startswith("regression") for name in without.weights)
    monkeypatch.undo()
    refresh_directory(folder, purchases)
    assert (folder / "purchase_counts.safetensors").read_bytes() == before


def test_what_is_tested_changes_no_weight(recommender, purchases):
    """The last purchase of every second customer is another; the fit reads none of them."""
    first = fit_blend(recommender, purchases)
    changed = purchases.copy()
    last = changed.groupby("user_id").tail(1).index[::2]
    changed.loc[last, "item_id"] = "i0"
    again = fit_blend(recommender, changed)
    assert again.weights == first.weights and again.about == first.about


def test_evaluation_counts_anew_whatever_the_directory_holds(blended, purchases):
    recommender, _ = blended
    report = evaluate(recommender, purchases)
    kept = recommender.purchase_counts
    recommender._set_blend(
        recommender.blend, serving_counts(purchases.iloc[:40], recommender.table, recommender.blend)
    )
    assert json.dumps(evaluate(recommender, purchases)) == json.dumps(report)
    recommender._set_blend(recommender.blend, kept)
    assert report["verdict"]["row"] == "blend"
    assert report["blend"]["ndcg@10"] > report["popularity"]["ndcg@10"]


def test_without_the_counts_the_model_serves_alone(blended, tmp_path, caplog):
    recommender, _ = blended
    recommender.save_pretrained(tmp_path / "open", counts="none")
    alone = MacRecRecommender.from_pretrained(tmp_path / "open")
    assert alone.blend is None
    ours = recommender.recommend([["i3"]], fusion="average")[0]
    assert [item for item, _ in alone.recommend([["i3"]])[0]] == [item for item, _ in ours]
    logger = logging.getLogger("macrec_hf.hub.saving")
    logger.addHandler(caplog.handler)
    recommender.save_pretrained(tmp_path / "rounded", counts="rounded")
    logger.removeHandler(caplog.handler)
    assert re.search(r"rounded counts hold [\d,]+ of [\d,]+ pairs and no days", caplog.text)
    counts = MacRecRecommender.from_pretrained(tmp_path / "rounded").purchase_counts
    assert counts.customers.min() >= 5 and counts.sale_days is None
    with pytest.raises(ValueError, match="counts: expected one of all, rounded, none, got 'some'"):
        recommender.save_pretrained(tmp_path / "x", counts="some")


def test_own_items_are_left_out_with_the_blend_and_without_it(purchases, tmp_path):
    """Who bought an item again is left out of the purchases, so that nobody has."""
    once = purchases.drop_duplicates(["user_id", "item_id"])
    for bought, name, hides in ((purchases, "again", False), (once, "once", True)):
        assert hides_history(user_histories(bought, {f"i{row}": row for row in range(NUM_ITEMS)})) == hides
        made = tiny_recommender(NUM_ITEMS)
        made.fit_blend(bought)
        made.save_pretrained(tmp_path / name, counts="none")
        alone = MacRecRecommender.from_pretrained(tmp_path / name)
        assert alone.blend is None and alone.model.config.hides_history == hides
        for served in (made, alone):
            (found,) = served.recommend([["i3", "i4"]], top_k=NUM_ITEMS)
            assert {"i3", "i4"}.isdisjoint(item for item, _ in found) == hides


def test_few_customers_are_served_by_the_best_source(recommender, purchases):
    few = purchases[purchases["user_id"].isin([f"u{user}" for user in range(12)])]
    blend = fit_blend(recommender, few)
    assert not blend.weights and blend.serves == blend.about["best_source"]
    served = tiny_recommender(NUM_ITEMS)
    served.fit_blend(few)
    assert served.blend.serves != "model"  # a rule, which ranks and knows no probabilities
    assert {pair.probability for pair in served.recommend([["i3"]], top_k=3)[0]} == {None}
    assert "blend" not in blend.about["ndcg@10"]


def test_a_blend_that_is_not_there_is_asked_for(recommender, blended):
    alone = MacRecRecommender(model=recommender.model, tokenizer=recommender.tokenizer, table=recommender.table)
    with pytest.raises(ValueError, match="fusion: expected a recommender with a blend.*got one without"):
        alone.recommend([["i1"]], fusion="blend")
    with pytest.raises(ValueError, match="blend: expected one, got None"):
        alone.refresh(pd.DataFrame())


def test_the_recommender_says_what_it_holds(blended, recommender):
    assert repr(blended[0]).startswith("MacRecRecommender(24 items, text, image, 2 levels, blend serves, ")
    alone = MacRecRecommender(model=recommender.model, tokenizer=recommender.tokenizer, table=recommender.table)
    parameters = f"{recommender.model.num_parameters():,}"
    assert (
        repr(alone) == f"MacRecRecommender(24 items, text, image, 2 levels, no blend, {parameters} parameters on cpu)"
    )


def test_where_new_items_alone_are_listed_own_ones_are_left_out(recommender):
    """Twelve customers buy eight neighbours, four and four in any order; one of them buys the first item again."""
    order = np.random.default_rng(0)
    walked = {
        f"u{user}": [
            (2 * user + start + step) % NUM_ITEMS for start in (0, 4) for step in order.permutation(4).tolist()
        ]
        for user in range(12)
    }
    walked["u0"][-2] = walked["u0"][0]
    rows = [(user, f"i{item}", day) for user, items in walked.items() for day, item in enumerate(items)]
    made = tiny_recommender(NUM_ITEMS)
    blend = made.fit_blend(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))
    assert blend.about["repeat_rate"] > 0.01 and blend.serves == "co_visitation_new_items"
    history = ["i3", "i4", "i5"]
    assert blend.about["hides_history"] and not set(dict(made.recommend([history], top_k=20)[0])) & set(history)
    (own,) = made.recommend([history], top_k=3, allowed_items=history, exclude_history=False)
    assert {item for item, _ in own} == set(history) and len({round(score, 3) for _, score in own}) > 1


def test_new_items_have_families_by_time_alone(recommender, purchases, monkeypatch):
    """Leave-one-out, what is new is there because an explained purchase holds it: a fit would learn that it sells."""
    known = purchases_to_explain(purchases, recommender.table.row_of, None)
    days = zip(known.counted, known.counted_days, strict=True)
    known.counted_days = [when[rows != 3] for rows, when in days]
    known.counted = [rows[rows != 3] for rows in known.counted]
    assert (known.targets == 3).any()
    for until, has in ((None, False), ("2024-06-01", True)):
        monkeypatch.setattr(recommender.model.config, "trained_until", until)
        blocks, _, _ = candidates_to_weigh(recommender, known)
        terms = blocks[0].candidates.terms
        assert any(name.startswith("family") for name in terms) == has and terms["is_new"].any()
