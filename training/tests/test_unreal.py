"""Camera files: the numbers of another engine mean the same poses, there and back, and what is broken is named."""

import json
import math
import re

import pytest
import torch

from cinescene_core.cameras import pose_from, relative_poses, rotation_from_angles
from cinescene_core.checks import FileFormatError, PoseError
from cinescene_core.trajectory.presets import preset_trajectory
from cinescene_core.types import Trajectory
from cinescene_training.data.unreal import opencv_to_unreal, read_camera_file, unreal_to_opencv, write_camera_file

# One pose written out for both engines, from the table of conversions (golden/geometry.json, `conversions`): built
# from yaw 30, pitch 10, roll 5 degrees and the centre (1, 2, 3), checked there against Unreal's rotator formula.
ANGLES, CENTRE = (30.0, 10.0, 5.0), (1.0, 2.0, 3.0)
UNREAL_ROWS = [
    [0.852869, 0.492404, 0.173648, 0.0],
    [-0.484991, 0.870297, -0.085832, 0.0],
    [-0.193389, -0.011015, 0.98106, 0.0],
    [300.0, 100.0, -200.0, 1.0],
]
IDENTITY = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "


def text_of(rows):
    return "".join(f"[{' '.join(map(str, row))}] " for row in rows)


def write(path, record):
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def a_walk(frames=9, seed=0):
    source = torch.Generator().manual_seed(seed)
    angles = torch.rand(3, frames, generator=source).double() * 80 - 40
    return Trajectory(
        pose_from(rotation_from_angles(*angles), torch.randn(frames, 3, generator=source).double() * 5),
        fov_degrees=73.7,
    )


def published_reader(matrices):
    """What ReCamMaster's loader does to the same matrices, step by step, in the units of the file."""
    columns = matrices.mT[:, :, [1, 2, 0, 3]].clone()
    columns[:, :3, 1] *= -1
    columns[:, :3, 3] /= 100
    return torch.linalg.inv(columns[:1]) @ columns


def test_the_published_pose_is_read_to_its_digits():
    pose = unreal_to_opencv(torch.tensor([UNREAL_ROWS], dtype=torch.float64), "golden")[0]
    expected = pose_from(rotation_from_angles(*ANGLES), torch.tensor(CENTRE).double())
    torch.testing.assert_close(pose, expected, rtol=0, atol=1e-6)  # six decimals are given


def test_a_pose_is_written_as_published():
    pose = pose_from(rotation_from_angles(*ANGLES), torch.tensor(CENTRE).double())
    expected = torch.tensor(UNREAL_ROWS, dtype=torch.float64)
    torch.testing.assert_close(opencv_to_unreal(pose[None])[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "centre"),
    [((100, 0, 0), (0, 0, 1)), ((0, 100, 0), (1, 0, 0)), ((0, 0, 100), (0, -1, 0))],
    ids=["unreal-x-is-forward", "unreal-y-is-right", "unreal-z-is-up"],
)
def test_a_metre_along_each_of_unreals_axes(tmp_path, step, centre):
    moved = IDENTITY.replace("[0 0 0 1]", f"[{step[0]} {step[1]} {step[2]} 1]")
    path = write(tmp_path / "a.json", {"0": {"01_24mm": IDENTITY}, "1": {"01_24mm": moved}})
    got = read_camera_file(path).trajectory("01_24mm", fov_degrees=90, fps=15)
    assert got.world_from_camera[1, :3, 3].tolist() == list(map(float, centre))


def test_relative_poses_are_those_of_the_published_reader(tmp_path):
    walk = a_walk()
    write_camera_file(tmp_path / "a.json", {"cam01": walk}, spelling="multicam")
    record = json.loads((tmp_path / "a.json").read_text())
    matrices = torch.tensor(
        [
            [float(word) for word in re.findall(r"[-\d.e]+", record[f"frame{index}"]["cam01"])]
            for index in range(len(walk))
        ]
    ).double()
    expected = published_reader(matrices.unflatten(-1, (4, 4)))
    got = read_camera_file(tmp_path / "a.json").trajectory("cam01", fov_degrees=90, fps=15)
    torch.testing.assert_close(got.world_from_camera, expected, rtol=0, atol=1e-6)  # float32 in this test's parser


