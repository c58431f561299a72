"""Six configurations of a system, equal CPU minutes for each, the best chosen on validation, three seeds of it."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from purchases import Purchases, hit_rate, ndcg, without_own, write_lists

PATIENCE = 5  # evaluations without a better NDCG@10 until a training is over
STEPS = 100  # between two evaluations, at least: a small shop's pass is over before the weights have moved
QUOTES_SHOWN = 0.01  # repeat rate from which on own items may count, as for `macrec evaluate`


@dataclass
class Trained:
    """One training that stopped.

    Attributes:
        configuration: what was tried.
        seed: of weights and order.
        best: NDCG@10 of the users that choose, at the best evaluation.
        curve: that of every evaluation, in order.
        minutes: CPU minutes of this process.
        stopped_early: whether validation had stopped rising; False: the minutes were over before ("not converged").
        test: lists `(users, places)` of the test split, by the best weights.
    """

    configuration: dict[str, Any]
    seed: int
    best: float
    curve: list[float]
    minutes: float
    stopped_early: bool
    test: np.ndarray = field(repr=False)

    def told(self) -> dict[str, Any]:
        """All but the lists, for the record."""
        kept = ("configuration", "seed", "best", "curve", "minutes")
        return {name: getattr(self, name) for name in kept} | {"converged": self.stopped_early}


class System(Protocol):
    """What a program has to offer: made of a configuration and a seed, it trains and answers.

    Attributes:
        steps: of one pass.
    """

    steps: int

    def epoch(self) -> None:
        """One pass over what may be learned."""

    def rank(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Lists of rows, int `(users, PLACES)`, best first, -1 where there are fewer."""

    def state(self) -> Any:
        """The weights, copied."""

    def restore(self, state: Any) -> None:
        """Takes such weights back."""


Maker = Callable[[dict[str, Any], int], System]


def train(make: Maker, purchases: Purchases, configuration: dict, seed: int, minutes: float) -> Trained:
    """Trains until validation has not risen for five evaluations, or the CPU minutes are over.

    The column that chooses is the one that `macrec evaluate` quotes: without the user's own items where fewer than
    one in a hundred buys again.
    """
    histories, targets = purchases.asked("validation")
    chosen = purchases.choosing()
    histories, targets = [histories[user] for user in chosen], targets[chosen]
    hide = purchases.repeat_rate() < QUOTES_SHOWN
    start, curve, best, early = time.process_time(), [], None, False
    system = make(configuration, seed)
    while not early and (not curve or time.process_time() - start < 60 * minutes):
        for _ in range(math.ceil(STEPS / system.steps)):
            system.epoch()
        lists = system.rank(histories)
        curve.append(ndcg(without_own(lists, histories) if hide else lists, targets))
        if curve[-1] == max(curve) and curve.count(curve[-1]) == 1:
            best = system.state()
        early = len(curve) - 1 - curve.index(max(curve)) >= PATIENCE
    used = (time.process_time() - start) / 60
    system.restore(best)
    return Trained(configuration, seed, max(curve), curve, used, early, system.rank(purchases.asked("test")[0]))


def fill_row(
    name: str, make: Maker, purchases: Purchases, configurations: Sequence[dict], minutes: float, seeds: int,
    output: Path,
) -> list[Trained]:  # fmt: skip
    """A row of the table: chooses among the configurations, trains further seeds of the best, writes the lists.

    Args:
        minutes: CPU minutes of a training, at most.
        output: a folder; `NAME.seed-S.jsonl` are the lists, `NAME.json` the record.
    """
    output.mkdir(parents=True, exist_ok=True)
    tried = []
    for configuration in configurations:
        tried.append(train(make, purchases, configuration, 0, minutes))
        show(name, tried[-1])
    best = max(tried, key=lambda trained: trained.best)
    kept = [best, *(train(make, purchases, best.configuration, seed, minutes) for seed in range(1, seeds))]
    _, targets = purchases.asked("test")
    for trained in kept:
        show(f"{name}, seed {trained.seed}", trained)
        write_lists(output / f"{name}.seed-{trained.seed}.jsonl", purchases, list(trained.test))
        print(f"  test, own history shown: HR@10 {hit_rate(trained.test, targets):.4f}, NDCG@10 "
              f"{ndcg(trained.test, targets):.4f}")  # fmt: skip
    told = {"tried": [one.told() for one in tried], "kept": [one.told() for one in kept], "minutes": minutes}
    (output / f"{name}.json").write_text(json.dumps(told, indent=2))
    return kept


def show(name: str, trained: Trained) -> None:
    settings = ", ".join(f"{key} {value}" for key, value in trained.configuration.items())
    end = "" if trained.stopped_early else ", NOT CONVERGED: validation had not stopped rising"
    print(f"{name}: {settings}: validation NDCG@10 {trained.best:.4f} at evaluation "
          f"{trained.curve.index(max(trained.curve)) + 1} of {len(trained.curve)}, {trained.minutes:.1f} CPU minutes"
          f"{end}", flush=True)  # fmt: skip
