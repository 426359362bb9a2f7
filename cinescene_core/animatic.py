"""Panorama + trajectory -> an exact preview of the move, before any sampling.

A panorama shows the true picture for every rotation and every lens of a camera that stays at its
centre: the frames are not estimates.
"""

from collections.abc import Callable

from torch import Tensor

from .cameras import rotation_from_angles
from .types import Trajectory
from .views import photograph

TRAVEL_TOLERANCE = 1e-4
"""Metres a rotating camera may drift (rounding in imported files): something one metre away then
shifts by 0.03 pixels of a 90-degree picture 672 pixels wide, which no one can see."""


def render_animatic(
    panorama: Tensor,
    trajectory: Trajectory,
    width: int,
    height: int,
    *,
    yaw_offset_degrees: float = 0.0,
    pitch_degrees: float = 0.0,
    on_frame: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Film the panorama along a path that turns and zooms, anti-aliased.

    The first frame looks where the first view of a `ViewConfig` with the same offset and pitch
    looks, and equals it when size and field of view agree; the rest follow the relative poses.

    Args:
        panorama: [h, w, 1 | 3 | 4], w = 2h, uint8 or floating point; see `check_panorama`.
        trajectory: the path; each frame has its own field of view.
        width, height: frame size in pixels.
        yaw_offset_degrees: where the first frame looks; 0 is the panorama's centre, positive is right.
        pitch_degrees: how far the first frame looks above the horizon.
        on_frame: called with (frames done, frames in all) after each frame.

    Returns:
        [f, height, width, 3] float32 on the panorama's device.

    Raises:
        ShapeError, ValueError: what `check_panorama` refuses, an empty size, or a path that travels.

    Warns:
        CineSceneWarning: the panorama is too small for the frame size and the longest lens.
    """
    if width < 1 or height < 1:
        raise ValueError(f"The animatic needs a size of at least 1 x 1 pixels; got {width} x {height}.")
    if trajectory.travel() > TRAVEL_TOLERANCE:
        raise ValueError(
            f"The camera travels {_distance(trajectory.travel())} from where the panorama was taken, and a panorama "
            "has no parallax: it shows the place from one point only. Preview a move that turns or zooms (pan, tilt, "
            "static), or generate the film, which can show what a travelling camera sees."
        )
    start = rotation_from_angles(yaw_offset_degrees, pitch_degrees)
    rotations = start @ trajectory.relative()[:, :, :3]
    return photograph(panorama, rotations, trajectory.fov_degrees, width, height, on_picture=on_frame).float()


def _distance(metres: float) -> str:
    return f"{metres:.2f} m" if metres >= 0.1 else f"{metres * 1000:.1f} mm"
