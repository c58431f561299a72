"""Items that share a semantic ID get IDs of their own (paper section 3.1, "conflicts"): tensors in, tensors out.

The rule: of the items that share an ID the nearest keeps it. Each of the others takes the nearest code of the last
level under its prefix that is still free; where none is, it goes one level up, takes the nearest code there that has
room beneath it, and chooses freely again below; and so on upwards. An item is left over only when the whole code
space is full.

Everything runs in rounds over all items that have to move: in round r each of them asks for its r-th nearest code,
and a code that is asked for by more items than it has room for takes the nearest ones.
"""

from dataclasses import dataclass

import torch

from ..model.vector_quantization import code_keys

_CHUNK_ELEMENTS = 2**22  # items x codes that are in memory at a time: 16 MB of float32 distances


@dataclass
class CollisionResolution:
    """What [`resolve_collisions`] returns.

    Attributes:
        codes: long, (num_items, num_levels), no two rows alike and none in `taken`.
        moved: long, (num_moved,), the rows that got another ID, ascending.
        distance_increase: (num_moved,), Euclidean distance from the latent to its quantized sum, after minus before.
    """

    codes: torch.Tensor
    moved: torch.Tensor
    distance_increase: torch.Tensor


def shared_rows(codes: torch.Tensor, codebook_size: int, taken: torch.Tensor | None = None) -> torch.Tensor:
    """Rows whose ID another row, or a taken one, has too: long (num_items, num_levels) → long (num_shared,)."""
    keys = code_keys(codes if taken is None else torch.cat([codes, taken]), codebook_size)
    _, group, sizes = torch.unique(keys, return_inverse=True, return_counts=True)
    return (sizes[group[: len(codes)]] > 1).nonzero().squeeze(1)


def resolve_collisions(
    codes: torch.Tensor,
    codebooks: torch.Tensor,
    latents: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    taken: torch.Tensor | None = None,
) -> CollisionResolution:
    """Gives every item an ID of its own; those that did not share one keep theirs.

    Args:
        codes: long, (num_items, num_levels), as the quantizer chose them.
        codebooks: float, (num_levels, codebook_size, codebook_dim).
        latents: float, (num_rows, codebook_dim), the latents of `rows`.
        rows: long, (num_rows,), the items whose latents are given: at least those of [`shared_rows`]. Default: all.
        taken: long, (num_taken, num_levels), IDs that are in use elsewhere and stay so. Default: none.

    Raises:
        ValueError: more items than the code space has IDs; latents that are not finite or belong to other rows.
    """
    num_levels, codebook_size, _ = codebooks.shape
    taken = codes.new_empty(0, num_levels) if taken is None else taken
    shared = shared_rows(codes, codebook_size, taken)
    latents = _latents_of(shared, len(codes), rows, latents)
    codebooks = codebooks.to(latents.dtype)
    before = quantization_distance(latents, codes[shared], codebooks)
    movers = _movers(codes, shared, before, taken, codebook_size)
    rows_moved = shared[movers]
    stays = torch.ones(len(codes), dtype=torch.bool)
    stays[rows_moved] = False
    occupied = _distinct(torch.cat([codes[stays], taken]), codebook_size)
    check_space(len(movers), len(occupied), num_levels, codebook_size)
    resolved = codes.clone()
    resolved[rows_moved] = _place(codes[rows_moved], latents[movers], codebooks, occupied)
    after = quantization_distance(latents[movers], resolved[rows_moved], codebooks)
    ascending = rows_moved.argsort()
    return CollisionResolution(resolved, rows_moved[ascending], (after - before[movers])[ascending])


def quantization_distance(latents: torch.Tensor, codes: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """‖z − Σ e‖: (num_items, codebook_dim), long (num_items, num_levels) → (num_items,)."""
    return _residual(latents, codes, codebooks).norm(dim=1)


def _residual(latents: torch.Tensor, codes: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """What is left of the latents after the first `codes.shape[1]` levels."""
    for level, code in enumerate(codes.unbind(1)):
        latents = latents - codebooks[level][code]
    return latents


def _latents_of(
    shared: torch.Tensor, num_items: int, rows: torch.Tensor | None, latents: torch.Tensor
) -> torch.Tensor:
    """The latents of the rows that share an ID, at least float32."""
    num_rows = num_items if rows is None else len(rows)
    if len(latents) != num_rows:
        raise ValueError(f"Expected latents of {num_rows} rows, got {len(latents)}.")
    position = torch.full((num_items,), -1)
    position[torch.arange(num_items) if rows is None else rows] = torch.arange(num_rows)
    if (position[shared] < 0).any():
        lacking = shared[position[shared] < 0]
        raise ValueError(
            f"Expected the latents of every row that shares an ID, got none for {len(lacking)}, e.g. row "
            f"{int(lacking[0])}. Take `rows` from shared_rows with the same codes and taken IDs."
        )
    latents = latents[position[shared]]
    if not torch.isfinite(latents).all():
        row = int(shared[~torch.isfinite(latents).all(1)][0])
        raise ValueError(f"Expected finite latents, got NaN or infinity in row {row}. Did the quantizer diverge?")
    return latents if latents.dtype == torch.float64 else latents.float()


def _movers(
    codes: torch.Tensor, shared: torch.Tensor, distances: torch.Tensor, taken: torch.Tensor, codebook_size: int
) -> torch.Tensor:
    """Positions in `shared` of the items that have to move, nearest to its ID first."""
    if not len(shared):
        return shared
    keys = code_keys(torch.cat([codes[shared], taken]), codebook_size)
    mine, theirs = keys[: len(shared)], keys[len(shared) :]
    nearest_first = distances.argsort(stable=True)  # stable: of equally near items the first row keeps the ID
    by_key = nearest_first[mine[nearest_first].argsort(stable=True)]
    keeps = torch.zeros(len(shared), dtype=torch.bool)
    keeps[by_key] = _rank_in_run(mine[by_key]) == 0
    keeps &= ~torch.isin(mine, theirs)
    return nearest_first[~keeps[nearest_first]]


def _distinct(codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """The rows of `codes` without repetition (imported tables may hold an ID twice)."""
    keys, order = code_keys(codes, codebook_size).sort()
    return codes[order[_rank_in_run(keys) == 0]]


def check_space(num_movers: int, num_occupied: int, num_levels: int, codebook_size: int) -> None:
    """Raises ValueError where the movers cannot all get an ID of their own beside the occupied ones."""
    missing = num_movers - (codebook_size**num_levels - num_occupied)
    if missing > 0:
        raise ValueError(
            f"The code space is full: {num_levels} levels x {codebook_size} codes give {codebook_size**num_levels} "
            f"IDs, and {missing} of {num_movers + num_occupied} items are left without one of their own. Train the "
            f"quantizer with a larger num_levels (now {num_levels}) or codebook_size (now {codebook_size})."
        )


def _place(
    codes: torch.Tensor, latents: torch.Tensor, codebooks: torch.Tensor, occupied: torch.Tensor
) -> torch.Tensor:
    """New codes for the movers: (num_movers, num_levels), codes and latents in the order in which they are served."""
    num_levels = len(codebooks)
    placed = codes.clone()
    homeless = torch.arange(len(codes))
    for top in reversed(range(num_levels)):  # the deepest level that has room beneath the item's own prefix
        if not len(homeless):
            break
        choice = _choose(latents[homeless], placed[homeless, :top], codebooks, occupied)
        moving, homeless = homeless[choice >= 0], homeless[choice < 0]
        if not len(moving):
            continue
        placed[moving, top] = choice[choice >= 0]
        for level in range(top + 1, num_levels):
            placed[moving, level] = _choose(latents[moving], placed[moving, :level], codebooks, occupied)
        occupied = torch.cat([occupied, placed[moving]])
    return placed


def _choose(
    latents: torch.Tensor, prefixes: torch.Tensor, codebooks: torch.Tensor, occupied: torch.Tensor
) -> torch.Tensor:
    """For each item the nearest code after its prefix that has room beneath it: long (num_items,), -1 if none has.

    Args:
        latents: (num_items, codebook_dim).
        prefixes: long, (num_items, level), codes of the levels above.
        codebooks: (num_levels, codebook_size, codebook_dim).
        occupied: long, (num_occupied, num_levels), distinct.
    """
    (num_levels, codebook_size, _), level = codebooks.shape, prefixes.shape[1]
    # No more than 2**40 items ever ask, so that capping keeps a huge space within 64 bits and changes nothing.
    capacity = min(codebook_size ** (num_levels - 1 - level), 2**40)
    group, slots = _group_by_prefix(prefixes, occupied, codebook_size)
    choice = torch.full((len(latents),), -1)
    last_group, last_room = -1, None
    for chunk in group.argsort(stable=True).split(max(1, _CHUNK_ELEMENTS // codebook_size)):
        first, last = int(group[chunk[0]]), int(group[chunk[-1]])
        low, high = torch.searchsorted(slots, torch.tensor([first, last + 1]) * codebook_size).tolist()
        counts = torch.bincount(slots[low:high] - first * codebook_size, minlength=(last + 1 - first) * codebook_size)
        room = (capacity - counts).view(-1, codebook_size)
        if first == last_group:  # the chunk before ended within this prefix and filled some of it
            room[0] = last_room
        open_here = (room > 0).any(1)[group[chunk] - first]
        chunk = chunk[open_here]
        residuals = _residual(latents[chunk], prefixes[chunk], codebooks)
        choice[chunk] = _hand_out(residuals, codebooks[level], group[chunk] - first, room)
        last_group, last_room = last, room[-1]
    return choice


def _group_by_prefix(
    prefixes: torch.Tensor, occupied: torch.Tensor, codebook_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers the distinct prefixes, and finds the occupied IDs beneath them.

    Returns:
        group: long, (num_items,), in [0, number of prefixes).
        slots: long, ascending, `group * codebook_size + next code` of every occupied ID with such a prefix.
    """
    group = torch.zeros(len(prefixes), dtype=torch.long)
    node = torch.zeros(len(occupied), dtype=torch.long)
    for level in range(prefixes.shape[1]):
        known, group = torch.unique(group * codebook_size + prefixes[:, level], return_inverse=True)
        keys = node * codebook_size + occupied[:, level]
        node = torch.searchsorted(known, keys).clamp_(max=max(len(known) - 1, 0))
        beneath = known[node] == keys if len(known) else torch.zeros_like(keys, dtype=torch.bool)
        node, occupied = node[beneath], occupied[beneath]
    return group, (node * codebook_size + occupied[:, prefixes.shape[1]]).sort().values


def _hand_out(
    residuals: torch.Tensor, codebook: torch.Tensor, group: torch.Tensor, room: torch.Tensor
) -> torch.Tensor:
    """Rounds of asking: each item gets the nearest code of its group with room, `room` is lowered in place.

    Args:
        residuals: (num_items, codebook_dim), what enters the level.
        codebook: (codebook_size, codebook_dim).
        group: long, (num_items,).
        room: long, (num_groups, codebook_size), how many items each code may still take.

    Returns:
        long, (num_items,), -1 where the group was full.
    """
    # Exact differences: the faster ‖a‖² - 2ab + ‖b‖² would rank near-equal codes of a collapsed catalogue by noise.
    distances = torch.cdist(residuals, codebook, compute_mode="donot_use_mm_for_euclid_dist")
    preference = distances.argsort(dim=1, stable=True)
    codebook_size, left = len(codebook), room.view(-1)
    choice = torch.full((len(residuals),), -1)
    waiting = torch.arange(len(residuals))
    for rank in range(codebook_size):
        if not len(waiting):
            break
        code = preference[waiting, rank]
        slot = group[waiting] * codebook_size + code
        asking = (left[slot] > 0).nonzero().squeeze(1)
        order = distances[waiting[asking], code[asking]].argsort(stable=True)
        order = asking[order[slot[asking[order]].argsort(stable=True)]]  # by slot, the nearest first
        taken = order[_rank_in_run(slot[order]) < left[slot[order]]]
        choice[waiting[taken]] = code[taken]
        left.index_add_(0, slot[taken], torch.full_like(taken, -1))
        still = torch.ones(len(waiting), dtype=torch.bool)
        still[taken] = False
        waiting = waiting[still]
    return choice


def _rank_in_run(values: torch.Tensor) -> torch.Tensor:
    """Position of each element within its run of equal neighbours: [7, 7, 9] → [0, 1, 0]."""
    _, lengths = torch.unique_consecutive(values, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(values)) - starts.repeat_interleave(lengths)
