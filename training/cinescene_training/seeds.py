"""Random streams: one for each purpose and number, the same on every machine."""

import hashlib

import torch


def generator_for(seed: int, purpose: str, number: int = 0) -> torch.Generator:
    """A generator of its own for one purpose and number of a run."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
