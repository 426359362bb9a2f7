"""Seconds and peak memory of each stage of a nano shot, from a panorama file to an mp4, on this machine's CPU.

    python benchmarks/nano_stages.py [--runs 5]

Writes benchmarks/results/nano_stages.md.
"""

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from cinescene_core.config import SamplingConfig
from cinescene_core.costs import StageCost
from cinescene_core.loading import load_nano
from cinescene_core.panorama import example_panorama_path, load_panorama
from cinescene_core.pipeline import generate
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.video import save_video

RESULT = Path(__file__).parent / "results" / "nano_stages.md"


def film() -> list[StageCost]:
    """One shot with everything a user waits for."""
    costs = []
    start = time.perf_counter()
    models, panorama = load_nano(), load_panorama(example_panorama_path())
    costs.append(StageCost("load", time.perf_counter() - start, None))
    config = models.config
    path = preset_trajectory("pan_right", num_frames=config.num_frames, fps=config.fps, fov_degrees=config.fov_degrees)
    shot = generate(models, panorama, "a red robot walks", path)
    costs.extend(shot.costs)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        save_video(shot.frames, Path(folder) / "shot.mp4", shot.fps)
    costs.append(StageCost("mp4", time.perf_counter() - start, None))
    return costs


def row(name: str, seconds: list[float], peaks: list[int]) -> str:
    memory = f"{max(peaks) / 2**20:,.0f}" if peaks else ""
    return f"| {name} | {min(seconds):.2f} | {statistics.median(seconds):.2f} | {max(seconds):.2f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = [film() for _ in range(parser.parse_args().runs)]
    rows = [
        row(stage[0].stage, [cost.seconds for cost in stage], [c.peak_bytes for c in stage if c.peak_bytes])
        for stage in zip(*runs, strict=True)
    ]
    rows.append(row("total", [sum(cost.seconds for cost in run) for run in runs], []))
    print("\n".join(rows))
    config = load_nano().config
    text = f"""# A nano shot, stage by stage

{datetime.date.today()}, {os.cpu_count()} CPU cores ({platform.machine()}, {torch.get_num_threads()} threads), torch
{torch.__version__}, Python {platform.python_version()}; {len(runs)} runs. {config.num_views} views,
{config.num_frames} frames of {config.width} x {config.height}, {SamplingConfig().steps} steps with guidance.

| stage | least, s | median, s | most, s | peak of the process, MiB |
|---|---|---|---|---|
{chr(10).join(rows)}
"""
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
