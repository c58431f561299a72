import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from macrec_hf.cpu.memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(7)
def faults():
    block = torch.empty(48 * 2**20, dtype=torch.uint8)  # more than glibc keeps by itself
    block.fill_(1)
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
first = faults()
for _ in range(20):
    last = faults()
print(last - first)
"""


def page_faults(how):
    ran = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True)
    if ran.returncode == 7:
        pytest.skip("the C library has no such setting")
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_large_blocks_are_used_again():
    # 20 blocks of 12,288 pages of 4 KiB, or of 24 huge ones. Kept memory is touched for the first time once more at
    # most, when a small object took a place in it and the block moved.
    given_back = page_faults("given back")
    assert page_faults("kept") * 10 < given_back
    assert given_back > 100
