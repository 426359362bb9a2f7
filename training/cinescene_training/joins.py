"""The other axes on which a scene can join the video (paper supplement C.2, table 8): channels and views.

Frame (the paper's own, `network.SceneNetwork`): the scene's tokens stand behind the video's and all attend to all.
Channel: view k and its features lie on latent frame k; no tokens are added.
View: video, I_t and F_t are three streams that meet in a view attention of their own in every block.

Letters: b batch, t latent frames, h w latent height and width, r s token rows and columns (h/2, w/2),
m streams, n tokens of one stream, v views, c channels, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cinescene_core.checks import ShapeError
from cinescene_core.config import LATENT_CHANNELS, WanConfig
from cinescene_core.models.precision import in_float32
from cinescene_core.models.rotary import Rotary, rotary_tables
from cinescene_core.models.sequence import Attention, KeysValues, SceneContext, Segment
from cinescene_core.models.wan import PATCH_SIZE, CineSceneTransformer, WanAttention, WanBlock, add_gated, modulate

from .config import Join, ModelConfig
from .network import SceneNetwork, features_of, recast
from .samples import SceneBatch


class ChannelTransformer(CineSceneTransformer):
    """Adds the tokens that stand behind the video onto it, in front of the first block."""

    def run_block(self, index: int, *inputs: Any) -> Tensor:
        """One block over the video alone."""
        tokens, segments, text, rotary, *rest = inputs
        length = segments[0].length
        tokens = reduce(tokens, "b (parts n) d -> b n d", "sum", n=length)
        rotary = Rotary(rotary.cos[:length], rotary.sin[:length])
        return super().run_block(index, tokens, segments[:1], text, rotary, *rest)


class ChannelNetwork(SceneNetwork):
    """Noisy video, view latents and features joined on channels in front of the patch embedding.

    A linear layer over joined channels is the sum of one layer per part. The video's part is Wan's patch
    embedding; those of views and features start at zero, so the network begins as the one it was
    loaded from. What the features' part reads are the tokens of `scene_embed`.
    """

    def __init__(self, transformer: CineSceneTransformer, config: ModelConfig, seed: int = 0) -> None:
        super().__init__(recast(ChannelTransformer, transformer), config, seed)
        width = transformer.config.width
        self.view_embedding = nn.Conv3d(LATENT_CHANNELS, width, PATCH_SIZE, stride=PATCH_SIZE)
        self.feature_embedding = nn.Linear(width, width)
        for layer in (self.view_embedding, self.feature_embedding):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def embed_scene(self, scene: SceneBatch, num_latent_frames: int) -> SceneContext:
        """What is added to the video: [b, t r s, d], frame k from the view in slot k.

        Raises:
            ShapeError: there are not as many views as latent frames.
        """
        check_one_view_per_frame("channel", scene, num_latent_frames)
        parts = []
        if scene.images_shown:
            pictures = rearrange(scene.latents, "b v c h w -> b c v h w")
            parts.append(rearrange(self.view_embedding(pictures), "b d t r s -> b (t r s) d"))
        if self.config.features != "none":
            size = (scene.latents.shape[3], scene.latents.shape[4])
            parts.append(self.feature_embedding(self.transformer.scene_embed(features_of(scene, self.config), size)))
        rows, columns = (side // 2 for side in scene.latents.shape[-2:])
        return SceneContext(
            torch.stack(parts).sum(0), torch.arange(num_latent_frames), num_latent_frames, (rows, columns)
        )


@dataclass(frozen=True, eq=False)
class Streams:
    """The attention of a block whose tokens are equally long streams: video, I_t, F_t."""

    num_streams: int
    num_frames: int
    rotary: Rotary
    """Of the streams' tokens at one latent frame; the stream's number is the temporal position."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Plain attention, as the prompt is read."""
        return scaled_dot_product_attention(q, k, v)

    def within(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of [b, heads, m n, c] in which a stream's tokens attend to that stream alone."""
        parts = (rearrange(x, "b heads (m n) c -> (b m) heads n c", m=self.num_streams) for x in (q, k, v))
        return rearrange(self(*parts), "(b m) heads n c -> b heads (m n) c", m=self.num_streams)

    def gather(self, tokens: Tensor) -> Tensor:
        """Bring the streams' tokens of one latent frame together: [b, m n, d] to [b t, m r s, d]."""
        return rearrange(tokens, "b (m t n) d -> (b t) (m n) d", m=self.num_streams, t=self.num_frames)

    def spread(self, tokens: Tensor) -> Tensor:
        """Undo `gather`."""
        return rearrange(tokens, "(b t) (m n) d -> b (m t n) d", m=self.num_streams, t=self.num_frames)


class ViewBlock(WanBlock):
    """A block over streams, with a view attention between self-attention and cross-attention.

    In the view attention the tokens of latent frame k of all streams attend to one another. It has its
    own modulation, as in SynCamMaster's public code.
    """

    def __init__(self, config: WanConfig, **placement: Any) -> None:
        super().__init__(config, True, nn, **placement)
        self.view_norm = nn.LayerNorm(config.width, eps=config.eps, elementwise_affine=False, **placement)
        self.view_attn = WanAttention(config, nn, **placement)
        self.view_modulation = nn.Parameter(torch.empty(1, 3, config.width, **placement))

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
        """One layer; `attention` is `Streams`, all else as in `WanBlock`. Streams that meet cannot be remembered."""
        assert isinstance(attention, Streams)
        assert memory is None
        shared = in_float32(torch.stack([s.modulation for s in segments], dim=1))
        lengths = [segment.length for segment in segments]
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation.to(shared) + shared).unbind(2)
        view_shift, view_scale, view_gate = (self.view_modulation.to(shared) + shared[:, :, :3]).unbind(2)

        attended = modulate(self.norm1, tokens, lengths, shift, scale)
        if camera is not None:
            attended = self.add_camera(attended, lengths[0], camera)
        attended = self.self_attn(attended, attended, attention.within, rotary)
        tokens = add_gated(tokens, self.projector(attended), lengths, gate)
        meeting = attention.gather(modulate(self.view_norm, tokens, lengths, view_shift, view_scale))
        met = attention.spread(self.view_attn(meeting, meeting, attention, attention.rotary))
        tokens = add_gated(tokens, met, lengths, view_gate)
        asking = self.norm3(in_float32(tokens)).to(tokens.dtype)
        tokens = tokens + self.cross_attn(asking, text, attention)
        fed = self.ffn(modulate(self.norm2, tokens, lengths, ffn_shift, ffn_scale))
        return add_gated(tokens, fed, lengths, ffn_gate)


