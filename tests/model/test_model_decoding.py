"""What a hook, an adapter or a subclass does to the model, it does to the search."""

import copy
import logging

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from decoding_tools import all_leaf_scores, padded_batch, random_trie, tiny_model
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import AttentionInterface, AttentionMaskInterface, T5Config, T5ForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.t5.modeling_t5 import T5Attention, T5Block, T5LayerFF, T5LayerNorm
from transformers.utils import ModelOutput

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.cpu import accelerate
from macrec_hf.model import model_decoding
from macrec_hf.model.beam_search import BeamRequest, beam_search, joint_beam_search
from macrec_hf.model.limits import Limits
from macrec_hf.model.logits_process import SemanticIdLogitsProcessor
from macrec_hf.model.model_decoding import ModelSteps, SearchPasses, candidate_scores, exact_scores
from macrec_hf.model.search_kernels import departure
from macrec_hf.model.t5_decoding import DecoderSteps

VOCAB_SIZE, FIRST = 45, {"text": 5, "image": 23}  # the image codes come after the text codes
TRIES = {name: random_trie(first_code=first) for name, first in FIRST.items()}
SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3}
FEED_FORWARD = {"plain": {}, "gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}}
BATCH = padded_batch([7, 3, 5], vocab_size=VOCAB_SIZE, left=(1,))


def make_model(kind=MacRecForConditionalGeneration, **config):
    torch.manual_seed(0)
    settings = {**SIZES, "vocab_size": VOCAB_SIZE, "decoder_start_token_id": 0, "initializer_factor": 0.7, **config}
    model = kind(
        T5Config(**settings) if kind is T5ForConditionalGeneration else MacRecConfig(num_levels=3, **settings)
    )
    model.generation_config.length_penalty = 0.0
    return model.double().eval()


def scaled(output):
    """The output of a module with its first tensor scaled, each feature by another factor: norms would undo one."""
    if isinstance(output, torch.Tensor):
        return output * torch.linspace(0.5, 1.3, output.shape[-1], dtype=output.dtype)
    if isinstance(output, ModelOutput):
        name = "logits" if "logits" in output else "last_hidden_state"
        return type(output)(**{**output, name: scaled(output[name])})
    return (scaled(output[0]), *output[1:])


def check_followed(model, slow=True, tries=TRIES):
    """Exact scores, beams and completed candidates are those of the model's own forward pass and of `generate`."""
    assert (departure(model) is not None) == slow
    for trie in tries.values():
        by_leaf = all_leaf_scores(model, *BATCH, trie)
        has_id = trie.item_leaf >= 0
        scores = exact_scores(model, *BATCH, trie, max_rows=9)
        torch.testing.assert_close(scores[:, has_id], by_leaf[:, trie.item_leaf[has_id]], atol=1e-9, rtol=0)
        result = beam_search(model, *BATCH, trie, 6)
        torch.testing.assert_close(result.scores, by_leaf.gather(1, result.leaves), atol=1e-9, rtol=0)
        again = candidate_scores(model, result.encoder_hidden_states, BATCH[1], trie, result.leaves)
        torch.testing.assert_close(again, result.scores, atol=1e-9, rtol=0)
        written = model.generate(
            BATCH[0],
            attention_mask=BATCH[1],
            num_beams=6,
            num_return_sequences=6,
            max_new_tokens=3,
            logits_processor=[SemanticIdLogitsProcessor(trie)],
        )
        assert torch.equal(trie.leaf_of_tokens(written[:, 1:4]).view(3, 6), result.leaves)
    return scores


def module_names(**config):
    return [name for name, _ in make_model(**config).named_modules(remove_duplicate=False)]


CASES = [(kind, name) for kind, config in FEED_FORWARD.items() for name in module_names(**config)]


@pytest.mark.parametrize("kind, name", CASES)
def test_a_forward_hook_on_any_module_is_followed(kind, name):
    model = make_model(**FEED_FORWARD[kind])
    plain = exact_scores(model, *BATCH, TRIES["image"])
    fired = []
    model.get_submodule(name).register_forward_hook(lambda _, __, output: fired.append(1) or scaled(output))
    called = name.rpartition(".")[2] not in ("shared", "block", "layer")  # those three T5 never calls
    scores = check_followed(model, slow=called, tries=TRIES if kind == "plain" else {"image": TRIES["image"]})
    assert bool(fired) == called and torch.allclose(scores, plain) != called


def test_item_positions_are_followed():
    model, plain = make_model(num_item_positions=3), exact_scores(make_model(), *BATCH, TRIES["text"])
    told = check_followed(model, slow=False)
    assert not torch.allclose(told, exact_scores(make_model(num_item_positions=1), *BATCH, TRIES["image"]))
    assert not torch.allclose(exact_scores(model, *BATCH, TRIES["text"]), plain)
    accelerate(model)
    torch.testing.assert_close(check_followed(model, slow=False), told, atol=1e-9, rtol=0)
    hook = model.encoder.item_positions.register_forward_hook(lambda _, __, output: scaled(output))
    assert not torch.allclose(check_followed(model), told)
    hook.remove()

    class Doubled(type(model.encoder)):
        def forward(self, *arguments, **kwargs):  # by this name, else `generate` leaves out the mask
            return scaled(super().forward(*arguments, **kwargs))

    model.encoder.__class__ = Doubled
    assert not torch.allclose(check_followed(model), told)


def on_block(model):
    model.decoder.block[1].register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.7, *inputs[1:]))


