"""The tokenizer: ids, lossless splitting and joining, and loading through AutoTokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.model.configuration_macrec import MacRecConfig
from macrec_hf.model.semantic_ids import SemanticIdTable, code_tokens
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer, task_tokens

ROOT = Path(__file__).parents[2]
THREE = ["text", "image", "audio_hq"]
SHUFFLED = ["video", "audio_hq", "text2", "image"]  # not in alphabetical order


def make_table(modalities=("text", "image"), num_items=5, num_levels=3, codebook_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = {m: torch.randint(codebook_size, (num_items, num_levels), generator=generator) for m in modalities}
    codes[modalities[-1]][1] = -1
    return SemanticIdTable([f"i{row}" for row in range(num_items)], codes, codebook_size)


def test_ids():
    tokenizer = SemanticIdTokenizer.from_vocabulary(["text", "image"], 4, 256)
    assert len(tokenizer) == tokenizer.vocab_size == 3 + 4 + 2 * 4 * 256 == MacRecConfig().vocab_size
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.bos_token_id is None
    assert tokenizer.convert_ids_to_tokens(range(9)) == [
        "<pad>",
        "</s>",
        "<unk>",
        "<sequence_text_to_image>",
        "<sequence_image_to_text>",
        "<item_text_to_image>",
        "<item_image_to_text>",
        "<a_0>",
        "<a_1>",
    ]
    assert tokenizer.convert_ids_to_tokens(7 + 4 * 256) == "<A_0>"
    assert tokenizer.all_special_tokens == ["</s>", "<unk>", "<pad>"]


@pytest.mark.parametrize("modalities", [["image"], ["text", "image"], THREE, SHUFFLED])
def test_every_token_has_its_own_id_and_the_arithmetic_agrees(modalities):
    tokenizer = SemanticIdTokenizer.from_vocabulary(modalities, 3, 5)
    tokens = ["<pad>", "</s>", "<unk>", *task_tokens(modalities), *code_tokens(modalities, 3, 5)]
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(len(tokens))) == list(range(len(tokenizer)))
    for token, index in zip(tokens, range(len(tokens)), strict=True):
        assert tokenizer(token).input_ids == [index, 1]
    table = make_table(modalities, codebook_size=5)
    for m in modalities:
        for level in range(3):
            for code in range(5):
                token = code_tokens(modalities, 3, 5)[(modalities.index(m) * 3 + level) * 5 + code]
                assert tokenizer.code_token_id(m, level, code) == tokenizer.convert_tokens_to_ids(token)
        found = tokenizer.item_token_ids(table, m)
        assert found.dtype == np.int32
        for row, item in enumerate(table.item_ids):
            assert found[row].tolist() == (tokenizer.convert_tokens_to_ids(table.tokens(item, m)) or [0, 0, 0])


def test_task_tokens():
    assert task_tokens(["text"]) == []
    assert task_tokens(["a", "b", "c"])[:6] == [
        f"<sequence_{p}>" for p in "a_to_b a_to_c b_to_a b_to_c c_to_a c_to_b".split()
    ]
    assert task_tokens(["a", "b", "c"])[6:] == [
        f"<item_{p}>" for p in "a_to_b a_to_c b_to_a b_to_c c_to_a c_to_b".split()
    ]


def test_names_that_would_be_written_alike():
    with pytest.raises(ValueError, match="got <sequence_x_to_y_to_z> for two purposes"):
        SemanticIdTokenizer.from_vocabulary(["x", "y_to_z", "x_to_y", "z"], 2, 2)
    with pytest.raises(ValueError, match="modality name without spaces or angle brackets"):
        SemanticIdTokenizer.from_vocabulary(["text", "my image"], 2, 2)


def test_splits_and_joins_without_loss():
    tokenizer = SemanticIdTokenizer.from_vocabulary(["text", "image"], 4, 256)
    assert tokenizer.tokenize("<a_1><b_2>") == ["<a_1>", "<b_2>"]
    assert tokenizer("<a_1><b_2>").input_ids == [8, 265, 1]
    assert tokenizer("<a_1> <b_2>\n").input_ids == [8, 265, 1]
    assert tokenizer("<a_1><b_2>", add_special_tokens=False).input_ids == [8, 265]
    assert tokenizer.decode([8, 265]) == "<a_1><b_2>"
    assert tokenizer.decode([8, 265, 1]) == "<a_1><b_2></s>"
    assert tokenizer.decode([0, 8, 265, 1, 0], skip_special_tokens=True) == "<a_1><b_2>"
    assert tokenizer.batch_decode([[8], [265, 1]], skip_special_tokens=True) == ["<a_1>", "<b_2>"]
    assert tokenizer("<item_text_to_image><a_1>").input_ids == [5, 8, 1]
    assert tokenizer("<a_256><e_0>word<a_01>").input_ids == [2, 2, 2, 2, 1]
    assert tokenizer("").input_ids == [1]


def test_batches_are_padded_on_the_right_with_zero():
    tokenizer = SemanticIdTokenizer.from_vocabulary(["text"], 2, 4)
    batch = tokenizer(["<a_0><b_1>", "<a_3>"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch.input_ids.tolist() == [[3, 8, 1], [6, 1, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), spaces=st.sampled_from(["", " ", "\n\t "]))
def test_round_trips(data, spaces):
    vocabulary = [*task_tokens(SHUFFLED), *code_tokens(SHUFFLED, 2, 11)]
    tokens = data.draw(st.lists(st.sampled_from(vocabulary), max_size=40))
    found = SHUFFLED_TOKENIZER(spaces.join(tokens)).input_ids
    assert SHUFFLED_TOKENIZER.convert_ids_to_tokens(found) == [*tokens, "</s>"]
    assert SHUFFLED_TOKENIZER.decode(found, skip_special_tokens=True) == "".join(tokens)


SHUFFLED_TOKENIZER = SemanticIdTokenizer.from_vocabulary(SHUFFLED, 2, 11)


def test_table_of_another_size():
    tokenizer = SemanticIdTokenizer.from_table(make_table())
    assert (tokenizer.modalities, tokenizer.num_levels, tokenizer.codebook_size) == (("text", "image"), 3, 7)
    with pytest.raises(ValueError, match="table of 3 levels x 7 codes, as this tokenizer, got 3 x 8"):
        tokenizer.item_token_ids(make_table(codebook_size=8), "text")
    with pytest.raises(ValueError, match="Unknown modality 'sound': the table has"):
        tokenizer.item_token_ids(make_table(), "sound")
    with pytest.raises(ValueError, match="Unknown modality 'sound': this tokenizer has"):
        tokenizer.item_token_ids(make_table(("text", "sound")), "sound")
    with pytest.raises(ValueError, match="Unknown modality 'sound'"):
        tokenizer.code_token_id("sound", 0)
    for level, code in ((3, 0), (-1, 0), (0, 7), (0, -1)):
        with pytest.raises(ValueError, match=f"got level {level} and code {code}"):
            tokenizer.code_token_id("text", level, code)


def test_saved_and_loaded(tmp_path):
    tokenizer = SemanticIdTokenizer.from_vocabulary(SHUFFLED, 2, 11)
    text = "".join(code_tokens(SHUFFLED, 2, 11)[::7]) + "<item_text2_to_audio_hq>"
    for step in range(2):  # twice: what was loaded saves the same again
        tokenizer.save_pretrained(tmp_path / str(step))
        tokenizer = SemanticIdTokenizer.from_pretrained(tmp_path / str(step))
        assert tokenizer.modalities == tuple(SHUFFLED)
        assert (tokenizer.num_levels, tokenizer.codebook_size) == (2, 11)
        assert tokenizer.get_vocab() == SHUFFLED_TOKENIZER.get_vocab()
        assert tokenizer(text) == SHUFFLED_TOKENIZER(text)
        assert tokenizer.decode(tokenizer(text).input_ids) == text + "</s>"
    first, second = (json.loads((tmp_path / step / "tokenizer.json").read_text()) for step in "01")
    assert first == second


def test_added_tokens_survive(tmp_path):
    tokenizer = SemanticIdTokenizer.from_vocabulary(["text"], 2, 4)
    tokenizer.add_tokens(["<user>"])
    tokenizer.save_pretrained(tmp_path)
    again = SemanticIdTokenizer.from_pretrained(tmp_path)
    assert len(again) == 12
    assert again("<user><a_0>").input_ids == [11, 3, 1]


SCRIPT = """
import json, sys
from transformers import AutoTokenizer

