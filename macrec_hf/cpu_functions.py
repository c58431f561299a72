"""T5's feed-forward layer and self-attention in training on a CPU, forward and backward, a part of the rows at a time.

A training step of a small T5 spends more time on fetching activations from memory than on arithmetic. Here a part of
the rows goes through a whole layer, forward or backward, while its intermediate values stay in the processor's cache;
what the backward pass needs of them is written once. Each thread multiplies its own rows (a batched product with one
matrix a thread), which keeps them in its own cache, and dropout takes a random byte an element.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from .byte_dropout import scale_of

_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}  # one word serves as many elements as it has bytes
_CACHE = 2**23  # bytes a thread of the widest intermediate value, by timing 1 to 64 MiB
_PAGE = 4096  # bytes; values that many apart share places in a processor's caches and drive each other out
_ROWS_AT_ONCE = 176  # that wide, of a thread in a sum of products, by timing 128 to 2,048
_VECTOR = 64  # bytes; torch's softmax takes a shorter row number by number
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

    def product(self, values: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """(rows, in) · (in, out) → (rows, out), each thread its rows."""
        torch.bmm(self.by_team(values), weight.expand(self.teams, *weight.shape), out=self.by_team(out))
        return out

    def add_product(self, total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        """Adds (rows, m)ᵀ · (rows, n) to (at least teams, m, n), a sum for each thread; the first part to nothing."""
        mine = total[: self.teams]
        in_pages = right.shape[1] * right.element_size() % _PAGE == 0
        rows = _ROWS_AT_ONCE if in_pages else self.size
        pieces = zip(*(self.by_team(values).split(rows, 1) for values in (left, right)), strict=True)
        for place, (some, others) in enumerate(pieces):
            if place or self.start:
                mine.baddbmm_(some.transpose(1, 2), others)
            else:
                torch.bmm(some.transpose(1, 2), others, out=mine)
        if not self.start:
            total[self.teams :].zero_()


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
    """A stream of random bytes that follows torch's seed, drawn twice as fast as by torch's own generator."""

    def __init__(self) -> None:
        self._generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))

    def draw(self, values: torch.Tensor) -> torch.Tensor:
        """What [`drop`] needs to decide each of `values`: a byte for each element, in integers of 64 bits."""
        count = -(-values.numel() // 8) + 1
        draws = self._generator.integers(-(2**63), 2**63 - 1, count, dtype=np.int64, endpoint=True)
        return torch.from_numpy(draws)


def drop(values: torch.Tensor, draws: torch.Tensor, dropped: int, out: torch.Tensor) -> torch.Tensor:
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
    """
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


