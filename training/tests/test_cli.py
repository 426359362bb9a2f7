"""The command: from a configuration to a checkpoint, a film and a table; and the sentence for what cannot be done."""

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_config

from cinescene_core.video import load_video
from cinescene_training.cli import main
from cinescene_training.config import as_record

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]


@pytest.fixture(scope="module")
def yaml_file(studio, tmp_path_factory):
    """A tiny run as a file, with videos while it trains."""
    folder = tmp_path_factory.mktemp("cli")
    config = tiny_config(studio, run={"folder": folder / "run"}, validation={"videos": 1, "video_steps": 2})
    (folder / "run.yaml").write_text(yaml.safe_dump(as_record(config)), encoding="utf-8")
    assert main(["fit", "--config", str(folder / "run.yaml")]) == 0
    return folder / "run.yaml"


def test_a_run_leaves_losses_videos_and_sheets(yaml_file):
    run = yaml_file.parent / "run"
    logged = EventAccumulator(str(run / "logs"), size_guidance={"images": 0}).Reload()
    assert len(logged.Scalars("validation/loss")) == 2
    assert {"validation/loss_sigma_0.3", "validation/loss_sigma_0.9", "train/loss"} <= set(logged.Tags()["scalars"])
    tags = logged.Tags()["images"]
    (moving,) = (tag for tag in tags if tag.startswith("videos/"))
    assert logged.Images(moving)[0].encoded_image_string[:4] == b"GIF8"
    assert any(tag.startswith("sheets/") for tag in tags)
    first = sorted((run / "videos").iterdir())[0]
    frames, fps = load_video(first)
    assert (len(frames), fps) == (5, 15.0)
    assert frames.shape[2] > 2 * 64  # the sample beside the truth


def test_losses_can_be_asked_for_again(yaml_file, capsys):
    assert main(["validate", "--config", str(yaml_file)]) == 0
    said = capsys.readouterr().out
    assert "validation/loss_sigma_0.9" in said
    assert main(["test", "--config", str(yaml_file)]) == 0
    assert "test/loss_sigma_0.3" in capsys.readouterr().out


def test_the_cache_can_be_verified(yaml_file, capsys):
    assert main(["cache", "--config", str(yaml_file), "--verify"]) == 0
    assert "train: 6 clips, every shard as its digest says" in capsys.readouterr().out


def test_a_run_is_measured(yaml_file, tmp_path, capsys):
    arguments = ["evaluate", "--config", str(yaml_file), "--clips", "1", "--steps", "2", "--out", str(tmp_path / "e")]
    assert main(arguments) == 0
    assert "PSNR" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        "evaluation.md",
        "evaluation.json",
        "evaluation.png",
    }


def test_places_are_rendered_to_files(tmp_path, capsys):
    arguments = ["render", "--out", str(tmp_path), "--places", "1", "--clips", "1", "--frames", "5"]
    assert main([*arguments, "--width", "64", "--height", "32", "--panorama-width", "128"]) == 0
    assert "1 places, 1 of them new" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.mp4"))) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "--config", "none.yaml"], "There is no configuration none.yaml."),
        (["validate", "--config", "RUN", "--checkpoint", "none.ckpt"], "There is no checkpoint none.ckpt. Run"),
        (["fit", "--config", "RUN", "--resume", "none.ckpt"], "There is no checkpoint none.ckpt. Leave --resume out"),
        (["fit", "--config", "RUN", "--set", "run.stepz=1"], "There is no field 'run.stepz'"),
        (["fit", "--config", "RUN", "--set", "task=film"], "task must be one of shot, vggt, vae; got 'film'"),
        (["export", "--config", "RUN", "--out", "/none/x.safetensors"], "/none"),
        (["render", "--out", "OUT", "--places", "0"], "The train split has places 0 to"),
        (["calibrate", "--root", "OUT", "--out", "OUT/c.json"], "not laid out as the Scene-Decoupled Video Dataset"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(yaml_file, tmp_path, capsys, arguments, sentence):
    names = {"RUN": str(yaml_file), "OUT": str(tmp_path), "OUT/c.json": str(tmp_path / "c.json")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