def look(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found = tokenizer(sys.argv[3]).input_ids
    return type(tokenizer).__name__, found, tokenizer.decode(found, skip_special_tokens=True)

seen = [look(directory) for directory in sys.argv[1:3]]
import macrec_hf
seen += [look(directory) for directory in sys.argv[1:3]]
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(json.dumps([seen, tokenizer.modalities, tokenizer.num_levels, tokenizer.codebook_size]))
"""


def test_auto_tokenizer_in_a_fresh_process(tmp_path):
    tokenizer = SemanticIdTokenizer.from_vocabulary(SHUFFLED, 2, 11)
    alone, with_model = tmp_path / "alone", tmp_path / "with_model"
    for directory in (alone, with_model):
        tokenizer.save_pretrained(directory)
    MacRecConfig(vocab_size=len(tokenizer)).save_pretrained(with_model)
    text = "<a_1><b_10><A_0><B_3><text2_a_7><image_b_2><sequence_video_to_image>"
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(alone), str(with_model), text], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    seen, modalities, num_levels, codebook_size = json.loads(run.stdout.splitlines()[-1])
    expected = tokenizer(text).input_ids
    assert 2 not in expected
    assert [(found, joined) for _, found, joined in seen] == [(expected, text)] * 4
    # Without the package transformers takes its own class, with it ours: the ids are the same.
    assert [name for name, _, _ in seen] == ["TokenizersBackend"] * 2 + ["SemanticIdTokenizer"] * 2
    assert (modalities, num_levels, codebook_size) == (SHUFFLED, 2, 11)


def test_a_config_of_the_vocabulary():
    tokenizer = SemanticIdTokenizer.from_vocabulary(["text", "image"], num_levels=3, codebook_size=8)
    assert tokenizer.config_fields == {"vocab_size": 3 + 4 + 2 * 3 * 8, "num_levels": 3}
    assert MacRecConfig(**tokenizer.config_fields, d_model=8).num_levels == 3
