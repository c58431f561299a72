"""Damaged files of a model directory, of semantic IDs and of embeddings: one line, or the lists as they were."""

import pytest
from damage import run_cases


def test_a_damaged_file_is_refused_in_a_line_or_read_whole(tmp_path):
    ends, wrong = run_cases(range(60), 60, tmp_path)
    assert wrong == []
    assert set(ends) >= {"refused", "same"}


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    """Longer: `python tests/damage.py --minutes 10 --seed 1`."""
    ends, wrong = run_cases(range(10_000, 20_000), 90, tmp_path)
    assert wrong == [] and sum(ends.values()) > 200
