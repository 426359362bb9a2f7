"""What a full run needs: GPU hours, memory and disk, computed from the network itself on the meta device.

    python training/benchmarks/full_run.py

Writes training/docs/full_run.md, with the sums.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.config import ContextAttention, WanConfig
from cinescene_core.latents import latent_shape
from cinescene_core.models.autoencoder import new_autoencoder
from cinescene_core.models.rotary import rotary_tables
from cinescene_core.models.sequence import Groups, Segment
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_training.building import mark_trainable
from cinescene_training.config import PAPER_TRAINABLE, RunConfig, ShotConfig

RESULT = Path(__file__).parents[1] / "docs" / "full_run.md"
SHOT = ShotConfig()
STEPS, BATCH = RunConfig.steps, RunConfig.batch_size
TEXT_ROWS = 512
MODELS = {
    "1.3B": WanConfig(),
    "14B": WanConfig(width=5120, num_layers=40, num_heads=40, ffn_width=13824),
}
PLACES, CLIPS = 3344, 46_816
"""Of the released dataset: scene ids, and clips with and without the subject."""
ACHIEVED_TFLOPS = (200, 300, 400)
"""Of one H100 or H800 in bf16, per second. 300 is what ReCamMaster's three days on 8 H800 come to."""
GIB, GB = 2**30, 1e9


@dataclass(frozen=True)
class Counted:
    """One model in one mode."""

    parameters: float
    trained: float
    forward_tflop: float
    step_tflop: float
    """Forward and backward of one sample, with gradient checkpointing."""
    checkpoint_gib: float
    """Block inputs kept for one sample."""
    block_gib: float
    """What one block keeps for its backward pass while it is recomputed."""


def meta_inputs(config: WanConfig) -> dict[str, Tensor]:
    """Shapes of one training sample."""
    channels, frames, height, width = latent_shape(SHOT.num_frames, SHOT.width, SHOT.height)
    rows, columns = SHOT.vggt_height // 14, SHOT.vggt_width // 14
    return {
        "video": torch.empty(1, channels, frames, height, width, device="meta"),
        "timestep": torch.empty(1, device="meta"),
        "text": torch.empty(1, TEXT_ROWS, config.text_width, device="meta"),
        "camera": torch.empty(1, frames, 3, 4, device="meta"),
        "latents": torch.empty(1, SHOT.num_views, channels, height, width, device="meta"),
        "features": torch.empty(1, SHOT.num_views, config.feature_width, rows, columns, device="meta"),
    }


