"""What the layers of [`cpu_functions`] are made of: rows in parts, products by thread, dropout, norm."""

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import torch

from .cpu_linear import multiplies_by_onednn, product_by_onednn

_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}  # one word serves as many elements as it has bytes
_CACHE = 2**23  # bytes a thread of the widest intermediate value, by timing 1 to 64 MiB
_PAGE = 4096  # bytes; values that many apart share places in a processor's caches and drive each other out
_ROWS_AT_ONCE = 176  # that wide, of a thread in a sum of products, by timing 128 to 2,048
_FEWEST_ROWS = 64  # a thread; with fewer, fewer threads


class Part(NamedTuple):
    """Rows `start` to `stop`, cut equally among `teams` threads."""

    start: int
    stop: int
    teams: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def in_rows(self, length: int) -> "Part":
        """The same part, counted in rows, where it was counted in groups of `length` rows."""
        return Part(self.start * length, self.stop * length, self.teams)

    def of(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.start : self.stop]

    def by_team(self, values: torch.Tensor) -> torch.Tensor:
        """(rows, size) → (teams, rows / teams, size)."""
        return values.view(self.teams, -1, values.shape[-1])

    def product(self, values: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """(rows, in) · (in, out) → (rows, out), each thread its rows; where oneDNN multiplies not in `out`."""
        if multiplies_by_onednn(values):
            return product_by_onednn(values, weight)
        if out is None:
            out = values.new_empty(len(values), weight.shape[1])
        torch.bmm(self.by_team(values), weight.expand(self.teams, *weight.shape), out=self.by_team(out))
        return out


class Sum:
    """The sum of (rows, m)ᵀ · (rows, n) over parts, in order; each thread has one of its own until the end."""

    def __init__(self, cut: list[Part]):
        self._teams = max(part.teams for part in cut)
        self._sums: torch.Tensor | None = None  # (teams, m, n); of oneDNN, whose threads share one, (1, m, n)

    def add(self, part: Part, left: torch.Tensor, right: torch.Tensor) -> None:
        if multiplies_by_onednn(left):
            product = product_by_onednn(left.t(), right).unsqueeze(0)
            self._sums = product if self._sums is None else self._sums.add_(product)
            return
        first = self._sums is None
        if self._sums is None:
            self._sums = left.new_empty(self._teams, left.shape[1], right.shape[1])
            self._sums[part.teams :].zero_()
        mine = self._sums[: part.teams]
        in_pages = right.shape[1] * right.element_size() % _PAGE == 0
        rows = _ROWS_AT_ONCE if in_pages else part.size
        pieces = zip(*(part.by_team(values).split(rows, 1) for values in (left, right)), strict=True)
        for place, (some, others) in enumerate(pieces):
            if first and not place:
                torch.bmm(some.transpose(1, 2), others, out=mine)
            else:
                mine.baddbmm_(some.transpose(1, 2), others)

    def total(self) -> torch.Tensor:
        """(m, n), after the first part."""
        return cast(torch.Tensor, self._sums).sum(0)


def parts(count: int, rows: int, width: int, element_size: int) -> list[Part]:
    """Cuts `count` groups of `rows` rows into parts of which a thread's widest value, `width` a row, fits `_CACHE`."""
    most = max(1, _CACHE // (width * element_size * rows))
    teams = max(1, min(torch.get_num_threads(), count * rows // _FEWEST_ROWS, count))
    number = -(-count // (most * teams))
    each = teams * -(-count // (number * teams))
    found = []
    for start in range(0, count, each):
        size = min(each, count - start)
        even = size - size % teams
        if even:
            found.append(Part(start, start + even, teams))
        if size > even:
            found.append(Part(start + even, start + size, 1))
    return found


class RandomBytes:
    """A stream of random bytes that torch's generator seeds at the first draw; twice as fast as that generator."""

    def __init__(self) -> None:
        self._generator: np.random.Generator | None = None

    def draw(self, values: torch.Tensor, dropped: int) -> torch.Tensor | None:
        """What [`drop`] needs to decide each of `values`: a byte for each element, in integers of 64 bits.

        None if none is to be `dropped`; torch's generator then stays as it is.
        """
        if not dropped:
            return None
        if self._generator is None:
            self._generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
        count = -(-values.numel() // 8) + 1
        draws = self._generator.integers(-(2**63), 2**63 - 1, count, dtype=np.int64, endpoint=True)
        return torch.from_numpy(draws)


def drop(values: torch.Tensor, draws: torch.Tensor | None, dropped: int, out: torch.Tensor) -> torch.Tensor:
    """Zeros where an element's random byte is one of the `dropped` lowest, the element elsewhere; nothing is scaled.

    A word of random bytes is compared with a bound that depends on its highest byte alone. The bytes of a word decide
    for elements that are far apart: words that begin one byte later have another byte as their highest, so all
    comparisons read the same memory, one byte apart. The comparison is one of integers, and keeps or clears an
    element's bits: of torch's masking operations the one that runs at the speed of memory.

    Args:
        values: contiguous.
        draws: from [`RandomBytes.draw`]; left as they are.
        dropped: of 256.
        out: contiguous, like `values`, or `values` itself.

    Returns:
        `out`; `values` where there are no draws.
    """
    if draws is None:
        return values
    size, word = values.element_size(), _WORDS[values.dtype]
    bits, count = 8 * size, -(-values.numel() // size)
    bound = -(1 << (bits - 1)) + (dropped << (bits - 8)) - 1
    sources, targets = (each.view(-1).view(word).split(count) for each in (values, out))
    stored = draws.numpy()
    for begin, (source, target) in enumerate(zip(sources, targets, strict=True)):
        words = torch.frombuffer(stored, dtype=word, count=len(target), offset=begin)
        torch.ops.aten.threshold_backward.grad_input(source, words, bound, grad_input=target)
    return out


def inverse_norms(hidden: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(rows, size) → (rows, 1), one over the root mean square; T5 takes the squares in float32, in float64 too."""
    means = hidden.to(torch.float32).square().mean(1, keepdim=True)
    return means.add_(epsilon).rsqrt_().to(hidden.dtype)


def through_norm(
    gradient: torch.Tensor, normed: torch.Tensor, inverse: torch.Tensor, residual: torch.Tensor, out: torch.Tensor
) -> None:
    """The gradient of a layer's input: what comes back through the norm (overwritten) and around the layer.

    Args:
        gradient: (rows, size), of the normed values, without the norm's weight.
        normed: (rows, size), likewise.
        inverse: (rows, 1), from [`inverse_norms`].
        residual: (rows, size), of the layer's output.
        out: (rows, size).
    """
    mean = torch.linalg.vecdot(gradient, normed).div_(-normed.shape[1]).unsqueeze(1)
    gradient.addcmul_(normed, mean)
    torch.addcmul(residual, gradient, inverse, out=out)


def buffers(like: torch.Tensor, cut: list[Part], *widths: int) -> Iterator[torch.Tensor]:
    """A tensor of each width with the rows of the largest part, written anew for each."""
    rows = max(part.size for part in cut)
    return (like.new_empty(rows, width) for width in widths)


def within(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The beginning of a buffer in another shape."""
    return buffer.view(-1)[: math.prod(shape)].view(shape)