def test_a_round_trip_keeps_every_pose(tmp_path):
    walk, pan = a_walk(), preset_trajectory("pan_left", num_frames=9)
    write_camera_file(tmp_path / "a.json", {"01_18mm": walk, "02_18mm": pan})
    cameras = read_camera_file(tmp_path / "a.json")
    assert cameras.cameras == ("01_18mm", "02_18mm")
    # Nine decimals of centimetres and of axes; metres times the sine of 1e-9 stays far below 1e-6.
    torch.testing.assert_close(cameras.poses("01_18mm"), walk.world_from_camera, rtol=0, atol=1e-8)
    back = cameras.trajectory("01_18mm", fov_degrees=73.7, fps=24)
    torch.testing.assert_close(back.world_from_camera, relative_poses(walk.world_from_camera), rtol=0, atol=1e-7)
    torch.testing.assert_close(
        cameras.trajectory("02_18mm", fov_degrees=90, fps=15).world_from_camera,
        pan.world_from_camera,
        rtol=0,
        atol=1e-7,
    )
    assert (back.fps, float(back.fov_degrees[3]), back.provenance) == (24, 73.7, "a.json 01_18mm")


@pytest.mark.parametrize(("spelling", "keys"), [("scene-decoupled", ["0", "1"]), ("multicam", ["frame0", "frame1"])])
def test_both_spellings_are_written_as_the_datasets_have_them(tmp_path, spelling, keys):
    still = preset_trajectory("static", num_frames=1)
    two = Trajectory(still.world_from_camera.repeat(2, 1, 1), fov_degrees=90)
    write_camera_file(tmp_path / "a.json", {"cam01": two}, spelling=spelling)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record == {key: {"cam01": IDENTITY} for key in keys}


@pytest.mark.parametrize(
    "text",
    [
        "  [1e0 0 -0.0 0.]\t[0 1.0E+00 0 0][0 0 1 0]\n  [ 1.5e+2   .5 -2E-1 1 ]  ",
        "[+1 0 0 0] [0 1 0 0] [0 0 1 0] [150 0.5 -0.2 1]",
    ],
)
def test_numbers_may_have_exponents_and_blanks_may_be_many(tmp_path, text):
    path = write(tmp_path / "a.json", {"0": {"c": text}})
    centre = read_camera_file(path).poses("c")[0, :3, 3]
    torch.testing.assert_close(centre, torch.tensor([0.005, 0.002, 1.5]).double(), rtol=0, atol=1e-9)


def test_frames_are_ordered_by_number_and_not_by_letter(tmp_path):
    frames = {str(index): {"c": IDENTITY.replace("[0 0 0 1]", f"[{index} 0 0 1]")} for index in range(12)}
    path = write(tmp_path / "a.json", dict(sorted(frames.items())))  # "10" and "11" come before "2"
    forward = read_camera_file(path).poses("c")[:, 2, 3] * 100
    torch.testing.assert_close(forward, torch.arange(12).double())


