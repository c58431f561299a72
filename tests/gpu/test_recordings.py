"""Recordings follow what they are recordings of; on a CPU, where one is the function itself, in its padded shapes."""

import copy
import pickle
from threading import Event, Thread

import decoding_tools
import pytest
import torch
from torch import nn

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.gpu import accelerate
from macrec_hf.gpu import recordings as module
from macrec_hf.gpu.attention import of_short_sequences
from macrec_hf.gpu.recorded_search import RecordedSearch
from macrec_hf.gpu.recorded_step import RecordedStep
from macrec_hf.gpu.recordings import Recordings
from macrec_hf.model.beam_search import BeamRequest, beam_search, joint_beam_search
from macrec_hf.model.limits import Limits
from macrec_hf.model.search_kernels import SearchKernels

LENGTHS = [9, 4, 2, 7, 9]


def searched(seen=0):
    """A model whose search goes through padded shapes from the call after `seen` on, one without, users, a trie."""
    plain = decoding_tools.tiny_model(vocab_size=60).eval()
    model = copy.deepcopy(plain)
    run = RecordedSearch("cpu", seen)
    vars(model)["search_kernels"] = SearchKernels(run_batch=run)
    return (
        plain,
        model,
        run.recordings,
        decoding_tools.padded_batch(LENGTHS, vocab_size=60),
        decoding_tools.random_trie(),
    )


def limits_of(kind, trie, users):
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(users, trie.num_items, generator=generator) < 0.5
    rows = torch.randint(-1, trie.num_items, (users, 6), generator=generator)
    return {
        "none": {},
        "one mask": {"allowed_items": mask[0]},
        "masks": {"allowed_items": mask},
        "rows": {"allowed_items": rows},
        "hidden histories": {"excluded_items": rows},
        "both": {"allowed_items": mask, "excluded_items": rows},
    }[kind]


@pytest.mark.parametrize("kind", ["none", "one mask", "masks", "rows", "hidden histories", "both"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_padded_users_and_columns_change_no_list(kind, with_mask):
    plain, model, recordings, (input_ids, mask), trie = searched()
    mask = mask if with_mask else None
    given = limits_of(kind, trie, len(LENGTHS))
    wanted = beam_search(plain, input_ids, mask, trie, 6, **given)
    for _ in range(2):
        found = beam_search(model, input_ids, mask, trie, 6, **given)
        assert torch.equal(found.leaves, wanted.leaves)
        torch.testing.assert_close(found.scores, wanted.scores)
        assert found.encoder_hidden_states.shape == wanted.encoder_hidden_states.shape
    assert len(recordings.kept) == 1


def test_modalities_of_several_sizes_stay_apart():
    plain, model, recordings, (input_ids, mask), trie = searched()
    other = decoding_tools.random_trie(seed=5)
    limits = Limits(3, other.num_items, excluded_items=torch.tensor([[0, 1], [2, -1], [3, 4]])).on_trie(other)
    requests = [BeamRequest(input_ids, mask, trie), BeamRequest(input_ids[:3, :5], None, other, limits)]
    wanted, found = (joint_beam_search(each, requests, 5) for each in (plain, model))
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.equal(mine.leaves, theirs.leaves)
        torch.testing.assert_close(mine.encoder_hidden_states, theirs.encoder_hidden_states)
    assert len(recordings.kept) == 1


def test_a_recording_serves_its_bucket_and_follows_the_weights():
    plain, model, recordings, (input_ids, mask), trie = searched(seen=1)
    beam_search(model, input_ids, mask, trie, 5)
    assert not recordings.kept  # a single call is not worth one
    for users, columns in ((5, 9), (5, 7), (5, 9)):
        beam_search(model, input_ids[:users, :columns], mask[:users, :columns], trie, 5)
    assert len(recordings.kept) == 1
    with torch.no_grad():
        for one, other in zip(plain.parameters(), model.parameters(), strict=True):
            one.add_(0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel())))
            other.copy_(one)
    found, wanted = (beam_search(each, input_ids, mask, trie, 5) for each in (model, plain))
    assert torch.equal(found.leaves, wanted.leaves) and len(recordings.kept) == 1
    beam_search(model, input_ids, mask, trie, 4)
    beam_search(model, input_ids, mask, trie, 4)
    assert len(recordings.kept) == 2  # of another number of beams