def on_model(model):
    def without_mask(_, __, given):
        return (), {**given, "attention_mask": None}

    model.register_forward_pre_hook(without_mask, with_kwargs=True)


def own_forward(model):
    attention = model.encoder.block[0].layer[0].SelfAttention
    before = attention.forward
    attention.forward = lambda *inputs, **named: scaled(before(*inputs, **named))


def own_forward_of_the_model(model):
    before = model.forward
    model.forward = lambda *inputs, **named: scaled(before(*inputs, **named))


class ScaledBlock(T5Block):
    def forward(self, *inputs, **named):
        return scaled(super().forward(*inputs, **named))


class ScaledNorm(T5LayerNorm):
    def forward(self, hidden_states):
        return scaled(super().forward(hidden_states))


class MixedLinear(nn.Linear):
    """Reads the positions before its own, as no linear map does."""

    def forward(self, hidden):
        steps = torch.arange(1, hidden.shape[1] + 1, dtype=hidden.dtype)[:, None]
        return super().forward(hidden) + 0.3 * (hidden.cumsum(1) / steps) @ self.weight.t()


def subclassed(path, cls):
    def change(model):
        model.get_submodule(path).__class__ = cls

    return change


def replaced_activation(model):
    for block in model.decoder.block:
        block.layer[-1].DenseReluDense.act = nn.SiLU()


def replaced_dropout(model):
    model.encoder.block[0].layer[1].dropout = nn.Softmax(dim=-1)


def parametrized(model):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(
        model.decoder.block[0].layer[1].EncDecAttention.v, "weight", Doubled()
    )


def other_attention(model):
    def flat(module, query, key, value, mask, position_bias=None, **named):
        return sdpa_attention_forward(module, query, key, value, mask, position_bias=position_bias * 0.3, **named)

    AttentionInterface.register("flat", flat)
    AttentionMaskInterface.register("flat", sdpa_mask)
    for config in {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }.values():
        config._attn_implementation = "flat"


CHANGES = {
    "pre-hook": (on_block, "decoder.block.1 has a forward pre-hook"),
    "pre-hook on the model": (on_model, "the model has a forward pre-hook"),
    "instance forward": (own_forward, "encoder.block.0.layer.0.SelfAttention has a forward pass of its own"),
    "instance forward of the model": (own_forward_of_the_model, "the model has a forward pass of its own"),
    "block": (subclassed("encoder.block.1", ScaledBlock), "encoder.block.1 is a ScaledBlock where a T5Block"),
    "norm": (subclassed("decoder.final_layer_norm", ScaledNorm), "decoder.final_layer_norm is a ScaledNorm"),
    "linear": (subclassed("encoder.block.0.layer.1.DenseReluDense.wi", MixedLinear), "wi is a MixedLinear"),
    "activation": (replaced_activation, "DenseReluDense.act is a SiLU where a ReLU was expected"),
    "dropout": (replaced_dropout, "layer.1.dropout is a Softmax where a Dropout"),
    "parametrization": (parametrized, "EncDecAttention.v is a Parametrized"),
    "attention": (other_attention, "encoder.block.0.layer.0.SelfAttention attends by 'flat'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("accelerated", [False, True], ids=["", "accelerated"])
def test_what_else_changes_a_module_is_followed_and_named(name, accelerated):
    change, reason = CHANGES[name]
    model = make_model()
    plain = exact_scores(model, *BATCH, TRIES["image"])
    model = accelerate(model) if accelerated else model
    change(model)
    assert reason in departure(model)
    if name == "pre-hook on the model":  # it hides the padding from the decoder, whoever calls
        assert not torch.allclose(beam_search(model, *BATCH, TRIES["text"], 6).scores, plain[:, :6])
        return
    assert not torch.allclose(check_followed(model), plain)


class Subclass(MacRecForConditionalGeneration):
    def forward(self, *inputs, **named):
        return scaled(super().forward(*inputs, **named))


class PlainSubclass(T5ForConditionalGeneration):
    def forward(self, *inputs, **named):
        return scaled(super().forward(*inputs, **named))


class QuietSubclass(MacRecForConditionalGeneration):
    """Changes nothing that is searched."""

    def implicit_alignment_loss(self, alignment_input_ids):
        return super().implicit_alignment_loss(alignment_input_ids) * 2


@pytest.mark.parametrize("kind, slow", [(Subclass, True), (PlainSubclass, True), (QuietSubclass, False)])
def test_a_subclass_with_another_forward_pass_is_followed(kind, slow):
    check_followed(make_model(kind), slow)


def test_a_global_hook_is_followed():
    model = make_model()
    plain = exact_scores(model, *BATCH, TRIES["image"])
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, output: scaled(output) if isinstance(module, T5LayerNorm) else None
    )
    try:
        assert departure(model) == "torch has a global forward hook"
        assert not torch.allclose(check_followed(model), plain)
    finally:
        handle.remove()
    assert departure(model) is None


class Lora(nn.Module):
    """As PEFT puts beside a linear map: nothing of `nn.Linear`, and each row by itself."""

    def __init__(self, base):
        super().__init__()
        self.base, self.change = (
            base,
            nn.Linear(base.in_features, base.out_features, bias=False, dtype=base.weight.dtype),
        )

    weight = property(lambda self: self.base.weight)
    bias = None

    def forward(self, hidden):
        return self.base(hidden) + 0.5 * self.change(hidden)


Lora.__module__ = "peft.tuners.lora.layer"


def test_adapters_on_linear_maps_are_called_without_leaving_the_fast_path():
    model = make_model()
    for name, module in list(model.named_modules()):
        if name.endswith((".q", ".v", ".wi", ".wo")):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Lora(module))
    check_followed(model, slow=False)
    model.decoder.block[0].layer[0].SelfAttention.q.register_forward_hook(lambda _, __, output: output * 0.7)
    check_followed(model)


