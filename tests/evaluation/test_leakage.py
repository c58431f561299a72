"""What a model has learned of a test, against bags of purchases in place of fingerprints."""

from collections import Counter

import numpy as np
import pytest

from macrec_hf.data.fingerprints import history_fingerprints, item_hashes
from macrec_hf.evaluation.leakage import Leakage, leakage


def bag(rows):
    """A history as what was bought, without its order."""
    return tuple(sorted(int(row) for row in rows))


def by_hand(learned, known, tested):
    """[`leakage`] without its numbers by chance."""
    begun = Counter(bag(rows[: end + 1]) for rows in known for end in range(len(rows)))
    missing = Counter(map(bag, learned)) - begun
    there = Counter(map(bag, learned)) - missing
    knows = set()
    for before, later in tested:
        knows |= {bag([*before, *later[: end + 1]]) for end in range(len(later))}
        if len(later) == 1:
            knows |= {bag([*np.delete(before, place), *later]) for place in range(len(before))} - {bag(before)}
    knows = {rows for rows in knows if len(rows) > 1}
    num_tested = sum(count for rows, count in missing.items() if rows in knows)
    alike = sum(count for rows, count in there.items() if rows in knows)
    taught = set(map(bag, learned))
    strangers = sum(not any(bag(rows[: end + 1]) in taught for end in range(len(rows))) for rows in known)
    num_elsewhere, by_chance = sum(missing.values()) - num_tested, alike / len(learned) * sum(missing.values())
    return len(learned), num_tested, num_elsewhere, strangers, by_chance


@pytest.mark.parametrize("one_later", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_bags_say(seed, one_later):
    random, items = np.random.default_rng(seed), 6

    def histories(count, longest):
        return [random.integers(items, size=random.integers(1, longest)) for _ in range(count)]

    whole = histories(12, 5)
    cuts = [len(rows) - 1 if one_later else random.integers(len(rows) + 1) for rows in whole]
    known = [rows[:cut] for rows, cut in zip(whole, cuts, strict=True)]
    tested = [(rows[:cut], rows[cut:]) for rows, cut in zip(whole, cuts, strict=True) if cut < len(rows)]
    learned = [random.permutation(rows)[: random.integers(1, len(rows) + 1)] for rows in whole] + histories(3, 4)
    hashes = item_hashes([f"i{item}" for item in range(items)])
    found = leakage(history_fingerprints(learned, hashes), known, tested, hashes)
    expected = by_hand(learned, known, tested)
    assert (found.num_learned, found.num_tested, found.num_elsewhere, found.num_strangers) == expected[:4]
    assert found.num_by_chance == pytest.approx(expected[4])


def test_nothing_is_found_of_nothing():
    hashes = item_hashes(["a", "b"])
    learned = history_fingerprints([np.array([0, 1])], hashes)
    assert leakage(learned, [], [], hashes) == Leakage(1, 0, 1, 0, 0.0)
    assert leakage(learned[:0], [np.array([0])], [(np.array([0]), np.array([1]))], hashes) == Leakage(0, 0, 0, 1, 0.0)


@pytest.mark.parametrize(
    ("tested", "chance", "is_real"), [(1, 0.0, True), (0, 0.0, False), (7, 4.0, False), (11, 4.0, True)]
)
def test_it_is_real_where_chance_does_not_make_as_many(tested, chance, is_real):
    assert Leakage(100, tested, 0, 0, chance).is_real is is_real


def test_rows_of_one_day_in_another_order_are_found():
    """Customers with long histories, of whom the last two purchases change places."""
    random = np.random.default_rng(0)
    histories = [random.integers(200, size=8) for _ in range(50)]
    hashes = item_hashes([f"i{item}" for item in range(200)])
    learned = history_fingerprints([rows[:-1] for rows in histories], hashes)
    exchanged = [
        np.array([*rows[:-2], rows[-1], rows[-2]]) if user < 9 else rows for user, rows in enumerate(histories)
    ]
    for rows_of, num_tested in ((histories, 0), (exchanged, 9)):
        tested = [(rows[:-1], rows[-1:]) for rows in rows_of]
        found = leakage(learned, [rows[:-1] for rows in rows_of], tested, hashes)
        assert (found.num_tested, found.num_elsewhere, found.is_real) == (num_tested, 0, num_tested > 0)
