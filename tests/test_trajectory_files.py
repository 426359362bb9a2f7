"""Camera paths on disk: what was written comes back, and what cannot be read is named."""

import json
import math

import numpy as np
import pytest
import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import CineSceneWarning, FileFormatError, PoseError
from cinescene_core.trajectory import load_trajectory, preset_trajectory, save_trajectory
from cinescene_core.types import Trajectory


def odd_path():
    """No number in it is short in decimal, and every field differs from its default."""
    rotation = rotation_from_angles(torch.rand(9).double() * 100, torch.rand(9).double() * 40, 1 / 3)
    return Trajectory(
        pose_from(rotation, torch.randn(9, 3).double() * math.pi),
        fov_degrees=40 + torch.rand(9).double(),
        fps=24000 / 1001,
        subject_distance=math.e,
        provenance='handheld, "take 2", Größe',
    )


def test_json_gives_back_every_bit(tmp_path):
    torch.manual_seed(0)
    path = odd_path()
    save_trajectory(path, tmp_path / "a.json")
    back = load_trajectory(tmp_path / "a.json")
    assert torch.equal(back.world_from_camera, path.world_from_camera)
    assert torch.equal(back.fov_degrees, path.fov_degrees)
    assert (back.fps, back.subject_distance, back.provenance) == (path.fps, path.subject_distance, path.provenance)
    save_trajectory(back, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_file_says_what_it_means(tmp_path):
    save_trajectory(preset_trajectory("dolly_in", num_frames=5), tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["format"] == "cinescene-trajectory"
    assert record["version"] == 1
    assert record["convention"]["axes"] == "OpenCV: x right, y down, z forward, right-handed"
    assert "camera to world" in record["convention"]["poses"]
    assert record["fov_degrees"] == 90.0  # one lens for all frames is one number
    assert record["world_from_camera"][4] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4"])
def test_npy_of_either_shape(tmp_path, rows, dtype):
    path = preset_trajectory("arc_left", num_frames=9)
    np.save(tmp_path / "a.npy", path.world_from_camera[:, :rows].numpy().astype(dtype))
    back = load_trajectory(tmp_path / "a.npy", fov_degrees=50, fps=24, subject_distance=7)
    tolerance = 1e-6 if dtype == "<f4" else 0.0  # float32 holds seven digits
    torch.testing.assert_close(back.world_from_camera, path.world_from_camera, rtol=0, atol=tolerance)
    assert back.world_from_camera.dtype == torch.float64
    assert torch.equal(back.fov_degrees, torch.full((9,), 50.0).double())
    assert (back.fps, back.subject_distance, back.provenance) == (24, 7, "file a.npy")


def test_npy_round_trip_is_exact_and_has_plain_defaults(tmp_path):
    path = preset_trajectory("pan_left")
    save_trajectory(path, tmp_path / "a.npy")
    back = load_trajectory(tmp_path / "a.npy")
    assert torch.equal(back.world_from_camera, path.world_from_camera)
    assert (back.fps, back.subject_distance, set(back.fov_degrees.tolist())) == (15, 4, {90})


def test_npy_says_what_it_cannot_hold(tmp_path):
    path = preset_trajectory("static", num_frames=1, fov_degrees=60, fps=24, subject_distance=3)
    with pytest.warns(CineSceneWarning, match="so fps 24, subject_distance 3, fov_degrees 60 will not come back"):
        save_trajectory(path, tmp_path / "a.npy")


def test_arguments_replace_what_the_file_says(tmp_path):
    save_trajectory(preset_trajectory("static", num_frames=5), tmp_path / "a.json")
    back = load_trajectory(tmp_path / "a.json", fov_degrees=45, fps=30, subject_distance=2)
    assert (back.fps, back.subject_distance, set(back.fov_degrees.tolist())) == (30, 2, {45})


@pytest.fixture
def record(tmp_path):
    """A valid file's content; `load(record)` writes it and reads it as shot.json."""
    save_trajectory(preset_trajectory("arc_up", num_frames=5), tmp_path / "whole.json")
    return json.loads((tmp_path / "whole.json").read_text())


@pytest.fixture
def load(tmp_path):
    def write_and_load(content):
        (tmp_path / "shot.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return load_trajectory(tmp_path / "shot.json")

    return write_and_load


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": None}, r"shot\.json is not a CineScene trajectory: field 'format' must be 'cinescene-trajectory'"),
        ({"version": 2}, r"shot\.json: field 'version' is 2; this CineScene reads version 1\. Update it"),
        ({"version": True}, r"field 'version' is True"),
        ({"fps": ...}, r"shot\.json: field 'fps' is missing"),
        ({"world_from_camera": ...}, r"field 'world_from_camera' is missing"),
        ({"focal": 3}, r"shot\.json: unknown field 'focal'"),
        ({"convention": {"axes": "OpenGL"}}, r"field 'convention' is not that of version 1 \(OpenCV: x right.*Convert"),
        ({"provenance": 7}, r"field 'provenance' must be text; got 7"),
        ({"fps": "15"}, r"field 'fps' must hold numbers only; got '15'"),
        ({"fps": True}, r"field 'fps' must hold numbers only; got 'True'"),
        ({"fps": 0}, r"shot\.json: Trajectory\.fps must be a positive number; got 0"),
        ({"subject_distance": 10**400}, r"shot\.json: int too large"),
        ({"fov_degrees": 180}, r"shot\.json: Trajectory\.fov_degrees must lie between 0 and 180"),
        ({"fov_degrees": [90, 90]}, r"shot\.json: Trajectory\.fov_degrees must have shape \[5\]; got \[2\]"),
        ({"fov_degrees": "wide"}, r"field 'fov_degrees' must hold numbers only; got 'wide'"),
        ({"world_from_camera": 5}, r"'world_from_camera' must hold lists of numbers of shape \[frames, 4, 4\]"),
        ({"world_from_camera": [[1, 2], [3, 4]]}, r"shape \[frames, 4, 4\]"),
        ({"world_from_camera": []}, r"shot\.json: .*holds no frame"),
    ],
)
def test_a_wrong_field_is_named(record, load, change, sentence):
    changed = {name: value for name, value in {**record, **change}.items() if value is not ...}
    with pytest.raises(FileFormatError, match=sentence):
        load(changed)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("1.0", r"numbers only; got '1\.0'"),
        (None, "numbers only; got 'None'"),
        (math.nan, r"1 NaN or infinite values of 80"),
    ],
)
def test_a_wrong_number_in_a_pose_is_found(record, load, value, sentence):
    record["world_from_camera"][2][1][3] = value
    with pytest.raises(FileFormatError, match=sentence):
        load(record)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{\n "format": "cinescene",\n "version" 1\n}', r"shot\.json is not valid JSON: line 3, column 12: Exp"),
        ("", r"shot\.json is not valid JSON: line 1, column 1"),
        ("[" * 100_000, r"shot\.json is not valid JSON: .*recursion"),
        ("[1, 2]", r"shot\.json is not a CineScene trajectory"),
    ],
    ids=["typing-error", "empty", "nested", "another-file"],
)  # fmt: skip
def test_broken_json_names_the_file_and_the_line(load, text, sentence):
    with pytest.raises(FileFormatError, match=sentence):
        load(text)


