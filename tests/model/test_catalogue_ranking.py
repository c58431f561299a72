import numpy as np
import pytest
import torch

from macrec_hf.evaluation.baselines import baseline_lists
from macrec_hf.evaluation.ranking_metrics import ranking_metrics, user_metrics
from macrec_hf.evaluation.report import evaluation_report, shared_by
from macrec_hf.model.configuration_macrec import MacRecConfig
from macrec_hf.model.ensemble import Decoding, history_sources, rank_catalogue
from macrec_hf.model.limits import Limits
from macrec_hf.model.model_decoding import exact_scores
from macrec_hf.model.modeling_macrec import MacRecForConditionalGeneration
from macrec_hf.model.ranked_lists import RankedLists, fuse
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer, TaskEncoder
from macrec_hf.model.trie import SemanticIdTrie

NUM_ITEMS, CODEBOOK_SIZE, NUM_LEVELS = 30, 5, 3


def random_codes(generator):
    """Distinct IDs, one per item."""
    numbers = generator.permutation(CODEBOOK_SIZE**NUM_LEVELS)[:NUM_ITEMS]
    return torch.from_numpy(np.stack(np.unravel_index(numbers, (CODEBOOK_SIZE,) * NUM_LEVELS), axis=1))


class Shop:
    """A tiny catalogue with a random model in float64, so that equal scores are equal and others are not."""

    def __init__(self, modalities=("text", "image"), seed=0):
        generator = np.random.default_rng(seed)
        codes = {name: random_codes(generator) for name in modalities}
        codes["text"][7] = codes["text"][12] = codes["text"][3]  # items 3, 7 and 12 share their text ID
        codes[modalities[-1]][[5, 6]] = -1  # items 5 and 6 have no ID in the last modality
        codes["text"][9] = -1
        self.table = SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], codes, codebook_size=CODEBOOK_SIZE)
        self.tokenizer = SemanticIdTokenizer.from_table(self.table)
        torch.manual_seed(seed)
        config = MacRecConfig(
            vocab_size=len(self.tokenizer), num_levels=NUM_LEVELS, d_model=16, d_kv=8, d_ff=32, num_heads=2,
            num_layers=1, num_decoder_layers=1, initializer_factor=0.5,
        )  # fmt: skip
        self.model = MacRecForConditionalGeneration(config).double().eval()
        self.tries = {name: SemanticIdTrie.from_table(self.table, self.tokenizer, name) for name in modalities}
        self.histories = [generator.integers(0, NUM_ITEMS, size=generator.integers(1, 9)) for _ in range(11)]
        self.histories += [np.array([5, 6]), np.array([9, 9]), np.array([9, 5])]  # nothing in the last, in text, mixed
        self.sources = history_sources(TaskEncoder(self.tokenizer, self.table), self.histories, modalities)

    def exact(self):
        """Every user's score of every item in each modality: float64, (num_modalities, num_users, num_items)."""
        scores = np.full((len(self.tries), len(self.histories), NUM_ITEMS), -np.inf)
        for m, (name, trie) in enumerate(self.tries.items()):
            for user, source in enumerate(self.sources[name]):
                if source is not None:
                    ids = torch.tensor([source])
                    scores[m, user] = exact_scores(self.model, ids, torch.ones_like(ids), trie)[0].numpy()
        return scores


@pytest.fixture(scope="module")
def shop():
    return Shop()


def check_order(lists, expected):
    """`lists` holds every item that `expected` (num_users, num_items) scores, with that score, in falling order."""
    for items, scores, wanted in zip(lists.items, lists.scores, expected, strict=True):
        found = items[items >= 0]
        assert sorted(found) == np.flatnonzero(wanted > -np.inf).tolist()
        np.testing.assert_allclose(scores[: len(found)], wanted[found], rtol=1e-9)
        assert (np.diff(scores[: len(found)]) <= 0).all()
        assert (items[len(found) :] == -1).all() and np.isneginf(scores[len(found) :]).all()


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("text", "image", "audio")])
def test_with_beams_for_every_item_the_ranking_is_exact(modalities):
    shop = Shop(modalities, seed=len(modalities))
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=NUM_ITEMS, batch_size=4))
    assert list(lists) == [*modalities, "ensemble"]
    exact = shop.exact()
    for scores, name in zip(exact, modalities, strict=True):
        check_order(lists[name], scores)
    check_order(lists["ensemble"], fuse(exact))


