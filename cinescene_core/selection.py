"""Which views of a place a camera path ever sees, so that a shot can leave out the others.

A view and a frame of the path are pyramids of sight. Of a frame only what lies behind its subject counts: the place
is there, and so the distance of the subject says how far a moving camera shifts it. Seen from a view's centre that is a
convex cone, so the part of the view's picture that the frame sees is the common part of two convex spherical
polygons; its solid angle is computed, not sampled.

The kept views stay in their slots with their temporal positions, the first always among them. The scene encoder has
seen all of them, and so has the scene cache, which thus still serves every path. What is saved is what the video reads.
No checkpoint was trained with such gaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .cameras import relative_poses
from .config import LATENT_CHANNELS, CineSceneConfig, ContextAttention, WanConfig
from .latents import latent_frames
from .models.sequence import STREAMS, KeysValues, SceneContext, SceneMemory
from .models.wan import POSE_VALUES, CineSceneTransformer
from .types import Context, Scene, Trajectory, Views

ROUNDING = 1e-9
"""What float64 leaves of zero among unit vectors, with room."""
TOUCHING = 1e-6
"""Shares of a picture up to this are the rounding of pyramids that only touch."""


class ForwardCost(NamedTuple):
    """What one forward of the transformer takes."""

    context_tokens: int
    """Tokens of the scene that the video reads."""
    flop: int
    """2 per multiply-add."""


@dataclass(frozen=True)
class ViewSelection:
    """Which views a shot reads, and what that saves."""

    slots: tuple[int, ...]
    """Slots of the context that are kept, in order; 0 is always the first."""
    shares: tuple[float, ...]
    """Of every slot's view: the largest part of its picture, in solid angle, that one frame of the path sees."""
    kept: ForwardCost
    whole: ForwardCost
    """Without the selection."""

    def __str__(self) -> str:
        saved = 1 - self.kept.flop / self.whole.flop
        return (
            f"{len(self.slots)} of {len(self.shares)} views are read on this path: {self.kept.context_tokens:,} of "
            f"{self.whole.context_tokens:,} scene tokens, {self.kept.flop / 1e9:,.4g} of {self.whole.flop / 1e9:,.4g} "
            f"GFLOP per forward ({saved:.0%} less)"
        )


def check_selectable(place: Tensor | Views | Scene) -> None:
    """Require a place whose views can be chosen by what a path sees of them.

    Raises:
        ValueError: the cameras of the views are not known.
    """
    views = place.views if isinstance(place, Scene) else place
    if isinstance(views, Views) and (views.world_from_camera is None or views.fov_degrees is None):
        raise ValueError(
            "Which views a path sees can only be told where their cameras are known, and these are photos. "
            "Film with all of them, or use a panorama."
        )


def seen_slots(shares: Sequence[float], above: float = 0.0) -> tuple[int, ...]:
    """The first slot, and those of whose view more than a share is seen."""
    return (0, *(slot for slot, share in enumerate(shares) if slot and share > max(above, TOUCHING)))


def select_views(
    scene: Scene,
    trajectory: Trajectory,
    context: Context,
    above: float,
    model: CineSceneTransformer,
    config: CineSceneConfig,
    text: Tensor,
) -> ViewSelection:
    """Choose the views that a shot reads: the first, and those of which its path sees more than a share.

    Args:
        scene, context: the place, and the same in the shot's order.
        trajectory: the camera path.
        above: share of a view's picture, 0 to 1.
        model, config, text: what the shot is filmed with, for what the selection saves.

    Raises:
        ValueError: what `check_selectable` refuses.
    """
    check_selectable(scene)
    shares = seen_shares(scene.views, trajectory, context.order)
    slots = seen_slots(shares, above)
    kept, whole = (
        forward_cost(
            model.config,
            (latent_frames(len(trajectory)), *context.latents.shape[-2:]),
            num_views,
            text_rows=text.shape[1],
            context_attention=config.context_attention,
            projector=not isinstance(model.blocks[0].projector, nn.Identity),
        )
        for num_views in (len(slots), len(shares))
    )
    return ViewSelection(slots, shares, kept, whole)


def seen_shares(views: Views, trajectory: Trajectory, order: Sequence[int]) -> tuple[float, ...]:
    """How much of each view's picture a path sees.

    Args:
        views: the place, with known cameras; the path starts at the first.
        trajectory: the camera path; its latent frames count, with the lens of the views, which is what the model films
            with, and the distance of its subject.
        order: which view stands in which slot.

    Returns:
        For each slot the largest share of the view's solid angle that one frame sees, 0 to 1.

    Raises:
        ValueError: the cameras are not known.
    """
    check_selectable(views)
    assert views.world_from_camera is not None
    assert views.fov_degrees is not None
    corners = picture_corners(views.fov_degrees, *views.size)
    poses = relative_poses(views.world_from_camera)[list(order)]
    frames = trajectory.latent_poses()
    rays = corners @ frames[:, :, :3].transpose(1, 2)  # [t, 4, 3]
    near = frames[:, None, :, 3] + trajectory.subject_distance * rays
    whole = solid_angle(corners)
    shares = []
    for pose in poses:
        sight = corners @ pose[:3, :3].T
        cones = torch.cat([near - pose[:3, 3], rays], dim=1)
        seen = (solid_angle(clip(sight, sides_of_cone(cone))) for cone in cones)
        shares.append(max(seen) / whole)
    return tuple(shares)


