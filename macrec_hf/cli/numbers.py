"""Numbers of flags: each says what it may be, so that -1 users or NaN epochs are an error and no result."""

import argparse
import math
from dataclasses import dataclass

from ..training.bounds import Bounds


@dataclass(frozen=True)
class Number:
    """Reads the number of a flag; argparse calls it with the word.

    Args:
        bounds: what it may be.
        is_whole: whether it is an int, else a float.
    """

    bounds: Bounds
    is_whole: bool

    def __call__(self, text: str, /) -> int | float:
        value: int | float
        try:
            value = int(text) if self.is_whole else float(text)
        except ValueError:
            value = math.nan
        if not self.bounds.hold(value):
            bounds = "a number" if self.bounds is ANY else str(self.bounds)
            expected = bounds.replace("a number", "a whole number" if self.is_whole else "a number")
            remedy = f". {self.bounds.remedy.rstrip('.')}" if self.bounds.remedy else ""
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}{remedy}")
        return value


def whole(least: float, most: float = math.inf) -> Number:
    """A reader of whole numbers from `least` to `most`."""
    return Number(Bounds(least, most), is_whole=True)


def number(least: float, *, above: bool = False) -> Number:
    """A reader of numbers from `least`, or above it; never of NaN."""
    return Number(Bounds(least, above=above), is_whole=False)


SEED = whole(0, 2**32 - 1)
ANY = Bounds(-1.7e308, 1.7e308)  # where nothing smaller is known
