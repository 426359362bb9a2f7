"""The page of the wall-time benchmark, from its raw numbers."""

from statistics import median
from textwrap import fill
from typing import Any

from cinescene_core.config import SamplingConfig

from ..flops import FORWARDS
from .scaled_model import CACHED, CHECKS, JOBS, JOINT, READ, STEPS

CEILING = "matrix product"
GROUPS = {"attention": "attention", "linear": "linear layers", "the rest": "the rest"}
SHORTENED = {
    "attention": "fewer keys (fewer views, coarser F_t) or a faster kernel shorten it",
    "linear": "a narrower network or fewer bits shorten them",
    "the rest": "compiled blocks, which move fewer intermediate values, shorten it",
}
"""What makes a group take less time."""
IDLE = 0.05
"""Share of the machine that others may take before the page warns."""


def gflop(raw: dict[str, Any], name: str) -> float:
    return sum(raw["gflop"][name].values())


def ceiling(raw: dict[str, Any]) -> float:
    """GFLOP/s of matrix products, the fastest."""
    return gflop(raw, CEILING) / min(raw["seconds"][CEILING])


def spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def against_joint(raw: dict[str, Any], seconds: list[float], forwards: int = 1) -> list[float]:
    """How many times longer mode joint took, round by round."""
    return [forwards * joint / other for joint, other in zip(raw["seconds"][JOINT], seconds, strict=True)]


def step_rows(raw: dict[str, Any]) -> list[str]:
    rows = []
    for name in (*STEPS, *READ):
        seconds, work = raw["seconds"][name], gflop(raw, name)
        rate = work / median(seconds)
        rows.append(
            f"| {name} | {work:,.0f} | {spread(seconds)} | {rate:,.0f} | {rate / ceiling(raw):.0%} | "
            f"{gflop(raw, JOINT) / work:.2f} | {spread(against_joint(raw, seconds))} |"
        )
    return rows


def job_rows(raw: dict[str, Any]) -> list[str]:
    rows = []
    for job, (step, reading) in JOBS.items():
        once = raw["seconds"][reading] if reading else [0.0] * raw["rounds"]
        totals = [FORWARDS * each + first for each, first in zip(raw["seconds"][step], once, strict=True)]
        work = FORWARDS * gflop(raw, step) + (gflop(raw, reading) if reading else 0)
        by_flop = FORWARDS * gflop(raw, JOINT) / work
        rows.append(
            f"| {job} | {median(totals):,.0f} | {by_flop:.2f} | {spread(against_joint(raw, totals, FORWARDS))} |"
        )
    return rows


def group_rows(raw: dict[str, Any]) -> list[str]:
    rows = []
    for name, groups in raw["groups"].items():
        whole = sum(groups.values())
        cells = [f"{groups[g]:.2f} ({groups[g] / whole:.0%})" for g in ("attention", "linear", "the rest")]
        rates = [f"{raw['gflop'][name][g] / groups[g]:,.0f}" for g in ("attention", "linear")]
        rows.append(f"| {name} | {' | '.join(cells)} | {' | '.join(rates)} |")
    return rows


def findings(raw: dict[str, Any]) -> str:
    """What the numbers say: why time and FLOPs differ, and what is next."""
    joint, cached = raw["groups"][JOINT], raw["groups"][CACHED]
    by_flop, by_time = gflop(raw, JOINT) / gflop(raw, CACHED), median(against_joint(raw, raw["seconds"][CACHED]))
    parts = ", ".join(f"{GROUPS[group]} {joint[group] / cached[group]:.2f}" for group in joint)
    largest = max(cached, key=lambda group: cached[group])
    share = cached[largest] / sum(cached.values())
    work = raw["gflop"][CACHED].get(largest)
    rate = f", at {work / cached[largest] / ceiling(raw):.0%} of the ceiling" if work else ""
    return f"""A joint forward computes {by_flop:.2f} times as much as a cached step and takes {by_time:.2f} times as
long. By group, joint / cached: {parts}.
The next bottleneck of a cached step is {GROUPS[largest]}, {share:.0%} of its time{rate}: {SHORTENED[largest]}.
If all else cost nothing, the step would be {1 / share:.2f} times faster."""