def picture_corners(fov_degrees: float, width: int, height: int) -> Tensor:
    """[4, 3] float64 rays through the corners of a picture, clockwise, in camera axes with z = 1."""
    x = torch.deg2rad(torch.tensor(fov_degrees, dtype=torch.float64) / 2).tan()
    signs = torch.tensor([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64)
    return signs * torch.stack([x, x * height / width, x]) + torch.tensor([0, 0, 1], dtype=torch.float64)


def sides_of_cone(rays: Tensor) -> Tensor:
    """Inward normals [p, 3] of the sides of the convex cone that [n, 3] rays span; none if that is all of space.

    A plane through two of the rays is a side if no ray lies behind it.
    """
    rays = normalize(rays, dim=-1)
    normals = torch.linalg.cross(rays[:, None], rays[None]).flatten(0, 1)
    normals = normals[normals.norm(dim=-1) > ROUNDING]  # the same ray twice spans no plane
    normals = normalize(normals, dim=-1)
    return normals[(normals @ rays.T).amin(-1) > -ROUNDING]


def clip(polygon: Tensor, sides: Tensor) -> Tensor:
    """Cut a convex spherical polygon, [n, 3] rays in order, by half spaces [p, 3]; return [m, 3] rays, or [0, 3]."""
    polygon = normalize(polygon, dim=-1)
    for side in sides:
        height = polygon @ side
        inside = height > -ROUNDING
        if inside.all():
            continue
        ahead = height.roll(-1)
        way = (height / (height - ahead)).clamp(0, 1)[:, None]  # to where an edge meets the side, if it does
        crossing = polygon + way * (polygon.roll(-1, 0) - polygon)
        crosses = inside != inside.roll(-1)
        polygon = normalize(torch.stack([polygon, crossing], 1)[torch.stack([inside, crosses], 1)], dim=-1)
    return polygon


def solid_angle(polygon: Tensor) -> float:
    """Steradians of a convex spherical polygon, [n, 3] rays in order (Van Oosterom and Strackee, 1983)."""
    if len(polygon) < 3:
        return 0.0
    rays = normalize(polygon, dim=-1)
    a, b, c = rays[:1].expand(len(rays) - 2, 3), rays[1:-1], rays[2:]
    volume = (a * torch.linalg.cross(b, c)).sum(-1)
    return float(2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1)).sum().abs())


def forward_cost(
    config: WanConfig,
    latent_shape: Sequence[int],
    num_views: int,
    *,
    text_rows: int,
    context_attention: ContextAttention,
    projector: bool,
) -> ForwardCost:
    """What one forward of the transformer takes, by the sizes of its matrix products.

    Norms, softmax and modulation are left out: benchmarks/flops.py, which counts operation by operation, gives the
    same number.

    Args:
        config: sizes of the transformer.
        latent_shape: ends in (t, h, w), latent frames, rows and columns of the video.
        num_views: views that are read, two context frames each.
        text_rows: rows of the prompt's embedding.
        context_attention: in mode `joint` the context takes part; else it was read before.
        projector: whether ReCamMaster's linear layer stands behind self-attention.
    """
    frames, height, width = latent_shape[-3:]
    d, layers = config.width, config.num_layers
    video = frames * (height // 2) * (width // 2)
    context = STREAMS * num_views * (height // 2) * (width // 2)
    tokens = video + context if context_attention == "joint" else video
    linears = tokens * (4 * d * d + 2 * d * config.ffn_width + (d * d if projector else 0)) + frames * POSE_VALUES * d
    attention = 2 * tokens * (video + context) * d
    reading = 2 * (tokens + text_rows) * d * d + 2 * tokens * text_rows * d
    embeddings = (
        2 * video * 4 * LATENT_CHANNELS * d  # patches in and out
        + text_rows * (config.text_width * d + d * d)
        + (2 if context_attention == "joint" else 1) * (config.frequency_width * d + d * d + 6 * d * d)
    )
    return ForwardCost(context, 2 * (layers * (linears + attention + reading) + embeddings))


def keep_slots(
    scene: SceneContext | SceneMemory, slots: Sequence[int], num_views: int
) -> "SceneContext | SelectedMemory":
    """Leave out all but some slots of a scene, which keep their temporal positions."""
    if not isinstance(scene, SceneContext):
        return SelectedMemory(scene, tuple(slots), num_views)
    return scene._replace(
        tokens=take_slots(scene.tokens, 1, slots, num_views),
        positions=take_slots(scene.positions, 0, slots, num_views),
        num_views=len(slots),
    )


@dataclass(frozen=True, eq=False)
class SelectedMemory:
    """What a video reads of some slots of a scene that was read whole."""

    memory: SceneMemory
    slots: tuple[int, ...]
    num_views: int
    """Of the whole scene."""

    def layers(self, device: torch.device, dtype: torch.dtype) -> Iterator[KeysValues]:
        """What the video reads in each block."""
        for block in self.memory.layers(device, dtype):
            yield KeysValues(*(take_slots(tensor, 2, self.slots, self.num_views) for tensor in block))


def take_slots(tensor: Tensor, dim: int, slots: Sequence[int], num_views: int) -> Tensor:
    """Some slots of a dimension that holds I_t of every slot, then F_t of every slot."""
    parts = tensor.unflatten(dim, (STREAMS, num_views, -1))
    kept = torch.tensor(list(slots), device=tensor.device)
    return parts.index_select(dim + 1, kept).flatten(dim, dim + 2)
