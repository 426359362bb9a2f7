"""What is missing or broken in a dataset of the released layout is reported by name, and the rest is listed."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from tiny_places import (
    FRAMES,
    HARBOUR,
    HEIGHT,
    TEMPLE,
    WIDTH,
)

from cinescene_core.checks import FileFormatError
from cinescene_core.video import save_video
from cinescene_training.data.layout import SceneDecoupledFootage


@pytest.fixture
def root(written_dataset, tmp_path):
    """A copy to damage."""
    return shutil.copytree(written_dataset, tmp_path / "dataset")


CAM = f"camera/{{}}/{TEMPLE}/{TEMPLE}_cam.json"
VIDEO = f"video/{{}}/{TEMPLE}/{TEMPLE}_{{}}.mp4"
CLIP = f"{TEMPLE}/{{}}/{{}}"


def edit(root, variants, change):
    for variant in variants:
        path = root / CAM.format(variant)
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))


def replace_video(root, frames=FRAMES, width=WIDTH):
    save_video(torch.rand(frames, HEIGHT, width, 3), root / VIDEO.format("whuman", "01_18mm"), 15)


def move(frame, camera="02_18mm"):
    def change(record):
        record[str(frame)][camera] = record[str(frame)][camera].replace("[0 0 0 1]", "[0 50 0 1]")

    return change


def lone_camera(record):
    for frame in record.values():
        frame["first"] = frame["01_18mm"]


def narrow_panorama(root):
    path = root / f"panorama/{TEMPLE}/{TEMPLE}_pano.jpeg"
    Image.open(path).crop((0, 0, 500, 256)).save(path)


BOTH = ("whuman", "wohuman")
DAMAGE = {
    "no-panorama": (
        lambda root: (root / f"panorama/{TEMPLE}/{TEMPLE}_pano.jpeg").unlink(),
        {TEMPLE: "There is no panorama .*_pano.jpeg. The place and its clips are left out"},
        6,
    ),
    "narrow-panorama": (narrow_panorama, {TEMPLE: "must be equirectangular, .* got 500 x 256"}, 6),
    "no-picture": (
        lambda root: (root / f"panorama/{TEMPLE}/{TEMPLE}_pano.jpeg").write_bytes(b"nothing"),
        {TEMPLE: "cannot be read as a picture"},
        6,
    ),
    "no-video": (
        lambda root: (root / VIDEO.format("whuman", "01_18mm")).unlink(),
        {CLIP.format("whuman", "01_18mm"): "There is no video .*_01_18mm.mp4, which .*_cam.json has a camera for"},
        1,
    ),
    "empty-video": (
        lambda root: (root / VIDEO.format("wohuman", "03_18mm")).write_bytes(b""),
        {CLIP.format("wohuman", "03_18mm"): "_03_18mm.mp4 is no video that can be read"},
        1,
    ),
    "too-few-frames": (
        lambda root: replace_video(root, frames=4),
        {CLIP.format("whuman", "01_18mm"): "has 4 frames and .* has 5 poses; every frame needs one"},
        1,
    ),
    "other-size": (
        lambda root: replace_video(root, width=96),
        {CLIP.format("whuman", "01_18mm"): "is 96 x 64 pixels; those of this dataset are 112 x 64"},
        1,
    ),
    "video-without-camera": (
        lambda root: shutil.copy(root / VIDEO.format("whuman", "01_18mm"), root / VIDEO.format("whuman", "07_18mm")),
        {CLIP.format("whuman", "07_18mm"): "_cam.json has no camera 07_18mm for its video"},
        0,
    ),
    "video-of-another-name": (
        lambda root: (root / VIDEO.format("whuman", "01_18mm")).rename(root / f"video/whuman/{TEMPLE}/final.mp4"),
        {
            f"{TEMPLE}/whuman/final.mp4": "must be called .*_<NN>_<F>mm.mp4",
            CLIP.format("whuman", "01_18mm"): "There is no video",
        },
        1,
    ),
    "frame-without-the-camera": (
        lambda root: edit(root, ["whuman"], lambda record: record["3"].pop("02_18mm")),
        {CLIP.format("whuman", "02_18mm"): "frame 3, camera 02_18mm is missing"},
        1,
    ),
    "frame-missing": (
        lambda root: edit(root, ["wohuman"], lambda record: record.pop("2")),
        {f"{TEMPLE}/wohuman": "frame 2 is missing of 4 frames. Export the file again. Its 3 clips are left out"},
        3,
    ),
    "no-focal-length": (
        lambda root: edit(root, ["whuman"], lone_camera),
        {CLIP.format("whuman", "first"): "'first' is no camera; its name must be <NN>_<F>mm"},
        0,
    ),
    "no-camera-file": (
        lambda root: (root / CAM.format("whuman")).unlink(),
        {f"{TEMPLE}/whuman": "It has 3 videos but no camera file .*: a place half written or half copied"},
        3,
    ),
    "half-of-a-place-absent": (
        lambda root: [shutil.rmtree(root / folder / "wohuman" / TEMPLE) for folder in ("camera", "video")],
        {f"{TEMPLE}/wohuman": "It has neither videos nor a camera file"},
        3,
    ),
    "camera-file-cut-short": (
        lambda root: (root / CAM.format("whuman")).write_text('{"0": {"01'),
        {f"{TEMPLE}/whuman": "is not valid JSON: .* Its 3 clips are left out"},
        3,
    ),
    "twins-differ": (
        lambda root: edit(root, ["wohuman"], move(frame=3)),
        {
            CLIP.format(
                "whuman", "02_18mm"
            ): "must be those of .*/wohuman/02_18mm, but are not: frame 3 is 0.5 m and 0 degrees away",
            CLIP.format("wohuman", "02_18mm"): "must be those of .*/whuman/02_18mm",
        },
        2,
    ),
    "starts-differ": (
        lambda root: edit(root, BOTH, move(frame=0)),
        {
            CLIP.format("whuman", "02_18mm"): "starts 0.5 m and 0 degrees from .*; .* start at one viewpoint",
            CLIP.format("wohuman", "02_18mm"): "starts 0.5 m",
        },
        2,
    ),
    "no-caption": (
        lambda root: (root / f"text/whuman/{TEMPLE}/action.json").unlink(),
        {f"{TEMPLE}/whuman": "text/whuman/.*/action.json is missing or empty, and clips with the subject need one"},
        3,
    ),
    "another-caption": (
        lambda root: (root / f"text/whuman/{TEMPLE}/action.json").write_text('{"text": "A robot."}'),
        {f"{TEMPLE}/whuman": "action.json holds no 'caption'"},
        3,
    ),
    "caption-is-a-list": (
        lambda root: (root / f"text/whuman/{TEMPLE}/action.json").write_text('{"caption": ["A robot."]}'),
        {f"{TEMPLE}/whuman": "'caption' must be a text", f"{TEMPLE}/wohuman": "'caption' must be a text"},
        6,
    ),
}


@pytest.mark.parametrize(("damage", "expected", "lost"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_reported_by_name_and_the_rest_is_listed(root, damage, expected, lost):
    damage(root)
    footage = SceneDecoupledFootage(root)
    found = {problem.item: problem.reason for problem in footage.problems}
    if lost == 6 and TEMPLE not in expected:
        expected = {**expected, TEMPLE: "No clip of it can be used"}
    assert set(found) == set(expected)
    for item, sentence in expected.items():
        assert re.search(sentence, found[item]), found[item]
        assert found[item].endswith(".")
    assert len(footage.clips) == 12 - lost
    assert HARBOUR in {place.name for place in footage.places}
    assert not {clip.name for clip in footage.clips} & set(found)
    assert {clip.place for clip in footage.clips} == {place.name for place in footage.places}
    with pytest.raises(ValueError, match=r"has no clip .* that can be used. Check the name"):
        footage.frames("nowhere", 1)


def test_the_reason_is_said_again_when_a_broken_clip_is_asked_for(root):
    (root / VIDEO.format("whuman", "01_18mm")).unlink()
    with pytest.raises(ValueError, match=r"has no clip .* that can be used. There is no video"):
        SceneDecoupledFootage(root).trajectory(CLIP.format("whuman", "01_18mm"))


def test_a_place_whose_clips_all_have_another_size_goes_with_them(root):
    for path in (root / "video").rglob(f"{TEMPLE}_01_18mm.mp4"):
        save_video(torch.rand(FRAMES, HEIGHT, 96, 3), path, 15)
    for path in (root / "video").rglob(f"{TEMPLE}_0[23]_18mm.mp4"):
        path.unlink()
    footage = SceneDecoupledFootage(root)
    assert [place.name for place in footage.places] == [HARBOUR]
    assert {problem.item for problem in footage.problems} >= {TEMPLE, CLIP.format("whuman", "01_18mm")}


def test_a_video_that_is_cut_short_is_found_when_it_is_read(root):
    """Its header stands at the front and still promises every frame."""
    path = root / VIDEO.format("whuman", "01_18mm")
    path.write_bytes(path.read_bytes()[:-2000])
    footage = SceneDecoupledFootage(root)
    assert footage.problems == ()
    with pytest.raises(FileFormatError, match=r"_01_18mm\.mp4 (ends after \d frames; 5 were asked for|is no video)"):
        footage.frames(CLIP.format("whuman", "01_18mm"), FRAMES)


def test_more_frames_than_the_clip_has_are_refused(written_dataset):
    with pytest.raises(FileFormatError, match=r"ends after 5 frames; 77 were asked for. Ask for fewer"):
        SceneDecoupledFootage(written_dataset).frames(CLIP.format("whuman", "01_18mm"), 77)


def test_only_one_variant_is_a_dataset_too(root):
    for folder in ("camera", "video"):
        shutil.rmtree(root / folder / "wohuman")
    footage = SceneDecoupledFootage(root)
    assert footage.problems == ()
    assert len(footage.clips) == 6


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ([], "looked for the folders camera, panorama and video; found nothing"),
        (["train/f18_aperture10/scene1"], "found train. It looks like MultiCamVideo, which is read as 'multicam'"),
        (["panorama", "images"], "found images, panorama. Give the folder that holds them"),
        ([f"{i}" for i in range(20)], "found 0, 1, 10, 11, 12, 13, 14, 15 and 12 more"),
    ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path, folders, sentence):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(FileFormatError, match=f"not laid out as the Scene-Decoupled Video Dataset: .*{sentence}"):
        SceneDecoupledFootage(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="There is no dataset folder"):
        SceneDecoupledFootage(tmp_path / "none")