def test_users_without_a_history_in_a_modality_are_served_by_the_other(shop):
    assert [shop.sources["image"][11], shop.sources["text"][12]] == [None, None]
    assert shop.sources["text"][13] is not None and shop.sources["image"][13] is not None
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=NUM_ITEMS))
    assert (lists["image"].items[11] == -1).all() and (lists["text"].items[12] == -1).all()
    alone = lists["text"].items[11]
    assert lists["ensemble"].items[11][: len(alone)].tolist() == alone.tolist()


def test_a_user_without_any_history_gets_an_empty_list(shop):
    sources = {name: [None, shop.sources[name][0]] for name in shop.tries}
    lists = rank_catalogue(shop.model, shop.tries, sources, Decoding(num_beams=3))
    assert all((ranked.items[0] == -1).all() and (ranked.items[1, :3] >= 0).all() for ranked in lists.values())
    nobody = rank_catalogue(shop.model, shop.tries, {name: [None] for name in shop.tries}, Decoding(num_beams=3))
    assert all((ranked.items == -1).all() and len(ranked.items) == 1 for ranked in nobody.values())


def test_items_that_one_modality_missed_are_scored_exactly_there(shop):
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=3))
    exact = fuse(shop.exact())
    lone = 0
    for user in range(len(shop.histories)):
        found = lists["ensemble"].items[user]
        found = found[found >= 0]
        by_modality = [set(lists[name].items[user]) - {-1} for name in shop.tries]
        assert set(found) == set.union(*by_modality)
        lone += len(set.symmetric_difference(*by_modality))
        np.testing.assert_allclose(lists["ensemble"].scores[user, : len(found)], exact[user, found], rtol=1e-9)
    assert lone > 20  # otherwise the test would not have looked at what it is about


def test_the_authors_fusion_uses_the_lists_alone(shop):
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=4, fusion="authors"))
    for user in range(len(shop.histories)):
        of = [dict(zip(lists[m].items[user], lists[m].scores[user], strict=True)) for m in ("text", "image")]
        for item, score in zip(lists["ensemble"].items[user], lists["ensemble"].scores[user], strict=True):
            if item >= 0:
                both = [scores[item] for scores in of if item in scores]
                assert score == pytest.approx(sum(both) / 2 + 1 if len(both) == 2 else both[0])


def test_items_that_share_an_id_tie_in_text_and_not_in_the_ensemble(shop):
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=NUM_ITEMS))
    text, ensemble = lists["text"], lists["ensemble"]
    served = [user for user in range(11) if all(shop.sources[name][user] for name in shop.tries)]
    assert len(served) > 5
    for user in served:
        in_text = [text.scores[user, text.items[user] == item][0] for item in (3, 7, 12)]
        in_ensemble = [ensemble.scores[user, ensemble.items[user] == item][0] for item in (3, 7, 12)]
        assert len(set(in_text)) == 1 and len(set(in_ensemble)) == 3
        places = [text.leaf_ranks[user, text.items[user] == item][0] for item in (3, 7, 12)]
        assert len(set(places)) == 1


def test_one_modality_alone(shop):
    both = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=5))
    alone = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=5, modality="image"))
    assert list(alone) == ["image"] and (alone["image"].items == both["image"].items).all()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_order_and_batch_size_do_not_matter(shop, batch_size):
    expected = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=6))
    turned = {name: sources[::-1] for name, sources in shop.sources.items()}
    found = rank_catalogue(shop.model, shop.tries, turned, Decoding(num_beams=6, batch_size=batch_size))
    for name in expected:
        assert (found[name].items[::-1] == expected[name].items).all()


def test_top_k_cuts_and_widens_the_beams(shop):
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=20, top_k=4))
    full = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=20))
    for name in lists:
        assert (lists[name].items == full[name].items[:, :4]).all()
    wide = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=2, top_k=25))
    assert ((wide["ensemble"].items >= 0).sum(axis=1) == 25).all()


def limits_of(kind, closed):
    """The same closed items in each accepted form; `closed` is bool, (num_users, num_items)."""
    if kind == "mask":
        return Limits(*closed.shape, excluded_items=closed)
    if kind == "allowed mask":
        return Limits(*closed.shape, allowed_items=~closed)
    rows = [torch.nonzero(row if kind == "rows" else ~row).flatten() for row in closed]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return Limits(*closed.shape, **{"excluded_items" if kind == "rows" else "allowed_items": padded})


