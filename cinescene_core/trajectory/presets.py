"""Film words to camera paths (paper, supplement A)."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from ..cameras import pose_from, rotation_from_angles
from ..checks import CineSceneWarning, check_choice, check_num_frames, check_positive
from ..types import Trajectory
from .easing import ease

LARGEST_TURN_DEGREES = 360.0
LARGEST_MOVE_METRES = 1000.0
_SOURCE = "CineScene paper, supplement A, Camera Trajectories"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A move of the camera: what it is called, what it does and how far it was trained to go."""

    name: str
    kind: Literal["static", "turn", "arc", "move"]
    """Nothing moves; the camera turns in place; it travels around the subject; it travels straight."""
    direction: tuple[float, float, float]
    """Signs of (yaw, pitch, roll) for a turn or an arc; the camera axis travelled along for a move."""
    unit: Literal["", "degrees", "metres"]
    """What `amount` counts for this preset."""
    default: float
    """Amount used when none is given: degrees, or multiples of the subject distance."""
    minimum: float
    """Least amount in the training data, as `default` counts."""
    maximum: float
    """Largest amount in the training data, as `default` counts."""
    relative: bool
    """Whether the three numbers above are multiples of the distance to the subject."""
    description: str
    """What the camera does, in one line."""
    source: str = _SOURCE
    """Where the range comes from."""

    def default_amount(self, subject_distance: float) -> float:
        """Amount used when none is given, in `unit`, for a subject that many metres away."""
        return self.default * (subject_distance if self.relative else 1.0)

    def trained_range(self, subject_distance: float) -> tuple[float, float]:
        """Least and largest amount the model was trained on, in `unit`, for that subject distance."""
        scale = subject_distance if self.relative else 1.0
        return self.minimum * scale, self.maximum * scale

    @property
    def largest_amount(self) -> float:
        """Largest amount that is accepted at all, in `unit`."""
        return {"": 0.0, "degrees": LARGEST_TURN_DEGREES, "metres": LARGEST_MOVE_METRES}[self.unit]


def _turn(name: str, yaw: float, pitch: float, description: str, kind: Literal["turn", "arc"] = "turn") -> Preset:
    """The paper trains sideways at 75 degrees exactly, up and down from 10 to 45."""
    default, low, high = (75.0, 75.0, 75.0) if yaw else (30.0, 10.0, 45.0)
    return Preset(
        name=name, kind=kind, direction=(yaw, pitch, 0.0), unit="degrees", relative=False,
        default=default, minimum=low, maximum=high, description=description,
    )  # fmt: skip


def _move(name: str, direction: tuple[float, float, float], maximum: float, description: str) -> Preset:
    """All moves start at a quarter of the subject distance; half of it keeps the subject in frame at 90 degrees."""
    return Preset(
        name=name, kind="move", direction=direction, unit="metres", relative=True,
        default=0.5, minimum=0.25, maximum=maximum, description=description,
    )  # fmt: skip


