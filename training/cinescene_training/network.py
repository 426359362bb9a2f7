"""The transformer and how it is shown the scene: the paper's way, and the other ways of its ablations.

Letters: b batch, t latent frames, h w latent height and width, v views, c feature channels, d width.
"""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from cinescene_core.context import temporal_positions
from cinescene_core.models.conditioning import SceneEmbed, start_conditioning
from cinescene_core.models.sequence import SceneContext
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.sampler import TIMESTEPS

from .config import ModelConfig
from .samples import SceneBatch
from .seeds import generator_for

Kind = TypeVar("Kind", bound=CineSceneTransformer)


class SceneNetwork(nn.Module):
    """A `CineSceneTransformer` with the scene joined along the frame axis (section 4.2).

    Args:
        transformer: the network that is exported.
        config: which features it sees, in which context mode, and whether it has a camera.
        seed: of the layers that are no part of the transformer.
    """

    added: ClassVar[tuple[str, ...]] = ()
    """Layers that this way of joining adds to the transformer; they always train."""

    def __init__(self, transformer: CineSceneTransformer, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = config
        if config.features == "separate":
            sizes = transformer.config
            self.camera_embed = SceneEmbed(sizes.feature_width, sizes.width, nn, dtype=torch.float32)
            drawn = generator_for(seed, "camera_embed").initial_seed()
            start_conditioning(nn.ModuleDict({"scene_embed": self.camera_embed}), drawn)

    def forward(self, noisy: Tensor, sigma: Tensor, text: Tensor, poses: Tensor, scene: SceneBatch) -> Tensor:
        """Predict the velocity `noise - video`.

        Args:
            noisy: [b, 16, t, h, w] latents at their noise levels, normalised.
            sigma: [b] noise levels.
            text: [b, l, width] prompt rows.
            poses: [b, t, 3, 4] relative camera poses.
            scene: the place.

        Returns:
            [b, 16, t, h, w].
        """
        timestep = sigma * TIMESTEPS
        return self.transformer(
            noisy,
            timestep,
            text,
            camera=poses if self.config.camera else None,
            context=None if self.config.join == "none" else self.embed_scene(scene, noisy.shape[2]),
            context_timestep=timestep if self.config.context_timestep == "shared" else None,
            context_attention=self.config.context_attention,
        )

    def embed_scene(self, scene: SceneBatch, num_latent_frames: int) -> SceneContext:
        """I_t, then F_t as the ablation wants it: tokens with their temporal positions."""
        views = scene.latents.shape[1]
        size = (scene.latents.shape[3], scene.latents.shape[4])
        embed = self.transformer.scene_embed
        image_slots, feature_slots = temporal_positions(self.config.positions, num_latent_frames, views)
        groups: list[tuple[Tensor, Tensor]] = []
        if scene.images_shown:
            pictures = rearrange(scene.latents, "b v c h w -> b c v h w")
            groups.append((self.transformer.embed_latents(pictures), image_slots))
        if self.config.features == "separate":
            groups.append((embed(scene.patch, size), feature_slots))
            groups.append((self.camera_embed(expanded_camera(scene), size), feature_slots + views))
        elif self.config.features != "none":
            groups.append((embed(features_of(scene, self.config), size), feature_slots))
        tokens, positions = zip(*groups, strict=True)
        joined = torch.cat([part.to(tokens[0].dtype) for part in tokens], dim=1)
        return SceneContext(joined, torch.cat(positions), views, (size[0] // 2, size[1] // 2))

    def guide_losses(self, clip_features: Tensor | None) -> Mapping[str, Tensor]:
        """Losses beside the flow's, by name, of the last forward pass in training; the paper's way has none."""
        return {}


def features_of(scene: SceneBatch, config: ModelConfig) -> Tensor:
    """[b, v, c, rows, columns] implicit 3D features: F = F_i + F_c, or one of them (table 2)."""
    if config.features == "image":
        return scene.patch
    if config.features == "camera":
        return expanded_camera(scene)
    return scene.patch + scene.camera[..., None, None]


def expanded_camera(scene: SceneBatch) -> Tensor:
    """F_c expanded over the patches of its view: [b, v, c, rows, columns]."""
    rows, columns = scene.patch.shape[-2:]
    return repeat(scene.camera, "b v c -> b v c rows columns", rows=rows, columns=columns)


def recast(kind: type[Kind], transformer: CineSceneTransformer, added: Mapping[str, Tensor] | None = None) -> Kind:
    """The same weights, not copied, as a subclass that runs them differently.

    Args:
        kind: the subclass, made from the sizes and a device.
        transformer: where the weights are.
        added: values of the layers that only the subclass has.
    """
    other = kind(transformer.config, device="meta")
    other.load_state_dict(transformer.state_dict() | dict(added or {}), assign=True)
    return other
