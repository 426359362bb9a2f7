"""Camera paths on disk: the project's own JSON, and plain NumPy arrays."""

import dataclasses
import json
import os
import tokenize
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import CineSceneWarning, FileFormatError, PoseError
from ..files import atomic_write
from ..types import Trajectory

FORMAT = "cinescene-trajectory"
VERSION = 1
MAX_FILE_BYTES = 64 * 2**20
MAX_FRAMES = 100_000
DEFAULT_FOV_DEGREES = 90.0
CONVENTION = {
    "axes": "OpenCV: x right, y down, z forward, right-handed",
    "poses": "world_from_camera (camera to world), 4 rows of 4, the camera centre in the last column",
    "length": "metres",
    "field_of_view": "horizontal, degrees",
    "fps": "frames per second",
}
"""Written into every file in words; version 1 means exactly this."""
_FIELDS = (
    "format", "version", "convention", "provenance", "fps", "subject_distance", "fov_degrees", "world_from_camera",
)  # fmt: skip


def save_trajectory(trajectory: Trajectory, path: str | os.PathLike[str]) -> None:
    """Write a path as `.json` (everything, at full precision) or `.npy` ([f, 4, 4] float64 poses only).

    Raises:
        FileFormatError: another suffix.
        OSError: the folder is missing, or the disk is full; nothing is left half-written.

    Warns:
        CineSceneWarning: a `.npy` cannot hold this lens, frame rate or subject distance.
    """
    suffix = _suffix(Path(path))
    poses = trajectory.world_from_camera.detach().cpu()
    with atomic_write(path) as temporary:
        if suffix == ".json":
            temporary.write_text(_to_json(trajectory, poses), encoding="utf-8", newline="\n")
        else:
            with open(temporary, "wb") as file:
                np.save(file, poses.numpy(), allow_pickle=False)
    if suffix == ".npy":
        _warn_of_what_npy_loses(trajectory)