_ALL = (
    Preset(
        name="static", kind="static", direction=(0.0, 0.0, 0.0), unit="", relative=False,
        default=0.0, minimum=0.0, maximum=0.0, description="The camera does not move.", source="no move",
    ),
    _turn("pan_left", -1, 0, "The camera stands still and turns to its left."),
    _turn("pan_right", 1, 0, "The camera stands still and turns to its right."),
    _turn("tilt_up", 0, 1, "The camera stands still and looks up."),
    _turn("tilt_down", 0, -1, "The camera stands still and looks down."),
    _turn("arc_left", 1, 0, "The camera travels left around the subject and keeps looking at it.", "arc"),
    _turn("arc_right", -1, 0, "The camera travels right around the subject and keeps looking at it.", "arc"),
    _turn("arc_up", 0, -1, "The camera rises over the subject on a circle and keeps looking at it.", "arc"),
    _turn("arc_down", 0, 1, "The camera sinks below the subject on a circle and keeps looking at it.", "arc"),
    _move("dolly_in", (0, 0, 1), 5 / 4, "The camera travels forward along its axis, towards the subject."),
    _move("dolly_out", (0, 0, -1), 2.0, "The camera travels backward along its axis, away from the subject."),
    _move("truck_left", (-1, 0, 0), 2.0, "The camera travels to its left without turning."),
    _move("truck_right", (1, 0, 0), 2.0, "The camera travels to its right without turning."),
    _move("pedestal_up", (0, -1, 0), 2 / 3, "The camera rises without turning."),
    _move("pedestal_down", (0, 1, 0), 2 / 3, "The camera sinks without turning."),
)  # fmt: skip

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""Every move by its name."""


def preset_trajectory(
    name: str,
    *,
    amount: float | None = None,
    num_frames: int = 77,
    subject_distance: float = 4.0,
    fov_degrees: float = 90.0,
    fps: float = 15.0,
    easing: str = "linear",
) -> Trajectory:
    """Build the camera path of one move.

    The first frame is the identity; the last frame reaches the full amount: frame i has
    progress `i / (num_frames - 1)`. Directions are the camera's own. An arc is a circle around
    the subject, `subject_distance` straight ahead of the first camera.

    Args:
        name: a name in `PRESETS`.
        amount: how far, from 0: degrees for turns and arcs, metres for moves; None takes the
            preset's default. Amounts outside `Preset.trained_range` are allowed.
        num_frames: frames of the shot, 4n + 1; a single frame is the first.
        subject_distance: metres from the first camera to the subject.
        fov_degrees: horizontal field of view.
        fps: frames per second.
        easing: a name in `EASINGS`; linear is constant speed, as trained.

    Returns:
        The path, with the move in words as its provenance.

    Raises:
        ValueError: unknown name or easing, a frame count that is not 4n + 1, or an amount that is
            negative, not finite, or beyond `Preset.largest_amount`.

    Warns:
        CineSceneWarning: the camera passes through the subject, or turns over the top so that the
            picture stands on its head.
    """
    check_choice("trajectory preset", name, PRESETS)
    check_num_frames(num_frames)
    check_positive("subject_distance", subject_distance)
    preset = PRESETS[name]
    amount = preset.default_amount(subject_distance) if amount is None else float(amount)
    _check_amount(preset, amount, subject_distance)

    progress = torch.arange(num_frames, dtype=torch.float64) / max(num_frames - 1, 1)
    way = (amount * ease(easing, progress))[:, None] * torch.tensor(preset.direction, dtype=torch.float64)  # [f, 3]
    moved = f" {round(amount, 3)} {preset.unit}" if preset.unit else ""
    return Trajectory(
        world_from_camera=_poses(preset.kind, way, subject_distance),
        fov_degrees=torch.as_tensor(fov_degrees, dtype=torch.float64),
        fps=fps,
        subject_distance=subject_distance,
        provenance=f"{name}{moved} over {num_frames} frames, {easing}",
    )


def _poses(kind: str, way: Tensor, subject_distance: float) -> Tensor:
    """[f, 4, 4] poses of a move that has come [f, 3] metres, or degrees of yaw, pitch and roll."""
    if kind in ("static", "move"):
        return pose_from(torch.eye(3, dtype=torch.float64), way)
    rotation = rotation_from_angles(*way.unbind(-1))
    subject = torch.tensor([0.0, 0.0, subject_distance], dtype=torch.float64)
    return pose_from(rotation, subject - rotation @ subject if kind == "arc" else torch.zeros_like(way))


def _check_amount(preset: Preset, amount: float, subject_distance: float) -> None:
    """Refuse an amount that cannot be meant; warn of one that surprises."""
    if not math.isfinite(amount):
        raise ValueError(f"{preset.name}: amount must be a finite number of {preset.unit or 'degrees'}; got {amount}.")
    if preset.kind == "static":
        if amount:
            raise ValueError(
                f"static does not move, so it takes no amount; got {amount}. Leave it out or choose a move."
            )
        return
    if amount < 0:
        opposite = next(
            other.name
            for other in PRESETS.values()
            if other.kind == preset.kind and other.direction == tuple(-sign for sign in preset.direction)
        )
        raise ValueError(f"{preset.name}: amount must not be negative; got {amount}. Use {opposite} with {-amount}.")
    if amount > preset.largest_amount:
        raise ValueError(
            f"{preset.name}: amount is in {preset.unit} and may be at most {preset.largest_amount:g}; got {amount}."
        )
    if preset.name == "dolly_in" and amount >= subject_distance:
        warnings.warn(
            f"dolly_in travels {amount:g} metres but the subject is {subject_distance:g} metres away: the camera "
            "passes through it. Travel less, or set a larger subject distance.",
            CineSceneWarning,
            stacklevel=3,
        )
    if preset.direction[1] and preset.unit == "degrees" and amount > 90:
        warnings.warn(
            f"{preset.name} by {amount:g} degrees goes beyond the vertical: from 90 degrees on the picture stands on "
            "its head. Keep it below 90.",
            CineSceneWarning,
            stacklevel=3,
        )