@pytest.mark.parametrize("kind", [MacRecForConditionalGeneration, T5ForConditionalGeneration])
@pytest.mark.parametrize("accelerated", [False, True], ids=["", "accelerated"])
@pytest.mark.parametrize("config", FEED_FORWARD.values(), ids=FEED_FORWARD)
def test_an_untouched_model_is_searched_by_its_weights_without_a_notice(kind, accelerated, config, monkeypatch):
    monkeypatch.setattr(model_decoding.logger, "warning", lambda message: pytest.fail(message))
    model = make_model(kind, **config)
    model = accelerate(model) if accelerated else model
    for untouched in (model, copy.deepcopy(model), model.train()):
        assert SearchPasses(untouched).by_weights and departure(untouched) is None
    model.eval()
    check_followed(model, slow=False)
    model.encoder.register_full_backward_hook(lambda *_: None)  # changes gradients, not what is searched
    model.extra = nn.Dropout2d()  # nobody calls it
    model.generate(BATCH[0], attention_mask=BATCH[1], output_attentions=True, return_dict_in_generate=True)
    assert any(module._forward_hooks for module in model.modules())  # transformers' own: they record
    check_followed(model, slow=False)


def test_there_is_one_notice_a_model(caplog, monkeypatch):
    monkeypatch.setattr(model_decoding.logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, trie = make_model(), TRIES["text"]
    model.encoder.block[1].register_forward_hook(lambda _, __, output: scaled(output))
    for _ in range(2):
        beam_search(model, *BATCH, trie, 3)
        exact_scores(model, *BATCH, trie)
    notices = [record.getMessage() for record in caplog.records if "own forward pass" in record.getMessage()]
    assert len(notices) == 1 and "encoder.block.1 has a forward hook" in notices[0]


def test_precision_that_accelerate_sets_is_no_departure():
    from accelerate.utils.operations import convert_outputs_to_fp32

    model = make_model()
    for wrapped, slow in ((model, False), (make_model(Subclass), True)):
        wrapped._original_forward = wrapped.forward
        wrapped.forward = convert_outputs_to_fp32(wrapped.forward)
        assert (departure(wrapped) is not None) == slow
    model.forward = lambda **named: None
    assert "forward pass of its own" in departure(model)


def test_what_is_trained_in_half_precision_is_searched_in_its_own():
    """accelerate wraps autocast around the forward pass; a hook then leads the search through that pass."""
    model = make_model().float()
    expected = beam_search(model, *BATCH, TRIES["text"], 6)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have set it
    Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert model(*BATCH, labels=BATCH[0][:, :3].clone()).logits.dtype == torch.float32 and "_original_forward" in vars(
        model
    )
    assert departure(model) is None
    model.decoder.block[0].register_forward_hook(lambda *_: None)
    assert departure(model) is not None
    found = beam_search(model, *BATCH, TRIES["text"], 6)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert torch.equal(found.leaves, expected.leaves)


@pytest.mark.parametrize("cls", [T5LayerFF, T5LayerNorm, T5Attention, T5Block, nn.Linear, nn.Dropout])
def test_a_patched_class_is_followed(cls, monkeypatch):
    own = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, *given, **named: scaled(own(self, *given, **named)))
    model = make_model()
    assert departure(model) == f"the class {cls.__name__} has another forward pass than its library gave it"
    check_followed(model)


