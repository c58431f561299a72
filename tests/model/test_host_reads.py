"""Nothing in a training step of the recommender waits for the device: each such read empties a GPU's queue."""

import traceback
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select"}
OF_TRANSFORMERS = {"masking_utils.py"}  # whether a padding mask hides anything, once for each kind of attention


class Reads(TorchDispatchMode):
    """Counts operations whose result the host waits for, by the file that asks."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(place is not None and place.dtype == torch.bool for place in args[1])
        if name in WAITING or by_mask:
            frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
            asking = frames[-2].filename.rpartition("/")[2]  # the last one is this method
            self.found[asking] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model_and_batch():
    torch.manual_seed(0)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1, num_levels=3)
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
    assert reads.found.keys() <= OF_TRANSFORMERS and reads.found.total() <= 3
    with Reads() as reads:  # the test would see one
        float(batch["labels"].sum())
        batch["labels"][batch["labels"] > 9]
    assert reads.found == {"test_host_reads.py": 2}


def test_the_forward_pass_of_a_training_compiles_without_a_break(model_and_batch):
    model, batch = model_and_batch
    explained = torch._dynamo.explain(model)(**batch)
    assert explained.graph_count == 1 and explained.graph_break_count == 0, explained.break_reasons
    torch._dynamo.reset()
