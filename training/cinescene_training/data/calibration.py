"""How a dataset's panoramas and lenses relate to its start views: what its files leave unsaid.

The released Scene-Decoupled Video Dataset does not say which column of a panorama the start view looks at, whether
the panorama is level when the start view is not, and what a millimetre in a clip's name means in degrees.
"""

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cinescene_core.checks import FileFormatError, check_choice, check_positive
from cinescene_core.config import ViewConfig
from cinescene_core.files import atomic_write

from .footage import Problem

FORMAT = "cinescene-calibration"
VERSION = 1
FULL_FRAME_MM = 36.0
"""Width of the filmback that a focal length belongs to when nothing was measured."""
MAX_FILE_BYTES = 16 * 2**20
Frame = Literal["start_view", "world"]


@dataclass(frozen=True, kw_only=True)
class PlaceFit:
    """Where one start view was found in its panorama."""

    place: str
    heading_degrees: float
    """Longitude the view's middle was found at; 0 is the panorama's centre, positive is to its right."""
    pitch_degrees: float
    """Latitude it was found at, positive above the horizon."""
    fov_degrees: float
    """Horizontal field of view of the clip."""
    focal_mm: float
    """Focal length in the clip's name."""
    start_yaw_degrees: float
    """Where the camera file says the view looks, in the world."""
    start_pitch_degrees: float
    """How far above the horizon the camera file says it looks."""
    correlation: float
    """Normalised cross-correlation of the view and the panorama there, 1 at best."""
    residual_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """(heading, pitch, field of view) by which this place departs from the dataset's calibration."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Heading and pitch of the start views in their panoramas, and the width of the filmback."""

    heading_degrees: float = 0.0
    """Longitude of a start view's middle: as it is, or beyond the start view's yaw in the world."""
    heading_from: Frame = "start_view"
    """`start_view`: panoramas are turned with their start view. `world`: they all face one way in the world."""
    pitch_degrees: float = 0.0
    """Latitude of a start view's middle: as it is, or beyond the start view's pitch in the world."""
    pitch_from: Frame = "world"
    """`world`: panoramas are level. `start_view`: they are tilted with their start view."""
    filmback_mm: float = FULL_FRAME_MM
    """Width of the filmback that turns focal lengths into horizontal fields of view."""
    heading_spread_degrees: float = 0.0
    """Median absolute departure of the places."""
    pitch_spread_degrees: float = 0.0
    """Median absolute departure of the places."""
    fov_spread_degrees: float = 0.0
    """Median absolute departure of the places."""
    places: tuple[PlaceFit, ...] = ()
    """What was measured, place by place; empty for an assumption."""
    problems: tuple[Problem, ...] = ()
    """Places that could not be measured, and why."""

    def __post_init__(self) -> None:
        for name in ("heading", "pitch"):
            check_choice(f"Calibration.{name}_from", getattr(self, f"{name}_from"), ("start_view", "world"))
            value = getattr(self, f"{name}_degrees")
            if not math.isfinite(value):
                raise ValueError(f"Calibration.{name}_degrees must be a finite number; got {value}. Use 0.")
        check_positive("Calibration.filmback_mm", self.filmback_mm)

    def fov_degrees(self, focal_mm: float) -> float:
        """Horizontal field of view of a lens."""
        return lens_degrees(focal_mm, self.filmback_mm)

    def heading(self, start_yaw_degrees: float) -> float:
        """Longitude, -180 to 180, of the start view that the camera file says looks that way."""
        return wrap_degrees(self.heading_degrees + (start_yaw_degrees if self.heading_from == "world" else 0.0))

    def pitch(self, start_pitch_degrees: float) -> float:
        """Latitude of the start view that the camera file says looks that far up."""
        return self.pitch_degrees + (start_pitch_degrees if self.pitch_from == "world" else 0.0)

    def view_config(self, config: ViewConfig, start_yaw_degrees: float, start_pitch_degrees: float) -> ViewConfig:
        """`config`, turned so that its first view looks where the start view does."""
        return dataclasses.replace(
            config,
            yaw_offset_degrees=config.yaw_offset_degrees + self.heading(start_yaw_degrees),
            pitch_degrees=config.pitch_degrees + self.pitch(start_pitch_degrees),
        )


UNCALIBRATED = Calibration()
"""The assumption before measuring, and what `write_place` writes: panoramas level, their centre at the start view's
heading, lenses on a 36 mm filmback (24 mm is 73.7 degrees; on MultiCamVideo's 23.76 mm sensor it would be 52.7)."""


def lens_degrees(focal_mm: float, filmback_mm: float) -> float:
    """Horizontal field of view of a focal length before a filmback of that width: 24 and 36 mm give 73.74 degrees."""
    return math.degrees(2 * math.atan(filmback_mm / (2 * focal_mm)))


def lens_mm(fov_degrees: float, filmback_mm: float) -> float:
    """Focal length of a horizontal field of view: 90 degrees before 36 mm is 18 mm."""
    return filmback_mm / (2 * math.tan(math.radians(fov_degrees) / 2))


def wrap_degrees(angle: float) -> float:
    """The same direction in -180 to 180."""
    return (angle + 180.0) % 360.0 - 180.0


def look_angles(pose: Tensor) -> tuple[float, float]:
    """Yaw and pitch, in degrees, of a [4, 4] world_from_camera pose's forward axis."""
    x, y, z = pose[:3, 2].tolist()
    return math.degrees(math.atan2(x, z)), math.degrees(math.atan2(-y, math.hypot(x, z)))


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration with every place's fit and residual as JSON.

    Raises:
        OSError: the folder is missing or the disk is full; nothing is left half-written.
    """
    record = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(calibration)}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read what `save_calibration` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: too large, no calibration, another version, or a field is missing, unknown or of a wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no calibration {path}. Make it with 'cinescene-train calibrate'.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise FileFormatError(f"{path.name} has more than {MAX_FILE_BYTES // 2**20} MiB; it is no calibration.")
    try:
        record = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path.name} is not valid JSON: {error}. Calibrate again.") from error
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT or record.pop("version", None) != VERSION:
        raise FileFormatError(
            f"{path.name} is not a calibration of version {VERSION}: 'format' must be '{FORMAT}'. Calibrate again."
        )
    try:
        fields = _checked(Calibration, record)
        fields["places"] = tuple(PlaceFit(**_checked(PlaceFit, fit)) for fit in fields["places"])
        fields["problems"] = tuple(Problem(**_checked(Problem, problem)) for problem in fields["problems"])
        return Calibration(**fields)
    except ValueError as error:
        raise FileFormatError(f"{path.name}: {error} Calibrate again.") from error


def _checked(kind: type[Any], record: object) -> dict[str, Any]:
    """The fields of a dataclass from decoded JSON: all of them, no other, each of its type."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if not isinstance(record, dict) or set(record) != set(fields):
        found = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{kind.__name__} needs the fields {', '.join(sorted(fields))}; got {found}.")
    values = dict(record)
    for name, type_ in fields.items():
        value = values[name]
        if type_ is float:
            good = isinstance(value, int | float) and not isinstance(value, bool)
        elif type_ is str or type_ == Frame:
            good = isinstance(value, str)
        else:
            good = isinstance(value, list)
            if good and name == "residual_degrees":
                good = len(value) == 3 and all(isinstance(part, float | int) for part in value)
            values[name] = tuple(value) if good else value
        if not good:
            raise ValueError(f"field '{name}' of {kind.__name__} cannot be {str(value)[:40]!r}.")
    return values
