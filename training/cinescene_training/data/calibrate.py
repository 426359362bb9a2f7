"""Measure what a dataset leaves unsaid: `cinescene-train calibrate`.

Frame 0 of a clip without the subject is found in the place's panorama (`fitting`); the answers of many places together
say how panoramas, camera files and focal lengths go together (`calibration`).
"""

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from torch import Tensor

from cinescene_core.files import check_target

from .calibration import Calibration, Frame, PlaceFit, lens_degrees, save_calibration, wrap_degrees
from .fitting import NotFoundError, place_picture
from .footage import PlaceItem, Problem
from .layout import SceneDecoupledFootage

LARGEST_SPREAD_DEGREES = 1.0
"""Median absolute departure beyond which places do not tell one story."""
LEAST_OUTLIER_DEGREES = 0.5
"""A place that departs by less agrees, however small the spread is."""
MAX_LINES = 20
"""Broken items that a report lists; the others are counted."""
SAME_DEGREES = 0.05
"""Two ways to read the angles that differ by less cannot be told apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StartView:
    """One place's panorama and the start view of its clips, nobody in either."""

    place: str
    panorama: Tensor
    """[h, w, 3], w = 2h."""
    frame: Tensor
    """[h, w, 3] in 0..1: frame 0 of a clip without the subject."""
    focal_mm: float
    """Focal length in the clip's name."""
    start_yaw_degrees: float
    """Where the camera file says it looks, in the world."""
    start_pitch_degrees: float


def calibrate(starts: Iterable[StartView | Problem]) -> Calibration:
    """Find every start view in its panorama, and what all of them have in common.

    Args:
        starts: taken one by one, so that a generator need not hold them all; a place that is known to be unusable
            is a `Problem` among them.

    Returns:
        What `agree` makes of the fits.

    Raises:
        ValueError: no place could be fitted, or they do not agree on one answer.
    """
    fits: list[PlaceFit] = []
    problems: list[Problem] = []
    for start in starts:
        if isinstance(start, Problem):
            problems.append(start)
            continue
        try:
            found = place_picture(start.panorama, start.frame)
        except NotFoundError as error:
            problems.append(Problem(item=start.place, reason=str(error)))
            continue
        fits.append(
            PlaceFit(
                place=start.place,
                heading_degrees=found.heading_degrees,
                pitch_degrees=found.pitch_degrees,
                fov_degrees=found.fov_degrees,
                focal_mm=start.focal_mm,
                start_yaw_degrees=start.start_yaw_degrees,
                start_pitch_degrees=start.start_pitch_degrees,
                correlation=found.correlation,
            )
        )
    return agree(fits, problems)


def run_calibration(root: str | os.PathLike[str], out: str | os.PathLike[str], max_places: int = 50) -> str:
    """Calibrate a dataset in the released layout; write the answer to a file.

    Args:
        root: the dataset's folder.
        out: the JSON file `load_calibration` reads.
        max_places: places to fit, taken evenly from all environments; each takes a second or two.

    Returns:
        The report, to be printed.

    Raises:
        FileFormatError: another layout, or `calibrate`'s ValueError; nothing is written then.
        OSError: `out` cannot be written.
    """
    check_target(out)
    if max_places < 1:
        raise ValueError(f"max_places must be at least 1; got {max_places}. Use about 50.")
    footage = SceneDecoupledFootage(root)
    calibration = calibrate(start_views(footage, max_places))
    save_calibration(calibration, out)
    broken = [f"Broken in the dataset: {problem.item}: {problem.reason}" for problem in footage.problems]
    if len(broken) > MAX_LINES:
        broken[MAX_LINES:] = [f"And {len(broken) - MAX_LINES} more broken items."]
    return "\n".join([calibration_report(calibration), *broken, f"Written to {Path(out)}."])


def start_views(footage: SceneDecoupledFootage, max_places: int) -> Iterator[StartView | Problem]:
    """Start views of up to `max_places` places, read one by one, or why a place has none that can be used."""
    empty = {clip.place: clip.name for clip in reversed(footage.clips) if not clip.has_subject}
    for place in _spread(footage.places, max_places):
        if place.name not in empty:
            reason = "It has no clip without the subject, and with one the start view does not match the panorama."
            yield Problem(item=place.name, reason=reason)
            continue
        clip = empty[place.name]
        yaw, pitch = footage.start_angles(place.name)
        try:
            start = StartView(
                place=place.name,
                panorama=footage.panorama(place.name),
                frame=footage.frames(clip, 1)[0],
                focal_mm=footage.focal_mm(clip),
                start_yaw_degrees=yaw,
                start_pitch_degrees=pitch,
            )
        except ValueError as error:
            yield Problem(item=place.name, reason=str(error))
            continue
        yield start


def calibration_report(calibration: Calibration) -> str:
    """What was found, in lines to be printed: the answer, its spread, and every place that departs or failed."""
    fits = calibration.places
    turned = {"start_view": "at every start view", "world": "beyond the start view's angle in the camera file"}
    focals = sorted({fit.focal_mm for fit in fits})
    lenses = ", ".join(f"{focal:g} mm is {calibration.fov_degrees(focal):.2f} degrees" for focal in focals)
    lines = [
        f"{len(fits)} places fitted, {len(calibration.problems)} could not be.",
        f"Heading: {calibration.heading_degrees:.2f} degrees {turned[calibration.heading_from]} "
        f"(spread {calibration.heading_spread_degrees:.2f}).",
        f"Pitch: {calibration.pitch_degrees:.2f} degrees {turned[calibration.pitch_from]} "
        f"(spread {calibration.pitch_spread_degrees:.2f}).",
        f"Lens: a filmback of {calibration.filmback_mm:.2f} mm; {lenses} "
        f"(spread {calibration.fov_spread_degrees:.2f}). Set cache.shot.fov_degrees to the lens you film with.",
    ]
    for name in ("yaw", "pitch"):
        angles = [getattr(fit, f"start_{name}_degrees") for fit in fits]
        if max(abs(wrap_degrees(angle - angles[0])) for angle in angles) < SAME_DEGREES:
            subject = "turned" if name == "yaw" else "tilted"
            lines.append(
                f"All start views have the same {name}, so whether panoramas are {subject} with them cannot be told."
            )
    outliers = disagreeing(calibration)
    lines += [
        f"Departs: {fit.place} by {fit.residual_degrees[0]:.2f} in heading, {fit.residual_degrees[1]:.2f} in pitch, "
        f"{fit.residual_degrees[2]:.2f} in field of view (correlation {fit.correlation:.3f})."
        for fit in outliers
    ]
    lines += [f"Not fitted: {problem.item}: {problem.reason}" for problem in calibration.problems]
    return "\n".join(lines)


