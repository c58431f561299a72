"""The datasets builders: their rows by hand, and every way in which the cache could give back something stale."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from macrec_hf import InteractionsBuilder, ItemsBuilder, RecommendationTasksBuilder, load_recommendation_tasks
from macrec_hf.data import dataset_builders, task_examples
from macrec_hf.data.data_collator import RecommendationCollator
from macrec_hf.model.semantic_ids import SemanticIdTable

# u has four interactions, v three, w two; item q has no image.
INTERACTIONS = [("u", "01", 1), ("v", "q", 1), ("u", "q", 2), ("w", "01", 1), ("v", "r", 2), ("u", "r", 3)]
INTERACTIONS += [("v", "01", 3), ("w", "q", 2), ("u", "01", 4)]
CODES = {"text": [[0, 1], [3, 2], [1, 1]], "image": [[2, 0], [-1, -1], [1, 3]]}


def write_interactions(path: Path, rows=INTERACTIONS) -> Path:
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    return path


def write_items(folder: Path, titles=("Blue vase", "Red vase", "Bowl")) -> Path:
    Image.new("RGB", (4, 3), (10, 20, 30)).save(folder / "01.png")
    rows = [{"item_id": item, "title": title} for item, title in zip(["01", "q", "r"], titles, strict=True)]
    rows[0]["image"] = "01.png"
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "items.jsonl"


def make_table(codes=CODES) -> SemanticIdTable:
    return SemanticIdTable(["01", "q", "r"], codes, codebook_size=4)


@pytest.fixture
def shop(tmp_path):
    """`interactions.csv`, `items.jsonl` and `ids/` in a folder, and a cache beside them."""
    write_interactions(tmp_path / "interactions.csv")
    write_items(tmp_path)
    make_table().save_pretrained(tmp_path / "ids")
    return tmp_path


def prepared(builder, **kwargs) -> datasets.DatasetDict:
    builder.download_and_prepare(**kwargs)
    return builder.as_dataset()


def tasks_of(shop, **kwargs) -> RecommendationTasksBuilder:
    return RecommendationTasksBuilder(shop / "interactions.csv", shop / "ids", cache_dir=shop / "cache", **kwargs)


def test_items(shop):
    rows = prepared(ItemsBuilder(shop / "items.jsonl", cache_dir=shop / "cache"))["train"]
    assert rows["item_id"][:] == ["01", "q", "r"] and rows["title"][:] == ["Blue vase", "Red vase", "Bowl"]
    assert rows["text"][:] == ["", "", ""]
    assert rows[0]["image"].size == (4, 3) and rows[0]["image"].getpixel((0, 0)) == (10, 20, 30)
    assert rows[1]["image"] is None
    paths = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert paths["path"] == str(shop / "01.png")


def test_leave_one_out_splits(shop, caplog):
    """u: 01 q r 01, v: q r 01, w: 01 q. One of u's two training items is a target, v has only one; w only trains."""
    splits = prepared(InteractionsBuilder(shop / "interactions.csv", cache_dir=shop / "cache"))
    assert {name: list(rows) for name, rows in splits.items()} == {
        "train": [
            {"user_id": "u", "history": ["01"], "target": "q"},
            {"user_id": "w", "history": ["01"], "target": "q"},
        ],
        "validation": [
            {"user_id": "u", "history": ["01", "q"], "target": "r"},
            {"user_id": "v", "history": ["q"], "target": "r"},
        ],
        "test": [
            {"user_id": "u", "history": ["01", "q", "r"], "target": "01"},
            {"user_id": "v", "history": ["q", "r"], "target": "01"},
        ],
    }
    assert "1 of 3 users have fewer than 3 interactions" in caplog.text


