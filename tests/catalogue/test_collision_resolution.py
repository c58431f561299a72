"""The rule of collision resolution, checked against the finished table by brute force over all codes."""

from itertools import product
from time import process_time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.catalogue import collision_resolution
from macrec_hf.catalogue.collision_resolution import quantization_distance, resolve_collisions, shared_rows
from macrec_hf.model.vector_quantization import residual_quantize


def make_codebooks(num_levels, codebook_size, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = 0.5 ** torch.arange(num_levels, dtype=torch.float64)
    return (
        torch.randn(num_levels, codebook_size, dim, generator=generator, dtype=torch.float64) * scales[:, None, None]
    )


def make_latents(num_items, num_clusters, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    centres = torch.randn(num_clusters, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_items, dim, generator=generator, dtype=torch.float64)
    return centres[torch.randint(num_clusters, (num_items,), generator=generator)] + 0.01 * noise


def check_rule(codes, codebooks, latents, resolved, taken=()):
    """Everything that the rule promises and that the finished table can show, one item and one code at a time."""
    num_levels, codebook_size, _ = codebooks.shape
    before, after = [tuple(row) for row in codes.tolist()], [tuple(row) for row in resolved.tolist()]
    taken = {tuple(row) for row in taken}
    occupied = set(after) | taken
    assert len(set(after)) == len(after), "two items share an ID"
    assert not set(after) & taken, "a taken ID was given away"

    def distance(row, prefix):
        return float((latents[row] - sum(codebooks[level, code] for level, code in enumerate(prefix))).norm())

    def is_full(prefix):
        beneath = sum(code[: len(prefix)] == prefix for code in occupied)
        return beneath == codebook_size ** (num_levels - len(prefix))

    for code in set(before):
        group = [row for row, other in enumerate(before) if other == code]
        stayed = [row for row in group if after[row] == code]
        assert len(stayed) == (0 if code in taken else 1), "exactly one item keeps a shared ID, a lone one its own"
        if stayed:
            nearest = min(distance(row, code) for row in group)
            assert distance(stayed[0], code) <= nearest + 1e-9, "another item is nearer than the one that stayed"
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        top = next(level for level in range(num_levels) if old[level] != new[level])
        assert is_full(old[: top + 1]), "a deeper level still had room"
        for level in range(top, num_levels):
            chosen = distance(row, new[: level + 1])
            for code in range(codebook_size):
                nearer = distance(row, (*new[:level], code)) < chosen - 1e-9
                assert not nearer or is_full((*new[:level], code)), "a nearer code had room"


@settings(max_examples=150, deadline=None)
@given(
    num_levels=st.integers(1, 3),
    codebook_size=st.integers(1, 4),
    fill=st.floats(0, 1),
    taken_share=st.floats(0, 0.6),
    num_clusters=st.integers(1, 6),
    seed=st.integers(0, 2**16),
    chunk=st.sampled_from([1, 12, 2**22]),
)
def test_rule_holds_on_any_small_space(num_levels, codebook_size, fill, taken_share, num_clusters, seed, chunk):
    space = list(product(range(codebook_size), repeat=num_levels))
    order = torch.randperm(len(space), generator=torch.Generator().manual_seed(seed)).tolist()
    taken = [space[index] for index in order[: int(taken_share * (len(space) - 1))]]
    num_items = max(1, int(fill * (len(space) - len(taken))))
    codebooks = make_codebooks(num_levels, codebook_size, seed=seed)
    latents = make_latents(num_items, num_clusters, seed=seed)
    codes = residual_quantize(latents, codebooks).codes
    with pytest.MonkeyPatch.context() as patch:  # items are served in chunks; a group may straddle their border
        patch.setattr(collision_resolution, "_CHUNK_ELEMENTS", chunk)
        found = resolve_collisions(
            codes, codebooks, latents, taken=torch.tensor(taken, dtype=torch.long).view(-1, num_levels)
        )
    check_rule(codes, codebooks, latents, found.codes, taken)
    assert found.moved.tolist() == (codes != found.codes).any(1).nonzero().squeeze(1).tolist()


def test_by_hand():
    # One dimension, two levels: 0 or 10, then + 0, 1, 2. Four items at 0.1, 0.0, 0.3 and 10.9.
    codebooks = torch.tensor([[[0.0], [10.0], [99.0]], [[0.0], [1.0], [2.0]]])
    latents = torch.tensor([[0.1], [0.0], [0.3], [10.9]])
    codes = residual_quantize(latents, codebooks).codes
    assert codes.tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]
    found = resolve_collisions(codes, codebooks, latents)
    # The item at 0.0 keeps (0, 0). Both others ask for (0, 1); 0.3 is nearer to 1 than 0.1 is, so 0.1 gets (0, 2).
    assert found.codes.tolist() == [[0, 2], [0, 0], [0, 1], [1, 1]]
    assert found.moved.tolist() == [0, 2]
    # |0.1 - 2| - |0.1 - 0| = 1.8 and |0.3 - 1| - |0.3 - 0| = 0.4
    torch.testing.assert_close(found.distance_increase, torch.tensor([1.8, 0.4]))


def test_goes_up_when_the_last_level_is_full_and_chooses_freely_beneath():
    # Last level + 0 or + 6: three items at 0, and beside them room under 10 and 5; 5 is the nearer one, and beneath it
    # the residual -5 is nearest to + 0, whatever the last code was before.
    codebooks = torch.tensor([[[0.0], [10.0], [5.0]], [[6.0], [0.0], [7.0]]])
    codes = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 1], [1, 1]])
    latents = torch.tensor([[0.0], [0.1], [0.2], [0.3], [10.0]])
    found = resolve_collisions(codes, codebooks, latents)
    # 0.0 keeps (0, 1); 0.3 is nearest to 6 and gets (0, 0); then (0, 2) goes to 0.2; 0.1 leaves for (2, 1).
    assert found.codes.tolist() == [[0, 1], [2, 1], [0, 2], [0, 0], [1, 1]]


