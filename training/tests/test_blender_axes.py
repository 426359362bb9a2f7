"""The change of axes, from what each side says about itself."""

import math

import pytest
import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import PoseError, ShapeError
from cinescene_training.render.blender.axes import (
    level_pose,
    points_from_blender,
    points_to_blender,
    pose_from_blender,
    pose_to_blender,
)


def turned(yaw: float, pitch: float, roll: float, centre: tuple[float, float, float]) -> torch.Tensor:
    return pose_from(rotation_from_angles(yaw, pitch, roll), torch.tensor(centre, dtype=torch.float64))


POSE = turned(37.0, -21.0, 13.0, (1.5, -2.0, 4.0))


@pytest.mark.parametrize(
    ("here", "there"),
    [((1, 0, 0), (1, 0, 0)), ((0, -1, 0), (0, 0, 1)), ((0, 0, 1), (0, 1, 0)), ((2, 3, 5), (2, 5, -3))],
    ids=["right", "up", "ahead", "anywhere"],
)
def test_right_up_and_ahead_are_what_both_sides_call_them(here, there):
    there = torch.tensor(there, dtype=torch.float64)
    assert torch.equal(points_to_blender(torch.tensor(here)), there)
    assert torch.equal(points_from_blender(there), torch.tensor(here, dtype=torch.float64))


def test_lengths_follow_the_files_unit():
    # A file in centimetres: one of its units is 0.01 metres.
    points = torch.tensor([[1.0, 2.0, 3.0]])
    expected = torch.tensor([[100.0, 300.0, -200.0]], dtype=torch.float64)
    torch.testing.assert_close(points_to_blender(points, 0.01), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(pose_to_blender(POSE, 0.01)[:3, 3], points_to_blender(POSE[:3, 3], 0.01))


def test_an_upright_camera_that_looks_ahead_is_blenders_camera_tipped_up_by_ninety_degrees():
    # Blender's unrotated camera looks down; rotation (90, 0, 0) makes it look along +y with +z up.
    about_x = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    assert torch.equal(pose_to_blender(torch.eye(4))[:3, :3], about_x)
    assert torch.equal(pose_from_blender(pose_to_blender(torch.eye(4))), torch.eye(4, dtype=torch.float64))


def test_a_point_keeps_its_place_before_the_camera():
    # The camera's own coordinates of a world point, computed on either side: y and z change sign, nothing else.
    point = torch.tensor([0.3, -0.7, 2.2], dtype=torch.float64)
    here = torch.linalg.inv(POSE) @ torch.cat([point, torch.ones(1)])
    there = torch.linalg.inv(pose_to_blender(POSE)) @ torch.cat([points_to_blender(point), torch.ones(1)])
    torch.testing.assert_close(there, here * torch.tensor([1.0, -1.0, -1.0, 1.0]).double(), rtol=0, atol=1e-14)


def test_there_and_back_is_where_it_began():
    poses = torch.stack([POSE, turned(-140, 60, -5, (0, 0, 0)), turned(0, 90, 0, (9, 9, 9))])
    for unit in (1.0, 0.0254):
        torch.testing.assert_close(pose_from_blender(pose_to_blender(poses, unit), unit), poses, rtol=0, atol=1e-12)


def test_a_scaled_camera_sees_what_an_unscaled_one_sees():
    matrix = pose_to_blender(POSE)
    matrix[:3, :3] *= torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(pose_from_blender(matrix), POSE, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fault", ["mirrored", "sheared", "flat"])
def test_a_matrix_that_is_no_pose_is_refused(fault):
    matrix = pose_to_blender(POSE)
    if fault == "mirrored":
        matrix[:3, 0] *= -1
    elif fault == "sheared":
        matrix[:3, 0] += 0.2 * matrix[:3, 1]
    else:
        matrix[:3, 2] = 0
    with pytest.raises(PoseError, match=r"mirrors, shears or flattens space.* Apply the scale of its parents"):
        pose_from_blender(matrix)


def test_a_level_pose_keeps_centre_and_heading():
    level = level_pose(POSE)
    assert torch.equal(level[:3, 3], POSE[:3, 3])
    torch.testing.assert_close(level[:3, :3], rotation_from_angles(37.0), rtol=0, atol=1e-14)
    # A camera tipped past the vertical looks back: its heading is where its axis points.
    back = level_pose(turned(0.0, 120.0, 0.0, (0, 0, 0)))[:3, 2]
    torch.testing.assert_close(back, torch.tensor([0.0, 0.0, -1.0]).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pitch", [90.0, -90.0])
def test_a_camera_that_looks_straight_up_or_down_has_no_heading(pitch):
    with pytest.raises(PoseError, match=r"looks straight up or down, so the panorama has no heading. Tilt it"):
        level_pose(turned(20.0, pitch, 0.0, (0, 0, 0)))


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match=r"points must have shape \[..., 3\]"):
        points_to_blender(torch.zeros(2))
    with pytest.raises(ShapeError, match=r"matrix_world must have shape \[..., 4, 4\]"):
        pose_from_blender(torch.zeros(3, 4))
    assert math.isclose(float(torch.linalg.det(pose_to_blender(POSE)[:3, :3])), 1.0, abs_tol=1e-12)
