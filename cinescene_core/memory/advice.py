"""What to do when a shot is too large, and the sentence that says so."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import torch

from .predict import STAGES, Networks, ShotSize, Stage, free_bytes, predict_memory

GIB = 2**30
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "Cannot allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
)
"""Words of errors that torch raises as a plain RuntimeError: of the CPU, of mapped files, of Apple's GPUs, of pinned
memory, and of cuBLAS and cuDNN."""


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

    Little is predicted that need not be: a kind whose last shot does not fit is left at once.

    Args:
        networks, shot, device, stages: as in `predict_memory`.
        free: bytes there are; less than the shot needs.
        cache_moves: whether the scene cache may be stored in fewer bits and elsewhere.
    """

    def fits(smaller: ShotSize, among: Sequence[Stage]) -> bool:
        return all(
            memory.peak <= free for stage in among for memory in predict_memory(networks, smaller, device, [stage])
        )

    tight = [stage for stage in stages if not fits(shot, [stage])]
    for kind in _smaller(shot, torch.device(device).type != "cpu", cache_moves):
        if not kind or not fits(kind[-1][1], tight):
            continue
        # Each kind goes from little to much: the first that fits is the boundary.
        low, high = 0, len(kind) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(kind[middle][1], tight) else (middle + 1, high)
        for words, smaller in kind[low:]:
            if fits(smaller, stages):
                yield Change(words, smaller, max(m.peak for m in predict_memory(networks, smaller, device, stages)))
                break


def _smaller(shot: ShotSize, is_card: bool, cache_moves: bool) -> Iterator[list[tuple[str, ShotSize]]]:
    """Every kind of change, each as the smaller shots it leads to."""
    change = partial(dataclasses.replace, shot)
    if shot.context_attention != "joint" and cache_moves:
        if shot.stored != "float8":
            yield [("the scene cache in float8", change(stored="float8"))]
        if is_card and shot.place == "device":
            yield [("the scene cache in host memory", change(place="host"))]
    yield [(_counted(views, "view"), change(num_views=views)) for views in range(shot.num_views - 1, 0, -1)]
    sizes = []
    for height in range(shot.height - 16, 0, -16):
        width = max(16, round(shot.width * height / shot.height / 16) * 16)
        sizes.append((f"{width} x {height} pixels", change(width=width, height=height)))
    yield sizes
    yield [(_counted(frames, "frame"), change(num_frames=frames)) for frames in range(shot.num_frames - 4, 0, -4)]


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
    # Where the prediction would have fitted, nobody knows how much less will do: half of what the weights leave.
    room = free if free is not None and free < memory.peak else memory.weights + memory.working // 2
    change = next(changes_that_fit(networks, shot, device, room, stages, cache_moves=cache_moves), None)
    more = "a machine with more memory" if torch.device(device).type == "cpu" else "a card with more memory, or the CPU"
    wanted = f"{change.words} ({in_gib(change.peak)})" if change else more
    videos = "" if shot.batch == 1 else f"{shot.batch} videos of "
    size = f"{_counted(shot.num_frames, 'frame')} of {shot.width} x {shot.height} pixels"
    needed = f"{in_gib(memory.peak)} on {device}, where {known} is free"
    needed = f"take {needed}" if free is None or room == free else f"were predicted to take {needed}, and took more"
    views = _counted(shot.num_views, "view")
    return f"Out of memory in stage '{memory.stage}': {videos}{size} with {views} {needed}; use {wanted}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_gib(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


class OutOfMemory(torch.OutOfMemoryError):
    """A stage takes more memory than there is; the text says what it needs, what is free and what to change."""


@contextmanager
def explaining_out_of_memory(
    networks: Callable[[], Networks],
    shot: Callable[[], ShotSize],
    device: torch.device | str,
    *stages: Stage,
    cache_moves: bool = True,
) -> Iterator[None]:
    """Say in one sentence what was too much for what runs inside. An error that cannot be explained stays as it is.

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
        text = None
        with suppress(Exception):
            text = shortage(networks(), shot(), device, stages, free_bytes(device), cache_moves=cache_moves)
        if text is None:
            raise
        raise OutOfMemory(text) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a card or the machine has no more memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )
