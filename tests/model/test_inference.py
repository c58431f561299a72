import numpy as np
import pytest
import torch
from torch import nn

from macrec_hf.model.inference import chosen_device, chosen_dtype, eval_mode, joined_ranges, pad_rows


@pytest.mark.parametrize("training", [True, False])
def test_eval_mode_leaves_the_model_as_it_was(training):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train(training)
    with eval_mode(model):
        assert not model.training and not model[1].training and not torch.is_grad_enabled()
    assert model.training == model[1].training == training and torch.is_grad_enabled()
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert model.training == training and torch.is_grad_enabled()


def test_eval_mode_gives_each_module_its_own_mode_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    model[1].eval()
    with eval_mode(model):
        assert not model[0].training
    assert model.training and model[0].training and not model[1].training


def test_rows_of_any_length():
    padded, inside = pad_rows([[3, 5], np.array([7], dtype=np.int32), []], fill=0)
    assert padded.tolist() == [[3, 5], [7, 0], [0, 0]] and padded.dtype == np.int64
    assert inside.tolist() == [[True, True], [True, False], [False, False]]
    assert pad_rows([[0], [1, 2]])[0].tolist() == [[0, -1], [1, 2]]
    for rows, shape in (([], (0, 0)), ([[], []], (2, 0))):
        padded, inside = pad_rows(rows)
        assert padded.shape == inside.shape == shape and padded.dtype == np.int64


def test_devices_and_types_by_name():
    assert chosen_device("cpu") == chosen_device(torch.device("cpu")) == torch.device("cpu")
    assert chosen_device("auto").type in ("cpu", "cuda", "mps")
    assert (
        chosen_dtype("bfloat16") is chosen_dtype(torch.bfloat16) is torch.bfloat16 and chosen_dtype("auto") == "auto"
    )


@pytest.mark.parametrize("device", ["cud", "", "cpu:x", None, 3.5, "cuda:99"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match="device: expected 'auto' or a device that is there"):
        chosen_device(device)


@pytest.mark.parametrize("dtype", ["bfloat61", "int8", torch.int64, None, "", 16, "nn"])
def test_no_type_of_weights(dtype):
    with pytest.raises(ValueError, match="dtype: expected 'auto', or a type such as torch.bfloat16"):
        chosen_dtype(dtype)


@pytest.mark.parametrize("lengths", [[2, 3], [0, 0], [], [0, 4, 0, 1, 0]], ids=str)
def test_ranges_are_joined_as_by_a_loop(lengths: list[int]) -> None:
    starts = np.array([7, 2, 9, 0, 5][: len(lengths)], dtype=np.int64)
    expected = [(owner, start + at) for owner, start in enumerate(starts) for at in range(lengths[owner])]
    owners, numbers = joined_ranges(starts, np.array(lengths, dtype=np.int64))
    assert list(zip(owners, numbers, strict=True)) == expected
    assert owners.dtype == numbers.dtype == np.int64