def page(raw: dict[str, Any]) -> str:
    others, newline, mib = raw["others_share_while_timing"], "\n", 2**20
    noise = (
        "not idle, and threads that wait for each other lose more than their share; measure again"
        if others > IDLE
        else "idle"
    )
    sizes, rounding = raw["sizes"], raw["rounding"]
    layer = raw["memory"][CACHED]["cache"] / sizes["num_layers"]
    tokens = sizes["latent_size"][0] * sizes["latent_size"][1] // 4 * sizes["frames"]
    rows, columns = (8 * side for side in rounding["latent_size"])
    memory = [f"| {k} | {v['growth'] / mib:,.0f} | {v['cache'] / mib:,.0f} |" for k, v in raw["memory"].items()]
    errors = [f"| {k} | {v['velocity']:.2%} | {v['latents']:.2%} |" for k, v in rounding["error"].items()]
    equal = [
        f"| {name} | {CHECKS[name][0]} | {f'{found:.0e}' if found else 'bit-equal'} |"
        for name, found in raw["differences"].items()
    ]
    return wrapped(f"""# Seconds of a forward on a CPU

{raw["date"]}, {raw["processor"]}, {raw["threads"]} threads on {raw["cores"]} cores, float32,
{", ".join(f"{name} {number}" for name, number in raw["versions"].items())}.
Load average at the start {raw["load_average_at_start"][0]:.2f}; while the variants were timed, other processes took
{others:.0%} of the machine: {noise}.

Random weights: {sizes["num_layers"]} layers of width {sizes["width"]}, {sizes["num_heads"]} heads, feed-forward
{sizes["ffn_width"]}, prompts of {sizes["text_rows"]} rows;
{tokens:,} tokens each of video, I_t and F_t ({sizes["frames"]} latent frames,
{sizes["views"]} views). Width, heads and tokens are a sixth of full size.
GFLOP are counted operation by operation. Seconds are medians of {raw["rounds"]} rounds in which the variants take
turns (least to most); ratios are taken round by round. Ceiling: float32 products
of {sizes["side"]} x {sizes["side"]} matrices,
{ceiling(raw):,.0f} GFLOP/s in the fastest of the same rounds.

| | GFLOP | seconds | GFLOP/s | of the ceiling | joint / this, FLOPs | joint / this, time |
|---|---|---|---|---|---|---|
{newline.join(step_rows(raw))}

"diffusers" is the same network of diffusers' `WanTransformerBlock`s, unchanged. They take the context's timestep 0 only
as a table of six rows per token, which the camera then enters. "One timestep" leaves both out: video and context share
a timestep, so the blocks need no table; it is not CineScene, but the least that those blocks cost. A per view step
reads a cache of the same size as a cached step does, so it is that step; only its reading differs. On a CPU host and
device are the same memory: "from the host" shows what the second thread costs. Readings are not compiled.

## 50 steps with and without the prompt

The reading once and {FORWARDS} forwards, reckoned from the seconds of each round.

| | seconds | joint / this, FLOPs | joint / this, time |
|---|---|---|---|
{newline.join(job_rows(raw))}

## Where the time goes

Seconds of one forward under PyTorch's profiler, the fastest of three; linear layers include convolutions.

| | attention | linear layers | the rest | attention, GFLOP/s | linear layers, GFLOP/s |
|---|---|---|---|---|---|
{newline.join(group_rows(raw))}

{findings(raw)}

## Peak memory

What a fresh process grows by at most while it reads the scene and computes one forward, MiB; the weights and what a
first run left behind do not count.

| | growth | of it the cache |
|---|---|---|
{newline.join(memory)}

A layer of the float32 cache is {layer / mib:.1f} MiB, so a network of {rounding["layers"]} layers would keep
{rounding["layers"] * layer / mib:,.0f} MiB of this scene; the rest of the growth does not depend on
the number of layers.

## Rounded caches

Error (norms) against the float32 cache in {rounding["layers"]} layers with pictures of
{columns} x {rows}: of the velocity, and of the latents after {rounding["steps"]} steps
with guidance {SamplingConfig().guidance:g}. For comparison, what another scene changes.

| | velocity | latents |
|---|---|---|
{newline.join(errors)}

## Same values

Largest difference, as a share of the largest value, checked before anything was timed.

| | against | difference |
|---|---|---|
{newline.join(equal)}
""")


def wrapped(text: str) -> str:
    """Paragraphs broken at 120 characters; headings and tables as they are."""
    blocks = text.split("\n\n")
    return "\n\n".join(block if block[0] in "#|" else fill(block, 120) for block in blocks)
