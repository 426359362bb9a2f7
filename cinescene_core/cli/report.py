"""What the user sees while a command works, and when it is done."""

from pathlib import Path
from typing import Self

from tqdm import tqdm

from ..config import CineSceneConfig
from ..pipeline import Shot

UNTRAINED = (
    "These weights are untrained: they show that every stage runs and what it costs. "
    "The picture they make is noise, not film."
)


class StageBars:
    """One progress bar per stage, on standard error."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
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
            self.bar, self.stage = tqdm(total=total, desc=stage), stage
        self.bar.update(done - self.bar.n)


def print_report(config: CineSceneConfig, shot: Shot, path: Path) -> None:
    """What the shot is, what each stage cost, and what the weights are worth."""
    frames, height, width, _ = shot.frames.shape
    for cost in shot.costs:
        print(cost)
    print(f"total     {sum(cost.seconds for cost in shot.costs):9.2f} s")
    print(f"{path}: {frames} frames of {width} x {height} at {shot.fps:g} fps")
    if not config.scene_trained:
        print(UNTRAINED)
