"""The blend against a dense brute force of its formula over the whole catalogue, and its reasons."""

import numpy as np
import pytest
import torch

from macrec_hf.data.item_regression import with_item_regression
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model import blend as module
from macrec_hf.model.blend import SOURCES, Blend, BlendInputs, find_candidates
from macrec_hf.model.limits import Limits
from macrec_hf.model.purchase_counts import UNIT
from macrec_hf.model.ranked_lists import RankedLists, log_softmax
from macrec_hf.model.served_catalogue import reasons
from macrec_hf.model.vector_quantization import content_vectors

NUM_ITEMS, NUM_USERS, WINDOW = 15, 6, 4


@pytest.fixture
def shop():
    generator = np.random.default_rng(11)
    bought = [generator.integers(0, NUM_ITEMS - 2, size=size) for size in generator.integers(3, 10, size=50)]
    days = [np.sort(generator.integers(19_000, 19_200, size=len(history))) for history in bought]
    counts = with_item_regression(count_purchases(bought, NUM_ITEMS, window=WINDOW, days=days))
    vectors = generator.normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    content = {"text": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}
    histories = [generator.integers(0, NUM_ITEMS, size=size) for size in (0, 1, 2, 5, 9, 25)]
    items = np.stack([generator.permutation(NUM_ITEMS)[:4] for _ in range(NUM_USERS)])
    items[2, 2:], items[3] = -1, -1  # a short list and none at all
    scores = np.where(items >= 0, -np.sort(generator.random(items.shape), axis=1), -np.inf).astype(np.float32)
    return BlendInputs(counts, content), histories, {"text": RankedLists(items, scores)}, bought, days


def dense_terms(inputs, histories, lists, day, bought, days):
    """Every term of every item, one user and item at a time, from the purchases themselves."""
    near = {"before": np.zeros((NUM_ITEMS, NUM_ITEMS)), "after": np.zeros((NUM_ITEMS, NUM_ITEMS))}
    following, together = np.zeros((NUM_ITEMS, NUM_ITEMS)), np.zeros((NUM_ITEMS, NUM_ITEMS))
    for history in bought:
        for place, item in enumerate(history):
            for distance, other in enumerate(history[place + 1 : place + 6], 1):
                if other != item:
                    near["before"][item, other] += (distance <= WINDOW) / distance
                    near["after"][other, item] += (distance <= WINDOW) / distance
                    following[item, other] += distance == 1
                    together[item, other] += 1
                    together[other, item] += 1
    sold = np.bincount(np.concatenate(bought), minlength=NUM_ITEMS)
    explains = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for item in range(NUM_ITEMS):
        of_it = np.flatnonzero(together[item])
        solved = np.linalg.solve(together[np.ix_(of_it, of_it)] + np.diag(sold[of_it] + 200), together[of_it, item])
        explains[of_it, item] = np.maximum(solved, 0)
    sales = [
        (item, when)
        for history, of_it in zip(bought, days, strict=True)
        for item, when in zip(history, of_it, strict=True)
    ]
    found = []
    for user, history in enumerate(histories):
        recent = history[::-1][:20]
        votes = {
            name: sum((values[i] / j for j, i in enumerate(recent, 1)), np.zeros(NUM_ITEMS))
            for name, values in near.items()
        }
        votes["near"] = votes["before"] + votes["after"]
        votes["next"] = sum((following[i] / j for j, i in enumerate(recent, 1)), np.zeros(NUM_ITEMS))
        votes["last_next"] = following[recent[0]] if len(recent) else np.zeros(NUM_ITEMS)
        votes["together"] = sum((together[i] / j for j, i in enumerate(recent, 1)), np.zeros(NUM_ITEMS))
        votes["regression"] = sum((explains[i] / j for j, i in enumerate(recent, 1)), np.zeros(NUM_ITEMS))
        root = np.sqrt(sold + 1)
        votes["cosine"] = sum((together[i] / root[i] / root / j for j, i in enumerate(recent, 1)), np.zeros(NUM_ITEMS))
        terms = {f"{name}_count": votes[name] for name in ("near", "together", "last_next", "regression")}
        for name, values in votes.items():
            terms[f"{name}_log"] = np.log(values + {"cosine": 0.003, "regression": 0.01}.get(name, 0.1))
            terms[f"{name}_log1p"] = np.log1p(values)
        terms |= {"sold": sold, "sold_log": np.log(sold + 0.5), "sold_log1p": np.log1p(sold), "is_new": sold == 0}
        terms["own"] = np.array([item in history for item in range(NUM_ITEMS)])
        terms["own_often"] = np.log1p([(history == item).sum() for item in range(NUM_ITEMS)])
        places = [list(history[::-1]).index(item) + 1 if item in history else np.inf for item in range(NUM_ITEMS)]
        terms["own_recency"] = 1 / np.array(places)
        before = [[when for of, when in sales if of == item and when < day[user]] for item in range(NUM_ITEMS)]
        terms["days_since_sale"] = -np.log1p([min(day[user] - max(of_it), 400) if of_it else 400 for of_it in before])
        for window in (7, 30, 90):
            terms[f"sold_in_{window}_days"] = np.log1p(
                [sum(w >= day[user] - window for w in of_it) for of_it in before]
            )
        vectors = inputs.content["text"]
        mean = sum((vectors[i] / j for j, i in enumerate(recent, 1)), np.zeros(5))
        terms["alike_text"] = vectors @ (mean / max(np.linalg.norm(mean), 1e-9))
        listed = {
            item: score
            for item, score in zip(lists["text"].items[user], lists["text"].scores[user], strict=True)
            if item >= 0
        }
        worst = min(listed.values()) - 1 if listed else 0
        terms["model_text"] = np.array([listed.get(item, worst) for item in range(NUM_ITEMS)])
        terms["missed_text"] = np.array([bool(listed) and item not in listed for item in range(NUM_ITEMS)])
        found.append(terms)
    return found