def test_equally_near_items_leave_the_id_to_the_first():
    codebooks = make_codebooks(2, 4)
    found = resolve_collisions(torch.zeros(3, 2, dtype=torch.long), codebooks, torch.zeros(3, 3, dtype=torch.float64))
    assert found.moved.tolist() == [1, 2]


def test_half_of_the_items_in_shared_ids():
    codebooks = make_codebooks(3, 8)
    spread = make_latents(300, 300)
    latents = torch.cat([spread, spread[:60] + 1e-6, spread[:60] - 1e-6])
    codes = residual_quantize(latents, codebooks).codes
    shared = shared_rows(codes, 8)
    assert len(shared) >= len(latents) // 2
    found = resolve_collisions(codes, codebooks, latents)
    lone = torch.ones(len(codes), dtype=torch.bool)
    lone[shared] = False
    assert torch.equal(found.codes[lone], codes[lone])
    check_rule(codes, codebooks, latents, found.codes)


def test_cluster_larger_than_a_codebook():
    codebooks = make_codebooks(4, 16)
    latents = torch.cat([torch.ones(1000, 3, dtype=torch.float64), make_latents(200, 200)])
    codes = residual_quantize(latents, codebooks).codes
    found = resolve_collisions(codes, codebooks, latents)
    assert len(torch.unique(found.codes, dim=0)) == 1200
    lone = torch.ones(1200, dtype=torch.bool)
    lone[shared_rows(codes, 16)] = False
    assert lone.any()
    assert torch.equal(found.codes[lone], codes[lone])
    # 16 fill the last level; 1,000 need at least 4 of the 16 subtrees of 256: the first two levels' nearest ones.
    assert len(torch.unique(found.codes[:1000, :2], dim=0)) <= 6


@pytest.mark.parametrize(("num_levels", "codebook_size"), [(1, 64), (2, 16), (3, 8), (6, 3), (12, 2)])
def test_collapsed_catalogue_fills_the_space_exactly(num_levels, codebook_size):
    num_items = codebook_size**num_levels
    codebooks = make_codebooks(num_levels, codebook_size)
    latents = torch.full((num_items, 3), 0.3, dtype=torch.float64)
    codes = residual_quantize(latents, codebooks).codes
    assert len(torch.unique(codes, dim=0)) == 1
    found = resolve_collisions(codes, codebooks, latents)
    assert len(torch.unique(found.codes, dim=0)) == num_items


