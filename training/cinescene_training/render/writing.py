"""Rendered places as files in the released layout, so that they and the real dataset are read by the same code."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cinescene_core.checks import FileFormatError
from cinescene_core.files import atomic_write

from ..data.footage import WITH_SUBJECT, WITHOUT_SUBJECT, PlaceItem
from ..data.layout import PlaceClip, write_place
from ..data.listing import SceneFiles
from .blender import BlenderJob, render_blender
from .footage import RoomFootage
from .version import RENDER_VERSION

RECORD = "render.json"
"""Says with what settings a dataset was rendered."""
PICTURES = ("width", "height", "num_frames", "fps", "fov_degrees", "panorama_width")
"""What rooms and sets of one dataset have in common."""
OF_A_SET = ("moves", "camera", "subject", "caption", "caption_action_only", "depth")
"""What every place of one set has in common."""
OF_CYCLES = ("samples", "denoise", "seed")
"""Settings of Cycles that its pictures depend on; the device is none."""
OnProgress = Callable[[int, int], None]
"""Told (done, in all)."""


def write_rooms(root: str | os.PathLike[str], footage: RoomFootage, on_place: OnProgress | None = None) -> int:
    """Write every place of a footage that does not stand yet; goes on where it was stopped.

    Args:
        root: the dataset's folder.
        footage: the places; its clips are written with depth and subject masks.
        on_place: progress.

    Returns:
        How many places were written; the others stood.

    Raises:
        FileFormatError: what stands in the folder was rendered with other settings, or its record cannot be read.
        OSError: the folder cannot be written or the disk is full.
    """
    rooms = {"clips_per_place": footage.clips_per_place, "supersampling": footage.samples}
    settings = {name: getattr(footage, name) for name in PICTURES}
    settings |= {f"rooms.{name}": value for name, value in (rooms | {"render_version": RENDER_VERSION}).items()}
    _refuse_unrecorded(Path(root), [place.name for place in footage.places])
    _settle(Path(root), settings)
    written = 0
    for done, place in enumerate(footage.places, start=1):
        if not _stands(root, place.name):
            plan = footage.plan(f"{place.name}/{WITH_SUBJECT}/01")
            write_place(
                root,
                place.name,
                footage.panorama(place.name),
                _clips(footage, place),
                caption=plan.caption,
                caption_action_only=plan.action_caption,
                caption_place_only=plan.place_caption,
            )
            written += 1
        if on_place is not None:
            on_place(done, len(footage.places))
    return written


def write_sets(jobs: Sequence[BlenderJob], on_picture: OnProgress | None = None) -> int:
    """Render with Blender every place that does not stand yet; returns how many were written.

    Raises:
        FileFormatError: what stands in the folder was rendered with other settings, or its record cannot be read.
        ImportError, FileFormatError, PoseError, ValueError, OSError: as `render_blender`.
    """
    for job in jobs:
        _refuse_unrecorded(Path(job.root), [job.name])
    for job in jobs:
        of_set = {name: getattr(job, name) for name in OF_A_SET}
        of_set |= {f"cycles.{name}": getattr(job.cycles, name) for name in OF_CYCLES}
        settings = {name: getattr(job, name) for name in PICTURES}
        settings |= {f"blender.{Path(job.source).stem}.{name}": value for name, value in of_set.items()}
        _settle(Path(job.root), settings)
    missing = [job for job in jobs if not _stands(job.root, job.name)]
    for index, job in enumerate(missing):

        def count(done: int, total: int, index: int = index) -> None:
            if on_picture is not None:
                on_picture(index * total + done, len(missing) * total)

        render_blender(job, count)
    return len(missing)


def _refuse_unrecorded(root: Path, places: Sequence[str]) -> None:
    """Refuse a dataset that some of the places stand in already without a record."""
    found = [] if (root / RECORD).exists() else [name for name in places if _stands(root, name)]
    if found:
        raise FileFormatError(
            f"{root} holds {found[0]}, and no {RECORD} says how it was rendered. Render into another folder."
        )


def _settle(root: Path, settings: Mapping[str, Any]) -> None:
    """Require that a dataset is rendered with the same settings from its first place on, and write them down."""
    path = root / RECORD
    wanted: dict[str, Any] = json.loads(json.dumps(settings))  # tuples as they come back
    known = _read_settings(path)
    for name, value in wanted.items():
        if name in known and known[name] != value:
            raise FileFormatError(
                f"{root} was rendered with {name} = {known[name]!r}, and this run wants {value!r}. Render into another "
                "folder, or with that setting."
            )
    if known == known | wanted:
        return
    root.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(known | wanted, indent=1) + "\n", encoding="utf-8")


def _read_settings(path: Path) -> dict[str, Any]:
    """Settings by dotted name; none where nothing was rendered."""
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path} is not JSON ({error}). Restore it, or render into another folder.") from error
    if not isinstance(known, dict):
        raise FileFormatError(f"{path} must hold settings by name. Restore it, or render into another folder.")
    return known


def _stands(root: str | os.PathLike[str], place: str) -> bool:
    """Whether a place was written whole: its last file is there."""
    return SceneFiles(Path(root), place).camera_file(WITH_SUBJECT).exists()


def _clips(footage: RoomFootage, place: PlaceItem) -> Iterator[PlaceClip]:
    """The twins of a place as one clip each."""
    for number in range(1, footage.clips_per_place + 1):
        acted, empty = (f"{place.name}/{folder}/{number:02d}" for folder in (WITH_SUBJECT, WITHOUT_SUBJECT))
        yield PlaceClip(
            number=number,
            trajectory=footage.trajectory(acted),
            with_subject=footage.frames(acted, footage.num_frames),
            without_subject=footage.frames(empty, footage.num_frames),
            depth=footage.depth(empty, footage.num_frames),
            subject_mask=footage.subject_mask(acted, footage.num_frames).float(),
        )
