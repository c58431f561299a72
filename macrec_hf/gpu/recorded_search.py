"""The beam search of whole batches as recordings, one for each bucket of users and lengths."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..model.beam_search import BeamRequest
from ..model.limits import TrieLimits
from ..model.model_decoding import SearchPasses
from ..model.t5_decoding import start_token
from ..model.trie import SemanticIdTrie
from .attention import of_short_sequences
from .buckets import bucket_of
from .recordings import Recordings, taken_in

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Search = Callable[[SearchPasses, Sequence[BeamRequest], int, torch.Tensor | None], Found]

FEWEST_USERS = 4  # a search of one user takes as long
MOST_USERS = 2048  # of more the kernels work longer than it takes to launch them


class RecordedSearch:
    """`search_batch`, or a recording of it in the next larger shapes.

    Users and columns are added that are padding and nothing else, and their lists are cut off. Whatever a recording
    would not follow goes the ordinary way: states that were encoded before, adapters, autocast, and a search through
    the model's own forward pass.

    Args:
        device_type: where it records.
        seen: see [`Recordings`].
    """

    def __init__(self, device_type: str = "cuda", seen: int = 2):
        self.device_type, self.recordings = device_type, Recordings(seen)

    def __call__(
        self,
        search: Search,
        passes: SearchPasses,
        requests: Sequence[BeamRequest],
        num_beams: int,
        states: torch.Tensor | None,
    ) -> Found:
        """What `search(passes, requests, num_beams, states)` returns."""
        with of_short_sequences(passes.model.device.type):
            found = None if states is not None else self._recorded(search, passes, requests, num_beams)
            return search(passes, requests, num_beams, states) if found is None else found

    def _recorded(
        self, search: Search, passes: SearchPasses, requests: Sequence[BeamRequest], num_beams: int
    ) -> Found | None:
        """What a recording finds; `None`: there is none."""
        if not self._records(passes, requests):
            return None
        model = passes.model
        padded = [_Padded.of(request) for request in requests]
        inputs = [values for each in padded for values in each.tensors]
        key: Hashable = (
            num_beams,
            taken_in(model),
            start_token(model),
            torch.backends.cuda.matmul.fp32_precision,
            tuple((each.trie, each.names) for each in padded),
            tuple((values.shape, values.dtype) for values in inputs),
        )

        def run(*values: torch.Tensor) -> Found:
            places = iter(values)
            again = [each.request(places) for each in padded]
            return search(SearchPasses(model), again, num_beams, None)

        with self.recordings.lock:
            recording = self.recordings.of(key, run, inputs)
            if recording is None:
                return None
            return _cut(recording(*inputs), requests, [each.users for each in padded])

    def _records(self, passes: SearchPasses, requests: Sequence[BeamRequest]) -> bool:
        users, model = [len(request.input_ids) for request in requests], passes.model
        return (
            model.device.type == self.device_type
            and passes.by_weights
            and 0 < min(users)
            and sum(users) <= MOST_USERS
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled(self.device_type)
            and not torch.compiler.is_compiling()
            and not any(type(module).__module__.startswith("peft.") for module in model.modules())
            and model.dtype == model.lm_head.weight.dtype
        )


@dataclass
class _Padded:
    """A request in the shapes of a bucket: its tensors, and what is no tensor."""

    users: int
    trie: SemanticIdTrie
    limits: TrieLimits | None
    names: tuple[str, ...]  # of the limits' tensors, behind `input_ids` and `attention_mask`
    tensors: list[torch.Tensor]

    @classmethod
    def of(cls, request: BeamRequest) -> "_Padded":
        users, length = request.input_ids.shape
        more = bucket_of(users, FEWEST_USERS) - users
        room = (0, bucket_of(length) - length, 0, more)
        mask = request.attention_mask
        mask = torch.ones_like(request.input_ids) if mask is None else mask
        tensors = [nn.functional.pad(values, room) for values in (request.input_ids, mask)]
        limits = {} if request.limits is None else _padded_limits(request.limits, more)
        return cls(users + more, request.trie, request.limits, tuple(limits), [*tensors, *limits.values()])

    def request(self, tensors: Iterator[torch.Tensor]) -> BeamRequest:
        """The same request, of the next tensors."""
        input_ids, mask = next(tensors), next(tensors)
        limits = None if self.limits is None else self.limits.of({name: next(tensors) for name in self.names})
        return BeamRequest(input_ids, mask, self.trie, limits)


def _padded_limits(limits: TrieLimits, more: int) -> dict[str, torch.Tensor]:
    """Its tensors, with so many more users who may have nothing, and lists in buckets of lengths."""
    padded, beyond = {}, len(limits.trie.leaf_rows)
    for name, values in limits.tensors().items():
        if name.endswith("_list"):
            room = (0, bucket_of(values.shape[1]) - values.shape[1], 0, more)
            padded[name] = nn.functional.pad(values, room, value=beyond)
        else:  # a running count, of one row where it is that of all users
            padded[name] = nn.functional.pad(values, (0, 0, 0, more)) if len(values) > 1 else values
    return padded


def _cut(found: Found, requests: Sequence[BeamRequest], padded: Sequence[int]) -> Found:
    """Copies without the users and columns that were added."""
    length = max(request.input_ids.shape[1] for request in requests)
    sizes = [len(request.input_ids) for request in requests]

    def cut(values: torch.Tensor) -> torch.Tensor:
        parts = [part[:size] for part, size in zip(values.split(list(padded)), sizes, strict=True)]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    leaves, scores, hidden = found
    return cut(leaves), cut(scores), cut(hidden[:, :length])
