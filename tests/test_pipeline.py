"""The stages as one function, on the embedded model, and on small files of the full-size layouts."""

import dataclasses
import functools

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_vggt, write_full_size

import cinescene_core.pipeline
from cinescene_core.checks import CheckpointError, CineSceneWarning, Interrupted, ShapeError
from cinescene_core.config import SamplingConfig, SpeedConfig
from cinescene_core.context import build_context, shuffled_order
from cinescene_core.loading import Models, load_models, load_nano
from cinescene_core.pipeline import cache_scene, encode_place, generate
from cinescene_core.sampler import sample_latents
from cinescene_core.scene import encode_scene
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.video import decode_video
from cinescene_core.views import slice_panorama

PROMPT = "a red robot walks"
SAMPLING = SamplingConfig(steps=2, seed=3)
# The embedded model is made for 17 frames; five are enough here, and a test of its own looks at the note.
pytestmark = pytest.mark.filterwarnings("ignore:This shot is not as the checkpoint was trained. 5 frames")


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
    with torch.no_grad():
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


@pytest.mark.parametrize("mode", ["cached", "per_view"])
def test_one_cache_serves_every_prompt_seed_and_path(models, trajectory, shot, mode):
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention=mode))
    first = generate(cached, shot.scene, PROMPT, trajectory, sampling=SAMPLING)
    assert [cost.stage for cost in first.costs] == ["text", "cache", "sampling", "video"]
    other = dataclasses.replace(SAMPLING, seed=9)
    path = preset_trajectory("dolly_in", num_frames=5, fov_degrees=90.0, fps=15.0)
    again = generate(cached, shot.scene, "a blue robot", path, sampling=other, cache=first.cache)
    assert [cost.stage for cost in again.costs] == ["text", "sampling", "video"]
    fresh = generate(cached, shot.scene, "a blue robot", path, sampling=other)
    assert torch.equal(again.latents, fresh.latents)
    made = cache_scene(cached, shot.scene, 5)
    assert made.identity == first.cache.identity
    with pytest.raises(CheckpointError, match="made of its views in the order 0 1 2"):
        generate(cached, shot.scene, PROMPT, path, sampling=SAMPLING, shuffle_seed=1, cache=made)


@pytest.mark.parametrize("setting", [{"cache_type": "float8"}, {"cache_place": "host"}])
def test_a_scene_cache_is_kept_as_it_is_asked_for(models, trajectory, shot, setting):
    speed = SpeedConfig(**setting)
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="cached"))
    kept = generate(cached, shot.scene, PROMPT, trajectory, sampling=SAMPLING, speed=speed).cache
    assert kept is not None
    assert (kept.identity.stored, kept.place) == (setting.get("cache_type", "float32"), speed.cache_place)
    with pytest.raises(ValueError, match=r"context_attention 'joint', which has none\. Leave them out"):
        generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING, speed=speed)


def test_a_cache_that_is_kept_in_another_way_than_asked_for_is_refused(models, trajectory, shot):
    cached = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="cached"))
    film = functools.partial(generate, cached, shot.scene, PROMPT, trajectory, sampling=SAMPLING)
    cache = cache_scene(cached, shot.scene, 5)
    for speed in (SpeedConfig(cache_type="float8"), SpeedConfig(cache_place="host")):
        with pytest.raises(ValueError, match=r"given is float32 on the device, but SpeedConfig asks for .* Leave the"):
            film(cache=cache, speed=speed)
    with pytest.raises(TypeError, match=r"must be a SceneCache; got str\. Open a file with load_scene_cache"):
        film(cache="place.safetensors")


def test_a_shots_attention_is_its_own(models, trajectory, shot, monkeypatch):
    """The transformer computes by it for the time of the shot, also of one that fails."""
    transformer, seen = models.transformer, []
    own = transformer.attention

    def attention(q, k, v):
        seen.append(q.shape)
        raise RuntimeError("a kernel that fails")

    monkeypatch.setattr("cinescene_core.pipeline.attention_backend", {"sdpa": attention}.__getitem__)
    with pytest.raises(RuntimeError, match="a kernel that fails"):
        generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING)
    assert len(seen) == 1
    assert transformer.attention is own


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
    text = [("text", done, 2) for done in range(3)]
    assert told == [*text, ("sampling", 1, 2), ("sampling", 2, 2), ("video", 0, 1), ("video", 1, 1)]
    with pytest.raises(Interrupted):
        generate(models, shot.scene, PROMPT, trajectory, sampling=SAMPLING, should_stop=lambda: True)


def test_encode_place_is_the_scene_of_generate(models, panorama, shot):
    scene = encode_place(models, panorama)
    assert torch.equal(scene.tokens.patch, shot.scene.tokens.patch)
    assert torch.equal(scene.latents, shot.scene.latents)


def test_networks_and_results_can_be_trained_on_afterwards(models, shot):
    # Inside inference mode, moving a network would have made its parameters inference tensors for ever.
    for network in (models.transformer, models.vae, models.vggt, models.text):
        assert not any(parameter.is_inference() for parameter in network.parameters())
    scene = shot.scene
    for tensor in (shot.frames, shot.latents, scene.latents, scene.tokens.patch, scene.tokens.camera):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    transformer = models.transformer
    weight = transformer.patch_embedding.weight
    weight.requires_grad_(True)
    text = torch.randn(1, 4, transformer.config.text_width)
    transformer(shot.latents, torch.tensor([500.0]), text).square().mean().backward()
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().max() > 0
    weight.grad = None


