"""Timing, peak memory, and the comparison of two results."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cinescene_core.memory import Networks, ShotSize, Stage, predict_memory

from .sizes import Sizes

Record = dict[str, Any]
"""What is written to the JSON file."""


@dataclass(frozen=True)
class Bench:
    """Where and at what size a section measures."""

    device: torch.device
    sizes: Sizes
    sections: dict[str, Record]
    """What was measured so far, by section."""


@dataclass(frozen=True, eq=False)
class Timing:
    """One piece of work, several times in a row."""

    first: float
    """Seconds of the first run, which warms up and compiles."""
    runs: tuple[float, ...]
    """Seconds of each later run."""
    peak_bytes: int | None
    """What torch's allocator held of the card at most in the later runs; None on a processor."""
    result: Any
    """Of the last run."""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def record(self) -> Record:
        return {"first_s": self.first, "runs_s": list(self.runs), "median_s": self.median, "peak": self.peak_bytes}


def timed(work: Callable[[], Any], device: torch.device, runs: int) -> Timing:
    """Run a piece of work once, then `runs` times by the clock of the device."""
    first, result = seconds_of(work, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(runs):
        result = None  # two results at once would count twice in the peak
        took, result = seconds_of(work, device)
        seconds.append(took)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Timing(first, tuple(seconds), peak, result)


def seconds_of(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until the device has done all of `work`, and its result."""
    if device.type != "cuda":
        begin = time.perf_counter()
        result = work()
        return time.perf_counter() - begin, result
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    result = work()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3, result


def predicted(sizes: Sizes, *stages: Stage, **shot: Any) -> int | None:
    """Bytes of a card that the memory planner says these stages take at most; None where it needs diffusers to say."""
    networks = Networks(
        wan=sizes.wan,
        vggt=sizes.vggt,
        vae_width=sizes.vae_width,
        text_bytes=0,
        text_heads=0,
    )
    try:
        found = predict_memory(networks, ShotSize.trained(sizes.shot, **shot), "cuda", stages)
    except ImportError:
        return None
    return max(memory.peak for memory in found)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, as a share of the wanted values' own."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def compared(what: str, found: Tensor, wanted: Tensor, limit: float) -> Record:
    """A check of values: passed where they differ by no more than `limit`; NaN never passes."""
    share = difference(found, wanted)
    return {"what": what, "difference": share, "limit": limit, "passed": share <= limit}