def test_scores_are_the_formula_over_the_whole_catalogue(shop):
    inputs, histories, lists, bought, days = shop
    day = np.array([19_100, 19_000, 19_050, 19_199, 19_300, 18_000])
    found = find_candidates(inputs, histories, lists, days=day)
    wanted = dense_terms(inputs, histories, lists, day, bought, days)
    assert found.items.tolist() == [list(range(NUM_ITEMS))] * NUM_USERS  # so few items are candidates all
    for user, terms in enumerate(wanted):
        assert set(terms) == set(found.terms)
        for name, values in terms.items():
            assert np.allclose(found.terms[name][user], np.asarray(values, dtype=float), atol=1e-6), name
    weights = dict(zip(wanted[0], np.random.default_rng(0).normal(size=len(wanted[0])), strict=True))
    scores = np.stack(
        [sum(weights[name] * np.asarray(values, dtype=float) for name, values in terms.items()) for terms in wanted]
    )
    logs = torch.log_softmax(torch.from_numpy(scores), dim=1).numpy()
    ranked = found.ranked(weights, 4)
    order = np.argsort(-logs, axis=1)[:, :4]
    assert ranked.items.tolist() == order.tolist()
    assert np.allclose(ranked.scores, np.take_along_axis(logs, order, axis=1), atol=1e-5)


def test_without_days_the_terms_of_time_are_absent(shop):
    inputs, histories, lists, *_ = shop
    terms = find_candidates(inputs, histories, lists).terms
    assert not [name for name in terms if "days" in name]


def test_who_has_no_history_gets_what_is_popular(shop):
    """The best of the month, equal ones by all sales, whatever the weights say; the others' lists stay."""
    inputs, histories, lists, *_ = shop
    days = np.full(NUM_USERS, 19_150)
    found = find_candidates(inputs, histories, lists, days=days)
    blend = Blend({"near_log": 1.0, "sold_log": -2.0}, "blend", {"without_history": "sold_in_30_days"})
    ranked = blend.ranked(found, histories, 8)
    every = np.arange(NUM_ITEMS)
    month = inputs.counts.sold(every, np.full(NUM_ITEMS, 19_150), 30)
    order = np.lexsort((every, -inputs.counts.popularity, -month))[:8]
    assert not len(histories[0]) and ranked.items[0].tolist() == order.tolist()
    assert np.allclose(np.exp(ranked.scores[0]), (month[order] + 1) / (month + 1).sum(), atol=1e-6)
    weighed = found.ranked(blend.weights, 8)
    assert np.array_equal(ranked.items[1:], weighed.items[1:])
    assert np.array_equal(Blend(blend.weights).ranked(found, histories, 8).items, weighed.items)  # of an older release


def test_limits_hold_and_leave_somebody_to_recommend(shop, monkeypatch):
    """Candidates are few; the one item that is allowed is not among them, and still it is found."""
    inputs, histories, lists, *_ = shop
    for name in ("POPULAR", "RECENT", "ALIKE", "NEW"):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(module, "CANDIDATES", {"near": 1})
    allowed = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    allowed[[4, 14]] = True
    limits = Limits(NUM_USERS, NUM_ITEMS, allowed_items=allowed, histories=histories)
    items = find_candidates(inputs, histories, lists, limits=limits).items
    for user, history in enumerate(histories):
        assert sorted(item for item in items[user] if item >= 0) == [item for item in (4, 14) if item not in history]


