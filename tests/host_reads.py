"""Operations of a step whose result the host waits for, counted by the file that asks."""

import traceback
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select"}
WAITING |= {"equal", "bincount"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPYING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}  # on a CPU no operation tells of them
OF_TRANSFORMERS = {"masking_utils.py"}  # whether a padding mask hides anything, once for each kind of attention


def asking() -> str:
    """The file that asks for the operation, the first on the way up that is neither torch's nor this one."""
    frames = [frame.filename for frame in traceback.extract_stack()]
    outside = [name for name in frames if "/torch/" not in name and name != __file__]
    return outside[-1].rpartition("/")[2]


class Reads(TorchDispatchMode):
    """Counts operations whose result the host waits for, by the file that asks."""

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self._copies = _Copies(self.found)

    def __enter__(self):
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._copies.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        by_mask = name in INDEXING and any(place is not None and place.dtype == torch.bool for place in args[1])
        unsized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or by_mask or unsized:
            self.found[asking()] += 1
        return function(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    """Counts what brings values to the host without an operation of its own where they are there already."""

    def __init__(self, found: Counter):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in COPYING:
            self.found[asking()] += 1
        return function(*args, **(kwargs or {}))
