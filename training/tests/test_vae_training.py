"""Training of the video VAE: one pass equals diffusers' many, latents get Wan's statistics, runs learn and resume."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.distributions import Normal, kl_divergence

from cinescene_core.checks import CheckpointError, ShapeError
from cinescene_core.config import LATENT_MEAN, LATENT_STD
from cinescene_core.latents import normalise_latents
from cinescene_core.models.autoencoder import new_autoencoder
from cinescene_core.weights import load_tensors
from cinescene_core.weights.autoencoder import autoencoder_from_state_dict, load_autoencoder
from cinescene_training.config import OptimiserConfig, RunConfig
from cinescene_training.encoders.batches import ClipsConfig, clip_batch, piece_lens, rendered_numbers
from cinescene_training.encoders.fitting import RECORD_KEY
from cinescene_training.encoders.vae_loss import kl_loss, reconstruction_loss
from cinescene_training.encoders.vae_module import VAEModule, VAETrainingConfig, fit_vae, vae_tensors
from cinescene_training.encoders.wan_vae import (
    SMALLEST_WIDTH,
    LatentStatistics,
    decode_latents,
    encode_clip,
    fold_statistics,
    initialise_vae,
)
from cinescene_training.render.places import sample_places
from cinescene_training.render.rendering import photographs
from cinescene_training.settings import build, read_settings

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = torch.device("cpu")
CLIPS = ClipsConfig(
    width=48, height=32, crop_width=32, crop_height=32, frame_counts=(1, 5), num_frames=9, supersampling=1
)


def config_for(folder, **changes):
    run = RunConfig(
        folder=folder, steps=4, batch_size=2, micro_batch=2, seed=3, accelerator="cpu", precision="32-true", workers=0,
        checkpoint_every=2, log_every=1,
    )  # fmt: skip
    settings = {
        "name": "test", "run": run, "base_dim": 8, "clips": CLIPS, "statistics_clips": 3, "validation_every": 4,
        "optimiser": OptimiserConfig(learning_rate=5e-3, warmup_steps=2, schedule="cosine", ema_decay=0.9),
        "validation_samples": 2, "dtype": "float32",
    }  # fmt: skip
    return VAETrainingConfig(**(settings | changes))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    """A small network with every weight random, so that no layer is invisible."""
    network = new_autoencoder(8)
    initialise_vae(network, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


# One pass


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
@torch.no_grad()
def test_one_pass_equals_diffusers_passes_frame_by_frame(network, frames):
    pixels = noise(2, 3, frames, 32, 48).clamp(-1, 1)
    mean, log_variance = encode_clip(network, pixels)
    posterior = network.encode(pixels).latent_dist
    # The same sums in another order, through sixty float32 layers.
    torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(log_variance, posterior.logvar, atol=1e-5, rtol=1e-4)
    decoded = decode_latents(network, mean)
    torch.testing.assert_close(decoded.clamp(-1, 1), network.decode(mean).sample, atol=1e-5, rtol=1e-4)
    assert decoded.shape == pixels.shape


@torch.no_grad()
def test_the_first_frame_of_a_clip_is_a_picture_of_its_own(network):
    pixels = noise(1, 3, 9, 16, 16)
    clip, picture = encode_clip(network, pixels)[0], encode_clip(network, pixels[:, :, :1])[0]
    torch.testing.assert_close(clip[:, :, :1], picture, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        decode_latents(network, clip)[:, :, :1], decode_latents(network, picture), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 4, 16, 16), r"num_frames must be 4n \+ 1"),
        ((1, 3, 5, 16, 24), "width and height must be multiples of 16"),
        ((1, 4, 5, 16, 16), r"pixels must have shape \[b, 3, f, h, w\]"),
    ],
)
def test_clips_that_do_not_fit_are_refused(network, shape, message):
    with pytest.raises(ValueError, match=message):
        encode_clip(network, torch.zeros(shape))


@torch.no_grad()
@pytest.mark.parametrize("base_dim", [SMALLEST_WIDTH, 16])
def test_a_fresh_network_gives_back_flat_colours_and_draws_little_noise(base_dim):
    network = new_autoencoder(base_dim)
    initialise_vae(network, 0)
    colours = torch.tensor([[-0.8, 0.1, 0.5], [0.7, 0.7, -0.2]])
    clip = colours[:, :, None, None, None].expand(2, 3, 5, 48, 48)
    mean, log_variance = encode_clip(network, clip)
    # Away from the border. The norms weaken a colour by the share that other channels have in them.
    result = decode_latents(network, mean)[..., 16:32, 16:32]
    torch.testing.assert_close(result, clip[..., 16:32, 16:32], atol=0.25, rtol=0)
    assert float((log_variance / 2).exp().max()) < 0.06


@torch.no_grad()
def test_a_fresh_network_enlarges_a_thumbnail():
    network = new_autoencoder(8)
    initialise_vae(network, 0)
    clips = dataclasses.replace(CLIPS, width=64, height=64, crop_width=64, crop_height=64)
    pixels = clip_batch(clips, "train", 0, [0, 1], 5, CPU)
    thumbnail = torch.nn.functional.avg_pool3d(pixels[:, :, 1:], (4, 8, 8))
    enlarged = thumbnail.repeat_interleave(4, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)

    def decibels(guess):
        return float(-10 * ((guess - pixels[:, :, 1:]) / 2).square().mean().log10())

    fresh = decode_latents(network, encode_clip(network, pixels)[0])[:, :, 1:]
    assert decibels(fresh) > decibels(enlarged) - 1


# Losses


def test_reconstruction_loss_by_hand():
    # One pixel of 2 x 3 is 0.6 too bright in one of three colours: 0.6 of 18 values; two of its steps across the 12
    # there are (it stands in the middle column), one of the 9 down.
    truth = torch.zeros(1, 3, 1, 2, 3)
    result = truth.clone()
    result[0, 1, 0, 0, 1] = 0.6
    expected = 0.6 / 18 + 0.5 * (2 * 0.6 / 12 + 0.6 / 9)
    assert float(reconstruction_loss(result, truth, 0.5)) == pytest.approx(expected)
    assert float(reconstruction_loss(truth, truth, 0.5)) == 0


def test_gradients_do_not_count_a_change_of_brightness():
    truth = noise(1, 3, 5, 8, 8)
    assert float(reconstruction_loss(truth + 0.25, truth, 10.0)) == pytest.approx(0.25, rel=1e-4)


def test_pixels_beyond_the_range_still_have_a_gradient():
    result = torch.full((1, 3, 1, 4, 4), 1.5, requires_grad=True)
    reconstruction_loss(result, torch.ones(1, 3, 1, 4, 4), 0.5).backward()
    assert (result.grad > 0).all()


def test_kl_loss_is_that_of_normal_distributions():
    mean, log_variance = noise(2, 16, 3, 4, 4), noise(2, 16, 3, 4, 4, seed=1)
    oracle = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_loss(mean, log_variance), oracle)
    with pytest.raises(ShapeError, match="log_variance must have shape"):
        kl_loss(mean, log_variance[:1])


# Wan's statistics


@torch.no_grad()
def test_folding_changes_units_and_nothing_else(network):
    pixels = noise(3, 3, 9, 32, 32).clamp(-1, 1)
    mean, log_variance = encode_clip(network, pixels)
    decoded = decode_latents(network, mean)
    statistics = LatentStatistics()
    for clip in mean.split(1):
        statistics.add(clip)
    fold_statistics(network, *statistics.mean_and_deviation())
    folded, folded_log_variance = encode_clip(network, pixels)
    torch.testing.assert_close(decode_latents(network, folded), decoded, atol=1e-5, rtol=1e-5)
    # A draw from the posterior decodes to the same picture, too: its deviation has the same new units.
    for_noise = noise(*mean.shape, seed=5)
    before = decode_latents(network, folded + for_noise * (folded_log_variance / 2).exp())
    ratio = torch.tensor(LATENT_STD) / statistics.mean_and_deviation()[1].float()
    scaled = (log_variance / 2).exp() * ratio[:, None, None, None]
    torch.testing.assert_close((folded_log_variance / 2).exp(), scaled, atol=0, rtol=1e-4)
    assert (before - decoded).abs().mean() > 1e-4
    channels = folded.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(channels.mean(1), torch.tensor(LATENT_MEAN).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels.std(1, correction=0), torch.tensor(LATENT_STD).double(), atol=0, rtol=1e-4)
    normalised = normalise_latents(folded).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(16), atol=1e-4, rtol=0)


def test_statistics_are_those_of_all_numbers_at_once():
    clips = [3 + 2 * noise(1, 16, t, 4, 5, seed=t) for t in (1, 2, 5)]
    statistics = LatentStatistics()
    for clip in clips:
        statistics.add(clip)
    mean, deviation = statistics.mean_and_deviation()
    everything = torch.cat(clips, dim=2)[0].flatten(1).double()
    torch.testing.assert_close(mean, everything.mean(1))
    torch.testing.assert_close(deviation, everything.std(1, correction=0))


def test_latents_that_cannot_be_normalised_are_refused():
    statistics = LatentStatistics()
    with pytest.raises(ValueError, match="finite latents of one clip at least; got 0 numbers"):
        statistics.mean_and_deviation()
    latents = noise(1, 16, 1, 4, 4)
    latents[:, 6] = 0.25
    statistics.add(latents)
    with pytest.raises(ValueError, match="Latent channel 6 never changes"):
        statistics.mean_and_deviation()
    statistics.add(torch.full((1, 16, 1, 1, 1), math.inf))
    with pytest.raises(ValueError, match="not all are finite"):
        statistics.mean_and_deviation()


# Clips


def test_a_piece_seen_through_its_own_lens_is_the_middle_of_the_whole_picture():
    config = dataclasses.replace(CLIPS, width=64, height=48, crop_width=32, crop_height=16)
    fov, (yaw_reach, pitch_reach) = piece_lens(config)
    places, pose = sample_places([3], "room"), torch.eye(4, dtype=torch.float64)[None, None]
    whole = photographs(places, pose, 90.0, 64, 48)[0, 0]
    piece = photographs(places, pose, fov, 32, 16)[0, 0]
    torch.testing.assert_close(piece, whole[16:32, 16:48], atol=1e-4, rtol=0)
    # At the end of its reach a piece sees the whole picture's edge, 45 degrees to the side.
    assert yaw_reach + fov / 2 == pytest.approx(45.0)
    assert pitch_reach + math.degrees(math.atan(8 / 32)) == pytest.approx(math.degrees(math.atan(24 / 32)))


def test_a_clip_follows_from_its_number_and_moves():
    clips = clip_batch(CLIPS, "train", 3, [4, 5], 5, CPU)
    assert clips.shape == (2, 3, 5, 32, 32)
    assert float(clips.min()) >= -1
    assert float(clips.max()) <= 1
    torch.testing.assert_close(clip_batch(CLIPS, "train", 3, [5], 5, CPU)[0], clips[1], atol=0, rtol=0)
    moves = [clip_batch(CLIPS, "train", 3, [number], 5, CPU).diff(dim=2).abs().mean() for number in range(4)]
    assert float(torch.stack(moves).median()) > 0.01
    validation = clip_batch(CLIPS, "validation", 3, [5], 5, CPU)[0]
    assert (validation - clips[1]).abs().mean() > 0.02


def test_echoes_show_the_same_clips_in_other_colours_and_none_is_left_out(tmp_path):
    # Two samples a step, three steps on each: steps 0 to 2 see clips 0 and 1, steps 3 to 5 clips 2 and 3.
    assert [rendered_numbers([2 * step, 2 * step + 1], 2, 3) for step in range(6)] == [[0, 1]] * 3 + [[2, 3]] * 3
    clips = dataclasses.replace(CLIPS, echoes=3, frame_counts=(1,))
    module = VAEModule(config_for(tmp_path, clips=clips))
    steps = [module.training_clips([2 * step, 2 * step + 1]) for step in range(4)]
    plain = clip_batch(clips, "train", 3, [0, 1], 1, CPU)
    for seen in steps[:3]:
        torch.testing.assert_close(seen.sort(dim=1).values, plain.sort(dim=1).values, atol=0, rtol=0)
    assert not all(torch.equal(seen, plain) for seen in steps[:3])
    assert (steps[3] - steps[2]).abs().mean() > 0.02
    # A run resumed in the middle of its echoes sees what it would have seen.
    torch.testing.assert_close(
        VAEModule(config_for(tmp_path, clips=clips)).training_clips([4, 5]), steps[2], atol=0, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"echoes": 0}, "echoes must be a positive number"),
        ({"crop_width": 40}, "width and height must be multiples of 16"),
        ({"crop_width": 64}, "A crop of 64 x 32 does not fit a picture of 48 x 32"),
        ({"frame_counts": (4,)}, r"num_frames must be 4n \+ 1"),
        ({"frame_counts": (17,)}, "frame_counts must name counts of 1 to 9"),
        ({"turned_share": -0.1}, "turned_share must be 0 to 1"),
    ],
)
def test_clips_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLIPS, **change)


# Training


def test_the_picture_gets_better_on_clips_seen_again_and_again(tmp_path, network):
    module = VAEModule(config_for(tmp_path))
    module.network = network.train()  # scrambled: a fresh one is a thumbnail from the start
    pixels = module.clips([0, 1], "train", 5)  # two: one thread convolves a single clip slowly
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, betas=(0.9, 0.98))

    def decibels():
        with torch.no_grad():
            result = module.reconstruct(pixels, torch.zeros(2, 16, 2, 4, 4))[0].clamp(-1, 1)
        return float(-10 * ((result - pixels) / 2).square().mean().log10())

    before = decibels()
    for step in range(30):
        result, mean, log_variance = module.reconstruct(pixels, noise(2, 16, 2, 4, 4, seed=step))
        loss = reconstruction_loss(result, pixels, 0.5) + 1e-4 * kl_loss(mean, log_variance)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
    assert decibels() > before + 4


def test_gradients_reach_every_parameter(tmp_path, network):
    module = VAEModule(config_for(tmp_path, clips=dataclasses.replace(CLIPS, frame_counts=(5,))))
    module.network = network.train()  # a fresh one starts with layers at zero
    module.log = lambda *args, **kwargs: None
    module.training_step([0, 1], 0).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()] == []


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The file of a run of four steps, and its configuration."""
    config = config_for(tmp_path_factory.mktemp("whole"))
    return fit_vae(config), config


