"""Buckets hold what they are asked for, waste little and are few."""

import pytest

from macrec_hf.gpu.buckets import bucket_of


def test_every_length_fits_with_at_most_a_quarter_of_padding():
    for length in range(1, 5000):
        bucket = bucket_of(length)
        assert bucket >= length and bucket_of(bucket) == bucket
        assert bucket == 16 or bucket <= 1.25 * length
    lengths = range(17, 1 + 2**14)
    assert len({bucket_of(length) for length in lengths}) == 4 * 10


@pytest.mark.parametrize("least", [4, 64])
def test_the_smallest_bucket_is_chosen(least):
    assert bucket_of(0, least) == bucket_of(least, least) == least < bucket_of(least + 1, least)
