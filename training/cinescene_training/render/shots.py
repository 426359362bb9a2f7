"""Plans of shots: which place, which move, how far (paper, supplement A, Camera Trajectories)."""

import threading
import warnings
from dataclasses import dataclass

from cinescene_core.checks import CineSceneWarning, check_choice
from cinescene_core.trajectory.presets import preset_trajectory
from cinescene_core.types import Trajectory

from .dice import Dice
from .layout import MOVES
from .places import Places, sample_places

_MOVE_STREAM = 1000
_ONE_AT_A_TIME = threading.Lock()
"""Filters of warnings belong to the process, and places are read by several threads."""
SHOT_MOVES = (*MOVES, "static")
"""The moves a shot can be asked to make; only those of the paper are drawn."""


@dataclass(frozen=True, kw_only=True)
class ShotPlan:
    """One shot: everything that is needed to film it."""

    place_seed: int
    kind: str
    """room | courtyard."""
    move: str
    trajectory: Trajectory
    subject_distance: float
    """Metres from the start camera to the subject, along its axis."""
    start_yaw_degrees: float
    """Of the start camera, relative to the way the subject faces; -45 to 45."""
    caption: str
    """Subject, action and place."""
    action_caption: str
    """Subject and action alone."""
    place_caption: str
    """The place without its subject."""


def sample_shot(
    seed: int,
    *,
    num_frames: int = 81,
    fov_degrees: float = 90.0,
    fps: float = 15.0,
    move: str | None = None,
    kind: str = "room",
) -> ShotPlan:
    """Plan one shot in the place of a seed.

    Args:
        seed: of the place (`place_seed`); it also draws the move.
        num_frames: frames of the shot, 4n + 1.
        fov_degrees: horizontal field of view.
        fps: frames per second.
        move: one of `SHOT_MOVES`; None draws one of the paper's.
        kind: room or courtyard.

    Raises:
        ValueError: an unknown move or kind, or a number of frames that is not 4n + 1.
    """
    if move is not None:
        check_choice("move", move, SHOT_MOVES)
    move = _drawn_moves(seed, 1)[0] if move is None else move
    return _plan(sample_places([seed], kind), move, num_frames, fov_degrees, fps)


def sample_shots(
    place_seed: int,
    count: int,
    *,
    num_frames: int = 81,
    fov_degrees: float = 90.0,
    fps: float = 15.0,
    kind: str = "room",
) -> tuple[ShotPlan, ...]:
    """Plan several shots with different moves in one place, of one subject, from one start camera.

    The first is the one that `sample_shot` plans. The released dataset has 7 for each place.

    Raises:
        ValueError: a count that is not 1 to 14, or what `sample_shot` refuses.
    """
    if not 1 <= count <= len(MOVES):
        raise ValueError(
            f"A place has 1 to {len(MOVES)} shots with different moves; got {count}. Use 7, as the paper's data do."
        )
    places = sample_places([place_seed], kind)
    return tuple(_plan(places, move, num_frames, fov_degrees, fps) for move in _drawn_moves(place_seed, count))


def _drawn_moves(seed: int, count: int) -> list[str]:
    return Dice(seed, _MOVE_STREAM).sample(MOVES, count)


def _plan(places: Places, move: str, num_frames: int, fov_degrees: float, fps: float) -> ShotPlan:
    layout = places.layouts[0]
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        # Where a dolly travels past the subject, the place was made so that it passes over it.
        warnings.filterwarnings("ignore", category=CineSceneWarning, message="dolly_in")
        trajectory = preset_trajectory(
            move, amount=layout.amounts.get(move), num_frames=num_frames, subject_distance=layout.distance,
            fov_degrees=fov_degrees, fps=fps,
        )  # fmt: skip
    return ShotPlan(
        place_seed=places.seeds[0], kind=places.kind, move=move, trajectory=trajectory,
        subject_distance=layout.distance, start_yaw_degrees=layout.start_yaw_degrees, caption=places.captions[0],
        action_caption=places.action_captions[0], place_caption=places.place_captions[0],
    )  # fmt: skip
