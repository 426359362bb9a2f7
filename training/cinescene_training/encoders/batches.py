"""Training pictures of the encoders, rendered where they are used: everything about a sample follows from its number.

Letters: b samples, s views of a scene, f frames of a clip, h w pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from cinescene_core.cameras import focal_length, pose_from, rotation_from_angles
from cinescene_core.checks import check_num_frames, check_positive, check_video_size
from cinescene_core.models.vggt import resize_for_vggt

from ..render.places import sample_places
from ..render.rendering import photographs, render
from ..render.shots import SHOT_MOVES, sample_shot
from ..render.splits import SPLIT_SEEDS, place_seed
from ..seeds import generator_for
from .vggt_loss import SceneTruth, scene_truth

SHAKE_DEGREES = 15.0
"""How far a view off the ring looks away from where its move has it look, in every angle."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """What the scene encoder is trained on: views of one place, as a shot's context has them and otherwise."""

    width: int = 672
    """Pixels of the pictures before they are resized for the encoder."""
    height: int = 384
    vggt_width: int = 518
    """Pixels at which the encoder sees them, multiples of its patch."""
    vggt_height: int = 294
    view_counts: tuple[int, ...] = (2, 4, 8, 12, 16, 20)
    """Views a scene may have; one count is drawn per step, the largest is validated."""
    fov_degrees: tuple[float, float] = (90.0, 90.0)
    """Least and largest horizontal field of view; one is drawn per scene, the middle is validated."""
    ring_share: float = 0.5
    """Share of scenes seen from one point, in even steps around the horizon; the others have a baseline."""
    courtyard_share: float = 0.25
    echoes: int = 1
    """Steps that see each rendered batch, in other colours each time; more than 1 where rendering is the slow part."""
    supersampling: int = 2
    """Rays along a pixel's side."""
    compiled: bool = False
    """Render through torch.compile."""

    def __post_init__(self) -> None:
        for name in ("width", "height", "vggt_width", "vggt_height", "echoes"):
            check_positive(name, getattr(self, name))
        if not self.view_counts or min(self.view_counts) < 1:
            raise ValueError(
                f"view_counts must name one count of views or more, each 1 or more; got {self.view_counts}."
            )
        least, largest = self.fov_degrees
        if not 0 < least <= largest < 180:
            raise ValueError(
                f"fov_degrees must be the least and the largest, between 0 and 180; got {self.fov_degrees}."
            )
        _check_shares(ring_share=self.ring_share, courtyard_share=self.courtyard_share)


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """What the VAE is trained on: pieces of shots, in space and in time."""

    width: int = 672
    """Pixels of a whole picture."""
    height: int = 384
    crop_width: int = 256
    """Pixels of the piece that is trained on, multiples of 16."""
    crop_height: int = 256
    frame_counts: tuple[int, ...] = (1, 5, 9, 17)
    """Consecutive frames of a piece, 4n + 1 each; one count is drawn per step, the largest is validated."""
    num_frames: int = 77
    """Frames of the whole shot, which set its speed."""
    fps: float = 15.0
    fov_degrees: float = 90.0
    """Horizontal field of view of a whole picture."""
    turned_share: float = 0.5
    """Share of shots that start in another direction than the subject's; the others see it."""
    courtyard_share: float = 0.25
    echoes: int = 1
    """Steps that see each rendered batch, in other colours each time; more than 1 where rendering is the slow part."""
    supersampling: int = 2
    """Rays along a pixel's side."""
    compiled: bool = False
    """Render through torch.compile."""

    def __post_init__(self) -> None:
        check_video_size(self.crop_width, self.crop_height)
        if self.crop_width > self.width or self.crop_height > self.height:
            raise ValueError(
                f"A crop of {self.crop_width} x {self.crop_height} does not fit a picture of {self.width} x "
                f"{self.height}. Make it smaller."
            )
        for count in (*self.frame_counts, self.num_frames):
            check_num_frames(count)
        if not self.frame_counts or max(self.frame_counts) > self.num_frames:
            raise ValueError(
                f"frame_counts must name counts of 1 to {self.num_frames}, the shot's frames; got {self.frame_counts}."
            )
        check_positive("echoes", self.echoes)
        _check_shares(turned_share=self.turned_share, courtyard_share=self.courtyard_share)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be 0 to 1; got {share}. It is a share of the samples.")


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Scenes of equally many views, with their exact geometry."""

    images: Tensor
    """[b, s, 3, h, w] in 0..1, as the encoder reads them."""
    truth: SceneTruth


def drawn_count(counts: Sequence[int], seed: int, step: int) -> int:
    """Which of the counts a step has; one for the whole step, so that its samples stack."""
    return counts[int(torch.randint(len(counts), (), generator=generator_for(seed, "count", step)))]


def rendered_numbers(numbers: Sequence[int], batch_size: int, echoes: int) -> list[int]:
    """Which rendered samples stand behind training samples, when `echoes` steps in a row see the same ones."""
    return [number // (batch_size * echoes) * batch_size + number % batch_size for number in numbers]


def recoloured(pictures: Tensor, channel_axis: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Each sample of a batch with its red, green and blue exchanged, as its number says."""
    orders = [torch.randperm(3, generator=generator_for(seed, "colours", number)) for number in numbers]
    changed = [
        picture.index_select(channel_axis - 1, order.to(picture.device))
        for picture, order in zip(pictures, orders, strict=True)
    ]
    return torch.stack(changed)


