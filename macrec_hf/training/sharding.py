"""FSDP2 for a model with tied weights, and its weights gathered again for evaluation and saving."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy, get_module_children_bottom_up
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


def shard_tied_model(model: nn.Module, accelerator: Accelerator) -> None:
    """Shards the layers that accelerate would shard for FSDP2; all other weights, tied ones included, are one group.

    accelerate 1.15 puts a T5's input and output embeddings in a group of their own, but leaves the embeddings of
    encoder and decoder, which are the same weight, in the group of the rest: torch 2.13 refuses that. accelerate does
    not shard a model again that is sharded already.
    """
    plugin = accelerator.state.fsdp_plugin
    plugin.set_auto_wrap_policy(model)
    options = {
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
        "offload_policy": plugin.cpu_offload,
    }
    in_a_group = fsdp2_prepare_auto_wrap_policy(plugin, model)
    for module in get_module_children_bottom_up(model)[:-1]:
        if in_a_group is not None and in_a_group(module):
            fully_shard(module, **options)
    fully_shard(model, **options)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Gathers all weights of a sharded model in every process, for as long as an evaluation lasts.

    Each process evaluates users of its own and calls the model more or less often than the others, so weights cannot
    be gathered at each call, which needs all processes at once. A model that is not sharded stays as it is.
    """
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
            shard.set_reshard_after_forward(shard is not model, recurse=False)  # as `fully_shard` has it by default


def whole_copy(model: Model, accelerator: Accelerator) -> Model:
    """Gathers a sharded model into an unsharded one of the same class. Every process has to call this.

    Returns:
        The unsharded copy in the main process; the model itself in the other processes, and if it is not sharded.
    """
    if not isinstance(model, FSDPModule):
        return model
    weights = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return model
    # Sharding has made its class a subclass of this one and of FSDPModule.
    plain = next(cls for cls in type(model).__mro__ if not issubclass(cls, FSDPModule))
    whole = cast(type[Model], plain)(model.config)
    whole.load_state_dict(weights)
    return whole
