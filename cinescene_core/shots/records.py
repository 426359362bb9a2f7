"""What is known of a filmed shot, as a small file beside its video: where it is, the video is finished and its own."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import FileFormatError
from ..config import SamplingConfig, SpeedConfig, ViewConfig
from ..costs import StageCost
from ..files import atomic_write
from ..selection import ForwardCost, ViewSelection
from ..step_cache import SkippedForwards

RECORD_FORMAT = 1
VIDEO_SUFFIX, RECORD_SUFFIX = ".mp4", ".json"
_FIELDS = {"format", "digest", "shot", "video", "costs", "selection", "skipped"}


@dataclass(frozen=True, kw_only=True)
class PathContent:
    """What decides a camera path: a move by its words, for machines round sines differently; a file by its numbers."""

    made: str
    """`Trajectory.provenance`."""
    frames: int
    fps: float
    lens: float
    """Horizontal field of view in degrees."""
    distance: float
    """Metres to the subject, which decide what views a path sees."""
    amount: float | None = None
    """Of a move."""
    poses: str | None = None
    """Digest of a file's poses."""


@dataclass(frozen=True, kw_only=True)
class ShotContent:
    """Everything that decides a shot."""

    prompt: str
    negative: str
    path: PathContent
    sampling: SamplingConfig
    shuffle: int | None
    """Seed of the views' order."""
    speed: SpeedConfig
    views: ViewConfig | None
    """How a panorama is cut; None where the place is none."""
    place: str
    """Digest of the place as it was given."""
    models: tuple[str, ...]
    """Digests of the networks, and what they were trained with."""

    def fields(self) -> dict[str, Any]:
        """The same as JSON values, of `speed` only what changes the video."""
        return dataclasses.asdict(self) | {"speed": self.speed.changes_video}

    @property
    def digest(self) -> str:
        """SHA-256 of the fields: what tells whether a shot was filmed already."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ShotStats:
    """What a shot took, and what was left out of it."""

    costs: tuple[StageCost, ...]
    selection: ViewSelection | None = None
    """Which views were read, where they were chosen."""
    skipped: SkippedForwards | None = None
    """What a step cache left out."""

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(cost.seconds for cost in self.costs)


@dataclass(frozen=True, kw_only=True)
class ShotRecord:
    """One finished shot."""

    digest: str
    """`ShotContent.digest` of what was filmed."""
    shot: Mapping[str, Any]
    """`ShotContent.fields` of it, for people to read."""
    video: str
    """SHA-256 of the video file."""
    stats: ShotStats


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
    folder: Path, name: str, content: ShotContent, stats: ShotStats, write: Callable[[Path], None]
) -> ShotRecord:
    """Write a shot's video, then its record, each whole or not at all.

    The record of an earlier version goes first: at no moment does a record stand beside a video that is not its own.

    Args:
        folder: where to.
        name: the shot's.
        content: what was filmed.
        stats: what it took.
        write: writes the video to a path, atomically.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    video, target = video_path(folder, name), record_path(folder, name)
    target.unlink(missing_ok=True)
    remove_leftovers(folder, name)
    write(video)
    record = ShotRecord(digest=content.digest, shot=content.fields(), video=_file_digest(video), stats=stats)
    with atomic_write(target) as temporary:
        text = json.dumps(_to_fields(record), indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")
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
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileFormatError(
            f"{path} stands where the record of a shot belongs, and is none ({error}). Move it away, and the shot is "
            "filmed again."
        ) from error
    if version != RECORD_FORMAT or set(fields) != _FIELDS:
        raise FileFormatError(
            f"{path} is a record of format {version!r} with the fields {sorted(fields)}; this version reads format "
            f"{RECORD_FORMAT} with {sorted(_FIELDS)}. Update CineScene, or move it away, and the shot is filmed again."
        )
    try:
        return _from_fields(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{path} is a damaged record of a shot: {error}. Move it away, and the shot is filmed again."
        ) from error


def _to_fields(record: ShotRecord) -> dict[str, Any]:
    """A record as JSON values."""
    stats = record.stats
    selection: dict[str, Any] | None = None
    if stats.selection is not None:
        counts = {name: getattr(stats.selection, name)._asdict() for name in ("kept", "whole")}
        selection = {"slots": stats.selection.slots, "shares": stats.selection.shares} | counts
    return {
        "format": RECORD_FORMAT,
        "digest": record.digest,
        "shot": record.shot,
        "video": record.video,
        "costs": [dataclasses.asdict(cost) for cost in stats.costs],
        "selection": selection,
        "skipped": None if stats.skipped is None else stats.skipped._asdict(),
    }


def _from_fields(fields: Mapping[str, Any]) -> ShotRecord:
    """What `_to_fields` wrote.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it wrote something else.
    """
    costs = tuple(StageCost(**cost) for cost in _typed("costs", fields["costs"], list))
    for cost in costs:
        _typed("a stage", cost.stage, str)
        _typed("seconds", cost.seconds, int, float)
        _typed("peak_bytes", cost.peak_bytes, int, type(None))
    selection, skipped = fields["selection"], fields["skipped"]
    return ShotRecord(
        digest=_typed("digest", fields["digest"], str),
        shot=_typed("shot", fields["shot"], dict),
        video=_typed("video", fields["video"], str),
        stats=ShotStats(
            costs=costs,
            selection=None if selection is None else _selection(selection),
            skipped=None if skipped is None else SkippedForwards(**_counts("skipped", skipped)),
        ),
    )


def _selection(fields: Mapping[str, Any]) -> ViewSelection:
    kept, whole = (ForwardCost(**_counts(name, fields[name])) for name in ("kept", "whole"))
    if whole.flop <= 0:
        raise ValueError(f"a forward of {whole.flop} FLOP")
    slots = tuple(_typed("a slot", slot, int) for slot in _typed("slots", fields["slots"], list))
    shares = tuple(_typed("a share", share, int, float) for share in _typed("shares", fields["shares"], list))
    return ViewSelection(slots, shares, kept, whole)


def _counts(name: str, fields: Mapping[str, Any]) -> dict[str, int]:
    return {key: _typed(f"{name}.{key}", value, int) for key, value in fields.items()}


def _typed(name: str, value: Any, *kinds: type) -> Any:
    """A JSON value of one of some types; True is no number."""
    if type(value) not in kinds:
        raise TypeError(f"{name} is {value!r}")
    return value


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
