"""Where networks run: which devices there are, and holding a network on one while its stage runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def available_devices() -> list[str]:
    """Names of the devices that torch can use here; the CPU is always the first."""
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]


def default_device() -> str:
    """Where work runs that names no device: the first card, or the CPU where there is none."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: torch.device | str) -> torch.device:
    """Require a device that is there; a card without a number ("cuda") is the first.

    Raises:
        ValueError: it is not there; the message lists what is.
    """
    available = available_devices()
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is not None:
        name = f"cuda:{wanted.index or 0}" if wanted.type == "cuda" else wanted.type
        if name in available:
            return wanted
    raise ValueError(f"There is no device '{device}' here; torch can use {', '.join(available)}. Name one of them.")


@contextmanager
def on_device(module: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Hold a network on `device` while its stage runs, then give the memory back.

    The values at home are kept and put back in place: nothing is copied from the device.
    """
    home = [
        (owner, name, tensor, tensor.data)
        for owner in module.modules()
        for named in (owner.named_parameters(recurse=False), owner.named_buffers(recurse=False))
        for name, tensor in named
    ]
    try:
        module.to(device)
        yield
    finally:
        for owner, name, tensor, values in home:
            tensor.data = values
            setattr(owner, name, tensor)
