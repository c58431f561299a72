"""T5's feed-forward layer and attention in training on a CPU, forward and backward, a part of the rows at a time.

A training step of a small T5 spends more time on fetching activations from memory than on arithmetic. Here a part of
the rows goes through a whole layer, forward or backward, while its intermediate values stay in the processor's cache;
what the backward pass needs of them is written once. Each thread multiplies its own rows (a batched product with one
matrix a thread), which keeps them in its own cache, and dropout takes a random byte an element.
"""

from typing import Any

import torch

from .byte_dropout import scale_of
from .cpu_parts import (
    RandomBytes,
    buffers,
    drop,
    inverse_norms,
    parts,
    softmax,
    sums,
    through_norm,
    through_softmax,
    within,
)


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
        draws = RandomBytes()
        kept = []
        for part in cut:
            count = part.size
            here, up, down = part.of(hidden), part.of(inner), lowered[:count]
            part.product(torch.mul(here, part.of(inverse), out=normed[:count]), first, up)
            drop(up, draws.draw(up, inner_dropped), inner_dropped, up)
            part.product(up.clamp_min_(0), second, down)
            kept.append(draws.draw(down, dropped))
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
        of_wi, of_wo = (sums(hidden, ctx.cut, size, width) for _ in range(2))
        out = torch.empty_like(hidden)
        normed, masked, lowered, raised = buffers(hidden, ctx.cut, size, size, size, width)
        for part, drawn in zip(ctx.cut, kept, strict=True):
            count = part.size
            around, values, up, down = part.of(gradient), part.of(inner), raised[:count], lowered[:count]
            mine = drop(around, drawn, ctx.dropped, masked[:count])
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
        draws = RandomBytes()
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
            drawn = draws.draw(weights, weights_dropped)
            kept = drop(weights, drawn, weights_dropped, scores.view_as(weights))
            values = within(all_values, heads, count, width)
            torch.bmm(kept, value, out=values.view(-1, length, width))
            mine = part.of(attended)
            mine.view(count, heads, width).copy_(values.transpose(0, 1))
            lowered = part.product(mine, lowering, normed)
            lowered_drawn = draws.draw(lowered, dropped)
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
        of_o, of_joined = (sums(hidden, ctx.cut, size, each) for each in (inner, 3 * inner))
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
            mine = drop(around, lowered_drawn, ctx.dropped, within(all_masked, count, size))
            part.add_product(of_o, mine, part.of(attended))
            of_values = within(all_of_values, heads, count, width)
            of_values = torch.bmm(mine.expand(heads, count, size), raising, out=of_values).view(-1, length, width)
            query, key, value = projected.view(3, -1, length, width)
            of_projected = within(all_of_projected, *projected.shape)
            of_query, of_key, of_value = of_projected.view(3, -1, length, width)
            kept = drop(weights, drawn, ctx.weights_dropped, within(all_kept, *weights.shape))
            torch.bmm(kept.transpose(1, 2), of_values, out=of_value)
            of_weights = torch.bmm(of_values, value.transpose(1, 2), out=within(all_of_weights, *weights.shape))
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
        draws = RandomBytes()
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
            weight = softmax(scores, some.of(weights))
            on_weights = draws.draw(weight, weights_dropped)
            kept = drop(weight, on_weights, weights_dropped, scores)
            states = within(all_states, part.size, wide)
            torch.bmm(kept, rows, out=states.view(-1, length * heads, size))
            lowered = part.product(states, out_of, normed)
            on_lowered = draws.draw(lowered, dropped)
            drop(lowered, on_lowered, dropped, lowered)
            drawn += [on_weights, on_lowered]
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
        of_into, of_out_of = (sums(hidden, ctx.cut, size, wide) for _ in range(2))
        of_bias = hidden.new_zeros(both, keys) if ctx.biased else None
        of_source = None if source is None else torch.empty_like(source)
        out = torch.empty_like(flat)
        narrow, square = length * size, both * keys
        all_masked, all_normed, all_of_rows, all_wide, all_kept, all_of_weights = buffers(
            hidden, ctx.cut, narrow, narrow, narrow, length * wide, square, square
        )
        for some, on_weights, on_lowered in zip(ctx.cut, drawn[::2], drawn[1::2], strict=True):
            part = some.in_rows(length)
            shape = part.size, size
            weight, query = some.of(weights), part.of(queries).view(-1, both, size)
            around = part.of(gradient)
            mine = drop(around, on_lowered, ctx.dropped, within(all_masked, *shape))
            normed = torch.mul(part.of(flat), part.of(inverse), out=within(all_normed, *shape))
            rows = normed.view(-1, length, size) if source is None else some.of(source)
            kept = drop(weight, on_weights, ctx.weights_dropped, within(all_kept, *weight.shape))
            # What was attended is less to compute than to fetch from memory.
            attended = within(all_wide, part.size, wide)
            torch.bmm(kept, rows, out=attended.view(-1, both, size))
            part.add_product(of_out_of, mine, attended)
            raised = part.product(mine, raising, within(all_wide, part.size, wide))
            of_states = raised.view(-1, both, size)
            of_weights = torch.bmm(of_states, rows.transpose(1, 2), out=within(all_of_weights, *weight.shape))
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
