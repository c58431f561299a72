"""`python -m macrec_hf.cli VERB …`, for `accelerate launch -m macrec_hf.cli VERB …`."""

import os
import sys

from .main import main

status = main()
if int(os.environ.get("WORLD_SIZE", 1)) > 1:
    import torch.distributed as dist

    if status == 0 and dist.is_initialized():
        dist.barrier()  # until the main process has written everything
    sys.stdout.flush()
    sys.stderr.flush()
    # torch sometimes aborts while the interpreter takes a process group apart: nothing is left to be done there.
    os._exit(status)
sys.exit(status)
