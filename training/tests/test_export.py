"""From a run to a file: the pack's own loader opens it, and it predicts what the run's network predicts."""

import dataclasses
import errno
import warnings

import pytest
import torch
from fake_clips import write_file
from tiny_run import tiny_config

import cinescene_core.weights.transformer as core_transformer
from cinescene_core.checks import CheckpointError, CineSceneWarning
from cinescene_core.cli import main as cinescene
from cinescene_core.context import temporal_positions
from cinescene_core.loading import load_nano
from cinescene_core.panorama import example_panorama_path
from cinescene_core.video import load_video
from cinescene_core.weights import FileKind, identify, load_transformer, nano_path, read_bundle_part, read_header
from cinescene_training.building import build_network
from cinescene_training.checkpoints import identity, run_record
from cinescene_training.config import ModelConfig, ObjectiveConfig
from cinescene_training.data.cache import EncodedCache
from cinescene_training.export import export, load_trained
from cinescene_training.samples import held_out_sample
from cinescene_training.train import fit

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]


@pytest.fixture(scope="module")
def run(studio, tmp_path_factory):
    """A finished run and its checkpoint."""
    config = tiny_config(studio, run={"folder": tmp_path_factory.mktemp("run")}, model={"context_attention": "cached"})
    return config, fit(config)


@pytest.fixture(scope="module")
def clip(run):
    """A held-out clip at one noise level."""
    cache = EncodedCache(run[0].cache.folder, "validation")
    return held_out_sample(cache.sample(0), 0, ObjectiveConfig(), sigma=0.7)


def test_the_packs_loader_opens_what_was_trained(run, clip, tmp_path):
    config, checkpoint = run
    record = export(config, checkpoint, tmp_path / "out.safetensors", dtype=torch.float32)
    assert identify(read_header(tmp_path / "out.safetensors")) is FileKind.CINESCENE
    model, said = load_transformer(tmp_path / "out.safetensors")
    assert said == record
    assert (said.context_attention, said.num_views, said.num_frames, said.width) == ("cached", 3, 5, 64)
    assert said.scene_trained
    assert said.vggt_id == load_nano().vggt.fingerprint
    assert not any("projector" in name for name, _ in model.named_parameters())

    network, _ = load_trained(config, checkpoint)
    scene = clip.scene
    positions = torch.cat(temporal_positions(said.positions, clip.video.shape[2], scene.latents.shape[1]))
    with torch.no_grad():
        wanted = network(clip.noisy(), clip.sigma, clip.text, clip.poses, scene)
        context = model.embed_context(scene.latents, scene.patch + scene.camera[..., None, None], positions)
        found = model(
            clip.noisy(), clip.sigma * 1000, clip.text,
            camera=clip.poses, context=context, context_attention=said.context_attention,
        )  # fmt: skip
    assert wanted.abs().max() > 0.01
    # The projectors are folded into the layer before them: the same product, rounded elsewhere.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_the_averaged_weights_are_exported(run, tmp_path):
    config, checkpoint = run
    content = torch.load(checkpoint, weights_only=True)
    network, _ = load_trained(config, checkpoint)
    name = "network.transformer.blocks.0.ffn.0.weight"
    averaged = content["callbacks"]["ExponentialAverage"]["averages"][name]
    assert torch.equal(network.transformer.blocks[0].ffn[0].weight, averaged)
    assert not torch.equal(averaged, content["state_dict"][name])


def test_a_bundle_films_on_its_own(run, tmp_path, capsys):
    config, checkpoint = run
    target = tmp_path / "bundle.safetensors"
    export(config, checkpoint, target, bundle=True)
    vae, _ = read_bundle_part(target, "vae")
    assert all(torch.equal(value, vae[name]) for name, value in read_bundle_part(nano_path(), "vae")[0].items())
    arguments = [
        "generate",
        "--model",
        str(target),
        "--panorama",
        str(example_panorama_path()),
        "--prompt",
        "a red ball",
    ]
    arguments += ["--trajectory", "pan_right", "--steps", "2", "--out", str(tmp_path / "shot.mp4")]
    assert cinescene(arguments) == 0, capsys.readouterr().err
    frames, fps = load_video(tmp_path / "shot.mp4")
    assert (tuple(frames.shape), fps) == ((5, 32, 64, 3), 15.0)


