"""Slot order, temporal positions, and the scenes a checkpoint refuses."""

import dataclasses

import pytest
import torch

from cinescene_core.checks import CheckpointError, CineSceneWarning
from cinescene_core.config import LATENT_MEAN, LATENT_STD, CineSceneConfig
from cinescene_core.context import (
    build_context,
    check_request,
    check_shot,
    reorder_scene,
    shuffled_order,
    temporal_positions,
)
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Scene, SceneProvenance, SceneTokens, Views


@pytest.fixture
def scene() -> Scene:
    """Five views whose every value is the number of the view."""
    mark = torch.arange(5.0)
    poses = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    poses[:, 0, 3] = mark
    return Scene(
        views=Views(
            images=mark.view(5, 1, 1, 1).expand(5, 32, 48, 3).clone(), world_from_camera=poses, fov_degrees=90.0
        ),
        tokens=SceneTokens(
            patch=mark.view(5, 1, 1) + torch.arange(6.0).view(1, 6, 1) / 10 + torch.zeros(5, 6, 8),
            camera=100 * mark.view(5, 1, 1).expand(5, 1, 8),
            grid=(2, 3),
        ),
        latents=mark.view(5, 1, 1, 1).expand(5, 16, 4, 6).clone(),
        provenance=SceneProvenance(vggt_id="abc", vggt_size=(518, 294)),
    )


def test_shuffling_keeps_the_first_view_and_moves_the_others():
    orders = {shuffled_order(20, seed) for seed in range(50)}
    assert len(orders) == 50
    assert all(order[0] == 0 and sorted(order) == list(range(20)) for order in orders)
    assert shuffled_order(20, 7) == shuffled_order(20, 7)
    assert shuffled_order(1, 0) == (0,)


def test_every_view_visits_every_slot():
    visits = torch.zeros(5, 5)
    for seed in range(400):
        for slot, view in enumerate(shuffled_order(5, seed)):
            visits[slot, view] += 1
    # 100 expected per cell of the 4 x 4 shuffled part; 50 away is more than five standard deviations.
    assert ((visits[1:, 1:] - 100).abs() < 50).all()


def test_reordering_moves_images_features_latents_and_poses_together(scene):
    order = (0, 3, 1, 4, 2)
    moved = reorder_scene(scene, order)
    mark = torch.tensor(order, dtype=torch.float32)
    assert torch.equal(moved.views.images[:, 0, 0, 0], mark)
    assert torch.equal(moved.views.world_from_camera[:, 0, 3], mark.double())
    assert torch.equal(moved.tokens.patch[:, 0, 0], mark)
    assert torch.equal(moved.tokens.camera[:, 0, 0], 100 * mark)
    assert torch.equal(moved.latents[:, 0, 0, 0], mark)


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4), (0, 1, 2, 3), (0, 1, 1, 3, 4)])
def test_orders_that_are_none_are_refused(scene, order):
    with pytest.raises(ValueError, match="name each of 5 views once and start with view 0"):
        reorder_scene(scene, order)


def test_sequential_positions_are_the_papers():
    images, features = temporal_positions("sequential", 20, 20)
    assert images.tolist() == list(range(20, 40))
    assert features.tolist() == list(range(40, 60))


def test_fewer_views_leave_no_gap():
    images, features = temporal_positions("sequential", 5, 8)
    assert images.tolist() == list(range(5, 13))
    assert features.tolist() == list(range(13, 21))


def test_other_position_schemes():
    images, features = temporal_positions("paired", 20, 3)
    assert images.tolist() == features.tolist() == [20, 21, 22]
    images, features = temporal_positions("single", 20, 3)
    assert images.tolist() == [20, 20, 20]
    assert features.tolist() == [21, 21, 21]


def test_the_context_is_normalised_fused_and_laid_out_as_a_grid(scene):
    context = build_context(scene, 20, CineSceneConfig(), order=(0, 2, 1, 4, 3))
    assert context.order == (0, 2, 1, 4, 3)
    for channel in (0, 15):
        expected = (2.0 - LATENT_MEAN[channel]) / LATENT_STD[channel]
        assert context.latents[1, channel, 0, 0].item() == pytest.approx(expected, rel=1e-6)
    # Slot 1 holds view 2: camera feature 200, patch (row 1, column 0) is the fourth: 2 + 0.3.
    assert context.features.shape == (5, 8, 2, 3)
    assert context.features[1, 0, 1, 0].item() == pytest.approx(202.3)


