"""What makes training and decoding faster on a CPU. Nothing of it travels with a model: [`accelerate`] adds it."""

from .accelerate import accelerate, accelerated, restore
from .precision import has_bf16_units

__all__ = ["accelerate", "accelerated", "has_bf16_units", "restore"]