def test_a_bundle_holds_its_encoders_itself(run, tmp_path, capsys):
    config, checkpoint = run
    target = tmp_path / "bundle.safetensors"
    export(config, checkpoint, target, bundle=True)
    arguments = ["generate", "--model", str(target), "--vggt", "vggt.safetensors", "--prompt", "a ball"]
    arguments += [
        "--panorama",
        str(example_panorama_path()),
        "--trajectory",
        "static",
        "--out",
        str(tmp_path / "a.mp4"),
    ]
    assert cinescene(arguments) != 0
    assert "bundle that holds every network of its own; got --vggt too. Leave them out." in capsys.readouterr().err


def test_an_interrupted_export_leaves_no_file(run, tmp_path, monkeypatch):
    config, checkpoint = run

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(core_transformer, "save_file", full_disk)
    with pytest.raises(OSError, match=r"out\.safetensors.*(disk|space)"):
        export(config, checkpoint, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"features": "image"}, "join 'frame', features 'image', camera true"),
        ({"camera": False}, "join 'frame', features 'fused', camera false"),
        ({"join": "none"}, "join 'none', features 'fused', camera true"),
    ],
)
def test_an_ablation_is_not_exported(studio, tmp_path, model, said):
    config = tiny_config(studio, model=model)
    with pytest.raises(CheckpointError, match=rf"an ablation \({said}\) that no .*cinescene-train evaluate"):
        export(config, tmp_path / "last.ckpt", tmp_path / "out.safetensors")


def test_a_checkpoint_without_its_averages_is_refused(run, tmp_path):
    config, checkpoint = run
    content = torch.load(checkpoint, weights_only=True)
    del content["callbacks"]["ExponentialAverage"]
    torch.save(content, tmp_path / "raw.ckpt")
    with pytest.raises(
        CheckpointError, match=r"raw\.ckpt holds no averaged weights, .*optimiser\.ema_decay 0\.9\)\. Take another one"
    ):
        load_trained(config, tmp_path / "raw.ckpt")
    plain = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, ema_decay=0.0))
    torch.save(content | {"cinescene": run_record(plain, identity(plain))}, tmp_path / "raw.ckpt")
    network, _ = load_trained(plain, tmp_path / "raw.ckpt")
    name = "transformer.blocks.0.ffn.0.weight"
    assert torch.equal(network.state_dict()[name], content["state_dict"][f"network.{name}"])


def test_what_was_trained_from_a_base_file_is_not_called_untrained(studio, tmp_path):
    write_file(tmp_path / "base.safetensors", "wan")
    base = ModelConfig(start_from=tmp_path / "base.safetensors")
    config = dataclasses.replace(tiny_config(studio, optimiser={"ema_decay": 0.0}), model=base)
    made, _ = build_network(config.model, 0)
    weights = {f"network.{name}": value for name, value in made.state_dict().items()}
    content = {"state_dict": weights, "callbacks": {}, "cinescene": run_record(config, identity(config))}
    torch.save(content, tmp_path / "last.ckpt")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        load_trained(config, tmp_path / "last.ckpt")
    assert not [warning for warning in heard if issubclass(warning.category, CineSceneWarning)]


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    config, checkpoint = run
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"half\.ckpt cannot be read as a checkpoint"):
        export(config, tmp_path / "half.ckpt", tmp_path / "out.safetensors")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"was not made by cinescene-train"):
        export(config, tmp_path / "other.ckpt", tmp_path / "out.safetensors")
