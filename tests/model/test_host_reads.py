"""Nothing in a training step or a decode waits for the device: each such read empties a GPU's queue.

Tensors of the device `meta` have shapes and no values. Every way of reading one on the host raises an error, and what
asks for the kind of device takes the way that it takes on a GPU. So what runs there has no reads at all.
"""

import contextlib
import copy

import decoding_tools
import numpy as np
import pytest
import torch
from host_reads import OF_TRANSFORMERS, Reads

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecQuantizer, MacRecQuantizerConfig
from macrec_hf.gpu import accelerate
from macrec_hf.model.beam_search import BeamRequest, beam_search, joint_beam_search, search_batch
from macrec_hf.model.ensemble import IndexedTrie
from macrec_hf.model.limits import Limits
from macrec_hf.model.losses import ProcessGroup
from macrec_hf.model.model_decoding import SearchPasses, candidate_scores
from macrec_hf.model.search_kernels import DecoderPast, SharedPast


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "item positions"])
def model_and_batch(request):
    torch.manual_seed(0)
    sizes = dict(
        num_item_positions=request.param,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=1,
        num_levels=3,
    )
    model = MacRecForConditionalGeneration(MacRecConfig(vocab_size=100, **sizes)).train()
    input_ids = torch.randint(8, 100, (4, 13))
    mask = (torch.arange(13) < torch.tensor([[13], [13], [10], [7]])).long()
    aligned = torch.randint(8, 100, (2, 4, 3))
    aligned[1, 2] = 0  # an item without an ID in the second modality
    batch = {"input_ids": input_ids, "attention_mask": mask, "labels": torch.randint(8, 100, (4, 3))}
    return model, batch | {"alignment_input_ids": aligned}


def test_a_training_step_reads_nothing_of_ours(model_and_batch):
    model, batch = model_and_batch
    with Reads() as reads:
        model(**batch).loss.backward()
    assert reads.found.keys() <= OF_TRANSFORMERS and reads.found.total() <= 2
    with Reads() as reads:  # the test would see one
        float(batch["labels"].sum())
        batch["labels"][batch["labels"] > 9]
        batch["labels"].tolist(), batch["labels"].cpu().numpy()
        torch.equal(batch["labels"], batch["labels"]), batch["labels"].flatten().bincount()
        batch["labels"].clone()[batch["labels"] > 9] = torch.zeros(())
        torch.arange(3).repeat_interleave(torch.arange(3))
    assert reads.found == {"test_host_reads.py": 9}


def test_accelerated_for_a_gpu_a_training_step_reads_nothing_at_all(model_and_batch, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which this device lacks
    model, batch = model_and_batch
    model, batch = copy.deepcopy(model).to("meta"), {name: values.to("meta") for name, values in batch.items()}
    with pytest.raises(RuntimeError, match="meta"):  # the device shows transformers' reads
        model(**batch)
    accelerate(model)(**batch).loss.backward()
    assert model.encoder.block[0].layer[0].SelfAttention.q.weight.grad.is_meta


def test_the_forward_pass_of_a_training_compiles_without_a_break(model_and_batch):
    model, batch = model_and_batch
    explained = torch._dynamo.explain(model)(**batch)
    assert explained.graph_count == 1 and explained.graph_break_count == 0, explained.break_reasons
    torch._dynamo.reset()


def test_a_step_of_the_quantizer_reads_nothing_where_items_lack_a_modality(monkeypatch):
    monkeypatch.setattr(ProcessGroup, "generator", lambda self, device: None)  # this device lacks one, and autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    config = MacRecQuantizerConfig(
        modalities={"text": 6, "image": 5}, num_levels=3, codebook_size=4, codebook_dim=4, hidden_sizes=(8,),
        num_pseudo_labels=4, contrastive_weights=(0.1, 0.1, 0.1),
    )  # fmt: skip
    quantizer = MacRecQuantizer(config).train()
    quantizer.set_codebooks({name: torch.randn(3, 4, 4) for name in ("text", "image")})
    quantizer = quantizer.to("meta")
    embeddings = {"text": torch.randn(8, 6), "image": torch.randn(8, 5)}
    labels = {name: torch.arange(8) % 4 for name in embeddings}
    masks = {"text": torch.ones(8, dtype=torch.bool), "image": torch.arange(8) > 2}
    batch = [{name: values.to("meta") for name, values in part.items()} for part in (embeddings, labels, masks)]
    out = quantizer(*batch)
    out.loss.backward()
    assert all(weight.grad.is_meta for weight in quantizer.parameters())
    with pytest.raises((RuntimeError, NotImplementedError), match="[mM]eta"):
        int(out.loss_rows["alignment_loss"]["text, image"])


USERS = [7, 4, 2, 5]


def on_meta(values):
    """Shapes without values, of tensors and of what holds some."""
    if isinstance(values, torch.Tensor):
        return values.to("meta")
    return [on_meta(each) for each in values] if isinstance(values, (list, tuple)) else values


