"""Kernels that a GPU launches for a training step and a decode, counted without one: `python benchmarks/launches.py`.

The model stands on torch's device `meta`: its tensors go through the same code as those of a GPU and hold no values.
Counted are the operations that torch hands to a device, by kind, without views and what only makes room. Attention,
norms and dropout, which torch takes apart on this device, count as the one kernel that a GPU has for each, forward and
backward. The optimizer, which is fused, and the casts of half precision are not in the counts.
"""

import argparse
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import masking_utils

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration  # noqa: E402
from macrec_hf.gpu import accelerate  # noqa: E402
from macrec_hf.model.beam_search import beam_search  # noqa: E402
from macrec_hf.model.trie import SemanticIdTrie  # noqa: E402

VOCABULARY, LEVELS, CODES = 2055, 4, 256
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}


class AsOnAGpu(TorchFunctionMode):
    """Gives attention, norms and dropout the one operation that they are on a GPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention and args[0].is_meta:
            return attention(*args, **kwargs)
        if function is functional.rms_norm:
            hidden, shape, weight, eps = (*args, *(kwargs.get(name) for name in ("weight", "eps")[len(args) - 2 :]))
            return functional.layer_norm(hidden, shape, weight, None, eps or 1e-6)
        if function is functional.dropout:
            rate, training = (
                args[1] if len(args) > 1 else kwargs["p"],
                args[2] if len(args) > 2 else kwargs["training"],
            )
            return torch.native_dropout(args[0], rate, True)[0] if training and rate else args[0]
        return function(*args, **kwargs)


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale)[0]


class Launches(TorchDispatchMode):
    """Counts operations that launch a kernel, by name, and the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.found, self.moved = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        aliases = [value.alias_info for value in function._schema.returns]
        if name not in NO_KERNEL and not any(alias is not None and not alias.is_write for alias in aliases):
            self.found[name] += 1
            made = function(*args, **(kwargs or {}))
            touched = [value for value in tree_leaves((args, kwargs, made)) if isinstance(value, torch.Tensor)]
            self.moved += sum(min(value.nbytes, value.untyped_storage().nbytes()) for value in touched)
            return made
        return function(*args, **(kwargs or {}))


def count(call):
    with AsOnAGpu(), Launches() as launches:
        call()
    return launches.found


def bytes_moved(length, users, rows, **sizes):
    """Bytes that the operations of a decode of `users` and of a step of `rows` read and write, in bfloat16."""
    model, found = accelerate(model_of(**sizes)).to(torch.bfloat16), {}
    for name, call in (("decode", decode_of(model, users, length)), ("step", on_meta(step_of(model, rows, length)))):
        with AsOnAGpu(), Launches() as launches:
            (model.eval if name == "decode" else model.train)()
            call()
        found[name] = launches.moved
    return found


def model_of(**sizes):
    with torch.device("meta"):
        return MacRecForConditionalGeneration(MacRecConfig(vocab_size=VOCABULARY, **sizes))


def step_of(model, rows=1024, length=26, items=900):
    """A training step of both modalities: forward and backward."""
    ids = torch.full((rows, length), 9, device=model.device)
    aligned = torch.full((2, items, LEVELS), 9, device=model.device)
    batch = {
        "attention_mask": torch.ones_like(ids),
        "labels": ids[:, :LEVELS].contiguous(),
        "alignment_input_ids": aligned,
    }
    model.train()

    def step():
        model(ids, **batch).loss.backward()

    return step


def decode_of(model, users=512, length=26, num_items=6250):
    """The lists of one modality, 20 beams."""
    keys = torch.randperm(CODES**2)[:num_items]
    codes = torch.stack([keys // CODES, keys % CODES, keys % 7, keys % 3], dim=1)
    trie = SemanticIdTrie(codes, CODES, [7 + level * CODES for level in range(LEVELS)]).to(model.device)
    ids = torch.full((users, length), 9, device=model.device)
    mask = torch.ones_like(ids)
    model.eval()

    @torch.no_grad()
    def decode():
        beam_search(model, ids, mask, trie, 20)

    return decode


def counts(**sizes):
    """`{what: {kind: launches}}`, before and after `macrec_hf.gpu.accelerate`."""
    found = {}
    for name, prepare in (("transformers' layers", lambda model: model), ("accelerated", accelerate)):
        model = prepare(model_of(**sizes))
        found[f"step, {name}"] = count(on_meta(step_of(model)))
        found[f"decode, {name}"] = count(decode_of(model.to(torch.bfloat16)))
    return found


def on_meta(call):
    """The call without what this device lacks: autocast, and an answer to transformers whether there is padding."""

    def called():
        asked, autocast = masking_utils._ignore_bidirectional_mask_sdpa, torch.autocast
        masking_utils._ignore_bidirectional_mask_sdpa = lambda *args, **kwargs: False
        torch.autocast = lambda *args, **kwargs: nullcontext()
        try:
            call()
        finally:
            masking_utils._ignore_bidirectional_mask_sdpa, torch.autocast = asked, autocast

    return called


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=int, default=12, help="kinds to print of each (default 12)")
    kinds = parser.parse_args().kinds
    for name, found in counts().items():
        print(f"{name}: {found.total()} launches: " + ", ".join(f"{n} {kind}" for kind, n in found.most_common(kinds)))


if __name__ == "__main__":
    main()