@pytest.mark.parametrize(
    ("matrix", "error", "sentence"),
    [
        ("[1 0 0 0] [0 1 0 0] [0 0 1 0]", FileFormatError, r"a\.json: frame 1, camera c must be four rows of four"),
        (IDENTITY.replace("1 0 0 0", "1 0 0"), FileFormatError, "frame 1, camera c must be four rows of four numbers"),
        (IDENTITY.replace("1 0 0 0", "nan 0 0 0"), FileFormatError, "frame 1, camera c must be four rows"),
        (IDENTITY.replace("1 0 0 0", "__import__('os') 0 0 0"), FileFormatError, "frame 1, camera c must be"),
        (IDENTITY + " " * 2000, FileFormatError, "frame 1, camera c must be four rows"),
        ([1, 2], FileFormatError, r"frame 1, camera c must be .*; got '\[1, 2\]'"),
        (IDENTITY.replace("[1 0", "[-1 0"), PoseError, r"a\.json, camera c: frame 1: its axes are mirrored"),
        (IDENTITY.replace("[1 0", "[2 0"), PoseError, "a.json, camera c: frame 1 is not a rigid .* not orthonormal"),
        (IDENTITY.replace("1 0 0 0]", "1 0 0 5]"), PoseError, "frame 1: the last number of its rows .* transposed"),
        (None, FileFormatError, "frame 1, camera c is missing. Every frame must have a matrix for it"),
    ],
    ids=[
        "three-rows",
        "three-numbers",
        "nan",
        "code",
        "too-long",
        "list",
        "mirrored",
        "scaled",
        "transposed",
        "absent",
    ],
)
def test_a_broken_matrix_is_named_by_file_frame_and_camera(tmp_path, matrix, error, sentence):
    second = {"other": IDENTITY} if matrix is None else {"c": matrix, "other": IDENTITY}
    path = write(tmp_path / "a.json", {"0": {"c": IDENTITY, "other": IDENTITY}, "1": second})
    cameras = read_camera_file(path)
    with pytest.raises(error, match=sentence):
        cameras.poses("c")
    assert len(cameras.poses("other")) == 2  # its neighbour is not spoilt


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ("{", r"a\.json is not valid JSON"),
        ('{"0": {}, "0": {}}', "not valid JSON: the key '0' is given twice"),
        ('{"0": {"c": "", "c": ""}}', "the key 'c' is given twice"),
        ("[" * 100_000, "not valid JSON"),
        ([], r"must map frames \('0' or 'frame0'\) to cameras; got '\[\]'"),
        ({"0": {}, "frame1": {}}, "spells its frames both '0' and 'frame0'"),
        ({"0": {}, "2": {}}, "frame 1 is missing of 2 frames"),
        ({"first": {}}, "every key must be a frame .*; got 'first'"),
        ({"00": {}}, "every key must be a frame .*; got '00'"),
        ({"0": []}, "every key must be a frame"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, record, sentence):
    path = write(tmp_path / "a.json", record)
    with pytest.raises(FileFormatError, match=sentence):
        read_camera_file(path)


def test_a_missing_and_a_huge_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no camera file"):
        read_camera_file(tmp_path / "a.json")
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(FileFormatError, match="has 65 MiB; a camera file has at most 64"):
        read_camera_file(tmp_path / "a.json")


def test_paths_of_different_lengths_are_not_written(tmp_path):
    paths = {"a": preset_trajectory("static", num_frames=5), "b": preset_trajectory("static", num_frames=9)}
    with pytest.raises(ValueError, match="must have paths of one length; got 5, 9 frames"):
        write_camera_file(tmp_path / "a.json", paths)
    with pytest.raises(ValueError, match="one length; got none frames"):
        write_camera_file(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_angles_of_the_start_are_those_of_unreals_rotator():
    """FRotator's yaw turns right and its pitch looks up, as ours do."""
    yaw, pitch = math.radians(40), math.radians(-12)
    forward = [math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)]
    right = [-math.sin(yaw), math.cos(yaw), 0.0]
    up = [-math.sin(pitch) * math.cos(yaw), -math.sin(pitch) * math.sin(yaw), math.cos(pitch)]
    rows = torch.tensor([[*forward, 0], [*right, 0], [*up, 0], [0, 0, 0, 1]], dtype=torch.float64)
    pose = unreal_to_opencv(rows[None], "rotator")[0]
    torch.testing.assert_close(pose[:3, :3], rotation_from_angles(40.0, -12.0), rtol=0, atol=1e-12)
