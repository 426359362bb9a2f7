"""Tensors of the networks that only measure: from a local file, in any of the formats they are published in."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import CheckpointError
from ..weights.files import difference, load_tensors


def read_published(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict: safetensors, PyTorch's zip files, or PyTorch's format of before 2020.

    The last is what LPIPS is published in. It is read by PyTorch's own reader for tensors, which runs no code.

    Raises:
        CheckpointError: no such file, damaged, or not a file of tensors.
    """
    path = Path(path)
    if not _in_old_format(path):
        return load_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path.name} is in PyTorch's old format and could not be read as tensors: damaged, or it holds something "
            "else. Download it again."
        ) from error
    tensors = {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path.name} holds no state dict of tensors. Use the network's weights.")
    return tensors


def load_exactly(network: nn.Module, tensors: Mapping[str, Tensor], path: str | os.PathLike[str], role: str) -> None:
    """Put `tensors` into `network`: every name and shape must fit. Extra names are refused too.

    Args:
        network: takes the values.
        tensors: the values by name.
        path: where they came from, for the message.
        role: what the file should be, with where to find it, for the message.

    Raises:
        CheckpointError: names or shapes differ, or values are not finite.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = difference(expected, {name: tuple(value.shape) for name, value in tensors.items()})
    if wrong:
        raise CheckpointError(f"{Path(path).name} is not {role}: {wrong}. Use that file.")
    spoilt = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise CheckpointError(f"{Path(path).name} holds NaN or infinity in {spoilt[0]}. Download it again.")
    network.load_state_dict(dict(tensors))


def _in_old_format(path: Path) -> bool:
    """Whether the file starts as a bare pickle does; anything else is for `load_tensors` to judge."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and start[1] in range(2, 6)