class ViewTransformer(CineSceneTransformer):
    """Wan with a view attention in every block."""

    def __init__(self, config: WanConfig, device: torch.device | str | None = None) -> None:
        super().__init__(config, device=device)
        blocks = (ViewBlock(config, device=device, dtype=torch.float32) for _ in range(config.num_layers))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, video: Tensor, timestep: Tensor, text: Tensor, **conditions: Any) -> Tensor:
        """As `CineSceneTransformer`; the context is further streams, each as long as the video."""
        frames, rows, columns = video.shape[2], video.shape[3] // 2, video.shape[4] // 2
        num_streams = 1 + conditions["context"].tokens.shape[1] // (frames * rows * columns)
        rotary = rotary_tables(torch.arange(num_streams), rows, columns, self.config.head_width, video.device)
        return super().forward(video, timestep, text, attention=Streams(num_streams, frames, rotary), **conditions)


class ViewNetwork(SceneNetwork):
    """Video, I_t and F_t as views of one moment, as ReCamMaster and SynCamMaster join several cameras.

    The view attention starts as a copy of the block's self-attention with its output at zero, so the
    network begins as the one it was loaded from. Every stream stands at temporal positions 0 .. t-1.
    """

    added = ("view_attn", "view_modulation")

    def __init__(self, transformer: CineSceneTransformer, config: ModelConfig, seed: int = 0) -> None:
        super().__init__(recast(ViewTransformer, transformer, view_attention_of(transformer)), config, seed)

    def embed_scene(self, scene: SceneBatch, num_latent_frames: int) -> SceneContext:
        """I_t and F_t as streams, view k at latent frame k.

        Raises:
            ShapeError: there are not as many views as latent frames.
        """
        check_one_view_per_frame("view", scene, num_latent_frames)
        context = super().embed_scene(scene, num_latent_frames)
        return context._replace(positions=torch.arange(len(context.positions)) % num_latent_frames)


def view_attention_of(transformer: CineSceneTransformer) -> dict[str, Tensor]:
    """How the view attention of each block starts, by parameter name."""
    added: dict[str, Tensor] = {}
    for name, value in transformer.state_dict().items():
        if ".self_attn." in name:
            silent = ".self_attn.o." in name
            added[name.replace("self_attn", "view_attn")] = torch.zeros_like(value) if silent else value.clone()
        elif name.startswith("blocks.") and name.endswith(".modulation"):
            added[name.replace("modulation", "view_modulation")] = value[:, :3].clone()
    return added


def check_one_view_per_frame(join: Join, scene: SceneBatch, num_latent_frames: int) -> None:
    """Require a view for each latent frame.

    Raises:
        ShapeError: there are more or fewer.
    """
    views = scene.latents.shape[1]
    if views != num_latent_frames:
        raise ShapeError(
            f"model.join '{join}' lays one view on each latent frame; got {views} views for {num_latent_frames} latent "
            "frames. Encode as many views."
        )


JOINS: dict[Join, type[SceneNetwork]] = {"channel": ChannelNetwork, "view": ViewNetwork}
"""The networks of the joins beside the frame's."""
