"""Losses of one batch of both models: by one process, and by two of which each has half of it."""

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from forks import fork, fork_two, free_port, wait_for

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecQuantizer, MacRecQuantizerConfig

ROWS = 8


def losses(part: slice, gathers: bool) -> dict[str, torch.Tensor]:
    """A training step of both models on these rows of the batch."""
    torch.manual_seed(0)
    quantizer = MacRecQuantizer(
        MacRecQuantizerConfig(
            modalities={"text": 5, "image": 4}, num_levels=2, codebook_size=4, codebook_dim=3, hidden_sizes=(6,),
            num_pseudo_labels=3, contrastive_weights=(0.0, 0.0), alignment_weight=1.0,
        )
    ).double()  # fmt: skip
    model = MacRecForConditionalGeneration(
        MacRecConfig(
            vocab_size=40, num_levels=3, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2,
            dropout_rate=0.0, implicit_alignment_weight=1.0,
        )
    ).double()  # fmt: skip
    embeddings = {"text": torch.randn(ROWS, 5).double(), "image": torch.randn(ROWS, 4).double()}
    ids, labels = torch.randint(3, 40, (ROWS, 6)), torch.randint(3, 40, (ROWS, 3))
    items = torch.randint(3, 40, (2, ROWS, 3))
    for each in (quantizer, model):
        each.gather_across_processes = gathers
        each.train()
    found = {
        "quantizer": quantizer({name: rows[part] for name, rows in embeddings.items()}).loss,
        "recommender": model(ids[part], labels=labels[part], alignment_input_ids=items[:, part]).loss,
    }
    sum(found.values()).backward()
    return {name: loss.detach() for name, loss in found.items()}


def two(folder: Path, gathers: bool) -> None:
    """One of two processes; a collective that nobody answers ends it after five minutes."""
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    rank = dist.get_rank()
    found = losses(slice(rank * ROWS // 2, (rank + 1) * ROWS // 2), gathers) if gathers or rank == 0 else {}
    if gathers:
        for loss in found.values():
            dist.all_reduce(loss)
            loss /= 2
    if rank == 0:
        torch.save(found, folder / "two.pt")
    dist.barrier()


def one_and_two(folder: Path) -> None:
    """True/one.pt holds the losses of one process, True/two.pt the means of two that gather, and False/two.pt those of
    the first of two that do not, while the other does nothing."""
    for gathers in (False, True):
        out = folder / str(gathers)
        out.mkdir()
        wait_for(fork(lambda: torch.save(losses(slice(None), gathers), out / "one.pt")))  # noqa: B023, runs at once
        fork_two(lambda: two(out, gathers), free_port())  # noqa: B023
