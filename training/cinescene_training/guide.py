"""Loss-guided (paper table 2 and section 4.2, discussion): VGGT supervises hidden states and is no input.

What the paper compares with is Geometry Forcing [59] (arXiv 2507.07982). Published there: hidden states of a
middle layer are projected to VGGT's features of the same video; angular alignment is their cosine; scale
alignment regresses the features at their own length from the projected ones at unit length, by a
second small head; both heads have 128 channels inside. Ours, where the paper is silent: the layer (the
middle one), the last layer's fused features F_i + F_c (those the context would show), a norm in front of the
heads, the scale error as a share of the features' energy, and equal weights for the two losses.

Letters: b batch, t latent frames, r s token rows and columns, n tokens, c feature channels, d width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, normalize

from cinescene_core.checks import check_shape
from cinescene_core.models.wan import CineSceneTransformer

from .config import ModelConfig
from .network import SceneNetwork, recast
from .samples import SceneBatch
from .seeds import generator_for

HEAD_WIDTH = 128
"""Channels inside the heads, as published."""


def angular_alignment(predicted: Tensor, features: Tensor) -> Tensor:
    """Mean of 1 - cosine between predicted and true features [b, n, c] of a token: [b], 0 to 2, in float32."""
    check_shape("predicted", predicted, " ".join(map(str, features.shape)))
    return (1 - cosine_similarity(predicted.float(), features.float(), dim=-1)).mean(dim=1)


def scale_alignment(predicted: Tensor, features: Tensor) -> Tensor:
    """Squared error of predicted features [b, n, c] as a share of the true ones' energy: [b], in float32.

    Predicting nothing costs 1, whatever the length of the encoder's features.
    """
    check_shape("predicted", predicted, " ".join(map(str, features.shape)))
    error, energy = (predicted.float() - features.float()).square(), features.float().square()
    return error.sum(dim=(1, 2)) / energy.sum(dim=(1, 2))


def on_token_grid(features: Tensor, rows: int, columns: int) -> Tensor:
    """Resize a clip's features [b, t, c, rows, columns] to the token grid: [b, t r s, c]."""
    sizes = check_shape("clip_features", features, "b t c rows columns")
    frames = rearrange(features, "b t c rows columns -> (b t) c rows columns")
    aligned = interpolate(frames.float(), size=(rows, columns), mode="bilinear", align_corners=False)
    return rearrange(aligned, "(b t) c r s -> b (t r s) c", t=sizes["t"])


class GuideHead(nn.Module):
    """Hidden states of the video's tokens to VGGT's features: their direction, and then their length too."""

    def __init__(self, width: int, feature_width: int, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.angle = nn.Sequential(nn.Linear(width, HEAD_WIDTH), nn.SiLU(), nn.Linear(HEAD_WIDTH, feature_width))
        self.scale = nn.Sequential(
            nn.Linear(feature_width, HEAD_WIDTH), nn.SiLU(), nn.Linear(HEAD_WIDTH, feature_width)
        )
        generator = generator_for(seed, "guide head")
        for layer in (*self.angle, *self.scale):
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[b, n, d] to features whose direction counts, and features that count whole, [b, n, c] each."""
        direction = self.angle(self.norm(hidden))
        return direction, self.scale(normalize(direction, dim=-1))


class GuidedTransformer(CineSceneTransformer):
    """Keeps the output of its middle block."""

    hidden: Tensor | None = None

    def run_block(self, index: int, *inputs: Any) -> Tensor:
        """Run one block."""
        tokens = super().run_block(index, *inputs)
        if index == len(self.blocks) // 2:
            self.hidden = tokens
        return tokens


class GuidedNetwork(SceneNetwork):
    """The scene as views alone, and a video whose hidden states are pulled towards VGGT's features of the clip."""

    transformer: GuidedTransformer

    def __init__(self, transformer: CineSceneTransformer, config: ModelConfig, seed: int = 0) -> None:
        super().__init__(recast(GuidedTransformer, transformer), config, seed)
        sizes = transformer.config
        self.guide_head = GuideHead(sizes.width, sizes.feature_width, seed)
        self.grid = (0, 0, 0)
        self.predicted: tuple[Tensor, Tensor] | None = None

    def forward(self, noisy: Tensor, sigma: Tensor, text: Tensor, poses: Tensor, scene: SceneBatch) -> Tensor:
        """Predict the velocity, as `SceneNetwork`; while learning, also the features of the clip."""
        velocity = super().forward(noisy, sigma, text, poses, scene)
        hidden, self.transformer.hidden = self.transformer.hidden, None
        assert hidden is not None
        self.grid = (noisy.shape[2], noisy.shape[3] // 2, noisy.shape[4] // 2)
        num_video_tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.predicted = self.guide_head(hidden[:, :num_video_tokens]) if torch.is_grad_enabled() else None
        return velocity

    def guide_losses(self, clip_features: Tensor | None) -> Mapping[str, Tensor]:
        """Angular and scale alignment of the last forward pass with a clip's features, averaged over the batch.

        Args:
            clip_features: [b, t, c, rows, columns] VGGT's fused features of the clip's latent frames.

        Raises:
            ValueError: the samples carry no features of the clips.
            ShapeError: they are those of another clip or encoder.
        """
        if clip_features is None:
            raise ValueError(
                "The loss-guided ablation needs VGGT's features of the clips, but the samples carry none. "
                "Run cinescene-train cache with cache.clip_features: true."
            )
        assert self.predicted is not None
        (direction, whole), self.predicted = self.predicted, None
        frames, rows, columns = self.grid
        width = self.transformer.config.feature_width
        check_shape("clip_features", clip_features, f"{len(direction)} {frames} {width} rows columns")
        features = on_token_grid(clip_features, rows, columns)
        return {
            "angular_alignment": angular_alignment(direction, features).mean(),
            "scale_alignment": scale_alignment(whole, features).mean(),
        }
