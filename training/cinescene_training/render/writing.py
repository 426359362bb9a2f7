"""Rendered places as files in the released layout, so that they and the real dataset are read by the same code."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..data.footage import PlaceItem
from ..data.layout import PlaceClip, write_place
from ..data.listing import SceneFiles
from .footage import WITH_SUBJECT, WITHOUT_SUBJECT, RoomFootage

OnPlace = Callable[[int, int], None]
"""Told (places done, places in all)."""


def write_rooms(root: str | os.PathLike[str], footage: RoomFootage, on_place: OnPlace | None = None) -> int:
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
        if not SceneFiles(Path(root), place.name).camera_file(WITH_SUBJECT).exists():
            plan = footage.plan(f"{place.name}/{WITH_SUBJECT}/01")
            write_place(
                root,
                place.name,
                footage.panorama(place.name),
                _clips(footage, place),
                caption=plan.caption,
                caption_action_only=plan.action_caption,
            )
            written += 1
        if on_place is not None:
            on_place(done, len(footage.places))
    return written


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