def test_what_a_recording_would_not_follow_goes_the_ordinary_way():
    _, model, recordings, (input_ids, mask), trie = searched()
    wanted = beam_search(model, input_ids, mask, trie, 5).leaves
    before = len(recordings.kept)
    states = model.get_encoder()(input_ids, mask)[0]
    assert torch.equal(beam_search(model, input_ids, mask, trie, 5, encoder_outputs=(states,)).leaves, wanted)
    handle = model.decoder.block[0].register_forward_hook(lambda *_: None)
    assert torch.equal(beam_search(model, input_ids, mask, trie, 5).leaves, wanted)
    handle.remove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        beam_search(model, input_ids, mask, trie, 5)
    assert len(recordings.kept) == before == 1


def test_a_recording_of_inference_mode_serves_outside_of_it():
    plain, model, recordings, (input_ids, mask), trie = searched()
    with torch.inference_mode():
        beam_search(model, input_ids, mask, trie, 5)
    found, wanted = (beam_search(each, input_ids, mask, trie, 5) for each in (model, plain))
    assert torch.equal(found.leaves, wanted.leaves) and len(recordings.kept) == 1
    assert not found.scores.is_inference()


def test_another_start_token_is_another_recording():
    plain, model, recordings, (input_ids, mask), trie = searched()
    beam_search(model, input_ids, mask, trie, 5)
    for each in (plain, model):
        each.generation_config.decoder_start_token_id = 7
    found, wanted = (beam_search(each, input_ids, mask, trie, 5) for each in (model, plain))
    torch.testing.assert_close(found.scores, wanted.scores)
    assert len(recordings.kept) == 2


def test_recordings_are_not_copied_and_not_pickled():
    _, model, recordings, (input_ids, mask), trie = searched()
    beam_search(model, input_ids, mask, trie, 5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.search_kernels.run_batch.recordings.kept
    assert len(recordings.kept) == 1


def test_the_least_used_recording_goes_and_a_failure_is_told_once(caplog):
    kept = Recordings(seen=0, at_most=2)
    for key in ("a", "b", "a", "c"):
        assert kept.of(key, lambda values: values + 1, [torch.zeros(2)]) is not None
    assert list(kept.kept) == ["a", "c"]

    again = Recordings(seen=1, at_most=1)
    made = [again.of(key, lambda values: values, [torch.zeros(2)]) is not None for key in "aabbaa"]
    assert made == [False, True, False, True, False, True]  # what went has to come twice once more

    class Uncopied(torch.Tensor):
        def clone(self):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    assert kept.of("d", lambda values: values, [Uncopied()]) is None
    assert kept.of("a", lambda values: values, [torch.zeros(2)]) is None
    assert [record.getMessage() for record in caplog.records if "one by one" in record.getMessage()]
    assert len([record for record in caplog.records if "one by one" in record.getMessage()]) == 1


def test_while_a_card_is_full_nothing_is_recorded(monkeypatch):
    for free, wanted in ((10, False), (24, False), (25, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 100))
        assert module._has_room(torch.device("cuda")) is wanted
    kept, arguments = Recordings(seen=1), ("a", lambda values: values, [torch.zeros(2)])
    monkeypatch.setattr(module, "_has_room", lambda _: False)
    assert [kept.of(*arguments) for _ in range(3)] == [None] * 3 and not kept.failed
    monkeypatch.setattr(module, "_has_room", lambda _: True)
    assert kept.of(*arguments) is not None


def test_threads_that_choose_a_kernel_leave_the_choice_as_it_was():
    flags = (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.flash_sdp_enabled)
    before, inside, leave, left = [flag() for flag in flags], Event(), Event(), []
    assert any(before)

    def other():
        with of_short_sequences("cuda"):
            inside.set()
            leave.wait(10)
            left.append([flag() for flag in flags])

    thread = Thread(target=other)
    with of_short_sequences("cuda"):
        assert not any(flag() for flag in flags)
        thread.start()
        assert inside.wait(10)
    leave.set()
    thread.join()
    assert left == [[False, False]] and [flag() for flag in flags] == before
    with of_short_sequences("cpu"):
        assert [flag() for flag in flags] == before


def test_a_kernel_that_was_switched_off_stays_off():
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    try:
        with of_short_sequences("cuda"):
            assert not torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_mem_efficient_sdp(True)


def stepped(**changed):
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, num_levels=4)
    torch.manual_seed(0)
    model = MacRecForConditionalGeneration(MacRecConfig(vocab_size=80, **sizes | {"dropout_rate": 0.0} | changed))
    model = accelerate(model).train()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 80, (8, 9), generator=generator)
    items = torch.randint(3, 80, (2, 5, 4), generator=generator)
    batch = {
        "input_ids": ids,
        "attention_mask": (ids > 5).long(),
        "labels": ids[:, :4].contiguous(),
        "alignment_input_ids": items,
    }
    return model, batch


