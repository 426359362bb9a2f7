"""A CineScene a sixth of full size with random weights, and the same network of diffusers' own blocks.

Width, heads and tokens are a sixth of Wan2.1 1.3B's at full size, so attention has the share of the work that it has
there; widths of heads, of the feed-forward layers and of the prompt keep Wan's proportions.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from einops import rearrange, repeat
from torch import Tensor, nn

from cinescene_core.config import LATENT_CHANNELS, WanConfig
from cinescene_core.models.compiled import compile_blocks
from cinescene_core.models.sequence import SceneContext, SceneMemory
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.scene_cache import build_scene_cache, embed_scene
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Context, Trajectory

from ..flops import Blocks

SIZES = WanConfig(width=256, num_heads=2, num_layers=3, ffn_width=1488, text_width=640, feature_width=352)
LATENT_SIZE = (20, 34)
"""Latent rows and columns: pictures of 272 x 160."""
FRAMES = VIEWS = 20
"""Latent frames of the video, and views: as many tokens of video as of I_t and of F_t."""
TEXT_ROWS = 512
JOINT, CACHED = "joint", "cached step"
"""The variants that others are compared with."""
READING, READING_PER_VIEW = "reading the scene, cached", "reading the scene, per view"
READ = {READING: CACHED, READING_PER_VIEW: "per view step"}
"""What is computed once, and the variant whose it is."""
STEPS = (
    "diffusers, joint",
    "diffusers, joint, one timestep",
    JOINT,
    "joint, compiled",
    CACHED,
    "cached step, fp8",
    "cached step, from the host",
    "cached step, compiled",
    "plain text-to-video",
)
JOBS = {
    "diffusers, joint": ("diffusers, joint", None),
    "joint": (JOINT, None),
    "joint, compiled": ("joint, compiled", None),
    "cached": (CACHED, READING),
    "cached, fp8": ("cached step, fp8", READING),
    "cached, from the host": ("cached step, from the host", READING),
    "cached, compiled": ("cached step, compiled", READING),
    "per view": (CACHED, READING_PER_VIEW),
    "plain text-to-video": ("plain text-to-video", None),
}
"""What 50 steps with and without the prompt consist of: the forward, and what is read before the first."""
CHECKS = {
    "diffusers, joint": (JOINT, 1e-5),
    "diffusers, joint, one timestep": ("joint, one timestep", 1e-5),
    "joint, compiled": (JOINT, 2e-5),
    CACHED: ("cached, not read before", 1e-5),
    "cached step, from the host": (CACHED, 1e-5),
    "cached step, compiled": (CACHED, 2e-5),
    "per view step": ("per view, not read before", 1e-5),
}
"""What must agree before anything is timed, and how far it may differ, as a share of the largest value."""


@dataclass(frozen=True)
class Inputs:
    """What one forward reads."""

    video: Tensor
    timestep: Tensor
    text: Tensor
    camera: Tensor
    context: Context


def filled(config: WanConfig) -> CineSceneTransformer:
    """Random weights with which every part matters.

    Linear layers keep the size of what they are given; the queries' and keys' norms make attention choose (scores
    of size 3) where a standard initialisation averages over the whole scene; gates are of size 0.5; cameras are seen.
    """
    generator = torch.Generator().manual_seed(0)
    model = CineSceneTransformer(config, projector=False).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if name.endswith("modulation"):
            values *= 0.4
        elif parameter.ndim > 1:
            values /= parameter[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            values = (1.7 if "norm_" in name else 1.0) * (1 + 0.1 * values)
        else:
            values *= 0.1
        parameter.copy_(values)
    return model


def random_inputs(config: WanConfig, size: tuple[int, int], seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    randn = partial(torch.randn, generator=generator)
    return Inputs(
        video=randn(1, LATENT_CHANNELS, FRAMES, *size),
        timestep=torch.tensor([700.0]),
        text=randn(1, TEXT_ROWS, config.text_width),
        camera=shot_path().latent_poses()[None].float(),
        context=Context(
            order=tuple(range(VIEWS)),
            latents=randn(VIEWS, LATENT_CHANNELS, *size),
            features=randn(VIEWS, config.feature_width, 9, 15),
            view_positions=torch.arange(FRAMES, FRAMES + VIEWS),
            feature_positions=torch.arange(FRAMES + VIEWS, FRAMES + 2 * VIEWS),
        ),
    )


def on_meta(given: Inputs) -> Inputs:
    """The sizes alone; positions are needed as numbers."""
    context = replace(
        given.context, latents=given.context.latents.to("meta"), features=given.context.features.to("meta")
    )
    tensors = {name: getattr(given, name).to("meta") for name in ("video", "timestep", "text", "camera")}
    return Inputs(**tensors, context=context)


def shot_path() -> Trajectory:
    return preset_trajectory("arc_right", num_frames=4 * FRAMES - 3)


class DiffusersJoint(nn.Module):
    """CineScene in mode `joint` as one builds it around diffusers' Wan: its layers and blocks, unchanged.

    The timestep 0 of the context enters as a table of a row per token, which is what the blocks accept; the camera
    enters as each block's shift before self-attention, which is the same sum.
    """

    def __init__(self, model: CineSceneTransformer) -> None:
        super().__init__()
        c = model.config
        wan: Any = WanTransformer3DModel(
            num_attention_heads=c.num_heads,
            attention_head_dim=c.head_width,
            text_dim=c.text_width,
            ffn_dim=c.ffn_width,
            num_layers=c.num_layers,
        )
        state = {k: v for k, v in model.state_dict().items() if "cam_encoder" not in k and "scene_embed" not in k}
        wan.load_state_dict(convert_wan_transformer_to_diffusers(state))
        self.wan: Any = wan.eval().requires_grad_(False)
        self.cam_encoders = nn.ModuleList(block.cam_encoder for block in model.blocks)

    def forward(self, given: Inputs, context: SceneContext, one_timestep: bool = False) -> Tensor:
        """Velocity; with one timestep for video and context, and no camera, the blocks need no table."""
        wan, video, timestep = self.wan, given.video, given.timestep
        own = wan.patch_embedding(video).flatten(2).transpose(1, 2)
        tokens = torch.cat([own, context.tokens], dim=1)
        count = own.shape[1]
        times = torch.cat([timestep, torch.zeros_like(timestep)])
        time_rows, modulation, text, _ = wan.condition_embedder(times, given.text)
        modulation = modulation.unflatten(1, (6, -1))
        rotary = wan.rope(video.new_empty(1, 1, 2 * VIEWS + FRAMES, *video.shape[-2:]))
        rows = [row.expand(n, -1, -1) for row, n in zip(modulation, (count, tokens.shape[1] - count), strict=True)]
        table = modulation[:1] if one_timestep else torch.cat(rows)[None]
        shift = modulation[0, 0]
        for block, cam_encoder in zip(wan.blocks, self.cam_encoders, strict=True):
            if not one_timestep:
                pose = cam_encoder(given.camera.flatten(2))
                table[:, :count, 0] = shift + repeat(pose, "b t d -> b (t n) d", n=count // pose.shape[1])
            tokens = block(tokens, text, table, rotary)
        shift, scale = (wan.scale_shift_table + time_rows[:1, None]).chunk(2, dim=1)
        patches = wan.proj_out(wan.norm_out(tokens[:, :count]) * (1 + scale) + shift)
        return rearrange(patches, "b (t r s) (p q c) -> b c t (r p) (s q)", t=FRAMES, r=video.shape[-2] // 2, p=2, q=2)


@dataclass(frozen=True)
class Variant:
    """A way to film: what is read of the scene before the first step, and a forward that reads that."""

    read: Callable[[], Any]
    step: Callable[[Any], Tensor]


def variants(model: CineSceneTransformer, theirs: DiffusersJoint, given: Inputs) -> dict[str, Variant]:
    scene = partial(embed_scene, model, given.context)
    compiled = copy.deepcopy(model)
    compile_blocks(compiled.blocks)

    def read(mode: Any, **storage: Any) -> Callable[[], SceneMemory]:
        if given.video.is_meta:
            return lambda: Blocks(list(model.read_context(scene(), mode)))
        return partial(build_scene_cache, model, given.context, mode, **storage)

    def step(network: CineSceneTransformer = model, **changes: Any) -> Callable[[Any], Tensor]:
        modes = {"camera": given.camera} | changes
        return lambda context: network(given.video, given.timestep, given.text, context=context, **modes)

    return {
        "diffusers, joint": Variant(scene, partial(theirs, given)),
        "diffusers, joint, one timestep": Variant(scene, partial(theirs, given, one_timestep=True)),
        JOINT: Variant(scene, step()),
        "joint, one timestep": Variant(scene, step(camera=None, context_timestep=given.timestep)),
        "joint, compiled": Variant(scene, step(compiled)),
        CACHED: Variant(read("cached"), step()),
        "cached step, fp8": Variant(read("cached", stored="float8"), step()),
        "cached step, from the host": Variant(read("cached", place="host"), step()),
        "cached step, compiled": Variant(read("cached"), step(compiled)),
        "cached, not read before": Variant(scene, step(context_attention="cached")),
        "per view step": Variant(read("per_view"), step()),
        "per view, not read before": Variant(scene, step(context_attention="per_view")),
        "plain text-to-video": Variant(lambda: None, step()),
    }


def check_values(found: dict[str, Variant]) -> dict[str, float]:
    """Largest difference of each checked variant from the one that it must equal, as a share of the largest value.

    Raises:
        SystemExit: one differs by more than it may.
    """
    values: dict[str, Tensor] = {}
    differences = {}
    for name, (other, allowed) in CHECKS.items():
        for needed in (name, other):
            if needed not in values:
                values[needed] = found[needed].step(found[needed].read())
        differences[name] = float((values[name] - values[other]).abs().max() / values[other].abs().max())
        if not differences[name] <= allowed:
            raise SystemExit(
                f"'{name}' differs from '{other}' by {differences[name]:.1e} of its largest value, where {allowed:.0e} "
                "is rounding; times of networks that compute different things say nothing. Find the difference first."
            )
        print(f"'{name}' equals '{other}' to {differences[name]:.1e}", file=sys.stderr, flush=True)
    return differences
