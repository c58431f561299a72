"""What all encoders share: centring and scaling, and keeping what was learned."""

from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from safetensors.numpy import load_file, save_file

from ..model.files import follow_umask


class _Learned(Protocol):
    """An encoder: `state` is what it has learned from its catalogue."""

    state: dict[str, np.ndarray]


class _ReadsColumns(Protocol):
    """An encoder of texts: `columns` are those that its first texts were joined from."""

    columns: list[str] | None


Encoder = TypeVar("Encoder", bound=_Learned)


def centre_and_scale(rows: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of a catalogue centred and scaled by one number to a mean square of 1, float32.

    The mean row and the number are those of the first catalogue, which is when they are put into `state`; rows of NaN
    do not count.
    """
    if "mean" not in state:
        mean = np.nanmean(rows, axis=0)
        spread = np.sqrt(np.nanmean(np.square(rows - mean)))
        state["mean"] = mean.astype(np.float32)
        state["scale"] = np.array(1 / spread if spread > 1e-6 else 1, dtype=np.float32)
    return ((rows - state["mean"]) * state["scale"]).astype(np.float32)


def text_columns_setting(encoder: _ReadsColumns) -> dict:
    """The columns that an encoder's first texts came from, for `meta.json`."""
    return {} if encoder.columns is None else {"columns": encoder.columns}


def save_state(encoder: _Learned, path: str | Path) -> None:
    """Writes what an encoder has learned from its catalogue, as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in encoder.state.items()}, path)
    follow_umask(Path(path))


def load_state(encoder: Encoder, path: str | Path) -> Encoder:
    """Reads what `save_state` wrote into `encoder` and returns it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: expected the state of an offline encoder, found no such file. It is written beside the "
            "embeddings: embed the catalogue again to get it."
        )
    encoder.state = load_file(path)
    return encoder