def load_trajectory(
    path: str | os.PathLike[str],
    *,
    fov_degrees: float | None = None,
    fps: float | None = None,
    subject_distance: float | None = None,
) -> Trajectory:
    """Read a path from the project's `.json`, or from a `.npy` of camera-to-world poses.

    A `.npy` holds [f, 4, 4] or [f, 3, 4] numbers in OpenCV axes and metres, and nothing else.

    Args:
        path: a file of at most 64 MiB and 100,000 frames.
        fov_degrees: horizontal field of view; replaces the file's own, a `.npy` has 90.
        fps: frames per second; replaces the file's own, a `.npy` has 15.
        subject_distance: metres; replaces the file's own, a `.npy` has 4.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, too large, of another kind or version, or a field is
            unknown, missing or of the wrong type; the message names the file and the field.
        PoseError: a matrix is not a rigid camera-to-world pose; the message names the frame.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no trajectory file {path}. Check the name and the folder.")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FileFormatError(
            f"{path.name} has {size / 2**20:.0f} MiB; a trajectory has at most {MAX_FILE_BYTES // 2**20}. "
            "Is it another kind of file?"
        )
    lens = None if fov_degrees is None else torch.tensor(fov_degrees, dtype=torch.float64)
    given = {"fov_degrees": lens, "fps": fps, "subject_distance": subject_distance}
    settings = {name: value for name, value in given.items() if value is not None}
    try:
        record = _read_json(path) if suffix == ".json" else _read_npy(path)
        return Trajectory(**{**record, **settings})
    except PoseError as error:
        raise PoseError(f"{path.name}: {error}") from error
    except FileFormatError:
        raise
    except (ValueError, OverflowError) as error:
        raise FileFormatError(f"{path.name}: {error}") from error


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".npy"):
        raise FileFormatError(f"A trajectory file ends in .json or .npy; got {path.name}. Rename or convert it.")
    return suffix


def _to_json(trajectory: Trajectory, poses: Tensor) -> str:
    """One line per field and one per pose, so that people can read and compare the file."""
    lenses = trajectory.fov_degrees.tolist()
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "convention": CONVENTION,
        "provenance": trajectory.provenance,
        "fps": float(trajectory.fps),
        "subject_distance": float(trajectory.subject_distance),
        "fov_degrees": lenses[0] if len(set(lenses)) == 1 else lenses,
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    matrices = ",\n  ".join(json.dumps(pose) for pose in poses.tolist())
    return "{\n" + ",\n".join([*lines, f' "world_from_camera": [\n  {matrices}\n ]']) + "\n}\n"


def _warn_of_what_npy_loses(trajectory: Trajectory) -> None:
    plain = {field.name: field.default for field in dataclasses.fields(Trajectory)}
    lost = [
        f"{name} {getattr(trajectory, name):g}"
        for name in ("fps", "subject_distance")
        if getattr(trajectory, name) != plain[name]
    ]
    low, high = float(trajectory.fov_degrees.min()), float(trajectory.fov_degrees.max())
    if (low, high) != (DEFAULT_FOV_DEGREES, DEFAULT_FOV_DEGREES):
        lost.append(f"fov_degrees {low:g}" + (f" to {high:g}" if high != low else ""))
    if lost:
        warnings.warn(
            f"A .npy holds poses only, so {', '.join(lost)} will not come back. "
            "Save as .json, or give these when loading.",
            CineSceneWarning,
            stacklevel=3,
        )


def _read_json(path: Path) -> dict[str, Any]:
    """The constructor arguments a trajectory file states."""
    name = path.name
    try:
        record = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"{name} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}. Export it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name} is not valid JSON: {error}. Export it again.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FileFormatError(f"{name} is not a CineScene trajectory: field 'format' must be '{FORMAT}'.")
    if type(record.get("version")) is not int or record["version"] != VERSION:
        raise FileFormatError(
            f"{name}: field 'version' is {record.get('version')!r}; this CineScene reads version {VERSION}. Update it."
        )
    for field in _FIELDS:
        if field not in record:
            raise FileFormatError(f"{name}: field '{field}' is missing. Export the trajectory again.")
    unknown = sorted(set(record) - set(_FIELDS))
    if unknown:
        raise FileFormatError(f"{name}: unknown field '{unknown[0]}'. Remove it, or export the trajectory again.")
    if record["convention"] != CONVENTION:
        raise FileFormatError(
            f"{name}: field 'convention' is not that of version {VERSION} ({CONVENTION['axes']}; "
            f"{CONVENTION['length']}; camera to world). Convert the poses, then state this convention."
        )
    if not isinstance(record["provenance"], str):
        raise FileFormatError(f"{name}: field 'provenance' must be text; got {record['provenance']!r}.")
    poses = _numbers(name, "world_from_camera", record["world_from_camera"], (4, 4))
    lens = record["fov_degrees"]
    return {
        "world_from_camera": poses,
        "fov_degrees": _numbers(name, "fov_degrees", lens if isinstance(lens, list) else [lens] * len(poses), ()),
        "fps": _number(name, "fps", record["fps"]),
        "subject_distance": _number(name, "subject_distance", record["subject_distance"]),
        "provenance": record["provenance"],
    }


def _number(name: str, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FileFormatError(f"{name}: field '{field}' must hold numbers only; got {str(value)[:40]!r}.")
    return float(value)


def _numbers(name: str, field: str, value: object, tail: tuple[int, ...]) -> Tensor:
    """[f, *tail] float64 from nested lists of numbers, every one of them checked."""
    level: list[Any] = [value]
    for depth, size in enumerate((None, *tail)):
        if not all(isinstance(part, list) and (size is None or len(part) == size) for part in level):
            shape = ", ".join(["frames", *map(str, tail)])
            raise FileFormatError(f"{name}: field '{field}' must hold lists of numbers of shape [{shape}].")
        if depth == 0:
            _check_frame_count(name, len(level[0]))
        level = [item for part in level for item in part]
    numbers = [_number(name, field, number) for number in level]
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, *tail)


def _check_frame_count(name: str, frames: int) -> None:
    if frames > MAX_FRAMES:
        raise FileFormatError(f"{name} holds {frames:,} frames; at most {MAX_FRAMES:,} are read. Split the path.")


def _read_npy(path: Path) -> dict[str, Any]:
    """The constructor arguments a plain array gives; the array is mapped, so a lying header allocates nothing."""
    name = path.name
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise FileFormatError(
            f"{name} is not a complete NumPy array ({error}). Write it again with numpy.save(..., allow_pickle=False)."
        ) from error
    if array.dtype.kind not in "fiu":
        raise FileFormatError(f"{name} holds {array.dtype}, not real numbers. Save float64 poses.")
    if array.ndim != 3 or array.shape[1:] not in ((4, 4), (3, 4)):
        raise FileFormatError(
            f"{name} must hold camera-to-world poses of shape [frames, 4, 4] or [frames, 3, 4]; "
            f"got {list(array.shape)}."
        )
    _check_frame_count(name, len(array))
    poses = torch.eye(4, dtype=torch.float64).repeat(len(array), 1, 1)
    poses[:, : array.shape[1]] = torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
    return {
        "world_from_camera": poses,
        "fov_degrees": torch.tensor(DEFAULT_FOV_DEGREES, dtype=torch.float64),
        "provenance": f"file {name}",
    }
