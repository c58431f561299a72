"""The six tasks: by hand on a tiny catalogue, against a plain loop on random ones, and in time on real data."""

import doctest
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.data import task_examples
from macrec_hf.data.histories import user_histories
from macrec_hf.data.readers import read_interactions
from macrec_hf.data.splits import leave_one_out
from macrec_hf.data.task_examples import TaskExampleEncoder, chunk_by_length
from macrec_hf.model import tokenization_macrec
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.model.tokenization_macrec import SEQUENCE, SemanticIdTokenizer, all_tasks, task_names

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def encoder():
    """Three items, two levels, four codes a level; item 1 has no image, item 2 no text.

    Token ids: 0-2 special, 3-6 the tasks' tokens, text from 7 (level 0) and 11, image from 15 and 19.
    """
    table = SemanticIdTable(
        ["p", "q", "r"],
        {"text": [[0, 1], [3, 2], [-1, -1]], "image": [[2, 0], [-1, -1], [1, 3]]},
        codebook_size=4,
    )
    return TaskExampleEncoder(SemanticIdTokenizer.from_table(table), table, max_history=2)


def test_the_doctests():
    assert doctest.testmod(tokenization_macrec).failed == doctest.testmod(task_examples).failed == 0


def test_names_of_two_modalities():
    assert task_names(["text", "image"]) == [
        "text_to_text",
        "image_to_image",
        "text_to_image",
        "image_to_text",
        "item_text_to_image",
        "item_image_to_text",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_ordered_pair_has_its_tasks(count):
    names = ["text", "image", "audio", "video"][:count]
    found = all_tasks(names)
    assert len(found) == count + 2 * count * (count - 1)
    tokens = [task.token for task in found.values() if task.token]
    assert tokens == [
        f"<{kind}_{a}_to_{b}>" for kind in ("sequence", "item") for a, b in permutations(names, 2)
    ]  # the tokenizer's own order
    vocabulary = SemanticIdTokenizer.from_vocabulary(names, 2, 4).get_vocab()
    assert all(token in vocabulary for token in tokens)


def test_modalities_whose_tasks_share_a_name():
    with pytest.raises(ValueError, match="two tasks called 'item_text_to_.*Rename"):
        all_tasks(["text", "image", "item_text"])


def test_sources_and_targets_by_hand(encoder):
    assert encoder.source([0, 1], "text_to_text") == [7, 12, 10, 13, 1]
    assert encoder.source([0, 1], "image_to_image") == [17, 19, 1]  # item 1 has no image: skipped
    assert encoder.source([0, 1], "text_to_image") == [3, 7, 12, 10, 13, 1]
    assert encoder.source([2, 0], "image_to_text") == [4, 16, 22, 17, 19, 1]
    assert encoder.source([0], "item_text_to_image") == [5, 7, 12, 1]
    assert encoder.source([0], "item_image_to_text") == [6, 17, 19, 1]
    # the last two that have the modality, not what the last two items have of it
    assert encoder.source([1, 0, 2, 2, 1], "text_to_text") == [7, 12, 10, 13, 1]
    assert encoder.source([2, 2], "text_to_text") == encoder.source([], "text_to_text") == [1]
    assert encoder.target(1, "image_to_text") == [10, 13]  # num_levels codes, no </s>
    assert encoder.target(2, "text_to_image") == [16, 22]


def flat(parts):
    return [
        (part.source(number).tolist(), part.labels[number].tolist(), int(part.user[number]), int(part.item[number]))
        for part in parts
        for number in range(len(part))
    ]


def test_every_prefix_is_an_example_by_hand(encoder):
    """One history, p q r p: text skips r as target and in histories, image skips q."""
    assert flat(encoder.sequence_examples([[0, 1, 2, 0]], "text_to_text")) == [
        ([7, 12, 1], [10, 13], 0, 1),  # p → q
        ([7, 12, 10, 13, 1], [7, 12], 0, 0),  # p q (r has no text) → p; r was no target
    ]
    assert flat(encoder.sequence_examples([[0, 1, 2, 0]], "text_to_image")) == [
        ([3, 7, 12, 10, 13, 1], [16, 22], 0, 2),  # p q → r
        ([3, 7, 12, 10, 13, 1], [17, 19], 0, 0),  # p q → p
    ]
    assert flat(encoder.sequence_examples([[2], [], [2, 0, 1]], "image_to_text")) == [
        ([4, 16, 22, 1], [7, 12], 2, 0),
        ([4, 16, 22, 17, 19, 1], [10, 13], 2, 1),
    ]


def test_item_examples_by_hand(encoder):
    assert flat([encoder.item_examples("item_text_to_image")]) == [([5, 7, 12, 1], [17, 19], -1, 0)]  # p has both
    assert flat([encoder.item_examples("item_image_to_text")]) == [([6, 17, 19, 1], [7, 12], -1, 0)]


def test_one_example_a_history(encoder):
    histories, targets = [[0, 1], [2], [], [0]], np.array([0, 0, 0, 2])
    assert flat(encoder.sequence_examples(histories, "text_to_text", targets)) == [([7, 12, 10, 13, 1], [7, 12], 0, 0)]
    assert flat(encoder.sequence_examples(histories, "image_to_image", targets)) == [
        ([17, 19, 1], [17, 19], 0, 0),
        ([16, 22, 1], [17, 19], 1, 0),
        ([17, 19, 1], [16, 22], 3, 2),
    ]


def test_nothing_to_learn_gives_no_examples(encoder):
    assert flat(encoder.sequence_examples([], "text_to_text")) == []
    assert flat(encoder.sequence_examples([[2], [2, 2]], "text_to_text")) == []


def test_refusals(encoder):
    table = SemanticIdTable(["p"], {"text": [[0, 1]], "image": [[2, 0]]}, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    with pytest.raises(ValueError, match=r"expected one of \['text_to_text'.*got 'text_to_video'"):
        encoder.source([0], "text_to_video")
    with pytest.raises(ValueError, match="expected a sequence task, got 'item_text_to_image'"):
        next(encoder.sequence_examples([[0]], "item_text_to_image"))
    with pytest.raises(ValueError, match="expected an item task, got 'text_to_image'"):
        encoder.item_examples("text_to_image")
    for odd in (0, -1, True, 2.0, float("nan"), "3"):
        with pytest.raises(ValueError, match=f"max_history: expected a whole number of at least 1 item, got {odd!r}"):
            TaskExampleEncoder(tokenizer, table, max_history=odd)
    with pytest.raises(ValueError, match="expected the table's modalities .* got"):
        TaskExampleEncoder(SemanticIdTokenizer.from_vocabulary(["image", "text"], 2, 4), table)
    with pytest.raises(ValueError, match="with 2 levels, got .* with 3"):
        TaskExampleEncoder(SemanticIdTokenizer.from_vocabulary(["text", "image"], 3, 4), table)


def random_table(seed: int, modalities: int) -> SemanticIdTable:
    """Twelve items, three levels of five codes, about a third of the IDs missing."""
    generator = torch.Generator().manual_seed(seed)
    codes = {}
    for name in ["text", "image", "audio"][:modalities]:
        codes[name] = torch.randint(0, 5, (12, 3), generator=generator)
        codes[name][torch.rand(12, generator=generator) < 0.3] = -1
    return SemanticIdTable([f"i{number}" for number in range(12)], codes, codebook_size=5)


def examples_by_loops(encoder: TaskExampleEncoder, tokenizer, table, histories, name: str) -> list:
    """The definition, an item at a time and through token strings."""
    task, found = encoder.task(name), []
    for user, history in enumerate(histories):
        for place in range(1, len(history)):
            target = table.tokens(table.item_ids[history[place]], task.target)
            words = [table.tokens(table.item_ids[item], task.source) for item in history[:place]]
            words = [tokens for tokens in words if tokens][-encoder.max_history :]
            if target and words:
                text = (task.token or "") + "".join("".join(tokens) for tokens in words)
                labels = tokenizer.convert_tokens_to_ids(target)
                found.append((tokenizer(text).input_ids, labels, user, history[place]))
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    modalities=st.integers(1, 3),
    max_history=st.integers(1, 5),
    histories=st.lists(st.lists(st.integers(0, 11), max_size=9), max_size=6),
    size=st.integers(1, 30),
)
def test_examples_against_plain_loops(seed, modalities, max_history, histories, size):
    table = random_table(seed, modalities)
    tokenizer = SemanticIdTokenizer.from_table(table)
    encoder = TaskExampleEncoder(tokenizer, table, max_history)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_examples, "EXAMPLES_AT_A_TIME", size)  # wherever the chunks are cut
        for name, task in encoder.tasks.items():
            if task.kind == SEQUENCE:
                found = flat(encoder.sequence_examples(histories, name))
                assert found == examples_by_loops(encoder, tokenizer, table, histories, name)


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 12))
def test_chunks_cover_everything_once(lengths, size):
    runs = chunk_by_length(lengths, size)
    assert [place for start, stop in runs for place in range(start, stop)] == list(range(len(lengths)))
    assert all(stop == start + 1 or sum(lengths[start:stop]) <= size for start, stop in runs)


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not here")
def test_instruments_in_seconds():
    """136,226 interactions, 17,112 users: 136,226 - 3 x 17,112 = 84,890 prefixes, in each of four tasks."""
    folder = DATA / "instruments"
    table = SemanticIdTable.from_index_json(
        text=folder / "Instruments.index_lemb.json", image=folder / "Instruments.index_vitemb.json"
    )
    histories = user_histories(read_interactions(folder / "Instruments.inter.json"), table.row_of)
    sequences, _ = leave_one_out(histories, "train")
    encoder = TaskExampleEncoder(SemanticIdTokenizer.from_table(table), table)
    start = time.process_time()
    for name in task_names(table.modalities)[:4]:
        parts = list(encoder.sequence_examples(sequences, name))
        assert sum(len(part) for part in parts) == 84_890
        longest = max(int(np.diff(part.offsets).max()) for part in parts)
        assert longest == 20 * 4 + 1 + (name in ("text_to_image", "image_to_text"))
    assert time.process_time() - start < 20  # 1.4 s on two busy cores
    assert len(encoder.item_examples("item_text_to_image")) == 6_250
