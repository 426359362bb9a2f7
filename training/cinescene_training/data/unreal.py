"""The camera files of the released datasets: Unreal's matrices to this project's poses, and back.

A matrix is written for row vectors: its rows are the camera's forward, right and up axes and its
centre, in Unreal's world (x forward, y right, z up, left-handed, centimetres). With

    B = [0 0 1; 1 0 0; 0 -1 0]      (x, y, z) in OpenCV's axes -> (z, x, -y) in Unreal's

the pose in OpenCV's axes is `R = B.T @ rows.T @ B` and `t = B.T @ centre / 100`. Both changes of axes mirror, so
the pose does not; the public reader of ReCamMaster mirrors once, and agrees only relative to a first frame.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cinescene_core.cameras import check_poses, relative_poses
from cinescene_core.checks import FileFormatError, PoseError
from cinescene_core.files import atomic_write
from cinescene_core.types import Trajectory

MAX_FILE_BYTES = 64 * 2**20
"""Largest camera file that is read; the released ones have well under one MiB."""
MAX_FRAMES = 100_000
MAX_MATRIX_LETTERS = 1000
"""Longest matrix that is read: 16 numbers at full precision take about 400 letters."""
DECIMALS = 9
"""Digits written after the point, of axes and of centimetres."""
FRAME_PREFIX = {"scene-decoupled": "", "multicam": "frame"}
"""How the two datasets spell a frame's key."""
CENTIMETRES = 100.0

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ROW = r"\[\s*" + r"\s+".join([f"({_NUMBER})"] * 4) + r"\s*\]"
_MATRIX = re.compile(r"\s*" + r"\s*".join([_ROW] * 4) + r"\s*")
_FRAME_KEY = re.compile(r"(frame)?(0|[1-9]\d{0,8})")
_UNREAL_FROM_OPENCV = torch.tensor([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class CameraFile:
    """The paths of one place, matrices still as text: a broken camera does not spoil the others."""

    path: Path
    frames: tuple[Mapping[str, object], ...]
    """Per frame, in order: camera name to matrix."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Every camera that some frame names, in alphabetical order."""
        return tuple(sorted({name for frame in self.frames for name in frame}))

    def poses(self, camera: str) -> Tensor:
        """World_from_camera of every frame, where the file has them: [f, 4, 4] float64, OpenCV axes, metres.

        Raises:
            FileFormatError: a frame lacks the camera, or its matrix is not four rows of four numbers.
            PoseError: a matrix is not a rigid pose. Both name file, camera and frame.
        """
        return unreal_to_opencv(
            torch.tensor(
                [self._matrix(camera, index) for index in range(len(self.frames))], dtype=torch.float64
            ).unflatten(-1, (4, 4)),
            f"{self.path.name}, camera {camera}",
        )

    def trajectory(self, camera: str, *, fov_degrees: float, fps: float) -> Trajectory:
        """Path of one camera relative to its first frame; lens and frame rate are not in the file.

        Raises:
            FileFormatError, PoseError: what `poses` refuses.
        """
        return Trajectory(
            relative_poses(self.poses(camera)),
            torch.tensor(fov_degrees, dtype=torch.float64),
            fps=fps,
            provenance=f"{self.path.name} {camera}",
        )

    def _matrix(self, camera: str, frame: int) -> tuple[float, ...]:
        where = f"{self.path.name}: frame {frame}, camera {camera}"
        if camera not in self.frames[frame]:
            raise FileFormatError(f"{where} is missing. Every frame must have a matrix for it; export the file again.")
        text = self.frames[frame][camera]
        found = _MATRIX.fullmatch(text) if isinstance(text, str) and len(text) <= MAX_MATRIX_LETTERS else None
        if found is None:
            raise FileFormatError(
                f"{where} must be four rows of four numbers, '[r r r 0] [r r r 0] [r r r 0] [x y z 1] '; "
                f"got {str(text)[:60]!r}. Export the file again."
            )
        return tuple(float(number) for number in found.groups())


def unreal_to_opencv(matrices: Tensor, name: str) -> Tensor:
    """Convert [f, 4, 4] row-vector matrices in centimetres to [f, 4, 4] poses in OpenCV axes and metres.

    Raises:
        PoseError: the last column is not 0 0 0 1, or the axes are not orthonormal or are mirrored; `name` and
            the first such frame are named.
    """
    last_column = (matrices[:, :, 3] - matrices.new_tensor([0, 0, 0, 1])).abs().amax(-1)
    _refuse(last_column > 1e-6, name, "the last number of its rows must be 0, 0, 0 and 1; is the matrix transposed?")
    mirrored = torch.linalg.det(matrices[:, :3, :3]) < 0
    _refuse(mirrored, name, "its axes are mirrored (determinant -1); the rows must be forward, right and up.")
    axes = _UNREAL_FROM_OPENCV
    poses = torch.eye(4, dtype=torch.float64).repeat(len(matrices), 1, 1)
    poses[:, :3, :3] = axes.T @ matrices[:, :3, :3].mT @ axes
    poses[:, :3, 3] = matrices[:, 3, :3] @ axes / CENTIMETRES
    check_poses(name, poses)
    return poses


def opencv_to_unreal(world_from_camera: Tensor) -> Tensor:
    """Convert [f, 4, 4] poses in OpenCV axes and metres to row-vector matrices in centimetres."""
    axes = _UNREAL_FROM_OPENCV
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(world_from_camera), 1, 1)
    matrices[:, :3, :3] = (axes @ world_from_camera[:, :3, :3].double() @ axes.T).mT
    matrices[:, 3, :3] = world_from_camera[:, :3, 3].double() @ axes.T * CENTIMETRES
    return matrices


def read_camera_file(path: str | os.PathLike[str]) -> CameraFile:
    """Read a camera file of the Scene-Decoupled ("0", "1", ...) or of the MultiCamVideo spelling ("frame0", ...).

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: too large, not JSON, a key that is no frame of the one spelling, a key given twice,
            or a frame left out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no camera file {path}. Check the name and the folder.")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FileFormatError(
            f"{path.name} has {size / 2**20:.0f} MiB; a camera file has at most {MAX_FILE_BYTES // 2**20}. "
            "Is it another kind of file?"
        )
    try:
        record = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise FileFormatError(f"{path.name} cannot be read ({error}). Copy it again.") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path.name} is not valid JSON: {error}. Export it again.") from error
    return CameraFile(path, _frames_in_order(path.name, record))


def write_camera_file(
    path: str | os.PathLike[str],
    paths: Mapping[str, Trajectory],
    *,
    spelling: Literal["scene-decoupled", "multicam"] = "scene-decoupled",
) -> None:
    """Write the poses of one place's cameras, with nine decimals; the lens is not part of the file.

    Args:
        path: the .json file; its folder must exist.
        paths: camera name to path, all of one length; poses are written where they stand in the world.
        spelling: whose frame keys to use.

    Raises:
        ValueError: no path, or paths of different lengths.
        OSError: the folder is missing or the disk is full; nothing is left half-written.
    """
    lengths = {len(trajectory) for trajectory in paths.values()}
    if len(lengths) != 1:
        found = ", ".join(map(str, sorted(lengths))) or "none"
        raise ValueError(f"The cameras of one file must have paths of one length; got {found} frames.")
    texts = {name: _to_texts(trajectory) for name, trajectory in paths.items()}
    prefix = FRAME_PREFIX[spelling]
    frames = (
        f" {json.dumps(f'{prefix}{index}')}: {json.dumps({name: text[index] for name, text in texts.items()})}"
        for index in range(lengths.pop())
    )
    with atomic_write(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(frames) + "\n}\n", encoding="utf-8", newline="\n")


def _refuse(faults: Tensor, name: str, reason: str) -> None:
    if faults.any():
        raise PoseError(f"{name}: frame {int(faults.nonzero()[0])}: {reason}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is given twice")
    return record


def _frames_in_order(name: str, record: object) -> tuple[Mapping[str, object], ...]:
    """The frames of a decoded file as 0, 1, 2, ...; every key checked."""
    if not isinstance(record, dict) or not record:
        raise FileFormatError(f"{name} must map frames ('0' or 'frame0') to cameras; got {str(record)[:40]!r}.")
    if len(record) > MAX_FRAMES:
        raise FileFormatError(f"{name} holds {len(record):,} frames; at most {MAX_FRAMES:,} are read. Split the path.")
    frames: dict[int, Mapping[str, object]] = {}
    spellings: set[str | None] = set()
    for key, cameras in record.items():
        found = _FRAME_KEY.fullmatch(key)
        if found is None or not isinstance(cameras, dict):
            raise FileFormatError(
                f"{name}: every key must be a frame ('0' or 'frame0') that holds its cameras; got {key[:40]!r}."
            )
        spellings.add(found[1])
        frames[int(found[2])] = cameras
    if len(spellings) > 1:
        raise FileFormatError(f"{name} spells its frames both '0' and 'frame0'. Keep to one of them.")
    missing = next((index for index in range(len(frames)) if index not in frames), None)
    if missing is not None:
        raise FileFormatError(f"{name}: frame {missing} is missing of {len(frames)} frames. Export the file again.")
    return tuple(frames[index] for index in range(len(frames)))


def _to_texts(trajectory: Trajectory) -> list[str]:
    """One matrix per frame, as the datasets write it (with a blank at the end)."""
    matrices = opencv_to_unreal(trajectory.world_from_camera).tolist()
    return ["".join(f"[{' '.join(map(_digits, row))}] " for row in matrix) for matrix in matrices]


def _digits(number: float) -> str:
    text = f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
