"""FLOPs and bytes of a shot at full size: plain text-to-video, joint context, and a context read once.

    python benchmarks/flops.py [--json] [--model 1.3B]

FLOPs are counted operation by operation on the meta device, so no machine is involved. Writes
benchmarks/results/flops.md; with --json it prints one model's numbers instead.
"""

import argparse
import dataclasses
import datetime
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.config import CineSceneConfig, ContextAttention, WanConfig
from cinescene_core.latents import latent_shape
from cinescene_core.models.sequence import KeysValues, SceneContext, SceneMemory
from cinescene_core.models.wan import CineSceneTransformer

RESULT = Path(__file__).parent / "results" / "flops.md"
SHOT = CineSceneConfig()
WAN = {
    "1.3B": WanConfig(),
    "14B": WanConfig(width=5120, num_layers=40, num_heads=40, ffn_width=13824),
}
VGGT_GRID = (21, 37)
TEXT_ROWS = 512
FORWARDS = 50 * 2
"""50 steps, with and without the prompt."""
BYTES = 2
"""bfloat16."""
ACTIVATION_PASSES = 68.3
"""Tensors of [tokens, width] that an unfused block reads or writes beside attention, counted over its modules."""


@dataclass(frozen=True)
class Card:
    """A card's ceilings: dense bfloat16 matrix products and memory, from its data sheet."""

    tflops: float
    terabytes: float


CARDS = {"H200": Card(790, 4.8), "RTX 4090": Card(165, 1.008)}


@dataclass(frozen=True)
class Counts:
    """One model at full size; TFLOP per forward unless named otherwise."""

    plain_tflop: float
    joint_tflop: float
    cached_step_tflop: float
    cached_prefill_tflop: float
    per_view_prefill_tflop: float
    joint_over_cached_50x2: float
    cache_gib: float
    """bfloat16; half of it in fp8."""


@dataclass(frozen=True)
class Blocks:
    """A cache as the transformer asks for it."""

    blocks: list[KeysValues]

    def layers(self, device: torch.device, dtype: torch.dtype) -> Iterator[KeysValues]:
        return iter(self.blocks)


def count(config: WanConfig) -> Counts:
    channels, frames, height, width = latent_shape(SHOT.num_frames, SHOT.width, SHOT.height)
    views = SHOT.num_views
    with torch.device("meta"), torch.no_grad():
        model = CineSceneTransformer(config, projector=False)
        positions = torch.arange(frames, frames + 2 * views, device="cpu")
        features = torch.empty(1, views, config.feature_width, *VGGT_GRID)

        def embed() -> SceneContext:
            return model.embed_context(torch.empty(1, views, channels, height, width), features, positions)

        def prefill(mode: ContextAttention) -> Blocks:
            return Blocks(list(model.read_context(embed(), mode)))

        def step(context: SceneContext | SceneMemory | None) -> None:
            model(
                torch.empty(1, channels, frames, height, width),
                torch.empty(1),
                torch.empty(1, TEXT_ROWS, config.text_width),
                camera=torch.empty(1, frames, 3, 4),
                context=context,
            )

        cache = prefill("cached")
        plain, joint, cached = tflop(lambda: step(None)), tflop(lambda: step(embed())), tflop(lambda: step(cache))
        read, read_per_view = tflop(lambda: prefill("cached")), tflop(lambda: prefill("per_view"))
    values = sum(tensor.numel() for block in cache.blocks for tensor in block)
    return Counts(
        plain_tflop=plain,
        joint_tflop=joint,
        cached_step_tflop=cached,
        cached_prefill_tflop=read,
        per_view_prefill_tflop=read_per_view,
        joint_over_cached_50x2=FORWARDS * joint / (FORWARDS * cached + read),
        cache_gib=values * BYTES / 2**30,
    )


def tflop(work: Callable[[], object]) -> float:
    """2 FLOP per multiply-add."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def gigabytes(config: WanConfig, tokens: int, cache_gib: float = 0) -> float:
    """What one forward moves at least: every weight, the blocks' activations unfused, and the cache."""
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in CineSceneTransformer(config, projector=False).parameters())
    activations = config.num_layers * ACTIVATION_PASSES * tokens * config.width
    return (weights + activations) * BYTES / 1e9 + cache_gib * 2**30 / 1e9


def roofline(name: str, counts: Counts) -> list[str]:
    """Seconds of 50 guided steps at each card's ceilings: the longer of arithmetic and memory."""
    _, frames, height, width = latent_shape(SHOT.num_frames, SHOT.width, SHOT.height)
    video = frames * height * width // 4
    context = 2 * SHOT.num_views * height * width // 4
    config, rows = WAN[name], []
    for job, per_step, once, moved in (
        ("plain", counts.plain_tflop, 0.0, gigabytes(config, video)),
        ("joint", counts.joint_tflop, 0.0, gigabytes(config, video + context)),
        ("cached", counts.cached_step_tflop, counts.cached_prefill_tflop, gigabytes(config, video, counts.cache_gib)),
    ):
        total = FORWARDS * per_step + once
        times = [f"{max(total / card.tflops, FORWARDS * moved / 1e3 / card.terabytes):,.1f}" for card in CARDS.values()]
        rows.append(f"| {name} {job} | {total:,.0f} | {FORWARDS * moved:,.0f} | {' | '.join(times)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the numbers of one model and write nothing")
    parser.add_argument("--model", choices=WAN, default="1.3B")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(dataclasses.asdict(count(WAN[options.model]))))
        return
    found = {name: count(config) for name, config in WAN.items()}
    steps = [
        f"| {name} | {c.plain_tflop:,.1f} | {c.joint_tflop:,.1f} | {c.cached_step_tflop:,.1f} | "
        f"{c.cached_prefill_tflop:,.1f} | {c.per_view_prefill_tflop:,.1f} | {c.joint_over_cached_50x2:.2f} | "
        f"{c.cache_gib:.2f} |"
        for name, c in found.items()
    ]
    times = [row for name, counts in found.items() for row in roofline(name, counts)]
    RESULT.write_text(page(steps, times), encoding="utf-8")
    print("\n".join([*steps, *times]))


def page(steps: list[str], times: list[str]) -> str:
    ceilings = "; ".join(f"{name}: {card.tflops:g} TFLOP/s, {card.terabytes:g} TB/s" for name, card in CARDS.items())
    newline = "\n"
    return f"""# FLOPs and bytes of a shot

{datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}; counted on the meta device,
so no machine is involved. {SHOT.num_frames} frames of {SHOT.width} x {SHOT.height}, {SHOT.num_views} views, projector
folded; TFLOP.

| model | plain step | joint step | cached step | prefill | prefill per view | joint / cached, 50 x 2 | cache, GiB |
|---|---|---|---|---|---|---|---|
{newline.join(steps)}

The cache is bfloat16; fp8 halves it.

## At the ceilings of a card

50 steps with and without the prompt. Seconds are the longer of FLOPs over the matrix ceiling and bytes over the memory
ceiling ({ceilings}).
A real card reaches a third to two thirds of that. Bytes per forward: every weight, {ACTIVATION_PASSES:g} tensors of
[tokens, width] per block (unfused), and the cache.

| job | TFLOP | GB | {" s | ".join(CARDS)} s |
|---|---|---|{"---|" * len(CARDS)}
{newline.join(times)}
"""


if __name__ == "__main__":
    main()
