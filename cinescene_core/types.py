"""The values that travel between the stages. Frozen, documented per field, checked when made."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .cameras import check_poses, relative_poses
from .checks import ShapeError, check_finite, check_positive, check_shape
from .config import MAX_VIEWS, TEMPORAL_STRIDE


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of one static place. The first is the start view of every shot."""

    images: Tensor
    """[v, h, w, 3] float32, 0..1 (more for HDR), sRGB."""
    world_from_camera: Tensor | None = None
    """[v, 4, 4] float64 poses, or None when they are not known (photos)."""
    fov_degrees: float | None = None
    """Horizontal field of view of every view, or None when it is not known."""

    def __post_init__(self) -> None:
        sizes = check_shape("Views.images", self.images, "v h w 3")
        if not 1 <= sizes["v"] <= MAX_VIEWS:
            raise ShapeError(f"A scene has 1 to {MAX_VIEWS} views; got {sizes['v']}. Use 20, as the paper does.")
        if self.images.dtype != torch.float32:
            raise ShapeError(f"Views.images must be float32 in 0..1; got {self.images.dtype}. Convert them first.")
        if self.world_from_camera is not None:
            check_shape("Views.world_from_camera", self.world_from_camera, f"{sizes['v']} 4 4")
            check_poses("Views.world_from_camera", self.world_from_camera)
            object.__setattr__(self, "world_from_camera", self.world_from_camera.to(torch.float64))
        if self.fov_degrees is not None and not 0 < self.fov_degrees < 180:
            raise ValueError(
                f"Views.fov_degrees must lie between 0 and 180; got {self.fov_degrees}. "
                "Give the lens across, in degrees."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.images.shape[2], self.images.shape[1]


@dataclass(frozen=True, eq=False)
class SceneTokens:
    """What the scene encoder knows about each view (paper section 4.1)."""

    patch: Tensor
    """[..., v, k, c] image features F_i, row-major over the grid."""
    camera: Tensor
    """[..., v, 1, c] camera features F_c."""
    grid: tuple[int, int]
    """(rows, columns) of the k patches."""

    def __post_init__(self) -> None:
        sizes = check_shape("SceneTokens.patch", self.patch, "... v k c")
        check_shape("SceneTokens.camera", self.camera, f"... {sizes['v']} 1 {sizes['c']}")
        if self.grid[0] * self.grid[1] != sizes["k"]:
            raise ShapeError(f"SceneTokens.grid {self.grid} does not hold {sizes['k']} patches.")

    def fused(self) -> Tensor:
        """F = F_i + F_c, the camera feature expanded over the patches: [..., v, k, c]."""
        return self.patch + self.camera


@dataclass(frozen=True, kw_only=True)
class SceneProvenance:
    """Where a scene came from; what a checkpoint compares before it accepts the scene."""

    vggt_id: str
    """Fingerprint of the scene encoder's weights (`models.vggt.vggt_fingerprint`)."""
    vggt_size: tuple[int, int]
    """(width, height) of the pictures the scene encoder saw, in pixels."""
    source: str = ""
    """SHA-256 of the views' pixels."""
    version: str = ""
    """Version of CineScene that made it."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A place, encoded once and filmed many times."""

    views: Views
    tokens: SceneTokens
    """[v, k, c] and [v, 1, c]: no batch dimension."""
    latents: Tensor
    """[v, 16, h/8, w/8] raw VAE latents; each view encoded alone."""
    provenance: SceneProvenance

    def __post_init__(self) -> None:
        width, height = self.views.size
        check_shape("Scene.latents", self.latents, f"{len(self.views)} 16 {height // 8} {width // 8}")
        check_shape("Scene.tokens.patch", self.tokens.patch, f"{len(self.views)} k c")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A camera path: one pose and one lens per frame."""

    world_from_camera: Tensor
    """[f, 4, 4] float64 poses, metres."""
    fov_degrees: Tensor
    """[f] float64 horizontal field of view; a number given here serves every frame."""
    fps: float = 15.0
    """Frames per second."""
    subject_distance: float = 4.0
    """Metres from the first camera to the subject, along its optical axis."""
    provenance: str = ""
    """What made the path, in words ("pan_right 75.0 degrees")."""

    def __post_init__(self) -> None:
        poses = torch.as_tensor(self.world_from_camera)
        check_shape("Trajectory.world_from_camera", poses, "f 4 4")
        if len(poses) == 0:
            raise ShapeError("Trajectory.world_from_camera holds no frame; give at least one pose.")
        check_poses("Trajectory.world_from_camera", poses)
        fov = torch.as_tensor(self.fov_degrees, dtype=torch.float64)
        fov = fov.expand(len(poses)) if fov.ndim == 0 else fov
        check_shape("Trajectory.fov_degrees", fov, f"{len(poses)}")
        check_finite("Trajectory.fov_degrees", fov)
        if not ((fov > 0) & (fov < 180)).all():
            raise ValueError(
                f"Trajectory.fov_degrees must lie between 0 and 180; got {fov.min():g} to {fov.max():g}. "
                "Give the lens across, in degrees."
            )
        for name in ("fps", "subject_distance"):
            check_positive(f"Trajectory.{name}", getattr(self, name))
        object.__setattr__(self, "world_from_camera", poses.to(torch.float64))
        object.__setattr__(self, "fov_degrees", fov)

    def __len__(self) -> int:
        return len(self.world_from_camera)

    def relative(self) -> Tensor:
        """[f, 3, 4] poses in the frame of the first camera: the model's input C (section 4)."""
        return relative_poses(self.world_from_camera)[:, :3]

    def latent_poses(self) -> Tensor:
        """[1 + (f - 1) / 4, 3, 4] relative poses of pixel frames 0, 4, 8, ...: one per latent frame."""
        return self.relative()[::TEMPORAL_STRIDE]

    def travel(self) -> float:
        """Largest distance from the first camera's centre, in metres."""
        return float(self.relative()[:, :, 3].norm(dim=-1).max())


@dataclass(frozen=True, eq=False)
class Context:
    """The scene as one shot reads it: ordered, with a temporal position for every slot."""

    order: tuple[int, ...]
    """Which view stands in which slot; slot 0 is the start view (section 4.3)."""
    latents: Tensor
    """[v, 16, h/8, w/8] view latents in that order, normalised for the transformer."""
    features: Tensor
    """[v, c, rows, columns] F = F_i + F_c in the same order."""
    view_positions: Tensor
    """[v] temporal positions of the image tokens I_t."""
    feature_positions: Tensor
    """[v] temporal positions of the implicit 3D tokens F_t."""

    def __post_init__(self) -> None:
        views = check_shape("Context.latents", self.latents, "v 16 h w")["v"]
        check_shape("Context.features", self.features, f"{views} c rows columns")
        for name in ("view_positions", "feature_positions"):
            check_shape(f"Context.{name}", getattr(self, name), f"{views}")
        if sorted(self.order) != list(range(views)):
            raise ValueError(f"Context.order must name each of {views} views once; got {self.order}.")


class Autoencoder(Protocol):
    """A video VAE: 4 x 8 x 8, 16 channels, causal in time."""

    def encode(self, frames: Tensor) -> Tensor:
        """[b, f, h, w, 3] in 0..1 to raw latents [b, 16, 1 + (f - 1) / 4, h/8, w/8]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [b, 16, t, h/8, w/8] to frames [b, 4t - 3, h, w, 3] in 0..1."""
        ...


class SceneEncoder(Protocol):
    """Views to tokens. Sizes are the backend's properties, not constants of the caller."""

    patch_size: int
    """Pixels on a side of one patch."""
    width: int
    """Channels of a token."""

    @property
    def fingerprint(self) -> str:
        """What tells these weights from others; `SceneProvenance.vggt_id` of the scenes they make."""
        ...

    def encode(self, images: Tensor, on_block: Callable[[int, int], None] | None = None) -> SceneTokens:
        """[b, s, 3, h, w] in 0..1 to tokens; view 0 of each scene is the reference view.

        `on_block` is told (done, total) as the work goes on; whatever it raises ends it.
        """
        ...


class TextEncoder(Protocol):
    """A prompt to the rows the transformer's cross-attention reads."""

    def encode(self, prompt: str) -> Tensor:
        """One prompt to [1, length, width]."""
        ...


def content_digest(*tensors: Tensor) -> str:
    """SHA-256 of the values, shapes and types of `tensors`, as 64 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
