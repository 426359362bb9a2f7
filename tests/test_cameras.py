"""Axes, signs, lenses and rays, from first principles (CONVENTIONS.md)."""

import json
import math
from pathlib import Path

import pytest
import torch

from cinescene_core.cameras import (
    check_poses,
    focal_length,
    inverse_pose,
    pixel_rays,
    pose_from,
    relative_poses,
    rotation_from_angles,
    vertical_fov_degrees,
)
from cinescene_core.checks import PoseError, ShapeError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text(encoding="utf-8"))
ROUNDED = 2e-6  # the golden file keeps six decimals
EXACT = 1e-14  # a few float64 operations on numbers near 1
RIGHT, DOWN, FORWARD = torch.eye(3, dtype=torch.float64)


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def same(got, expected, atol=EXACT):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def some_poses(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    yaw, pitch, roll = torch.rand(3, count, generator=generator, dtype=torch.float64) * 300 - 150
    return pose_from(
        rotation_from_angles(yaw, pitch, roll), torch.randn(count, 3, generator=generator, dtype=torch.float64) * 5
    )


# ---- axes and signs -------------------------------------------------------------------------


def test_the_axes_are_right_handed():
    same(torch.linalg.cross(RIGHT, DOWN), FORWARD)


@pytest.mark.parametrize(
    ("angles", "camera_axis", "ends_as"),
    [
        ({"yaw": 90}, FORWARD, RIGHT),
        ({"yaw": -90}, FORWARD, -RIGHT),
        ({"yaw": 180}, FORWARD, -FORWARD),
        ({"yaw": 37}, DOWN, DOWN),
        ({"yaw": 0, "pitch": 90}, FORWARD, -DOWN),
        ({"yaw": 0, "pitch": -90}, FORWARD, DOWN),
        ({"yaw": 0, "pitch": 37}, RIGHT, RIGHT),
        ({"yaw": 0, "roll": 90}, RIGHT, DOWN),
        ({"yaw": 0, "roll": -90}, RIGHT, -DOWN),
        ({"yaw": 0, "roll": 37}, FORWARD, FORWARD),
    ],
)
def test_positive_yaw_turns_right_pitch_looks_up_and_roll_is_clockwise(angles, camera_axis, ends_as):
    same(rotation_from_angles(**angles) @ camera_axis, ends_as)


def test_the_parts_are_the_matrices_of_the_text_books():
    c, s = math.cos(math.radians(25)), math.sin(math.radians(25))
    same(rotation_from_angles(25), float64([[c, 0, s], [0, 1, 0], [-s, 0, c]]))
    same(rotation_from_angles(0, 25), float64([[1, 0, 0], [0, c, -s], [0, s, c]]))
    same(rotation_from_angles(0, 0, 25), float64([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def test_yaw_is_applied_outside_pitch_and_pitch_outside_roll():
    yaw, pitch, roll = 33.0, -48.0, 71.0
    together = rotation_from_angles(yaw, pitch, roll)
    same(together, rotation_from_angles(yaw) @ rotation_from_angles(0, pitch) @ rotation_from_angles(0, 0, roll))
    forward = together @ FORWARD  # where it looks does not depend on roll
    up, flat = math.sin(math.radians(pitch)), math.cos(math.radians(pitch))
    heading = (flat * math.sin(math.radians(yaw)), -up, flat * math.cos(math.radians(yaw)))
    same(forward, float64(heading))


def test_a_pitched_pan_about_the_world_is_the_golden_one():
    start = rotation_from_angles(0, -10)
    frames = GOLDEN["pan_right_75_about_world_up_with_start_pitch_minus10"]["frames"]
    for frame, expected in frames.items():
        turned = start.T @ rotation_from_angles(75 * int(frame) / 76) @ start
        same(turned, float64(expected)[:, :3], ROUNDED)


def test_angles_may_be_tensors_of_any_shape():
    yaw = torch.linspace(-180, 180, 6, dtype=torch.float64).reshape(2, 3)
    rotations = rotation_from_angles(yaw, 12.0)
    assert rotations.shape == (2, 3, 3, 3)
    assert rotations.dtype == torch.float64
    same(rotations[1, 2], rotation_from_angles(180.0, 12.0))
    same(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(2, 3, 3, 3), 1e-15 * 8)
    same(torch.linalg.det(rotations), torch.ones(2, 3, dtype=torch.float64))


# ---- poses ----------------------------------------------------------------------------------


def test_a_pose_takes_points_from_the_camera_to_the_world():
    pose = pose_from(rotation_from_angles(90), float64([10, 20, 30]))
    one_metre_ahead = float64([0, 0, 1, 1])
    same(pose @ one_metre_ahead, float64([11, 20, 30, 1]))  # it looks right, along world x
    assert torch.equal(pose[3], float64([0, 0, 0, 1]))


def test_one_rotation_serves_many_centres_and_one_centre_many_rotations():
    centres = torch.arange(15, dtype=torch.float64).reshape(5, 3)
    assert torch.equal(pose_from(torch.eye(3).double(), centres)[:, :3, 3], centres)
    turns = rotation_from_angles(torch.arange(5.0))
    poses = pose_from(turns, centres[2])
    assert torch.equal(poses[:, :3, :3], turns)
    assert torch.equal(poses[:, :3, 3], centres[2].expand(5, 3))


@pytest.mark.parametrize(("rotation", "centre", "name"), [((3, 4), (3,), "rotation"), ((3, 3), (4,), "centre")])
def test_parts_of_the_wrong_shape_are_named(rotation, centre, name):
    with pytest.raises(ShapeError, match=rf"{name} must have shape \[\.\.\., 3"):
        pose_from(torch.zeros(rotation), torch.zeros(centre))


def test_the_inverse_is_the_inverse():
    poses = some_poses()
    same(inverse_pose(poses), torch.linalg.inv(poses), 1e-13)
    same(inverse_pose(poses) @ poses, torch.eye(4, dtype=torch.float64).expand(6, 4, 4), 1e-13)
    assert inverse_pose(poses[0]).shape == (4, 4)


def test_relative_poses_start_at_the_identity_and_forget_the_world():
    poses = some_poses()
    relative = relative_poses(poses)
    same(relative[0], torch.eye(4, dtype=torch.float64), 1e-13)
    same(poses[0] @ relative, poses, 1e-13)
    same(relative_poses(some_poses(1, seed=3) @ poses), relative, 1e-12)


def test_relative_poses_are_in_the_axes_of_the_first_camera():
    first = pose_from(rotation_from_angles(90), float64([5, 0, 0]))
    then = pose_from(rotation_from_angles(90), float64([7, 0, 0]))  # two metres on, where the first looks
    same(relative_poses(torch.stack([first, then]))[1, :3, 3], float64([0, 0, 2]))


def test_good_poses_pass_and_so_do_six_decimals():
    check_poses("poses", some_poses())
    check_poses("poses", (some_poses() * 1e6).round() / 1e6)
    check_poses("poses", some_poses().float())


def spoiled(frame, entry, value):
    poses = some_poses()
    poses[(frame, *entry)] = value
    return poses


@pytest.mark.parametrize(
    ("poses", "error", "sentence"),
    [
        (torch.zeros(2, 3, 4), ShapeError, r"camera must have shape \[\.\.\., 4, 4\]; got \[2, 3, 4\]"),
        (spoiled(1, (0, 0), math.nan), ValueError, r"camera holds 1 NaN or infinite values of 96\. Repair"),
        (
            spoiled(2, (3, 0), 0.01),
            PoseError,
            r"camera: frame 2 .*the bottom row is not 0 0 0 1; is the matrix transposed",
        ),
        (some_poses().mT, PoseError, r"frame 0 .*the bottom row"),
        (
            spoiled(4, (slice(3), slice(3)), 1.01 * torch.eye(3).double()),
            PoseError,
            r"frame 4 .*not orthonormal .*scale",
        ),
        (spoiled(5, (0, slice(3)), some_poses()[5, 0, :3] + 0.01), PoseError, r"frame 5 .*not orthonormal"),
        (
            some_poses() @ torch.diag(float64([1, -1, 1, 1])),
            PoseError,
            r"frame 0 .*determinant is -1 .*convert to OpenCV",
        ),
        (spoiled(3, (slice(3), 0), -some_poses()[3, :3, 0]), PoseError, r"frame 3 .*determinant is -1 .*left-handed"),
    ],
    ids=["3x4", "nan", "bottom", "transposed", "scaled", "sheared", "mirrored", "one-mirrored"],
)
def test_a_pose_that_is_not_rigid_is_refused_by_frame(poses, error, sentence):
    with pytest.raises(error, match=sentence):
        check_poses("camera", poses)


# ---- lenses and rays ------------------------------------------------------------------------


def test_ninety_degrees_at_the_papers_size():
    assert float(focal_length(90, 672)) == pytest.approx(336, abs=1e-10)
    assert vertical_fov_degrees(90, 672, 384) == pytest.approx(59.489763, abs=5e-7)
    assert vertical_fov_degrees(50, 512, 512) == pytest.approx(50, abs=1e-10)


@pytest.mark.parametrize("case", GOLDEN["dolly_zoom"]["cases"])
def test_golden_focal_lengths(case):
    width = GOLDEN["dolly_zoom"]["W"]
    assert float(focal_length(case["hfov_deg"], width)) == pytest.approx(case["f"], abs=672 * math.radians(1e-6))


def test_the_edge_of_the_picture_is_half_the_field_of_view_away():
    for fov in (20.0, 90.0, 150.0):
        rays = pixel_rays(fov, 64, 48)
        assert rays.shape == (48, 64, 3)
        edge = rays[0, -1, 0] + (rays[0, -1, 0] - rays[0, -2, 0]) / 2  # half a pixel beyond the last centre
        assert math.degrees(math.atan(edge)) == pytest.approx(fov / 2, abs=1e-10)


def test_pixel_centres_are_half_integers_and_pixels_are_square():
    rays = pixel_rays(90, 4, 2)  # focal length 2 pixels
    same(rays[..., 0], float64([[-0.75, -0.25, 0.25, 0.75]] * 2))
    same(rays[..., 1], float64([[-0.25] * 4, [0.25] * 4]))
    same(rays[..., 2], torch.ones(2, 4, dtype=torch.float64))


def test_the_middle_pixel_of_an_odd_picture_looks_straight_ahead():
    same(pixel_rays(75, 5, 3)[1, 2], FORWARD)


def test_one_lens_per_frame():
    lenses = float64([30, 60, 90])
    rays = pixel_rays(lenses, 8, 6)
    assert rays.shape == (3, 6, 8, 3)
    for index, lens in enumerate(lenses):
        assert torch.equal(rays[index], pixel_rays(float(lens), 8, 6))
