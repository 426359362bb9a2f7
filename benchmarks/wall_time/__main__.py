"""Seconds of a forward on this machine's CPU: each context mode, beside the same network of diffusers' own blocks.

    python -m benchmarks.wall_time [--threads 2] [--rounds 5] [--json]

The network is a sixth of full size (`scaled_model`), with random weights. Each variant must first give the values
of another, or nothing is timed. Then they take turns, so that other work on the machine hits all. Peak memory is that
of a process of its own for each. Writes benchmarks/results/wall_time.md and, beside it, the raw numbers as JSON; with
--json it prints those instead. Linux only: memory and other processes' share are read from /proc.
"""

import argparse
import copy
import ctypes
import datetime
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.config import SamplingConfig
from cinescene_core.sampler import sample_latents
from cinescene_core.scene_cache import build_scene_cache
from cinescene_core.types import Context

from .report import CEILING, page
from .scaled_model import (
    CACHED,
    FRAMES,
    JOINT,
    LATENT_SIZE,
    READ,
    SIZES,
    STEPS,
    TEXT_ROWS,
    VIEWS,
    DiffusersJoint,
    Variant,
    check_values,
    filled,
    on_meta,
    random_inputs,
    shot_path,
    variants,
)

RESULT = Path(__file__).parents[1] / "results" / "wall_time.md"
PROFILED = ("diffusers, joint", JOINT, CACHED, "cached step, compiled")
MEMORY = (
    "diffusers, joint",
    "diffusers, joint, one timestep",
    JOINT,
    CACHED,
    "cached step, fp8",
    "plain text-to-video",
)
SIDE, PRODUCTS = 2048, 4
"""The float32 matrices whose products state what the processor can do, and how many are timed together."""
DEEP_LAYERS, DEEP_LATENT_SIZE, DEEP_STEPS = 30, (8, 14), 8
"""fp8's error is measured in a network as deep as Wan, of pictures of 112 x 64."""


def count_flops(found: dict[str, Variant]) -> dict[str, dict[str, float]]:
    """GFLOP of each forward and reading, on the meta device: in attention, and in linear layers and convolutions."""

    def count(work: Callable[[], Any]) -> dict[str, float]:
        with FlopCounterMode(display=False) as counter:
            work()
        operations = counter.get_flop_counts()["Global"]
        attention = sum(n for operation, n in operations.items() if operation is torch.ops.aten.bmm)
        return {"attention": attention / 1e9, "linear": (sum(operations.values()) - attention) / 1e9}

    counts = {name: count(found[variant].read) for name, variant in READ.items()}
    for name in STEPS:
        variant = found[name.removesuffix(", compiled")]  # compiling changes no sum
        counts[name] = count(partial(variant.step, variant.read()))
    return counts


