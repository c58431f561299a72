"""The table of semantic IDs: look-ups, tokens, index.json both ways, and the files on disk."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from macrec_hf.model.semantic_ids import SemanticIdTable, check_modalities, code_tokens, token_name
from macrec_hf.model.vector_quantization import code_keys

INSTRUMENTS = Path(__file__).parents[2].parent / "shared" / "data" / "instruments"
needs_instruments = pytest.mark.skipif(
    not INSTRUMENTS.is_dir(), reason="the index.json files of ../shared/data/instruments are not here"
)


def make_table():
    codes = {"text": [[3, 77], [0, 1], [3, 77], [5, 5]], "image": [[4, 2], [-1, -1], [4, 3], [0, 0]]}
    return SemanticIdTable(["i1", "i2", "i3", "ü 4"], codes, 100)


def write_index(path, index):
    path.write_text(json.dumps(index))
    return path


def test_look_ups():
    table = make_table()
    assert (table.num_items, len(table), table.num_levels, table.codebook_size) == (4, 4, 2, 100)
    assert table.modalities == ("text", "image")
    assert table.codes["text"].dtype == torch.long
    assert table.row_of["i3"] == 2
    assert table.tokens("i1", "text") == ["<a_3>", "<b_77>"]
    assert table.tokens("i1", "image") == ["<A_4>", "<B_2>"]
    assert table.tokens("i2", "image") == []
    assert table.items((3, 77), "text") == ["i1", "i3"]
    assert table.items(torch.tensor([4, 3]), "image") == ["i3"]
    assert table.items((9, 9), "text") == table.items((-1, -1), "image") == []
    assert table.report == {}
    assert repr(table) == "SemanticIdTable(num_items=4, modalities=['text', 'image'], num_levels=2, codebook_size=100)"
    with pytest.raises(ValueError, match="Unknown item 'x'"):
        table.tokens("x", "text")
    with pytest.raises(ValueError, match="Unknown modality 'sound': this table has"):
        table.items((1, 2), "sound")
    with pytest.raises(ValueError, match="Expected 2 codes, one per level, got 3"):
        table.items((1, 2, 3), "text")


def test_collision_rate_counts_only_items_that_have_an_id():
    table = make_table()
    assert table.collision_rate("text") == pytest.approx(1 - 3 / 4)  # two of four share one
    assert table.collision_rate("image") == 0.0
    assert SemanticIdTable(["i"], {"text": [[-1]]}).collision_rate("text") == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=60), st.sampled_from([5, 2**31]))
def test_collision_rate_and_keys_against_counting(rows, codebook_size):
    table = SemanticIdTable([str(row) for row in range(len(rows))], {"text": rows}, codebook_size)
    assert table.collision_rate("text") == pytest.approx(1 - len(set(rows)) / len(rows))
    keys = code_keys(table.codes["text"], codebook_size).tolist()  # (2**31)**3 is beyond 64 bits
    assert sorted(Counter(keys).values()) == sorted(Counter(rows).values())
    assert all(table.items(row, "text") == [str(i) for i, r in enumerate(rows) if r == row] for row in rows)


def test_keys_of_a_space_beyond_64_bits_keep_the_first_level_apart():
    codes = torch.zeros(3, 9, dtype=torch.long)
    codes[1, 0] = 1  # counts 256**8 = 2**64, which is 0 in a 64-bit number
    keys = code_keys(codes, 256)
    assert keys[0] == keys[2] != keys[1]


def test_what_counts_as_equal():
    table = make_table()
    assert table == make_table()
    assert table.fingerprint() == make_table().fingerprint()
    others = [
        SemanticIdTable(table.item_ids[::-1], table.codes, 100),
        SemanticIdTable(table.item_ids, table.codes, 101),
        SemanticIdTable(table.item_ids, {m: table.codes[m] for m in ("image", "text")}, 100),
        SemanticIdTable(table.item_ids, {"text": table.codes["text"], "picture": table.codes["image"]}, 100),
        SemanticIdTable(table.item_ids, table.codes | {"image": table.codes["image"].clamp(max=3)}, 100),
    ]
    for other in others:
        assert table != other
        assert table.fingerprint() != other.fingerprint()
    assert table != "table"


def test_input_is_checked():
    with pytest.raises(ValueError, match="item_ids: expected each id once, got 1 repeated, e.g. \\['a'\\]"):
        SemanticIdTable(["a", "b", "a"], {"text": [[1], [2], [3]]})
    with pytest.raises(ValueError, match="expected strings or whole numbers, got nan in row 1. Is there a gap"):
        SemanticIdTable(["a", float("nan")], {"text": [[1], [2]]})
    with pytest.raises(ValueError, match="item_ids: expected strings or whole numbers, got True in row 0"):
        SemanticIdTable([True], {"text": [[1]]})
    with pytest.raises(ValueError, match="item_ids: expected a list of ids, got the one string 'ab'"):
        SemanticIdTable("ab", {"text": [[1], [2]]})
    with pytest.raises(ValueError, match=r"codes\['text'\]: expected shape \(2, num_levels\), .* got \(1, 2\)"):
        SemanticIdTable(["a", "b"], {"text": [[1, 2]]})
    with pytest.raises(ValueError, match=r"codes\['text'\]: expected codes in \[0, 256\).* got \[0, 256\] in row 1"):
        SemanticIdTable(["a", "b"], {"text": [[1, 2], [0, 256]]})
    with pytest.raises(ValueError, match=r"a whole row of -1 for no ID, got \[-1, 2\] in row 0"):
        SemanticIdTable(["a"], {"text": [[-1, 2]]})
    with pytest.raises(ValueError, match=r"codes\['text'\]: expected a tensor of integers, got torch.float32"):
        SemanticIdTable(["a"], {"text": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="as many levels in each modality, got {'text': 2, 'image': 1}"):
        SemanticIdTable(["a"], {"text": [[1, 2]], "image": [[1]]})
    with pytest.raises(ValueError, match="at least one modality"):
        SemanticIdTable(["a"], {})
    with pytest.raises(ValueError, match="level below 26"):
        SemanticIdTable(["a"], {"text": [[0] * 27]})
    assert SemanticIdTable([np.int64(7), np.str_("b")], {"text": np.array([[1], [2]])}).item_ids == ["7", "b"]


def test_tokens_of_any_number_of_modalities():
    assert [token_name(m, name, 2, 9) for m, name in enumerate(["z", "a", "audio_hq"])] == [
        "<c_9>",
        "<C_9>",
        "<audio_hq_c_9>",
    ]
    tokens = code_tokens(["z", "a", "audio_hq", "text2"], 2, 3)
    assert tokens[:7] == ["<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>", "<b_2>", "<A_0>"]
    assert tokens[-1] == "<text2_b_2>"
    assert len(set(tokens)) == len(tokens) == 24
    with pytest.raises(ValueError, match="level below 26"):
        code_tokens(["text"], 27, 2)
    for name in ("", "a b", "a>b", "<", 3):
        with pytest.raises(ValueError, match="modality name without spaces or angle brackets"):
            check_modalities(["text", name])
    with pytest.raises(ValueError, match="distinct modality names"):
        check_modalities(["text", "text"])


@needs_instruments
def test_instruments_both_ways_without_a_byte_of_difference(tmp_path):
    files = {m: INSTRUMENTS / f"Instruments.index_{f}.json" for m, f in {"text": "lemb", "image": "vitemb"}.items()}
    table = SemanticIdTable.from_index_json(**files)
    assert (table.num_items, table.num_levels, table.codebook_size) == (6250, 4, 256)
    assert table.collision_rate("text") == pytest.approx(262 / 6250)
    assert table.collision_rate("image") == 0.0
    for m, path in files.items():
        table.to_index_json(m, tmp_path / "index.json")
        assert (tmp_path / "index.json").read_bytes() == path.read_bytes()
        index = json.loads(path.read_text())
        assert all(table.tokens(item, m) == index[item] for item in index)
    table.save_pretrained(tmp_path)
    assert SemanticIdTable.from_pretrained(tmp_path) == table
    shared = [items for row in table.codes["text"].tolist() if len(items := table.items(row, "text")) > 1]
    assert all(table.tokens(items[0], "text") == table.tokens(items[-1], "text") for items in shared)


def test_index_json_of_three_modalities_and_missing_items(tmp_path):
    table = SemanticIdTable(
        ["7", "x", "12"],
        {"text": [[1, 2], [-1, -1], [0, 0]], "image": [[1, 1]] * 3, "audio_hq": [[2, 0], [300, 1], [-1, -1]]},
        codebook_size=301,
    )
    paths = {m: tmp_path / f"{m}.json" for m in table.modalities}
    for m, path in paths.items():
        table.to_index_json(m, path)
    assert json.loads(paths["audio_hq"].read_text()) == {
        "7": ["<audio_hq_a_2>", "<audio_hq_b_0>"],
        "x": ["<audio_hq_a_300>", "<audio_hq_b_1>"],
    }
    again = SemanticIdTable.from_index_json(**paths)
    assert again.item_ids == ["7", "12", "x"]  # the first file's items first
    assert again.codebook_size == 301  # inferred: 300 is the largest code
    assert all(again.tokens(item, m) == table.tokens(item, m) for item in table.item_ids for m in table.modalities)
    assert SemanticIdTable.from_index_json(text=paths["text"]).codebook_size == 256
    assert SemanticIdTable.from_index_json(text=paths["text"], codebook_size=3).codebook_size == 3
    with pytest.raises(ValueError, match=r"codes in \[0, 2\)"):
        SemanticIdTable.from_index_json(text=paths["text"], codebook_size=2)


@pytest.mark.parametrize(
    "tokens",
    [
        ["<A_1>", "<B_2>"],  # the second modality's letters
        ["<b_1>", "<a_2>"],  # levels in another order
        ["<a_1>", "<a_2>"],
        ["<a_1>"],
        ["<a_1>", "<b_2>", "<c_3>"],
        ["<a_1>", "<b_-2>"],
        ["<a_1>", "<b_02>"],  # would not come back as it was written
        ["<a_1>", " <b_2>"],
        ["<text_a_1>", "<text_b_2>"],
        ["<a_1><b_2>"],
        [1, 2],
        [],
    ],
)
def test_index_json_is_read_strictly(tmp_path, tokens):
    path = write_index(tmp_path / "x.json", {"0": ["<a_0>", "<b_0>"], "5": tokens})
    with pytest.raises(
        ValueError, match=r"tokens like \['<a_3>', '<b_3>'\] for every item .* for item '5' in .*x.json"
    ):
        SemanticIdTable.from_index_json(text=path)


def test_index_json_with_ids_of_two_lengths(tmp_path):
    path = write_index(tmp_path / "x.json", {"0": ["<a_0>", "<b_0>"], "5": ["<a_0>", "<b_0>", "<c_1>"]})
    with pytest.raises(ValueError, match="item '5' in .*x.json. IDs have equal length, but item '0' has 2 tokens and"):
        SemanticIdTable.from_index_json(text=path)
    write_index(path, {"0": "<a_0><b_0>"})
    with pytest.raises(ValueError, match="x.json to hold an object .*, a list each, got none for item '0'"):
        SemanticIdTable.from_index_json(text=path)


def test_index_json_that_is_damaged(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('\ufeff{"0": ["<a_7>"]}')  # a byte-order mark is no damage
    assert SemanticIdTable.from_index_json(text=path).codes["text"].tolist() == [[7]]
    path.write_text('{"0": ["<a_7>"]}', encoding="utf-16")
    assert SemanticIdTable.from_index_json(text=path).codes["text"].tolist() == [[7]]
    path.write_text('{"x\\ud83d": ["<a_7>"]}')  # half an emoji
    assert SemanticIdTable.from_index_json(text=path).item_ids == ["x\ufffd"]
    for content in (b'{"0": ["<a_1>', b'{"0": ["\xff"]}', b"\x1f\x8b\x08", b"[" * 100_000, b"9" * 5000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Expected .*x.json to be an index.json, but it is no JSON"):
            SemanticIdTable.from_index_json(text=path)
    for tokens in (["<a_" + "9" * 12 + ">"], ["<a_1>"] * 40):
        write_index(path, {"0": tokens})
        with pytest.raises(ValueError, match="for item '0' in .*x.json"):
            SemanticIdTable.from_index_json(text=path)


def test_index_json_files_that_do_not_fit(tmp_path):
    upper = write_index(tmp_path / "upper.json", {"0": ["<A_0>"]})
    with pytest.raises(ValueError, match="name the files in the order of their tokens"):
        SemanticIdTable.from_index_json(image=upper)
    lower = write_index(tmp_path / "lower.json", {"1": ["<a_0>"]})
    with pytest.raises(ValueError, match="have no item in common"):
        SemanticIdTable.from_index_json(text=lower, image=upper)
    (tmp_path / "twice.json").write_text('{"0": ["<a_0>"], "0": ["<a_1>"]}')
    with pytest.raises(ValueError, match="every item once, got '0' twice"):
        SemanticIdTable.from_index_json(text=tmp_path / "twice.json")
    two = write_index(tmp_path / "two.json", {"0": ["<A_0>", "<B_0>"]})
    write_index(lower, {"0": ["<a_0>"]})
    with pytest.raises(ValueError, match="as many levels in each modality"):
        SemanticIdTable.from_index_json(text=lower, image=two)
    for content in ("{}", "[]", "[1]", '"x"', '{"0": "<a_1>"}', '{"0": 5}', '{"0": {"a": 1}}'):
        (tmp_path / "no.json").write_text(content)
        with pytest.raises(ValueError, match="to hold an object .* with at least one item"):
            SemanticIdTable.from_index_json(text=tmp_path / "no.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        SemanticIdTable.from_index_json(text=tmp_path / "broken.json")
    with pytest.raises(FileNotFoundError, match="index.json of modality 'text' at .*absent.json, found none"):
        SemanticIdTable.from_index_json(text=tmp_path / "absent.json")
    with pytest.raises(ValueError, match="at least one modality"):
        SemanticIdTable.from_index_json()


def test_saved_and_loaded(tmp_path):
    table = make_table()
    table.save_pretrained(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "semantic_ids.json",
        "semantic_ids.safetensors",
    ]
    for again in (
        SemanticIdTable.from_pretrained(tmp_path / "a" / "b"),
        SemanticIdTable.from_pretrained(str(tmp_path / "a"), subfolder="b"),
    ):
        assert again == table
        assert again.modalities == ("text", "image")
        assert again.codes["image"].dtype == torch.long
        assert again.fingerprint() == table.fingerprint()


@settings(max_examples=20, deadline=None)
@given(names=st.permutations(["text", "image", "audio_hq", "text2", "Z"]), rows=st.integers(0, 5))
def test_order_of_modalities_survives(names, rows, tmp_path_factory):
    codes = {m: torch.full((rows, 2), index) for index, m in enumerate(names)}
    table = SemanticIdTable([str(row) for row in range(rows)], codes, 7)
    directory = tmp_path_factory.mktemp("table")
    table.save_pretrained(directory)
    again = SemanticIdTable.from_pretrained(directory)
    assert again.modalities == tuple(names)
    assert again == table


def test_from_the_cache_of_the_hub(tmp_path):
    table = make_table()
    repository = tmp_path / "cache" / "models--user--shop"
    table.save_pretrained(repository / "snapshots" / "abc123" / "ids")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert SemanticIdTable.from_pretrained("user/shop", subfolder="ids", **where) == table
    with pytest.raises(
        OSError, match="'user/other' to be a directory or a repository of the Hub with semantic_ids.json"
    ):
        SemanticIdTable.from_pretrained("user/other", **where)
    with pytest.raises(OSError, match="there is no such directory"):
        SemanticIdTable.from_pretrained(tmp_path / "no" / "such")


def test_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected semantic_ids.json in .* a folder of `macrec quantize`"):
        SemanticIdTable.from_pretrained(tmp_path)
    table = make_table()
    table.save_pretrained(tmp_path)
    head = json.loads((tmp_path / "semantic_ids.json").read_text())
    write_index(tmp_path / "semantic_ids.json", head | {"item_ids": head["item_ids"][:3]})
    with pytest.raises(ValueError, match="one row per item"):
        SemanticIdTable.from_pretrained(tmp_path)
    write_index(tmp_path / "semantic_ids.json", head | {"format_version": 2})
    with pytest.raises(ValueError, match="Expected format_version 1 .* got 2: another release"):
        SemanticIdTable.from_pretrained(tmp_path)
    write_index(tmp_path / "semantic_ids.json", head)
    shutil.copy(tmp_path / "semantic_ids.safetensors", tmp_path / "copy")
    save_file({"text": torch.zeros(4, 2, dtype=torch.int32)}, tmp_path / "semantic_ids.safetensors")
    with pytest.raises(ValueError, match="the two files are not from the same table"):
        SemanticIdTable.from_pretrained(tmp_path)
    (tmp_path / "semantic_ids.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="Expected semantic_ids.safetensors in"):
        SemanticIdTable.from_pretrained(tmp_path)
