"""Stage 6: a scene in slot order, with temporal positions: what the transformer reads."""

import dataclasses
import warnings

import torch
from einops import rearrange
from torch import Tensor

from .checks import CheckpointError, CineSceneWarning
from .config import CineSceneConfig, PositionScheme
from .latents import latent_frames, normalise_latents
from .types import Context, Scene, Trajectory

SAME_LENS_DEGREES = 0.01
"""Lenses closer than this are one lens: less than a pixel at the edge of a 4096 wide picture."""


def shuffled_order(num_views: int, seed: int) -> tuple[int, ...]:
    """A random slot order that keeps the start view first (paper section 4.3).

    The same seed gives the same order on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    return (0, *(1 + int(i) for i in torch.randperm(num_views - 1, generator=generator)))


def reorder_scene(scene: Scene, order: tuple[int, ...]) -> Scene:
    """Permute views, features and latents together; slot i receives view `order[i]`.

    VGGT is equivariant to the order of all frames but the first, so features need no recomputing.

    Raises:
        ValueError: not a permutation, or view 0 leaves slot 0.
    """
    if sorted(order) != list(range(len(scene.views))) or order[0] != 0:
        raise ValueError(
            f"order must name each of {len(scene.views)} views once and start with view 0, the start view; got {order}."
        )
    slots = list(order)
    views, tokens = scene.views, scene.tokens
    poses = views.world_from_camera
    return dataclasses.replace(
        scene,
        views=dataclasses.replace(
            views, images=views.images[slots], world_from_camera=None if poses is None else poses[slots]
        ),
        tokens=dataclasses.replace(tokens, patch=tokens.patch[slots], camera=tokens.camera[slots]),
        latents=scene.latents[slots],
    )


def temporal_positions(scheme: PositionScheme, num_latent_frames: int, num_views: int) -> tuple[Tensor, Tensor]:
    """Where the image tokens I_t and the implicit 3D tokens F_t stand on the temporal axis.

    The video stands at 0 .. t-1. `sequential` continues it (20 views behind 20 frames: 20..39 and
    40..59, the paper's concatenation along the frame dimension); `paired` gives a view's image and
    features the same slot; `single` gives every view one slot, which makes their order invisible.

    Returns:
        [v] positions of I_t and [v] positions of F_t.
    """
    first = torch.arange(num_latent_frames, num_latent_frames + num_views)
    if scheme == "sequential":
        return first, first + num_views
    if scheme == "paired":
        return first, first
    return first[:1].expand(num_views), first[:1].expand(num_views) + 1


def build_context(
    scene: Scene, num_latent_frames: int, config: CineSceneConfig, order: tuple[int, ...] | None = None
) -> Context:
    """Order a scene and give it positions for one shot.

    Args:
        scene: the encoded place.
        num_latent_frames: latent frames of the video, from `latents.latent_frames`.
        config: what the checkpoint was trained with.
        order: slot order, from `shuffled_order`; None keeps the scene's own.

    Raises:
        CheckpointError: the scene was made for another checkpoint (see `check_scene`).
    """
    check_scene(scene, config)
    order = tuple(range(len(scene.views))) if order is None else order
    scene = reorder_scene(scene, order)
    view_positions, feature_positions = temporal_positions(config.positions, num_latent_frames, len(order))
    rows, columns = scene.tokens.grid
    return Context(
        order=order,
        latents=normalise_latents(scene.latents),
        features=rearrange(scene.tokens.fused(), "v (rows columns) c -> v c rows columns", rows=rows, columns=columns),
        view_positions=view_positions,
        feature_positions=feature_positions,
    )


def check_scene(scene: Scene, config: CineSceneConfig) -> None:
    """Require that a scene was encoded as the checkpoint was trained.

    Raises:
        CheckpointError: another scene encoder or another input size; the message names what differs.
    """
    made = scene.provenance
    if config.vggt_id and made.vggt_id != config.vggt_id:
        raise CheckpointError(
            f"This scene was encoded by VGGT {made.vggt_id}, but the checkpoint was trained with {config.vggt_id}. "
            "Encode the scene again with the VGGT file the checkpoint names."
        )
    wanted = (config.vggt_width, config.vggt_height)
    if made.vggt_size != wanted:
        raise CheckpointError(
            f"This scene was encoded at {made.vggt_size[0]} x {made.vggt_size[1]} pixels, but the checkpoint was "
            f"trained at {wanted[0]} x {wanted[1]}. Encode the scene again at that size."
        )


def check_shot(trajectory: Trajectory, scene: Scene, config: CineSceneConfig) -> None:
    """Require that a checkpoint can film this path in this scene; warn where it was not trained to.

    Args:
        trajectory: the camera path.
        scene: the encoded place.
        config: what the checkpoint was trained with.

    Raises:
        CheckpointError: the scene was made for another checkpoint (see `check_scene`).
        ValueError: the path's lens changes, or its length is not 4n + 1.

    Warns:
        CineSceneWarning: see `check_request`.
    """
    check_scene(scene, config)
    views = scene.views
    check_request(trajectory, config, num_views=len(views), size=views.size, fov_degrees=views.fov_degrees)


def check_request(
    trajectory: Trajectory,
    config: CineSceneConfig,
    *,
    num_views: int,
    size: tuple[int, int],
    fov_degrees: float | None,
) -> None:
    """`check_shot` for a place that is not encoded yet.

    Args:
        trajectory: the camera path.
        config: what the checkpoint was trained with.
        num_views: views of the place.
        size: (width, height) of the views, and so of the video, in pixels.
        fov_degrees: the views' lens, or None when it is not known.

    Raises:
        ValueError: the path's lens changes, or its length is not 4n + 1.

    Warns:
        CineSceneWarning: the path's lens is not the views'; or size, length, views or lens are not
            what the checkpoint was trained with.
    """
    latent_frames(len(trajectory))
    check_one_lens(trajectory)
    lens = float(trajectory.fov_degrees[0])
    if fov_degrees is not None and abs(lens - fov_degrees) > SAME_LENS_DEGREES:
        warnings.warn(
            f"The camera path has a lens of {lens:g} degrees, the views one of {fov_degrees:g}. The model has no input "
            f"for the lens: it films with that of the views. Give the path {fov_degrees:g} degrees, "
            f"or cut the views at {lens:g}.",
            CineSceneWarning,
            stacklevel=3,
        )
    trained_lens = config.fov_degrees if abs(lens - config.fov_degrees) > SAME_LENS_DEGREES else lens
    pairs = (
        ("{} x {} pixels", size, (config.width, config.height)),
        ("{} frames", (len(trajectory),), (config.num_frames,)),
        ("{} views", (num_views,), (config.num_views,)),
        ("a lens of {:g} degrees", (lens,), (trained_lens,)),
    )
    differ = [f"{words.format(*came)} (trained: {words.format(*had)})" for words, came, had in pairs if came != had]
    if differ:
        warnings.warn(
            f"This shot is not as the checkpoint was trained: {'; '.join(differ)}. It may look worse for that.",
            CineSceneWarning,
            stacklevel=3,
        )


def check_one_lens(trajectory: Trajectory) -> None:
    """Require one lens from the first frame to the last.

    Raises:
        ValueError: the path zooms.
    """
    widest, narrowest = float(trajectory.fov_degrees.max()), float(trajectory.fov_degrees.min())
    if widest - narrowest > SAME_LENS_DEGREES:
        raise ValueError(
            f"The lens of this path changes, from {float(trajectory.fov_degrees[0]):g} to "
            f"{float(trajectory.fov_degrees[-1]):g} degrees (between {narrowest:g} and {widest:g}); the model has no "
            "input for the lens and films with one. Give the path one lens; the animatic can show this one."
        )
