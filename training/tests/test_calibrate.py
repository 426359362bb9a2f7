"""Calibration: places are written with a known heading, pitch and lens, and measured from their files alone."""

import json
import math
import shutil

import pytest
import torch
from tiny_places import ACTION, CAPTION, HEIGHT, WIDTH, filmed, place_clips, textured_panorama

from cinescene_core.checks import FileFormatError
from cinescene_core.config import ViewConfig
from cinescene_core.panorama import example_panorama_path, load_panorama
from cinescene_core.trajectory.presets import preset_trajectory
from cinescene_training.data.calibrate import (
    StartView,
    agree,
    calibrate,
    calibration_report,
    disagreeing,
    run_calibration,
    start_views,
)
from cinescene_training.data.calibration import (
    Calibration,
    PlaceFit,
    load_calibration,
    save_calibration,
    wrap_degrees,
)
from cinescene_training.data.fitting import NotFoundError, place_picture
from cinescene_training.data.footage import Problem
from cinescene_training.data.layout import SceneDecoupledFootage, write_place

STILL = preset_trajectory("static", num_frames=1)
LENS_24MM = math.degrees(2 * math.atan(18 / 24))
"""Half of 36 mm over 24 mm: 73.74 degrees."""
ANGLE, LENS = 0.1, 0.3
"""Degrees within which heading and pitch, and the field of view, must be found."""


def write_places(root, settings, *, seen_fov, stated_fov=LENS_24MM):
    """One place per (yaw, pitch in the world, longitude, latitude in the panorama); its clips are called 24 mm."""
    for seed, (yaw, pitch, heading, tilt) in enumerate(settings):
        panorama = textured_panorama(seed)
        clips = place_clips(
            panorama, moves=("static",), yaw=yaw, pitch=pitch, heading=heading, tilt=tilt, seen_fov=seen_fov,
            stated_fov=stated_fov, frames=1,
        )  # fmt: skip
        name = f"scene{seed}_3x3_loc1_scene_Env{seed}"
        write_place(root, name, panorama, clips, caption=CAPTION, caption_action_only=ACTION)
    return root


@pytest.fixture(scope="module")
def level_places(tmp_path_factory):
    """Panoramas turned with the start view but 37.3 degrees off, and level; the lens is 68 degrees and not 73.74."""
    root = tmp_path_factory.mktemp("level")
    settings = [(yaw, pitch, 37.3, pitch) for yaw, pitch in ((10, -8), (120, 5), (-60, 12))]
    return write_places(root, settings, seen_fov=68.0)


@pytest.fixture(scope="module")
def measured(level_places, tmp_path_factory):
    """The calibration of those places, from its file, and the report."""
    path = tmp_path_factory.mktemp("measured") / "calibration.json"
    report = run_calibration(level_places, path, max_places=10)
    return load_calibration(path), report


def test_heading_pitch_and_lens_are_recovered(measured):
    found, report = measured
    assert (found.heading_from, found.pitch_from) == ("start_view", "world")
    assert found.heading_degrees == pytest.approx(37.3, abs=ANGLE)
    assert found.pitch_degrees == pytest.approx(0, abs=ANGLE)
    assert found.fov_degrees(24) == pytest.approx(68.0, abs=LENS)
    assert len(found.places) == 3
    for place, tilt in zip(found.places, (-8, 5, 12), strict=True):
        assert place.heading_degrees == pytest.approx(37.3, abs=ANGLE)
        assert place.pitch_degrees == pytest.approx(tilt, abs=ANGLE)
        assert place.fov_degrees == pytest.approx(68.0, abs=LENS)
        assert max(map(abs, place.residual_degrees)) < ANGLE
        assert place.correlation > 0.95
    assert "3 places fitted, 0 could not be." in report
    assert f"Heading: {found.heading_degrees:.2f} degrees at every start view" in report
    assert f"24 mm is {found.fov_degrees(24):.2f} degrees" in report


def test_the_calibrated_first_view_is_frame_0(level_places, measured):
    footage = SceneDecoupledFootage(level_places, measured[0])
    clip = next(clip for clip in footage.clips if not clip.has_subject)
    lens = float(footage.trajectory(clip.name).fov_degrees[0])
    config = ViewConfig(num_views=1, width=WIDTH, height=HEIGHT, fov_degrees=lens)
    frame = footage.frames(clip.name, 1)[0]

    def psnr(images):
        return -10 * float((images[0] - frame).square().mean().log10())

    assert psnr(footage.views(clip.place, config).images) > 32  # as close as the compression of both leaves them
    assert psnr(SceneDecoupledFootage(level_places).views(clip.place, config).images) < 20