def test_the_tasks_by_hand(shop):
    """Ids: tasks' tokens 3-6, text from 7 and 11, image from 15 and 19. u and w train on 01 → q; q has no image."""
    splits = prepared(tasks_of(shop))
    assert [tuple(row.values()) for row in splits["train"]] == [
        ([7, 12, 1], [10, 13], 3, 0, 0, 1, []),  # text of 01 → text of q
        ([7, 12, 1], [10, 13], 3, 0, 2, 1, []),
        ([4, 17, 19, 1], [10, 13], 4, 3, 0, 1, []),  # image of 01 → text of q
        ([4, 17, 19, 1], [10, 13], 4, 3, 2, 1, []),
        ([5, 7, 12, 1], [17, 19], 4, 4, -1, 0, []),  # text of 01 → its image
        ([5, 8, 12, 1], [16, 22], 4, 4, -1, 2, []),
        ([6, 17, 19, 1], [7, 12], 4, 5, -1, 0, []),  # image of 01 → its text
        ([6, 16, 22, 1], [8, 12], 4, 5, -1, 2, []),
    ]
    assert [tuple(row.values()) for row in splits["validation"]] == [
        ([7, 12, 10, 13, 1], [8, 12], 5, 0, 0, 2, [0, 1]),
        ([10, 13, 1], [8, 12], 3, 0, 1, 2, [1]),
        ([17, 19, 1], [16, 22], 3, 1, 0, 2, [0, 1]),  # v's history is q alone: nothing to see there
    ]
    assert [tuple(row.values()) for row in splits["test"]] == [
        ([7, 12, 10, 13, 8, 12, 1], [7, 12], 7, 0, 0, 0, [0, 1, 2]),
        ([10, 13, 8, 12, 1], [7, 12], 5, 0, 1, 0, [1, 2]),
        ([17, 19, 16, 22, 1], [17, 19], 5, 1, 0, 0, [0, 1, 2]),
        ([16, 22, 1], [17, 19], 3, 1, 1, 0, [1, 2]),
    ]
    assert list(splits["train"].features) == ["input_ids", "labels", "length", "task", "user", "item", "history"]
    assert splits["train"].features["input_ids"] == datasets.List(datasets.Value("int32"))


def test_all_splits_in_one_call(shop):
    settings = {"cache_dir": shop / "cache", "max_history": 2}
    loaded = load_recommendation_tasks(shop / "interactions.csv", make_table(), **settings)
    expected = prepared(tasks_of(shop, max_history=2))
    assert {name: split[:] for name, split in loaded.items()} == {name: split[:] for name, split in expected.items()}
    with pytest.raises(ValueError, match="max_history"):
        load_recommendation_tasks(shop / "interactions.csv", make_table(), max_history=0)


def test_chosen_tasks_and_histories(shop):
    names = ["image_to_text", "item_text_to_image"]
    splits = prepared(tasks_of(shop, tasks=names, max_history=1))
    assert splits["train"]["task"][:] == [3, 3, 4, 4]
    assert splits["test"]["input_ids"][0] == [8, 12, 1]  # the last item of the history alone
    assert set(splits["test"]["task"][:]) == {0, 1}  # every modality is ranked, whatever trains
    assert [row["input_ids"] for row in prepared(tasks_of(shop, tasks="text_to_text"))["train"]] == [[7, 12, 1]] * 2


def test_a_user_without_an_example_still_has_a_row(shop):
    """v's history is q, without an image, and r has no text: no modality reads the one and writes the other."""
    table = make_table({"text": [[0, 1], [3, 2], [-1, -1]], "image": CODES["image"]})
    builder = RecommendationTasksBuilder(shop / "interactions.csv", table, cache_dir=shop / "cache")
    splits = prepared(builder)
    rows = [(row["task"], row["user"], row["history"]) for row in splits["validation"]]
    assert rows == [(1, 0, [0, 1]), (-1, 1, [1])]
    assert splits["validation"][1]["input_ids"] == [1] and splits["validation"][1]["labels"] == [-100, -100]
    assert splits["validation"][1]["item"] == 2 and splits["validation"][1]["length"] == 1
    assert -1 not in splits["test"]["task"][:] and -1 not in splits["train"]["task"][:]
    assert list(builder.as_streaming_dataset(split="validation")) == list(splits["validation"])