def disagreeing(calibration: Calibration) -> tuple[PlaceFit, ...]:
    """Places that depart from the calibration by far more than the spread, and by half a degree at least."""
    spreads = (
        calibration.heading_spread_degrees,
        calibration.pitch_spread_degrees,
        calibration.fov_spread_degrees,
    )
    limits = [max(LEAST_OUTLIER_DEGREES, 6 * spread) for spread in spreads]
    return tuple(
        fit
        for fit in calibration.places
        if any(abs(part) > limit for part, limit in zip(fit.residual_degrees, limits, strict=True))
    )


def _spread(places: Sequence[PlaceItem], count: int) -> list[PlaceItem]:
    """Up to `count` places, one from each environment in turn."""
    environments: dict[str, list[PlaceItem]] = defaultdict(list)
    for place in sorted(places, key=lambda item: item.name):
        environments[place.environment].append(place)
    rounds = max(map(len, environments.values()), default=0)
    order = [members[turn] for turn in range(rounds) for members in environments.values() if turn < len(members)]
    return order[:count]


def agree(fits: Sequence[PlaceFit], problems: Sequence[Problem] = ()) -> Calibration:
    """One calibration from the fits of many places.

    Numbers are medians over the places; of the two ways to read an angle (`Calibration.heading_from`, `pitch_from`)
    the one that spreads less is taken.

    Returns:
        The calibration, with every fit and its residual, and the problems.

    Raises:
        ValueError: there is no fit, or the places do not agree on one answer.
    """
    if not fits:
        first = f" The first: {problems[0].item}: {problems[0].reason}" if problems else ""
        raise ValueError(f"None of {len(problems)} places could be calibrated.{first}")
    headings = [fit.heading_degrees for fit in fits]
    yaws = [fit.start_yaw_degrees for fit in fits]
    pitches = [fit.pitch_degrees for fit in fits]
    tilts = [fit.start_pitch_degrees for fit in fits]
    heading_from, heading, heading_spread = _reading(headings, yaws, preferred="start_view")
    pitch_from, pitch, pitch_spread = _reading(pitches, tilts, preferred="world")
    filmback = median(2 * fit.focal_mm * math.tan(math.radians(fit.fov_degrees) / 2) for fit in fits)
    lenses = [fit.fov_degrees - lens_degrees(fit.focal_mm, filmback) for fit in fits]
    fov_spread = median(map(abs, lenses))
    calibration = Calibration(
        heading_degrees=heading, heading_from=heading_from, heading_spread_degrees=heading_spread,
        pitch_degrees=pitch, pitch_from=pitch_from, pitch_spread_degrees=pitch_spread,
        filmback_mm=filmback, fov_spread_degrees=fov_spread, problems=tuple(problems),
    )  # fmt: skip
    for name, spread in (("headings", heading_spread), ("pitches", pitch_spread), ("fields of view", fov_spread)):
        if spread > LARGEST_SPREAD_DEGREES:
            either = "" if name == "fields of view" else ", read by the start view or by the world"
            raise ValueError(
                f"The {name} of {len(fits)} places do not agree: half of them are more than {spread:.1f} degrees from "
                f"the middle{either}. Check that panoramas, videos and camera files belong together."
            )
    residuals = (
        (
            wrap_degrees(fit.heading_degrees - calibration.heading(fit.start_yaw_degrees)),
            fit.pitch_degrees - calibration.pitch(fit.start_pitch_degrees),
            lens,
        )
        for fit, lens in zip(fits, lenses, strict=True)
    )
    placed = tuple(
        dataclasses.replace(fit, residual_degrees=residual) for fit, residual in zip(fits, residuals, strict=True)
    )
    return dataclasses.replace(calibration, places=placed)


def _reading(found: Sequence[float], stated: Sequence[float], *, preferred: Frame) -> tuple[Frame, float, float]:
    """How to read an angle: as it is or beyond the camera file's, the constant, and its spread.

    The reading that spreads less wins; where they spread alike, the preferred one.
    """
    readings: dict[Frame, tuple[float, float]] = {
        "start_view": _circular_median(found),
        "world": _circular_median([angle - base for angle, base in zip(found, stated, strict=True)]),
    }
    other: Frame = "world" if preferred == "start_view" else "start_view"
    best = other if readings[other][1] + SAME_DEGREES < readings[preferred][1] else preferred
    return best, *readings[best]


def _circular_median(angles: Sequence[float]) -> tuple[float, float]:
    """The angle nearest to all, -180 to 180, and the median distance from it, in degrees."""
    middle = min(angles, key=lambda angle: sum(abs(wrap_degrees(other - angle)) for other in angles))
    centre = wrap_degrees(middle + median(wrap_degrees(angle - middle) for angle in angles))
    return centre, median(abs(wrap_degrees(angle - centre)) for angle in angles)
