"""SASRec and FDSA learn rules that popularity cannot know, and the choice among configurations keeps its rules."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "baselines"
NUM_ITEMS = 24
SMALL = {"width": 32, "blocks": 1, "dropout": 0.0}


@pytest.fixture
def own(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import small_sasrec

    return small_sasrec


@pytest.fixture
def budget(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import budget

    return budget


def followers(count, length, generator):
    """Item i is followed by 5 i + 1: the next item is known, and all are equally popular."""
    found = np.empty((count, length), dtype=np.int64)
    found[:, 0] = generator.integers(0, NUM_ITEMS, count)
    for step in range(1, length):
        found[:, step] = (5 * found[:, step - 1] + 1) % NUM_ITEMS
    return list(found)


def test_sasrec_learns_which_item_follows(own):
    generator = np.random.default_rng(0)
    system = own.OwnSystem(followers(200, 6, generator), NUM_ITEMS, SMALL, seed=0)
    asked = followers(60, 4, generator)
    targets = np.array([(5 * history[-1] + 1) % NUM_ITEMS for history in asked])
    before = (system.rank(asked)[:, 0] == targets).mean()
    for _ in range(40):
        system.epoch()
    lists = system.rank(asked)
    bestseller = np.bincount(np.concatenate(system.pieces)).argmax()
    assert (lists[:, 0] == targets).mean() > 0.95 > 0.3 > max(before, (targets == bestseller).mean())
    assert lists.shape == (60, 100) and (lists[:, NUM_ITEMS:] == -1).all()
    assert all(sorted(row[:NUM_ITEMS]) == list(range(NUM_ITEMS)) for row in lists.tolist())


def test_states_do_not_depend_on_what_follows_or_on_padding(own):
    torch.manual_seed(0)
    model = own.SASRec(NUM_ITEMS, torch.randn(NUM_ITEMS, 5), **SMALL).eval()
    rows = torch.randint(0, NUM_ITEMS, (3, 7))
    whole = model.states(rows)
    changed = torch.cat([rows[:, :4], torch.full((3, 3), NUM_ITEMS)], dim=1)
    assert torch.allclose(whole[:, :4], model.states(changed)[:, :4], atol=1e-5)
    assert torch.allclose(whole[:, :4], model.states(rows[:, :4]), atol=1e-5)
    assert not torch.allclose(whole[:, 4:], model.states(changed)[:, 4:], atol=1e-2)


def test_fdsa_finds_by_features_what_ids_cannot_tell(own):
    """The rule holds between kinds of items, and what is asked about was never bought with these neighbours.

    The next item is that of the next kind with the number of the last one: half of the items open no training history,
    so nothing but their features says of which kind they are.
    """
    generator = np.random.default_rng(0)
    kinds, numbers = np.arange(NUM_ITEMS) % 6, np.arange(NUM_ITEMS) // 6
    features = np.eye(6, dtype=np.float32)[kinds] + generator.normal(0, 0.05, (NUM_ITEMS, 6)).astype(np.float32)
    first = generator.integers(0, NUM_ITEMS, 300)
    seen = first[numbers[first] < 3]
    training = [np.array([item, (kinds[item] + 1) % 6]) for item in seen]
    asked = [np.array([item]) for item in range(NUM_ITEMS) if numbers[item] == 3]
    targets = np.array([(kinds[history[0]] + 1) % 6 for history in asked])
    found = {}
    for name, given in (("sasrec", None), ("fdsa", features)):
        system = own.OwnSystem(training, NUM_ITEMS, SMALL, 0, given)
        for _ in range(40):
            system.epoch()
        found[name] = (system.rank(asked)[:, 0] == targets).mean()
    assert found["fdsa"] == 1.0 and found["sasrec"] < 0.7


class Scripted:
    """A system whose validation lists are right for as many users as its script says."""

    steps = 50  # of an epoch: an evaluation comes after two of them

    def __init__(self, purchases, script):
        self.purchases, self.script, self.done = purchases, script, 0

    def epoch(self):
        self.done += 1

    def rank(self, histories):
        users = len(histories)
        _, targets = self.purchases.asked("validation")
        right = int(self.script[self.done // 2 - 1] * users)
        first = np.where(np.arange(users) < right, targets[0], 0)
        return np.stack([first, np.ones_like(first)], axis=1)

    def state(self):
        return self.done

    def restore(self, state):
        self.done = state


def scripted_purchases(budget):
    histories = [np.array([2, 3, 5, 4])] * 40
    return budget.Purchases([f"i{row}" for row in range(9)], [str(user) for user in range(40)], histories, [])


def test_training_ends_five_evaluations_after_the_best_and_keeps_its_weights(budget):
    purchases = scripted_purchases(budget)
    script = [0.25, 0.5, 0.4, 0.5, 0.5, 0.1, 0.3, 0.9]
    trained = budget.train(lambda configuration, seed: Scripted(purchases, script), purchases, {}, 0, minutes=60)
    assert trained.stopped_early and trained.curve == pytest.approx(script[:7], abs=0.05)
    assert trained.best == max(trained.curve) == trained.curve[1]
    assert (trained.test[:20, 0] == 5).all() and (trained.test[20:, 0] == 0).all()  # the weights of evaluation 2


def test_a_training_without_time_is_not_converged(budget):
    purchases = scripted_purchases(budget)
    trained = budget.train(lambda configuration, seed: Scripted(purchases, [0.1, 0.2]), purchases, {}, 0, minutes=0)
    assert not trained.stopped_early and len(trained.curve) == 1


def test_a_row_takes_the_best_configuration_with_all_its_seeds(budget, tmp_path, capsys):
    purchases, made = scripted_purchases(budget), []

    def make(configuration, seed):
        made.append((configuration["height"], seed))
        return Scripted(purchases, [configuration["height"]] * 9)

    tried = [{"height": 0.2}, {"height": 0.8}, {"height": 0.4}]
    kept = budget.fill_row("x", make, purchases, tried, minutes=60, seeds=2, output=tmp_path)
    assert made == [(0.2, 0), (0.8, 0), (0.4, 0), (0.8, 1)]
    assert [(one.configuration["height"], one.seed) for one in kept] == [(0.8, 0), (0.8, 1)]
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "x.seed-0.jsonl", "x.seed-1.jsonl"}
    told = json.loads((tmp_path / "x.json").read_text())
    assert [one["converged"] for one in told["tried"]] == [True] * 3 and len(told["kept"]) == 2
    assert "NOT CONVERGED" not in capsys.readouterr().out
