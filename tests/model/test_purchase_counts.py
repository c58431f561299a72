"""What a history's neighbours say, against sums over dense matrices."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from macrec_hf.data.item_regression import with_item_regression
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.purchase_counts import COUNTS_NAME, UNIT, WEIGHT_UNIT, NeighbourScores, PurchaseCounts

NUM_ITEMS = 12


@pytest.fixture
def shop():
    generator = np.random.default_rng(5)
    purchases = [generator.integers(0, NUM_ITEMS - 1, size=size) for size in generator.integers(2, 12, size=30)]
    histories = [generator.integers(0, NUM_ITEMS, size=size) for size in (0, 1, 3, 25)]  # item 11 was never bought
    return with_item_regression(count_purchases(purchases, NUM_ITEMS)), histories


def dense(counts, values):
    matrix = np.zeros((NUM_ITEMS, NUM_ITEMS))
    matrix[np.repeat(np.arange(NUM_ITEMS), np.diff(counts.starts)), counts.others] = values
    return matrix


def test_votes_are_sums_over_the_last_twenty_items(shop):
    counts, histories = shop
    found = counts.neighbours(histories)
    norm = 1 / np.sqrt(counts.popularity + 1)
    matrices = {
        "before": dense(counts, counts.before) / UNIT,
        "after": dense(counts, counts.after) / UNIT,
        "near": dense(counts, counts.before + counts.after) / UNIT,
        "next": dense(counts, counts.next),
        "together": dense(counts, counts.together),
        "cosine": norm[:, None] * dense(counts, counts.together) * norm,
        "regression": dense(counts, counts.regression) / WEIGHT_UNIT,
    }
    items = np.arange(NUM_ITEMS)
    for user, history in enumerate(histories):
        recent = history[::-1][:20]
        values = found.of(np.full(NUM_ITEMS, user), items)
        for name, matrix in matrices.items():
            wanted = sum((matrix[item] / place for place, item in enumerate(recent, 1)), start=np.zeros(NUM_ITEMS))
            assert np.allclose(values[name], wanted, atol=1e-8), name
        last = matrices["next"][recent[0]] if len(recent) else np.zeros(NUM_ITEMS)
        assert np.array_equal(values["last_next"], last)


def test_the_best_are_those_of_a_sorted_row(shop):
    counts, histories = shop
    found = counts.neighbours(histories)
    place = np.random.default_rng(0).permutation(NUM_ITEMS)
    for order in (None, place):
        best = found.best("together", len(histories), 5, order)
        for user in range(len(histories)):
            values = found.of(np.full(NUM_ITEMS, user), np.arange(NUM_ITEMS))["together"]
            ties = np.arange(NUM_ITEMS) if order is None else order
            wanted = [item for item in np.lexsort((ties, -values)) if values[item] > 0][:5]
            assert best[user].tolist() == wanted + [-1] * (5 - len(wanted))


def test_an_empty_place_knows_nobody(shop):
    counts, histories = shop
    values = counts.neighbours(histories).of(np.full((1, 2), 3), np.array([[-1, -1]]))
    assert all((value == 0).all() for value in values.values())


def test_a_file_of_another_release_is_refused(shop, tmp_path):
    save_file({"popularity": np.zeros(3, dtype=np.int64)}, tmp_path / "purchase_counts.safetensors")
    with pytest.raises(ValueError, match="expected purchase counts of this release.*macrec refresh"):
        PurchaseCounts.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["popularity"].__setitem__(0, -1), "numbers from 0 to .* in popularity, got -1"),
        (lambda a: a["together"].__setitem__(0, 10**18), "numbers from 0 to .* in together"),
        (lambda a: a.update(before=a["before"].astype("f8")), "before as int64 in one row, got float64"),
        (lambda a: a.update(before=np.full(len(a["before"]), np.nan)), "before as int64 in one row, got float64"),
        (lambda a: a.update(next=a["next"][:-1]), "starts of .* places that rise from 0 to the length of others"),
        (lambda a: a.update(starts=a["starts"][::-1].copy()), "starts of .* places that rise"),
        (lambda a: a.update(starts=a["starts"][:-1]), "starts of .* places that rise"),
        (lambda a: a["others"].__setitem__(slice(0, 2), a["others"][1::-1].copy()), "others that rise for each"),
        (lambda a: a["others"].__setitem__(-1, 10_000), "rows below .* in others, got 10,000"),
        (lambda a: a.pop("sale_days"), "all of sale_starts, sale_days, sale_counts or none"),
        (lambda a: a["sale_counts"].__setitem__(0, 77), "as many purchases of each item in popularity"),
        (lambda a: a.update(customers=a["customers"][None]), r"customers as int64 in one row, got .* \(1,"),
        (lambda a: a.update(extra=np.zeros(2)), "no tensor 'extra'"),
        (lambda a: a.update(regression=a["next"][:-1]), "starts of .* length of .*regression"),
        (lambda a: a.update(regression=a["next"] - 1), "numbers from 0 to .* in regression"),
        (lambda a: a.pop("others"), "found no .*others"),
    ],
)  # fmt: skip
def test_sums_that_no_purchases_add_up_to_are_refused(tmp_path, change, message):
    random = np.random.default_rng(2)
    bought = [random.integers(0, 8, size=6) for _ in range(20)]
    days = [np.sort(random.integers(19_000, 19_100, size=6)) for _ in bought]
    count_purchases(bought, 8, window=3, days=days).save(tmp_path)
    path = tmp_path / COUNTS_NAME
    with safe_open(path, "np") as file:
        about = file.metadata()
    arrays = {name: array.copy() for name, array in load_file(path).items()}
    change(arrays)
    save_file(arrays, path, metadata=about)
    with pytest.raises(ValueError, match=f"{COUNTS_NAME}: expected .*{message}.*`macrec refresh` makes them anew"):
        PurchaseCounts.load(tmp_path)


@pytest.mark.parametrize("about", ['{"unit": 2520}', '{"unit": 2520, "window": 0}', '{"unit": 2520, "window": true}',
                                   "[]", "x", '{"unit": 2520, "window": 11}'])  # fmt: skip
def test_counts_say_their_window(tmp_path, about):
    count_purchases([np.arange(4)], 4, window=3).save(tmp_path)
    arrays = load_file(tmp_path / COUNTS_NAME)
    save_file(arrays, tmp_path / COUNTS_NAME, metadata={"about": about})
    with pytest.raises(ValueError, match=f"{COUNTS_NAME}: expected"):
        PurchaseCounts.load(tmp_path)


def test_a_file_that_is_gone_or_cut_off(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none. Was the directory copied in part"):
        PurchaseCounts.load(tmp_path)
    (tmp_path / COUNTS_NAME).write_bytes(b"\x09\x00")
    with pytest.raises(ValueError, match="they cannot be read: .* Was the file cut off"):
        PurchaseCounts.load(tmp_path)


@pytest.mark.parametrize("width", [0, 1, 4, 50])
@pytest.mark.parametrize("longest", [0, 3, 12, 400])  # of 400 among short ones the table would be mostly empty
def test_the_best_are_those_of_a_sort_of_all(longest, width):
    random = np.random.default_rng(longest)
    lengths = [*random.integers(0, 7, size=19), longest, 0]
    rows = [np.sort(random.permutation(400)[:length]) for length in lengths]
    keys = np.concatenate([user * 400 + items for user, items in enumerate(rows)]).astype(np.int64)
    values = random.integers(0, 4, size=len(keys)) / 2  # many equal ones, and zeros
    place = random.permutation(400)
    found = NeighbourScores(400, keys, {"near": values}).best("near", len(rows), width, place)
    assert found.shape == (len(rows), width)
    for user, items in enumerate(rows):
        own = values[keys // 400 == user]
        wanted = sorted(items[own > 0], key=lambda item: (-own[items == item][0], place[item]))[:width]  # noqa: B023
        assert found[user].tolist() == wanted + [-1] * (width - len(wanted))
