"""A list of shots, filmed over one encoded place: read, filmed, kept, reported."""

from .cells import Move
from .film import ShotFilmer, film_shots
from .plan import FilmSettings, PlannedShot, plan_shots
from .records import ShotContent, ShotRecord, ShotStats, finished_record, keep_shot
from .report import write_report
from .rows import ShotRow, read_shots, shard_of

__all__ = [
    "FilmSettings",
    "Move",
    "PlannedShot",
    "ShotContent",
    "ShotFilmer",
    "ShotRecord",
    "ShotRow",
    "ShotStats",
    "film_shots",
    "finished_record",
    "keep_shot",
    "plan_shots",
    "read_shots",
    "shard_of",
    "write_report",
]
