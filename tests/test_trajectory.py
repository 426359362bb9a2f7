"""Camera paths: film words mean what film people mean."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import CineSceneWarning
from cinescene_core.trajectory import EASINGS, PRESETS, preset_trajectory
from cinescene_core.types import Trajectory

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geometry.json").read_text(encoding="utf-8"))
ROUNDED = 2e-6  # the golden file keeps six decimals
EXACT = 1e-12  # float64 over a few products
OUR_NAME = {"dolly_forward": "dolly_in", "dolly_backward": "dolly_out"}
TURNS = [name for name, preset in PRESETS.items() if preset.kind == "turn"]
ARCS = [name for name, preset in PRESETS.items() if preset.kind == "arc"]
MOVES = [name for name, preset in PRESETS.items() if preset.kind == "move"]
GOLDEN_CASES = {
    k: v for k, v in GOLDEN["trajectories"]["presets"].items() if OUR_NAME.get(v["preset"], v["preset"]) in PRESETS
}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def golden_path(case):
    distance = GOLDEN["trajectories"]["D"]
    amount = Fraction(case["amount"]).limit_denominator(12)  # the file rounds 2/3 to six decimals
    amount = float(amount if case["amount_unit"] == "degrees" else amount * Fraction(distance))
    return preset_trajectory(OUR_NAME.get(case["preset"], case["preset"]), amount=amount, subject_distance=distance)


# ---- first principles -----------------------------------------------------------------------


def test_the_presets_are_the_moves_of_the_paper():
    assert list(PRESETS) == [
        "static", "pan_left", "pan_right", "tilt_up", "tilt_down", "arc_left", "arc_right", "arc_up", "arc_down",
        "dolly_in", "dolly_out", "truck_left", "truck_right", "pedestal_up", "pedestal_down",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "looks_at"),
    [
        ("pan_right", (0.5, 0, math.sqrt(0.75))),
        ("pan_left", (-0.5, 0, math.sqrt(0.75))),
        ("tilt_up", (0, -0.5, math.sqrt(0.75))),
        ("tilt_down", (0, 0.5, math.sqrt(0.75))),
    ],
)
def test_a_turn_of_thirty_degrees_looks_where_it_says_and_stays_in_place(name, looks_at):
    path = preset_trajectory(name, amount=30)
    torch.testing.assert_close(path.world_from_camera[-1, :3, 2], float64(looks_at), rtol=0, atol=EXACT)
    assert torch.equal(path.world_from_camera[:, :3, 3], torch.zeros(77, 3, dtype=torch.float64))
    assert path.travel() == 0


@pytest.mark.parametrize(
    ("name", "goes_to"),
    [
        ("dolly_in", (0, 0, 1.5)),
        ("dolly_out", (0, 0, -1.5)),
        ("truck_left", (-1.5, 0, 0)),
        ("truck_right", (1.5, 0, 0)),
        ("pedestal_up", (0, -1.5, 0)),
        ("pedestal_down", (0, 1.5, 0)),
    ],
)
def test_a_move_of_a_metre_and_a_half_goes_there_without_turning(name, goes_to):
    path = preset_trajectory(name, amount=1.5)
    assert torch.equal(path.world_from_camera[-1, :3, 3], float64(goes_to))
    assert torch.equal(path.world_from_camera[:, :3, :3], torch.eye(3, dtype=torch.float64).expand(77, 3, 3))
    assert path.travel() == 1.5


@pytest.mark.parametrize(
    ("name", "ends_at"),
    [("arc_right", (4, 0, 4)), ("arc_left", (-4, 0, 4)), ("arc_up", (0, -4, 4)), ("arc_down", (0, 4, 4))],
)
def test_a_quarter_arc_ends_beside_the_subject(name, ends_at):
    path = preset_trajectory(name, amount=90, subject_distance=4)
    torch.testing.assert_close(path.world_from_camera[-1, :3, 3], float64(ends_at), rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", ARCS)
@pytest.mark.parametrize("distance", [0.5, 4.0, 30.0])
def test_an_arc_keeps_its_distance_and_keeps_looking_at_the_subject(name, distance):
    path = preset_trajectory(name, amount=61, subject_distance=distance)
    to_subject = float64([0, 0, distance]) - path.world_from_camera[:, :3, 3]
    forward = path.world_from_camera[:, :3, 2]
    torch.testing.assert_close(
        to_subject.norm(dim=-1), torch.full((77,), distance, dtype=torch.float64), rtol=EXACT, atol=0
    )
    torch.testing.assert_close(to_subject / distance, forward, rtol=0, atol=EXACT)
    steps = path.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=-1)
    chord = 2 * distance * math.sin(math.radians(61 / 76) / 2)
    torch.testing.assert_close(steps, torch.full((76,), chord, dtype=torch.float64), rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_frame_is_the_identity_and_every_frame_counts_alike(name):
    poses = preset_trajectory(name).world_from_camera
    assert torch.equal(poses[0], torch.eye(4, dtype=torch.float64))
    step = torch.linalg.inv(poses[:-1]) @ poses[1:]  # the same motion of the camera, 76 times
    torch.testing.assert_close(step, step[:1].expand_as(step), rtol=0, atol=EXACT * 10)


def test_the_full_amount_is_reached_at_the_last_frame_and_not_before():
    yaw = lambda pose: math.degrees(math.atan2(pose[0, 2], pose[2, 2]))  # noqa: E731
    poses = preset_trajectory("pan_right", amount=75, num_frames=5).world_from_camera
    assert [yaw(pose) for pose in poses] == pytest.approx([0, 18.75, 37.5, 56.25, 75], abs=1e-10)


@pytest.mark.parametrize("name", PRESETS)
def test_a_single_frame_is_the_first(name):
    assert torch.equal(preset_trajectory(name, num_frames=1).world_from_camera, torch.eye(4, dtype=torch.float64)[None])


@pytest.mark.parametrize("name", [*TURNS, *ARCS, *MOVES])
def test_an_amount_of_nothing_stands_still(name):
    torch.testing.assert_close(
        preset_trajectory(name, amount=0).world_from_camera,
        preset_trajectory("static").world_from_camera,
        rtol=0,
        atol=0,
    )


def test_latent_poses_are_every_fourth_frame():
    path = preset_trajectory("arc_left")
    kept = path.latent_poses()
    assert kept.shape == (20, 3, 4)
    assert torch.equal(kept, path.relative()[list(range(0, 77, 4))])
    assert torch.equal(kept[-1], path.relative()[76])


def test_the_path_carries_its_lens_its_rate_and_its_story():
    path = preset_trajectory("pan_right", fov_degrees=60, fps=24, subject_distance=3)
    assert torch.equal(path.fov_degrees, torch.full((77,), 60.0, dtype=torch.float64))
    assert (path.fps, path.subject_distance) == (24, 3)
    assert path.provenance == "pan_right 75.0 degrees over 77 frames, linear"
    assert preset_trajectory("truck_left", subject_distance=3, num_frames=5, easing="cosine").provenance == (
        "truck_left 1.5 metres over 5 frames, cosine"
    )
    assert preset_trajectory("static").provenance == "static over 77 frames, linear"


# ---- golden ---------------------------------------------------------------------------------


def test_the_golden_file_covers_every_move_but_its_own_roll():
    assert len(GOLDEN_CASES) == 17
    assert {OUR_NAME.get(case["preset"], case["preset"]) for case in GOLDEN_CASES.values()} == set(PRESETS) - {"static"}


@pytest.mark.filterwarnings("ignore:dolly_in travels:cinescene_core.checks.CineSceneWarning")
@pytest.mark.parametrize("key", GOLDEN_CASES)
def test_golden_poses(key):
    case = GOLDEN_CASES[key]
    path = golden_path(case)
    relative = path.relative()
    for frame, pose in case["frames"].items():
        torch.testing.assert_close(relative[int(frame)], float64(pose), rtol=0, atol=ROUNDED)
    assert float(relative.sum()) == pytest.approx(case["checksum_sum_all"], abs=ROUNDED)
    assert float(relative.abs().sum()) == pytest.approx(case["checksum_abs_sum_all"], abs=ROUNDED)
    length = float(relative[:, :, 3].diff(dim=0).norm(dim=-1).sum())
    assert length == pytest.approx(case["path_length"], abs=ROUNDED)
    subject = torch.linalg.inv(path.world_from_camera[-1]) @ float64([0, 0, path.subject_distance, 1])
    torch.testing.assert_close(subject[:3], float64(case["subject_in_camera_last"]), rtol=0, atol=ROUNDED)


@pytest.mark.parametrize("yaw", GOLDEN["start_yaw"]["cases"])
def test_relative_poses_do_not_depend_on_where_the_shot_starts(yaw):
    case = GOLDEN["start_yaw"]["cases"][yaw]
    path = preset_trajectory("arc_right", amount=75, subject_distance=3)
    heading = rotation_from_angles(float(yaw))
    start = pose_from(heading, -3 * heading[:, 2])
    moved = Trajectory(start @ path.world_from_camera, path.fov_degrees)
    torch.testing.assert_close(moved.world_from_camera[0, :3], float64(case["c2w_0"]), rtol=0, atol=ROUNDED)
    torch.testing.assert_close(moved.world_from_camera[76, :3], float64(case["c2w_76"]), rtol=0, atol=ROUNDED)
    torch.testing.assert_close(moved.relative()[76], float64(case["rel_76"]), rtol=0, atol=ROUNDED)
    torch.testing.assert_close(moved.relative(), path.relative(), rtol=0, atol=EXACT * 10)


@pytest.mark.parametrize("name", EASINGS)
def test_golden_easing(name):
    progress = float64([float(key) for key in GOLDEN["easing"]])
    expected = float64([case[name] for case in GOLDEN["easing"].values()])
    torch.testing.assert_close(EASINGS[name](progress), expected, rtol=0, atol=ROUNDED)


@pytest.mark.parametrize("name", EASINGS)
def test_easing_starts_and_ends_exactly_and_never_turns_back(name):
    eased = EASINGS[name](torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (eased[0], eased[-1]) == (0, 1)
    assert (eased.diff() > 0).all()
    torch.testing.assert_close(
        eased + eased.flip(0), torch.ones(1001).double(), rtol=0, atol=EXACT
    )  # comes to rest as it started


def test_easing_changes_the_way_and_not_the_goal():
    plain, eased = (preset_trajectory("truck_right", amount=2, easing=name) for name in ("linear", "cosine"))
    assert torch.equal(plain.world_from_camera[[0, -1]], eased.world_from_camera[[0, -1]])
    assert float(eased.world_from_camera[19, 0, 3]) == pytest.approx(2 * 0.1464466094, abs=1e-9)


# ---- the preset's own record ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit", "low", "high"),
    [
        ("pan_left", "degrees", 75, 75),
        ("arc_right", "degrees", 75, 75),
        ("tilt_up", "degrees", 10, 45),
        ("arc_down", "degrees", 10, 45),
        ("truck_left", "metres", 1.5, 12),
        ("truck_right", "metres", 1.5, 12),
        ("dolly_in", "metres", 1.5, 7.5),
        ("dolly_out", "metres", 1.5, 12),
        ("pedestal_up", "metres", 1.5, 4),
        ("pedestal_down", "metres", 1.5, 4),
        ("static", "", 0, 0),
    ],
)
def test_the_record_states_the_range_of_the_paper_for_a_subject_at_six_metres(name, unit, low, high):
    preset = PRESETS[name]
    assert preset.unit == unit
    assert preset.trained_range(6) == pytest.approx((low, high))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("distance", [1.0, 4.0, 9.0])
def test_the_default_is_in_the_range_and_is_what_the_path_does(name, distance):
    preset = PRESETS[name]
    low, high = preset.trained_range(distance)
    amount = preset.default_amount(distance)
    assert low <= amount <= high <= preset.largest_amount
    given = preset_trajectory(name, amount=amount, subject_distance=distance)
    assert torch.equal(given.world_from_camera, preset_trajectory(name, subject_distance=distance).world_from_camera)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_does_in_one_line(name):
    description = PRESETS[name].description
    assert description.startswith("The camera ")
    assert description.endswith(".")
    assert "\n" not in description


# ---- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("pan_rigth", {}), r"preset must be one of static, .*; got 'pan_rigth'\. Did you mean 'pan_right'\?"),
        (("wobble", {}), r"pedestal_down; got 'wobble'\.$"),
        (("pan_left", {"easing": "smooth"}), r"easing must be one of linear, .* Did you mean 'smoothstep'\?"),
        (("pan_left", {"amount": -20}), r"amount must not be negative; got -20\.0\. Use pan_right with 20\.0\."),
        (("arc_up", {"amount": -20}), r"Use arc_down with 20\.0\."),
        (("dolly_in", {"amount": -1}), r"Use dolly_out with 1\.0\."),
        (("tilt_up", {"amount": math.nan}), r"tilt_up: amount must be a finite number of degrees; got nan\."),
        (("truck_left", {"amount": math.inf}), r"amount must be a finite number of metres; got inf\."),
        (("pan_left", {"amount": 361}), r"amount is in degrees and may be at most 360; got 361\.0\."),
        (("truck_left", {"amount": 1500}), r"amount is in metres and may be at most 1000; got 1500\.0\."),
        (("static", {"amount": 10}), r"static does not move, so it takes no amount; got 10\.0\."),
        (("static", {"num_frames": 78}), r"num_frames must be 4n \+ 1 .*; got 78\. Use 77 or 81\."),
        (("static", {"num_frames": 0}), r"got 0\. Use 1 or 5\."),
        (("static", {"subject_distance": 0}), r"subject_distance must be a positive number; got 0\."),
        (("static", {"subject_distance": math.nan}), r"subject_distance must be a positive number; got nan\."),
        (("static", {"fps": -1}), r"fps must be a positive number; got -1\."),
        (("static", {"fov_degrees": 180}), r"fov_degrees must lie between 0 and 180; got 180"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_words(arguments, sentence):
    name, options = arguments
    with pytest.raises(ValueError, match=sentence):
        preset_trajectory(name, **options)


def test_amounts_outside_the_trained_range_are_allowed_without_a_word():
    preset_trajectory("pan_right", amount=20)
    preset_trajectory("pan_right", amount=360)
    preset_trajectory("tilt_up", amount=90)


def test_a_dolly_through_the_subject_is_said():
    preset_trajectory("dolly_in", amount=3.9)
    with pytest.warns(CineSceneWarning, match=r"dolly_in travels 4\.5 metres but the subject is 4 metres away"):
        preset_trajectory("dolly_in", amount=4.5)


@pytest.mark.parametrize("name", ["tilt_up", "arc_down"])
def test_turning_over_the_top_is_said(name):
    with pytest.warns(CineSceneWarning, match=rf"{name} by 100 degrees goes beyond the vertical"):
        preset_trajectory(name, amount=100)