def test_a_byte_order_mark_from_a_text_editor_does_no_harm(tmp_path, record):
    (tmp_path / "shot.json").write_text(json.dumps(record), encoding="utf-8-sig")
    assert len(load_trajectory(tmp_path / "shot.json")) == 5


def test_json_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "shot.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(FileFormatError, match=r"shot\.json is not valid JSON: .*decode"):
        load_trajectory(tmp_path / "shot.json")


MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
STRETCH = np.diag([1.0, 1.0, 1.01, 1.0])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda pose: pose @ MIRROR, r"frame 3 is not a rigid .*the determinant is -1 .*convert to OpenCV axes"),
        (lambda pose: pose @ STRETCH, r"frame 3 .*the rotation is not orthonormal .*remove scale"),
        (lambda pose: pose.T, r"frame 3 .*the bottom row is not 0 0 0 1; is the matrix transposed\?"),
    ],
    ids=["mirrored", "scaled", "transposed"],
)
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_poses_that_are_not_rigid_are_refused_by_frame_and_file(tmp_path, record, spoil, sentence, suffix):
    poses = preset_trajectory("arc_up", num_frames=5).world_from_camera.numpy().copy()
    poses[3] = spoil(poses[3])
    np.save(tmp_path / "shot.npy", poses)
    (tmp_path / "shot.json").write_text(json.dumps({**record, "world_from_camera": poses.tolist()}))
    with pytest.raises(PoseError, match=rf"shot\{suffix}: .*{sentence}"):
        load_trajectory(tmp_path / f"shot{suffix}")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((5, 12)), r"poses of shape \[frames, 4, 4\] or \[frames, 3, 4\]; got \[5, 12\]"),
        (np.eye(4), r"got \[4, 4\]"),
        (np.zeros((2, 4, 4), dtype=complex), r"holds complex128, not real numbers"),
        (np.zeros((2, 4, 4), dtype="U3"), r"holds <U3, not real numbers"),
        (np.zeros((0, 4, 4)), r"holds no frame"),
        (np.zeros((100_001, 3, 4), dtype=np.float32), r"holds 100,001 frames; at most 100,000 are read"),
        (np.array([[[None] * 4] * 4]), r"is not a complete NumPy array"),
    ],
    ids=["flat", "one-pose", "complex", "text", "no-frame", "too-long", "pickled"],
)
def test_arrays_that_are_not_poses_are_refused(tmp_path, array, sentence):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(FileFormatError, match=rf"a\.npy.*{sentence}"):
        load_trajectory(tmp_path / "a.npy")