def test_a_run_stopped_and_resumed_writes_the_same_file_to_the_last_bit(tmp_path, whole_run):
    whole, stopped = load_tensors(whole_run[0]), config_for(tmp_path)
    halfway = load_tensors(fit_vae(stopped, stop_at=2))
    assert not torch.equal(halfway["decoder.conv1.weight"], whole["decoder.conv1.weight"])
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    resumed = load_tensors(fit_vae(stopped, resume=checkpoint))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(CheckpointError, match="was trained with base_dim = 8, but this run says 16"):
        fit_vae(dataclasses.replace(stopped, base_dim=16), resume=checkpoint)


def test_what_is_written_opens_in_the_pack_with_latents_of_wans_statistics(whole_run):
    path, config = whole_run
    vae = load_autoencoder(path)
    first = config.run.steps * config.run.batch_size
    pixels = clip_batch(CLIPS, "train", 3, list(range(first, first + 3)), 5, CPU)
    latents = vae.encode((pixels.movedim(1, -1) + 1) / 2)
    normalised = normalise_latents(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(16), atol=2e-3, rtol=0)
    torch.testing.assert_close(normalised.std(1, correction=0), torch.ones(16), atol=0, rtol=2e-3)
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[RECORD_KEY])
    assert record["config"]["base_dim"] == 8
    assert set(record) == {"name", "config", "identity", "seed", "commit", "machine", "torch", "measured"}
    assert record["measured"].keys() == {f"validation/psnr_{part}" for part in ("first", "later", "all")}


@torch.no_grad()
def test_tensors_load_by_wans_names(network):
    loaded = autoencoder_from_state_dict(vae_tensors(network, torch.float32))
    pixels = noise(1, 3, 5, 16, 16).clamp(-1, 1)
    mean = loaded.encode((pixels.movedim(1, -1) + 1) / 2)
    torch.testing.assert_close(mean, encode_clip(network, pixels)[0], atol=1e-5, rtol=1e-4)


# Configurations


@pytest.mark.parametrize("name", ["vae_rooms.yaml", "vae_debug.yaml"])
def test_the_shipped_configurations_can_be_built(name):
    assert build(VAETrainingConfig, read_settings(CONFIGS / name)).task == "vae"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_dim": 6}, "base_dim must be 7 or more, to carry three colours, their negatives and a constant; got 6"),
        ({"kl_weight": -1.0}, "kl_weight must be 0 or more"),
    ],
)
def test_runs_that_cannot_be_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        config_for(tmp_path, **change)


def test_a_strategy_that_splits_the_network_is_refused(tmp_path):
    config = config_for(tmp_path)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, strategy="fsdp"))
    with pytest.raises(ValueError, match=r"got run.strategy 'fsdp'. Use auto or ddp"):
        fit_vae(config)
