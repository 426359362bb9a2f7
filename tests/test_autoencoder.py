"""The VAE: names both ways, files in, frames to latents and back."""

import builtins
import json
import re

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.checks import CheckpointError, ShapeError
from cinescene_core.models.autoencoder import WanAutoencoder, new_autoencoder
from cinescene_core.weights import read_bundle_part, save_bundle
from cinescene_core.weights.autoencoder import autoencoder_from_state_dict, load_autoencoder
from cinescene_core.weights.vae_keys import has_diffusers_names, to_diffusers, to_original


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return new_autoencoder(base_dim=4).eval()


@pytest.fixture(scope="module")
def original(network):
    return {to_original(name): value.clone() for name, value in network.state_dict().items()}


def clip(frames, height=16, width=32, seed=0):
    return torch.rand(1, frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


# Names


def test_names_map_as_the_converter_of_diffusers_maps_them(network, original):
    # Each value is its own name, so the oracle's output shows where every name went.
    named = {name: name for name in original}
    assert {new: to_diffusers(old) for new, old in convert_wan_vae_to_diffusers(dict(named)).items()} == {
        name: name for name in network.state_dict()
    }


def test_names_survive_the_way_there_and_back(network, original):
    assert len(original) == len(network.state_dict()) == 194
    assert {to_diffusers(name) for name in original} == set(network.state_dict())
    assert has_diffusers_names(network.state_dict())
    assert not has_diffusers_names(original)


@pytest.mark.parametrize(
    "name",
    [
        "conv1.weight",
        "conv2.bias",
        "encoder.conv1.weight",
        "encoder.downsamples.5.time_conv.weight",
        "encoder.middle.1.to_qkv.weight",
        "encoder.downsamples.3.shortcut.bias",
        "decoder.upsamples.7.resample.1.weight",
        "decoder.upsamples.14.residual.6.bias",
        "decoder.head.0.gamma",
        "decoder.head.2.weight",
    ],
)
def test_names_of_the_published_file_are_met(original, name):
    assert name in original


# Files


@pytest.mark.parametrize("layout", ["original.safetensors", "original.pth", "diffusers folder", "bundle"])
def test_every_layout_loads_the_same_weights(tmp_path, network, original, layout):
    if layout == "original.safetensors":
        save_file(original, tmp_path / layout)
        loaded = load_autoencoder(tmp_path / layout)
    elif layout == "original.pth":
        torch.save(original, tmp_path / layout)
        loaded = load_autoencoder(tmp_path / layout)
    elif layout == "diffusers folder":
        network.save_pretrained(tmp_path / "vae")
        loaded = load_autoencoder(tmp_path / "vae")
    else:
        save_bundle(tmp_path / "nano.safetensors", {"vae": original}, {})
        loaded = autoencoder_from_state_dict(read_bundle_part(tmp_path / "nano.safetensors", "vae")[0])
    found = loaded.network.state_dict()
    assert list(found) == list(network.state_dict())
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert loaded.network.config.base_dim == 4


def test_the_precision_is_the_callers(original):
    vae = autoencoder_from_state_dict(original, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.bfloat16}
    latents = vae.encode(clip(1))
    assert latents.dtype == torch.float32
    assert vae.decode(latents).dtype == torch.float32


def test_a_full_size_network_has_wans_parameter_count():
    # 126,892,531 parameters in Wan2.1_VAE.pth.
    assert sum(p.numel() for p in new_autoencoder(96, device="meta").parameters()) == 126_892_531


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def reshaped(name):
    return lambda tensors: tensors | {name: torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            without("decoder.conv1.bias"),
            r"vae\.safetensors is no Wan2\.1 VAE that can be loaded: 1 missing: decoder\.conv_in\.bias\. Use Wan2",
        ),
        (without("decoder.head.0.gamma"), r"lacks decoder\.head\.0\.gamma, which shows its width\. Use Wan2\.1_VAE"),
        (
            reshaped("encoder.conv1.bias"),
            r"1 of another shape: encoder\.conv_in\.bias is \[2, 2\] where \[4\] is",
        ),
        (lambda t: {"blocks.0.lora_A.weight": torch.zeros(2)}, r"is a LoRA; The video VAE needs a Wan2\.1 VAE"),
        (
            lambda t: t | {"conv2.weight": torch.zeros(48, 48, 1, 1, 1)},
            r"a video VAE with 48 latent channels, such as Wan2\.2's; The video VAE needs a Wan2\.1 VAE",
        ),
    ],
)
def test_other_and_damaged_files_are_refused(tmp_path, original, damage, sentence):
    save_file(damage(original), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=sentence):
        load_autoencoder(tmp_path / "vae.safetensors")


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=r"holds 0 \.safetensors files where a VAE folder holds one\. Use"):
        load_autoencoder(tmp_path)


def test_without_diffusers_a_sentence_names_the_extra(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "diffusers":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=re.escape('needs diffusers. Install it with: pip install "cinescene[cli]"')):
        new_autoencoder(4)


# Frames and latents


