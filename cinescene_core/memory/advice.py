"""What to do when a shot is too large, and the sentence that says so."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from .predict import STAGES, Networks, ShotSize, Stage, free_bytes, predict_memory

GIB = 2**30


class Change(NamedTuple):
    """A smaller shot that fits."""

    words: str
    shot: ShotSize
    peak: int
    """Bytes of its largest stage."""


def changes_that_fit(
    networks: Networks,
    shot: ShotSize,
    device: torch.device | str,
    free: int,
    stages: Sequence[Stage] = STAGES,
    *,
    cache_moves: bool = True,
) -> Iterator[Change]:
    """The smallest change of each kind with which every stage fits, from what costs the picture least to most.

    Args:
        networks, shot, device, stages: as in `predict_memory`.
        free: bytes there are; less than the shot needs.
        cache_moves: whether the scene cache may be stored in fewer bits and elsewhere.
    """

    def peak(smaller: ShotSize) -> int:
        return max(stage.peak for stage in predict_memory(networks, smaller, device, stages))

    for kind in _smaller(shot, torch.device(device).type != "cpu", cache_moves):
        # Each kind goes from little to much: the first that fits is the boundary.
        low, high = 0, len(kind)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if peak(kind[middle][1]) <= free else (middle + 1, high)
        if low < len(kind):
            words, smaller = kind[low]
            yield Change(words, smaller, peak(smaller))


def _smaller(shot: ShotSize, is_card: bool, cache_moves: bool) -> Iterator[list[tuple[str, ShotSize]]]:
    """Every kind of change, each as the smaller shots it leads to."""
    change = partial(dataclasses.replace, shot)
    if shot.context_attention != "joint" and cache_moves:
        if shot.stored != "float8":
            yield [("the scene cache in float8", change(stored="float8"))]
        if is_card and shot.place == "device":
            yield [("the scene cache in host memory", change(place="host"))]
    yield [(f"{views} views", change(num_views=views)) for views in range(shot.num_views - 1, 0, -1)]
    sizes = []
    for height in range(shot.height - 16, 0, -16):
        width = max(16, round(shot.width * height / shot.height / 16) * 16)
        sizes.append((f"{width} x {height} pixels", change(width=width, height=height)))
    yield sizes
    yield [(f"{frames} frames", change(num_frames=frames)) for frames in range(shot.num_frames - 4, 0, -4)]


def shortage(
    networks: Networks,
    shot: ShotSize,
    device: torch.device | str,
    stages: Sequence[Stage],
    free: int | None,
    *,
    cache_moves: bool = True,
) -> str:
    """Say which of `stages` has too little memory, what it needs, what is free and what to change first."""
    memory = max(predict_memory(networks, shot, device, stages), key=lambda stage: stage.peak)
    known = "an unknown part of it" if free is None else in_gib(free)
    # A shot that should have fitted and did not must shrink all the same.
    room = memory.peak - 1 if free is None else min(free, memory.peak - 1)
    change = next(changes_that_fit(networks, shot, device, room, stages, cache_moves=cache_moves), None)
    return (
        f"Out of memory in stage '{memory.stage}': {shot.num_frames} frames of {shot.width} x {shot.height} pixels "
        f"with {shot.num_views} views take {in_gib(memory.peak)} on {device}, where {known} is free; "
        + (f"use {change.words} ({in_gib(change.peak)})." if change else "use a device with more memory.")
    )


def in_gib(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


class OutOfMemory(torch.OutOfMemoryError):
    """A stage takes more memory than there is; the text says what it needs, what is free and what to change."""


@contextmanager
def memory_told(
    networks: Callable[[], Networks],
    shot: Callable[[], ShotSize],
    device: torch.device | str,
    *stages: Stage,
    cache_moves: bool = True,
) -> Iterator[None]:
    """Say in one sentence what was too much for what runs inside.

    Args:
        networks, shot: give their sizes; asked only when memory runs out.
        device: as in `predict_memory`.
        stages: what runs inside.
        cache_moves: as in `changes_that_fit`.

    Raises:
        OutOfMemory: a card or the machine has no more.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        text = shortage(networks(), shot(), device, stages, free_bytes(device), cache_moves=cache_moves)
        raise OutOfMemory(text) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a card or the machine has no more memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