@pytest.mark.parametrize("kind", ["mask", "allowed mask", "rows", "allowed rows"])
@pytest.mark.parametrize("num_beams", [NUM_ITEMS, 3])
def test_limits_equal_filtering_the_full_ranking(shop, kind, num_beams):
    closed = torch.rand(len(shop.histories), NUM_ITEMS, generator=torch.manual_seed(1)) < 0.6
    closed[:, 3], closed[:, 7] = False, True  # they share a text ID, which must stay open for item 3
    decoding = Decoding(num_beams=num_beams, batch_size=4)
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, decoding, limits=limits_of(kind, closed))
    exact = shop.exact()
    exact[:, closed.numpy()] = -np.inf
    if num_beams == NUM_ITEMS:
        check_order(lists["ensemble"], fuse(exact))
        check_order(lists["text"], exact[0])
    for user, items in enumerate(lists["ensemble"].items):
        found = items[items >= 0]
        assert len(found) >= min(3, (~closed[user]).sum() - 3) and not closed[user, found].any()


def test_a_limit_for_everybody(shop):
    closed = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    closed[::2] = True
    limits = Limits(len(shop.histories), NUM_ITEMS, excluded_items=closed)
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=NUM_ITEMS), limits=limits)
    exact = shop.exact()
    exact[:, :, closed.numpy()] = -np.inf
    check_order(lists["ensemble"], fuse(exact))


def test_the_model_keeps_its_mode(shop):
    shop.model.train()
    expected = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=5))
    assert shop.model.training
    shop.model.eval()
    found = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=5))
    assert (found["ensemble"].scores == expected["ensemble"].scores).all() and not shop.model.training


def test_float32_ranks_as_float64_does(shop):
    model = MacRecForConditionalGeneration(shop.model.config).eval()
    model.load_state_dict(shop.model.state_dict())
    lists = rank_catalogue(model, shop.tries, shop.sources, Decoding(num_beams=10))
    expected = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=10))
    assert lists["ensemble"].scores.dtype == np.float32
    filled = expected["ensemble"].items >= 0
    np.testing.assert_allclose(lists["ensemble"].scores[filled], expected["ensemble"].scores[filled], atol=1e-4)


def test_metrics_by_hand():
    # Text list of one user: item 4 alone, then items 1 and 2 on one ID, then item 3. Target: item 2.
    text = RankedLists(np.array([[4, 1, 2, 3]]), np.array([[-1.0, -2.0, -2.0, -3.0]]), np.array([[0, 1, 1, 2]]))
    metrics = ranking_metrics({"text": text}, np.array([2]), ks=(1, 2, 5))["text"]
    # One above, two tied: rank 2 or 3, so HR@2 = 1/2, HR@5 = 1; its ID is the second: string HR@2 = 1.
    assert (metrics["hr@1"], metrics["hr@2"], metrics["hr@5"]) == (0.0, 0.5, 1.0)
    assert (metrics["string_hr@1"], metrics["string_hr@2"]) == (0.0, 1.0)
    # NDCG@5 = (1/log2(3) + 1/log2(4)) / 2 = (0.630930 + 0.5) / 2
    assert metrics["ndcg@5"] == pytest.approx(0.565465, abs=1e-6)
    fused = RankedLists(np.array([[2, 4]]), np.array([[-1.0, -2.0]]))
    assert ranking_metrics({"ensemble": fused}, np.array([2]))["ensemble"] == {
        "hr@1": 1.0, "hr@5": 1.0, "hr@10": 1.0, "ndcg@1": 1.0, "ndcg@5": 1.0, "ndcg@10": 1.0,
    }  # fmt: skip


def test_a_shared_id_counts_more_as_a_string_than_as_an_item(shop):
    targets = np.full(len(shop.histories), 7)
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=NUM_ITEMS))["text"]
    ks = range(1, NUM_ITEMS + 1)
    figures = user_metrics(lists, targets, ks)
    assert all((figures[f"string_hr@{k}"] >= figures[f"hr@{k}"]).all() for k in ks)
    for user, items in enumerate(lists.items):
        if 7 in items:
            place = lists.leaf_ranks[user, items.tolist().index(7)] + 1  # the ID's place among the distinct IDs
            # Items 3, 7 and 12 share the ID, so item 7 is the first of the three in a third of the orders.
            assert (figures[f"string_hr@{place}"][user], figures[f"hr@{place}"][user]) == (1.0, pytest.approx(1 / 3))