@pytest.mark.parametrize("dated", [True, False])
def test_a_new_item_has_what_is_sold_of_its_family(shop, dated):
    """Items 13 and 14 were never bought: 13 begins as some others do, 14 has no ID in the modality."""
    inputs, histories, _, bought, days = shop
    codes = np.random.default_rng(4).integers(0, 3, (NUM_ITEMS, 3))
    codes[13], codes[14] = codes[3], -1
    counts = inputs.counts if dated else count_purchases(bought, NUM_ITEMS, window=WINDOW)
    day = np.array([19_100, 19_000, 19_050, 19_199, 19_300, 18_000]) if dated else None
    found = find_candidates(BlendInputs(counts, {}, {"image": codes}), histories, {}, days=day)
    windows = {"all": None} | ({"7_days": 7, "30_days": 30, "90_days": 90} if dated else {})
    wanted = {f"family{length}_{window}_image" for length in (1, 2) for window in windows}
    assert {name for name in found.terms if name.startswith("family")} == wanted
    sales = [sale for items, when in zip(bought, days, strict=True) for sale in zip(items, when, strict=True)]
    for length in (1, 2):
        family = [item for item in range(13) if (codes[item, :length] == codes[13, :length]).all()]
        assert family
        for window, last in windows.items():
            values = found.terms[f"family{length}_{window}_image"]
            for user in range(NUM_USERS):
                end = np.inf if last is None else day[user]
                begin = -np.inf if last is None else day[user] - last
                sold = sum(begin <= when < end for item, when in sales if item in family)
                assert values[user, 13] == pytest.approx(np.log1p(sold / len(family)))
            assert not values[:, :13].any() and not values[:, 14].any()


def test_new_items_of_families_that_sell_are_candidates(monkeypatch):
    """Twelve new items; those that begin as the bestseller does come first, although no history is like them."""
    counts = count_purchases([np.array([0, 1])] * 3 + [np.array([1])] * 9, 14)
    codes = np.array([[0, 0, 0], [1, 0, 0], *([item % 3, 1, item] for item in range(12))])
    monkeypatch.setattr(module, "PROMISING", 4)
    monkeypatch.setattr(module, "POPULAR", 2)
    found = find_candidates(BlendInputs(counts, {}, {"text": codes}), [np.array([0])], {})
    assert set(found.items[0]) - {-1} == {0, 1, 3, 6, 9, 12}  # items 3, 6, 9 and 12 begin with 1
    nothing_new = BlendInputs(count_purchases([np.arange(14)], 14), {}, {"text": codes})
    assert not nothing_new.families


def test_candidates_hold_what_each_source_puts_first(shop):
    inputs, histories, lists, *_ = shop
    found = find_candidates(inputs, histories, lists)
    assert (
        found.ranked(SOURCES["popularity"], 1).items[:, 0].tolist() == [inputs.counts.popularity.argmax()] * NUM_USERS
    )
    last = [history[-1] for history in histories if len(history)]
    assert found.ranked(SOURCES["recent_then_popularity"], 1).items[1:, 0].tolist() == last


def test_a_user_of_no_candidates_has_an_empty_list():
    assert np.isneginf(log_softmax(np.full((1, 2), -np.inf))).all()


def test_reasons_name_the_item_that_is_meant():
    """Two items: item 1 is bought after item 0 by everybody, and item 2 looks like item 0."""
    counts = count_purchases([np.array([0, 1])] * 5 + [np.array([3, 2])], 4)
    vectors = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], dtype=np.float32)
    inputs, histories = BlendInputs(counts, {"image": vectors}), [np.array([0])]
    lists = {"text": RankedLists(np.array([[1, 3]]), np.log(np.array([[0.25, 0.01]])))}
    found = find_candidates(inputs, histories, lists)
    told = reasons(
        inputs,
        histories,
        found,
        np.array([[1, 2, -1]]),
        {"near_log": 1.0, "model_text": 0.1, "alike_image": 2.0},
        "item {}".format,
    )
    assert told[0][0][0] == "bought after item 0" and "the model: 25.0%" in told[0][0]
    assert told[0][1][0] == "like item 0 (image)"
    assert told[0][2] == ()