# What is refused, and when


@pytest.fixture
def no_stages(monkeypatch):
    """Every stage of `generate` fails the test: what is refused is refused before any work."""

    def work(*_, **__):
        pytest.fail("a stage was run")

    for name in ("_encode_text", "slice_panorama", "encode_scene", "sample_latents", "decode_video"):
        monkeypatch.setattr(cinescene_core.pipeline, name, work)


def cut_to_three_frames(path):
    return dataclasses.replace(path, world_from_camera=path.world_from_camera[:3], fov_degrees=path.fov_degrees[:3])


def zoom(path):
    return dataclasses.replace(path, fov_degrees=torch.linspace(90, 60, len(path), dtype=torch.float64))


def encoded_by_another(scene):
    return dataclasses.replace(scene, provenance=dataclasses.replace(scene.provenance, vggt_id="0123456789abcdef"))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"prompt": "  "}, ValueError, r"The prompt is empty\. Describe what moves"),
        ({"trajectory": cut_to_three_frames}, ValueError, r"num_frames must be 4n \+ 1.*got 3\. Use 1 or 5"),
        ({"trajectory": zoom}, ValueError, r"The lens of this path changes, from 90 to 60 degrees"),
        ({"place": encoded_by_another}, CheckpointError, r"encoded by VGGT 0123456789abcdef, but the checkpoint was"),
        ({"place": lambda scene: torch.zeros(100, 150, 3)}, ShapeError, r"twice as wide as high; got 150 x 100"),
        ({"place": lambda scene: torch.full((64, 128, 3), torch.nan)}, ValueError, r"panorama holds 24576 NaN"),
        ({"device": "cuda:77"}, ValueError, r"There is no device 'cuda:77' here; torch can use cpu"),
    ],
)
def test_a_doomed_shot_is_refused_before_any_work(models, shot, trajectory, no_stages, change, error, sentence):
    given = {"place": shot.scene, "prompt": PROMPT, "trajectory": trajectory}
    given |= {name: value(given[name]) if callable(value) else value for name, value in change.items()}
    with pytest.raises(error, match=sentence):
        generate(models, **given)


@pytest.mark.parametrize("kind", ["scene", "views", "panorama"])
def test_a_shot_not_as_trained_warns_once(models, panorama, shot, trajectory, kind):
    place = {"scene": shot.scene, "views": shot.scene.views, "panorama": panorama}[kind]
    sentence = r"5 frames \(trained: 17 frames\)\. It may look worse"
    with pytest.warns(CineSceneWarning, match=sentence) as told:
        generate(models, place, PROMPT, trajectory, sampling=SAMPLING)
    assert len(told) == 1


# Files of the full-size layouts


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_full_size(tmp_path_factory.mktemp("models"))


def test_full_size_files_load_and_film(files, panorama):
    told = []
    models = load_models(files["--model"], files["--vggt"], files["--wan"], on_progress=lambda *news: told.append(news))
    assert told == [("load", done, 4) for done in range(5)]
    assert next(models.transformer.parameters()).dtype == torch.bfloat16
    path = preset_trajectory("arc_left", num_frames=5)
    shot = generate(models, panorama, "a red ball rolls", path, sampling=SAMPLING)
    assert shot.frames.shape == (5, 32, 64, 3)
    assert shot.latents.isfinite().all()
    other = generate(models, shot.scene, "a ball", path, sampling=SAMPLING)
    assert not torch.equal(other.latents, shot.latents)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_films_what_the_processor_films(files, panorama):
    models = load_models(files["--model"], files["--vggt"], files["--wan"], dtype=torch.float32)
    path = preset_trajectory("arc_left", num_frames=5)
    places = {name: parameter.data_ptr() for name, parameter in models.transformer.named_parameters()}
    slow, fast = (
        generate(models, panorama, "a red ball", path, sampling=SAMPLING, device=device) for device in ("cpu", "cuda")
    )
    # Two steps and three networks in float32, their sums in another order.
    torch.testing.assert_close(fast.frames, slow.frames, rtol=0, atol=2e-2)
    assert {name: parameter.data_ptr() for name, parameter in models.transformer.named_parameters()} == places
    assert all(cost.peak_bytes > 0 for cost in fast.costs)


def test_another_vggt_than_the_checkpoints_is_refused_when_loaded(files, tmp_path):
    other = tiny_vggt(seed=1)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    sentence = (
        rf"other\.safetensors is VGGT {other.fingerprint}, but cinescene\.safetensors was trained with "
        rf"{tiny_vggt().fingerprint}\. Use the VGGT file the checkpoint"
    )
    with pytest.raises(CheckpointError, match=sentence):
        load_models(files["--model"], tmp_path / "other.safetensors", files["--wan"])


@pytest.mark.filterwarnings("ignore:This shot is not as the checkpoint was trained")
def test_a_shot_is_sampled_in_the_context_mode_the_checkpoint_names(models, shot, trajectory):
    def film(mode):
        named = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention=mode))
        return generate(named, shot.scene, PROMPT, trajectory, sampling=SamplingConfig(steps=1)).latents

    assert torch.equal(film("joint"), film("joint"))
    assert not torch.equal(film("joint"), film("cached"))


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"model\.safetensors"):
        load_models(tmp_path / "model.safetensors", tmp_path / "vggt.pt", tmp_path)


def test_the_nano_says_that_it_is_untrained(models):
    assert not models.config.scene_trained
