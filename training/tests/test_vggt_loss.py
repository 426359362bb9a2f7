"""The scene encoder's published loss on worked examples, and the exact geometry it is asked for."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import ShapeError
from cinescene_core.models.vggt import decode_poses
from cinescene_training.encoders.vggt_loss import (
    SceneTruth,
    camera_loss,
    depth_loss,
    relative_depth_error,
    rotation_errors,
    scene_truth,
)
from cinescene_training.render.places import sample_places
from cinescene_training.render.rendering import render


def poses_at(*centres, yaw=0.0):
    return pose_from(rotation_from_angles(yaw), torch.tensor(centres, dtype=torch.float64))


def flat_truth(depth, valid=None):
    valid = torch.ones_like(depth, dtype=torch.bool) if valid is None else valid
    return SceneTruth(torch.zeros(*depth.shape[:2], 9), depth, valid, torch.ones(len(depth)))


# What the network is asked for


def test_a_unit_is_the_mean_distance_of_what_is_seen_from_the_first_camera():
    # One pixel straight ahead each, 3 m deep; the second camera stands 4 m to the right: its point is 5 m away.
    truth = scene_truth(
        poses_at((1, 2, 3), (5, 2, 3))[None], torch.full((1, 2, 1, 1), 3.0), torch.ones(1, 2, 1, 1).bool(),
        torch.tensor([[0.5, 0.5]]),
    )  # fmt: skip
    assert truth.unit.tolist() == pytest.approx([4.0])
    assert truth.depth.flatten().tolist() == pytest.approx([0.75, 0.75])
    # World-to-camera: the first camera's centre is 4 m to the left of the second camera, one unit.
    assert truth.encoding[0, :, :3].tolist() == [[0, 0, 0], pytest.approx([-1, 0, 0])]
    # A picture as wide as twice its focal length of half a pixel: 2 atan(1) = 90 degrees both ways.
    assert truth.encoding[0, 0, 7:].tolist() == pytest.approx([math.pi / 2] * 2)


def test_orientations_are_relative_to_the_first_camera_in_xyzw():
    first, second = Rotation.from_euler("yxz", [40, 10, -20], degrees=True), Rotation.from_euler("y", 95, degrees=True)
    rotations = torch.from_numpy(Rotation.concatenate([first, second]).as_matrix())
    poses = pose_from(rotations, torch.zeros(2, 3, dtype=torch.float64))[None]
    truth = scene_truth(poses, torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2).bool(), torch.ones(1, 2))
    expected = (second.inv() * first).as_quat(canonical=True)  # from the first camera's axes to the second's
    torch.testing.assert_close(truth.encoding[0, 0, 3:7], torch.tensor([0.0, 0, 0, 1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(truth.encoding[0, 1, 3:7].double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def rendered():
    """Two rooms from three cameras each, off the axes, in pictures of 40 x 24."""
    places = sample_places([5, 9], "room")
    rotations = rotation_from_angles(
        torch.tensor([0.0, 25, -40]), torch.tensor([0.0, 8, -12]), torch.tensor([0.0, 5, 0])
    )
    poses = pose_from(rotations, torch.tensor([[0.0, 0, 0], [0.3, -0.1, 0.2], [-0.2, 0.1, 0.1]])).expand(2, -1, -1, -1)
    return poses, render(places, poses, 80.0, 40, 24), torch.full((2, 2), 20 / math.tan(math.radians(40)))


def test_true_cameras_project_the_rooms_points_onto_their_own_pixels(rendered):
    poses, rendering, focal = rendered
    truth = scene_truth(poses, rendering.depth, ~rendering.sky, focal)
    extrinsic, intrinsic = decode_poses(truth.encoding.double(), (40, 24))
    world = rendering.points.double()  # the renderer's own world is the first camera
    unit = truth.unit.double()[:, None, None, None, None]
    seen = torch.einsum("bsij,bshwj->bshwi", extrinsic[..., :3], world / unit) + extrinsic[:, :, None, None, :, 3]
    torch.testing.assert_close(seen[..., 2], truth.depth.double(), atol=2e-6, rtol=0)
    pixels = torch.einsum("bsij,bshwj->bshwi", intrinsic, seen)
    u = (torch.arange(40) + 0.5).double().expand(2, 3, 24, 40)
    # float32 world points of rooms up to 10 m across, seen from 0.5 m and more: 1e-5 of a 24-pixel focal length.
    torch.testing.assert_close(pixels[..., 0] / pixels[..., 2], u, atol=1e-3, rtol=0)
    distances = world.norm(dim=-1).mean(dim=(1, 2, 3))
    torch.testing.assert_close(truth.unit.double(), distances, rtol=1e-6, atol=0)


def test_neither_the_worlds_axes_nor_its_scale_change_what_is_asked(rendered):
    poses, rendering, focal = rendered
    valid = ~rendering.sky
    truth = scene_truth(poses, rendering.depth, valid, focal)
    motion = pose_from(rotation_from_angles(70, -20, 33), torch.tensor([5.0, -2, 9]))
    moved = motion @ poses
    moved[..., :3, 3] *= 2.5
    other = scene_truth(moved, rendering.depth * 2.5, valid, focal)
    torch.testing.assert_close(other.encoding, truth.encoding, atol=1e-6, rtol=0)
    torch.testing.assert_close(other.depth, truth.depth, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(other.unit, truth.unit * 2.5)
    guess = torch.randn(4, 2, 3, 9, generator=torch.Generator().manual_seed(0))
    assert float(camera_loss(guess, other.encoding)) == pytest.approx(
        float(camera_loss(guess, truth.encoding)), abs=1e-6
    )


def test_the_sky_is_no_part_of_the_unit():
    depth = torch.tensor([2.0, 1e6]).reshape(1, 1, 1, 2)
    valid = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    truth = scene_truth(poses_at((0, 0, 0))[None], depth, valid, torch.tensor([[1e6, 1e6]]))
    assert truth.unit.tolist() == pytest.approx([2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": torch.full((1, 2, 2, 2), math.nan)}, "depth holds 8 NaN or infinite values"),
        ({"depth": torch.zeros(1, 2, 2, 2)}, "must be above zero. Mark what is missing"),
        ({"valid": torch.zeros(1, 2, 2, 2).bool()}, "Scene 0 of the batch has no valid pixel. Leave it out."),
        ({"focal": torch.ones(1, 1)}, r"focal must have shape \[1, 2\]"),
        ({"world_from_camera": torch.ones(1, 2, 4, 4)}, "frame 0 is not a rigid camera-to-world pose"),
    ],
)
def test_geometry_that_cannot_be_is_refused(change, message):
    good = {
        "world_from_camera": poses_at((0, 0, 0), (1, 0, 0))[None], "depth": torch.ones(1, 2, 2, 2),
        "valid": torch.ones(1, 2, 2, 2).bool(), "focal": torch.ones(1, 2),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        scene_truth(**(good | change))


# The loss


def test_the_truth_costs_nothing(rendered):
    poses, rendering, focal = rendered
    truth = scene_truth(poses, rendering.depth, ~rendering.sky, focal)
    assert float(camera_loss(truth.encoding.expand(4, -1, -1, -1), truth.encoding)) == 0
    assert float(depth_loss(truth.depth, torch.ones_like(truth.depth), truth)) == 0


@pytest.mark.parametrize(
    ("place", "error", "expected"),
    [
        # One number of one camera of two is wrong, in one refinement of two. The mean over the refinements halves it.
        ((1, 0, 1, 2), 0.3, 0.3 / 6 / 2),  # translation: six numbers
        ((0, 0, 1, 2), 0.3, 0.6 * 0.3 / 6 / 2),  # the earlier refinement counts 0.6
        ((1, 0, 1, 4), 0.3, 0.3 / 8 / 2),  # quaternion: eight numbers
        ((1, 0, 1, 8), 0.3, 0.5 * 0.3 / 4 / 2),  # fields of view: four numbers, half the weight
    ],
)
def test_camera_loss_of_one_wrong_number(place, error, expected):
    truth = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0, 1.0, 1.2]).expand(1, 2, 9)
    guess = truth.expand(2, 1, 2, 9).clone()
    guess[place] += error
    assert float(camera_loss(guess, truth)) == pytest.approx(expected, rel=1e-6)


def test_a_quaternion_and_its_negative_are_one_rotation():
    truth = torch.tensor([0.0, 0, 0, 0.6, 0, 0, 0.8, 1, 1]).expand(1, 1, 9)
    guess = truth.clone()
    guess[..., 3:7] *= -1
    assert float(camera_loss(guess[None], truth)) == 0


def test_depth_loss_of_a_constant_error():
    # 0.5 wrong everywhere at confidence 3: 0.5 * 3 - 0.2 ln 3, and 0.5 again; nothing for gradients.
    truth = flat_truth(torch.full((1, 2, 8, 16), 2.0))
    loss = depth_loss(truth.depth + 0.5, torch.full((1, 2, 8, 16), 3.0), truth)
    assert float(loss) == pytest.approx(1.5 - 0.2 * math.log(3) + 0.5, rel=1e-6)


def test_depth_loss_of_an_edge_that_is_not_there():
    # The right half 0.4 too deep: mean error 0.2, twice. One step of 0.4 in each row at every scale: of w / step
    # pixels in a row one, so 0.4 * step / 16, averaged over steps 1, 2, 4 and 8.
    truth = flat_truth(torch.full((1, 1, 8, 16), 2.0))
    guess = truth.depth.clone()
    guess[..., 8:] += 0.4
    loss = depth_loss(guess, torch.ones_like(guess), truth)
    assert float(loss) == pytest.approx(0.2 + 0.2 + 0.4 * (1 + 2 + 4 + 8) / 16 / 4, rel=1e-6)


def test_invalid_pixels_cost_nothing_and_stop_gradients_of_depth():
    valid = torch.ones(1, 1, 8, 16).bool()
    valid[..., 8:] = False
    truth = flat_truth(torch.full((1, 1, 8, 16), 2.0), valid)
    guess = truth.depth.clone()
    guess[..., 8:] = 100.0
    assert float(depth_loss(guess, torch.ones_like(guess), truth)) == 0


def test_to_be_sure_pays_where_the_error_is_small():
    # d/dc (e c - 0.2 ln c) = 0 at c = 0.2 / e: with an error of 0.05 the best confidence is 4.
    truth = flat_truth(torch.full((1, 1, 8, 8), 1.0))
    costs = [float(depth_loss(truth.depth + 0.05, torch.full((1, 1, 8, 8), c), truth)) for c in (3.6, 4.0, 4.4)]
    assert costs[1] < min(costs[0], costs[2])


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"truth must have shape \[1, 2, 9\]; got \[1, 3, 9\]"):
        camera_loss(torch.zeros(4, 1, 2, 9), torch.zeros(1, 3, 9))
    with pytest.raises(ShapeError, match="confidence must have shape"):
        depth_loss(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5), flat_truth(torch.ones(1, 1, 4, 4)))


# What is measured


@pytest.mark.parametrize("angle", [0.0, 1e-3, 30.0, 179.9])
def test_rotation_errors_are_angles_relative_to_the_first_frame(angle):
    common = Rotation.from_euler("yxz", [50, -30, 15], degrees=True)
    axis = Rotation.from_rotvec([math.radians(angle) * x for x in (0.6, 0.0, 0.8)])
    step = Rotation.from_euler("y", 20, degrees=True)

    def encoding(*rotations, scale=1.0):
        rows = torch.zeros(1, len(rotations), 9)
        rows[0, :, 3:7] = scale * torch.from_numpy(Rotation.concatenate(rotations).as_quat())
        return rows

    truth = encoding(Rotation.identity(), step)
    # The whole set turned by `common` and quaternions of another length change nothing.
    guess = encoding(common, axis * step * common, scale=2.5)
    assert rotation_errors(guess, truth).item() == pytest.approx(angle, abs=2e-4)  # quaternions are float32


def test_relative_depth_error_counts_valid_pixels():
    valid = torch.tensor([True, True, False]).reshape(1, 1, 1, 3)
    truth = flat_truth(torch.tensor([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3), valid)
    guess = torch.tensor([1.5, 1.0, 40.0]).reshape(1, 1, 1, 3)
    assert relative_depth_error(guess, truth).tolist() == pytest.approx([0.5])