@pytest.mark.parametrize(("chance", "expected"), [(0.0004, ()), (0.0006, ("the model: 0.1%",))])
def test_a_model_that_hardly_believes_in_an_item_is_no_reason(chance, expected):
    inputs, histories = BlendInputs(count_purchases([np.array([0])] * 3, 4), {}), [np.array([0])]
    found = find_candidates(
        inputs, histories, {"text": RankedLists(np.array([[1, 3]]), np.log(np.array([[chance, 1e-9]])))}
    )
    told = reasons(inputs, histories, found, np.array([[1]]), {"model_text": 1.0}, "item {}".format)
    assert told == [[expected]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"model_text": 1.0}, ("the model: 40.0%",)),
        ({"model_text": -1.0}, ()),
        ({"model_text": 1.0, "model_image": -0.5}, ("the model: 40.0%",)),  # image, which would say 20.0 %, is no part
        ({"model_text": -1.0, "model_image": 0.5}, ()),
        ({"scored_text": 1.0}, ("the model: 50.0%",)),
        ({"scored_text": -1.0}, ()),
        ({"sold_log1p": 1.0}, ("sells well",)),
        ({"sold_log1p": -1.0}, ()),
        ({"alike_image": 1.0}, ("like item 0 (image)",)),
        ({"alike_image": -1.0}, ()),
    ],
)
def test_what_counts_against_an_item_is_no_reason(weights, expected):
    """Of item 1, and of item 3, of which everything is the other way round, where weights are negative."""
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], dtype=np.float32)
    inputs = BlendInputs(count_purchases([np.array([0]), *[np.array([1])] * 9], 4), {"image": vectors})
    lists = {
        "text": RankedLists(np.array([[1, 2, 3]]), np.log(np.array([[0.4, 0.2, 0.1]]))),
        "image": RankedLists(np.array([[2, 1, 3]]), np.log(np.array([[0.3, 0.1, 0.05]]))),
    }
    histories = [np.array([0])]
    found = find_candidates(inputs, histories, lists).with_scores({"text": np.log([[0.1, 0.5, 0.2, 0.01]])})
    told = reasons(inputs, histories, found, np.array([[1, 3]]), weights, "item {}".format)
    assert told == [[expected, ()]]


def test_that_the_model_missed_an_item_is_no_reason():
    inputs, histories = BlendInputs(count_purchases([np.array([0, 2])] * 3, 4), {}), [np.array([0])]
    found = find_candidates(inputs, histories, {"text": RankedLists(np.array([[1, 3]]), np.log([[0.4, 0.1]]))})
    told = reasons(inputs, histories, found, np.array([[2]]), {"missed_text": 1.0}, "item {}".format)
    assert told == [[()]]


def test_content_is_the_sum_of_codewords_of_length_one():
    books = {"text": np.array([[[1.0, 0], [0, 2]], [[0, 1], [3, 0]]])}
    found = content_vectors({"text": np.array([[0, 1], [1, 0], [-1, -1]])}, books)["text"]
    assert np.allclose(found, [[1, 0], [0, 1], [0, 0]])


def test_it_comes_back_as_it_was_saved(tmp_path):
    blend = Blend({"near_log": 0.1 + 0.2}, "popularity", {"window": 5})
    blend.save(tmp_path)
    again = Blend.load(tmp_path)
    assert again == blend and again.serving_weights == SOURCES["popularity"]


WEIGHTS, ABOUT = '{"sold_log": 1.0}', '{"window": 5, "hides_history": false}'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"weights": {}}', "expected weights, serves and about"),
        ("[]", "expected weights, serves and about, got a JSON list"),
        ('{"weights": {}, "serves": "x", "about": {}}', "got 'x'"),
        ('{"weights": {}, "serves": [], "about": {}}', r"got '\[\]'"),
        (f'{{"weights": {{}}, "serves": "blend", "about": {ABOUT}}}', r"expected weights {term: number}, got {}"),
        (f'{{"weights": [1], "serves": "blend", "about": {ABOUT}}}', r"expected weights {term: number}"),
        *[
            (f'{{"weights": {{"sold_log": {bad}}}, "serves": "blend", "about": {ABOUT}}}', "of sold_log a number")
            for bad in ("NaN", "Infinity", "1e300", "true", '"1"', "null", "[1]", "1" + "0" * 400)
        ],
        (f'{{"weights": {{"luck": 1}}, "serves": "blend", "about": {ABOUT}}}', "known terms, got one of 'luck'"),
        *[
            (f'{{"weights": {WEIGHTS}, "serves": "blend", "about": {{"without_history": {bad}}}}}',
             "expected without_history as one of sold_log1p, ")
            for bad in ('"near_log"', "null", "[]", "1")
        ],
        *[
            (f'{{"weights": {WEIGHTS}, "serves": "blend", "about": {bad}}}', "expected in about a window from 1 to 10")
            for bad in ("[]", '{"window": 0}', '{"window": 11}', '{"window": "5"}', '{"window": true}',
                        '{"hides_history": 1}', '{"hides_history": "no"}', "null")
        ],
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path, text, match):
    (tmp_path / "blend.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        Blend.load(tmp_path)


def test_units_are_those_of_one_purchase():
    assert all(UNIT % distance == 0 for distance in range(1, 11))


def test_every_term_that_is_computed_may_have_a_weight(shop):
    """What a fit can name, a file may name."""
    inputs, histories, lists, _, _ = shop
    found = find_candidates(inputs, histories, lists, days=np.full(len(histories), 19_201))
    assert {name for name in found.terms if not name.startswith(module.BY_MODALITY)} == module.TERMS
