"""`RecommendationTasksBuilder(until=...)`: rows by brute force, no later purchase among them, a cache of its own."""

import numpy as np
import pytest
import torch

from macrec_hf import RecommendationTasksBuilder, SemanticIdTable
from macrec_hf.data.readers import read_interactions
from macrec_hf.data.time_split import histories_until
from macrec_hf.model.tokenization_macrec import task_names

NUM_ITEMS, UNTIL = 16, "2020-02-15"


def make_table():
    codes = torch.cartesian_prod(*[torch.arange(3)] * 3)[:NUM_ITEMS]
    return SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], {"text": codes, "image": codes.flip(0)}, 3)


def write(path, change_later=False):
    """Purchases of January to March in no order; items from i12 on come in March, w buys in March only."""
    random, lines = np.random.default_rng(4), ["user_id,item_id,timestamp"]
    for _ in range(90):
        user, month, day = random.integers(10), random.integers(1, 4), random.integers(1, 29)
        item = random.integers(NUM_ITEMS if month == 3 else 12)
        if change_later and f"2020-{month:02}-{day:02}" >= UNTIL:
            user, item = user + 10, (item + 5) % NUM_ITEMS
        lines.append(f"u{user},i{item},2020-{month:02}-{day:02}")
    path.write_text("\n".join([*lines, "w,i13,2020-03-28", "w,i14,2020-03-28", "once,i2,2020-01-02"]))
    return path


def built(path, cache, **more):
    builder = RecommendationTasksBuilder(path, make_table(), cache_dir=cache, until=UNTIL, **more)
    builder.download_and_prepare()
    return builder.as_dataset()


def rows_of(lines):
    """`{user: rows by time}`."""
    found = {}
    for user, item, _ in sorted((line.split(",") for line in lines), key=lambda row: row[2]):
        found.setdefault(user, []).append(int(item[1:]))
    return found


def test_rows_are_those_of_brute_force(tmp_path):
    path = write(tmp_path / "interactions.csv")
    tasks, names = built(path, tmp_path / "cache"), task_names(["text", "image"])
    row_of = make_table().row_of
    start = histories_until(read_interactions(path), row_of, UNTIL).validates_from
    lines = path.read_text().splitlines()[1:]
    before = rows_of([line for line in lines if line.split(",")[2] < start])
    between = rows_of([line for line in lines if start <= line.split(",")[2] < UNTIL])
    assert set(tasks) == {"train", "validation"}
    train = tasks["train"].to_pandas()
    sold = sorted({row for rows in before.values() for row in rows})
    assert len(sold) < NUM_ITEMS
    for place, name in enumerate(names):
        items = sorted(train["item"][train["task"] == place])
        is_item_task = name.startswith("item") or (train["user"][train["task"] == place] < 0).all()
        assert items == (sold if is_item_task else sorted(row for rows in before.values() for row in rows[1:]))
    validation = tasks["validation"].to_pandas()
    for place in (names.index("text_to_text"), names.index("image_to_image")):
        some = validation[validation["task"] == place].copy()
        assert (some["history"].map(len) > 0).tolist() == (some["user"] != some["user"].shift()).tolist()
        some["history"] = some.groupby("user")["history"].transform(lambda read: [read.iloc[0]] * len(read))
        found = sorted((history.tolist(), item) for history, item in zip(some["history"], some["item"], strict=True))
        assert found == sorted((before[user], row) for user, rows in between.items() if user in before for row in rows)
        assert some.groupby("user")["history"].agg(lambda read: len(set(map(tuple, read)))).eq(1).all()
        assert some["user"].nunique() == len(before.keys() & between.keys()) < len(some)


def test_later_purchases_change_no_row(tmp_path):
    one, other = (built(write(tmp_path / f"{change}.csv", change), tmp_path / "cache") for change in (False, True))
    assert (tmp_path / "True.csv").read_text() != (tmp_path / "False.csv").read_text()
    for split in ("train", "validation"):
        assert one[split].to_dict() == other[split].to_dict() and len(one[split]) > 10


def test_the_date_is_part_of_the_cache_key(tmp_path):
    path = write(tmp_path / "interactions.csv")
    lengths = {len(built(path, tmp_path / "cache")["train"])}
    for until in ("2020-02-01", None):
        builder = RecommendationTasksBuilder(path, make_table(), cache_dir=tmp_path / "cache", until=until)
        builder.download_and_prepare()
        lengths.add(len(builder.as_dataset()["train"]))
    assert len(lengths) == 3


def test_in_shards_the_targets_stay_with_their_users(tmp_path, monkeypatch):
    whole = built(write(tmp_path / "interactions.csv"), tmp_path / "a")["validation"].to_pandas()
    monkeypatch.setattr("macrec_hf.data.dataset_builders.EXAMPLES_AT_A_TIME", 2)
    parts = built(tmp_path / "interactions.csv", tmp_path / "b")["validation"].to_pandas()
    columns = ["user", "task", "item", "length"]
    assert whole.sort_values(columns)[columns].values.tolist() == parts.sort_values(columns)[columns].values.tolist()


def test_histories_of_one_purchase_each_are_refused(tmp_path):
    lines = ["a,i1,2020-01-01", "b,i2,2020-01-01", "c,i2,2020-01-01", "a,i3,2020-02-01", "b,i3,2020-03-01"]
    (tmp_path / "few.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    with pytest.raises(
        ValueError, match="expected a user with 2 interactions before validation .* longest history has 1"
    ):
        built(tmp_path / "few.csv", tmp_path / "cache", tasks=["text_to_text"])
    assert len(built(tmp_path / "few.csv", tmp_path / "cache")["train"]) == 4  # two item tasks of two items
