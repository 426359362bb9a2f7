"""The command: every stage one by one, the whole path, and the sentence for each bad input."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cinescene_core.cli import main
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
    assert "untrained" in said
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


def test_the_demo_needs_nothing(tmp_path, capsys):
    out = tmp_path / "folder" / "demo.mp4"
    assert film("demo", "--out", out) == 0
    frames, width, height, _ = video_facts(out)
    assert frames == 17
    assert width > 2 * 640
    assert height == 384
    assert "untrained" in capsys.readouterr().out


def test_doctor_names_versions_devices_and_files(tmp_path, capsys):
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>not a model</html>")
    assert film("doctor", tmp_path) == 0
    said = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in said
    assert "cpu:" in said
    assert "nano.safetensors: " in said
    assert "page.safetensors: unusable" in said


def test_vggt_is_converted(tmp_path, capsys):
    torch.manual_seed(0)
    source, target = tmp_path / "model.pt", tmp_path / "vggt_bf16.safetensors"
    torch.save(VGGT(VGGTConfig.tiny()).state_dict(), source)
    assert film("convert-vggt", source, target) == 0
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
    said = capsys.readouterr().err
    assert said.startswith("cinescene: ")
    assert sentence in said
    assert not (tmp_path / "shot.mp4").exists()


def test_a_missing_output_folder_is_told_before_the_work(panorama, tmp_path, capsys):
    out = tmp_path / "nowhere" / "shot.mp4"
    assert film("generate", "--panorama", panorama, "--prompt", "a dog", *FILM, "--out", out) == 2
    error = capsys.readouterr().err
    assert "the folder" in error
    assert "does not exist" in error
    assert "sampling" not in error


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