@pytest.mark.parametrize("keep", [0, 5, 60, 300])
def test_a_truncated_array_is_refused(tmp_path, keep):
    save_trajectory(preset_trajectory("static", num_frames=5), tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    with pytest.raises(FileFormatError, match=r"a\.npy is not a complete NumPy array"):
        load_trajectory(tmp_path / "a.npy")


def test_a_header_that_promises_petabytes_allocates_nothing(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 4, 4)})
    with pytest.raises(FileFormatError, match="is not a complete NumPy array"):
        load_trajectory(tmp_path / "a.npy")


def test_a_damaged_header_is_refused(tmp_path):
    save_trajectory(preset_trajectory("static", num_frames=5), tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes().replace(b"}", b" "))
    with pytest.raises(FileFormatError, match=r"a\.npy is not a complete NumPy array"):
        load_trajectory(tmp_path / "a.npy")


def test_a_huge_file_is_refused_unread(tmp_path):
    for name in ("a.json", "a.npy"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(65 * 2**20)
        with pytest.raises(FileFormatError, match=rf"{name} has 65 MiB; a trajectory has at most 64"):
            load_trajectory(tmp_path / name)


def test_other_suffixes_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"ends in \.json or \.npy; got a\.csv"):
        load_trajectory(tmp_path / "a.csv")
    with pytest.raises(FileFormatError, match=r"ends in \.json or \.npy; got a\.txt"):
        save_trajectory(preset_trajectory("static"), tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"There is no trajectory file .*a\.json\. Check the name"):
        load_trajectory(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"the folder .*takes does not exist"):
        save_trajectory(preset_trajectory("static"), tmp_path / "takes" / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    save_trajectory(preset_trajectory("static", num_frames=1), tmp_path / "a.npy")
    before = (tmp_path / "a.npy").read_bytes()

    def full(file, *args, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"a\.npy: the disk is full"):
        save_trajectory(preset_trajectory("static", num_frames=1), tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
