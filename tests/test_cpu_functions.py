import sys

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from macrec_hf import cpu_functions, cpu_linear, cpu_parts
from macrec_hf.byte_dropout import dropped_of, scale_of
from macrec_hf.cpu_functions import FeedForward, JoinedAttention, SelfAttention
from macrec_hf.cpu_parts import Part, RandomBytes, Sum, drop, inverse_norms, parts

EPSILON, SIZE, WIDTH, HEADS, LENGTH, USERS = 1e-6, 6, 10, 3, 5, 7


@pytest.fixture(params=["whole", "in parts"])
def cut(request, monkeypatch):
    """Layers in one part, and in several with a remainder that one thread takes."""
    if request.param == "in parts":
        monkeypatch.setattr(cpu_parts, "_CACHE", 1500)
        monkeypatch.setattr(cpu_parts, "_FEWEST_ROWS", 1)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(threads)
    else:
        yield


@pytest.fixture
def exact(monkeypatch):
    """Norms in float64 throughout: T5's mean of squares is one of float32 numbers, and so exact is its gradient."""

    def inverse_norms(hidden, epsilon):
        return (hidden.square().mean(1, keepdim=True) + epsilon).rsqrt()

    monkeypatch.setattr(cpu_functions, "inverse_norms", inverse_norms)


def normed(hidden, weight):
    return hidden * (hidden.pow(2).mean(-1, keepdim=True) + EPSILON).rsqrt() * weight