def time_all(found: dict[str, Variant], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round; the variants take turns and each round begins with another."""
    square = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    works: dict[str, Callable[[], Any]] = {name: partial(found[name].step, found[name].read()) for name in STEPS}
    works |= {name: found[variant].read for name, variant in READ.items()}
    works[CEILING] = lambda: [square @ square for _ in range(PRODUCTS)]
    seconds: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for turn in range(rounds + 1):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            works[name]()
            if turn:  # the first round warms caches and buffers
                seconds[name].append(time.perf_counter() - start)
        print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    return seconds


def profile_groups(found: dict[str, Variant]) -> dict[str, dict[str, float]]:
    """Seconds of one forward in attention, in linear layers and convolutions, and in everything else."""
    groups = {}
    for name in PROFILED:
        work = partial(found[name].step, found[name].read())
        groups[name] = min((profiled(work) for _ in range(3)), key=lambda found: sum(found.values()))
    return groups


def profiled(work: Callable[[], Any]) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    seconds = {"attention": 0.0, "linear": 0.0, "the rest": 0.0}
    for event in recorded.key_averages():
        name = event.key.removeprefix("aten::")
        linear = name in ("addmm", "mm", "bmm") or "convolution" in name or "linear" in name
        group = "attention" if "attention" in name else "linear" if linear else "the rest"
        seconds[group] += event.self_cpu_time_total / 1e6
    return seconds


def measure_rounding() -> dict[str, dict[str, float]]:
    """Relative error (norms) of velocity and sampled latents when the cache of a network of full depth is rounded."""
    model = filled(replace(SIZES, num_layers=DEEP_LAYERS))
    given, elsewhere = (random_inputs(SIZES, DEEP_LATENT_SIZE, seed) for seed in (1, 2))

    def film(context: Context, stored: Any) -> tuple[Tensor, Tensor]:
        cache = build_scene_cache(model, context, "cached", stored=stored)
        sampled = sample_latents(
            model,
            given.text,
            elsewhere.text,
            shot_path(),
            context,
            SamplingConfig(steps=DEEP_STEPS),
            context_attention="cached",
            cache=cache,
        )
        return model(given.video, given.timestep, given.text, camera=given.camera, context=cache), sampled

    exact = film(given.context, "float32")
    others = {
        "bfloat16": film(given.context, "bfloat16"),
        "fp8": film(given.context, "float8"),
        "another scene": film(elsewhere.context, "float32"),
    }
    return {
        name: {
            kind: float((rounded - true).norm() / true.norm())
            for kind, rounded, true in zip(("velocity", "latents"), both, exact, strict=True)
        }
        for name, both in others.items()
    }


def peak_growth(name: str) -> dict[str, int]:
    """Bytes by which this process grows at most while it reads the scene and computes one forward."""
    model = filled(SIZES)
    found = variants(model, DiffusersJoint(model), random_inputs(SIZES, LATENT_SIZE))[name]
    found.step(found.read())
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = memory_line("VmRSS")
    memory = found.read()
    found.step(memory)
    return {"growth": memory_line("VmHWM") - before, "cache": getattr(memory, "num_bytes", 0)}


def memory_line(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure_memory(threads: int) -> dict[str, dict[str, int]]:
    """`peak_growth` of a fresh process for each; freed tensors return to the system at once there."""
    surroundings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = {}
    for name in MEMORY:
        command = [sys.executable, "-m", __package__, "--threads", str(threads), "--peak", name]
        found[name] = json.loads(subprocess.check_output(command, env=surroundings, text=True, cwd=RESULT.parents[2]))
    return found


def busy_seconds() -> tuple[float, float]:
    """Seconds that all processes, and that this one alone, have had of the processors."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    own = os.times()
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), own.user + own.system  # idle, waiting


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def measure(threads: int, rounds: int) -> dict[str, Any]:
    """Every number of the report."""
    load = os.getloadavg()
    model, given = filled(SIZES), random_inputs(SIZES, LATENT_SIZE)
    theirs = DiffusersJoint(model)
    counted = variants(copy.deepcopy(model).to("meta"), copy.deepcopy(theirs).to("meta"), on_meta(given))
    found = variants(model, theirs, given)
    differences = check_values(found)
    all_before, own_before = busy_seconds()
    start = time.perf_counter()
    seconds = time_all(found, rounds)
    wall = time.perf_counter() - start
    all_after, own_after = busy_seconds()
    others = (all_after - all_before - own_after + own_before) / wall / (os.cpu_count() or 1)
    return {
        "date": str(datetime.date.today()),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "rounds": rounds,
        "versions": {name: version(name) for name in ("torch", "diffusers")},
        "load_average_at_start": load,
        "others_share_while_timing": max(others, 0.0),
        "sizes": asdict(SIZES)
        | {"latent_size": LATENT_SIZE, "frames": FRAMES, "views": VIEWS, "text_rows": TEXT_ROWS, "side": SIDE},
        "differences": differences,
        "gflop": count_flops(counted) | {CEILING: {"linear": 2e-9 * PRODUCTS * SIDE**3}},
        "seconds": seconds,
        "groups": profile_groups(found),
        "memory": measure_memory(threads),
        "rounding": {
            "layers": DEEP_LAYERS,
            "latent_size": DEEP_LATENT_SIZE,
            "steps": DEEP_STEPS,
            "error": measure_rounding(),
        },
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the raw numbers and write nothing")
    parser.add_argument("--peak", choices=MEMORY, help="print the memory of one variant, of this process alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.automatic_dynamic_shapes = False  # each mode compiled for its own sizes, as where it is alone
    if options.peak:
        print(json.dumps(peak_growth(options.peak)))
        return
    raw = measure(options.threads, options.rounds)
    text = json.dumps(raw, indent=1)
    if options.json:
        print(text)
        return
    RESULT.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    RESULT.write_text(page(raw), encoding="utf-8")


if __name__ == "__main__":
    main()