def test_encoding_is_the_posterior_mean_of_the_range_minus_one_to_one(network):
    frames = clip(5)
    expected = network.encode((frames * 2 - 1).permute(0, 4, 1, 2, 3)).latent_dist.mean
    assert torch.equal(WanAutoencoder(network).encode(frames), expected)


@pytest.mark.parametrize("base_dim", [4, 8])
def test_a_picture_needs_the_last_tap_alone(base_dim):
    torch.manual_seed(1)
    network = new_autoencoder(base_dim).eval()
    pictures = torch.cat([clip(1, 32, 48, seed=seed) for seed in range(3)])
    with torch.no_grad():
        whole = network.encode((pictures * 2 - 1).permute(0, 4, 1, 2, 3)).latent_dist.mean
    found = WanAutoencoder(network).encode(pictures)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6 * float(whole.abs().max()))


def test_a_picture_costs_a_third_at_full_size():
    network = new_autoencoder(96, device="meta")
    picture = torch.empty(1, 1, 384, 672, 3, device="meta")
    with FlopCounterMode(display=False) as counter:
        WanAutoencoder(network).encode(picture)
    ours = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        network.encode(picture.permute(0, 4, 1, 2, 3))
    assert counter.get_total_flops() / ours == pytest.approx(2.8, abs=0.05)


def test_training_sees_through_pictures(network):
    """The layers for pictures are the network's own, not copies of their values."""
    vae, frames = autoencoder_from_state_dict(dict(network.state_dict())), clip(1)
    before = vae.encode(frames)
    with torch.no_grad():
        vae.network.encoder.conv_in.weight += 0.1
    assert (vae.encode(frames) - before).abs().max() > 1e-3


def test_latents_are_raw_and_not_normalised(network, original):
    # The last convolution of the encoder is scaled by 10 and shifted by 3: raw latents follow exactly.
    scaled = dict(original)
    scaled["conv1.weight"], scaled["conv1.bias"] = original["conv1.weight"] * 10, original["conv1.bias"] * 10 + 3
    plain = WanAutoencoder(network).encode(clip(1))
    torch.testing.assert_close(autoencoder_from_state_dict(scaled).encode(clip(1)), plain * 10 + 3)


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (9, 3)])
def test_sizes_follow_the_strides(network, frames, latent_frames):
    vae = WanAutoencoder(network)
    latents = vae.encode(clip(frames))
    assert latents.shape == (1, 16, latent_frames, 2, 4)
    assert vae.decode(latents).shape == (1, frames, 16, 32, 3)


def test_encoding_is_causal(network):
    vae = WanAutoencoder(network)
    frames = clip(9)
    changed = frames.clone()
    changed[:, 5:] = 0.5
    before, after = vae.encode(frames), vae.encode(changed)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert (before[:, :, 2] - after[:, :, 2]).abs().max() > 1e-3


def test_a_batch_is_its_clips(network):
    vae = WanAutoencoder(network)
    both = torch.cat([clip(5, seed=1), clip(5, seed=2)])
    # Convolutions of two clips at once round differently in the last digits.
    torch.testing.assert_close(vae.encode(both)[1:], vae.encode(both[1:]), atol=1e-5, rtol=0)


def test_decoding_is_the_networks_output_brought_to_zero_to_one(original):
    # A larger last convolution saturates both ends, so the limits are seen.
    vae = autoencoder_from_state_dict(original | {"decoder.head.2.weight": original["decoder.head.2.weight"] * 10})
    latents = torch.randn(1, 16, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    pixels = vae.network.decode(latents).sample
    assert (pixels.min(), pixels.max()) == (-1, 1)
    frames = vae.decode(latents)
    assert (frames.min(), frames.max()) == (0, 1)
    torch.testing.assert_close(frames, (pixels.permute(0, 2, 3, 4, 1) + 1) / 2)


@pytest.mark.parametrize(
    ("shape", "error", "sentence"),
    [
        ((1, 4, 16, 16, 3), ValueError, r"num_frames must be 4n \+ 1 .* got 4\. Use 1 or 5"),
        ((1, 1, 16, 24, 3), ValueError, r"multiples of 16 .* got 24 x 16\. Use 32 x 16"),
        ((1, 16, 16, 3), ShapeError, r"frames must have shape \[b, f, h, w, 3\]; got \[1, 16, 16, 3\]"),
        ((1, 1, 16, 16, 4), ShapeError, r"frames must have shape \[b, f, h, w, 3\]"),
    ],
)
def test_frames_that_do_not_fit_are_refused(network, shape, error, sentence):
    with pytest.raises(error, match=sentence):
        WanAutoencoder(network).encode(torch.zeros(shape))


def test_latents_that_do_not_fit_are_refused(network):
    with pytest.raises(ShapeError, match=r"latents must have shape \[b, 16, t, h, w\]; got \[1, 8, 1, 2, 2\]"):
        WanAutoencoder(network).decode(torch.zeros(1, 8, 1, 2, 2))


def test_diffusers_defaults_are_wans_structure():
    # `new_autoencoder` leaves these to diffusers: a change there must be seen here.
    config = AutoencoderKLWan(base_dim=4).config
    assert (config.dim_mult, config.num_res_blocks, config.temperal_downsample) == (
        [1, 2, 4, 4],
        2,
        [False, True, True],
    )
