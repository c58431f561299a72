"""What all encoders share: centring and scaling, and keeping what was learned."""

from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from safetensors.numpy import load_file, save_file


class _Learned(Protocol):
    """An encoder: `state` is what it has learned from its catalogue."""

    state: dict[str, np.ndarray]


Encoder = TypeVar("Encoder", bound=_Learned)


def centre_and_scale(rows: np.ndarray) -> dict[str, np.ndarray]:
    """The mean row, and the one number that brings the mean square of the rest to 1."""
    mean = np.nanmean(rows, axis=0)
    spread = np.sqrt(np.nanmean(np.square(rows - mean)))
    return {"mean": mean.astype(np.float32), "scale": np.float32(1 / spread if spread > 1e-6 else 1).reshape(())}


def save_state(encoder: _Learned, path: str | Path) -> None:
    """Writes what an encoder has learned from its catalogue, as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in encoder.state.items()}, path)


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