def test_one_item_too_many():
    codebooks = make_codebooks(2, 4)
    latents = make_latents(17, 3)
    codes = residual_quantize(latents, codebooks).codes
    with pytest.raises(ValueError, match=r"16 IDs, and 1 of 17 items .*larger num_levels \(now 2\) or codebook_size"):
        resolve_collisions(codes, codebooks, latents)
    taken = torch.tensor([[0, 0], [0, 0], [1, 1]])  # an ID that stands there twice takes one place
    assert len(resolve_collisions(codes[:14], codebooks, latents[:14], taken=taken).moved) > 0
    with pytest.raises(ValueError, match="1 of 17 items"):
        resolve_collisions(codes[:15], codebooks, latents[:15], taken=taken)


def test_space_beyond_64_bits():
    codebooks = make_codebooks(9, 256)  # 2**72 IDs
    latents = make_latents(600, 2)
    latents[:300] = latents[0]
    codes = residual_quantize(latents, codebooks).codes
    found = resolve_collisions(codes, codebooks, latents)
    assert len(torch.unique(found.codes, dim=0)) == 600
    assert len(found.moved) >= 299


def test_identical_codewords():
    codebooks = torch.zeros(3, 5, 2)  # a quantizer that has learned nothing
    found = resolve_collisions(torch.zeros(125, 3, dtype=torch.long), codebooks, torch.ones(125, 2))
    assert len(torch.unique(found.codes, dim=0)) == 125


def test_latents_of_the_shared_rows_are_enough():
    codebooks, latents = make_codebooks(3, 6), make_latents(150, 20)
    codes = residual_quantize(latents, codebooks).codes
    taken = codes[:2].clone()
    rows = shared_rows(codes, 6, taken)
    assert len(rows) < 150
    part = resolve_collisions(codes, codebooks, latents[rows], rows=rows, taken=taken)
    whole = resolve_collisions(codes, codebooks, latents, taken=taken)
    assert torch.equal(part.codes, whole.codes)
    with pytest.raises(
        ValueError, match="Expected the latents of every row that shares an ID, got none for 1, e.g. row"
    ):
        resolve_collisions(codes, codebooks, latents[rows[1:]], rows=rows[1:], taken=taken)
    with pytest.raises(ValueError, match=f"Expected latents of {len(rows)} rows, got 150"):
        resolve_collisions(codes, codebooks, latents, rows=rows, taken=taken)


def test_latents_must_be_finite():
    latents = torch.zeros(4, 3)
    latents[2, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 2"):
        resolve_collisions(torch.zeros(4, 2, dtype=torch.long), make_codebooks(2, 4).float(), latents)


def test_nothing_to_do():
    codes = torch.tensor([[0, 1], [1, 0]])
    found = resolve_collisions(codes, make_codebooks(2, 2), make_latents(2, 2))
    assert torch.equal(found.codes, codes)
    assert found.codes is not codes
    assert found.moved.shape == found.distance_increase.shape == (0,)


def test_distance_is_to_the_sum_of_the_codewords():
    codebooks = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])
    assert quantization_distance(torch.zeros(1, 2), torch.tensor([[0, 0]]), codebooks).tolist() == [5.0]


def test_order_of_the_items_does_not_matter_when_all_distances_differ():
    codebooks, latents = make_codebooks(3, 5), make_latents(80, 4)
    codes = residual_quantize(latents, codebooks).codes
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    one, other = (resolve_collisions(codes[p], codebooks, latents[p]).codes for p in (torch.arange(80), order))
    assert torch.equal(one[order], other)


def test_forty_thousand_items_in_seconds():
    codebooks = make_codebooks(4, 256, dim=16).float()
    latents = torch.cat([make_latents(36000, 36000, dim=16), make_latents(4000, 2, dim=16)]).float()
    codes = residual_quantize(latents, codebooks).codes
    start = process_time()
    found = resolve_collisions(codes, codebooks, latents)
    assert process_time() - start < 20  # about 0.5 s on one core; a loop over items takes minutes
    assert len(shared_rows(found.codes, 256)) == 0
