import numpy as np
import pytest
import torch

from macrec_hf.catalogue.catalogue_batches import catalogue_latents, in_batches
from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.model.configuration_macrec import MacRecQuantizerConfig
from macrec_hf.model.modeling_macrec_quantizer import MacRecQuantizer


@pytest.mark.parametrize("rows", [list(range(10, 17)), np.arange(10, 17)])
def test_every_row_once_and_in_order(rows):
    parts = in_batches(rows, 3, list, "rows")
    assert parts == [[10, 11, 12], [13, 14, 15], [16]]
    assert in_batches(rows[:0], 3, list, "rows") == []
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        in_batches(rows, 0, list, "rows")


def _two_processes(path):
    from accelerate import PartialState

    PartialState._reset_state()  # an earlier test may have set it
    state = PartialState(cpu=True)
    done = []
    parts = in_batches(list(range(7)), 2, lambda batch: done.append(batch) or batch, "rows", processes=state)
    torch.save({"parts": parts, "done": done}, f"{path}.{state.process_index}")


def test_two_processes_take_whole_batches_in_turn(tmp_path):
    from accelerate import debug_launcher

    debug_launcher(_two_processes, args=(str(tmp_path / "found"),), num_processes=2)
    found = [torch.load(tmp_path / f"found.{process}") for process in range(2)]
    assert [one["done"] for one in found] == [[[0, 1], [4, 5]], [[2, 3], [6]]]
    assert [one["parts"] for one in found] == [[[0, 1], [2, 3], [4, 5], [6]]] * 2


def test_latents_of_some_rows_without_dropout():
    torch.manual_seed(0)
    config = MacRecQuantizerConfig(
        modalities={"text": 5}, codebook_size=4, num_levels=2, codebook_dim=3, hidden_sizes=(8,), dropout=0.5,
        contrastive_weights=(0.0, 0.0),
    )  # fmt: skip
    quantizer = MacRecQuantizer(config).train()
    embeddings = torch.randn(9, 5)
    store, rows = EmbeddingStore({"text": embeddings.numpy()}), np.array([7, 1, 4])
    latents = catalogue_latents(quantizer, store, "text", rows, batch_size=2)
    assert quantizer.training and not latents.requires_grad
    expected = quantizer.eval().encode_latents({"text": embeddings[rows]})["text"]
    torch.testing.assert_close(latents, expected.detach())
    assert catalogue_latents(quantizer, store, "text", rows[:0], batch_size=2).shape == (0, 3)
    broken = EmbeddingStore({"text": np.where(np.arange(9)[:, None] == 4, np.nan, embeddings.numpy())})
    with pytest.raises(ValueError, match="NaN or infinity for item '4' in modality 'text'"):
        catalogue_latents(quantizer, broken, "text", rows, batch_size=2)
