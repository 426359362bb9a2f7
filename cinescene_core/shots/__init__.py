"""A list of shots, filmed over one encoded place: read, filmed, kept, reported."""

from .film import Camera, FilmSettings, PlannedShot, film_shots, plan_shots
from .records import ShotRecord, finished_record, keep_shot
from .report import write_report
from .rows import Move, ShotRow, read_shots, shard_of

__all__ = [
    "Camera",
    "FilmSettings",
    "Move",
    "PlannedShot",
    "ShotRecord",
    "ShotRow",
    "film_shots",
    "finished_record",
    "keep_shot",
    "plan_shots",
    "read_shots",
    "shard_of",
    "write_report",
]
