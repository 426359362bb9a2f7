"""What is known of a filmed shot, as a small file beside its video: where it is, the video is finished and its own."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import FileFormatError
from ..costs import StageCost
from ..files import atomic_write

RECORD_FORMAT = 1
VIDEO_SUFFIX, RECORD_SUFFIX = ".mp4", ".json"
_FIELDS = {"format", "digest", "shot", "video", "costs"}


@dataclass(frozen=True, kw_only=True)
class ShotRecord:
    """One finished shot."""

    digest: str
    """`shot_digest` of what was filmed."""
    shot: Mapping[str, Any]
    """What was filmed, for people to read."""
    video: str
    """SHA-256 of the video file."""
    costs: tuple[StageCost, ...]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(cost.seconds for cost in self.costs)


def shot_digest(shot: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a shot, given as JSON values."""
    return hashlib.sha256(json.dumps(shot, sort_keys=True).encode()).hexdigest()


def video_path(folder: Path, name: str) -> Path:
    """Where the video of the shot `name` stands."""
    return folder / f"{name}{VIDEO_SUFFIX}"


def record_path(folder: Path, name: str) -> Path:
    """Where its record stands."""
    return folder / f"{name}{RECORD_SUFFIX}"


def finished_record(folder: Path, name: str, digest: str) -> ShotRecord | None:
    """The record of a shot that need not be filmed: it has that digest, and its video is whole.

    Raises:
        FileFormatError: the record is of a later format, or damaged.
    """
    video, record = video_path(folder, name), _read(record_path(folder, name))
    if record is None or record.digest != digest or not video.is_file() or _file_digest(video) != record.video:
        return None
    return record


def keep_shot(
    folder: Path, name: str, shot: Mapping[str, Any], costs: Iterable[StageCost], write: Callable[[Path], None]
) -> ShotRecord:
    """Write a shot's video, then its record, each whole or not at all.

    The record of an earlier version goes first: at no moment does a record stand beside a video that is not its own.

    Args:
        folder: where to.
        name: the shot's.
        shot: what was filmed, as `shot_digest` takes it.
        costs: of its stages.
        write: writes the video to a path, atomically.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    video, target = video_path(folder, name), record_path(folder, name)
    target.unlink(missing_ok=True)
    remove_leftovers(folder, name)
    write(video)
    record = ShotRecord(digest=shot_digest(shot), shot=shot, video=_file_digest(video), costs=tuple(costs))
    with atomic_write(target) as temporary:
        fields = {"format": RECORD_FORMAT} | dataclasses.asdict(record)
        temporary.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return record


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed runs left: temporary files of the shot `name`, or all, when no other run uses the folder."""
    stem = ".{1,40}" if name is None else re.escape(name)
    leftover = re.compile(rf"\.{stem}-[0-9a-f]{{8}}\.(mp4|json|html|jpg|safetensors)")
    for file in folder.iterdir() if folder.is_dir() else ():
        if leftover.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _read(path: Path) -> ShotRecord | None:
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{path} stands where the record of a shot belongs, and is none ({error}). Move it away, and the shot is "
            "filmed again."
        ) from error
    if version != RECORD_FORMAT or set(fields) != _FIELDS:
        raise FileFormatError(
            f"{path} is a record of format {version!r} with the fields {sorted(fields)}; this version reads format "
            f"{RECORD_FORMAT} with {sorted(_FIELDS)}. Update CineScene, or move it away, and the shot is filmed again."
        )
    costs = tuple(StageCost(**cost) for cost in fields["costs"])
    return ShotRecord(digest=fields["digest"], shot=fields["shot"], video=fields["video"], costs=costs)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