def test_scores_that_are_scaled_are_followed():
    model = make_model()
    model.decoder.block[1].layer[0].SelfAttention.scaling = 0.5
    assert departure(model) == "decoder.block.1.layer.0.SelfAttention scales its scores by 0.5"
    check_followed(model)


def test_an_adapters_dropout_is_off_whatever_the_mode():
    model = make_model()
    block = model.encoder.block[0].layer[0].SelfAttention
    block.q = Lora(block.q)
    block.q.change = nn.Sequential(nn.Dropout(0.5), block.q.change)
    expected = exact_scores(model, *BATCH, TRIES["text"])
    model.train()
    assert departure(model) is None
    assert torch.equal(exact_scores(model, *BATCH, TRIES["text"]), expected)
    found = beam_search(model, *BATCH, TRIES["text"], 6).scores
    assert torch.equal(beam_search(model, *BATCH, TRIES["text"], 6).scores, found) and model.training


def test_shards_are_no_departure():
    """FSDP makes subclasses whose hooks gather weights."""
    model = make_model()
    kinds = ((model.encoder.block[0], T5Block), (model, MacRecForConditionalGeneration))
    for module, cls in kinds:
        module.__class__ = type(f"FSDP{cls.__name__}", (FSDPModule, cls), {})
        module.register_forward_pre_hook(FSDPModule.unshard)
    assert departure(model) is None
    model.__class__ = type("FSDPSubclass", (FSDPModule, Subclass), {})
    assert departure(model) == "Subclass has a forward pass of its own"
    model.encoder.block[0].register_forward_hook(lambda *_: None)
    model.__class__ = MacRecForConditionalGeneration
    assert departure(model) == "encoder.block.0 has a forward hook"


def test_without_dropout_in_training_mode_and_the_modes_come_back():
    model, trie = make_model(dropout_rate=0.5), TRIES["text"]
    model.decoder.block[0].register_forward_hook(lambda _, __, output: scaled(output))
    expected = beam_search(model, *BATCH, trie, 6)
    model.train()
    model.encoder.block[0].eval()
    modes = [module.training for module in model.modules()]
    result = beam_search(model, *BATCH, trie, 6)
    assert torch.equal(result.scores, expected.scores) and torch.equal(result.leaves, expected.leaves)
    assert modes == [module.training for module in model.modules()]


def test_joint_requests_limits_and_no_candidates():
    model = make_model()
    model.decoder.register_forward_hook(lambda _, __, output: scaled(output))
    other = padded_batch([2, 4], vocab_size=VOCAB_SIZE, seed=1)
    limits = Limits(2, 40, excluded_items=torch.arange(40) < 9)
    limited = BeamRequest(*other, TRIES["image"], limits.on_trie(TRIES["image"]))
    requests = [BeamRequest(*BATCH, TRIES["text"]), limited]
    for request, found in zip(requests, joint_beam_search(model, requests, 5), strict=True):
        excluded = None if request.limits is None else torch.arange(40) < 9
        alone = beam_search(model, request.input_ids, request.attention_mask, request.trie, 5, excluded_items=excluded)
        assert torch.equal(found.leaves, alone.leaves)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-12, rtol=0)
    nobody = torch.zeros(2, 0, dtype=torch.long)
    assert candidate_scores(model, found.encoder_hidden_states, other[1], TRIES["image"], nobody).shape == (2, 0)


@torch.no_grad()
def test_both_ways_agree_without_any_departure(monkeypatch):
    """Steps of either kind, on the same prefixes, rows in several parts."""
    monkeypatch.setattr(model_decoding, "_ROWS", 4)
    model = tiny_model(VOCAB_SIZE, torch.float64)
    passes = SearchPasses(model)
    states = passes.encoder()(*BATCH)
    tokens = torch.randint(5, VOCAB_SIZE, (3, 4), generator=torch.Generator().manual_seed(0))
    found = []
    for steps in (passes.decoder(states, BATCH[1]), ModelSteps(model, states, BATCH[1])):
        hidden, past = steps.step(*steps.start())
        hidden, past = steps.step(tokens, past)
        parents = torch.tensor([[1, 1, 0], [3, 2, 0], [0, 0, 0]])
        hidden, past = steps.step(tokens[:, :3], past.reorder(parents))
        hidden, past = steps.step(tokens[:, 1:3], past.reorder(torch.tensor([2, 0])))
        found.append(steps.log_probs(hidden)[..., :VOCAB_SIZE])
    assert isinstance(passes.decoder(states, None), DecoderSteps)
    torch.testing.assert_close(*found, atol=1e-9, rtol=0)