def count(config: WanConfig, mode: ContextAttention) -> Counted:
    """Count one model on the meta device, operation by operation."""
    given = meta_inputs(config)
    frames = given["video"].shape[2]
    model = CineSceneTransformer(config, device="meta").train()
    model.gradient_checkpointing = True
    mark_trainable(model, PAPER_TRAINABLE)
    positions = torch.arange(frames, frames + 2 * SHOT.num_views)

    def run() -> Tensor:
        context = model.embed_context(given["latents"], given["features"], positions)
        return model(
            given["video"],
            given["timestep"],
            given["text"],
            camera=given["camera"],
            context=context,
            context_attention=mode,
        )

    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        run()
    with FlopCounterMode(display=False) as step:
        run().square().mean().backward()
    tokens = (SHOT.height // 16) * (SHOT.width // 16) * (frames + 2 * SHOT.num_views)
    return Counted(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        forward_tflop=forward.get_total_flops() / 1e12,
        step_tflop=step.get_total_flops() / 1e12,
        checkpoint_gib=tokens * config.width * config.num_layers * 2 / GIB,
        block_gib=saved_by_a_block(config, tokens, mode) / GIB,
    )


def saved_by_a_block(config: WanConfig, num_tokens: int, mode: ContextAttention) -> int:
    """Bytes one block in bfloat16 saves for its backward pass, weights not counted."""
    half = CineSceneTransformer(config, device="meta", dtype=torch.bfloat16)
    mark_trainable(half, PAPER_TRAINABLE)
    frames = latent_shape(SHOT.num_frames, SHOT.width, SHOT.height)[1]
    rows, columns = SHOT.height // 16, SHOT.width // 16
    num_video = frames * rows * columns
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage._cdata not in sizes:
            sizes[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # keeps the storage, and so its address, alive
        return tensor

    tokens = torch.empty(1, num_tokens, config.width, device="meta", dtype=torch.bfloat16, requires_grad=True)
    row = torch.empty(1, 6, config.width, device="meta")
    segments = [
        Segment(num_video, row),
        Segment(num_tokens - num_video, row, Groups(1, 1) if mode == "cached" else None),
    ]
    positions = torch.arange(num_tokens // (rows * columns))
    rotary = rotary_tables(positions, rows, columns, config.head_width, tokens.device)
    text = torch.empty(1, TEXT_ROWS, config.width, device="meta", dtype=torch.bfloat16)
    camera = torch.empty(1, frames, 12, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        half.blocks[0](tokens, segments, text, rotary, camera, FusedAttention.apply)
    return sum(sizes.values())


class FusedAttention(torch.autograd.Function):
    """What a fused attention kernel keeps for its backward pass: its inputs, its output, one number per row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, mixed, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def weights_gib(counted: Counted) -> dict[str, float]:
    """Memory that does not depend on the sample, by what it is."""
    trained = counted.trained
    return {
        "weights, float32": 4 * counted.parameters / GIB,
        "gradients, float32": 4 * trained / GIB,
        "Adam's two moments": 8 * trained / GIB,
        "averaged weights": 4 * trained / GIB,
    }


def gathered_gib(config: WanConfig) -> float:
    """What FSDP holds whole on every device beside its shards, in float32, while it goes back through the blocks.

    The weights of two blocks, the one at work and the next that is fetched meanwhile; the gradients of two, the one
    at work and the last that is still summed over the devices; the layers outside the blocks all the time.
    """
    model = CineSceneTransformer(config, device="meta")
    mark_trainable(model, PAPER_TRAINABLE)
    block = list(model.blocks[0].parameters())
    inside = {name for name, _ in model.blocks.named_parameters(prefix="blocks")}
    outside = [parameter for name, parameter in model.named_parameters() if name not in inside]
    numbers = sum(
        share * parameter.numel() * (2 if parameter.requires_grad else 1)
        for share, parameters in ((2, block), (1, outside))
        for parameter in parameters
    )
    return 4 * numbers / GIB


def host_gb(counted: Counted, processes: int = 8) -> dict[str, float]:
    """Memory of a machine's host under FSDP, by when it is needed."""
    network = 4 * counted.parameters / GB
    return {"start": processes * network, "checkpoint": network + 12 * counted.trained / GB}


def caching() -> dict[str, tuple[int, float]]:
    """How often each encoder runs, and TFLOP of once, for the whole dataset."""
    with torch.device("meta"):
        views = torch.empty(1, SHOT.num_views, 3, SHOT.vggt_height, SHOT.vggt_width)
        with FlopCounterMode(display=False) as vggt:
            network = VGGT(VGGTConfig())
            network.aggregator(views, network.grid_of(views), frozenset({network.config.depth - 1}), None)
        vae = new_autoencoder(96, "meta")
        with FlopCounterMode(display=False) as clip:
            vae.encode(torch.empty(1, 3, SHOT.num_frames, SHOT.height, SHOT.width))
        with FlopCounterMode(display=False) as view:
            vae.encode(torch.empty(1, 3, 1, SHOT.height, SHOT.width))
    return {
        "VGGT, all views of a place": (PLACES, vggt.get_total_flops() / 1e12),
        "VAE, one view": (PLACES * SHOT.num_views, view.get_total_flops() / 1e12),
        "VAE, one clip": (CLIPS, clip.get_total_flops() / 1e12),
    }


def disk_gb() -> dict[str, float]:
    """Size of the cache in bfloat16, by what is kept."""
    channels, frames, height, width = latent_shape(SHOT.num_frames, SHOT.width, SHOT.height)
    latent = 2 * channels * height * width / GB
    tokens = (SHOT.vggt_height // 14) * (SHOT.vggt_width // 14) + 1
    return {
        "clip latents": CLIPS * frames * latent,
        "view latents": PLACES * SHOT.num_views * latent,
        "VGGT tokens": PLACES * SHOT.num_views * tokens * 2048 * 2 / GB,
        "prompt rows, about 60 of 4096 each": PLACES * 60 * 4096 * 2 / GB,
    }


def hours(tflop: float, speed: float) -> float:
    return tflop / speed / 3600


def report() -> str:
    """The page."""
    counted = {(name, mode): count(config, mode) for name, config in MODELS.items() for mode in ("joint", "cached")}
    samples = STEPS * BATCH
    rows = [
        f"| {name}, {mode} | {c.trained / 1e9:.2f} of {c.parameters / 1e9:.2f} | {c.forward_tflop:,.0f} | "
        f"{c.step_tflop:,.0f} | {c.step_tflop * samples / 1e6:,.0f} | "
        + " | ".join(f"{hours(c.step_tflop * samples, speed):,.0f}" for speed in ACHIEVED_TFLOPS)
        + " |"
        for (name, mode), c in counted.items()
    ]
    memory = []
    for (name, mode), c in counted.items():
        fixed, sample, gathered = (
            sum(weights_gib(c).values()),
            c.checkpoint_gib + c.block_gib,
            gathered_gib(MODELS[name]),
        )
        memory.append(
            f"| {name}, {mode} | {fixed:.1f} | {c.checkpoint_gib:.1f} | {c.block_gib:.1f} | {fixed + sample:.1f} | "
            f"{gathered:.1f} | {fixed / 8 + sample + gathered:.1f} | {fixed / 16 + sample + gathered:.1f} |"
        )
    host = "\n".join(
        f"| {name} | {4 * c.parameters / GB:,.1f} | {host_gb(c)['start']:,.0f} | {host_gb(c)['checkpoint']:,.0f} |"
        for (name, mode), c in counted.items()
        if mode == "joint"
    )
    joint = counted["1.3B", "joint"]
    parts = "\n".join(f"| {what} | {size:.1f} |" for what, size in weights_gib(joint).items())
    cost = caching()
    cached = "\n".join(
        f"| {what} | {times:,} | {tflop:,.1f} | {hours(times * tflop, 200):,.1f} |"
        for what, (times, tflop) in cost.items()
    )
    kept = "\n".join(f"| {what} | {size:,.0f} |" for what, size in disk_gb().items())
    return TEMPLATE.format(
        date=datetime.date.today(),
        torch=torch.__version__,
        shot=SHOT,
        steps=STEPS,
        batch=BATCH,
        samples=samples,
        speeds=" | ".join(f"GPU hours at {speed} TFLOP/s" for speed in ACHIEVED_TFLOPS),
        rows="\n".join(rows),
        memory="\n".join(memory),
        host=host,
        parts=parts,
        cached=cached,
        caching_hours=sum(hours(times * tflop, 200) for times, tflop in cost.values()),
        kept=kept,
        disk=sum(disk_gb().values()),
        checkpoint=(4 * joint.parameters + 12 * joint.trained) / GB,
        places=PLACES,
        clips=CLIPS,
        trained=joint.trained / 1e9,
    )


TEMPLATE = """# What the full run needs

Computed on {date} by `training/benchmarks/full_run.py` with torch {torch}: FLOPs are counted operation by
operation on the meta device, memory is added up from shapes. No GPU was involved: hours follow from an assumed speed,
and no run of this size has been made.

A sample is {shot.num_frames} frames of {shot.width} x {shot.height} with {shot.num_views} views; VGGT sees them at
{shot.vggt_width} x {shot.vggt_height}. The recipe is {steps:,} steps of {batch} samples, {samples:,} samples in all.

## Time

| model, context mode | trained parameters, 10^9 | forward, TFLOP | step per sample, TFLOP | run, EFLOP | {speeds} |
|---|---|---|---|---|---|---|---|
{rows}

The step is forward, backward, and the forward again inside gradient checkpointing; frozen layers have no weight
gradients. GPU hours = samples x TFLOP / speed / 3600. A speed of 300 is what ReCamMaster's published three days on
8 H800 come to, at a similar sequence length; measure your own first.

## Memory of one GPU, GiB

| model | weights, optimiser | block inputs | a block's backward | one GPU, or DDP | gathered | FSDP over 8 | over 16 |
|---|---|---|---|---|---|---|---|
{memory}

for one sample at a time, gradient checkpointing, bf16-mixed, fused attention. DDP sums the gradients where they lie
and needs no second copy of them. FSDP divides the first column and holds beside it what is gathered, in float32: the
weights of two blocks, one at work and one fetched ahead; the gradients of two, one at work and one being summed; the
layers outside the blocks. The first column of the 1.3B model is

| part | GiB |
|---|---|
{parts}

({trained:.2f} x 10^9 trained parameters). Left out: the allocator's slack and the workspace of the kernels, a few GiB.

## Memory of the host under FSDP, GB

| model | the network, float32 | a machine of 8 while it starts | while it writes a checkpoint |
|---|---|---|---|
{host}

Every process builds the whole network in the host's memory; then it moves to the devices. For a checkpoint the first
process gathers weights, Adam's moments and averaged weights. Left out: the file being read, and the processes that read
samples.

## Before training: the cache

{places:,} places and {clips:,} clips of the released dataset, at 200 TFLOP/s (convolutions run far below the peak):

| encoder | runs | TFLOP each | GPU hours |
|---|---|---|---|
{cached}

together {caching_hours:,.0f} GPU hours. On disk, in bfloat16:

| kept | GB |
|---|---|
{kept}

together {disk:,.0f} GB, beside the dataset itself (150 to 200 GB) and {checkpoint:.0f} GB for the checkpoint of the
1.3B model (weights, Adam's moments, averages); while the next is written there are two.
"""


def main() -> None:
    RESULT.write_text(report(), encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
