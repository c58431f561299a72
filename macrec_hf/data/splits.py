"""Which purchases train, validate and test."""

import numpy as np

from .readers import Histories


def leave_one_out(histories: Histories, split: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The histories and targets of a split: the last item tests, the one before validates, the rest trains.

    Args:
        histories: of users with at least three interactions each.
        split: "train", "validation" or "test".

    Returns:
        For "test" all items but the last (so the validation item is part of the history) and the last, int32
        (num_users,); for "validation" all but the last two and the last but one; for "train" the training sequences,
        all but the last two, and `None`: there every prefix has a target of its own.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"Expected split 'train', 'validation' or 'test', got {split!r}.")
    short = [user for user, items in zip(histories.user_ids, histories.items, strict=True) if len(items) < 3]
    if short:
        raise ValueError(
            f"Expected at least 3 interactions a user, but {len(short):,} users have fewer, such as {short[:3]}. "
            "Build the histories with min_interactions=3."
        )
    if split == "train":
        return [items[:-2] for items in histories.items], None
    left_out = 1 if split == "test" else 2
    targets = np.array([items[-left_out] for items in histories.items], dtype=np.int32)
    return [items[:-left_out] for items in histories.items], targets
