"""MultiCamVideo: every camera of a scene is a target once, and the others are its context."""

import json
import shutil

import pytest
import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import FileFormatError
from cinescene_core.config import ViewConfig
from cinescene_core.types import Trajectory
from cinescene_core.video import save_video
from cinescene_training.data.multicam import MultiCamFootage
from cinescene_training.data.unreal import write_camera_file

FRAMES, SIDE = 9, 64
SCENE = "f18_aperture10/scene3"


def shade(camera, frame):
    """A grey that tells camera and moment: 0.1 to 0.9, steps far above what compression changes."""
    return 0.1 + 0.27 * (camera - 1) + 0.026 * frame


def path_of(camera):
    """All start alike, then each turns and travels in its own way."""
    progress = torch.arange(FRAMES).double() / (FRAMES - 1)
    rotation = rotation_from_angles(30 + 10 * camera * progress, 5.0)
    centre = torch.stack([progress * camera, 0 * progress, 2 * progress], dim=-1) + torch.tensor([7.0, 1.0, 2.0])
    return Trajectory(pose_from(rotation, centre), fov_degrees=90)


def write_scene(root, scene=SCENE, cameras=(1, 2, 3)):
    folder = root / "train" / scene
    for name in ("videos", "cameras"):
        (folder / name).mkdir(parents=True)
    for camera in cameras:
        grey = torch.tensor([shade(camera, frame) for frame in range(FRAMES)])
        video = grey[:, None, None, None].expand(FRAMES, SIDE, SIDE, 3).clone()
        video[:, : SIDE // 8] = 1.0  # a white bar at the top, which a wide cut takes away
        save_video(video, folder / "videos" / f"cam{camera:02d}.mp4", 15)
    paths = {f"cam{camera:02d}": path_of(camera) for camera in cameras}
    write_camera_file(folder / "cameras" / "camera_extrinsics.json", paths, spelling="multicam")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("multicam")
    write_scene(root)
    write_scene(root, "f50_aperture2.4/scene1", cameras=(1, 2))
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "dataset")


def test_every_camera_is_a_place_and_a_clip(whole):
    footage = MultiCamFootage(whole, width=64, height=32)
    places = {place.name: place.environment for place in footage.places}
    assert places == {
        **{f"{SCENE}/cam0{camera}": SCENE for camera in (1, 2, 3)},
        **{f"f50_aperture2.4/scene1/cam0{camera}": "f50_aperture2.4/scene1" for camera in (1, 2)},
    }
    clips = {clip.name: clip for clip in footage.clips}
    assert clips[f"{SCENE}/whuman/cam02"].place == f"{SCENE}/cam02"
    assert all(clip.has_subject and clip.caption == "" for clip in clips.values())
    assert footage.problems == ()


@pytest.mark.parametrize(("folder", "lens"), [(SCENE, 66.9), ("f50_aperture2.4/scene1", 26.7)])
def test_the_lens_is_that_of_the_datasets_sensor(whole, folder, lens):
    """Fields of view of MultiCamVideo's lenses before its 23.76 mm sensor."""
    footage = MultiCamFootage(whole, width=64, height=32)
    path = footage.trajectory(f"{folder}/whuman/cam01")
    assert float(path.fov_degrees[0]) == pytest.approx(lens, abs=0.06)  # published with one decimal


def test_a_tall_cut_narrows_the_lens(whole):
    """Half of the width is kept: tan(fov / 2) halves, to 11.88 / 2 over 18."""
    footage = MultiCamFootage(whole, width=32, height=64)
    lens = footage.trajectory(f"{SCENE}/whuman/cam01").fov_degrees[0]
    assert float(torch.tan(torch.deg2rad(lens) / 2)) == pytest.approx(23.76 / 2 / 18 / 2)


def test_paths_and_frames(whole):
    footage = MultiCamFootage(whole, width=64, height=32)
    path = footage.trajectory(f"{SCENE}/whuman/cam02")
    expected = path_of(2).relative()
    torch.testing.assert_close(path.relative(), expected, rtol=0, atol=1e-6)
    frames = footage.frames(f"{SCENE}/whuman/cam02", 4)
    assert frames.shape == (4, 32, 64, 3)
    for index in range(4):
        # 8 bits, a limited range and compression: two levels. The bar at the top is cut away: square to wide.
        torch.testing.assert_close(frames[index], torch.full((32, 64, 3), shade(2, index)), rtol=0, atol=2.5 / 255)


def test_views_start_with_frame_0_and_spread_over_cameras_and_time(whole):
    footage = MultiCamFootage(whole, width=64, height=32)
    views = footage.views(f"{SCENE}/cam02", ViewConfig(num_views=5, width=64, height=32))
    # Four others from cameras 1 and 3 in turn, at 1/4, 2/4, 3/4 and 4/4 of the eight steps.
    picks = [(2, 0), (1, 2), (3, 4), (1, 6), (3, 8)]
    start = path_of(2).world_from_camera[0]
    for index, (camera, frame) in enumerate(picks):
        assert float(views.images[index].mean()) == pytest.approx(shade(camera, frame), abs=2.5 / 255)
        expected = torch.linalg.inv(start) @ path_of(camera).world_from_camera[frame]
        torch.testing.assert_close(views.world_from_camera[index], expected, rtol=0, atol=1e-6)
    assert views.fov_degrees == pytest.approx(66.85, abs=0.01)


