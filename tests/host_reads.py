"""Operations of a step whose result the host waits for, counted by the file that asks."""

import traceback
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
