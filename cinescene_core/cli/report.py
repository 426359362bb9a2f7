"""What the user sees while a command works, and when it is done."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from ..config import UNTRAINED, CineSceneConfig
from ..pipeline import Shot


class StageBars:
    """One progress bar per stage, on standard error."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` parts of `stage` are behind us."""
        if self.bar is None or self.stage != stage:
            self.__exit__()
            self.bar, self.stage = _new_bar(stage, total), stage
        self.bar.update(done - self.bar.n)

    def of(self, stage: str) -> Callable[[int, int], None]:
        """What a single stage tells (done, total)."""
        return partial(self, stage)


def _new_bar(stage: str, total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('The command needs tqdm. Install it with: pip install "cinescene[cli]"') from error
    return tqdm(total=total, desc=stage)


def print_report(config: CineSceneConfig, shot: Shot, path: Path) -> None:
    """What the shot is, what each stage cost, and what the weights are worth."""
    frames, height, width, _ = shot.frames.shape
    for cost in shot.costs:
        print(cost)
    print(f"total     {sum(cost.seconds for cost in shot.costs):9.2f} s")
    print(f"{path}: {frames} frames of {width} x {height} at {shot.fps:g} fps")
    if not config.scene_trained:
        print(UNTRAINED)
