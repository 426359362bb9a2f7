"""The animatic is exact: every frame is what a camera in that pose, with that lens, sees of the panorama."""

import math

import pytest
import torch

from cinescene_core.animatic import TRAVEL_TOLERANCE, render_animatic
from cinescene_core.cameras import pixel_rays, pose_from, rotation_from_angles
from cinescene_core.config import ViewConfig
from cinescene_core.panorama import sample_panorama
from cinescene_core.types import Trajectory
from cinescene_core.views import slice_panorama, supersampling


def noise(height):
    return torch.rand(height, 2 * height, 3, generator=torch.Generator().manual_seed(7))


def turning(yaw, pitch=0.0, roll=0.0, fov_degrees=90.0):
    """A path that turns in place; angles per frame."""
    rotations = rotation_from_angles(*(torch.as_tensor(a, dtype=torch.float64) for a in (yaw, pitch, roll)))
    fov = torch.as_tensor(fov_degrees, dtype=torch.float64)
    return Trajectory(pose_from(rotations, torch.zeros(len(rotations), 3, dtype=torch.float64)), fov)


@pytest.mark.parametrize(("width", "height"), [(32, 16), (128, 64)])  # with and without supersampling
def test_the_first_frame_is_the_first_view(width, height):
    panorama = noise(192)
    config = ViewConfig(num_views=1, width=width, height=height, yaw_offset_degrees=-70, pitch_degrees=20)
    frames = render_animatic(panorama, turning([0.0, 10.0]), width, height, yaw_offset_degrees=-70, pitch_degrees=20)
    assert torch.equal(frames[0], slice_panorama(panorama, config).images[0])


def test_a_pan_passes_through_the_views():
    panorama = noise(64)
    views = slice_panorama(panorama, ViewConfig(num_views=20, width=32, height=16))
    frames = render_animatic(panorama, turning(torch.arange(5) * 18.0), 32, 16)
    # The angles agree to the last bits of float64; a float32 coordinate may round the other way: 6e-8 of 128 texels.
    torch.testing.assert_close(frames, views.images[:5], atol=2e-5, rtol=0)


def test_every_frame_is_a_direct_lookup_along_its_rays():
    panorama = noise(256)
    yaw, pitch, roll = [0.0, 40.0, -100.0, 175.0], [0.0, -60.0, 33.0, 90.0], [0.0, 12.0, -45.0, 5.0]
    lenses = [90.0, 35.0, 120.0, 60.0]
    trajectory = turning(yaw, pitch, roll, lenses)
    frames = render_animatic(panorama, trajectory, 48, 32, yaw_offset_degrees=30.0, pitch_degrees=-10.0)
    assert frames.dtype == torch.float32
    start = rotation_from_angles(30.0, -10.0)
    for frame, y, p, r, lens in zip(frames, yaw, pitch, roll, lenses, strict=True):
        k = supersampling(512, lens, 48)
        rays = pixel_rays(lens, 48 * k, 32 * k) @ (start @ rotation_from_angles(y, p, r)).T
        expected = sample_panorama(panorama.double(), rays).unflatten(0, (32, k)).unflatten(2, (48, k)).mean((1, 3))
        # float32 rays are off by about 1e-6 texels x 128; near the pole the longitude is off by ten times that.
        torch.testing.assert_close(frame.double(), expected, atol=2e-4, rtol=0)


def test_only_the_path_relative_to_its_first_frame_counts():
    panorama = noise(64)
    rotations = rotation_from_angles(torch.tensor([0.0, 25.0]), torch.tensor([0.0, 15.0]))
    elsewhere = rotation_from_angles(70.0, -30.0, 20.0)
    centre = torch.tensor([3.0, -1.0, 8.0], dtype=torch.float64).expand(2, 3)
    moved = Trajectory(pose_from(elsewhere @ rotations, centre), torch.tensor(90.0))
    frames = render_animatic(panorama, moved, 32, 16)
    torch.testing.assert_close(
        frames, render_animatic(panorama, turning([0.0, 25.0], [0.0, 15.0]), 32, 16), atol=1e-4, rtol=0
    )


def test_zooming_in_enlarges_the_middle():
    # 32 pixels of a lens with half the tangent have the focal length of 64 pixels of the 90-degree lens.
    panorama = noise(128)
    narrow = 2 * math.degrees(math.atan(0.5))
    wide_frame = render_animatic(panorama, turning([0.0]), 64, 32)[0]
    frames = render_animatic(panorama, turning([0.0, 0.0], fov_degrees=[90.0, narrow]), 32, 16)
    torch.testing.assert_close(frames[1], wide_frame[8:24, 16:48], atol=1e-4, rtol=0)


def test_a_constant_panorama_gives_constant_frames():
    panorama = torch.tensor([0.2, 0.5, 0.8]).expand(128, 256, 3)
    frames = render_animatic(panorama, turning([0.0, 50.0], [0.0, 90.0], fov_degrees=[90.0, 60.0]), 32, 16)
    torch.testing.assert_close(frames, panorama[:1, :1].expand_as(frames), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("metres", "said"), [(2.5, "2.50 m"), (0.004, "4.0 mm")])
def test_a_path_that_travels_is_refused(metres, said):
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 2, 3] = metres
    with pytest.raises(ValueError, match=f"travels {said} from where.*has no parallax.*pan, tilt, static"):
        render_animatic(noise(32), Trajectory(poses, torch.tensor(90.0)), 32, 16)


def test_rounding_in_a_file_is_not_travel():
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 0, 3] = TRAVEL_TOLERANCE / 2
    frames = render_animatic(noise(32), Trajectory(poses, torch.tensor(90.0)), 16, 16)
    assert torch.equal(frames[0], frames[1])


def test_an_empty_size_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1 pixels; got 0 x 16"):
        render_animatic(noise(32), turning([0.0]), 0, 16)


def test_progress_is_reported_after_each_frame():
    seen = []
    render_animatic(noise(32), turning([0.0, 5.0]), 16, 16, on_frame=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
