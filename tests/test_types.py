"""The values that travel refuse what does not fit together."""

import dataclasses
import math

import pytest
import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import PoseError, ShapeError
from cinescene_core.types import Context, Scene, SceneProvenance, SceneTokens, Trajectory, Views, content_digest


def poses(count):
    return pose_from(rotation_from_angles(torch.arange(count) * 18.0), torch.zeros(3))


# ---- trajectory -----------------------------------------------------------------------------


def test_one_lens_serves_every_frame_and_poses_become_float64():
    path = Trajectory(poses(5).float(), torch.tensor(60))
    assert len(path) == 5
    assert path.world_from_camera.dtype == path.fov_degrees.dtype == torch.float64
    assert torch.equal(path.fov_degrees, torch.full((5,), 60.0, dtype=torch.float64))
    assert (path.fps, path.subject_distance, path.provenance) == (15, 4, "")


def test_every_frame_may_have_its_own_lens():
    lenses = torch.linspace(90, 40, 5, dtype=torch.float64)
    assert torch.equal(Trajectory(poses(5), lenses).fov_degrees, lenses)


def test_relative_poses_and_travel_of_a_path_anywhere_in_the_world():
    heading = rotation_from_angles(90)  # the camera looks along world x
    centres = torch.tensor([[5.0, 1, 1], [8, 1, 1], [5, -3, 1]], dtype=torch.float64)
    path = Trajectory(pose_from(heading, centres), torch.tensor(90.0))
    expected = torch.tensor([[0.0, 0, 0], [0, 0, 3], [0, -4, 0]], dtype=torch.float64)  # 3 m ahead, then 4 m up
    torch.testing.assert_close(path.relative()[:, :, 3], expected, rtol=0, atol=1e-14)
    assert path.relative().shape == (3, 3, 4)
    assert path.travel() == pytest.approx(4)


def test_latent_poses_take_every_fourth_frame():
    path = Trajectory(poses(9), torch.tensor(90.0))
    assert torch.equal(path.latent_poses(), path.relative()[[0, 4, 8]])


MIRROR = torch.diag(torch.tensor([1.0, -1, 1, 1], dtype=torch.float64))


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"world_from_camera": torch.zeros(5, 3, 4)}, ShapeError, r"must have shape \[f, 4, 4\]; got \[5, 3, 4\]"),
        ({"world_from_camera": torch.zeros(0, 4, 4)}, ShapeError, r"holds no frame; give at least one pose"),
        (
            {"world_from_camera": poses(5) @ MIRROR},
            PoseError,
            r"Trajectory\.world_from_camera: frame 0 .*determinant is -1",
        ),
        ({"world_from_camera": 1.1 * poses(5)}, PoseError, r"frame 0"),
        ({"world_from_camera": poses(5) * math.nan}, ValueError, r"holds 80 NaN"),
        ({"fov_degrees": torch.ones(4)}, ShapeError, r"Trajectory\.fov_degrees must have shape \[5\]; got \[4\]"),
        ({"fov_degrees": torch.tensor(0.0)}, ValueError, r"fov_degrees must lie between 0 and 180; got 0 to 0"),
        ({"fov_degrees": torch.tensor([90.0, 90, 200, 90, 90])}, ValueError, r"0 and 180; got 90 to 200"),
        ({"fov_degrees": torch.tensor(math.nan)}, ValueError, r"fov_degrees holds 5 NaN"),
        ({"fps": 0}, ValueError, r"Trajectory\.fps must be a positive number; got 0"),
        ({"subject_distance": -1}, ValueError, r"Trajectory\.subject_distance must be a positive number; got -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_path_that_cannot_be_filmed_is_refused(fields, error, sentence):
    good = {"world_from_camera": poses(5), "fov_degrees": torch.tensor(90.0)}
    Trajectory(**good)
    with pytest.raises(error, match=sentence):
        Trajectory(**{**good, **fields})


def test_the_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Trajectory(poses(1), torch.tensor(90.0)).fps = 24


# ---- views and scenes -----------------------------------------------------------------------


def views(count=2, width=32, height=16):
    return Views(torch.zeros(count, height, width, 3), poses(count), 90.0)


def test_views_know_their_number_and_size():
    assert len(views(3)) == 3
    assert views().size == (32, 16)
    photos = Views(torch.zeros(1, 8, 8, 3))
    assert photos.world_from_camera is None
    assert photos.fov_degrees is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.zeros(2, 3, 8, 8),), r"Views\.images must have shape \[v, h, w, 3\]; got \[2, 3, 8, 8\]"),
        ((torch.zeros(0, 8, 8, 3),), r"A scene has 1 to 40 views; got 0\. Use 20, as the paper does"),
        ((torch.zeros(41, 1, 1, 3),), r"A scene has 1 to 40 views; got 41"),
        ((torch.zeros(1, 8, 8, 3, dtype=torch.uint8),), r"Views\.images must be float32 in 0\.\.1; got torch\.uint8"),
        ((torch.zeros(2, 8, 8, 3), poses(3)), r"Views.world_from_camera must have shape \[2, 4, 4\]; got \[3, 4, 4\]"),
        ((torch.zeros(1, 8, 8, 3), poses(1) @ MIRROR), r"Views\.world_from_camera: frame 0 .*determinant"),
        ((torch.zeros(1, 8, 8, 3), None, 180.0), r"Views\.fov_degrees must lie between 0 and 180; got 180"),
    ],
)
def test_views_that_do_not_fit_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Views(*arguments)


