"""What a model has learned of a test, against bags of purchases in place of fingerprints."""

from collections import Counter
from math import sqrt

import numpy as np
import pytest

from macrec_hf.data.fingerprints import history_fingerprints, item_hashes
from macrec_hf.evaluation.leakage import Leakage, leakage, learned_with

ITEMS = 200
HASHES = item_hashes([f"i{item}" for item in range(ITEMS)])


def bag(rows):
    """A history as what was bought, without its order."""
    return tuple(sorted(int(row) for row in rows))


def by_hand(learned, known, tested):
    """The fields of [`Leakage`]."""
    taught = Counter(map(bag, learned))
    begun = Counter(bag(rows[: end + 1]) for rows in known for end in range(len(rows)))
    missing = taught - begun

    def is_stranger(rows):
        longest = max([0, *(end + 1 for end in range(len(rows)) if bag(rows[: end + 1]) in taught)])
        return 2 * longest < len(rows) or longest < min(len(rows), 2) or not len(rows)

    def has_another(rows):
        ends = [end for end in range(1, len(rows) + 1) if taught[bag(rows[:end])]]
        left = taught - Counter([bag(rows[: ends[-1]])] if ends else [])
        return any(2 * end >= len(rows) and end >= min(len(rows), 2) and left[bag(rows[:end])] for end in ends)

    def with_later(before, later):
        found = {bag([*before, *later[: end + 1]]) for end in range(len(later))}
        if len(later) == 1 and len(before) > 1:
            found |= {bag([*np.delete(before, place), *later]) for place in range(len(before))} - {bag(before)}
        return {rows for rows in found if len(rows) > 2}

    strangers = [parts for parts in tested if is_stranger(parts[0])]
    same = [parts for parts in tested if not is_stranger(parts[0])]

    def is_missing(before, later):
        return any(rows in missing and taught[rows] == 1 for rows in with_later(before, later))

    chance = min(
        0.5, (sum(any(rows in taught for rows in with_later(*parts)) for parts in same) + 1) / (len(same) + 2)
    )
    random, hits, num_missing = np.random.default_rng(0), 0, sum(missing.values())
    for _ in range(5 * bool(missing)):
        others = random.integers(0, len(tested), len(strangers))
        hits += sum(is_missing(before, tested[other][1]) for (before, _), other in zip(strangers, others, strict=True))
    chance = max(chance, hits / max(1, 5 * len(strangers)))
    longer = [before for before, _ in tested if len(before) > 1]
    alike = sum(has_another(rows) for rows in longer)
    without = max(sum(map(is_stranger, known)), len(known) - (len(learned) - num_missing))
    return Leakage(
        len(learned),
        num_missing,
        without + sum(not len(before) for before, _ in tested),
        min(sum(is_missing(*parts) for parts in strangers), num_missing),
        pytest.approx(len(strangers) * chance + 3 * sqrt(len(strangers) * chance * (1 - chance))),
        pytest.approx(alike / len(longer) if longer else float(any(len(before) for before, _ in tested))),
    )


