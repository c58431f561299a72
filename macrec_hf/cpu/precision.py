"""Which precision a CPU trains fastest in."""

import torch


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32: AVX-512 BF16 or AMX."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
