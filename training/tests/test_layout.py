"""The released dataset's layout: what is written is read back, and every kind of damage is reported by name."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_places import (
    ACTION,
    CAPTION,
    FRAMES,
    HARBOUR,
    HEIGHT,
    TEMPLE,
    WIDTH,
    filmed,
    place_clips,
    textured_panorama,
    turned,
)

from cinescene_core.checks import FileFormatError, ShapeError
from cinescene_core.config import ViewConfig
from cinescene_core.trajectory.presets import preset_trajectory
from cinescene_core.types import Trajectory
from cinescene_training.data.calibration import Calibration
from cinescene_training.data.captions import without_action
from cinescene_training.data.layout import PlaceClip, SceneDecoupledFootage, write_place
from cinescene_training.data.listing import environment_of, focal_of

VIEW = ViewConfig(num_views=4, width=WIDTH, height=HEIGHT, fov_degrees=90)


@pytest.fixture
def root(written_dataset, tmp_path):
    """A copy to damage."""
    return shutil.copytree(written_dataset, tmp_path / "dataset")


def psnr(first, second):
    return -10 * float((first - second).square().mean().log10())


def test_the_tree_is_the_released_one(written_dataset):
    found = {
        str(path.relative_to(written_dataset))
        for path in written_dataset.rglob("*")
        if path.is_file() and TEMPLE in str(path)
    }
    cameras = ("01_18mm", "02_18mm", "03_18mm")
    assert found == {
        f"camera/whuman/{TEMPLE}/{TEMPLE}_cam.json",
        f"camera/wohuman/{TEMPLE}/{TEMPLE}_cam.json",
        f"panorama/{TEMPLE}/{TEMPLE}_pano.jpeg",
        f"text/whuman/{TEMPLE}/action.json",
        *(f"video/{variant}/{TEMPLE}/{TEMPLE}_{camera}.mp4" for variant in ("whuman", "wohuman") for camera in cameras),
        *(f"depth/wohuman/{TEMPLE}/{TEMPLE}_{camera}.npz" for camera in cameras),
        *(f"mask/whuman/{TEMPLE}/{TEMPLE}_{camera}.npz" for camera in cameras),
    }
    record = json.loads((written_dataset / f"camera/whuman/{TEMPLE}/{TEMPLE}_cam.json").read_text())
    assert list(record) == ["0", "1", "2", "3", "4"]
    assert set(record["0"]) == set(cameras)
    assert record["0"]["01_18mm"] == "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "
    texts = json.loads((written_dataset / f"text/whuman/{TEMPLE}/action.json").read_text())
    assert texts == {"caption": CAPTION, "caption_action_only": ACTION}
    twins = [written_dataset / f"camera/{variant}/{TEMPLE}/{TEMPLE}_cam.json" for variant in ("whuman", "wohuman")]
    assert twins[0].read_bytes() == twins[1].read_bytes()


def test_places_and_clips_are_listed_with_their_captions(written_dataset):
    footage = SceneDecoupledFootage(written_dataset)
    assert [(place.name, place.environment) for place in footage.places] == [
        (TEMPLE, "AncientTempleEnv"),
        (HARBOUR, "HarbourEnv"),
    ]
    assert len(footage.clips) == 2 * 2 * 3
    clips = {clip.name: clip for clip in footage.clips}
    with_subject, without = clips[f"{TEMPLE}/whuman/02_18mm"], clips[f"{TEMPLE}/wohuman/02_18mm"]
    assert (with_subject.place, with_subject.caption, with_subject.has_subject) == (TEMPLE, CAPTION, True)
    assert (without.place, without.caption, without.has_subject) == (TEMPLE, "The court of an old temple.", False)
    assert footage.problems == ()
    assert footage.size == (WIDTH, HEIGHT)


def test_pictures_paths_depth_and_masks_come_back(written_dataset):
    footage = SceneDecoupledFootage(written_dataset)
    written = next(clip for clip in place_clips(textured_panorama(0)) if clip.number == 2)
    for variant, frames in (("whuman", written.with_subject), ("wohuman", written.without_subject)):
        back = footage.frames(f"{TEMPLE}/{variant}/02_18mm", 4)
        assert back.shape == (4, HEIGHT, WIDTH, 3)
        assert psnr(back, frames[:4]) > 32  # 8 bits, a quarter of the colour, quality 17: measured 36
        assert (back.mean((0, 1, 2)) - frames[:4].mean((0, 1, 2))).abs().max() < 0.01  # the right colour matrix
    path = footage.trajectory(f"{TEMPLE}/whuman/02_18mm")
    torch.testing.assert_close(path.world_from_camera, written.trajectory.world_from_camera, rtol=0, atol=1e-6)
    assert path.fps == 15
    torch.testing.assert_close(path.fov_degrees, torch.full((FRAMES,), 90.0).double(), rtol=0, atol=1e-4)
    depth = footage.depth(f"{TEMPLE}/whuman/02_18mm", 3)
    assert torch.equal(depth, written.depth[:3])  # eighths of a metre are exact in half precision
    assert torch.equal(footage.subject_mask(f"{TEMPLE}/wohuman/02_18mm", 3), written.subject_mask[:3])


def test_the_place_may_have_a_caption_of_its_own(tmp_path):
    """Where the rest of a caption is no caption: "In a yard", or words that repeat the action otherwise."""
    panorama = textured_panorama(7)
    for name, words in (
        ("left", {}),
        ("stated", {"caption_place_only": "a yard"}),
        ("none", {"caption_place_only": ""}),
    ):
        clips = place_clips(panorama, moves=("static",), frames=1)
        write_place(
            tmp_path, name, panorama, clips, caption="A robot waves in a yard", caption_action_only="a robot waves",
            **words,
        )  # fmt: skip
    captions = {clip.place: clip.caption for clip in SceneDecoupledFootage(tmp_path).clips if not clip.has_subject}
    assert captions == {"left": "In a yard.", "stated": "a yard", "none": ""}
    texts = json.loads((tmp_path / "text/whuman/stated/action.json").read_text())
    assert list(texts) == ["caption", "caption_action_only", "caption_place_only"]


def test_a_dataset_without_our_additions_has_no_depth(root):
    shutil.rmtree(root / "depth")
    shutil.rmtree(root / "mask")
    footage = SceneDecoupledFootage(root)
    assert footage.problems == ()
    assert footage.depth(footage.clips[0].name, 1) is None
    assert footage.subject_mask(footage.clips[0].name, 1) is None


def test_a_damaged_depth_file_is_named(root):
    path = root / f"depth/wohuman/{TEMPLE}/{TEMPLE}_01_18mm.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileFormatError, match=r"_01_18mm.npz is not a readable file of 'depth'"):
        SceneDecoupledFootage(root).depth(f"{TEMPLE}/wohuman/01_18mm", 1)
    np.savez(path, depth=np.zeros((2, 4, 4), np.float16))
    with pytest.raises(FileFormatError, match=r"must hold at least \[3, h, w\] numbers; got \[2, 4, 4\]"):
        SceneDecoupledFootage(root).depth(f"{TEMPLE}/wohuman/01_18mm", 3)


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (130, 12), (-75, -9)])
def test_the_first_view_is_frame_0(tmp_path, yaw, pitch):
    """A level panorama centred on the start heading, as `write_place` asks for, needs no calibration."""
    panorama = textured_panorama(3)
    clips = place_clips(panorama, moves=("pan_left",), yaw=yaw, pitch=pitch)
    write_place(tmp_path, "court", panorama, clips, caption=CAPTION, caption_action_only=ACTION)
    footage = SceneDecoupledFootage(tmp_path)
    views = footage.views("court", VIEW)
    frame = footage.frames("court/wohuman/01_18mm", 1)[0]
    assert psnr(views.images[0], frame) > 32
    assert psnr(views.images[1], frame) < 20
    assert footage.start_angles("court") == pytest.approx((yaw, pitch), abs=1e-5)
    first = footage.trajectory("court/wohuman/01_18mm").world_from_camera[0]
    torch.testing.assert_close(first, torch.eye(4).double(), rtol=0, atol=1e-8)  # nine decimals are written


def test_the_calibration_turns_the_views_and_sets_the_lens(written_dataset):
    footage = SceneDecoupledFootage(
        written_dataset, Calibration(heading_degrees=-100, pitch_degrees=7, pitch_from="start_view", filmback_mm=23.76)
    )
    still = preset_trajectory("static", num_frames=1)
    expected = filmed(textured_panorama(1), still, -100, 7, 90)[0]
    assert psnr(footage.views(HARBOUR, VIEW).images[0], expected) > 32  # the panorama is a JPEG of quality 95
    # 66.9 degrees is what an 18 mm lens sees on a sensor 23.76 mm wide (reference of MultiCamVideo).
    assert float(footage.trajectory(f"{HARBOUR}/wohuman/01_18mm").fov_degrees[0]) == pytest.approx(66.85, abs=0.01)
    assert Calibration().fov_degrees(24) == pytest.approx(73.74, abs=0.005)
    assert Calibration(filmback_mm=23.76).fov_degrees(24) == pytest.approx(52.67, abs=0.01)


def test_panoramas_that_face_one_way_in_the_world(tmp_path):
    panorama = textured_panorama(4)
    clips = place_clips(panorama, moves=("static",), yaw=60, heading=60 + 25)
    write_place(tmp_path, "court", panorama, clips, caption=CAPTION, caption_action_only=ACTION)
    footage = SceneDecoupledFootage(tmp_path, Calibration(heading_degrees=25, heading_from="world"))
    frame = footage.frames("court/wohuman/01_18mm", 1)[0]
    assert psnr(footage.views("court", VIEW).images[0], frame) > 32


def test_a_lens_that_is_no_whole_number_of_millimetres(tmp_path):
    panorama = textured_panorama(5)
    clips = place_clips(panorama, moves=("static",), stated_fov=70.0)
    write_place(tmp_path, "court", panorama, clips, caption=CAPTION, caption_action_only=ACTION)
    footage = SceneDecoupledFootage(tmp_path)
    assert footage.clips[0].name == "court/whuman/01_25.7067mm"  # 18 / tan(35 degrees)
    assert float(footage.trajectory(footage.clips[0].name).fov_degrees[0]) == pytest.approx(70, abs=2e-4)


def test_a_render_that_was_cut_short_is_listed_and_completed_by_writing_again(tmp_path):
    panorama = textured_panorama(6)

    def interrupted():
        yield next(place_clips(panorama))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_place(tmp_path, "court", panorama, interrupted(), caption=CAPTION, caption_action_only=ACTION)
    footage = SceneDecoupledFootage(tmp_path)
    assert (footage.places, footage.clips) == ((), ())
    assert "1 videos but no camera file" in footage.problems[0].reason
    write_place(tmp_path, "court", panorama, place_clips(panorama), caption=CAPTION, caption_action_only=ACTION)
    footage = SceneDecoupledFootage(tmp_path)
    assert (len(footage.clips), footage.problems) == (6, ())
    with pytest.raises(FileExistsError, match=r"already has the place court. Remove it first"):
        write_place(tmp_path, "court", panorama, [], caption=CAPTION, caption_action_only=ACTION)


def a_clip(number=1, frames=FRAMES, size=(HEIGHT, WIDTH), **changes):
    path = changes.pop("trajectory", preset_trajectory("static", num_frames=frames))
    pictures = torch.rand(frames, *size, 3)
    return PlaceClip(
        **{
            "number": number,
            "trajectory": path,
            "with_subject": pictures,
            "without_subject": pictures,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"number": 0}, ValueError, "PlaceClip.number must be 1 to 99; got 0"),
        (
            {"with_subject": torch.rand(4, HEIGHT, WIDTH, 3)},
            ShapeError,
            r"PlaceClip.with_subject must have shape \[5, 64, 112, 3\]; got \[4",
        ),
        ({"depth": torch.rand(5, 2, 2)}, ShapeError, r"PlaceClip.depth must have shape \[5, 64, 112\]"),
        ({"depth": torch.full((5, HEIGHT, WIDTH), torch.nan)}, ValueError, "PlaceClip.depth holds NaN"),
        (
            {"trajectory": Trajectory(torch.eye(4).repeat(5, 1, 1), torch.linspace(50, 60, 5))},
            ValueError,
            "has one lens; got 50 to 60 degrees. Do not zoom",
        ),
    ],
)
def test_a_clip_that_does_not_fit_the_layout_is_refused(changes, error, sentence):
    with pytest.raises(error, match=sentence):
        a_clip(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"name": "a/b"}, ValueError, "letters, digits and underscores; got 'a/b'"),
        ({"caption": " "}, ValueError, "court needs a caption"),
        ({"clips": lambda: []}, ValueError, "court has no clips"),
        ({"clips": lambda: [a_clip(), a_clip()]}, ValueError, "Two clips have the number 1"),
        ({"clips": lambda: [a_clip(), a_clip(2, frames=9)]}, ShapeError, "one length and size; got .5, .* then .9"),
        (
            {"clips": lambda: [a_clip(), a_clip(2, trajectory=turned(a_clip().trajectory, 5, 0))]},
            ValueError,
            "Clip 2 does not start where clip 1 does",
        ),
        ({"panorama": torch.rand(64, 100, 3)}, ShapeError, "must be equirectangular"),
        ({"clips": lambda: [a_clip(size=(15, 20))]}, ShapeError, "even sides"),
    ],
)
def test_a_place_that_does_not_fit_the_layout_is_refused(tmp_path, changes, error, sentence):
    place = {"name": "court", "panorama": torch.rand(64, 128, 3), "clips": lambda: [a_clip()], "caption": "A room."}
    place |= changes
    with pytest.raises(error, match=sentence):
        write_place(
            tmp_path,
            place["name"],
            place["panorama"],
            place["clips"](),
            caption=place["caption"],
            caption_action_only="",
        )
    assert list((tmp_path / "camera").rglob("*.json")) == []


@pytest.mark.parametrize(
    ("caption", "action", "rest"),
    [
        ("A man runs. A wide street at noon.", "A man runs.", "A wide street at noon."),
        ("In a wide street, a man  runs, at noon.", "a Man runs", "In a wide street, at noon."),
        ("A man runs.", "A man runs.", ""),
        ("A man is running in a street.", "A man runs.", ""),  # rewritten: what still holds is not known
        ("A man runs in a street.", "", ""),
        ("", "A man runs.", ""),
    ],
)
def test_what_is_left_of_a_caption_when_the_subject_is_gone(caption, action, rest):
    assert without_action(caption, action) == rest


@pytest.mark.parametrize(
    ("scene", "environment"),
    [
        ("scene1_3x3_loc1_scene_AncientTempleEnv", "AncientTempleEnv"),
        ("scene12_4x4_loc33_scene_Old_Town", "Old_Town"),
        ("scene7_3x3_loc2_scene_Old-Town v2", "Old-Town v2"),
        ("room_000123", "room_000123"),
    ],
)
def test_the_environment_is_part_of_the_scene_id(scene, environment):
    assert environment_of(scene) == environment


@pytest.mark.parametrize(("camera", "focal"), [("01_24mm", 24), ("12_25.706664mm", 25.706664)])
def test_the_focal_length_is_part_of_the_name(camera, focal):
    assert focal_of(camera) == focal


@pytest.mark.parametrize("camera", ["1_24mm", "01_24", "01_0mm", "01_-3mm", "01_1e3mm", "x" * 1000])
def test_a_camera_without_a_focal_length_is_refused(camera):
    with pytest.raises(FileFormatError, match="its name must be <NN>_<F>mm"):
        focal_of(camera)
