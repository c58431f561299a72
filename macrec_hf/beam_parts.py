"""How a batch of users is cut into the parts that a CPU decodes best."""

import torch

# By timing 8 to 64 users of 20 beams on two cores: more outgrow the caches, fewer wait for Python and for each other.
_CPU_USERS = 32
_FEWEST_CPU_USERS = 16  # of a part that is this small so that every thread has two of them
_CPU_TOKENS = 1024  # the padded tokens of a part, so that long histories do not outgrow what the users' number allows
Part = tuple[torch.Tensor, slice]  # users that are decoded together, and the columns that they need


def split_users(attention_mask: torch.Tensor | None, batch_size: int, length: int, device: torch.device) -> list[Part]:
    """Users that are decoded together, and the columns that they need: on the CPU a few at a time, of like lengths.

    Args:
        attention_mask: `(batch_size, length)`, 0 = padding; `None`: no padding.

    Returns:
        Parts of users, long `(num_users,)` each, and the slice of the columns in which any of them has a token. Every
        user is in one part.
    """
    everyone = torch.arange(batch_size, device=device)
    if device.type != "cpu":
        return [(everyone, slice(length))]
    most = _CPU_USERS
    if (threads := torch.get_num_threads()) > 1:
        most = max(_FEWEST_CPU_USERS, min(_CPU_USERS, -(-batch_size // (2 * threads))))
    if attention_mask is None:
        return [(users, slice(length)) for users in everyone.split(_part_size(length, most))]
    counts, order = attention_mask.sum(dim=1).sort(stable=True, descending=True)
    parts: list[Part] = []
    first = 0
    while first < batch_size:
        users = order[first : first + _part_size(int(counts[first]), most)].sort().values
        used = torch.nonzero(attention_mask[users].any(dim=0)).flatten()
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(length)
        parts.append((users, columns))
        first += len(users)
    return parts


def _part_size(length: int, most: int) -> int:
    return max(1, min(most, _CPU_TOKENS // max(length, 1)))
