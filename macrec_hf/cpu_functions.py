"""T5's feed-forward layer and attention in training on a CPU, forward and backward, a part of the rows at a time.

A training step of a small T5 spends more time on fetching activations from memory than on arithmetic. Here a part of
the rows goes through a whole layer, forward or backward, while its intermediate values stay in the processor's cache;
what the backward pass needs of them is written once. Each thread multiplies its own rows (a batched product with one
matrix a thread, or oneDNN's linear map), which keeps them in its own cache, and dropout takes a random byte an element.
"""

from typing import Any

import torch

from .byte_dropout import scale_of
from .cpu_parts import RandomBytes, Sum, buffers, drop, inverse_norms, laid_out, parts, through_norm, within

# Scores and weights are (…, keys, queries). Of short sequences that is the faster softmax (torch takes a short last
# dimension number by number), and with all heads of a user side by side in the last one also the faster products.
_KEYS = -2


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
        second = laid_out(wo.t())
        inverse = inverse_norms(hidden, epsilon)
        out = torch.empty_like(hidden)
        normed, lowered = buffers(hidden, cut, size, size)
        draws = RandomBytes()
        saved = []
        for part in cut:
            here = part.of(hidden)
            up = part.product(torch.mul(here, part.of(inverse), out=normed[: part.size]), first)
            drop(up, draws.draw(up, inner_dropped), inner_dropped, up)
            down = part.product(up.clamp_min_(0), second, lowered[: part.size])
            drawn = draws.draw(down, dropped)
            drop(down, drawn, dropped, down)
            torch.add(here, down, alpha=scale_of(dropped), out=part.of(out))
            saved += [up, drawn]
        ctx.save_for_backward(hidden, norm, wi, wo, inverse, *saved)
        ctx.cut, ctx.inner_dropped, ctx.dropped = cut, inner_dropped, dropped
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        hidden, norm, wi, wo, inverse, *saved = ctx.saved_tensors
        size, width = hidden.shape[1], len(wi)
        gradient = gradient.contiguous()
        scale = scale_of(ctx.dropped)
        up_weight, down_weight = wo * (scale * scale_of(ctx.inner_dropped)), wi * norm
        of_wi, of_wo = Sum(ctx.cut), Sum(ctx.cut)
        out = torch.empty_like(hidden)
        normed, masked, lowered, raised = buffers(hidden, ctx.cut, size, size, size, width)
        for part, values, drawn in zip(ctx.cut, saved[::2], saved[1::2], strict=True):
            around = part.of(gradient)
            mine = drop(around, drawn, ctx.dropped, masked[: part.size])
            up = part.product(mine, up_weight, raised[: part.size])
            torch.ops.aten.threshold_backward.grad_input(up, values, 0, grad_input=up)
            of_wo.add(part, mine, values)
            here = torch.mul(part.of(hidden), part.of(inverse), out=normed[: part.size])
            of_wi.add(part, here, up)
            down = part.product(up, down_weight, lowered[: part.size])
            through_norm(down, here, part.of(inverse), around, part.of(out))
        of_first = of_wi.total().t().contiguous()  # as the weight, which it is multiplied with
        return out, (of_first * wi).sum(0), of_first * norm, of_wo.total().mul_(scale), None, None, None


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
        joined = laid_out((torch.cat((q, k, v)) * norm).t())
        lowering = laid_out((o * scale_of(weights_dropped)).t())
        flat = hidden.view(-1, size)
        inverse = inverse_norms(flat, epsilon)
        out = torch.empty_like(flat)
        added = bias[0].transpose(1, 2).unsqueeze(1)
        all_normed, all_scores, all_values = buffers(hidden, cut, length * size, heads * length**2, length * inner)
        draws = RandomBytes()
        saved = []
        for some in cut:
            part = some.in_rows(length)
            here = part.of(flat)
            normed = torch.mul(here, part.of(inverse), out=within(all_normed, part.size, size))
            projected = part.product(normed, joined)
            scores = within(all_scores, heads, some.size, length, length)
            values = within(all_values, heads, some.size, length, width)
            for head, (query, key, _) in enumerate(_by_head(projected, length, heads)):
                torch.bmm(key, query.transpose(1, 2), out=scores[head])
            scores.add_(added)
            if mask is not None:
                scores.add_(some.of(mask).permute(1, 0, 3, 2))
            weights = torch.softmax(scores, _KEYS)
            on_weights = draws.draw(weights, weights_dropped)
            kept = drop(weights, on_weights, weights_dropped, scores)
            for head, (_, _, value) in enumerate(_by_head(projected, length, heads)):
                torch.bmm(kept[head].transpose(1, 2), value, out=values[head])
            attended = values.permute(1, 2, 0, 3).reshape(part.size, inner)
            lowered = part.product(attended, lowering, normed)
            on_lowered = draws.draw(lowered, dropped)
            drop(lowered, on_lowered, dropped, lowered)
            torch.add(here, lowered, alpha=scale_of(dropped), out=part.of(out))
            saved += [projected, weights, attended, on_weights, on_lowered]
        ctx.save_for_backward(hidden, norm, q, k, v, o, inverse, *saved)
        ctx.cut, ctx.heads, ctx.weights_dropped, ctx.dropped = cut, heads, weights_dropped, dropped
        return out.view_as(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        hidden, norm, q, k, v, o, inverse, *saved = ctx.saved_tensors
        (_, length, size), heads, inner = hidden.shape, ctx.heads, len(q)
        width = inner // heads
        flat, gradient = hidden.view(-1, size), gradient.contiguous().view(-1, size)
        scale = scale_of(ctx.dropped) * scale_of(ctx.weights_dropped)
        projection = torch.cat((q, k, v))
        back, raising = projection * norm, o * scale
        of_o, of_joined = Sum(ctx.cut), Sum(ctx.cut)
        of_bias = hidden.new_zeros(heads, length, length)
        out = torch.empty_like(flat)
        all_masked, all_normed, all_of_values, all_of_projected, all_together, all_kept, all_of_weights = buffers(
            hidden,
            ctx.cut,
            *(length * each for each in (size, size, inner, *[3 * inner] * 2)),
            *[heads * length**2] * 2,
        )
        for some, *mine in zip(ctx.cut, *(saved[place::5] for place in range(5)), strict=True):
            projected, weights, attended, on_weights, on_lowered = mine
            part = some.in_rows(length)
            around = part.of(gradient)
            masked = drop(around, on_lowered, ctx.dropped, within(all_masked, part.size, size))
            of_o.add(part, masked, attended)
            of_values = part.product(masked, raising, within(all_of_values, part.size, inner))
            of_values = of_values.view(-1, length, heads, width).unbind(2)
            of_projected = within(all_of_projected, 3, heads, some.size, length, width)
            kept = drop(weights, on_weights, ctx.weights_dropped, within(all_kept, *weights.shape))
            of_weights = within(all_of_weights, *weights.shape)
            for head, (_, _, value) in enumerate(_by_head(projected, length, heads)):
                torch.bmm(kept[head], of_values[head], out=of_projected[2, head])
                torch.bmm(value, of_values[head].transpose(1, 2), out=of_weights[head])
            drop(of_weights, on_weights, ctx.weights_dropped, of_weights)
            of_scores = _through_softmax(of_weights, weights, within(all_kept, *weights.shape))
            of_bias += of_scores.sum(1)
            for head, (query, key, _) in enumerate(_by_head(projected, length, heads)):
                torch.bmm(of_scores[head].transpose(1, 2), key, out=of_projected[0, head])
                torch.bmm(of_scores[head], query, out=of_projected[1, head])
            normed = torch.mul(part.of(flat), part.of(inverse), out=within(all_normed, part.size, size))
            together = within(all_together, part.size, 3 * inner)
            together.view(-1, length, 3, heads, width).copy_(of_projected.permute(2, 3, 0, 1, 4))
            of_joined.add(part, normed, together)
            of_normed = part.product(together, back, within(all_masked, part.size, size))
            through_norm(of_normed, normed, part.of(inverse), around, part.of(out))
        of_projection = of_joined.total().t().contiguous()
        of_norm = (of_projection * projection).sum(0)
        of_q, of_k, of_v = (of_projection * norm).chunk(3)
        of_projections = of_q, of_k, of_v, of_o.total().mul_(scale)
        return out.view_as(hidden), of_norm, *of_projections, of_bias.transpose(1, 2).unsqueeze(0), *[None] * 4


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
        both = length * heads
        out = torch.empty_like(flat)
        added = None if bias is None else bias[0].permute(2, 1, 0).reshape(keys, both)
        all_normed, all_scores, all_states = buffers(hidden, cut, length * size, keys * both, length * wide)
        draws = RandomBytes()
        saved = []
        for some in cut:
            part = some.in_rows(length)
            here = part.of(flat)
            normed = torch.mul(here, part.of(inverse), out=within(all_normed, part.size, size))
            rows = normed.view(-1, length, size) if source is None else some.of(source)
            query = part.product(normed, into).view(-1, both, size)
            scores = within(all_scores, some.size, keys, both)
            torch.bmm(rows, query.transpose(1, 2), out=scores)
            if added is not None:
                scores += added
            if mask is not None:
                scores.view(-1, keys, length, heads).add_(some.of(mask).permute(0, 3, 2, 1))
            weights = torch.softmax(scores, _KEYS)
            on_weights = draws.draw(weights, weights_dropped)
            kept = drop(weights, on_weights, weights_dropped, scores)
            states = within(all_states, part.size, wide)
            torch.bmm(kept.transpose(1, 2), rows, out=states.view(-1, both, size))
            lowered = part.product(states, out_of, normed)
            on_lowered = draws.draw(lowered, dropped)
            drop(lowered, on_lowered, dropped, lowered)
            torch.add(here, lowered, alpha=scale_of(dropped) * scale_of(weights_dropped), out=part.of(out))
            saved += [query, weights, on_weights, on_lowered]
        ctx.save_for_backward(hidden, source, into, out_of, inverse, *saved)
        ctx.cut, ctx.biased, ctx.weights_dropped, ctx.dropped = cut, bias is not None, weights_dropped, dropped
        return out.view_as(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        hidden, source, into, out_of, inverse, *saved = ctx.saved_tensors
        (_, length, size), wide = hidden.shape, into.shape[1]
        keys, both = saved[1].shape[1:]
        flat, gradient = hidden.view(-1, size), gradient.contiguous().view(-1, size)
        scale = scale_of(ctx.dropped) * scale_of(ctx.weights_dropped)
        raising, lowering = (out_of * scale).t(), laid_out(into.t())
        of_into, of_out_of = Sum(ctx.cut), Sum(ctx.cut)
        of_bias = hidden.new_zeros(keys, both) if ctx.biased else None
        of_source = None if source is None else torch.empty_like(source)
        out = torch.empty_like(flat)
        narrow, square = length * size, keys * both
        all_masked, all_normed, all_of_rows, all_wide, all_kept, all_of_weights = buffers(
            hidden, ctx.cut, narrow, narrow, narrow, length * wide, square, square
        )
        for some, *mine in zip(ctx.cut, *(saved[place::4] for place in range(4)), strict=True):
            query, weights, on_weights, on_lowered = mine
            part = some.in_rows(length)
            shape = part.size, size
            around = part.of(gradient)
            masked = drop(around, on_lowered, ctx.dropped, within(all_masked, *shape))
            normed = torch.mul(part.of(flat), part.of(inverse), out=within(all_normed, *shape))
            rows = normed.view(-1, length, size) if source is None else some.of(source)
            kept = drop(weights, on_weights, ctx.weights_dropped, within(all_kept, *weights.shape))
            # What was attended is less to compute than to fetch from memory.
            attended = within(all_wide, part.size, wide)
            torch.bmm(kept.transpose(1, 2), rows, out=attended.view(-1, both, size))
            of_out_of.add(part, masked, attended)
            raised = part.product(masked, raising, within(all_wide, part.size, wide))
            of_states = raised.view(-1, both, size)
            of_weights = torch.bmm(rows, of_states.transpose(1, 2), out=within(all_of_weights, *weights.shape))
            drop(of_weights, on_weights, ctx.weights_dropped, of_weights)
            of_rows = within(all_of_rows, *rows.shape) if source is None else some.of(of_source)
            torch.bmm(kept, of_states, out=of_rows)
            of_scores = _through_softmax(of_weights, weights, within(all_kept, *weights.shape))
            if of_bias is not None:
                of_bias += of_scores.sum(0)
            of_rows.baddbmm_(of_scores, query)
            torch.bmm(of_scores.transpose(1, 2), rows, out=of_states)  # in its place the gradient of the queries
            of_into.add(part, normed, raised)
            of_normed = part.product(raised, lowering, within(all_masked, *shape))
            if source is None:
                of_normed += of_rows.view(shape)
            through_norm(of_normed, normed, part.of(inverse), around, part.of(out))
        if of_bias is not None:
            of_bias = of_bias.view(1, keys, length, -1).permute(0, 3, 2, 1)
        return out.view_as(hidden), of_source, of_into.total(), of_out_of.total().mul_(scale).t(), of_bias, *[None] * 4


def _by_head(projected: torch.Tensor, length: int, heads: int) -> list[tuple[torch.Tensor, ...]]:
    """(rows, 3 · heads · d_kv) → of each head its queries, keys and values, each (users, length, d_kv)."""
    by_head = projected.view(-1, length, 3, heads, projected.shape[1] // (3 * heads))
    return [head.unbind(2) for head in by_head.unbind(3)]


def _through_softmax(gradient: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The gradient of the scores, from that of their softmax."""
    return torch.ops.aten._softmax_backward_data.out(gradient, weights, _KEYS, weights.dtype, grad_input=out)
