"""Panoramas alone: the clips are the panorama itself, seen by a camera that turns."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cinescene_core.cameras import pixel_rays, rotation_from_angles
from cinescene_core.checks import FileFormatError
from cinescene_core.config import ViewConfig
from cinescene_core.panorama import pixels_to_directions
from cinescene_training.data.panoramas import PanoramaFootage

SIZE = {"width": 64, "height": 32, "num_frames": 9}


def sphere_panorama(height=256):
    """[h, 2h, 3]: a smooth function of the direction, so that what any camera sees is known by formula."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(2 * height), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).double() + 0.5
    return colour_of(pixels_to_directions(pixels, height, 2 * height))


def colour_of(directions):
    unit = directions / directions.norm(dim=-1, keepdim=True)
    x, y, z = unit.unbind(-1)
    return torch.stack([0.5 + 0.4 * x, 0.5 + 0.3 * y + 0.1 * z * x, 0.5 + 0.4 * z * y], dim=-1)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "dunes.npy", sphere_panorama().float().numpy())
    pixels = (sphere_panorama(128).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "hall.png")
    Image.fromarray(pixels).save(tmp_path / "attic.jpg", quality=95)
    return tmp_path


def test_every_panorama_is_a_place_with_three_distinct_pans(folder):
    footage = PanoramaFootage(folder, **SIZE)
    assert [(place.name, place.environment) for place in footage.places] == [
        (name, name) for name in ("attic", "dunes", "hall")
    ]
    assert len(footage.clips) == 9
    for place in footage.places:
        clips = [clip for clip in footage.clips if clip.place == place.name]
        paths = [footage.trajectory(clip.name) for clip in clips]
        ends = [path.world_from_camera[-1] for path in paths]
        assert all(path.travel() == 0 for path in paths)  # a panorama has one viewpoint
        assert all(not torch.equal(ends[a], ends[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        turns = sorted(float(torch.rad2deg(torch.atan2(end[0, 2], end[2, 2]))) for end in ends)
        assert turns[0] == pytest.approx(-75)  # the paper's pan, once to each side (supplement A)
        assert turns[-1] == pytest.approx(75)
        assert 10 <= abs(turns[1]) < 75
        assert not any(clip.has_subject or clip.caption for clip in clips)
    assert footage.problems == ()


def test_moves_with_an_amount_are_made_once_by_that(folder):
    footage = PanoramaFootage(folder, moves=("pan_left", "pan_left=40", "tilt_up=12.5"), **SIZE)
    for place in footage.places:
        ends = {}
        for clip in (clip for clip in footage.clips if clip.place == place.name):
            x, y, z = footage.trajectory(clip.name).world_from_camera[-1, :3, 2]
            ends[clip.name.split("_", 1)[1], round(float(torch.rad2deg(torch.atan2(x, z))), 6)] = float(
                torch.rad2deg(torch.asin(-y))
            )
        assert ends.keys() == {("pan_left", -75.0), ("pan_left", -40.0), ("tilt_up", 0.0)}
        assert ends["tilt_up", 0.0] == pytest.approx(12.5)


def test_frames_are_what_a_turned_camera_sees(folder):
    footage = PanoramaFootage(folder, paths=4, moves=("pan_left", "tilt_up", "tilt_down", "pan_right"), **SIZE)
    rays = pixel_rays(90.0, 64, 32)
    start = rotation_from_angles(footage.heading_degrees("dunes"))
    moves = set()
    for clip in (clip for clip in footage.clips if clip.place == "dunes"):
        path = footage.trajectory(clip.name)
        rotations = start @ path.world_from_camera[:, :3, :3]
        expected = colour_of(torch.einsum("f i j, h w j -> f h w i", rotations, rays)).float()
        # A pixel is a mean over its square; over 2 degrees of this function that differs by less than 1e-3.
        torch.testing.assert_close(footage.frames(clip.name, 9), expected, rtol=0, atol=1e-3)
        moves.add(clip.name.split("_", 1)[1])
    assert moves == {"pan_left", "tilt_up", "tilt_down", "pan_right"}


def test_frame_0_is_the_first_view(folder):
    footage = PanoramaFootage(folder, **SIZE)
    views = footage.views("hall", ViewConfig(num_views=20, width=64, height=32))
    assert len(views) == 20
    clips = [clip for clip in footage.clips if clip.place == "hall"]
    for clip in clips:
        torch.testing.assert_close(footage.frames(clip.name, 1)[0], views.images[0], rtol=0, atol=1e-5)
    forward = views.world_from_camera[0, :3, 2]
    heading = float(torch.rad2deg(torch.atan2(forward[0], forward[2])))
    assert heading == pytest.approx(footage.heading_degrees("hall"))
    assert footage.frames(clips[0].name, 3).shape == (3, 32, 64, 3)


def test_the_seed_and_the_name_decide_and_nothing_else(folder):
    first, again = PanoramaFootage(folder, **SIZE), PanoramaFootage(folder, **SIZE)
    assert first.clips == again.clips
    (folder / "attic.jpg").unlink()
    fewer = PanoramaFootage(folder, **SIZE)
    assert fewer.heading_degrees("hall") == first.heading_degrees("hall")
    name = next(clip.name for clip in fewer.clips if clip.place == "hall")
    assert torch.equal(fewer.trajectory(name).world_from_camera, first.trajectory(name).world_from_camera)
    other = PanoramaFootage(folder, seed=1, **SIZE)
    assert other.heading_degrees("hall") != first.heading_degrees("hall")


def test_captions_are_optional_and_a_misspelt_one_is_reported(folder):
    (folder / "captions.json").write_text(json.dumps({"hall": "A long hall.", "hal": "A long hall."}))
    footage = PanoramaFootage(folder, **SIZE)
    captions = {clip.place: clip.caption for clip in footage.clips}
    assert captions == {"attic": "", "dunes": "", "hall": "A long hall."}
    assert [problem.item for problem in footage.problems] == ["hal"]
    assert "there is no such panorama. Correct the name." in footage.problems[0].reason


def test_a_broken_captions_file_is_refused(folder):
    (folder / "captions.json").write_text('{"hall": 3}')
    with pytest.raises(FileFormatError, match=r"captions\.json: 'hall' must be a text; got '3'"):
        PanoramaFootage(folder, **SIZE)
    (folder / "captions.json").write_text("[]")
    with pytest.raises(FileFormatError, match=r"captions\.json must hold an object of captions; got list"):
        PanoramaFootage(folder, **SIZE)


def test_pictures_that_are_no_panoramas_are_problems(folder):
    Image.new("RGB", (100, 60)).save(folder / "photo.jpg")
    (folder / "torn.png").write_bytes(b"\x89PNG")
    (folder / "sky.exr").write_bytes(b"exr")
    Image.new("RGB", (128, 64)).save(folder / "hall.webp")
    np.save(folder / "grid.npy", np.zeros((10, 10, 3)))
    np.savez(folder / "several.npz", np.zeros((64, 128, 3)))
    (folder / "several.npz").rename(folder / "several.npy")
    (folder / "README.md").write_text("not a picture")
    footage = PanoramaFootage(folder, **SIZE)
    found = {problem.item: problem.reason for problem in footage.problems}
    assert set(found) == {"photo.jpg", "torn.png", "sky.exr", "hall.webp", "grid.npy", "several.npy"}
    assert "cannot be read as a picture" in found["several.npy"]
    assert "must be equirectangular, twice as wide as high; got 100 x 60" in found["photo.jpg"]
    assert "cannot be read as a picture" in found["torn.png"]
    assert ".exr is not read. Save it as .npy" in found["sky.exr"]
    assert "It has the name of hall.png. Rename one of them." in found["hall.webp"]
    assert "got 10 x 10" in found["grid.npy"]
    assert len(footage.places) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_frames": 8}, r"num_frames must be 4n \+ 1"),
        ({"width": 100}, "width and height must be multiples of 16"),
        ({"paths": 0}, "has 1 to 99 paths, of one move at least; got 0 paths of 2 moves"),
        ({"paths": 100}, "got 100 paths of 2 moves"),
        ({"moves": ()}, "got 3 paths of 0 moves"),
        ({"moves": ("dolly_in",)}, "must be one of pan_left, pan_right, tilt_up, tilt_down; got 'dolly_in'"),
        ({"moves": ("pan left",)}, "is one of pan_left, .*, or one with its degrees, as pan_left=40; got 'pan left'"),
        ({"moves": ("pan_left=0",)}, "pan_left must turn by more than 0 and at most 360 degrees; got 0. Correct it."),
        ({"moves": ("tilt_up=91",)}, "tilt_up must turn by more than 0 and at most 90 degrees; got 91"),
        ({"moves": ("pan_left", "pan_left=75")}, "pan_left by 75 degrees is among the moves twice: pan_left, pan_l"),
        ({"moves": ("pan_left", "pan_right=40")}, "has 3 paths and its camera 2 moves; .* Ask for 2 paths, or leave"),
    ],
)
def test_settings_out_of_range_are_refused(folder, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        PanoramaFootage(folder, **{**SIZE, **changes})


def test_a_folder_without_panoramas_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="There is no folder of panoramas"):
        PanoramaFootage(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(FileFormatError, match=r"holds no panorama: looked for \.jpg, .* found notes\.txt"):
        PanoramaFootage(tmp_path)


def test_names_and_frames_that_are_not_there(folder):
    footage = PanoramaFootage(folder, **SIZE)
    with pytest.raises(ValueError, match="has no place 'cellar' that can be used"):
        footage.views("cellar", ViewConfig())
    with pytest.raises(ValueError, match="has no clip 'cellar' that can be used"):
        footage.trajectory("cellar")
    with pytest.raises(ValueError, match=r"has 9 frames; got 77\. Ask for 1 to 9"):
        footage.frames(footage.clips[0].name, 77)