def tokens(count=2, patches=6, grid=(2, 3), channels=4):
    return SceneTokens(torch.randn(count, patches, channels), torch.randn(count, 1, channels), grid)


def test_fused_features_add_the_camera_to_every_patch():
    patch = torch.arange(24.0).reshape(2, 3, 4)
    camera = torch.tensor([[[100.0] * 4], [[200.0] * 4]])
    fused = SceneTokens(patch, camera, (1, 3)).fused()
    assert torch.equal(fused[0], patch[0] + 100)
    assert torch.equal(fused[1], patch[1] + 200)


@pytest.mark.parametrize(
    ("patch", "camera", "grid", "sentence"),
    [
        ((2, 6, 4), (2, 1, 5), (2, 3), r"SceneTokens\.camera must have shape \[\.\.\., 2, 1, 4\]; got \[2, 1, 5\]"),
        ((2, 6, 4), (3, 1, 4), (2, 3), r"SceneTokens\.camera must have shape"),
        ((6, 4), (2, 1, 4), (2, 3), r"SceneTokens\.patch must have shape \[\.\.\., v, k, c\]; got \[6, 4\]"),
        ((2, 6, 4), (2, 1, 4), (2, 4), r"SceneTokens\.grid \(2, 4\) does not hold 6 patches"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(patch, camera, grid, sentence):
    with pytest.raises(ValueError, match=sentence):
        SceneTokens(torch.zeros(patch), torch.zeros(camera), grid)


PROVENANCE = SceneProvenance(vggt_id="id", vggt_size=(56, 28))


def test_a_scene_holds_one_latent_and_one_row_of_tokens_per_view():
    Scene(views(), tokens(), torch.zeros(2, 16, 2, 4), PROVENANCE)
    with pytest.raises(ShapeError, match=r"Scene\.latents must have shape \[2, 16, 2, 4\]; got \[1, 16, 2, 4\]"):
        Scene(views(), tokens(), torch.zeros(1, 16, 2, 4), PROVENANCE)
    with pytest.raises(ShapeError, match=r"Scene\.latents must have shape \[2, 16, 2, 4\]; got \[2, 16, 4, 2\]"):
        Scene(views(), tokens(), torch.zeros(2, 16, 4, 2), PROVENANCE)
    with pytest.raises(ShapeError, match=r"Scene\.tokens\.patch must have shape \[2, k, c\]; got \[3, 6, 4\]"):
        Scene(views(), tokens(3), torch.zeros(2, 16, 2, 4), PROVENANCE)


def context(**changes):
    fields = {
        "order": (0, 2, 1),
        "latents": torch.zeros(3, 16, 2, 4),
        "features": torch.zeros(3, 8, 2, 3),
        "view_positions": torch.arange(3),
        "feature_positions": torch.arange(3),
    }
    return Context(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"order": (0, 1)}, r"Context\.order must name each of 3 views once; got \(0, 1\)"),
        ({"order": (0, 1, 1)}, r"must name each of 3 views once"),
        ({"latents": torch.zeros(3, 4, 2, 4)}, r"Context\.latents must have shape \[v, 16, h, w\]"),
        ({"features": torch.zeros(2, 8, 2, 3)}, r"Context\.features must have shape \[3, c, rows, columns\]"),
        ({"view_positions": torch.arange(4)}, r"Context\.view_positions must have shape \[3\]; got \[4\]"),
        ({"feature_positions": torch.arange(2)}, r"Context\.feature_positions must have shape \[3\]; got \[2\]"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(changes, sentence):
    assert context().order == (0, 2, 1)
    with pytest.raises(ValueError, match=sentence):
        context(**changes)


# ---- fingerprints ---------------------------------------------------------------------------


def test_the_digest_knows_values_shapes_types_and_order():
    one = torch.arange(6, dtype=torch.float32)
    digests = [
        content_digest(one),
        content_digest(one + 1e-6),
        content_digest(one.reshape(2, 3)),
        content_digest(one.reshape(3, 2)),
        content_digest(one.view(torch.int32)),  # the same bytes
        content_digest(one, one),
        content_digest(one[:3], one[3:]),
        content_digest(one[3:], one[:3]),
        content_digest(),
        content_digest(torch.zeros(0)),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)


def test_the_digest_does_not_know_memory_layout_or_gradients():
    grid = torch.arange(6.0).reshape(2, 3)
    assert content_digest(grid.T.contiguous().T) == content_digest(grid)
    assert content_digest(torch.ones(1).expand(4)) == content_digest(torch.ones(4))
    assert content_digest(torch.ones(4, requires_grad=True)) == content_digest(torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.bool, torch.int64])
def test_the_digest_takes_every_kind_of_weight(dtype):
    assert content_digest(torch.ones(4).to(dtype)) != content_digest(torch.zeros(4).to(dtype))
    assert len(content_digest(torch.ones(()).to(dtype))) == 64