def test_a_split_without_rows(shop):
    """Three interactions a user: one each to train, validate and test, so nothing precedes the training item."""
    write_interactions(shop / "interactions.csv", [("v", item, time) for time, item in enumerate(["q", "r", "01"])])
    splits = prepared(InteractionsBuilder(shop / "interactions.csv", cache_dir=shop / "cache"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 0, "validation": 1, "test": 1}
    assert splits["train"].features == splits["test"].features
    assert prepared(tasks_of(shop))["train"]["task"][:] == [4, 4, 5, 5]  # item tasks need no users
    with pytest.raises(ValueError, match="expected a user with 4 interactions.*the longest history has 3"):
        tasks_of(shop, tasks=["text_to_text"]).download_and_prepare()


def test_one_and_three_modalities(shop):
    table = make_table({"text": CODES["text"]})
    one = prepared(RecommendationTasksBuilder(shop / "interactions.csv", table, cache_dir=shop / "cache"))
    assert [row["input_ids"] for row in one["train"]] == [[3, 8, 1]] * 2  # no task tokens: text from 3 and 7
    table = make_table({**CODES, "audio": [[0, 0], [1, 1], [2, 2]]})
    three = prepared(RecommendationTasksBuilder(shop / "interactions.csv", table, cache_dir=shop / "cache"))
    # u's and w's one prefix 01 → q: sources text, image, audio to targets text, audio (q has no image); items: 6
    # ordered pairs, image with others for 2 items, text with audio for 3
    assert len(three["train"]) == 2 * 3 * 2 + (4 * 2 + 2 * 3)


# The traps of the cache


def test_builders_of_one_module_do_not_share_a_folder(shop):
    """One cache for all: named after the module alone, the second would return the first one's rows."""
    cache = shop / "cache"
    builders = [
        InteractionsBuilder(shop / "interactions.csv", cache),
        tasks_of(shop),
        ItemsBuilder(shop / "items.jsonl", cache),
    ]
    folders = {builder.cache_dir for builder in builders}
    columns = [tuple(prepared(builder)["train"].column_names) for builder in builders]
    assert len(folders) == len(set(columns)) == 3
    assert len({builder.dataset_name for builder in builders}) == 3


@pytest.mark.parametrize("builder", [InteractionsBuilder, RecommendationTasksBuilder])
def test_edited_interactions_are_noticed_even_with_the_same_size_and_time(shop, builder):
    path = shop / "interactions.csv"
    arguments = (path, shop / "ids") if builder is RecommendationTasksBuilder else (path,)
    column = "item" if builder is RecommendationTasksBuilder else "target"
    before, stat = prepared(builder(*arguments, cache_dir=shop / "cache")), path.stat()
    write_interactions(path, [(user, "r" if time == 4 else item, time) for user, item, time in INTERACTIONS])
    text = path.read_text()
    path.write_text(text + "\n" * (stat.st_size - len(text)))  # blank lines are skipped
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = prepared(builder(*arguments, cache_dir=shop / "cache"))
    assert before["test"][0][column] in (0, "01") and after["test"][0][column] in (2, "r")


def test_edited_items_are_noticed(shop):
    path = shop / "items.jsonl"
    prepared(ItemsBuilder(path, cache_dir=shop / "cache"))
    stat = path.stat()
    write_items(shop, ("Grey vase", "Red vase", "Bowl"))
    path.write_text(path.read_text().replace("Grey", "Gold").replace("Gold vase", "Gold va"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepared(ItemsBuilder(path, cache_dir=shop / "cache"))["train"][0]["title"] == "Gold va"


def test_the_same_items_elsewhere_have_other_photos(shop):
    other = shop / "other"
    other.mkdir()
    Image.new("RGB", (9, 9)).save(other / "01.png")
    (other / "items.jsonl").write_bytes((shop / "items.jsonl").read_bytes())
    sizes = []
    for folder in (shop, other):
        rows = prepared(ItemsBuilder(folder / "items.jsonl", cache_dir=shop / "cache"))["train"]
        sizes.append(rows[0]["image"].size)
    assert sizes == [(4, 3), (9, 9)]


def test_changed_semantic_ids_are_noticed(shop):
    assert prepared(tasks_of(shop))["train"][0]["labels"] == [10, 13]
    make_table({**CODES, "text": [[0, 1], [0, 0], [1, 1]]}).save_pretrained(shop / "ids")
    assert prepared(tasks_of(shop))["train"][0]["labels"] == [7, 11]


def test_other_settings_are_other_data(shop):
    lengths = {count: max(prepared(tasks_of(shop, max_history=count))["test"]["length"][:]) for count in (1, 2, 3)}
    assert lengths == {1: 3, 2: 5, 3: 7}
    assert len(prepared(tasks_of(shop, tasks=["text_to_text"]))["train"]) == 2
    assert len(prepared(tasks_of(shop))["train"]) == 8


@pytest.mark.parametrize("place", range(len(dataset_builders.SOURCES)))
def test_edited_code_is_noticed(shop, monkeypatch, place):
    before = tasks_of(shop)
    copy, sources = shop / "edited.py", list(dataset_builders.SOURCES)
    copy.write_text(Path(sources[place]).read_text() + "# an edit\n")
    sources[place] = str(copy)
    monkeypatch.setattr(dataset_builders, "SOURCES", sources)
    after = tasks_of(shop)
    assert before.hash != after.hash and before.cache_dir != after.cache_dir


def test_unchanged_input_is_read_from_the_cache(shop):
    """A second run writes nothing: the Arrow files keep their time stamps."""
    prepared(tasks_of(shop))
    stamps = {path: path.stat().st_mtime_ns for path in (shop / "cache").rglob("*.arrow")}
    (shop / "ids").rename(shop / "moved")  # the contents count, not where they are
    builder = RecommendationTasksBuilder(shop / "interactions.csv", shop / "moved", cache_dir=shop / "cache")
    assert len(prepared(builder)["train"]) == 8
    builder = RecommendationTasksBuilder(shop / "interactions.csv", make_table(), cache_dir=shop / "cache")
    assert len(prepared(builder)["train"]) == 8
    assert stamps == {path: path.stat().st_mtime_ns for path in (shop / "cache").rglob("*.arrow")}


# Streaming, processes, parquet, loaders


def all_builders(shop):
    cache = shop / "cache"
    return [
        ItemsBuilder(shop / "items.jsonl", cache),
        InteractionsBuilder(shop / "interactions.csv", cache),
        tasks_of(shop),
    ]


@pytest.mark.parametrize("which", range(3))
def test_streaming_gives_the_same_rows_and_writes_nothing(shop, which):
    streamed = all_builders(shop)[which].as_streaming_dataset()
    found = {name: [{**row, "image": None} for row in rows] for name, rows in streamed.items()}
    assert not list((shop / "cache").rglob("*.arrow"))
    expected = prepared(all_builders(shop)[which])
    assert found == {name: [{**row, "image": None} for row in rows] for name, rows in expected.items()}


@pytest.fixture
def large_shop(tmp_path, monkeypatch):
    """200 users of 3 to 30 interactions, cut into many shards."""
    monkeypatch.setattr(dataset_builders, "EXAMPLES_AT_A_TIME", 400)
    monkeypatch.setattr(dataset_builders, "ITEMS_AT_A_TIME", 7)
    random = np.random.default_rng(0)
    lengths = random.integers(3, 31, 200)
    rows = [(f"{user:03}", f"{random.integers(40):02}", time) for user in range(200) for time in range(lengths[user])]
    write_interactions(tmp_path / "interactions.csv", rows)
    codes = {name: random.integers(0, 8, (40, 3)) for name in ("text", "image")}
    codes["image"][random.random(40) < 0.3] = -1
    SemanticIdTable([f"{item:02}" for item in range(40)], codes, codebook_size=8).save_pretrained(tmp_path / "ids")
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"item_id": f"{item:02}"}) + "\n" for item in range(40)))
    return tmp_path


