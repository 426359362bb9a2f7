"""The Wan2.1 text-to-video transformer with CineScene's conditioning, written once for every host.

The sequence is [video | I_t | F_t] along the frame axis (paper section 4.2):

    noisy latents ── patch_embedding ──► video ─┐
    view latents  ── patch_embedding ──► I_t ───┼─► blocks ─► head on the video tokens ─► velocity
    VGGT features ── scene_embed ──────► F_t ───┘     ▲
    camera poses  ── cam_encoder (per block, video tokens only)
    prompt        ── text_embedding, by cross-attention

Parameters carry Wan's original names, so base files, LoRAs and ReCamMaster's file load by name.
Layers come from an `operations` namespace (`torch.nn`, or a host's own), attention is a function.

Letters: b batch, t latent frames, h w latent height and width, r s token rows and columns
(h/2, w/2), n tokens, l text rows, d width, v views.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ..checks import ShapeError, check_shape
from ..config import LATENT_CHANNELS, ContextAttention, WanConfig
from .conditioning import SceneEmbed
from .precision import in_float32, precise, precise_dtype
from .rotary import Rotary, apply_rotary, rotary_tables
from .sequence import STREAMS, Attention, KeysValues, SceneContext, SceneMemory, Segment, contain

PATCH_SIZE = (1, 2, 2)
POSE_VALUES = 12
"""A [3, 4] pose, row-major."""


class WanAttention(nn.Module):
    """Multi-head attention with query and key normalised over the whole width."""

    def __init__(self, config: WanConfig, operations: ModuleType, **placement: Any) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (operations.Linear(width, width, **placement) for _ in range(4))
        self.norm_q, self.norm_k = (operations.RMSNorm(width, eps=config.eps, **placement) for _ in range(2))

    def forward(
        self,
        tokens: Tensor,
        source: Tensor,
        attention: Attention,
        rotary: Rotary | None = None,
        memory: KeysValues | None = None,
    ) -> Tensor:
        """Let `tokens` [b, n, d] read `source` [b, m, d], and behind it `memory`; return [b, n, d]."""
        q, k, v = self.project(tokens, source, rotary)
        if memory is not None:
            k, v = (
                torch.cat([own, seen.expand(len(own), -1, -1, -1)], dim=2)
                for own, seen in ((k, memory.keys), (v, memory.values))
            )
        return self.join(attention(q, k, v))

    def project(self, tokens: Tensor, source: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `tokens`, keys and values of `source`: [b, heads, n, c] each."""
        q, k, v = self.norm_q(self.q(tokens)), self.norm_k(self.k(source)), self.v(source)
        q, k, v = (rearrange(x, "b n (heads c) -> b heads n c", heads=self.num_heads) for x in (q, k, v))
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        return q, k, v

    def join(self, heads: Tensor) -> Tensor:
        """[b, heads, n, c] to [b, n, d]."""
        return self.o(rearrange(heads, "b heads n c -> b n (heads c)"))