def view_batch(
    config: ViewsConfig, split: str, seed: int, numbers: Sequence[int], count: int, device: torch.device
) -> ViewBatch:
    """Render scenes of `count` views each.

    Args:
        config: what they look like.
        split: `train` draws all that can be drawn; `validation` and `test` show rings through the middle lens.
        seed: of the run.
        numbers: of the samples.
        count: views per scene.
        device: where to render.
    """
    scenes = [_view_scene(config, split, generator_for(seed, f"{split} views", n), count, device) for n in numbers]
    images, poses, depth, valid, focal = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    return ViewBatch(images, scene_truth(poses, depth, valid, focal))


def _view_scene(
    config: ViewsConfig, split: str, generator: torch.Generator, count: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images [s, 3, h, w], poses, depth and validity [s, h, w], focal lengths [2] of one scene."""
    kind, seed = _draw_place(config.courtyard_share, split, generator)
    least, largest = config.fov_degrees
    fov = least + (largest - least) * (_uniform(generator) if split == "train" else 0.5)
    if split != "train" or _uniform(generator) < config.ring_share:
        poses = ring_poses(count, generator)
    else:
        poses = baseline_poses(seed, kind, count, generator)
    rendering = render(
        sample_places([seed], kind).to(device), poses[None], fov, config.width, config.height,
        samples=config.supersampling, compiled=config.compiled,
    )  # fmt: skip
    size = (config.vggt_height, config.vggt_width)

    def nearest(grid: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(grid[0, :, None].float(), size=size, mode="nearest-exact")[:, 0]

    focal = focal_length(fov, config.width) * torch.tensor(
        [config.vggt_width / config.width, config.vggt_height / config.height], dtype=torch.float64
    )
    images = resize_for_vggt(rendering.rgb[0], (config.vggt_width, config.vggt_height))
    return images, poses.to(device), nearest(rendering.depth), nearest(~rendering.sky) > 0.5, focal.to(device)


def ring_poses(count: int, generator: torch.Generator) -> Tensor:
    """Views from one point in even steps around the horizon, as a shot's context has them: [count, 4, 4].

    The first looks anywhere; the others follow in random order (section 4.3).
    """
    start = 360 * _uniform(generator)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(count - 1, generator=generator)])
    return pose_from(rotation_from_angles(start + order * (360 / count)), torch.zeros(count, 3, dtype=torch.float64))


def baseline_poses(seed: int, kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Views from anywhere on the paths of a place's moves, where no furniture stands: [count, 4, 4]."""
    poses = []
    for _ in range(count):
        move = SHOT_MOVES[int(torch.randint(len(SHOT_MOVES), (), generator=generator))]
        path = sample_shot(seed, move=move, kind=kind).trajectory.world_from_camera
        pose = path[int(torch.randint(len(path), (), generator=generator))]
        angles = SHAKE_DEGREES * (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1)
        poses.append(pose @ _turn(rotation_from_angles(*angles)))
    turn = _turn(rotation_from_angles(360 * _uniform(generator)))
    return torch.stack(poses) @ turn  # the whole set looks another way


def clip_batch(
    config: ClipsConfig, split: str, seed: int, numbers: Sequence[int], frames: int, device: torch.device
) -> Tensor:
    """Film pieces of shots: [b, 3, f, h, w] in -1..1.

    A piece is filmed through a longer lens that looks at a part of the picture, not cut out of it: its
    pixels are as large, and none is rendered in vain.

    Args:
        config: what they look like.
        split: train, validation or test.
        seed: of the run.
        numbers: of the samples.
        frames: of each piece, 4n + 1.
        device: where to render.
    """
    clips = [_clip(config, split, generator_for(seed, f"{split} clips", number), frames, device) for number in numbers]
    return rearrange(torch.stack(clips), "b f h w c -> b c f h w") * 2 - 1


def piece_lens(config: ClipsConfig) -> tuple[float, tuple[float, float]]:
    """The lens through which a piece has pixels as large as the whole picture's, and how far it may look aside.

    Returns:
        Horizontal field of view, and the yaw and pitch at which the piece touches the whole picture's edges;
        degrees.
    """
    focal = float(focal_length(config.fov_degrees, config.width))
    halves = [
        math.degrees(math.atan(size / (2 * focal)))
        for size in (config.width, config.height, config.crop_width, config.crop_height)
    ]
    return 2 * halves[2], (halves[0] - halves[2], halves[1] - halves[3])


def _clip(config: ClipsConfig, split: str, generator: torch.Generator, frames: int, device: torch.device) -> Tensor:
    """[f, h, w, 3] in 0..1."""
    kind, seed = _draw_place(config.courtyard_share, split, generator)
    move = SHOT_MOVES[int(torch.randint(len(SHOT_MOVES), (), generator=generator))]
    path = sample_shot(seed, num_frames=config.num_frames, move=move, kind=kind, fps=config.fps).trajectory
    first = int(torch.randint(config.num_frames - frames + 1, (), generator=generator))
    fov, reach = piece_lens(config)
    yaw, pitch = (side * (2 * _uniform(generator) - 1) for side in reach)
    if _uniform(generator) < config.turned_share:
        yaw += 360 * _uniform(generator)
    poses = path.world_from_camera[first : first + frames] @ _turn(rotation_from_angles(yaw, pitch))
    time = (first + torch.arange(frames, dtype=torch.float64)) / config.fps
    pictures = photographs(
        sample_places([seed], kind).to(device), poses[None], fov, config.crop_width, config.crop_height,
        time=time[None], samples=config.supersampling, compiled=config.compiled,
    )  # fmt: skip
    return pictures[0]


def _draw_place(courtyard_share: float, split: str, generator: torch.Generator) -> tuple[str, int]:
    """Kind and seed of a place; hardly ever the same twice."""
    kind = "courtyard" if _uniform(generator) < courtyard_share else "room"
    return kind, place_seed(split, int(torch.randint(len(SPLIT_SEEDS[split]), (), generator=generator)))


def _turn(rotation: Tensor) -> Tensor:
    return pose_from(rotation, torch.zeros(3, dtype=torch.float64))


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
