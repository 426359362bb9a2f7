"""Rays per second of the room renderer on this machine's CPU, as it is and compiled; a ray is one shaded sample.

    python benchmarks/room_rays.py [--runs 7] [--threads 2]

Writes benchmarks/results/room_rays.md. Needs a C++ compiler. Wait for a quiet machine: the load is written down.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from cinescene_training.render import photographs, sample_places

RESULT = Path(__file__).parent / "results" / "room_rays.md"
BUDGET = 2.0
"""Millions of rays per second on two cores."""
WIDTH, HEIGHT, SAMPLES = 256, 128, 4
RAYS = WIDTH * HEIGHT * SAMPLES * SAMPLES


def processor() -> str:
    """What the system calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def measure(kind: str, subject: bool, compiled: bool, runs: int) -> tuple[list[float], list[float]]:
    """Million rays per second, of wall clock and of processor time, one value per run."""
    places = sample_places([0], kind)
    poses = torch.eye(4, dtype=torch.float64)[None, None]
    moment = torch.full((1, 1), 0.5) if subject else None

    def film() -> None:
        photographs(places, poses, 90, WIDTH, HEIGHT, time=moment, samples=SAMPLES, compiled=compiled)

    film()  # compiles, or fills the allocator
    by_clock, by_processor = [], []
    for _ in range(runs):
        clock, spent = time.perf_counter(), time.process_time()
        film()
        by_clock.append(RAYS / 1e6 / (time.perf_counter() - clock))
        by_processor.append(RAYS / 1e6 / (time.process_time() - spent))
    return by_clock, by_processor


def compile_seconds() -> float:
    """Wall clock of the first compiled picture without and with subject, caches of earlier processes included."""
    start = time.perf_counter()
    for subject in (False, True):
        measure("room", subject, True, 0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    first = compile_seconds()
    rows = []
    for compiled in (False, True):
        for kind, subject in (("room", False), ("room", True), ("courtyard", True)):
            runs = arguments.runs if compiled else max(2, arguments.runs // 3)
            clock, spent = measure(kind, subject, compiled, runs)
            words = f"{'compiled' if compiled else 'eager'}, {kind}, {'with' if subject else 'without'} subject"
            rows.append(
                f"| {words} | {max(clock):.2f} | {statistics.median(clock):.2f} | {statistics.median(spent):.2f} |"
            )
            print(rows[-1], flush=True)
    text = f"""# Rays per second of the room renderer

{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, {arguments.threads} threads, load average before
the start {load:.1f}; torch {torch.__version__}, Python {platform.python_version()}.
{WIDTH} x {HEIGHT} pixels with {SAMPLES} x {SAMPLES} samples each are {RAYS / 1e6:.2f} million rays a run;
{arguments.runs} runs compiled, fewer eager, after one that is not counted. A ray is one sample, traced and shaded;
averaging the pixels is included. Compiling both variants, with their first pictures, took {first:.0f} seconds (less
where torch's cache on disk holds them). The budget is {BUDGET:g} million a second on two cores. Where the last column
equals the median, one core did the work: blocks of rays are short enough for the cache of one.

| | best, Mray/s | median, Mray/s | median per second of processor time |
|---|---|---|---|
{chr(10).join(rows)}
"""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")
    print(f"compiling {first:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
