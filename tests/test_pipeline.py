"""The stages as one function, on the embedded model."""

import dataclasses

import pytest
import torch

from cinescene_core.checks import CheckpointError, Interrupted
from cinescene_core.config import SamplingConfig
from cinescene_core.context import build_context, shuffled_order
from cinescene_core.pipeline import Models, generate, load_models, load_nano
from cinescene_core.sampler import sample_latents
from cinescene_core.scene import encode_scene
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.video import decode_video
from cinescene_core.views import slice_panorama

PROMPT = "a red robot walks"
SAMPLING = SamplingConfig(steps=2, seed=3)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_nano()


@pytest.fixture(scope="module")
def panorama() -> torch.Tensor:
    """Smooth, different in every direction, and fine enough for the nano's views."""
    longitude = torch.linspace(0, 2 * torch.pi, 1024)
    latitude = torch.linspace(0, torch.pi, 512)[:, None]
    bands = [0.5 + 0.4 * torch.sin(k * longitude) * torch.sin(latitude) for k in (1, 2, 3)]
    return torch.stack(bands, dim=-1)


@pytest.fixture(scope="module")
def trajectory(models):
    return preset_trajectory("pan_right", num_frames=5, fov_degrees=90.0, fps=15.0)


@pytest.fixture(scope="module")
def shot(models, panorama, trajectory):
    return generate(models, panorama, PROMPT, trajectory, sampling=SAMPLING)


def test_a_shot_has_the_size_length_and_speed_asked_for(models, shot):
    assert shot.frames.shape == (5, models.config.height, models.config.width, 3)
    assert shot.frames.dtype == torch.float32
    assert 0 <= shot.frames.min() < shot.frames.max() <= 1
    assert shot.latents.shape == (1, 16, 2, models.config.height // 8, models.config.width // 8)
    assert shot.fps == 15.0


def test_generate_is_its_stages(models, panorama, trajectory, shot):
    with torch.inference_mode():
        config = models.config
        scene = encode_scene(
            slice_panorama(panorama, models.view_config()),
            models.vggt,
            models.vae,
            vggt_size=(config.vggt_width, config.vggt_height),
        )
        latents = sample_latents(
            models.transformer,
            models.text.encode(PROMPT),
            models.text.encode(""),
            trajectory,
            build_context(scene, 2, config),
            SAMPLING,
        )
        frames = decode_video(latents, models.vae)
    assert torch.equal(shot.latents, latents)
    assert torch.equal(shot.frames, frames)


def test_the_same_seed_gives_the_same_shot_and_another_another(models, trajectory, shot):
    again = generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING)
    other = generate(models, shot.scene, PROMPT, trajectory, sampling=dataclasses.replace(SAMPLING, seed=4))
    assert torch.equal(again.frames, shot.frames)
    assert not torch.equal(other.frames, shot.frames)


def test_a_scene_is_not_encoded_twice(models, trajectory, shot):
    again = generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING)
    assert [cost.stage for cost in shot.costs] == ["text", "views", "scene", "sampling", "video"]
    assert [cost.stage for cost in again.costs] == ["text", "sampling", "video"]
    assert all(cost.seconds > 0 for cost in shot.costs)
    assert all(cost.peak_bytes is None or cost.peak_bytes > 2**20 for cost in shot.costs)


def test_views_may_be_given_instead_of_a_panorama(models, panorama, trajectory, shot):
    views = slice_panorama(panorama, models.view_config())
    assert torch.equal(generate(models, views, PROMPT, trajectory, sampling=SAMPLING).frames, shot.frames)


def test_shuffling_is_asked_for_by_seed(models, trajectory, shot):
    shuffled = generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING, shuffle_seed=1)
    assert shuffled_order(20, 1) != tuple(range(20))
    assert not torch.equal(shuffled.latents, shot.latents)


def test_progress_is_told_and_can_stop_the_work(models, trajectory, shot):
    told = []
    generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING, on_progress=lambda *step: told.append(step))
    assert told == [("sampling", 1, 2), ("sampling", 2, 2), ("video", 0, 1), ("video", 1, 1)]
    with pytest.raises(Interrupted):
        generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING, should_stop=lambda: True)


def test_an_empty_prompt_is_refused_before_any_work(models, panorama, trajectory):
    with pytest.raises(ValueError, match=r"The prompt is empty\. Describe what moves"):
        generate(models, panorama, "  ", trajectory)


def test_a_bad_length_is_refused_before_any_work(models, panorama, trajectory):
    path = dataclasses.replace(
        trajectory, world_from_camera=trajectory.world_from_camera[:3], fov_degrees=trajectory.fov_degrees[:3]
    )
    with pytest.raises(ValueError, match=r"num_frames must be 4n \+ 1.*got 3\. Use 1 or 5"):
        generate(models, panorama, PROMPT, path)


def test_a_scene_of_another_encoder_is_refused(models, trajectory, shot):
    foreign = dataclasses.replace(
        shot.scene, provenance=dataclasses.replace(shot.scene.provenance, vggt_id="0123456789abcdef")
    )
    with pytest.raises(CheckpointError, match=r"encoded by VGGT 0123456789abcdef, but the checkpoint was trained with"):
        generate(models, foreign, PROMPT, trajectory)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"model\.safetensors"):
        load_models(tmp_path / "model.safetensors", tmp_path / "vggt.pt", tmp_path)


def test_the_nano_says_that_it_is_untrained(models):
    assert not models.config.scene_trained
