import pytest
import torch

from macrec_hf.cpu.beam_parts import run_parts, split_users

ROWS = 61  # of the decoder: 20 beams, 4 levels


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def padded(lengths, width=90):
    return (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()


def split(mask, batch_size=None, length=90):
    return split_users(mask, len(mask) if batch_size is None else batch_size, length, ROWS)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 31, 64, 300])
def test_every_user_is_in_one_part_with_all_its_tokens(batch_size, number, threads):
    threads(number)
    lengths = torch.randint(1, 90, (batch_size,), generator=torch.Generator().manual_seed(batch_size))
    parts = split(padded(lengths.tolist()))
    assert torch.cat([users for users, _ in parts]).sort().values.tolist() == list(range(batch_size))
    for users, columns in parts:
        assert users.tolist() == sorted(users.tolist())
        assert (columns.start, columns.stop) == (0, lengths[users].max())
        assert len(users) <= 36
        assert len(users) == 1 or len(users) * columns.stop <= 1280


def test_threads_have_equally_many_parts_that_take_equally_long(threads):
    threads(2)
    lengths = torch.randint(5, 82, (256,), generator=torch.Generator().manual_seed(0))
    parts = split(padded(lengths.tolist()))
    costs = [int(lengths[users].sum()) + ROWS * len(users) for users, _ in parts]
    assert len(parts) % 2 == 0
    assert max(costs) - min(costs) <= 2 * (int(lengths.max()) + ROWS)  # a user more at either end


def test_a_history_of_its_own_length_is_a_part_where_it_exceeds_the_bound(threads):
    threads(1)
    parts = split_users(None, 3, 2000, ROWS)
    assert [(users.tolist(), columns) for users, columns in parts] == [([row], slice(2000)) for row in range(3)]


def test_no_part_is_empty_where_one_history_is_most_of_the_batch(threads):
    threads(2)
    mask = padded([1200] + [5] * 63, width=1200)
    parts = split_users(mask, 64, 1200, rows=4)
    assert min(len(users) for users, _ in parts) > 0
    assert sum(len(users) for users, _ in parts) == 64


def test_few_users_stay_together(threads):
    threads(2)
    (part,) = split(padded([8, 4, 6]))
    assert part[0].tolist() == [0, 1, 2]
    assert part[1] == slice(0, 8)


def test_users_without_tokens_keep_every_column():
    (part,) = split(padded([0, 0]))
    assert part[1] == slice(90)


def test_nobody_is_one_empty_part():
    ((users, columns),) = split_users(None, 0, 7, ROWS)
    assert len(users) == 0
    assert columns == slice(7)


def test_other_devices_decode_the_batch_at_once():
    seen = []
    run_parts(seen.append, None, torch.arange(1000, device="meta"), 90, ROWS)
    ((users, columns),) = seen
    assert len(users) == 1000
    assert columns == slice(90)
