"""On how many threads a trainer takes its steps."""

import torch


def threads_of_steps(trainer, monkeypatch):
    """Of each forward pass of a training, and of the evaluations in it, where torch may use two."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, seen = torch.get_num_threads(), {True: set(), False: set()}
    trainer.model.register_forward_hook(lambda model, *_: seen[model.training].add(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        trainer.train()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    return seen[True], seen[False]