class WanBlock(nn.Module):
    """Self-attention over video and scene, cross-attention to the prompt, feed-forward."""

    def __init__(self, config: WanConfig, projector: bool, operations: ModuleType, **placement: Any) -> None:
        super().__init__()
        width, eps = config.width, config.eps
        self.norm1 = operations.LayerNorm(width, eps=eps, elementwise_affine=False, **placement)
        self.self_attn = WanAttention(config, operations, **placement)
        self.norm3 = operations.LayerNorm(width, eps=eps, **precise(placement))
        self.cross_attn = WanAttention(config, operations, **placement)
        self.norm2 = operations.LayerNorm(width, eps=eps, elementwise_affine=False, **placement)
        self.ffn = nn.Sequential(
            operations.Linear(width, config.ffn_width, **placement),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.ffn_width, width, **placement),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, width, **precise(placement)))
        self.cam_encoder = operations.Linear(POSE_VALUES, width, **precise(placement))
        self.projector = operations.Linear(width, width, **placement) if projector else nn.Identity()

    def forward(
        self,
        tokens: Tensor,
        segments: Sequence[Segment],
        text: Tensor,
        rotary: Rotary,
        camera: Tensor | None,
        attention: Attention,
        memory: KeysValues | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            tokens: [b, n, d] the video, then the context.
            segments: the runs of tokens and their timesteps' modulation; the first is the video.
            text: [b, l, d] embedded prompt.
            rotary: rotations of the n tokens.
            camera: [b, t, 12] poses of the video's latent frames, or None.
            attention: the attention function.
            memory: keys and values of a context that is not among the tokens, from `read_context`.

        Returns:
            [b, n, d].
        """
        modulation = in_float32(torch.stack([s.modulation for s in segments], dim=1))
        table = self.modulation.to(modulation) + modulation
        lengths = [segment.length for segment in segments]
        num_open = sum(segment.length for segment in segments if segment.groups is None)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(2)  # each [b, segments, d]

        attended = modulate(self.norm1, tokens, lengths, shift, scale)
        if camera is not None:
            attended = self.add_camera(attended, lengths[0], camera)
        attended = self.self_attn(attended, attended, contain(attention, num_open, segments[-1].groups), rotary, memory)
        tokens = add_gated(tokens, self.projector(attended), lengths, gate)
        reading, contained = tokens.tensor_split([num_open], dim=1)
        asking = self.norm3(in_float32(reading)).to(tokens.dtype)
        reading = reading + self.cross_attn(asking, text, attention)
        tokens = torch.cat([reading, contained], dim=1) if contained.shape[1] else reading
        fed = self.ffn(modulate(self.norm2, tokens, lengths, ffn_shift, ffn_scale))
        return add_gated(tokens, fed, lengths, ffn_gate)

    def read_context(
        self, tokens: Tensor, segment: Segment, rotary: Rotary, attention: Attention
    ) -> tuple[Tensor, KeysValues]:
        """One layer of a context that attends only to itself: its tokens, and what the video reads of it."""
        table = self.modulation.to(in_float32(segment.modulation)) + in_float32(segment.modulation)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.split(1, dim=1)  # each [b, 1, d]
        lengths = [segment.length]

        attended = modulate(self.norm1, tokens, lengths, shift, scale)
        q, k, v = self.self_attn.project(attended, attended, rotary)
        attended = self.self_attn.join(contain(attention, 0, segment.groups)(q, k, v))
        tokens = add_gated(tokens, self.projector(attended), lengths, gate)
        fed = self.ffn(modulate(self.norm2, tokens, lengths, ffn_shift, ffn_scale))
        return add_gated(tokens, fed, lengths, ffn_gate), KeysValues(k, v)

    def add_camera(self, tokens: Tensor, num_video_tokens: int, camera: Tensor) -> Tensor:
        """Add each latent frame's pose to its tokens; context tokens receive zero (section 4.2)."""
        pose = self.cam_encoder(in_float32(camera)).to(tokens.dtype)
        video, context = tokens.tensor_split([num_video_tokens], dim=1)
        video = video + repeat(pose, "b t d -> b (t n) d", n=num_video_tokens // pose.shape[1])
        return torch.cat([video, context], dim=1)


class WanHead(nn.Module):
    """Tokens to patches of velocity."""

    def __init__(self, config: WanConfig, operations: ModuleType, **placement: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(config.width, eps=config.eps, elementwise_affine=False, **placement)
        self.head = operations.Linear(config.width, LATENT_CHANNELS * 4, **placement)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.width, **precise(placement)))

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """[b, n, d] tokens at [b, d] embedded timesteps to [b, n, 64] patches."""
        time = in_float32(time)
        shift, scale = (self.modulation.to(time) + time[:, None]).unbind(1)
        return self.head(modulate(self.norm, tokens, [tokens.shape[1]], shift[:, None], scale[:, None]))


class CineSceneTransformer(nn.Module):
    """Wan2.1 T2V that reads a scene and follows a camera.

    Without context and camera it is Wan2.1 exactly; with `cam_encoder` at zero and `projector` at
    identity (their initial values, as in ReCamMaster) the camera changes nothing.

    Args:
        config: sizes.
        projector: keep ReCamMaster's linear layer behind self-attention; exported files fold it
            into `self_attn.o`.
        operations: namespace of Linear, Conv2d, Conv3d, LayerNorm and RMSNorm.
        device, dtype: where and as what the parameters are made; some stay in float32 (`precision`).
    """

    def __init__(
        self,
        config: WanConfig,
        *,
        projector: bool = True,
        operations: ModuleType | Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        width = config.width
        self.config = config
        self.gradient_checkpointing = False
        self.attention: Attention = scaled_dot_product_attention
        self.patch_embedding = operations.Conv3d(LATENT_CHANNELS, width, PATCH_SIZE, stride=PATCH_SIZE, **placement)
        self.text_embedding = nn.Sequential(
            operations.Linear(config.text_width, width, **placement),
            nn.GELU(approximate="tanh"),
            operations.Linear(width, width, **placement),
        )
        self.time_embedding = nn.Sequential(
            operations.Linear(config.frequency_width, width, **precise(placement)),
            nn.SiLU(),
            operations.Linear(width, width, **precise(placement)),
        )
        self.time_projection = nn.Sequential(nn.SiLU(), operations.Linear(width, 6 * width, **placement))
        self.blocks = nn.ModuleList(
            WanBlock(config, projector, operations, **placement) for _ in range(config.num_layers)
        )
        self.head = WanHead(config, operations, **placement)
        self.scene_embed = SceneEmbed(config.feature_width, width, operations, **placement)

    def forward(
        self,
        video: Tensor,
        timestep: Tensor,
        text: Tensor,
        *,
        camera: Tensor | None = None,
        context: SceneContext | SceneMemory | None = None,
        context_timestep: Tensor | None = None,
        context_attention: ContextAttention = "joint",
        attention: Attention | None = None,
    ) -> Tensor:
        """Predict the velocity `noise - video` of a noisy video.

        Args:
            video: [b, 16, t, h, w] noisy latents, normalised; h and w even.
            timestep: [b] in 0..1000, the noise level times 1000.
            text: [b, l, text_width] prompt embedding.
            camera: [b, t, 3, 4] relative poses of the latent frames (`Trajectory.latent_poses`).
            context: the scene, from `embed_context`, or its keys and values, from `read_context`.
            context_timestep: [b] timestep that modulates the context; None is 0: it is clean.
            context_attention: `joint`: every token attends to every token (section 4.2); `cached`: the
                context attends only to itself and does not read the prompt, so that it depends on neither
                video, prompt nor step; `per_view`: each view, besides, only to its own image and features.
            attention: in place of the model's own `attention`: q, k, v of [b, heads, n, c] to [b, heads, n, c].

        Returns:
            [b, 16, t, h, w] velocity.

        Raises:
            ShapeError: a size does not fit; the message names the argument.
        """
        sizes = check_shape("video", video, f"b {LATENT_CHANNELS} t h w")
        if sizes["h"] % 2 or sizes["w"] % 2:
            raise ShapeError(
                f"video latents must have even sides; got {sizes['h']} x {sizes['w']}. "
                "Use pixel sizes that are multiples of 16."
            )
        tokens = self.embed_latents(video)
        positions = torch.arange(sizes["t"], device="cpu")
        time = self.embed_time(timestep, video.dtype)
        segments = [Segment(tokens.shape[1], self.project_time(time))]
        memories: Iterable[KeysValues | None] = [None] * len(self.blocks)
        if isinstance(context, SceneContext):
            clean = torch.zeros_like(timestep) if context_timestep is None else context_timestep
            clean_time = self.project_time(self.embed_time(clean, video.dtype))
            segments.append(Segment(context.tokens.shape[1], clean_time, context.groups(context_attention)))
            tokens = torch.cat([tokens, context.tokens.expand(sizes["b"], -1, -1)], dim=1)
            positions = torch.cat([positions, context.positions])
        elif context is not None:
            memories = context.layers(video.device, video.dtype)
        if camera is not None:
            check_shape("camera", camera, f"{sizes['b']} {sizes['t']} 3 4")
            camera = rearrange(camera, "b t row column -> b t (row column)")
        rotary = rotary_tables(positions, sizes["h"] // 2, sizes["w"] // 2, self.config.head_width, video.device)
        text = self.text_embedding(text)
        for index, memory in enumerate(memories):
            tokens = self.run_block(index, tokens, segments, text, rotary, camera, attention or self.attention, memory)
        patches = self.head(tokens[:, : segments[0].length], time)
        return rearrange(patches, "b (t r s) (p q c) -> b c t (r p) (s q)", t=sizes["t"], r=sizes["h"] // 2, p=2, q=2)

    @torch.no_grad()
    def read_context(
        self,
        context: SceneContext,
        context_attention: ContextAttention,
        attention: Attention | None = None,
    ) -> Iterator[KeysValues]:
        """Run a context that attends only to itself through the blocks, once for every video that will read it.

        Args:
            context: the scene, from `embed_context`.
            context_attention: `cached` or `per_view`; see `forward`.
            attention: as in `forward`.

        Yields:
            What the video reads of it in each block: keys and values of [b, heads, n, c].
        """
        tokens = context.tokens
        clean = self.embed_time(torch.zeros(len(tokens), device=tokens.device), tokens.dtype)
        segment = Segment(tokens.shape[1], self.project_time(clean), context.groups(context_attention))
        rotary = rotary_tables(context.positions, *context.size, self.config.head_width, tokens.device)
        blocks: Iterable[Any] = self.blocks
        for block in blocks:
            tokens, memory = block.read_context(tokens, segment, rotary, attention or self.attention)
            yield memory

    def run_block(self, index: int, *inputs: Any) -> Tensor:
        """Run one block; hosts that replace blocks override this."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self.blocks[index], *inputs, use_reentrant=False)
        return self.blocks[index](*inputs)

    def embed_latents(self, latents: Tensor) -> Tensor:
        """[b, 16, t, h, w] latents to [b, t h/2 w/2, d] tokens."""
        tokens = rearrange(self.patch_embedding(latents), "b d t r s -> b (t r s) d")
        return tokens.contiguous()  # all blocks then see one layout, and compile once

    def embed_context(self, latents: Tensor, features: Tensor, positions: Tensor) -> SceneContext:
        """Embed a scene: I_t from the view latents, F_t from the scene features (section 4.2).

        Args:
            latents: [b, v, 16, h, w] normalised view latents, in slot order.
            features: [b, v, c, rows, columns] F = F_i + F_c, in slot order.
            positions: [2v] temporal positions of I_t, then of F_t, on the CPU.

        Returns:
            [b, 2v h/2 w/2, d] tokens with their positions.
        """
        sizes = check_shape("latents", latents, f"b v {LATENT_CHANNELS} h w")
        check_shape("features", features, f"{sizes['b']} {sizes['v']} {self.config.feature_width} rows columns")
        check_shape("positions", positions, f"{STREAMS * sizes['v']}")
        image_tokens = self.embed_latents(rearrange(latents, "b v c h w -> b c v h w"))
        feature_tokens = self.scene_embed(features, (sizes["h"], sizes["w"])).to(image_tokens.dtype)
        tokens = torch.cat([image_tokens, feature_tokens], dim=1)
        return SceneContext(tokens, positions, sizes["v"], (sizes["h"] // 2, sizes["w"] // 2))

    def embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """[b] timesteps to [b, d]."""
        angles = sinusoid(timestep, self.config.frequency_width)
        return self.time_embedding(angles.to(precise_dtype(dtype))).to(dtype)

    def project_time(self, time: Tensor) -> Tensor:
        """[b, d] embedded timesteps to the [b, 6, d] modulation every block shares."""
        return rearrange(self.time_projection(time), "b (six d) -> b six d", six=6)


def modulate(norm: nn.Module, tokens: Tensor, lengths: list[int], shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise in float32, then scale and shift each segment by its own [b, segments, d] row.

    A table per token would be the same thing and cost gigabytes.
    """
    parts = [
        (norm(in_float32(part)) * (1 + scale[:, i, None]) + shift[:, i, None]).to(tokens.dtype)
        for i, part in enumerate(tokens.split(lengths, dim=1))
    ]
    return torch.cat(parts, dim=1)


def add_gated(tokens: Tensor, update: Tensor, lengths: list[int], gate: Tensor) -> Tensor:
    """Residual sum in float32, gated per segment by a [b, segments, d] row."""
    parts = [
        (in_float32(part) + in_float32(change) * gate[:, i, None]).to(tokens.dtype)
        for i, (part, change) in enumerate(zip(tokens.split(lengths, dim=1), update.split(lengths, dim=1), strict=True))
    ]
    return torch.cat(parts, dim=1)


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """[b] timesteps to [b, width] float32: cosines, then sines, of falling frequency."""
    half = width // 2
    exponent = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angle = timestep.float()[:, None] * exponent.exp()
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
