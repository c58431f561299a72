"""Parts on threads: the results of a plain loop, in order, with the caller's modes and settings."""

import pytest
import torch
from decoding_tools import padded_batch, random_trie, tiny_model

from macrec_hf.cpu.threads import map_parts, use_threads
from macrec_hf.model.beam_search import beam_search


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_in_order_and_each_thread_has_its_share():
    assert map_parts(lambda part: (part * part, torch.get_num_threads()), range(7)) == [(n * n, 1) for n in range(7)]
    assert map_parts(lambda part: torch.get_num_threads(), [0]) == [3]
    assert map_parts(abs, []) == []


def test_the_callers_number_of_threads_stays():
    map_parts(abs, range(5))
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError):
        map_parts(lambda part: 1 / part, [1, 0, 2])
    assert torch.get_num_threads() == 3


def test_another_number_of_threads_inside_and_afterwards_as_many_as_before(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with use_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), use_threads(1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 3


def test_a_number_of_threads_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with use_threads(1):
        assert torch.get_num_threads() == 3


def test_grad_and_inference_modes_follow_the_caller():
    def modes(part):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    assert map_parts(modes, range(2)) == [(True, False)] * 2
    with torch.no_grad():
        assert map_parts(modes, range(2)) == [(False, False)] * 2
    with torch.inference_mode():
        assert map_parts(modes, range(2)) == [(False, True)] * 2


def test_autocast_stays_on_the_callers_thread():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = map_parts(lambda part: torch.ones(2, 2) @ torch.ones(2, 2), range(3))
    assert [product.dtype for product in found] == [torch.bfloat16] * 3


def test_decoding_on_threads_finds_what_one_thread_finds():
    model, trie = tiny_model(45, dtype=torch.float64), random_trie()
    batch = padded_batch([7, 3, 5, 1, 6] * 20)
    several = beam_search(model, *batch, trie, 5)
    torch.set_num_threads(1)
    alone = beam_search(model, *batch, trie, 5)
    assert torch.equal(several.leaves, alone.leaves)
    torch.testing.assert_close(several.scores, alone.scores, atol=1e-12, rtol=0)