def leaves(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def assert_same(found, wanted, inputs):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    change = torch.randn_like(wanted)
    pairs = zip(torch.autograd.grad(found, inputs, change), torch.autograd.grad(wanted, inputs, change), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inner_dropped, dropped", [(0, 0), (64, 0), (0, 64), (100, 26)])
def test_feed_forward_is_its_formula_with_its_gradients(cut, exact, inner_dropped, dropped):
    rows = 53
    inputs = hidden, norm, wi, wo = leaves((rows, SIZE), (SIZE,), (WIDTH, SIZE), (SIZE, WIDTH))
    torch.manual_seed(1)
    found = FeedForward.apply(*inputs, EPSILON, inner_dropped, dropped)

    torch.manual_seed(1)
    draws = RandomBytes()
    inner, outer = torch.ones(rows, WIDTH, dtype=torch.float64), torch.ones(rows, SIZE, dtype=torch.float64)
    for part in parts(rows, 1, WIDTH, 8):
        for masks, number in ((inner, inner_dropped), (outer, dropped)):
            mask = part.of(masks)
            if number:
                drop(mask, draws.draw(mask, number), number, mask).mul_(scale_of(number))
    assert bool((inner == 0).any()) == bool(inner_dropped) and bool((outer == 0).any()) == bool(dropped)
    wanted = hidden + (torch.relu(normed(hidden, norm) @ wi.T) * inner @ wo.T) * outer
    assert_same(found, wanted, inputs)


@pytest.mark.parametrize("given", [None, "padding", "each query"])
@pytest.mark.parametrize("weights_dropped, dropped", [(0, 0), (64, 0), (0, 64), (100, 26)])
def test_self_attention_is_its_formula_with_its_gradients(cut, exact, weights_dropped, dropped, given):
    inner = HEADS * 4
    shapes = [(USERS, LENGTH, SIZE), (SIZE,), *[(inner, SIZE)] * 3, (SIZE, inner), (1, HEADS, LENGTH, LENGTH)]
    inputs = hidden, norm, q, k, v, o, bias = leaves(*shapes)
    mask = None
    if given:
        seen = torch.rand(USERS, 1, 1 if given == "padding" else LENGTH, LENGTH) < 0.7
        seen[..., 0] = True
        mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    torch.manual_seed(1)
    found = SelfAttention.apply(*inputs, mask, EPSILON, weights_dropped, dropped)

    torch.manual_seed(1)
    draws = RandomBytes()
    kept = torch.ones(USERS, HEADS, LENGTH, LENGTH, dtype=torch.float64)
    outer = torch.ones(USERS, LENGTH, SIZE, dtype=torch.float64)
    for part in parts(USERS, LENGTH, 3 * inner, 8):
        if weights_dropped:
            mine = torch.ones(HEADS, part.size, LENGTH, LENGTH, dtype=torch.float64)  # keys, queries
            drop(mine, draws.draw(mine, weights_dropped), weights_dropped, mine)
            part.of(kept).copy_(mine.permute(1, 0, 3, 2) * scale_of(weights_dropped))
        if dropped:
            mine = part.of(outer)
            drop(mine, draws.draw(mine, dropped), dropped, mine).mul_(scale_of(dropped))
    query, key, value = (
        (normed(hidden, norm) @ weight.T).view(USERS, LENGTH, HEADS, 4).transpose(1, 2) for weight in (q, k, v)
    )
    raised = (query @ key.mT + bias).exp() * (seen if given else 1)
    values = (raised / raised.sum(-1, keepdim=True) * kept) @ value
    wanted = hidden + (values.transpose(1, 2).reshape(USERS, LENGTH, inner) @ o.T) * outer
    assert_same(found, wanted, inputs)


@pytest.mark.parametrize("given", [None, "padding", "each query"])
@pytest.mark.parametrize("weights_dropped, dropped", [(0, 0), (64, 0), (0, 64), (100, 26)])
@pytest.mark.parametrize("to_itself", [True, False])
def test_joined_attention_is_its_formula_with_its_gradients(cut, exact, to_itself, weights_dropped, dropped, given):
    keys, wide = LENGTH if to_itself else LENGTH + 4, HEADS * SIZE
    shapes = [(USERS, LENGTH, SIZE), (USERS, keys, SIZE), (SIZE, wide), (wide, SIZE), (1, HEADS, LENGTH, keys)]
    hidden, source, into, out_of, bias = leaves(*shapes)
    mask = None
    if given:
        seen = torch.rand(USERS, 1, 1 if given == "padding" else LENGTH, keys) < 0.7
        seen[..., 0] = True
        mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    inputs = (hidden, into, out_of, bias) if to_itself else (hidden, source, into, out_of)
    torch.manual_seed(1)
    arguments = (hidden, None, into, out_of, bias) if to_itself else (hidden, source, into, out_of, None)
    found = JoinedAttention.apply(*arguments, mask, EPSILON, weights_dropped, dropped)

    torch.manual_seed(1)
    draws = RandomBytes()
    kept = torch.ones(USERS, keys, LENGTH, HEADS, dtype=torch.float64)
    outer = torch.ones(USERS, LENGTH, SIZE, dtype=torch.float64)
    for part in parts(USERS, LENGTH, HEADS * max(SIZE, keys), 8):
        for all_of_it, number in ((kept, weights_dropped), (outer, dropped)):
            mine = part.of(all_of_it)
            if number:
                drop(mine, draws.draw(mine, number), number, mine).mul_(scale_of(number))
    rows = hidden * (hidden.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    others = rows if to_itself else source
    by_head = into.view(SIZE, HEADS, SIZE)
    scores = torch.einsum("uli,ihj,usj->ulhs", rows, by_head, others)
    if to_itself:
        scores = scores + bias[0].transpose(0, 1)
    raised = scores.exp() * (seen.transpose(1, 2) if given else 1)
    weights = raised / raised.sum(-1, keepdim=True) * kept.permute(0, 2, 3, 1)
    added = torch.einsum("ulhs,usj,hjm->ulm", weights, others, out_of.view(HEADS, SIZE, SIZE))
    assert_same(found, hidden + added * outer, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3, 8, 1001, 70_001])
def test_drops_at_the_rate_and_keeps_the_rest_to_the_bit(dtype, count):
    torch.manual_seed(0)
    values = torch.randn(count, dtype=dtype)
    draws = RandomBytes().draw(values, 64)
    before = draws.clone()
    found = drop(values, draws, 64, torch.empty_like(values))
    assert torch.equal(draws, before)
    assert torch.equal(found, values * (found != 0))
    assert torch.equal(drop(values.clone(), draws, 64, values), found)
    # no byte decides twice: element by element, from the bytes as numbers
    size, stored = values.element_size(), draws.view(torch.int8)
    words = -(-count // size)
    highest = size - 1 if sys.byteorder == "little" else 0
    deciding = [element // words + element % words * size + highest for element in range(count)]
    assert len(set(deciding)) == count
    assert torch.equal(found == 0, stored[deciding] < -128 + 64)
    if count > 10_000:
        gone = (found == 0).double()
        assert gone.mean() == pytest.approx(0.25, abs=0.01)
        # neither those that neighbouring bytes decide nor neighbours fall together
        pieces = gone[: words * (count // words)].view(-1, words)
        assert (pieces[0] * pieces[1]).mean() == pytest.approx(1 / 16, abs=0.015)
        assert (gone[1:] * gone[:-1]).mean() == pytest.approx(1 / 16, abs=0.01)


def test_random_bytes_follow_the_seed():
    values = torch.empty(100)
    torch.manual_seed(3)
    first = RandomBytes()
    begun, gone_on, other = first.draw(values, 64), first.draw(values, 64), RandomBytes().draw(values, 64)
    torch.manual_seed(3)
    assert torch.equal(RandomBytes().draw(values, 64), begun)
    assert not torch.equal(begun, gone_on) and not torch.equal(begun, other)


def test_where_nothing_is_dropped_nothing_is_drawn():
    values, before = torch.randn(100), torch.get_rng_state()
    assert RandomBytes().draw(values, 0) is None and drop(values, None, 0, torch.zeros(100)) is values
    assert torch.equal(torch.get_rng_state(), before)


def test_rates():
    assert [dropped_of(rate) for rate in (0.0, 1e-6, 0.1, 0.5, 0.9999)] == [0, 1, 26, 128, 255]
    assert scale_of(0) == 1 and scale_of(128) == 2


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count, rows, width", [(1, 1, 8), (7, 5, 30), (256, 62, 1152), (999, 1, 1024), (3, 9000, 64)])
def test_parts_are_all_rows_in_order_and_fit(threads, count, rows, width, monkeypatch):
    monkeypatch.setattr(cpu_parts, "_CACHE", 2**16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = parts(count, rows, width, 4)
    finally:
        torch.set_num_threads(before)
    assert found[0].start == 0 and found[-1].stop == count
    assert all(left.stop == right.start for left, right in zip(found, found[1:], strict=False))
    most = max(1, 2**16 // (width * 4 * rows))
    for part in found:
        size = part.stop - part.start
        assert 0 < size and size % part.teams == 0 and 1 <= part.teams <= threads
        assert size // part.teams <= most


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("held_back", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [5, 1024])  # rows that lie pages apart are added in pieces
def test_products_of_parts(held_back, threads, width, dtype, tolerance, monkeypatch):
    """On any processor as on one whose products go through oneDNN."""
    monkeypatch.setattr(cpu_linear, "products_are_held_back", lambda: held_back)
    monkeypatch.setattr(cpu_parts, "_ROWS_AT_ONCE", 3)
    torch.manual_seed(0)
    cut = [Part(2, 18, 4), Part(18, 26, 2), Part(26, 29, 1)]
    values, others, weight = (torch.randn(shape, dtype=dtype) for shape in ((30, 4), (30, width), (4, width)))
    before, total = torch.get_num_threads(), Sum(cut)
    torch.set_num_threads(threads)
    try:
        for part in cut:
            mine = part.of(values)
            for given in (weight, weight.t().contiguous().t()):
                for out in (None, mine.new_empty(part.size, width)):
                    found = part.product(mine, given, out)
                    torch.testing.assert_close(found, mine @ weight, rtol=0, atol=tolerance)
            total.add(part, mine, part.of(others))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(total.total(), values[2:29].T @ others[2:29], rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_are_t5s(dtype):
    norm = T5LayerNorm(SIZE, EPSILON)
    hidden = torch.randn(9, SIZE, dtype=dtype) * 3
    torch.testing.assert_close(hidden * inverse_norms(hidden, EPSILON), norm(hidden), rtol=0, atol=1e-15)


def test_a_gradient_of_a_gradient_is_refused():
    hidden = torch.randn(4, SIZE, requires_grad=True)
    norm, wi, wo = nn.Parameter(torch.ones(SIZE)), torch.randn(WIDTH, SIZE), torch.randn(SIZE, WIDTH)
    out = FeedForward.apply(hidden, norm, wi, wo, EPSILON, 0, 0)
    (slope,) = torch.autograd.grad(out.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
