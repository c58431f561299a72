"""Several modalities' beams in one batch: each request's results are those of a search of its own."""

import pytest
import torch
from decoding_tools import padded_batch, random_trie, tiny_model

from macrec_hf.cpu import accelerate
from macrec_hf.cpu.beam_parts import split_users
from macrec_hf.model.beam_search import BeamRequest, beam_search, joint_beam_search
from macrec_hf.model.limits import Limits

MODEL = tiny_model(45, dtype=torch.float64)
TEXT = random_trie(seed=0)
IMAGE = random_trie(num_items=7, seed=1, first_code=23)  # fewer IDs than beams


def assert_same(found, expected):
    assert torch.equal(found.leaves, expected.leaves)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 4, 20])
def test_each_request_as_if_alone(num_beams):
    text, image = padded_batch([7, 3, 5]), padded_batch([2, 4], seed=1)
    results = joint_beam_search(MODEL, [BeamRequest(*text, TEXT), BeamRequest(*image, IMAGE)], num_beams)
    for (input_ids, mask), trie, result in zip((text, image), (TEXT, IMAGE), results, strict=True):
        expected = beam_search(MODEL, input_ids, mask, trie, num_beams)
        assert_same(result, expected)
        states, own = result.encoder_hidden_states, expected.encoder_hidden_states
        assert states.shape == own.shape
        torch.testing.assert_close(states[mask.bool()], own[mask.bool()], atol=1e-12, rtol=0)


def test_limits_stay_with_their_request():
    text, image = padded_batch([7, 3]), padded_batch([2, 4], seed=1)
    allowed = torch.tensor([[3, 8, -1], [1, -1, -1]])
    excluded = torch.arange(7) < 3
    limits = Limits(2, TEXT.num_items, allowed).on_trie(TEXT), Limits(2, 7, excluded_items=excluded).on_trie(IMAGE)
    requests = [BeamRequest(*text, TEXT, limits[0]), BeamRequest(*image, IMAGE, limits[1])]
    found = joint_beam_search(MODEL, requests, 10)
    assert_same(found[0], beam_search(MODEL, *text, TEXT, 10, allowed_items=allowed))
    assert_same(found[1], beam_search(MODEL, *image, IMAGE, 10, excluded_items=excluded))
    assert (found[0].leaves >= 0).sum(1).tolist() == [2, 1]


def test_many_users_in_mixed_parts():
    text, image = padded_batch([7, 3, 5, 1] * 15), padded_batch([2, 4, 6] * 9, seed=1)
    found = joint_beam_search(MODEL, [BeamRequest(*text, TEXT), BeamRequest(image[0], None, IMAGE)], 5)
    assert_same(found[0], beam_search(MODEL, *text, TEXT, 5))
    assert_same(found[1], beam_search(MODEL, image[0], None, IMAGE, 5))


def test_parts_as_large_as_a_request():
    """60 users of one length are decoded on a CPU in two parts of 30: neither part is one of the requests."""
    model = accelerate(tiny_model(45, dtype=torch.float64))
    text, image = padded_batch([4] * 30), padded_batch([4] * 30, seed=1)
    assert [len(users) for users, _ in split_users(torch.cat([text[1], image[1]]), 60, 5, 1 + 2 * 5)] == [30, 30]
    excluded = torch.arange(30).unsqueeze(1) % 7
    limits = Limits(30, 7, excluded_items=excluded).on_trie(IMAGE)
    found = joint_beam_search(model, [BeamRequest(*text, TEXT), BeamRequest(*image, IMAGE, limits)], 5)
    assert_same(found[0], beam_search(model, *text, TEXT, 5))
    assert_same(found[1], beam_search(model, *image, IMAGE, 5, excluded_items=excluded))


def test_tries_of_different_depths_are_refused():
    deeper = random_trie(num_levels=4)
    batch = padded_batch([3])
    with pytest.raises(ValueError, match=r"one number of levels, got \[3, 4\]"):
        joint_beam_search(MODEL, [BeamRequest(*batch, TEXT), BeamRequest(*batch, deeper)], 4)


def test_no_request_no_result():
    assert joint_beam_search(MODEL, [], 4) == []
