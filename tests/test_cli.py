"""The command: every stage one by one, the whole path, and the sentence for each bad input."""

import builtins
import functools

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_models import write_full_size

import cinescene_core.cli.commands
import cinescene_core.pipeline
from cinescene_core import __version__
from cinescene_core.cameras import rotation_from_angles
from cinescene_core.cli import main
from cinescene_core.config import UNTRAINED, SamplingConfig
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.scene import load_scene
from cinescene_core.trajectory import load_trajectory, preset_trajectory, save_trajectory

FILM = ["--steps", "2", "--frames", "5", "--trajectory", "pan_right"]


@pytest.fixture(scope="module")
def panorama(tmp_path_factory):
    """A smooth 2:1 picture."""
    path = tmp_path_factory.mktemp("place") / "place.png"
    across, down = np.meshgrid(np.linspace(0, 2 * np.pi, 1024), np.linspace(0, np.pi, 512))
    colour = np.stack([0.5 + 0.4 * np.sin(k * across) * np.sin(down) for k in (1, 2, 3)], -1)
    Image.fromarray((colour * 255).astype(np.uint8)).save(path)
    return path


def film(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def video_facts(path):
    """(frames, width, height, frames per second), read by PyAV."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return len(frames), stream.width, stream.height, float(stream.average_rate)


def test_generate_films_a_panorama_and_says_what_it_cost(panorama, tmp_path, capsys):
    out, scene = tmp_path / "shot.mp4", tmp_path / "place.safetensors"
    status = film("generate", "--panorama", panorama, "--prompt", "a red robot walks", *FILM, "--out", out,
                  "--save-scene", scene)  # fmt: skip
    said = capsys.readouterr().out
    assert status == 0
    assert video_facts(out) == (5, 160, 96, 15.0)
    assert all(stage in said for stage in ("views", "scene", "text", "sampling", "video", "total"))
    assert UNTRAINED in said
    assert len(load_scene(scene).views) == 20


def test_a_place_encoded_first_is_the_place_that_is_filmed(panorama, tmp_path, capsys):
    encoded, filmed, out = (tmp_path / name for name in ("encoded.safetensors", "filmed.safetensors", "shot.mp4"))
    prompt = ["--prompt", "a red robot walks", *FILM, "--shuffle", "5", "--out", out]
    assert film("encode", "--panorama", panorama, "--out", encoded) == 0
    assert film("generate", "--panorama", panorama, *prompt, "--save-scene", filmed) == 0
    first, second = load_scene(encoded), load_scene(filmed)
    assert torch.equal(first.views.images, second.views.images)
    assert first.provenance == second.provenance
    # Memory alignment may change the order of a sum: the last bits of float32.
    torch.testing.assert_close(first.tokens.patch, second.tokens.patch, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.latents, second.latents, rtol=1e-4, atol=1e-4)
    capsys.readouterr()
    assert film("generate", "--scene", encoded, *prompt) == 0
    assert video_facts(out) == (5, 160, 96, 15.0)
    assert "views" not in capsys.readouterr().out


def test_photos_are_a_place_too(tmp_path):
    photos = []
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (120, 200, 3), dtype=np.uint8)
        photos.append(tmp_path / f"photo_{index}.jpg")
        Image.fromarray(pixels).save(photos[-1])
    out = tmp_path / "shot.mp4"
    assert film("generate", "--photos", *photos, "--prompt", "a dog runs", *FILM, "--out", out) == 0
    assert video_facts(out) == (5, 160, 96, 15.0)


def test_views_are_written_as_pictures(panorama, tmp_path, capsys):
    out = tmp_path / "new" / "views"
    assert film("views", "--panorama", panorama, "--num-views", 6, "--width", 160, "--height", 96, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "contact_sheet.png",
        *(f"view_{i:02d}.png" for i in range(6)),
    ]
    assert Image.open(out / "view_05.png").size == (160, 96)
    assert "6 views of 160 x 96" in capsys.readouterr().out


def test_a_trajectory_is_made_and_converted(tmp_path, capsys):
    path, poses = tmp_path / "move.json", tmp_path / "move.npy"
    assert film("trajectory", "--trajectory", "dolly_in", "--amount", 1.5, "--out", path) == 0
    assert "travels 1.50 m" in capsys.readouterr().out
    loaded = load_trajectory(path)
    expected = preset_trajectory("dolly_in", amount=1.5)
    assert torch.equal(loaded.world_from_camera, expected.world_from_camera)
    assert film("trajectory", "--trajectory", path, "--out", poses) == 0
    assert np.array_equal(np.load(poses), expected.world_from_camera.numpy())


def test_an_animatic_follows_the_file(panorama, tmp_path):
    path, out = tmp_path / "move.json", tmp_path / "preview.mp4"
    save_trajectory(preset_trajectory("tilt_up", num_frames=9, fps=12.0), path)
    size = ["--width", 160, "--height", 96]
    assert film("animatic", "--panorama", panorama, "--trajectory", path, *size, "--out", out) == 0
    assert video_facts(out) == (9, 160, 96, 12.0)


def first_frame(path):
    with av.open(path) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float)


def test_a_shot_and_its_animatic_start_where_they_are_told(panorama, tmp_path):
    turned, scene, film_to = tmp_path / "turned.mp4", tmp_path / "place.safetensors", ["--yaw", 90, "--pitch", 20]
    size = ["--width", 160, "--height", 96]
    still = ["--trajectory", "static", "--frames", 5]
    assert film("animatic", "--panorama", panorama, *film_to, *still, *size, "--out", turned) == 0
    assert film("encode", "--panorama", panorama, *film_to, "--num-views", 2, "--out", scene) == 0
    views = load_scene(scene).views
    expected = rotation_from_angles(torch.tensor([90.0, 270.0]), 20.0)
    torch.testing.assert_close(views.world_from_camera[:, :3, :3], expected)
    # The mp4 keeps colour per 2 x 2 pixels; the picture is smooth.
    assert np.abs(first_frame(turned) - 255 * views.images[0].numpy()).mean() < 3
    filmed = tmp_path / "filmed.safetensors"
    shot = ["generate", "--panorama", panorama, *film_to, "--num-views", 2, "--prompt", "a dog", *FILM]
    assert film(*shot, "--out", tmp_path / "shot.mp4", "--save-scene", filmed) == 0
    assert torch.equal(load_scene(filmed).views.images, views.images)


def test_the_path_has_the_lens_of_the_views_unless_told_otherwise(panorama, tmp_path, capsys):
    shot = ["--prompt", "a dog", *FILM, "--out", tmp_path / "shot.mp4"]
    scene = tmp_path / "place.safetensors"
    place = ["--panorama", panorama, "--num-views", 2, "--fov", 60]
    assert film("generate", *place, *shot, "--save-scene", scene) == 0
    assert "lens of 60 degrees (trained: a lens of 90 degrees)" in capsys.readouterr().err
    assert film("generate", "--scene", scene, *shot) == 0
    assert "the views one of" not in capsys.readouterr().err
    assert film("generate", "--scene", scene, *shot, "--lens", 45) == 0
    assert "a lens of 45 degrees, the views one of 60" in capsys.readouterr().err


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_full_size_files_film(panorama, tmp_path, capsys, device):
    files = write_full_size(tmp_path)
    options = [word for pair in files.items() for word in pair]
    out = tmp_path / "shot.mp4"
    shot = ["--panorama", panorama, "--prompt", "a red ball", "--trajectory", "arc_left", "--steps", 2, "--out", out]
    assert film("generate", *options, *shot, "--device", device) == 0
    said = capsys.readouterr()
    assert video_facts(out) == (5, 64, 32, 15.0)
    assert "load" in said.err
    assert "untrained" not in said.out
    assert "note" not in said.err


def test_the_demo_needs_nothing(tmp_path, monkeypatch, capsys):
    # Two steps instead of fifty, which take most of a minute on one core.
    monkeypatch.setattr(cinescene_core.pipeline, "SamplingConfig", functools.partial(SamplingConfig, steps=2))
    out = tmp_path / "folder" / "demo.mp4"
    assert film("demo", "--out", out) == 0
    frames, width, height, _ = video_facts(out)
    assert frames == 17
    assert width > 2 * 640
    assert height == 384
    said = capsys.readouterr()
    assert UNTRAINED in said.out
    assert all(stage in said.err for stage in ("animatic", "text", "views", "scene", "sampling", "video", "mp4"))


def test_doctor_names_versions_devices_and_files(tmp_path, capsys):
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>not a model</html>")
    assert film("doctor", tmp_path) == 0
    said = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in said
    assert "cpu:" in said
    assert "nano.safetensors: " in said
    assert "page.safetensors: unusable" in said


def test_doctor_looks_where_models_usually_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    assert film("doctor") == 0
    assert "for other files or folders: cinescene doctor PATH" in capsys.readouterr().out
    for place in ("models", "host/models/vae"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "page.safetensors").write_text("<!DOCTYPE html>")
    assert film("doctor") == 0
    said = capsys.readouterr().out
    assert "models/page.safetensors: unusable" in said
    assert "host" not in said
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "host"))
    assert film("doctor") == 0
    assert "host/models/vae/page.safetensors: unusable" in capsys.readouterr().out


def test_doctor_does_not_promise_what_was_never_tried(monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert film("doctor") == 0
    assert "mps: Apple GPU, untested" in capsys.readouterr().out


def test_vggt_is_converted(tmp_path, capsys):
    torch.manual_seed(0)
    source, target = tmp_path / "model.pt", tmp_path / "vggt_bf16.safetensors"
    torch.save(VGGT(VGGTConfig.tiny()).state_dict(), source)
    assert film("convert-vggt", source, target) == 0
    assert "100%" in capsys.readouterr().err
    assert 0 < target.stat().st_size < source.stat().st_size
    assert film("doctor", target) == 0
    assert "VGGT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trajectory", "pan_rigth"], "Did you mean 'pan_right'?"),
        (["--trajectory", "pan_right", "--frames", 6], "num_frames must be 4n + 1"),
        (["--trajectory", "pan_right", "--prompt", " "], "The prompt is empty."),
        (["--trajectory", "pan_right", "--prompt", "robot " * 40], "reads at most 32. Shorten it by 8."),
        (["--trajectory", "pan_right", "--steps", 0], "steps must be at least 1; got 0."),
        (["--trajectory", "pan_right", "--vggt", "x.pt"], "needs --model, --vggt and --wan together"),
        (["--trajectory", "none.json"], "none.json"),
        (["--trajectory", "none.json", "--amount", 3], "--amount shapes a preset"),
    ],
)
def test_bad_input_is_one_sentence(panorama, tmp_path, capsys, arguments, sentence):
    given = ["--panorama", panorama, "--prompt", "a dog", "--steps", 1, "--out", tmp_path / "shot.mp4", *arguments]
    assert film("generate", *given) == 2
    *bars, said, end = capsys.readouterr().err.split("\n")
    assert said.startswith("cinescene: ")
    assert sentence in said
    assert all(line.startswith("\rtext:") for line in bars)  # the length of a prompt is known when it is encoded
    assert end == ""
    assert not (tmp_path / "shot.mp4").exists()


@pytest.fixture
def no_work(monkeypatch):
    """Whatever reads a model or a picture, or makes one, fails the test."""

    def work(*_, **__):
        pytest.fail("work began")

    for name in (
        "load_nano load_models load_panorama load_scene load_photos generate encode_place slice_panorama "
        "render_animatic convert_vggt"
    ).split():
        monkeypatch.setattr(cinescene_core.cli.commands, name, work)


SHOT = ["generate", "--panorama", "place.png", "--prompt", "a dog", "--trajectory", "pan_right"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*SHOT, "--out", "nowhere/shot.mp4"], "the folder nowhere does not exist. Create it"),
        ([*SHOT, "--out", "shot.gif"], "The video's suffix must be .mp4; got '.gif'."),
        ([*SHOT, "--out", "folder.mp4"], "folder.mp4: it is a folder. Add a file name."),
        ([*SHOT, "--out", "shot.mp4", "--save-scene", "room.pt"], "A scene is one .safetensors file; got room.pt."),
        ([*SHOT, "--out", "shot.mp4", "--save-scene", "no/room.safetensors"], "the folder no does not exist."),
        ([*SHOT, "--out", "shot.mp4", "--device", "cuda:77"], "There is no device 'cuda:77' here; torch can use cpu"),
        ([*SHOT, "--out", "shot.mp4", "--prompt", " "], "The prompt is empty."),
        ([*SHOT, "--out", "shot.mp4", "--steps", "0"], "steps must be at least 1; got 0."),
        ([*SHOT, "--out", "shot.mp4", "--trajectory", "pan_rigth"], "Did you mean 'pan_right'?"),
        ([*SHOT, "--out", "shot.mp4", "--frames", "0"], "num_frames must be 4n + 1"),
        ([*SHOT, "--out", "shot.mp4", "--fps", "0"], "fps must be a positive number; got 0"),
        ([*SHOT, "--out", "shot.mp4", "--lens", "0"], "fov_degrees must lie between 0 and 180; got 0"),
        (["encode", "--panorama", "place.png", "--out", "no/room.safetensors"], "the folder no does not exist."),
        (["encode", "--panorama", "place.png", "--out", "room.pt"], "A scene is one .safetensors file; got room.pt."),
        (["encode", "--panorama", "p.png", "--out", "a.safetensors", "--device", "tpu"], "There is no device 'tpu'"),
        (
            ["animatic", "--panorama", "p.png", "--trajectory", "pan_left", "--out", "no/a.mp4"],
            "the folder no does not",
        ),
        (["animatic", "--panorama", "p.png", "--trajectory", "pan_left", "--out", "a.avi"], "got '.avi'"),
        (["views", "--panorama", "p.png", "--out", "file"], "Cannot write views to file: it is a file. Name a folder."),
        (
            ["views", "--panorama", "p.png", "--out", "old"],
            "old already holds 2 views, the first is view_07.png. Remove",
        ),
        (["demo", "--out", "demo.webm"], "got '.webm'"),
        (["convert-vggt", "model.pt", "no/vggt.safetensors"], "the folder no does not exist."),
        (
            ["generate", "--photos", "a.jpg", "--yaw", "0", *SHOT[3:], "--out", "a.mp4"],
            "--yaw says how a panorama is cut",
        ),
        (["views", "--photos", "a.jpg", "--num-views", "3", "--out", "new"], "Leave --num-views out."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_told_before_any_work(tmp_path, monkeypatch, capsys, no_work, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "old").mkdir()
    for number in (7, 8):
        (tmp_path / f"old/view_{number:02d}.png").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("cinescene: ")
    assert said.count("\n") == 1
    assert sentence in said
    assert sorted(tmp_path.rglob("*")) == before


def test_without_tqdm_a_sentence_names_the_extra(panorama, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "tqdm":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert film("views", "--panorama", panorama, "--width", 160, "--height", 96, "--out", tmp_path / "out") == 2
    assert 'The command needs tqdm. Install it with: pip install "cinescene[cli]"' in capsys.readouterr().err


def test_a_picture_that_is_no_panorama_is_refused(tmp_path, capsys):
    Image.new("RGB", (300, 200)).save(tmp_path / "photo.png")
    assert film("views", "--panorama", tmp_path / "photo.png", "--out", tmp_path / "out") == 2
    assert "300 x 200 (ratio 1.50)" in capsys.readouterr().err


def test_notes_are_one_line_each(tmp_path, capsys):
    Image.new("RGB", (256, 128)).save(tmp_path / "small.png")
    assert film("views", "--panorama", tmp_path / "small.png", "--num-views", 1, "--out", tmp_path / "out") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "note" in line or "Warning" in line]
    assert len(notes) == 1
    assert notes[0].startswith("cinescene: note: The panorama is 256 pixels wide")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"cinescene {__version__}\n"


def test_doctor_refuses_a_path_that_is_not_there(tmp_path, capsys):
    assert film("doctor", tmp_path / "nothere") == 2
    assert "nothere does not exist. Name a model file, or a folder of them." in capsys.readouterr().err


def test_a_model_that_is_none_is_named_before_the_other_files_are_asked_for(panorama, tmp_path, capsys):
    lora = tmp_path / "style.safetensors"
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(1, 8)}, lora)
    given = ["--panorama", panorama, "--prompt", "a dog", "--out", tmp_path / "shot.mp4", "--model", lora]
    assert film("generate", *given, *FILM) == 2
    assert "style.safetensors is a LoRA" in capsys.readouterr().err
