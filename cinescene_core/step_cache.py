"""First-block cache: leave out the other blocks of a forward whose first block says nothing new.

Neighbouring steps give nearly the same video tokens. What the first block adds to them is cheap to compute and tells
how much: where it has changed less than a threshold since the last forward that was computed in full, the sum of what
all other blocks added then is added again. The two branches of guidance are followed apart.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from .checks import check_positive
from .models.wan import CineSceneTransformer


class SkippedForwards(NamedTuple):
    """What a step cache left out of one shot."""

    skipped: int
    """Forwards of which only the first block was computed."""
    forwards: int
    """All of them."""

    def __str__(self) -> str:
        return f"step cache: {self.skipped} of {self.forwards} forwards ended behind the first block"


@dataclass
class Branch:
    """What the last full forward of one branch added to the video tokens, [b, n, d] each."""

    by_first: Tensor | None = None
    by_rest: Tensor | None = None


@dataclass
class StepCache:
    """Skips blocks of a transformer while one shot is sampled."""

    threshold: float
    """Mean change of what the first block adds, relative to its mean size, below which the rest is left out."""
    forwards: int = 0
    skipped: int = 0
    """Forwards of which only the first block was computed."""
    branches: dict[str, Branch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive("StepCache.threshold", self.threshold)

    def start(self) -> None:
        """Forget the shot before."""
        self.forwards = self.skipped = 0
        self.branches.clear()

    def summary(self) -> SkippedForwards:
        """What was left out since the start."""
        return SkippedForwards(self.skipped, self.forwards)

    @contextlib.contextmanager
    def following(self, model: CineSceneTransformer, branch: str) -> Iterator[None]:
        """Watch one forward of a branch; for the time of the block it decides which blocks of the model run."""
        state = self.branches.setdefault(branch, Branch())
        run, last = model.run_block, len(model.blocks) - 1
        start: Tensor | None = None
        """Video tokens behind the first block, unless the rest is left out."""

        def run_block(index: int, tokens: Tensor, segments: Any, *inputs: Any) -> Tensor:
            nonlocal start
            video = segments[0].length
            if index == 0:
                reached = run(0, tokens, segments, *inputs)
                added = (reached - tokens)[:, :video]
                skips = state.by_rest is not None and is_near(added, state.by_first, self.threshold)
                self.forwards, self.skipped = self.forwards + 1, self.skipped + skips
                if not skips:
                    state.by_first, start = added, reached[:, :video]
                return reached
            if start is not None:
                reached = run(index, tokens, segments, *inputs)
                if index == last:
                    state.by_rest = reached[:, :video] - start
                return reached
            return tokens if index < last or state.by_rest is None else tokens[:, :video] + state.by_rest

        model.run_block = run_block  # type: ignore[method-assign]
        try:
            yield
        finally:
            del model.run_block


def is_near(tensor: Tensor, other: Tensor | None, threshold: float) -> bool:
    """Whether the mean difference of two tensors is below a share of the mean size of `other`."""
    return other is not None and bool((tensor - other).abs().mean() < threshold * other.abs().mean())
