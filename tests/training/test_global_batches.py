import pytest

from macrec_hf.training.global_batches import GlobalBatches


def parts(num_processes, batch_size, num_rows=43, epoch=0, **changes):
    """Batches of every process, each a list of its rows."""
    result = []
    for rank in range(num_processes):
        batches = GlobalBatches(num_rows, batch_size, rank=rank, num_processes=num_processes, **changes)
        batches.set_epoch(epoch)
        result.append(list(batches))
        assert len(result[-1]) == len(batches)
    return result


@pytest.mark.parametrize("lengths", [None, [row % 7 for row in range(43)]])
@pytest.mark.parametrize("num_processes, batch_size", [(2, 4), (4, 2), (8, 1)])
def test_the_parts_of_all_processes_are_the_batches_of_one(num_processes, batch_size, lengths):
    (alone,) = parts(1, 8, lengths=lengths)
    together = [sum(batch, []) for batch in zip(*parts(num_processes, batch_size, lengths=lengths), strict=True)]
    assert together[:-1] == alone[:-1]
    # 43 rows leave 3 for the last batch: every row once, but where there are more processes than rows
    assert sorted(set(together[-1])) == sorted(alone[-1])
    assert len(together[-1]) == 3 if num_processes == 2 else len(together[-1]) >= 3
    assert sorted(sum(alone, [])) == list(range(43))


def test_length_groups_shuffle_and_are_formed_over_the_whole_step():
    lengths = [(row * 37) % 100 for row in range(800)]
    (batches,) = parts(1, 10, num_rows=800, lengths=lengths)
    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches]
    assert sum(spread) / len(spread) < 5 and sorted(sum(batches, [])) == list(range(800))
    assert parts(1, 10, num_rows=800, lengths=lengths, epoch=1) != [batches]
    assert sum(parts(1, 5, num_rows=800, lengths=lengths, accumulation=2)[0], []) == sum(batches, [])


def test_epochs_seeds_and_order():
    assert parts(1, 8, epoch=3) == parts(1, 8, epoch=3) != parts(1, 8, epoch=4)
    assert parts(1, 8, seed=1) != parts(1, 8, seed=2)
    assert sum(parts(1, 8, shuffle=False)[0], []) == list(range(43))
    assert [len(batch) for batch in parts(1, 8, drop_last=True)[0]] == [8] * 5


@pytest.mark.parametrize("lengths", [None, [row % 7 for row in range(43)]])
def test_every_pair_of_seed_and_epoch_has_an_order_of_its_own(lengths):
    pairs = [(seed, epoch) for seed in range(-2, 6) for epoch in range(8)]
    orders = {pair: str(parts(1, 8, seed=pair[0], epoch=pair[1], lengths=lengths)) for pair in pairs}
    assert orders[0, 1] != orders[1, 0]
    assert len(set(orders.values())) == len(pairs)
