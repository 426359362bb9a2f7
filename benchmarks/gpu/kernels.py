"""What a card does during one step, kernel by kernel."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .measure import Record, seconds_of
from .roofline import kind_of

LISTED = 40
"""Kernels that are named in the result, longest first."""


class Kernel(NamedTuple):
    """One run of one kernel, in seconds on the card's clock."""

    name: str
    start: float
    end: float


def profiled(work: Callable[[], Any], device: torch.device) -> Record:
    """Seconds of one run of `work` by kind, after one that is not looked at.

    Kernels on several streams may run at once: kinds can then add up to more than the whole. `idle` is when no
    kernel runs at all.
    """
    work()
    if device.type == "cuda":
        return _on_card(work, device)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        whole, _ = seconds_of(work, device)
    # A processor runs one operation at a time; each is taken without those inside it.
    kernels = [Kernel(event.name, 0.0, event.self_cpu_time_total / 1e6) for event in seen.events()]
    return summary(kernels, whole, sum(kernel.end for kernel in kernels))


def _on_card(work: Callable[[], Any], device: torch.device) -> Record:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize(device)
    kernels = [
        Kernel(event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in seen.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    if not kernels:
        raise RuntimeError("The profiler saw no kernel on this card; its driver may not let it.")
    whole = max(kernel.end for kernel in kernels) - min(kernel.start for kernel in kernels)
    return summary(kernels, whole, covered(kernels))


def covered(kernels: list[Kernel]) -> float:
    """Seconds in which at least one kernel runs."""
    seconds, reached = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        seconds += max(0.0, kernel.end - max(kernel.start, reached))
        reached = max(reached, kernel.end)
    return seconds


def summary(kernels: list[Kernel], whole: float, busy: float) -> Record:
    """Seconds by kind, and the kernels that take longest."""
    kinds: dict[str, float] = defaultdict(float)
    names: dict[str, list[float]] = defaultdict(list)
    for kernel in kernels:
        kinds[kind_of(kernel.name)] += kernel.end - kernel.start
        names[kernel.name].append(kernel.end - kernel.start)
    kinds["idle"] = max(0.0, whole - busy)
    longest = sorted(names.items(), key=lambda item: -sum(item[1]))[:LISTED]
    return {
        "whole_s": whole,
        "kinds_s": dict(kinds),
        "kernels": [
            {"name": name, "kind": kind_of(name), "runs": len(each), "seconds": sum(each)} for name, each in longest
        ],
    }
