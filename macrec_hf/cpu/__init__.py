"""What makes training and decoding faster on a CPU. Nothing of it travels with a model: [`accelerate`] adds it."""

from .accelerate import accelerate

__all__ = ["accelerate"]
