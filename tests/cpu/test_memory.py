import subprocess
import sys

import pytest

COUNT = """
import os, resource, torch
from macrec_hf.cpu.memory import keep_freed_memory
kept = os.fork() == 0  # the child keeps, and speaks first; then its parent, whose memory is as it was
if not kept and (status := os.waitstatus_to_exitcode(os.wait()[1])):
    os._exit(status)
if kept and not keep_freed_memory():
    os._exit(7)
def faults():
    block = torch.empty(48 * 2**20, dtype=torch.uint8)  # more than glibc keeps by itself
    block.fill_(1)
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
first = faults()
for _ in range(20):
    last = faults()
print(last - first, flush=True)
os._exit(0)
"""


def page_faults():
    """Of a process that keeps what is freed, and of one that gives it back."""
    ran = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    if ran.returncode == 7:
        pytest.skip("the C library has no such setting")
    assert ran.returncode == 0, ran.stderr
    return map(int, ran.stdout.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_large_blocks_are_used_again():
    # 20 blocks of 12,288 pages of 4 KiB, or of 24 huge ones. Kept memory is touched for the first time once more at
    # most, when a small object took a place in it and the block moved.
    kept, given_back = page_faults()
    assert kept * 10 < given_back
    assert given_back > 100
