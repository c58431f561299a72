"""What makes training and decoding faster on a GPU. Nothing of it travels with a model: [`accelerate`] adds it."""

from .accelerate import accelerate, restore

__all__ = ["accelerate", "restore"]
