"""Small places for tests: a random but well-textured panorama, and clips that turn in its middle."""

import torch
import torch.nn.functional as F

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.trajectory.presets import preset_trajectory
from cinescene_core.types import Trajectory
from cinescene_core.views import photograph
from cinescene_training.data.layout import PlaceClip, write_place

WIDTH, HEIGHT, FRAMES = 112, 64, 5
TEMPLE = "scene1_3x3_loc1_scene_AncientTempleEnv"
HARBOUR = "scene2_3x3_loc4_scene_HarbourEnv"
CAPTION, ACTION = "A robot waves. The court of an old temple.", "A robot waves."


def textured_panorama(seed, height=256):
    """[h, 2h, 3] blobs of several sizes; columns at the seam are blended, so that nothing marks it."""
    source = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, 2 * height)
    for rows, weight in ((4, 0.4), (8, 0.3), (16, 0.2), (32, 0.15)):
        noise = torch.rand(1, 3, rows, 2 * rows, generator=source) - 0.5
        noise = F.pad(noise, (2, 2, 0, 0), mode="circular")
        scale = height // rows
        grown = F.interpolate(noise, scale_factor=scale, mode="bicubic", align_corners=False)
        picture += weight * grown[..., 2 * scale : -2 * scale]
    return (picture[0].permute(1, 2, 0) + 0.5).clamp(0, 1)


def turned(trajectory, yaw, pitch):
    """The same path from a start view that looks that way in the world."""
    start = pose_from(rotation_from_angles(yaw, pitch), torch.zeros(3).double())
    return Trajectory(
        start @ trajectory.world_from_camera, trajectory.fov_degrees, trajectory.fps, trajectory.subject_distance
    )


def filmed(panorama, trajectory, heading, pitch, fov_degrees):
    """What a camera at the panorama's centre sees whose first frame looks at that longitude and latitude."""
    rotations = rotation_from_angles(heading, pitch) @ trajectory.relative()[:, :, :3]
    lenses = torch.full((len(trajectory),), fov_degrees, dtype=torch.float64)
    return photograph(panorama, rotations, lenses, WIDTH, HEIGHT)


def place_clips(panorama, *, moves=("pan_left", "pan_right", "tilt_up"), yaw=0.0, pitch=0.0, heading=0.0, tilt=None,
                seen_fov=None, stated_fov=90.0, frames=FRAMES):  # fmt: skip
    """Clips that say they start at (yaw, pitch) in the world, filmed from (heading, tilt) in the panorama."""
    for number, move in enumerate(moves, start=1):
        path = preset_trajectory(move, amount=0 if move == "static" else 15, num_frames=frames, fov_degrees=stated_fov)
        seen = filmed(panorama, path, heading, pitch if tilt is None else tilt, seen_fov or stated_fov)
        with_subject = seen.clone()
        with_subject[:, 20:40, 30:50] = torch.tensor([1.0, 0.2, 0.1])
        mask = torch.zeros(frames, HEIGHT, WIDTH)
        mask[:, 20:40, 30:50] = 1
        depth = torch.arange(1.0, HEIGHT + 1)[:, None].expand(frames, HEIGHT, WIDTH) / 8
        yield PlaceClip(
            number=number, trajectory=turned(path, yaw, pitch), with_subject=with_subject, without_subject=seen,
            depth=depth, subject_mask=mask,
        )  # fmt: skip


def write_dataset(root, scenes=(TEMPLE, HARBOUR)):
    for seed, scene in enumerate(scenes):
        panorama = textured_panorama(seed)
        write_place(root, scene, panorama, place_clips(panorama), caption=CAPTION, caption_action_only=ACTION)
    return root
