"""The command: from a configuration to a checkpoint, a film and a table; and the sentence for what cannot be done."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_places import ACTION, CAPTION, place_clips, textured_panorama
from tiny_run import tiny_config

from cinescene_core.video import load_video, save_image
from cinescene_training import commands
from cinescene_training.cli import build_parser, main
from cinescene_training.commands import evaluation_options
from cinescene_training.config import as_record
from cinescene_training.data.calibration import load_calibration
from cinescene_training.data.layout import SceneDecoupledFootage, write_place
from cinescene_training.evaluate import EvaluationOptions

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


def test_every_damaged_split_is_named(studio, yaml_file, tmp_path, capsys):
    record = yaml.safe_load(yaml_file.read_text(encoding="utf-8"))
    record["cache"]["folder"] = str(shutil.copytree(record["cache"]["folder"], tmp_path / "cache"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    for name in ("train-00000.safetensors", "test-00000.safetensors"):
        shard = tmp_path / "cache" / name
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    assert main(["cache", "--config", str(tmp_path / "run.yaml"), "--verify"]) == 2
    said = capsys.readouterr()
    assert "validation: " in said.out
    assert "train: 1 of " in said.err
    assert "test: 1 of " in said.err


def test_a_cache_of_one_side_is_made_and_verified(tmp_path, capsys):
    record = as_record(tiny_config(tmp_path))
    record["cache"]["source"] = {"kind": "panoramas", "root": str(tmp_path), "only": "test", "clips_per_place": 3}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    save_image(textured_panorama(0, 64), tmp_path / "hall.png")
    assert main(["cache", "--config", str(tmp_path / "run.yaml"), "--device", "cpu"]) == 0
    assert "test: 3 clips of 1 places in 1 shards (1 made, 0 stood)" in capsys.readouterr().out
    assert main(["cache", "--config", str(tmp_path / "run.yaml"), "--verify"]) == 0
    assert capsys.readouterr().out == "test: 3 clips, every shard as its digest says\n"


def test_a_run_is_measured(yaml_file, tmp_path, capsys):
    arguments = ["evaluate", "--config", str(yaml_file), "--clips", "1", "--steps", "2", "--out", str(tmp_path / "e")]
    assert main(arguments) == 0
    assert "PSNR" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        "evaluation.md",
        "evaluation.json",
        "evaluation.png",
    }


def test_a_run_is_measured_out_of_its_domain(yaml_file, tmp_path, capsys):
    """Trained on rooms, measured on a panorama: same encoders and sizes, another source."""
    save_image(textured_panorama(0, 64), tmp_path / "hall.png")
    fields = [f"cache.folder={tmp_path / 'cache'}", "cache.source.kind=panoramas", f"cache.source.root={tmp_path}"]
    given = ["--config", str(yaml_file), "--device", "cpu", "--set", *fields, "cache.source.only=test"]
    assert main(["cache", *given]) == 0
    assert main(["evaluate", *given, "--clips", "2", "--steps", "2", "--out", str(tmp_path / "e")]) == 0
    assert "| model |" in capsys.readouterr().out
    # Part of a dataset may hold what the run was trained on: only one that is all for measuring may be another.
    divided = ["--config", str(yaml_file), "--device", "cpu", "--set", *fields]
    assert main(["evaluate", *divided, "--out", str(tmp_path / "e")]) == 2
    assert "This checkpoint was trained with cache.source." in capsys.readouterr().err


def test_everything_about_an_evaluation_can_be_asked_for():
    given = ["--config", "c", "--shift", "3", "--solver", "euler", "--stride", "1"]
    for command in (["evaluate", "--out", "o"], ["ablate", "all"]):
        options = build_parser().parse_args([*command, *given])
        assert {field.name for field in dataclasses.fields(EvaluationOptions)} <= vars(options).keys()
        asked = evaluation_options(options)
        assert (asked.shift, asked.solver, asked.stride) == (3.0, "euler", 1)
        plain = build_parser().parse_args([*command, "--config", "c"])
        assert evaluation_options(plain) == EvaluationOptions()


def test_a_run_that_is_interrupted_says_how_it_goes_on(yaml_file, tmp_path, monkeypatch, capsys):
    def interrupt(*tensors):
        raise KeyboardInterrupt

    monkeypatch.setattr("cinescene_training.module.flow_matching_loss", interrupt)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning switches further interrupts off
    assert main(["fit", "--config", str(yaml_file), "--set", f"run.folder={tmp_path}"]) == 130
    assert "cinescene-train: stopped. A run goes on with --resume" in capsys.readouterr().err


def test_a_device_without_enough_memory_is_one_sentence(yaml_file, tmp_path, monkeypatch, capsys):
    def fail(*tensors):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 9.00 "
            "GiB is free. See documentation for Memory Management (https://pytorch.org/docs)"
        )

    monkeypatch.setattr("cinescene_training.module.flow_matching_loss", fail)
    assert main(["fit", "--config", str(yaml_file), "--set", f"run.folder={tmp_path}"]) == 2
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "memory" in line)
    assert said.startswith(
        "cinescene-train: the device ran out of memory (CUDA out of memory. Tried to allocate 20.00 GiB). Lower "
        "run.micro_batch, set model.gradient_checkpointing: true, or"
    )
    assert "run.strategy: fsdp" in said


@pytest.mark.parametrize("name", ["vae_debug", "vggt_debug"])
def test_an_encoder_resumes_from_its_last_checkpoint_without_its_name(tmp_path, capsys, monkeypatch, name):
    resumed = []
    for fit in ("fit_vae", "fit_vggt"):
        monkeypatch.setattr(commands, fit, lambda config, resume: resumed.append(resume))
    config = str(Path(__file__).parents[1] / "configs" / f"{name}.yaml")
    given = ["fit", "--config", config, "--set", f"run.folder={tmp_path}"]
    assert main([*given, "--resume"]) == 2
    assert "There is no checkpoint" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert main([*given, "--resume"]) == 0
    assert main([*given, f"run.folder={tmp_path / 'new'}"]) == 0
    assert resumed == [tmp_path / "checkpoints" / "last.ckpt", None]


RENDER = {
    "task": "render",
    "rooms": {"places": 1, "clips_per_place": 1, "supersampling": 1, "device": "cpu"},
    "num_frames": 5,
    "width": 64,
    "height": 32,
    "panorama_width": 256,
}


@pytest.fixture
def render_file(tmp_path):
    """A place to render, as a file."""
    (tmp_path / "render.yaml").write_text(yaml.safe_dump({**RENDER, "out": str(tmp_path / "data")}), encoding="utf-8")
    return tmp_path / "render.yaml"


def test_places_are_rendered_to_files_and_kept(render_file, capsys):
    assert main(["render", "--config", str(render_file), "--set", "fps=12", "fov_degrees=70"]) == 0
    assert "1 places, 1 of them new" in capsys.readouterr().out
    footage = SceneDecoupledFootage(render_file.parent / "data")
    assert (footage.problems, footage.size, len(footage.clips)) == ((), (64, 32), 2)
    path = footage.trajectory(footage.clips[0].name)
    assert (len(path), path.fps) == (5, 12.0)
    assert float(path.fov_degrees[0]) == pytest.approx(70, abs=2e-4)  # the focal length's name has four decimals
    assert main(["render", "--config", str(render_file), "--set", "fps=12", "fov_degrees=70"]) == 0
    assert "1 places, 0 of them new" in capsys.readouterr().out


def test_a_run_is_calibrated_into_the_file_it_names(tmp_path, capsys):
    """Panoramas whose middle is 20 degrees to the left of where the clips start."""
    root = tmp_path / "data"
    for seed in range(3):
        panorama = textured_panorama(seed)
        clips = place_clips(panorama, moves=("static",), heading=20.0, frames=1)
        write_place(root, f"place{seed}", panorama, clips, caption=CAPTION, caption_action_only=ACTION)
    source = {"kind": "scene_decoupled", "root": str(root), "calibration": str(tmp_path / "runs" / "calibration.json")}
    record = as_record(tiny_config(tmp_path)) | {"name": "real"}
    record["cache"]["source"] = source
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    assert main(["calibrate", "--config", str(tmp_path / "run.yaml"), "--max-places", "2"]) == 0
    assert "2 places fitted, 0 could not be." in capsys.readouterr().out
    assert load_calibration(tmp_path / "runs" / "calibration.json").heading_degrees == pytest.approx(20, abs=0.2)
    assert main(["calibrate", "--config", str(tmp_path / "run.yaml"), "--set", "cache.source.calibration=null"]) == 2
    assert "run.yaml does not say where the calibration goes. Set cache.source.cal" in capsys.readouterr().err


def test_fields_are_changed_after_one_flag_or_after_many():
    together = ["fit", "--config", "run.yaml", "--set", "run.steps=1", "run.seed=2"]
    apart = ["fit", "--config", "run.yaml", "--set", "run.steps=1", "--set", "run.seed=2"]
    assert [build_parser().parse_args(given).set for given in (together, apart)] == [["run.steps=1", "run.seed=2"]] * 2


@pytest.mark.parametrize(("cards", "device"), [(True, "cuda"), (False, "cpu")])
def test_commands_compute_on_a_card_where_there_is_one(monkeypatch, cards, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards)
    for given in (["cache", "--config", "c"], ["evaluate", "--config", "c", "--out", "o"]):
        assert build_parser().parse_args(given).device == device
        assert build_parser().parse_args([*given, "--device", "cpu"]).device == "cpu"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "--config", "none.yaml"], "There is no configuration none.yaml."),
        (["validate", "--config", "RUN", "--checkpoint", "none.ckpt"], "There is no checkpoint none.ckpt. Run"),
        (["fit", "--config", "RUN", "--resume", "none.ckpt"], "There is no checkpoint none.ckpt. Leave --resume out"),
        (["fit", "--config", "RUN"], "holds a run already. Go on with it by --resume, or set run.folder to another"),
        (["fit", "--config", "RUN", "--set", "run.stepz=1"], "There is no field 'run.stepz'"),
        (["fit", "--config", "RUN", "--set", "task=film"], "task must be one of shot, vggt, vae; got 'film'"),
        (["export", "--config", "RUN", "--out", "/none/x.safetensors"], "/none"),
        (["fit", "--config", "RENDER"], "task must be one of shot, vggt, vae; got 'render'"),
        (["render", "--config", "RUN"], "run.yaml is a configuration of task 'shot', not of 'render'."),
        (["render", "--config", "RENDER", "--set", "rooms.places=0"], "places must be a positive number; got 0"),
        (["render", "--config", "RENDER", "--set", "rooms.clips_per_place=99"], "clips_per_place must be 1 to"),
        (["render", "--config", "RENDER", "--set", "rooms.device=cuda:99"], "There is no device 'cuda:99' here"),
        (["render", "--config", "RENDER", "--set", "blender={}"], "give either 'rooms' or 'blender'"),
        (["calibrate", "--config", "RUN"], "run.yaml reads rooms, which need no calibration. Give a configuration"),
        (["calibrate", "--config", "REAL"], "not laid out as the Scene-Decoupled Video Dataset"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(yaml_file, render_file, tmp_path, capsys, arguments, sentence):
    real = yaml.safe_load(yaml_file.read_text(encoding="utf-8"))
    (tmp_path / "empty").mkdir()
    real["cache"]["source"] = {
        "kind": "scene_decoupled",
        "root": str(tmp_path / "empty"),
        "calibration": str(tmp_path / "c.json"),
    }
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(real), encoding="utf-8")
    names = {"RUN": str(yaml_file), "RENDER": str(render_file), "REAL": str(tmp_path / "real.yaml")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
