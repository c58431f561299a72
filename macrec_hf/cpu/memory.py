"""Memory that a training step frees is kept for the next step, instead of going back to the system."""

import ctypes
import sys

# The parameters' numbers in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes; larger blocks still go back at once


def keep_freed_memory(threshold: int = KEPT) -> bool:
    """Has glibc serve blocks of up to `threshold` bytes from memory that the process already has.

    By itself it gets every block above 32 MiB from the system and gives it back when it is freed; each page of it is
    then cleared anew on first touch. The activations of a large batch are such blocks, and their products run at half
    speed. What the process has once used stays with it until it ends. Called by the trainers on the CPU; torch has no
    setting for it, so this is `mallopt`.

    Args:
        threshold: bytes; `2**25` is what glibc comes to by itself.

    Returns:
        Whether the setting was made: False where the C library is another one, or an old glibc refuses.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, threshold) and mallopt(_TRIM_THRESHOLD, min(2 * threshold, 2**31 - 1)))