def softmax(scores: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """[`torch.softmax`] over the last dimension, up to six times as fast where that is shorter than a vector."""
    if scores.shape[-1] * scores.element_size() >= _VECTOR:
        return torch.softmax(scores, -1, out=out)
    torch.sub(scores, scores.amax(-1, keepdim=True), out=out).exp_()
    return out.div_(out.sum(-1, keepdim=True))


def through_softmax(gradient: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The gradient of what [`softmax`] made `weights` of, from that of the weights."""
    if weights.shape[-1] * weights.element_size() >= _VECTOR:
        return torch.ops.aten._softmax_backward_data.out(gradient, weights, -1, weights.dtype, grad_input=out)
    mean = torch.mul(gradient, weights, out=out).sum(-1, keepdim=True)
    return out.addcmul_(weights, mean, value=-1)


def buffers(like: torch.Tensor, cut: list[Part], *widths: int) -> Iterator[torch.Tensor]:
    """A tensor of each width with the rows of the largest part, written anew for each."""
    rows = max(part.size for part in cut)
    return (like.new_empty(rows, width) for width in widths)


def within(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The beginning of a buffer in another shape."""
    return buffer.view(-1)[: math.prod(shape)].view(shape)


class FeedForward(torch.autograd.Function):
    """hidden + dropout(dropout(relu(norm(hidden) · wiᵀ)) · woᵀ)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        norm: torch.Tensor,
        wi: torch.Tensor,
        wo: torch.Tensor,
        epsilon: float,
        inner_dropped: int,
        dropped: int,
    ) -> torch.Tensor:
        """One layer.

        Args:
            hidden: (rows, d_model).
            norm: (d_model,), the weight of the norm.
            wi: (d_ff, d_model).
            wo: (d_model, d_ff).
            epsilon: added to the mean square.
            inner_dropped, dropped: of 256, see [`dropped_of`]: inner values and what is added to `hidden`.
        """
        (rows, size), width = hidden.shape, len(wi)
        cut = parts(rows, 1, width, hidden.element_size())
        first = (wi * (norm * scale_of(inner_dropped))).t()
        second = wo.t().contiguous()
        inverse = inverse_norms(hidden, epsilon)
        inner, out = hidden.new_empty(rows, width), torch.empty_like(hidden)
        normed, lowered = buffers(hidden, cut, size, size)
        draws = RandomBytes() if inner_dropped or dropped else None
        kept = []
        for part in cut:
            count = part.size
            here, up, down = part.of(hidden), part.of(inner), lowered[:count]
            part.product(torch.mul(here, part.of(inverse), out=normed[:count]), first, up)
            if draws and inner_dropped:
                drop(up, draws.draw(up), inner_dropped, up)
            part.product(up.clamp_min_(0), second, down)
            if draws and dropped:
                kept.append(draws.draw(down))
                drop(down, kept[-1], dropped, down)
            torch.add(here, down, alpha=scale_of(dropped), out=part.of(out))
        ctx.save_for_backward(hidden, norm, wi, wo, inverse, inner, *kept)
        ctx.cut, ctx.inner_dropped, ctx.dropped = cut, inner_dropped, dropped
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        hidden, norm, wi, wo, inverse, inner, *kept = ctx.saved_tensors
        size, width = hidden.shape[1], len(wi)
        gradient = gradient.contiguous()
        scale = scale_of(ctx.dropped)
        up_weight, down_weight = wo * (scale * scale_of(ctx.inner_dropped)), wi * norm
        teams = max(part.teams for part in ctx.cut)
        of_wi, of_wo = (hidden.new_empty(teams, size, width) for _ in range(2))
        out = torch.empty_like(hidden)
        normed, masked, lowered, raised = buffers(hidden, ctx.cut, size, size, size, width)
        for place, part in enumerate(ctx.cut):
            count = part.size
            around, values, up, down = part.of(gradient), part.of(inner), raised[:count], lowered[:count]
            mine = drop(around, kept[place], ctx.dropped, masked[:count]) if kept else around
            part.product(mine, up_weight, up)
            torch.ops.aten.threshold_backward.grad_input(up, values, 0, grad_input=up)
            part.add_product(of_wo, mine, values)
            here = torch.mul(part.of(hidden), part.of(inverse), out=normed[:count])
            part.add_product(of_wi, here, up)
            through_norm(part.product(up, down_weight, down), here, part.of(inverse), around, part.of(out))
        of_first = of_wi.sum(0).t()
        return out, (of_first * wi).sum(0), of_first * norm, of_wo.sum(0).mul_(scale), None, None, None


class SelfAttention(torch.autograd.Function):
    """hidden + dropout(attention(norm(hidden)) · oᵀ), with a bias for each head and a mask."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        norm: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        o: torch.Tensor,
        bias: torch.Tensor,
        mask: torch.Tensor | None,
        epsilon: float,
        weights_dropped: int,
        dropped: int,
    ) -> torch.Tensor:
        """One layer.

        Args:
            hidden: (users, length, d_model).
            norm: (d_model,).
            q, k, v: (heads · d_kv, d_model).
            o: (d_model, heads · d_kv).
            bias: (1, heads, length, length), added to the scores; has a gradient.
            mask: (users, 1 or heads, 1 or length, length), added to the scores; has none.
            weights_dropped, dropped: of 256, attention weights and what is added to `hidden`.
        """
        (users, length, size), heads = hidden.shape, bias.shape[1]
        inner = len(q)
        width = inner // heads
        cut = parts(users, length, 3 * inner, hidden.element_size())
        # (3 · heads, d_model, d_kv): queries, keys and values come out head by head, with nothing to rearrange.
        joined = (torch.cat((q, k, v)) * norm).view(3 * heads, width, size).transpose(1, 2).contiguous()
        lowering = (o * scale_of(weights_dropped)).t().contiguous()
        flat = hidden.view(-1, size)
        inverse = inverse_norms(flat, epsilon)
        attended, out = hidden.new_empty(users * length, inner), torch.empty_like(flat)
        all_normed, all_scores, all_values = buffers(hidden, cut, length * size, heads * length**2, length * inner)
        draws = RandomBytes() if weights_dropped or dropped else None
        saved = []
        for some in cut:
            part = some.in_rows(length)
            count = part.size
            here = part.of(flat)
            normed = torch.mul(here, part.of(inverse), out=within(all_normed, count, size))
            projected = torch.bmm(normed.expand(3 * heads, count, size), joined)
            query, key, value = projected.view(3, -1, length, width)
            scores = within(all_scores, heads, some.size, length, length)
            torch.bmm(query, key.transpose(1, 2), out=scores.view(-1, length, length))
            scores.add_(bias[0].unsqueeze(1))
            if mask is not None:
                scores.add_(some.of(mask).transpose(0, 1))
            weights = softmax(scores, torch.empty_like(scores)).view(-1, length, length)
            drawn = lowered_drawn = None
            kept = weights
            if draws and weights_dropped:
                drawn = draws.draw(weights)
                kept = drop(weights, drawn, weights_dropped, scores.view_as(weights))
            values = within(all_values, heads, count, width)
            torch.bmm(kept, value, out=values.view(-1, length, width))
            mine = part.of(attended)
            mine.view(count, heads, width).copy_(values.transpose(0, 1))
            lowered = part.product(mine, lowering, normed)
            if draws and dropped:
                lowered_drawn = draws.draw(lowered)
                drop(lowered, lowered_drawn, dropped, lowered)
            torch.add(here, lowered, alpha=scale_of(dropped), out=part.of(out))
            saved += [projected, weights, drawn, lowered_drawn]
        ctx.save_for_backward(hidden, norm, q, k, v, o, inverse, attended, *saved)
        ctx.cut, ctx.heads, ctx.weights_dropped, ctx.dropped = cut, heads, weights_dropped, dropped
        return out.view_as(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        hidden, norm, q, k, v, o, inverse, attended, *saved = ctx.saved_tensors
        (_, length, size), heads, inner = hidden.shape, ctx.heads, len(q)
        width = inner // heads
        flat, gradient = hidden.view(-1, size), gradient.contiguous().view(-1, size)
        scale = scale_of(ctx.dropped)
        projection = torch.cat((q, k, v))
        back = projection * norm
        raising = (o * (scale * scale_of(ctx.weights_dropped))).view(size, heads, width).transpose(0, 1).contiguous()
        teams = max(part.teams for part in ctx.cut)
        of_o = hidden.new_empty(teams, size, inner)
        of_joined = hidden.new_empty(teams, size, 3 * inner)
        of_bias = hidden.new_zeros(heads, length, length)
        out = torch.empty_like(flat)
        all_masked, all_normed, all_of_values, all_of_projected, all_together, all_kept, all_of_weights = buffers(
            hidden,
            ctx.cut,
            *(length * each for each in (size, size, inner, *[3 * inner] * 2)),
            *[heads * length**2] * 2,
        )
        for place, some in enumerate(ctx.cut):
            projected, weights, drawn, lowered_drawn = saved[4 * place : 4 * place + 4]
            part = some.in_rows(length)
            count = part.size
            around = part.of(gradient)
            mine = around
            if lowered_drawn is not None:
                mine = drop(around, lowered_drawn, ctx.dropped, within(all_masked, count, size))
            part.add_product(of_o, mine, part.of(attended))
            of_values = within(all_of_values, heads, count, width)
            of_values = torch.bmm(mine.expand(heads, count, size), raising, out=of_values).view(-1, length, width)
            query, key, value = projected.view(3, -1, length, width)
            of_projected = within(all_of_projected, *projected.shape)
            of_query, of_key, of_value = of_projected.view(3, -1, length, width)
            kept = weights
            if drawn is not None:
                kept = drop(weights, drawn, ctx.weights_dropped, within(all_kept, *weights.shape))
            torch.bmm(kept.transpose(1, 2), of_values, out=of_value)
            of_weights = torch.bmm(of_values, value.transpose(1, 2), out=within(all_of_weights, *weights.shape))
            if drawn is not None:
                drop(of_weights, drawn, ctx.weights_dropped, of_weights)
            of_scores = through_softmax(of_weights, weights, within(all_kept, *weights.shape))
            of_bias += of_scores.view(heads, -1, length, length).sum(1)
            torch.bmm(of_scores, key, out=of_query)
            torch.bmm(of_scores.transpose(1, 2), query, out=of_key)
            normed = torch.mul(part.of(flat), part.of(inverse), out=within(all_normed, count, size))
            together = within(all_together, count, 3 * inner)
            together.view(count, 3 * heads, width).copy_(of_projected.transpose(0, 1))
            part.add_product(of_joined, normed, together)
            of_normed = part.product(together, back, within(all_masked, count, size))
            through_norm(of_normed, normed, part.of(inverse), around, part.of(out))
        of_projection = of_joined.sum(0).t()
        of_norm = (of_projection * projection).sum(0)
        of_q, of_k, of_v = (of_projection * norm).chunk(3)
        of_o = of_o.sum(0).mul_(scale * scale_of(ctx.weights_dropped))
        return out.view_as(hidden), of_norm, of_q, of_k, of_v, of_o, of_bias.unsqueeze(0), None, None, None, None


class JoinedAttention(torch.autograd.Function):
    """Attention of short sequences, to themselves or a source, with products of weights in the place of weights.

    The scores of a head are norm(hidden) · qᵀ · k · sourceᵀ, and what it adds is weights · source · vᵀ · oᵀ. With
    qᵀ · k and vᵀ · oᵀ multiplied first, all heads of a user are one product with the rows of the source, and nothing
    has to be rearranged head by head. Where d_model is at most twice d_kv the products with weights are no more than
    before; those of the attention are d_model / d_kv times as many, which short sequences do not notice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        source: torch.Tensor | None,
        into: torch.Tensor,
        out_of: torch.Tensor,
        bias: torch.Tensor | None,
        mask: torch.Tensor | None,
        epsilon: float,
        weights_dropped: int,
        dropped: int,
    ) -> torch.Tensor:
        """One layer.

        Args:
            hidden: (users, length, d_model).
            source: (users, keys, d_model); None of self-attention: `hidden` over its root mean square.
            into: (d_model, heads · d_model), of each head qᵀ · k, with the norm's weight on the left; of
                self-attention on both sides.
            out_of: (heads · d_model, d_model), of each head vᵀ · oᵀ; of self-attention with the norm's weight on the
                left.
            bias: (1, heads, length, keys), added to the scores; has a gradient.
            mask: (users, 1 or heads, 1 or length, keys), added to the scores; has none.
            epsilon: added to the mean square.
            weights_dropped, dropped: of 256, attention weights and what is added to `hidden`.
        """
        users, length, size = hidden.shape
        keys, wide = length if source is None else source.shape[1], into.shape[1]
        heads = wide // size
        cut = parts(users, length, heads * max(size, keys), hidden.element_size())
        flat = hidden.view(-1, size)
        inverse = inverse_norms(flat, epsilon)
        queries = flat.new_empty(len(flat), wide)
        weights = flat.new_empty(users, length * heads, keys)
        out = torch.empty_like(flat)
        added = None if bias is None else bias[0].transpose(0, 1).contiguous()
        all_normed, all_scores, all_states = buffers(hidden, cut, length * size, heads * length * keys, length * wide)
        draws = RandomBytes() if weights_dropped or dropped else None
        drawn = []
        for some in cut:
            part = some.in_rows(length)
            here = part.of(flat)
            normed = torch.mul(here, part.of(inverse), out=within(all_normed, part.size, size))
            rows = normed.view(-1, length, size) if source is None else some.of(source)
            query = part.product(normed, into, part.of(queries)).view(-1, length * heads, size)
            scores = within(all_scores, some.size, length * heads, keys)
            torch.bmm(query, rows.transpose(1, 2), out=scores)
            by_head = scores.view(-1, length, heads, keys)
            if added is not None:
                by_head += added
            if mask is not None:
                by_head += some.of(mask).transpose(1, 2)
            kept = softmax(scores, some.of(weights))
            if draws and weights_dropped:
                drawn.append(draws.draw(kept))
                kept = drop(kept, drawn[-1], weights_dropped, scores)
            states = within(all_states, part.size, wide)
            torch.bmm(kept, rows, out=states.view(-1, length * heads, size))
            lowered = part.product(states, out_of, normed)
            if draws and dropped:
                drawn.append(draws.draw(lowered))
                drop(lowered, drawn[-1], dropped, lowered)
            torch.add(here, lowered, alpha=scale_of(dropped) * scale_of(weights_dropped), out=part.of(out))
        ctx.save_for_backward(hidden, source, into, out_of, inverse, queries, weights, *drawn)
        ctx.cut, ctx.biased, ctx.weights_dropped, ctx.dropped = cut, bias is not None, weights_dropped, dropped
        return out.view_as(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        hidden, source, into, out_of, inverse, queries, weights, *drawn = ctx.saved_tensors
        (_, length, size), (_, both, keys), wide = hidden.shape, weights.shape, into.shape[1]
        flat, gradient = hidden.view(-1, size), gradient.contiguous().view(-1, size)
        scale = scale_of(ctx.dropped) * scale_of(ctx.weights_dropped)
        raising, lowering = (out_of * scale).t(), into.t().contiguous()
        teams = max(part.teams for part in ctx.cut)
        of_into, of_out_of = hidden.new_empty(2, teams, size, wide)
        of_bias = hidden.new_zeros(both, keys) if ctx.biased else None
        of_source = None if source is None else torch.empty_like(source)
        out = torch.empty_like(flat)
        narrow, square = length * size, both * keys
        all_masked, all_normed, all_of_rows, all_wide, all_kept, all_of_weights = buffers(
            hidden, ctx.cut, narrow, narrow, narrow, length * wide, square, square
        )
        left = iter(drawn)
        for some in ctx.cut:
            part = some.in_rows(length)
            shape = part.size, size
            on_weights = next(left) if ctx.weights_dropped else None
            weight, query = some.of(weights), part.of(queries).view(-1, both, size)
            around = part.of(gradient)
            mine = around
            if ctx.dropped:
                mine = drop(around, next(left), ctx.dropped, within(all_masked, *shape))
            normed = torch.mul(part.of(flat), part.of(inverse), out=within(all_normed, *shape))
            rows = normed.view(-1, length, size) if source is None else some.of(source)
            kept = weight
            if on_weights is not None:
                kept = drop(weight, on_weights, ctx.weights_dropped, within(all_kept, *weight.shape))
            # What was attended is less to compute than to fetch from memory.
            attended = within(all_wide, part.size, wide)
            torch.bmm(kept, rows, out=attended.view(-1, both, size))
            part.add_product(of_out_of, mine, attended)
            raised = part.product(mine, raising, within(all_wide, part.size, wide))
            of_states = raised.view(-1, both, size)
            of_weights = torch.bmm(of_states, rows.transpose(1, 2), out=within(all_of_weights, *weight.shape))
            if on_weights is not None:
                drop(of_weights, on_weights, ctx.weights_dropped, of_weights)
            of_rows = within(all_of_rows, *rows.shape) if source is None else some.of(of_source)
            torch.bmm(kept.transpose(1, 2), of_states, out=of_rows)
            of_scores = through_softmax(of_weights, weight, within(all_kept, *weight.shape))
            if of_bias is not None:
                of_bias += of_scores.sum(0)
            of_rows.baddbmm_(of_scores.transpose(1, 2), query)
            torch.bmm(of_scores, rows, out=of_states)  # in its place the gradient of the queries
            part.add_product(of_into, normed, raised)
            of_normed = part.product(raised, lowering, within(all_masked, *shape))
            if source is None:
                of_normed += of_rows.view(shape)
            through_norm(of_normed, normed, part.of(inverse), around, part.of(out))
        if of_bias is not None:
            of_bias = of_bias.view(1, length, -1, keys).transpose(1, 2)
        return out.view_as(hidden), of_source, of_into.sum(0), of_out_of.sum(0).mul_(scale).t(), of_bias, *[None] * 4