def test_panoramas_that_face_one_way_and_tilt_with_the_view_are_told_apart(tmp_path):
    settings = [(yaw, pitch, yaw + 20, -3) for yaw, pitch in ((15, -8), (170, 6))]
    write_places(tmp_path, settings, seen_fov=73.74)
    run_calibration(tmp_path, tmp_path / "calibration.json")
    found = load_calibration(tmp_path / "calibration.json")
    assert (found.heading_from, found.pitch_from) == ("world", "start_view")
    assert found.heading_degrees == pytest.approx(20, abs=ANGLE)
    assert found.pitch_degrees == pytest.approx(-3, abs=ANGLE)
    assert found.filmback_mm == pytest.approx(36, abs=0.15)  # 0.3 degrees at 24 mm
    assert found.heading(170) == pytest.approx(-170, abs=ANGLE)


@pytest.mark.parametrize(("heading", "pitch", "fov"), [(-173.0, -14.0, 52.67), (64.0, 21.0, 90.0)])
def test_a_real_looking_place_darker_and_noisy(heading, pitch, fov):
    """The bundled courtyard; exposure and contrast are changed, and every pixel is disturbed by 5 of 255 levels."""
    panorama = load_panorama(example_panorama_path())
    picture = filmed(panorama, STILL, heading, pitch, fov)[0]
    source = torch.Generator().manual_seed(0)
    picture = (0.7 * picture + 0.05 + 0.02 * torch.randn(picture.shape, generator=source)).clamp(0, 1)
    found = place_picture(panorama, picture)
    assert (found.heading_degrees - heading + 180) % 360 - 180 == pytest.approx(0, abs=ANGLE)
    assert found.pitch_degrees == pytest.approx(pitch, abs=ANGLE)
    assert found.fov_degrees == pytest.approx(fov, abs=LENS)


SKY = torch.linspace(1, 0, 256)[:, None, None].expand(256, 512, 3)


def repeated(panorama):
    """The same quarter four times."""
    return panorama[:, :128].repeat(1, 4, 1)


@pytest.mark.parametrize(
    ("panorama", "picture", "sentence"),
    [
        (torch.full((64, 128, 3), 0.5), torch.rand(32, 48, 3), "The panorama is nearly of one brightness"),
        (textured_panorama(0), torch.full((32, 48, 3), 0.5), "The start view is nearly of one brightness"),
        (
            textured_panorama(0),
            filmed(load_panorama(example_panorama_path()), STILL, 0, 0, 70)[0],
            r"is not found in the panorama: the best place correlates by 0\.\d\d, and 0.75 is needed",
        ),
        (
            SKY,
            filmed(SKY, STILL, 0, 5, 70)[0],
            "fits the panorama alike at heading .* it repeats itself or is too even",
        ),
        (
            repeated(textured_panorama(0)),
            filmed(repeated(textured_panorama(0)), STILL, 20, 5, 70)[0],
            "fits the panorama alike at heading",
        ),
    ],
    ids=["even-panorama", "even-view", "another-place", "only-a-sky", "four-equal-sides"],
)
def test_what_cannot_be_placed_is_a_sentence_and_not_a_number(panorama, picture, sentence):
    with pytest.raises(NotFoundError, match=sentence):
        place_picture(panorama, picture)


def fit(place, yaw, heading, fov=73.74, pitch=0.0):
    """As `place_picture` finds them when the camera file says (yaw, 0) and the clip 24 mm."""
    return PlaceFit(
        place=place, heading_degrees=heading, pitch_degrees=pitch, fov_degrees=fov, focal_mm=24,
        start_yaw_degrees=yaw, start_pitch_degrees=0, correlation=0.99,
    )  # fmt: skip


def test_a_place_that_disagrees_is_named_and_does_not_move_the_answer():
    found = agree([fit("a", 0, 179.9), fit("b", 50, -179.9), fit("odd", 90, -176), fit("c", 20, 180), fit("d", 7, 180)])
    assert wrap_degrees(found.heading_degrees - 180) == pytest.approx(0, abs=1e-9)  # across the seam
    assert [departed.place for departed in disagreeing(found)] == ["odd"]
    assert disagreeing(found)[0].residual_degrees[0] == pytest.approx(4)
    assert "Departs: odd by 4.00 in heading" in calibration_report(found)


@pytest.mark.parametrize(
    ("fits", "what"),
    [
        ([fit("a", 0, 100), fit("b", 50, -20), fit("c", 90, 10)], "headings"),
        ([fit("a", 0, 0, pitch=-20), fit("b", 0, 0, pitch=0), fit("c", 0, 0, pitch=20)], "pitches"),
        ([fit("a", 0, 0, fov=50), fit("b", 0, 0, fov=70), fit("c", 0, 0, fov=90)], "fields of view"),
    ],
)
def test_places_that_tell_no_common_story_are_refused(fits, what):
    either = "" if what == "fields of view" else ", read by the start view or by the world"
    start = f"The {what} of 3 places do not agree: half of them are more than"
    with pytest.raises(ValueError, match=rf"{start} [0-9.]+ degrees from the middle{either}\. Check"):
        agree(fits)


