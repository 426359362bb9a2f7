"""Jobs, paths and captions: everything that needs no Blender."""

import importlib.util

import pytest
import torch

from cinescene_core.trajectory import preset_trajectory, save_trajectory
from cinescene_training.data.captions import without_action
from cinescene_training.render.blender import BlenderJob, CyclesSettings, render_blender
from cinescene_training.render.blender.job import plan_paths, settle_captions


def job(**changes) -> BlenderJob:
    return BlenderJob(**{"root": "out", "name": "place", "num_frames": 5, **changes})


def test_without_blender_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r'needs its Python package bpy.* pip install "cinescene-training\[blender\]"'
    ):
        render_blender(job())


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"name": "my set"}, ValueError, "A scene id has .*; got 'my set'. Rename the place, or the .blend"),
        ({"num_frames": 80}, ValueError, r"num_frames must be 4n \+ 1.*Use 77 or 81"),
        ({"width": 671}, ValueError, "BlenderJob.width must be even; got 671. Add a pixel."),
        ({"panorama_width": 0}, ValueError, "BlenderJob.panorama_width must be a positive number; got 0"),
        ({"fov_degrees": 180.0}, ValueError, "BlenderJob.fov_degrees must lie between 0 and 180; got 180.0"),
        ({"fps": 0.0}, ValueError, "BlenderJob.fps must be a positive number"),
        ({"moves": ()}, ValueError, "BlenderJob.moves is empty.* Name a preset."),
        ({"source": "courtyrad"}, ValueError, "BlenderJob.source must be courtyard; got 'courtyrad'. Did you mean"),
        ({"source": "nowhere/set.blend"}, FileNotFoundError, "There is no file nowhere/set.blend. Check the path"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(changes, error, sentence):
    with pytest.raises(error, match=sentence):
        job(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"samples": 0}, "CyclesSettings.samples must be a positive number; got 0"),
        ({"device": "GPU"}, "CyclesSettings.device must be one of CPU, CUDA, .*; got 'GPU'."),
        ({"seed": -1}, "CyclesSettings.seed must be 0 to 2147483647; got -1"),
    ],
)
def test_settings_that_cycles_does_not_have_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        CyclesSettings(**changes)


def test_moves_are_presets_amounts_and_files(tmp_path):
    drawn = preset_trajectory("pedestal_up", num_frames=5, fov_degrees=60.0, fps=24.0)
    save_trajectory(drawn, tmp_path / "drawn.json")
    moves = ("arc_left", "pan_right=40.5", str(tmp_path / "drawn.json"))
    arc, pan, own = plan_paths(job(moves=moves, fov_degrees=73.0), subject_distance=2.0)
    # An arc of 75 degrees around a subject 2 metres ahead ends beside it: 2 sin 75 to the left, 2 (1 - cos 75) ahead.
    angle = torch.deg2rad(torch.tensor(75.0, dtype=torch.float64))
    end = torch.stack([-2 * angle.sin(), torch.tensor(0.0).double(), 2 * (1 - angle.cos())])
    torch.testing.assert_close(arc.world_from_camera[-1, :3, 3], end, rtol=0, atol=1e-12)
    turned = torch.rad2deg(torch.atan2(pan.world_from_camera[-1, 0, 2], pan.world_from_camera[-1, 2, 2]))
    assert turned.item() == pytest.approx(40.5, abs=1e-9)
    assert (arc.fov_degrees == 73.0).all()
    assert arc.fps == 15.0
    assert torch.equal(own.world_from_camera, drawn.world_from_camera)
    assert own.fps == 24.0


def test_a_move_that_is_nothing_of_these_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"A move is a preset such as pan_left, .* got 'pan left'. Known presets: static"
    ):
        plan_paths(job(moves=("pan left",)), 4.0)
    with pytest.raises(ValueError, match=r"A move is a preset such as pan_left, .* got 'pan_left=1\.2\.3'"):
        plan_paths(job(moves=("pan_left=1.2.3",)), 4.0)
    with pytest.raises(ValueError, match=r"trajectory preset must be one of .* Did you mean 'pan_left'"):
        plan_paths(job(moves=("pan_lef",)), 4.0)
    with pytest.raises(FileNotFoundError, match="There is no trajectory file"):
        plan_paths(job(moves=(str(tmp_path / "absent.json"),)), 4.0)
    save_trajectory(preset_trajectory("static", num_frames=9), tmp_path / "long.json")
    with pytest.raises(ValueError, match=r"long.json has 9 frames; the clips of this job have 5. Set num_frames to 9"):
        plan_paths(job(moves=(str(tmp_path / "long.json"),)), 4.0)


def test_captions_are_the_jobs_own_or_the_scenes():
    stated = ("a man waves in a yard", "a man waves")
    assert settle_captions(job(), stated) == stated
    assert settle_captions(job(caption="a dog in a yard"), stated) == ("a dog in a yard", "a man waves")
    with pytest.raises(ValueError, match=r"courtyard states no caption. Give one, or add the custom properties"):
        settle_captions(job(), ("", ""))
    # The layout keeps the place of a caption that repeats the action word by word, for the clips without the subject.
    assert "yard" in without_action(*stated)
    assert "man" not in without_action(*stated)
