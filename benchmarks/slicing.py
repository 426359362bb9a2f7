"""Time of slicing a panorama into views, against py360convert with OpenCV, and of an animatic.

    python benchmarks/slicing.py

Both slicers get the same float32 panorama and make 20 views of 672 x 384, 90 degrees wide. They take turns, and the
ratio is taken pair by pair, so that other work on the machine hits both. Ours is anti-aliased, py360convert is
not. Run it on an idle machine: beside other work, threads that wait for each other lose far more than
their share. Writes benchmarks/results/slicing.md.
"""

import datetime
import functools
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import py360convert
import torch

from cinescene_core.animatic import render_animatic
from cinescene_core.cameras import pose_from, rotation_from_angles, vertical_fov_degrees
from cinescene_core.config import ViewConfig
from cinescene_core.types import Trajectory
from cinescene_core.views import slice_panorama, supersampling

RESULT = Path(__file__).parent / "results" / "slicing.md"
CORES = 2
PAIRS = 7
REPEATS = 3
CONFIG = ViewConfig()
FRAMES = 77


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def slice_with_py360convert(panorama: np.ndarray) -> None:
    fov = CONFIG.fov_degrees, vertical_fov_degrees(CONFIG.fov_degrees, CONFIG.width, CONFIG.height)
    for view in range(CONFIG.num_views):
        yaw = 360 / CONFIG.num_views * view
        py360convert.e2p(panorama, fov, yaw, 0, (CONFIG.height, CONFIG.width), mode="bilinear")


def compare_slicers(panorama: torch.Tensor) -> str:
    array, width = panorama.numpy(), panorama.shape[1]
    theirs, ours = [], []
    for pair in range(PAIRS + 1):
        times = seconds(lambda: slice_with_py360convert(array)), seconds(lambda: slice_panorama(panorama, CONFIG))
        if pair:  # the first pair warms the caches
            theirs.append(times[0])
            ours.append(times[1])
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    samples = supersampling(width, CONFIG.fov_degrees, CONFIG.width)
    return (
        f"| {width} x {width // 2} | {statistics.median(theirs):.2f} s | {statistics.median(ours):.2f} s | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {samples} x {samples} |"
    )


def time_animatics(panorama: torch.Tensor) -> str:
    ramp = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    centre = torch.zeros(FRAMES, 3, dtype=torch.float64)
    moves = {
        "pan": (rotation_from_angles(75 * ramp), torch.tensor(90.0)),
        "tilt": (rotation_from_angles(0.0, 30 * ramp), torch.tensor(90.0)),
        "turn and zoom out": (rotation_from_angles(40 * ramp, 20 * ramp, 10 * ramp), 90 + 15 * ramp),
    }
    cells = []
    for rotations, fov in moves.values():
        path = Trajectory(pose_from(rotations, centre), fov)
        film = functools.partial(render_animatic, panorama, path, CONFIG.width, CONFIG.height)
        times = [seconds(film) for _ in range(REPEATS)]
        cells.append(f"{statistics.median(times):.2f} s ({min(times):.2f} s)")
    return f"| {panorama.shape[1]} x {panorama.shape[0]} | {' | '.join(cells)} |"


def report(sliced: list[str], filmed: list[str]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "py360convert", "opencv-python-headless"))
    return f"""# Slicing a panorama

{datetime.date.today()}, {CORES} CPU cores, Python {platform.python_version()}, {packages}.

## {CONFIG.num_views} views of {CONFIG.width} x {CONFIG.height}, {CONFIG.fov_degrees:g} degrees, float32

The slicers take turns; medians of {PAIRS} pairs, and the ratio of each pair (median, smallest to largest).

| panorama | py360convert with OpenCV | CineScene | CineScene / py360convert | samples per pixel, CineScene |
|---|---|---|---|---|
{chr(10).join(sliced)}

py360convert takes one sample per pixel, so it aliases on panoramas finer than the view.

## Animatic, {FRAMES} frames of {CONFIG.width} x {CONFIG.height}

Medians of {REPEATS}, the best in brackets. A pan shares one map of the sphere between all frames; other moves
compute one per frame.

| panorama | pan 75 degrees | tilt 30 degrees | turn and zoom out |
|---|---|---|---|
{chr(10).join(filmed)}
"""


def main() -> None:
    torch.set_num_threads(CORES)
    sliced, filmed = [], []
    for width in (2048, 4096, 8192):
        panorama = torch.rand(width // 2, width, 3, generator=torch.Generator().manual_seed(0))
        if width > 2048:
            sliced.append(compare_slicers(panorama))
            print(sliced[-1], flush=True)
        filmed.append(time_animatics(panorama))
        print(filmed[-1], flush=True)
    RESULT.write_text(report(sliced, filmed), encoding="utf-8")


if __name__ == "__main__":
    main()