def test_a_step_has_the_losses_and_gradients_of_a_plain_one():
    model, batch = stepped()
    wanted = model(**batch)
    wanted.loss.backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    step = RecordedStep("cpu", seen=1)
    assert step(model, batch) is None and all(weight.grad is None for weight in model.parameters())
    for _ in range(2):
        losses = step(model, batch)
        assert set(losses) == {"loss", "generation_loss", "alignment_loss"}
        for name, value in losses.items():
            torch.testing.assert_close(value, wanted[name].detach())
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(weight.grad, gradient)
        model.zero_grad()


def test_dropout_is_drawn_anew():
    model, batch = stepped(dropout_rate=0.5)
    step = RecordedStep("cpu", seen=0)
    first, second = (step(model, batch)["loss"] for _ in range(2) if model.zero_grad() is None)
    assert first != second


def _freeze_another(model):
    model.shared.requires_grad_(True)
    model.encoder.final_layer_norm.requires_grad_(False)


def _align_more(model):
    model.config.implicit_alignment_weight *= 3


def _drop_nothing(model):
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


@pytest.mark.parametrize("change", [_freeze_another, _align_more, _drop_nothing])
def test_what_a_recording_has_taken_in_makes_another_when_it_changes(change):
    model, batch = stepped(dropout_rate=0.3 if change is _drop_nothing else 0.0)
    model.shared.requires_grad_(False)
    step = RecordedStep("cpu", seen=0)
    step(model, batch)
    model.zero_grad()
    change(model)
    found = step(model, batch)
    gradients = [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]
    assert len(step.recordings.kept) == 2
    model.zero_grad()
    if change is _drop_nothing:  # attention keeps its rate: what it draws is not to be compared
        return
    wanted = model(**batch)
    wanted.loss.backward()
    torch.testing.assert_close(found["loss"], wanted.loss.detach())
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        assert (gradient is None) == (weight.grad is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, weight.grad)


def test_a_step_that_fails_leaves_no_gradients(monkeypatch):
    model, batch = stepped()
    backward = torch.Tensor.backward

    def failing(loss):
        backward(loss)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.Tensor, "backward", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        RecordedStep("cpu", seen=0)(model, batch)
    assert all(weight.grad is None for weight in model.parameters())


def test_under_autocast_of_the_caller_a_step_is_the_callers():
    model, batch = stepped()
    with torch.autocast("cpu", torch.bfloat16):
        assert RecordedStep("cpu", seen=0)(model, batch) is None


def _hook_on_a_weight(model):
    model.shared.weight.register_hook(lambda gradient: gradient)


def _backward_hook(model):
    model.encoder.block[0].register_full_backward_hook(lambda *_: None)


def _forward_hook(model):
    model.encoder.block[0].register_forward_hook(lambda *_: None)


def _gradients_that_are_there(model):
    model.shared.weight.grad = torch.zeros_like(model.shared.weight)


@pytest.mark.parametrize(
    "change",
    [
        _hook_on_a_weight,
        _backward_hook,
        _forward_hook,
        _gradients_that_are_there,
        nn.Module.eval,
        lambda model: model.activation_checkpointing_enable(),
    ],
)
def test_a_step_that_does_more_is_left_to_the_caller(change):
    model, batch = stepped()
    step = RecordedStep("cpu", seen=0)
    assert step(model, batch) is not None
    model.zero_grad()
    change(model)
    assert step(model, batch) is None
    assert step(model.train(), {name: batch[name] for name in ("input_ids", "attention_mask")}) is None
