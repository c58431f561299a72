"""Few shapes for many lengths, so that what is compiled, or recorded, for a shape serves again."""

STEPS = 4  # between a power of two and the next: at most a quarter is padding


def bucket_of(length: int, least: int = 16) -> int:
    """The smallest length of a bucket that holds `length`: a power of two, or one of three steps above it.

    Example:

    ```python
    >>> [bucket_of(length) for length in (1, 17, 33, 41, 1000)]
    [16, 20, 40, 48, 1024]
    ```

    Args:
        length: at least 0.
        least: the smallest bucket, a power of two of at least 4.
    """
    if length <= least:
        return least
    step = 2 ** ((length - 1).bit_length() - 1) // STEPS
    return -(-length // step) * step
