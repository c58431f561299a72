"""What has to be the same on a GPU: `pytest -m cuda`. Without one each test is skipped."""

import copy

import decoding_tools
import pytest
import torch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.gpu import accelerate
from macrec_hf.gpu.recorded_step import RecordedStep
from macrec_hf.model.beam_search import BeamRequest, beam_search, joint_beam_search
from macrec_hf.model.logits_process import SemanticIdLogitsProcessor

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no CUDA device: these compare a GPU with a CPU"
    ),
]
LENGTHS = [9, 4, 2, 7, 9, 3]


def searched(dtype=torch.float32, **sizes):
    trie = decoding_tools.random_trie(num_items=200, codebook_size=12, num_levels=4)
    model = decoding_tools.tiny_model(vocab_size=60, d_model=64, d_ff=128, d_kv=16, **sizes)
    batch = [values.cuda() for values in decoding_tools.padded_batch(LENGTHS, vocab_size=60)]
    return accelerate(model).to("cuda", dtype), batch, trie.to("cuda")


def test_in_float32_the_lists_are_those_of_generate_and_of_a_cpu():
    model, (input_ids, mask), trie = searched()
    found = beam_search(model, input_ids, mask, trie, 10)
    written = model.generate(
        input_ids,
        attention_mask=mask,
        num_beams=10,
        num_return_sequences=10,
        max_new_tokens=4,
        logits_processor=[SemanticIdLogitsProcessor(trie)],
    )
    leaves = trie.leaf_of_tokens(written[:, 1:]).view(len(LENGTHS), 10)
    assert torch.equal(found.leaves, leaves)
    on_cpu = beam_search(copy.deepcopy(model).cpu(), input_ids.cpu(), mask.cpu(), trie.to("cpu"), 10)
    assert torch.equal(found.leaves.cpu(), on_cpu.leaves)
    torch.testing.assert_close(found.scores.cpu(), on_cpu.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_most_of_the_first_ten_stay(dtype):
    exact, half = (beam_search(*_arguments(searched(each)), 20).leaves for each in (torch.float32, dtype))
    kept = [len(set(a) & set(b)) for a, b in zip(exact[:, :10].tolist(), half[:, :10].tolist(), strict=True)]
    assert sum(kept) >= 0.85 * 10 * len(LENGTHS)


def _arguments(parts):
    model, batch, trie = parts
    return model, *batch, trie


def test_modalities_in_one_batch_are_those_apart():
    model, (input_ids, mask), trie = searched()
    requests = [BeamRequest(input_ids, mask, trie), BeamRequest(input_ids[:3, :9], None, trie)]
    for request, found in zip(requests, joint_beam_search(model, requests, 8), strict=True):
        alone = beam_search(model, request.input_ids, request.attention_mask, trie, 8)
        assert torch.equal(found.leaves, alone.leaves)


def test_an_accelerated_step_is_the_plain_step():
    torch.manual_seed(0)
    sizes = dict(d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, num_decoder_layers=2, num_levels=4)
    plain = MacRecForConditionalGeneration(MacRecConfig(vocab_size=80, dropout_rate=0.0, **sizes)).cuda().train()
    fast = accelerate(copy.deepcopy(plain))
    ids = torch.randint(3, 80, (32, 25), device="cuda")
    mask = (torch.arange(25, device="cuda") < torch.randint(2, 26, (32, 1), device="cuda")).long()
    items = ids[:20, :8].reshape(20, 2, 4).transpose(0, 1)
    batch = {"attention_mask": mask, "labels": ids[:, :4].contiguous(), "alignment_input_ids": items}
    for model in (plain, fast):
        model(ids, **batch).loss.backward()
    for (name, mine), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            mine.grad, other.grad, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
    with torch.autocast("cuda", dtype=torch.bfloat16):
        losses = [float(model(ids, **batch).loss) for model in (plain, fast)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_nothing_waits_for_the_device():
    model, (input_ids, mask), trie = searched(torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        beam_search(model, input_ids, mask, trie, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_search_gives_the_lists_of_a_launched_one(dtype):
    model, (input_ids, mask), trie = searched(dtype)
    recordings = model.search_kernels.run_batch.recordings
    excluded = torch.randint(-1, trie.num_items, (len(LENGTHS), 5), device="cuda")
    for given in ({}, {"excluded_items": excluded}):
        wanted = beam_search(model, input_ids, mask, trie, 10, **given)
        kept = len(recordings.kept)
        for users in (len(LENGTHS), 3, len(LENGTHS), 3, len(LENGTHS)):
            limits = {name: values[:users] for name, values in given.items()}
            found = beam_search(model, input_ids[:users], mask[:users], trie, 10, **limits)
            _assert_alike(found, wanted.leaves[:users], wanted.scores[:users])
        assert len(recordings.kept) > kept and not recordings.failed
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    kept = dict(recordings.kept)
    found = beam_search(model, input_ids, mask, trie, 10)
    plain = beam_search(copy.deepcopy(model), input_ids, mask, trie, 10)
    assert dict(recordings.kept) == kept
    _assert_alike(found, plain.leaves, plain.scores)


def _assert_alike(found, leaves, scores):
    """Equal lists in float32; in half precision products of other shapes are rounded in other places."""
    if found.encoder_hidden_states.dtype == torch.float32:
        assert torch.equal(found.leaves, leaves)
        torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-4)
    kept = [len(set(a) & set(b)) for a, b in zip(found.leaves.tolist(), leaves.tolist(), strict=True)]
    assert sum(kept) >= 0.7 * leaves.numel()


def test_a_recorded_step_is_a_launched_one_and_draws_new_dropout():
    torch.manual_seed(0)
    sizes = dict(d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, num_decoder_layers=2, num_levels=4)
    ids = torch.randint(3, 80, (32, 28), device="cuda")
    batch = {"attention_mask": torch.ones_like(ids), "labels": ids[:, :4].contiguous()}
    batch = {"input_ids": ids, **batch, "alignment_input_ids": ids[:20, :8].reshape(20, 2, 4).transpose(0, 1)}
    for rate in (0.0, 0.3):
        config = MacRecConfig(vocab_size=80, dropout_rate=rate, **sizes)
        model, step = accelerate(MacRecForConditionalGeneration(config).cuda().train()), RecordedStep(seen=1)
        model(**batch).loss.backward()
        gradients = [weight.grad.clone() for weight in model.parameters()]
        losses = []
        for _ in range(4):
            model.zero_grad()
            found = step(model, batch)
            losses += [] if found is None else [float(found["loss"])]
        assert len(losses) == 3 and not step.recordings.failed
        assert len(set(losses)) == (1 if rate == 0.0 else 3)
        if rate == 0.0:
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-4)
