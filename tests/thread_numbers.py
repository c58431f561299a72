"""On how many threads a trainer takes its steps."""

import torch


def threads_of_steps(trainer, monkeypatch):
    """Of each forward pass of a training, where torch may use two; afterwards it may use two again."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, seen = torch.get_num_threads(), []
    trainer.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        trainer.train()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    return seen
