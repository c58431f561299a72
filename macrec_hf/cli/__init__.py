"""The `macrec` command: one verb a stage."""

from .main import main

__all__ = ["main"]
