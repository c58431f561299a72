"""A verb under FSDP on the CPUs: `accelerate launch --config_file gpu_8_fsdp.yaml … tests/sharded.py train …`.

accelerate turns FSDP on for accelerators alone, while torch's runs on gloo too: it is told here that the processes'
CPUs are such devices. What follows is accelerate's and torch's own code.
"""

import os
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from macrec_hf.cli.main import main

begin = PartialState.__init__


def as_accelerators(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = as_accelerators

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
