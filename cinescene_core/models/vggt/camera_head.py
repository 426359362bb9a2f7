"""Camera tokens to cameras, refined in a few iterations."""

import torch
from torch import Tensor, nn

from .blocks import Block, Layers, Mlp, cast_like
from .config import VGGTConfig

POSE_VALUES = 9
"""Translation 3, quaternion x y z w, vertical and horizontal field of view (see `pose_encoding`)."""


class CameraHead(nn.Module):
    """Attends over the frames of a scene; runs in full precision."""

    def __init__(self, config: VGGTConfig, *, layers: Layers) -> None:
        super().__init__()
        width = config.width
        self.iterations = config.camera_iterations
        self.token_norm = layers.layer_norm(width, 1e-5)
        self.empty_pose_tokens = layers.parameter(1, 1, POSE_VALUES, std=0.0)
        self.embed_pose = layers.linear(POSE_VALUES, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), layers.linear(width, 3 * width))
        self.trunk = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_ratio, eps=1e-5, qk_norm=False, scale=0.01, layers=layers)
            for _ in range(config.camera_depth)
        )
        self.trunk_norm = layers.layer_norm(width, 1e-5)
        self.pose_branch = Mlp(width, width // 2, POSE_VALUES, layers=layers)

    def forward(self, camera: Tensor) -> Tensor:
        """Camera tokens [b, s, c] to pose encodings [iterations, b, s, 9], the last the best."""
        token = self.token_norm(camera)
        plain = nn.functional.layer_norm(token, token.shape[-1:], eps=1e-6)
        pose: Tensor | None = None
        state = cast_like(self.empty_pose_tokens, token).expand(*token.shape[:2], -1)
        history = []
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(state)).chunk(3, dim=-1)
            x = token + gate * (plain * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            delta = self.pose_branch(self.trunk_norm(x))
            pose = delta if pose is None else pose + delta
            state = pose.detach()  # in training each refinement learns from its own error
            # Only the answer is kept from going below zero, not what the next iteration reads.
            history.append(torch.cat([pose[..., :7], pose[..., 7:].relu()], dim=-1))
        return torch.stack(history)
