"""Rendered places as files in the released layout, so that they and the real dataset are read by the same code."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..data.footage import WITH_SUBJECT, WITHOUT_SUBJECT, PlaceItem
from ..data.layout import PlaceClip, write_place
from ..data.listing import SceneFiles
from .blender import BlenderJob, render_blender
from .footage import RoomFootage

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
        OSError: the folder cannot be written or the disk is full.
    """
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
        ImportError, FileFormatError, PoseError, ValueError, OSError: as `render_blender`.
    """
    missing = [job for job in jobs if not _stands(job.root, job.name)]
    for index, job in enumerate(missing):

        def count(done: int, total: int, index: int = index) -> None:
            if on_picture is not None:
                on_picture(index * total + done, len(missing) * total)

        render_blender(job, count)
    return len(missing)


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
