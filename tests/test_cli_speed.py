"""Options of `cinescene generate` that save time: what each does to the shot, and what they refuse."""

import av
import numpy as np
import pytest
import torch

from cinescene_core.cli import main
from cinescene_core.panorama import example_panorama_path
from cinescene_core.scene import load_scene, save_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Five views of the example place, encoded."""
    path = tmp_path_factory.mktemp("place") / "place.safetensors"
    cut = ["--panorama", str(example_panorama_path()), "--num-views", "5"]
    assert main(["encode", *cut, "--device", "cpu", "--out", str(path)]) == 0
    return path


def film(scene, out, *options):
    shot = ["--scene", str(scene), "--prompt", "a red robot walks", "--trajectory", "static", "--frames", "5"]
    return main(["generate", *shot, "--device", "cpu", "--steps", "3", "--out", str(out), *options])


def first_frame(path):
    with av.open(path) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


@pytest.fixture(scope="module")
def plain(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "shot.mp4"
    assert film(scene, out) == 0
    return first_frame(out)


def test_views_that_a_path_never_sees_are_left_out(scene, plain, tmp_path, capsys):
    # Views at 0, 72, 144, 216 and 288 degrees, 90 wide: a still camera sees parts of those beside the first.
    assert film(scene, tmp_path / "seen.mp4", "--select-views") == 0
    tokens = 2 * 6 * 10
    said = capsys.readouterr().out
    assert f"3 of 5 views are read on this path: {3 * tokens:,} of {5 * tokens:,} scene tokens" in said
    assert film(scene, tmp_path / "most.mp4", "--select-views", "0.5") == 0
    assert "1 of 5 views are read on this path" in capsys.readouterr().out
    assert (first_frame(tmp_path / "most.mp4") != plain).any()


def test_a_step_cache_says_what_it_left_out(scene, tmp_path, capsys):
    assert film(scene, tmp_path / "shot.mp4", "--step-cache", "1000") == 0
    # Three steps of two branches: each branch is computed once.
    assert "step cache: 4 of 6 forwards ended behind the first block" in capsys.readouterr().out


def test_the_attention_asked_for_is_the_attention_used(scene, plain, tmp_path, monkeypatch):
    calls = []

    def attention(q, k, v):
        calls.append(q.shape)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    monkeypatch.setattr("cinescene_core.pipeline.attention_backend", {"sdpa": attention}.__getitem__)
    assert film(scene, tmp_path / "shot.mp4", "--attention", "sdpa") == 0
    assert len(calls) == 2 * 4 * 3 * 2  # self and cross, four blocks, three steps, two branches
    assert np.array_equal(first_frame(tmp_path / "shot.mp4"), plain)


def test_compile_is_passed_on(scene, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr("cinescene_core.pipeline.compile_blocks", lambda blocks: compiled.append(len(blocks)))
    assert film(scene, tmp_path / "shot.mp4", "--compile") == 0
    assert compiled == [4]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--attention", "sage"], "attention 'sage' needs the package sageattention, which is not installed. Use"),
        (["--step-cache", "0"], "SpeedConfig.step_cache must be a positive number; got 0.0"),
        (["--select-views", "1"], "is the share of a view that a path must see, from 0 to below 1; got 1. Use 0 to"),
    ],
)
def test_what_cannot_be_is_said(scene, tmp_path, capsys, options, sentence):
    assert film(scene, tmp_path / "shot.mp4", *options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "shot.mp4").exists()


def test_photos_are_not_chosen_from(scene, tmp_path, capsys):
    known = load_scene(scene)
    photos = type(known.views)(known.views.images)
    save_scene(type(known)(photos, known.tokens, known.latents, known.provenance), tmp_path / "photos.safetensors")
    assert film(tmp_path / "photos.safetensors", tmp_path / "shot.mp4", "--select-views") == 2
    assert "their cameras are known, and these are photos. Film with all of them" in capsys.readouterr().err


def test_a_scene_is_not_written_over_itself(scene, tmp_path, capsys):
    assert film(scene, tmp_path / "shot.mp4", "--save-scene", str(scene)) == 2
    assert "the scene that is filmed: it would be written over by itself. Leave --save-scene" in capsys.readouterr().err
