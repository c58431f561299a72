"""FSDP2 for a model with tied weights, and the whole weights back for what calls parts of it by themselves."""

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
    """Shards a model for FSDP2 where accelerate would; what no layer holds, with the tied weights, in one group.

    accelerate 1.15 gives a T5's input and output embeddings a group of their own and leaves the encoder's and the
    decoder's, which are the same weight, to the rest: torch 2.13 refuses that. A model that is sharded already it
    leaves as it is.
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
    """All weights in every process while an evaluation lasts; nothing happens to a model that is not sharded.

    The processes share the users of an evaluation: they call the model unequally often, and could not gather weights
    with one another at each call.
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
    """A sharded model gathered into one of its own class, in the main process; every process has to call it.

    A model that is not sharded, and any in the other processes, comes back as it is.
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
