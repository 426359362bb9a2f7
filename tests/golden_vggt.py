"""The golden file of VGGT: values of the official code on weights that are made by rule.

`golden/vggt.json` states the rule, the cases and where the values come from; this is its reader.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"
RECORD = json.loads((FOLDER / "vggt.json").read_text(encoding="utf-8"))
ARRAYS = np.load(FOLDER / "vggt.npz")
MASK = 2**64 - 1


def hash_name(name: str) -> int:
    """FNV-1a, 64 bits, of the UTF-8 name."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def stream(name: str, count: int) -> np.ndarray:
    """`count` float64 values in [-1, 1), the same on every machine (splitmix64 from the name)."""
    z = np.arange(1, count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(hash_name(name))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def parameter(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The float32 value of one parameter."""
    count = math.prod(shape)
    if name.endswith(".gamma"):
        offset, amplitude = 0.5, 0.25
    elif name.endswith(".weight"):
        offset, amplitude = (1.0, 0.25) if len(shape) == 1 else (0.0, math.sqrt(3 / (count // shape[0])))
    elif name.endswith(".bias"):
        offset, amplitude = 0.0, 0.1
    else:
        offset, amplitude = 0.0, 0.5 if name.endswith("pos_embed") else 0.05
    return torch.from_numpy((offset + amplitude * stream(name, count)).astype(np.float32)).reshape(shape)


def images(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Pictures in 0..1, float32."""
    return torch.from_numpy(((stream(f"images/{name}", math.prod(shape)) + 1) / 2).astype(np.float32)).reshape(shape)


def case_images(case: str) -> torch.Tensor:
    """The pictures of one case, [b, s, 3, h, w]."""
    return images(case, tuple(RECORD["cases"][case]["images"]))


def golden(name: str) -> torch.Tensor:
    """One stored array, "<case>__<name>"."""
    return torch.from_numpy(ARRAYS[name])


@torch.no_grad()
def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter its value by rule."""
    for name, value in model.state_dict().items():
        value.copy_(parameter(name, tuple(value.shape)))
    return model


def error(value, expected):
    """Relative error over the whole array: the golden file's own metric."""
    assert value.shape == expected.shape
    return float((value.double() - expected.double()).norm() / expected.double().norm())