@pytest.mark.parametrize("which", range(3))
def test_two_processes_make_the_same_rows(large_shop, which):
    alone = prepared(all_builders(large_shop)[which])
    builder = all_builders(large_shop)[which]
    builder.download_and_prepare(num_proc=2, download_mode="force_redownload")
    together = builder.as_dataset()
    files = list(Path(builder.cache_dir).glob("*train-0000?-of-00002.arrow"))
    assert len(files) == 2  # it did run in two
    for split, rows in alone.items():
        assert sorted(map(repr, together[split])) == sorted(map(repr, rows))


def test_shards_change_nothing(large_shop, monkeypatch):
    """However the users are cut, the rows are those of one run over everybody, with each user's own place."""
    cut = prepared(tasks_of(large_shop))
    monkeypatch.setattr(dataset_builders, "EXAMPLES_AT_A_TIME", 10**6)
    monkeypatch.setattr(task_examples, "EXAMPLES_AT_A_TIME", 10**6)
    builder = RecommendationTasksBuilder(
        large_shop / "interactions.csv", large_shop / "ids", cache_dir=large_shop / "another"
    )
    whole = prepared(builder)
    for split in whole:
        assert whole[split].to_list() == cut[split].to_list()
    assert max(cut["train"]["user"][:]) == 199


