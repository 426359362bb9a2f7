"""RotErr, TransErr, CamMC and the alignment of paths: hand-computed cases, the golden file, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import PoseError, ShapeError
from cinescene_core.metrics import (
    CameraErrors,
    alignment_scale,
    camera_errors,
    compared_frames,
    rotation_errors,
    umeyama,
)
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Trajectory

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text(encoding="utf-8"))
ROUNDED = 2e-6  # the golden file keeps six decimals
IDENTITY = torch.eye(3, dtype=torch.float64)


def line(num_frames, end):
    """Poses that travel straight from the origin to `end` without turning."""
    progress = torch.arange(num_frames, dtype=torch.float64)[:, None] / (num_frames - 1)
    return pose_from(IDENTITY, progress * torch.tensor(end, dtype=torch.float64))


def move(name, amount):
    return preset_trajectory(name, amount=amount, subject_distance=3.0).world_from_camera


def other_world(poses):
    """The same path in a world of other axes, origin and unit."""
    turn = rotation_from_angles(40.0, -20.0)
    centres = 0.37 * poses[:, :3, 3] @ turn.T + torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    return pose_from(turn @ poses[:, :3, :3], centres)


def drifting_pan():
    poses = move("pan_right", 75).clone()
    poses[:, 0, 3] = 1e-4 * torch.arange(77) / 76
    return poses


def yawed_after_the_first():
    angles = torch.tensor([0, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64).rad2deg()
    return pose_from(rotation_from_angles(angles), torch.zeros(3))


PATHS = {  # truth and estimate of the golden cases, in their order
    "static, yawed": (line(5, (0, 0, 0)), yawed_after_the_first()),
    "another scale": (line(5, (0, 0, 2)), line(5, (0, 0, 14))),
    "across": (line(5, (0, 0, 2)), line(5, (2, 0, 0))),
    "a shorter arc": (move("arc_right", 75), move("arc_right", 70)),
    "another world": (move("arc_right", 75), other_world(move("arc_right", 75))),
    "mirrored": (move("arc_right", 75), move("arc_left", 75)),
    "no motion": (move("arc_right", 75), line(77, (0, 0, 0))),
    "a pan that drifts": (move("pan_right", 75), drifting_pan()),
    "a shorter pan": (move("pan_right", 75), move("pan_right", 60)),
    "another move": (move("dolly_out", 3.75), move("truck_right", 6.0)),
}


def compare(truth, estimate, **options):
    truth = Trajectory(truth, torch.tensor(90.0), subject_distance=3.0)
    return camera_errors(truth, estimate, estimator="by hand", **({"stride": 1} | options))


@pytest.mark.parametrize(("case", "paths"), list(zip(GOLDEN["camera_metrics"]["cases"], PATHS, strict=True)))
def test_golden_errors_as_published(case, paths):
    errors = compare(*PATHS[paths], published=True)
    assert errors.num_frames == case["N"]
    assert errors.rot_err == pytest.approx(case["RotErr_sum_rad"], abs=ROUNDED)
    assert errors.trans_err == pytest.approx(case["TransErr_sum"], abs=ROUNDED)
    assert errors.cam_mc == pytest.approx(case["CamMC_sum"], abs=ROUNDED)
    assert errors.rot_err_mean_degrees == pytest.approx(case["RotErr_mean_deg"], abs=ROUNDED)


def test_a_turn_about_a_slanted_axis_is_its_angle():
    # Rodrigues' formula: independent of how the errors are computed.
    axis = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    x, y, z = axis / axis.norm()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angles = torch.tensor([0.0, 0.3, 1.7, 3.0], dtype=torch.float64)
    turns = torch.stack([IDENTITY + a.sin() * cross + (1 - a.cos()) * cross @ cross for a in angles])
    start = rotation_from_angles(33.0, 12.0, -50.0)
    got = rotation_errors(pose_from(start.expand(4, 3, 3), torch.zeros(3)), pose_from(start @ turns, torch.zeros(3)))
    torch.testing.assert_close(got, angles, atol=1e-7, rtol=0)  # arccos near 1 keeps half the digits


def test_cam_mc_is_made_of_the_two_others_frame_by_frame():
    # |R_a - R_b|_F^2 = 8 sin^2(angle / 2), and the columns of [R | t] add up.
    generator = torch.Generator().manual_seed(5)
    angles = torch.rand(2, 9, 3, generator=generator, dtype=torch.float64) * 60
    centres = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    angles[:, 0], centres[:, 0] = 0, 0
    paths = [
        pose_from(rotation_from_angles(*turn.unbind(-1)), centre) for turn, centre in zip(angles, centres, strict=True)
    ]
    sides = [path[:, :3, 3] / path[:, :3, 3].norm(dim=-1).max() for path in paths]
    angle, step = rotation_errors(*paths), (sides[0] - sides[1]).norm(dim=-1)
    expected = (8 * (angle / 2).sin() ** 2 + step**2).sqrt().sum()
    assert compare(*paths).cam_mc == pytest.approx(float(expected), abs=1e-7)  # CamI2V's 1e-9 in the divisor


def test_every_fourth_frame_of_77_is_20():
    truth = Trajectory(move("arc_right", 75), torch.tensor(90.0), subject_distance=3.0)
    estimate = move("arc_right", 70)[::4]
    errors = camera_errors(truth, estimate, estimator="VGGT")
    # Frame 4k has come k / 19 of the way: 5 degrees at the end, 2.5 in the mean.
    assert errors.rot_err == pytest.approx(sum(math.radians(5 * k / 19) for k in range(20)), abs=ROUNDED)
    assert errors.rot_err_mean_degrees == pytest.approx(2.5, abs=1e-5)
    assert errors.protocol == "N = 20 frames, stride 4, poses by VGGT"
    assert [compared_frames(n) for n in (1, 4, 5, 77, 81)] == [1, 1, 2, 20, 21]


@pytest.mark.parametrize("paths", ["a pan that drifts", "a shorter pan", "static, yawed"])
def test_a_path_that_does_not_travel_has_no_translation_error(paths):
    errors = compare(*PATHS[paths])
    assert (errors.trans_err, errors.trans_err_least_squares, errors.cam_mc) == (None, None, None)
    assert errors.reason == "static ground truth"
    assert not errors.failed
    assert errors.rot_err == compare(*PATHS[paths], published=True).rot_err


@pytest.mark.parametrize(("metres", "counts"), [(0.0029, False), (0.0031, True)])
def test_travelling_begins_at_a_thousandth_of_the_subject_distance(metres, counts):
    errors = compare(line(5, (metres, 0, 0)), line(5, (1, 0, 0)))
    assert (errors.trans_err is not None) is counts
    assert errors.reason == ("" if counts else "static ground truth")


def test_the_least_squares_error_is_the_golden_one_in_units_of_the_path():
    golden = GOLDEN["scale_alignment"]
    paths = [pose_from(IDENTITY, torch.tensor(golden[name], dtype=torch.float64)) for name in ("gt", "pred")]
    errors = compare(*paths)
    assert errors.trans_err_least_squares == pytest.approx(golden["lsq_TransErr_sum"] / 2, abs=ROUNDED)  # 2 m long
    assert errors.trans_err_least_squares < errors.trans_err


def test_no_scale_turns_a_path_around():
    # The best scale of an opposite path is 0: what remains is the true path, 0 + 0.25 + 0.5 + 0.75 + 1 of its length.
    errors = compare(line(5, (0, 0, 2)), line(5, (0, 0, -3)))
    assert errors.trans_err_least_squares == pytest.approx(2.5)
    assert errors.trans_err == pytest.approx(5.0, abs=1e-7)


def test_a_failure_is_a_record_too():
    errors = CameraErrors.failure(preset_trajectory("arc_left"), estimator="pycolmap", reason="no reconstruction")
    assert errors.failed
    assert (errors.num_frames, errors.stride, errors.reason) == (20, 4, "no reconstruction")
    assert [errors.rot_err, errors.rot_err_mean_degrees, errors.trans_err, errors.cam_mc] == [None] * 4


def test_bad_paths_are_refused():
    truth = preset_trajectory("arc_left")
    with pytest.raises(
        ShapeError,
        match=r"of 77 frames at stride 4 is compared in 20 frames; got 77 estimated poses\. Estimate frames 0, 4, 8,",
    ):
        camera_errors(truth, truth.world_from_camera, estimator="x")
    with pytest.raises(ShapeError, match=r"estimate must have shape \[n, 4, 4\]; got \[20, 3, 4\]"):
        camera_errors(truth, truth.latent_poses(), estimator="x")
    flipped = truth.world_from_camera[::4].clone()
    flipped[7, :3, 0] *= -1
    with pytest.raises(
        PoseError, match=r"estimate: frame 7 is not a rigid camera-to-world pose: the determinant is -1"
    ):
        camera_errors(truth, flipped, estimator="x")
    with pytest.raises(ValueError, match=r"estimate holds 320 NaN or infinite values of 320"):
        camera_errors(truth, torch.full((20, 4, 4), math.nan), estimator="x")
    with pytest.raises(ValueError, match=r"a stride of at least 1; got 77 frames, stride 0\."):
        compared_frames(77, 0)


# ---- scale and similarity -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "key"),
    [("first_pair", "first_pair_scale"), ("least_squares", "lsq_scale"), ("max_norm", "max_norm_ratio")],
)
def test_golden_scales(method, key):
    golden = GOLDEN["scale_alignment"]
    truth, estimate = torch.tensor(golden["gt"]), torch.tensor(golden["pred"])
    assert alignment_scale(truth, estimate, method) == pytest.approx(golden[key], abs=ROUNDED)


def test_the_golden_error_of_camera_ctrl():
    golden = GOLDEN["scale_alignment"]
    truth, estimate = (torch.tensor(golden[name], dtype=torch.float64) for name in ("gt", "pred"))
    rest = truth - alignment_scale(truth, estimate, "first_pair") * estimate
    assert float(rest.square().sum()) == pytest.approx(golden["cameractrl_TransErr_squared_sum"], abs=ROUNDED)


def test_the_least_squares_scale_is_the_least():
    golden = GOLDEN["scale_alignment"]
    truth, estimate = (torch.tensor(golden[name], dtype=torch.float64) for name in ("gt", "pred"))
    best = alignment_scale(truth, estimate, "least_squares")
    rest = [float((truth - scale * estimate).square().sum()) for scale in (0.999 * best, best, 1.001 * best)]
    assert rest[1] < min(rest[0], rest[2])


@pytest.mark.parametrize("method", ["max_norm", "least_squares", "first_pair"])
def test_an_estimate_that_stands_still_has_no_scale(method):
    assert alignment_scale(torch.ones(4, 3), torch.zeros(4, 3), method) == 0


def test_golden_similarities():
    golden = GOLDEN["umeyama"]
    source = torch.tensor(golden["x"], dtype=torch.float64)
    for target, wanted in ((golden["y"], golden | {"rmse": 0.0}), (golden["noisy_y"], golden["noisy"])):
        got = umeyama(source, torch.tensor(target, dtype=torch.float64))
        assert got.scale == pytest.approx(wanted["s"], abs=ROUNDED)
        assert got.rmse == pytest.approx(wanted["rmse"], abs=ROUNDED)
        torch.testing.assert_close(got.rotation, torch.tensor(wanted["R"], dtype=torch.float64), atol=ROUNDED, rtol=0)
        torch.testing.assert_close(
            got.translation, torch.tensor(wanted["t"], dtype=torch.float64), atol=ROUNDED, rtol=0
        )


def test_a_mirrored_target_gets_a_rotation_and_a_remainder():
    source = torch.tensor(GOLDEN["umeyama"]["x"], dtype=torch.float64)
    got = umeyama(source, source * torch.tensor([-1.0, 1.0, 1.0]))
    assert torch.linalg.det(got.rotation) == pytest.approx(1)
    assert got.rmse > 0.1


def test_the_centres_of_an_arc_can_be_aligned_and_those_of_a_dolly_cannot():
    arc = move("arc_right", 30)[:, :3, 3]
    got = umeyama(other_world(move("arc_right", 30))[:, :3, 3], arc)
    assert got.scale == pytest.approx(1 / 0.37)
    assert got.rmse == pytest.approx(0, abs=1e-9)
    for path in (move("dolly_in", 2), move("pan_left", 75)):
        with pytest.raises(ValueError, match=r"target points lie on a line or in one place, so no rotation"):
            umeyama(arc, path[:, :3, 3])


def test_bad_points_are_refused():
    with pytest.raises(ValueError, match=r"The method of alignment must be one of max_norm, .* got 'lsq'"):
        alignment_scale(torch.ones(4, 3), torch.ones(4, 3), "lsq")
    with pytest.raises(ShapeError, match=r"estimate must have shape \[4, 3\]; got \[5, 3\]"):
        alignment_scale(torch.ones(4, 3), torch.ones(5, 3), "max_norm")
    with pytest.raises(ShapeError, match=r"source and target need at least 3 points; got 2\. Give more of the path"):
        umeyama(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"target holds 1 NaN or infinite values of 12"):
        umeyama(torch.rand(4, 3), torch.tensor([[0, 0, math.inf], *[[1.0, 2, 3]] * 3]))