def limits_of(kind, trie):
    users = len(USERS)
    if kind == "lists":
        return dict(allowed_items=torch.arange(20).expand(users, -1), excluded_items=torch.tensor([[3, -1]] * users))
    if kind == "masks":
        return dict(
            allowed_items=torch.rand(trie.num_items) > 0.2, excluded_items=torch.rand(users, trie.num_items) > 0.9
        )
    return {}


@pytest.mark.parametrize("kind", ["none", "lists", "masks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decode_reads_nothing(kind, dtype):
    trie = decoding_tools.random_trie()
    model = decoding_tools.tiny_model(dtype=dtype).to("meta")
    input_ids, mask = on_meta(decoding_tools.padded_batch(USERS))
    limits = Limits(len(USERS), trie.num_items, **limits_of(kind, trie)).on_trie(trie)
    requests = []
    for placed in (trie.to("meta"), decoding_tools.random_trie(seed=1).to("meta")):
        moved = None
        if limits is not None:
            moved = copy.copy(limits)
            vars(moved).update({name: on_meta(value) for name, value in vars(limits).items()}, trie=placed)
        requests.append(BeamRequest(input_ids, mask, placed, moved))
    alone = joint_beam_search(model, requests[:1], 5)[0]
    assert alone.leaves.is_meta and alone.leaves.shape == alone.scores.shape == (len(USERS), 5)
    both = joint_beam_search(model, requests, 5)
    assert [result.leaves.shape for result in both] == [(len(USERS), 5)] * 2
    scores = candidate_scores(model, alone.encoder_hidden_states, mask, requests[0].trie, alone.leaves)
    assert scores.is_meta and scores.shape == (len(USERS), 5)


def test_few_rows_of_a_user_share_a_past_and_many_do_not():
    model = decoding_tools.tiny_model(vocab_size=60).eval().to("meta")
    states = torch.empty(2, 5, model.config.d_model, dtype=model.dtype, device="meta")
    steps = SearchPasses(model).decoder(states, None)
    for rows, kind in ((20, SharedPast), (512, SharedPast), (513, DecoderPast), (None, DecoderPast)):
        assert type(steps.start(rows)[1]) is kind


def test_on_such_a_device_a_read_is_an_error():
    trie = decoding_tools.random_trie().to("meta")
    result = beam_search(decoding_tools.tiny_model().to("meta"), *on_meta(decoding_tools.padded_batch(USERS)), trie, 5)
    for read in (
        lambda: result.scores.isnan().any().item(),
        lambda: result.leaves.cpu(),
        lambda: result.leaves.unique(),
    ):
        with pytest.raises((RuntimeError, NotImplementedError), match="[mM]eta"):
            read()


def test_the_catalogue_is_on_the_host_already():
    trie = decoding_tools.random_trie()
    indexed = IndexedTrie(trie.to("meta"))  # from there it could not be copied
    for name in ("leaf_start", "leaf_rows", "item_leaf"):
        assert np.array_equal(getattr(indexed, name), getattr(trie, name))


@pytest.mark.parametrize("kind", ["none", "lists", "masks"])
@pytest.mark.parametrize("num_beams", [1, 6, 500])
def test_a_search_in_static_shapes_compiles_in_one_piece_and_finds_the_same(kind, num_beams):
    """What a recording of kernels needs: one function for all levels, in shapes that no value decides on."""
    torch.manual_seed(0)
    trie, model = decoding_tools.random_trie(), decoding_tools.tiny_model()
    input_ids, mask = decoding_tools.padded_batch(USERS)
    limits = Limits(len(USERS), trie.num_items, **limits_of(kind, trie)).on_trie(trie)
    expected = joint_beam_search(model, [BeamRequest(input_ids, mask, trie, limits)], num_beams)[0]

    def search(input_ids, mask):
        return search_batch(SearchPasses(model), [BeamRequest(input_ids, mask, trie, limits)], num_beams)

    torch._dynamo.reset()
    compiled = torch.compile(search, fullgraph=True, backend="eager", dynamic=False)
    with torch.no_grad():
        leaves, scores, _ = compiled(input_ids, mask)
    assert torch.equal(leaves, expected.leaves)
    torch.testing.assert_close(scores, expected.scores, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_in_the_shapes_of_a_bucket_the_lists_stay():
    """More users and longer histories than there are: what a recording for a bucket of shapes is given."""
    trie, model = decoding_tools.random_trie(), decoding_tools.tiny_model()
    input_ids, mask = decoding_tools.padded_batch(USERS)
    expected = beam_search(model, input_ids, mask, trie, 6)
    room = (0, 16 - input_ids.shape[1], 0, 8 - len(USERS))
    wide, wide_mask = (torch.nn.functional.pad(values, room) for values in (input_ids, mask))
    wide_mask[len(USERS) :, 0] = 1  # nobody, who reads one token
    found = beam_search(model, wide, wide_mask, trie, 6)
    assert torch.equal(found.leaves[: len(USERS)], expected.leaves)
    torch.testing.assert_close(found.scores[: len(USERS)], expected.scores, rtol=1e-5, atol=1e-5)