def test_the_report_says_what_cannot_be_told():
    report = calibration_report(agree([fit("a", 30, 5), fit("b", 30, 5)]))
    assert "All start views have the same yaw, so whether panoramas are turned with them cannot be told." in report
    assert "All start views have the same pitch, so whether panoramas are tilted with them cannot be told." in report


def test_a_place_without_features_is_a_problem_beside_the_answer():
    views = [
        StartView(
            place=place, panorama=panorama, frame=filmed(panorama, STILL, 5, 0, 73.74)[0], focal_mm=24,
            start_yaw_degrees=0, start_pitch_degrees=0,
        )
        for place, panorama in (("fog", torch.full((256, 512, 3), 0.5)), ("good", textured_panorama(0)))
    ]  # fmt: skip
    found = calibrate(views)
    assert [problem.item for problem in found.problems] == ["fog"]
    assert "nearly of one brightness" in found.problems[0].reason
    assert [measured.place for measured in found.places] == ["good"]


def test_nothing_is_written_when_there_is_no_answer(tmp_path):
    grey = torch.full((64, 128, 3), 0.5)
    clips = list(place_clips(textured_panorama(0), moves=("static",), frames=1))
    write_place(tmp_path / "data", "fog", grey, clips, caption=CAPTION, caption_action_only=ACTION)
    with pytest.raises(ValueError, match="None of 1 places could be calibrated"):
        run_calibration(tmp_path / "data", tmp_path / "calibration.json")
    assert not (tmp_path / "calibration.json").exists()
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        run_calibration(tmp_path / "data", tmp_path / "none" / "calibration.json")
    with pytest.raises(ValueError, match="max_places must be at least 1; got 0"):
        run_calibration(tmp_path / "data", tmp_path / "calibration.json", max_places=0)


def test_a_place_whose_video_is_broken_is_reported(level_places, tmp_path):
    root = shutil.copytree(level_places, tmp_path / "data")
    scene = "scene1_3x3_loc1_scene_Env1"
    for path in (root / "video" / "wohuman" / scene).glob("*.mp4"):
        path.unlink()
    starts = list(start_views(SceneDecoupledFootage(root), max_places=9))
    assert [start.place for start in starts if isinstance(start, StartView)] == [
        "scene0_3x3_loc1_scene_Env0",
        "scene2_3x3_loc1_scene_Env2",
    ]
    problem = next(start for start in starts if isinstance(start, Problem))
    assert problem.item == scene
    assert "It has no clip without the subject" in problem.reason
    report = run_calibration(root, tmp_path / "calibration.json", max_places=1)
    assert "1 places fitted, 0 could not be." in report
    assert f"Broken in the dataset: {scene}/wohuman/01_24mm: There is no video" in report


def test_a_calibration_comes_back_from_its_file(tmp_path):
    found = agree([fit("a", 20, 5), fit("b", 3, 5.1)], [Problem(item="c", reason="It is not there.")])
    save_calibration(found, tmp_path / "a.json")
    assert load_calibration(tmp_path / "a.json") == found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: record.update(format="other"), "is not a calibration of version 1"),
        (lambda record: record.update(version=2), "is not a calibration of version 1"),
        (lambda record: record.pop("filmback_mm"), "Calibration needs the fields .*filmback_mm"),
        (lambda record: record.update(lens=3), "Calibration needs the fields"),
        (lambda record: record.update(filmback_mm="36"), "field 'filmback_mm' of Calibration cannot be '36'"),
        (lambda record: record.update(filmback_mm=0), "filmback_mm must be a positive number"),
        (lambda record: record.update(heading_from="north"), "heading_from must be one of start_view, world"),
        (lambda record: record.update(heading_degrees=float("nan")), "heading_degrees must be a finite number"),
        (lambda record: record.update(places=[{}]), "PlaceFit needs the fields"),
        (lambda record: record.update(problems="none"), "field 'problems' of Calibration cannot be 'none'"),
    ],
)
def test_a_broken_calibration_file_is_refused(tmp_path, change, sentence):
    save_calibration(Calibration(), tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    change(record)
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(FileFormatError, match=sentence):
        load_calibration(tmp_path / "a.json")


def test_a_calibration_that_is_not_there_or_not_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no calibration .* Make it with 'cinescene-train calibrate'"):
        load_calibration(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"a\.json is not valid JSON"):
        load_calibration(tmp_path / "a.json")