@pytest.mark.parametrize("one_later", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_bags_say(seed, one_later):
    random, items = np.random.default_rng(seed), 6

    def histories(count, longest):
        return [random.integers(items, size=random.integers(1, longest)) for _ in range(count)]

    whole = histories(12, 6)
    cuts = [len(rows) - 1 if one_later else random.integers(len(rows) + 1) for rows in whole]
    parts = [(rows[:cut], rows[cut:]) for rows, cut in zip(whole, cuts, strict=True)]
    known, tested = [before for before, _ in parts if len(before)], [both for both in parts if len(both[1])]
    learned = [random.permutation(rows)[: random.integers(1, len(rows) + 1)] for rows in whole] + histories(3, 4)
    found = leakage(history_fingerprints(learned, HASHES), known, tested, HASHES)
    assert found == by_hand(learned, known, tested)


def test_customers_left_out_of_a_shop_of_short_histories_raise_no_doubt():
    """A thousand customers, 200 items, three to five purchases of no order; then fifty customers fewer."""
    random = np.random.default_rng(0)
    everybody = [random.integers(ITEMS, size=random.integers(3, 6)) for _ in range(1000)]
    learned = history_fingerprints([rows[:-1] for rows in everybody], HASHES)
    found = looked_at(learned, everybody[50:])
    assert found.num_missing > 40 and found.share_alike < 0.1 and not found.is_possible


def test_a_bundle_that_many_buy_accuses_nobody():
    """Ten who bought a telephone, case, charger and one thing more leave; ten come who buy the three."""
    random = np.random.default_rng(0)
    loyal = [random.integers(60, 160, size=9) for _ in range(300)]
    gone = [np.array([0, 1, 2, random.integers(60, 160)]) for _ in range(10)]
    learned = history_fingerprints([rows[:-1] for rows in [*loyal, *gone]], HASHES)
    found = looked_at(learned, [*loyal, *[np.array([0, 1, 2])] * 10])
    assert found.num_missing == 10 and not found.num_tested and found.is_possible


def test_where_items_prescribe_an_order_it_cannot_be_told_who_was_left_out():
    """Ten sagas, read from the first volume on: half of the readers are dropped, the others lose their last."""
    random = np.random.default_rng(0)
    readers = [saga * 10 + np.arange(random.integers(3, 11)) for saga in range(10) for _ in range(40)]
    learned = history_fingerprints([rows[:-1] for rows in readers], HASHES)
    left = [rows[:-1] if len(rows) > 3 else rows for rows in readers[::2]]
    found = looked_at(learned, left)
    assert found.num_missing and not found.num_strangers and found.share_alike > 0.8 and found.is_possible


def test_two_that_are_bought_together_accuse_nobody():
    """Customers who bought a telephone and its case are deleted; new ones buy a book between, or just these two."""
    random = np.random.default_rng(0)
    loyal = [random.integers(60, 160, size=9) for _ in range(200)]
    learned = history_fingerprints(
        [*(rows[:-1] for rows in loyal), *[np.array([k, k + 20]) for k in range(20)] * 3], HASHES
    )
    books = [np.array([k, 40 + random.integers(20), k + 20]) for k in range(20)] * 2
    assert not looked_at(learned, [*loyal, *books]).num_tested
    pairs = [(np.array([k]), np.array([k + 20])) for k in range(20)] * 2
    known = [rows[:-1] for rows in loyal]
    found = leakage(learned, [*known, *(before for before, _ in pairs)], [*parted(loyal), *pairs], HASHES)
    assert not found.num_tested and found.is_possible


def test_nothing_is_found_of_nothing():
    learned = history_fingerprints([np.array([0, 1])], HASHES)
    assert leakage(learned, [], [], HASHES) == Leakage(1, 1, 0, 0, 0.0, 0.0)
    assert leakage(learned[:0], [np.array([0])], [], HASHES) == Leakage(0, 0, 1, 0, 0.0, 0.0)


def shop(count=50):
    """Histories of eight purchases."""
    random = np.random.default_rng(0)
    return [random.integers(ITEMS, size=8) for _ in range(count)]


def parted(histories):
    return [(rows[:-1], rows[-1:]) for rows in histories]


def looked_at(learned, histories):
    parts = parted(histories)
    return leakage(learned, [before for before, _ in parts], parts, HASHES)


LEARNED = history_fingerprints([rows[:-1] for rows in shop()], HASHES)
CASES = {
    "the same": (lambda rows, user: rows, "no"),
    "one more": (lambda rows, user: [*rows, 3], "no"),
    "others left out": (lambda rows, user: rows if user < 9 else None, "no"),
    "last two exchanged": (lambda rows, user: rows[[*range(6), 7, 6]] if user < 9 else rows, "real"),
    "one less": (lambda rows, user: rows[:-1], "real"),
    "one less for two": (lambda rows, user: rows[:-1] if user < 2 else rows, "real"),
    "two less": (lambda rows, user: rows[:-2] if user < 9 else rows, "possible"),
    "without the first": (lambda rows, user: rows[1:] if user < 9 else rows, "possible"),
}


@pytest.mark.parametrize("name", CASES)
def test_files_that_differ_from_the_training(name):
    change, expected = CASES[name]
    changed = [change(rows, user) for user, rows in enumerate(shop())]
    found = looked_at(LEARNED, [np.array(rows) for rows in changed if rows is not None])
    assert ("real" if found.is_real else "possible" if found.is_possible else "no") == expected


def test_those_who_bought_once_hide_nobody():
    """A customer of each item who bought nothing else; of the others the last purchase is gone."""
    once, histories = [np.array([item]) for item in range(ITEMS)], [rows[:4] for rows in shop()]
    learned = history_fingerprints([*once, *(rows[:-1] for rows in histories)], HASHES)
    parts = [(rows[:2], rows[2:3]) for rows in histories]
    found = leakage(learned, [*once, *(before for before, _ in parts)], parts, HASHES)
    assert found.num_strangers == found.num_tested == 50 and found.is_real


def test_other_customers_are_not_called_learned():
    """Customers of a shop of few items, alike by chance, are kept apart for a test."""
    random = np.random.default_rng(1)
    everybody = [random.integers(4, size=random.integers(3, 5)) for _ in range(200)]
    learned = history_fingerprints([rows[:-1] for rows in everybody[:180]], HASHES)
    found = looked_at(learned, everybody[180:])
    assert not found.is_real and found.most_by_chance >= found.num_tested


def test_no_more_customers_are_known_than_histories_were_found():
    """Everybody begins alike, and one customer bought no more than that; the others have lost their last purchase."""
    begun, random = [0, 1], np.random.default_rng(0)
    everybody = [np.array([*begun, *random.integers(ITEMS, size=user % 4 + 2)]) for user in range(60)]
    learned = history_fingerprints([np.array(begun), *(rows[:-1] for rows in everybody)], HASHES)
    parts = [(rows[:-2], rows[-2:-1]) for rows in everybody]
    found = leakage(learned, [np.array(begun), *(before for before, _ in parts)], parts, HASHES)
    assert found.num_missing and found.num_strangers >= found.num_missing and found.is_possible


def test_one_history_that_is_missing_does_not_accuse_a_hundred_new_customers():
    """Of fifty who bought the same two items one is gone, and the new ones bought these two last."""
    random = np.random.default_rng(0)
    loyal = [random.integers(2, ITEMS, size=9) for _ in range(40)]
    learned = history_fingerprints([*(rows[:-1] for rows in loyal), *[np.array([0, 1])] * 50], HASHES)
    parts = [(rows[:-1], rows[-1:]) for rows in loyal]
    parts += [(np.array([user + 2, 0]), np.array([1])) for user in range(100)]
    found = leakage(learned, [*(before for before, _ in parts), *[np.array([0, 1])] * 49], parts, HASHES)
    assert found.num_missing == 1 and found.num_tested <= 1 and found.is_possible and not found.is_real


def test_new_customers_who_buy_as_those_who_are_gone_are_not_called_learned():
    """By time: two-time buyers are deleted, and new customers buy the same two items after something else."""
    random = np.random.default_rng(0)
    loyal = [random.integers(2, ITEMS, size=9) for _ in range(40)]
    learned = history_fingerprints([*loyal, *[np.array([0, 1])] * 50], HASHES)
    parts = [(np.zeros(0, dtype=np.int64), np.array([0, 1, user + 2])) for user in range(100)]
    found = leakage(learned, loyal, parts, HASHES)
    assert found.num_missing == 50 and found.num_strangers == 100 and found.is_possible and not found.is_real


@pytest.mark.parametrize("num_items, expected", [(8, True), (200, False)])
def test_where_any_history_is_somebodys_nothing_is_told_of_those_left_out(num_items, expected):
    random = np.random.default_rng(0)
    everybody = [random.integers(num_items, size=random.integers(1, 4)) for _ in range(1000)]
    everybody += [np.array([random.integers(num_items)]) for _ in range(2000)]  # who bought once and test nothing
    learned = history_fingerprints(everybody, HASHES)
    found = leakage(learned, everybody[:600], [(rows, rows[:1]) for rows in everybody[:600]], HASHES)
    assert found.num_missing and not found.num_strangers and found.is_possible == expected


def test_where_only_first_purchases_are_known_it_cannot_be_told_who_was_left_out():
    """By time: customers of one purchase are dropped, as many others have their second one after the cut."""
    once, twice = [np.array([user % 5]) for user in range(50)], [np.array([user % 5, 9]) for user in range(20)]
    learned = history_fingerprints([*once, *twice], HASHES)
    late = [(rows[:1], rows[1:]) for rows in twice[:10]]
    found = leakage(learned, [*once[10:], *twice[10:], *(history for history, _ in late)], late, HASHES)
    assert found.num_missing == 10 and not found.num_strangers and found.is_possible


@pytest.mark.parametrize("more", [1, 2, 3])
def test_what_was_learned_later_takes_the_place_of_what_was_before(more):
    grown = [np.array([*rows, *range(more)]) for rows in shop()]
    parts = [(rows[:-1], rows[-1:]) for rows in grown]
    later = learned_with(LEARNED, [before for before, _ in parts], parts, HASHES)
    assert len(later) == len(LEARNED)
    found = looked_at(later, shop())
    assert found.is_real if more == 1 else found.is_possible
    assert not looked_at(later, grown).num_missing
    # Customers who are gone stay learned.
    fewer = learned_with(LEARNED, [before for before, _ in parts[:9]], parts[:9], HASHES)
    assert len(fewer) == len(LEARNED) and not set(fewer.tolist()).isdisjoint(LEARNED.tolist())


def test_what_was_learned_is_unknown_after_a_file_that_may_test_it():
    parts = [(rows[:-2], rows[-2:-1]) for rows in shop()]
    assert learned_with(LEARNED, [before for before, _ in parts], parts, HASHES) is None
    assert learned_with(None, [before for before, _ in parts], parts, HASHES) is None