def test_a_scene_of_another_encoder_is_refused(scene):
    with pytest.raises(
        CheckpointError, match=r"encoded by VGGT abc, but the checkpoint was trained with def.*Encode the"
    ):
        build_context(scene, 20, CineSceneConfig(vggt_id="def"))
    build_context(scene, 20, CineSceneConfig(vggt_id="abc"))


def test_a_scene_of_another_size_is_refused(scene):
    other = dataclasses.replace(scene, provenance=SceneProvenance(vggt_id="abc", vggt_size=(504, 280)))
    with pytest.raises(CheckpointError, match="at 504 x 280 pixels, but the checkpoint was trained at 518 x 294"):
        build_context(other, 20, CineSceneConfig())


# A shot as a whole

AS_TRAINED = CineSceneConfig(num_views=5, width=48, height=32, num_frames=9)
PATH = preset_trajectory("pan_right", num_frames=9)


def zooming(*degrees):
    """The path with another lens per frame."""
    return dataclasses.replace(PATH, fov_degrees=torch.tensor(degrees, dtype=torch.float64))


def test_a_shot_as_trained_passes_in_silence(scene):
    check_shot(PATH, scene, AS_TRAINED)  # a warning would be an error here
    check_shot(zooming(*torch.full((9,), 90.0) + 0.005 * torch.rand(9)), scene, AS_TRAINED)
    photos = dataclasses.replace(scene, views=Views(scene.views.images))
    check_shot(PATH, photos, AS_TRAINED)  # their lens is not known


def test_a_zoom_is_refused_with_its_lenses(scene):
    path = zooming(90, 80, 70, 60, 50, 40, 50, 60, 60)
    with pytest.raises(ValueError, match=r"changes, from 90 to 60 degrees \(between 40 and 90\); .*animatic can show"):
        check_shot(path, scene, AS_TRAINED)


def test_a_length_that_is_none_is_refused(scene):
    path = dataclasses.replace(PATH, world_from_camera=PATH.world_from_camera[:8], fov_degrees=PATH.fov_degrees[:8])
    with pytest.raises(ValueError, match=r"num_frames must be 4n \+ 1.*got 8\. Use 5 or 9"):
        check_shot(path, scene, AS_TRAINED)


def test_a_scene_for_another_checkpoint_is_refused_with_the_shot(scene):
    with pytest.raises(CheckpointError, match="encoded by VGGT abc, but the checkpoint was trained with def"):
        check_shot(PATH, scene, dataclasses.replace(AS_TRAINED, vggt_id="def"))


def test_a_path_with_another_lens_than_the_views_warns(scene):
    narrow = preset_trajectory("pan_right", num_frames=9, fov_degrees=60)
    sentence = (
        r"path has a lens of 60 degrees, the views one of 90\..* Give the path 90 degrees, or cut the views at 60"
    )
    with pytest.warns(CineSceneWarning, match=sentence) as told:
        check_shot(narrow, scene, dataclasses.replace(AS_TRAINED, fov_degrees=60.0))
    assert len(told) == 1


def test_one_warning_lists_all_that_differs_from_training(scene):
    trained = CineSceneConfig(fov_degrees=75.0)
    with pytest.warns(CineSceneWarning) as told:
        check_shot(PATH, scene, trained)
    assert [str(warning.message) for warning in told] == [
        "This shot is not as the checkpoint was trained: 48 x 32 pixels (trained: 672 x 384 pixels); "
        "9 frames (trained: 77 frames); 5 views (trained: 20 views); "
        "a lens of 90 degrees (trained: a lens of 75 degrees). It may look worse for that."
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_views": 6}, "6 views (trained: 5 views)"),
        ({"size": (32, 48)}, "32 x 48 pixels (trained: 48 x 32 pixels)"),
    ],
)
def test_a_place_that_is_not_encoded_yet_is_checked_alike(change, words):
    asked = {"num_views": 5, "size": (48, 32), "fov_degrees": 90.0}
    check_request(PATH, AS_TRAINED, **asked)
    with pytest.warns(CineSceneWarning) as told:
        check_request(PATH, AS_TRAINED, **(asked | change))
    assert (
        str(told[0].message) == f"This shot is not as the checkpoint was trained: {words}. It may look worse for that."
    )