def test_more_views_than_moments_never_repeat_the_start(whole):
    footage = MultiCamFootage(whole, width=64, height=32)
    views = footage.views("f50_aperture2.4/scene1/cam01", ViewConfig(num_views=20, width=64, height=32))
    start = views.images[0].mean()
    assert all(abs(float(image.mean() - start)) > 0.02 for image in views.images[1:])


def test_captions_are_optional_and_a_misspelt_one_is_reported(root):
    (root / "captions.json").write_text(json.dumps({SCENE: "A robot dances.", "f18/scene3": "A robot dances."}))
    footage = MultiCamFootage(root, width=64, height=32)
    captions = {clip.caption for clip in footage.clips if clip.place.startswith(SCENE)}
    assert captions == {"A robot dances."}
    assert [problem.item for problem in footage.problems] == ["f18/scene3"]


def short_video(folder):
    save_video(torch.rand(5, SIDE, SIDE, 3), folder / "videos" / "cam02.mp4", 15)


def other_size(folder):
    save_video(torch.rand(FRAMES, SIDE, 32, 3), folder / "videos" / "cam02.mp4", 15)


def lost_camera(folder):
    path = folder / "cameras" / "camera_extrinsics.json"
    record = json.loads(path.read_text())
    del record["frame4"]["cam02"]
    path.write_text(json.dumps(record))


def two_videos_gone(folder):
    for name in ("cam01", "cam02"):
        (folder / "videos" / f"{name}.mp4").unlink()


def no_focal_length(folder):
    folder.parent.rename(folder.parent.with_name("fx_aperture10"))


CLIP = f"{SCENE}/whuman/cam02"


@pytest.mark.parametrize(
    ("damage", "item", "sentence", "left"),
    [
        (lambda folder: (folder / "videos" / "cam02.mp4").unlink(), CLIP, "There is no video cam02.mp4", 2),
        (lambda folder: (folder / "videos" / "cam02.mp4").write_bytes(b""), CLIP, "is no video that can be read", 2),
        (short_video, CLIP, "cam02.mp4 has 5 frames and camera_extrinsics.json has 9 poses", 2),
        (other_size, CLIP, "The video is 32 x 64 pixels; the other cameras' are not", 2),
        (lost_camera, CLIP, "frame 4, camera cam02 is missing", 2),
        (
            lambda folder: shutil.copy(folder / "videos" / "cam02.mp4", folder / "videos" / "cam09.mp4"),
            f"{SCENE}/whuman/cam09",
            "has no camera cam09 for its video",
            3,
        ),
        (lambda folder: shutil.rmtree(folder / "cameras"), SCENE, "The scene and its 3 clips are left out", 0),
        (two_videos_gone, f"{SCENE}/whuman/cam03", "It is the only camera of its scene that can be used", 0),
        (no_focal_length, "fx_aperture10/scene3", "fx_aperture10 must be called f<focal length in mm>_aperture<A>", 0),
    ],
)  # fmt: skip
def test_damage_is_reported_by_name_and_the_rest_is_listed(root, damage, item, sentence, left):
    damage(root / "train" / SCENE)
    footage = MultiCamFootage(root, width=64, height=32)
    found = {problem.item: problem.reason for problem in footage.problems}
    assert sentence in found[item]
    assert sum(clip.name.startswith(SCENE) for clip in footage.clips) == left
    assert {clip.place for clip in footage.clips} == {place.name for place in footage.places}
    assert sum(clip.name.startswith("f50") for clip in footage.clips) == 2


@pytest.mark.parametrize(("folders", "found"), [([], "nothing"), (["camera", "panorama"], "camera, panorama")])
def test_a_folder_of_another_layout_is_refused(tmp_path, folders, found):
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(FileFormatError, match=f"not laid out as MultiCamVideo: looked for train/.*; found {found}"):
        MultiCamFootage(tmp_path)


def test_names_and_sizes_that_are_wrong(whole):
    footage = MultiCamFootage(whole, width=64, height=32)
    with pytest.raises(ValueError, match="has no place 'x' that can be used"):
        footage.views("x", ViewConfig())
    with pytest.raises(ValueError, match="has no clip 'x' that can be used"):
        footage.frames("x", 1)
    with pytest.raises(FileFormatError, match="ends after 9 frames; 77 were asked for"):
        footage.frames(CLIP, 77)
    with pytest.raises(ValueError, match="multiples of 16"):
        MultiCamFootage(whole, width=100)