def test_written_as_parquet(shop):
    tasks_of(shop).download_and_prepare(str(shop / "out"), file_format="parquet")
    rows = datasets.load_dataset("parquet", data_dir=str(shop / "out"), cache_dir=str(shop / "cache"), split="test")
    assert rows.to_list() == prepared(tasks_of(shop))["test"].to_list()


def test_the_collator_takes_the_rows(shop):
    builder = tasks_of(shop)
    rows = prepared(builder)["train"]
    tokens = np.stack([builder._encoder.tokens(name) for name in ("text", "image")])
    batch = RecommendationCollator(tokens)([rows[place] for place in range(6)])
    assert batch["input_ids"].shape == (6, 4) and batch["alignment_input_ids"].shape == (2, 3, 2)


# Errors arrive as they are, not wrapped by datasets


def test_unknown_items_are_named(shop):
    write_interactions(shop / "interactions.csv", [("u", item, 1) for item in ["01", "x9", "r"]])
    with pytest.raises(ValueError, match=r"1 unknown items .*'x9'"):
        tasks_of(shop).download_and_prepare()
    with pytest.raises(ValueError, match=r"1 unknown items .*'x9'"):
        tasks_of(shop).as_streaming_dataset()


def test_wrong_input(shop):
    (shop / "items.jsonl").write_text('{"item_id": "1"}\n{"item_id": "1"}\n')
    with pytest.raises(ValueError, match="duplicate items"):
        ItemsBuilder(shop / "items.jsonl", cache_dir=shop / "cache").download_and_prepare()
    with pytest.raises(FileNotFoundError, match="nowhere.csv: no such file"):
        InteractionsBuilder(shop / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="semantic_ids.json"):
        RecommendationTasksBuilder(shop / "interactions.csv", shop)
    with pytest.raises(ValueError, match="InteractionsBuilder: expected the path of one file, got list"):
        InteractionsBuilder([shop / "interactions.csv"])


@pytest.mark.parametrize("names", [["text_to_video"], [], ["text_to_text", "text_to_text"]])
def test_wrong_tasks(shop, names):
    with pytest.raises(ValueError, match=r"tasks: expected at least one of \['text_to_text'.*each at most once, got"):
        tasks_of(shop, tasks=names)