def test_report_holds_metrics_intervals_and_coverage(shop):
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=10))
    targets = np.arange(len(shop.histories))
    report = evaluation_report(lists, targets, NUM_ITEMS, num_resamples=200)
    assert {name: report[name] for name in lists} == ranking_metrics(lists, targets)
    for name in lists:
        shown = {int(item) for row in lists[name].items for item in row[:10] if item >= 0}
        assert report["coverage"][name] == pytest.approx(len(shown) / NUM_ITEMS)
        for metric, value in report[name].items():
            low, high = report["intervals"][name][metric]
            assert low <= value + 1e-12 and value <= high + 1e-12


def test_baselines_as_ranked_lists():
    lists = baseline_lists([np.array([0, 0, 1])], [np.array([2])], num_items=4, width=3)
    assert lists["popularity"].items.tolist() == [[0, 1, 2]]
    metrics = ranking_metrics(lists, np.array([1]), ks=(1, 2))
    assert (metrics["popularity"]["hr@1"], metrics["popularity"]["hr@2"]) == (0.0, 1.0)  # the second place, no tie
    assert "string_hr@1" not in metrics["popularity"]


def _ranked_by_two_processes(path):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have set it
    accelerator = Accelerator(cpu=True)
    shop = Shop()
    decoding = Decoding(num_beams=6, batch_size=3)
    lists = rank_catalogue(shop.model, shop.tries, shop.sources, decoding, **shared_by(accelerator))
    found = {name: (ranked.items, ranked.scores) for name, ranked in lists.items()}
    torch.save(found, f"{path}.{accelerator.process_index}")


def test_two_processes_rank_every_user_once(shop, tmp_path):
    from accelerate import debug_launcher

    debug_launcher(_ranked_by_two_processes, args=(str(tmp_path / "lists"),), num_processes=2)
    expected = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=6))
    for process in range(2):
        found = torch.load(tmp_path / f"lists.{process}", weights_only=False)
        for name, ranked in expected.items():
            assert (found[name][0] == ranked.items).all()
            np.testing.assert_allclose(found[name][1], ranked.scores, rtol=1e-9)


def test_refusals(shop):
    with pytest.raises(ValueError, match="modality: expected 'ensemble' or one of 'text', 'image', got 'sound'"):
        rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(modality="sound"))
    with pytest.raises(ValueError, match="fusion: expected one of average, authors"):
        Decoding(fusion="sum")
    with pytest.raises(ValueError, match="pass those of .*image"):
        rank_catalogue(shop.model, shop.tries, {"text": shop.sources["text"]})
    with pytest.raises(ValueError, match="as many sources in each modality"):
        rank_catalogue(shop.model, shop.tries, {"text": [None], "image": [None, None]})
    for limits in (Limits(1, NUM_ITEMS), Limits(len(shop.histories), 3)):
        with pytest.raises(ValueError, match="limits: expected those of 14 users over 30 items, got those of"):
            rank_catalogue(shop.model, shop.tries, shop.sources, limits=limits)


@pytest.mark.parametrize("name", ["num_beams", "top_k", "batch_size"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True, "5"])
def test_decoding_refuses_what_is_no_number_of_things(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, got {value!r}"):
        Decoding(**{name: value})


def test_decoding_keeps_as_many_beams_as_the_list_is_long(shop):
    assert [Decoding(num_beams=beams, top_k=k).width for beams, k in ((3, None), (3, 2), (2, 3))] == [3, 3, 3]
    assert Decoding(num_beams=np.int64(3)).width == 3
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [Decoding(num_beams=beams).users_at_a_time(gpu) for beams in (1, 20, 100, 500)] == [512, 512, 102, 64]
    assert [Decoding(batch_size=size).users_at_a_time(cpu) for size in (None, 7)] == [64, 7]
    assert Decoding(batch_size=7).users_at_a_time(gpu) == 7
    assert Decoding().width == 20 and Decoding().fuses and not Decoding(modality="text").fuses
    expected = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=3, top_k=3))
    found = rank_catalogue(shop.model, shop.tries, shop.sources, Decoding(num_beams=np.int64(2), top_k=np.int64(3)))
    assert (found["ensemble"].items == expected["ensemble"].items).all()
