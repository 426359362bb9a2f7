"""Cuts views out of a panorama and prints what that took at its peak and what was predicted, in bytes, as JSON.

    python memory_cutting.py

Run in a process of its own: what it measures is the memory of the process.
"""

import ctypes
import gc
import json
import warnings
from pathlib import Path

import torch

from cinescene_core.checks import CineSceneWarning
from cinescene_core.config import CineSceneConfig, ViewConfig
from cinescene_core.memory import Networks, ShotSize, predict_memory
from cinescene_core.views import slice_panorama

SIZES = ((2, 1024, 1024), (6, 1024, 512), (4, 2048, 1024), (20, 672, 384))
"""Views, width and height."""


def memory_line(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    warnings.simplefilter("ignore", CineSceneWarning)
    panorama, found = torch.rand(1024, 2048, 3), []
    slice_panorama(panorama, ViewConfig(num_views=1, width=64, height=64))
    for count, width, height in SIZES:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before = memory_line("VmRSS")
        slice_panorama(panorama, ViewConfig(num_views=count, width=width, height=height))
        measured = memory_line("VmHWM") - before
        size = ShotSize.trained(CineSceneConfig(), num_views=count, width=width, height=height)
        (predicted,) = predict_memory(Networks(), size, "cpu", ["views"])
        found.append((measured, predicted.working + panorama.nbytes))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
