"""`cinescene-train cache`: a source to shards on disk, resumable after a kill at any moment.

A cache is a folder of shards. Everything else in it is derived from them: `index.json` says what there is, and
`problems.txt` names every item that is not in it. A shard appears whole or not at all, and the next run keeps it.
"""

import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cinescene_core.checks import FileFormatError, check_positive
from cinescene_core.context import SAME_LENS_DEGREES
from cinescene_core.files import atomic_write

from ..config import CacheConfig, ShotConfig, as_record
from .encode import encode_shard
from .encoders import Encoders, load_encoders
from .fingerprint import Fingerprint, fingerprint_of
from .footage import SPLITS, Problem
from .shards import DamagedShardError, ShardPlan, ShardRecord, plan_shards, read_record, verify_shard, write_shard
from .sources import Side, Source, open_source

INDEX, PROBLEMS = "index.json", "problems.txt"
LISTING = "listing"
"""Stands in `problems.txt` for the shard of an item that was found broken before encoding."""
AFTER_A_REPAIR = (
    f"{PROBLEMS} names the shard of each. After a repair, delete that shard and run cinescene-train cache; "
    f"where it says '{LISTING}', running it is enough."
)
MAX_WORDS = 30
"""Unknown words that a note lists; the others are counted."""
SAME_FPS = 1e-3
"""Frames per second by which two rates may differ and be the same."""
LEAST_STILL_LISTED = 0.5
"""Share of a cache's places that its source must still list; of one that lists less, a part is taken to be missing."""
_SHARD = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{5,}}\.safetensors")
_UNFINISHED = re.compile(
    rf"\.(?:(?:{'|'.join(SPLITS)})-\d{{5,}}|index|problems)-[0-9a-f]{{8}}\.(?:safetensors|json|txt)"
)

OnProgress = Callable[[str, int, int], None]
"""Told (split, clips done, clips in all) as the work goes on; may raise to interrupt it."""


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """What a cache holds of one split."""

    split: str
    places: int
    clips: int
    shards: int
    made: int
    """Shards that this run encoded; the others stood."""


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What a build of a cache did."""

    folder: Path
    splits: tuple[SplitCount, ...]
    bytes: int
    """Of all shards."""
    seconds: float
    notes: tuple[str, ...]
    """Shards that stood but had to be made again, or removed, and why; words that the text encoder does not know; and
    a lens or a frame rate of the clips that is not the configured one."""
    problems: tuple[Problem, ...]
    """Items that are not in the cache."""

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.bytes / 1e9:.3f} GB, {self.seconds:.1f} s"]
        for count in self.splits:
            lines.append(
                f"  {count.split}: {count.clips} clips of {count.places} places in {count.shards} shards "
                f"({count.made} made, {count.shards - count.made} stood)"
            )
        lines += [f"  {note}" for note in self.notes]
        if self.problems:
            lines.append(f"{len(self.problems)} items are not in the cache:")
            lines += [f"  {problem.item}: {problem.reason}" for problem in self.problems]
            lines.append(AFTER_A_REPAIR)
        return "\n".join(lines)


def build_cache(
    config: CacheConfig,
    *,
    device: torch.device | str = "cpu",
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> CacheReport:
    """Encode the configured source; arguments and errors as `fill_cache`.

    Raises:
        CheckpointError: an encoder's file is damaged or missing.
        ValueError: the source cannot be listed; see `open_source`.
    """
    return fill_cache(
        config,
        fingerprint_of(config),
        open_source(config, device),
        lambda: load_encoders(config.encoders, device),
        device=device,
        workers=workers,
        on_progress=on_progress,
    )


def fill_cache(
    config: CacheConfig,
    fingerprint: Fingerprint,
    source: Source,
    load: Callable[[], Encoders],
    *,
    device: torch.device | str = "cpu",
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> CacheReport:
    """Encode what is missing of a cache. One process at a time builds in a folder.

    Shards that stand are verified and kept; a damaged one, or one that holds other items than the source lists now,
    is made again and the report says so. A source that has lost more than half of the places held is refused.

    Args:
        config: the folder and how many places a shard has.
        fingerprint: of the shards.
        source: what to encode.
        load: gives the encoders, on `device`; called when the first shard is missing.
        device: where the encoders are.
        workers: threads that read ahead, see `encode_shard`.
        on_progress: see `OnProgress`.

    Raises:
        FileFormatError: the folder holds shards of another fingerprint or format, or mostly of places that the source
            does not list; or no clip of a side can be used.
        OSError: the disk is full or the folder cannot be written; the shards that are done stay and are kept by the
            next run.
    """
    started = time.monotonic()
    check_positive("workers", workers)
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    _check_folder(folder, fingerprint, source)
    notes: list[str] = []
    builder = _Builder(folder, fingerprint, load, device, workers, notes)
    counts = [builder.build(side, config.places_per_shard, on_progress or _silent) for side in source.sides]
    notes += [*_remove_surplus(folder, builder.records), *builder.unknown_words()]
    notes += _differences(builder.records.values(), fingerprint.shot)
    problems = _write_problems(folder, source.problems, builder.records)
    write_index(folder)
    report = CacheReport(
        folder=folder,
        splits=tuple(counts),
        bytes=sum((folder / name).stat().st_size for name in builder.records),
        seconds=time.monotonic() - started,
        notes=tuple(notes),
        problems=problems,
    )
    empty = [count.split for count in counts if not count.clips]
    if empty or not counts:
        raise FileFormatError(_nothing_encoded(empty, problems))
    return report


@dataclass(eq=False)
class _Builder:
    """The parts of a build that every shard shares."""

    folder: Path
    fingerprint: Fingerprint
    load: Callable[[], Encoders]
    device: torch.device | str
    workers: int
    notes: list[str]

    def __post_init__(self) -> None:
        self.records: dict[str, ShardRecord] = {}
        self._encoders: Encoders | None = None

    def build(self, side: Side, places_per_shard: int, tell: OnProgress) -> SplitCount:
        """Make the shards of one side that do not stand."""
        clips = side.clips
        plans = plan_shards(side.split, side.places, clips, places_per_shard)
        done = made = 0

        def count_clip() -> None:
            nonlocal done
            done += 1
            tell(side.split, done, len(clips))

        for plan in plans:
            record = self._standing(plan)
            if record is None:
                record = self._make(plan, side, count_clip)
                made += 1
            else:
                done += len(plan.clips)
                tell(side.split, done, len(clips))
            self.records[plan.file_name] = record
        held = [self.records[plan.file_name] for plan in plans]
        return SplitCount(
            split=side.split,
            places=sum(len(record.places) for record in held),
            clips=sum(len(record.clips) for record in held),
            shards=len(plans),
            made=made,
        )

    def _standing(self, plan: ShardPlan) -> ShardRecord | None:
        """The shard's record if it stands and is sound."""
        path = self.folder / plan.file_name
        if not path.exists():
            return None
        try:
            record = verify_shard(path)
        except DamagedShardError as error:
            self.notes.append(f"{plan.file_name} was damaged and was made again. ({error})")
            return None
        if record.plan != plan.digest():
            self.notes.append(f"{plan.file_name} held other items than the source lists now and was made again.")
            return None
        return record

    def _make(self, plan: ShardPlan, side: Side, count_clip: Callable[[], None]) -> ShardRecord:
        if self._encoders is None:
            self._encoders = self.load()
        tensors, record = encode_shard(
            plan,
            side.footage,
            self._encoders,
            self.fingerprint,
            device=self.device,
            workers=self.workers,
            on_clip=count_clip,
        )
        write_shard(self.folder / plan.file_name, tensors, record)
        return record

    def unknown_words(self) -> list[str]:
        """One note for all captions when their words are not all known; none when nothing was encoded."""
        if self._encoders is None:
            return []
        captions = {caption for record in self.records.values() for caption in record.captions}
        unknown = self._encoders.unknown_words(captions)
        if not unknown:
            return []
        more = f" and {len(unknown) - MAX_WORDS} more" if len(unknown) > MAX_WORDS else ""
        return [
            f"The text encoder does not know {len(unknown)} words of the captions, which all read the same: "
            f"{', '.join(unknown[:MAX_WORDS])}{more}. Where prompts matter, use encoders that know them."
        ]


def shard_files(folder: Path) -> list[Path]:
    """Every shard of a cache, by name."""
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def write_index(folder: Path) -> None:
    """Write `index.json` from the shards' own records: what there is, for people and other tools.

    Raises:
        FileFormatError: a shard is damaged or of another format.
        OSError: the folder cannot be written.
    """
    splits: dict[str, list[dict[str, Any]]] = {}
    fingerprint: Fingerprint | None = None
    for path in shard_files(folder):
        record = read_record(path)
        fingerprint = fingerprint or record.fingerprint
        splits.setdefault(record.split, []).append(
            {
                "file": path.name,
                "bytes": path.stat().st_size,
                "places": len(record.places),
                "clips": len(record.clips),
                "problems": len(record.problems),
            }
        )
    index = {"fingerprint": None if fingerprint is None else as_record(fingerprint), "splits": splits}
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _write_problems(folder: Path, listed: Sequence[Problem], records: dict[str, ShardRecord]) -> tuple[Problem, ...]:
    """One line per item that is not in the cache: shard, item, reason."""
    found = [(LISTING, problem) for problem in listed]
    found += [(name, problem) for name, record in records.items() for problem in record.problems]
    lines = ["\t".join((place, problem.item, " ".join(problem.reason.split()))) for place, problem in found]
    with atomic_write(folder / PROBLEMS) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tuple(problem for _, problem in found)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()


def _check_folder(folder: Path, fingerprint: Fingerprint, source: Source) -> None:
    """Refuse a folder whose shards another run needs, before any is touched. Damaged ones are judged later."""
    held: set[str] = set()
    for path in shard_files(folder):
        try:
            record = read_record(path)
        except DamagedShardError:
            continue
        record.fingerprint.check(fingerprint, f"{folder.name}/{path.name}")
        held.update(record.places)
    listed = held & {place.name for side in source.sides for place in side.places}
    if len(listed) < LEAST_STILL_LISTED * len(held):
        raise FileFormatError(
            f"{folder.name} holds {len(held)} places, and the source lists only {len(listed)} of them now. Check that "
            "the dataset is there whole, its disk mounted; to encode what it lists now, name another folder."
        )


def _remove_surplus(folder: Path, records: dict[str, ShardRecord]) -> list[str]:
    """Remove shards behind the last one of a source that has become smaller."""
    surplus = [path for path in shard_files(folder) if path.name not in records]
    for path in surplus:
        path.unlink()
    return [f"{path.name} held items that the source no longer lists and was removed." for path in surplus]


def _differences(records: Collection[ShardRecord], shot: ShotConfig) -> list[str]:
    """Where the clips' lens or frame rate is not the configured one; the model has no input for either."""
    lenses = sorted({lens for record in records for lens in record.lenses})
    rates = sorted({rate for record in records for rate in record.rates})
    notes = []
    if any(abs(lens - shot.fov_degrees) > SAME_LENS_DEGREES for lens in lenses):
        notes.append(
            f"Clips have a lens of {_range(lenses)} degrees and the views one of {shot.fov_degrees:g}; the model "
            f"cannot know. Set cache.shot.fov_degrees to {_one_of(lenses)}, or calibrate the dataset."
        )
    if any(abs(rate - shot.fps) > SAME_FPS for rate in rates):
        notes.append(
            f"Clips have {_range(rates)} frames per second and the configuration says {shot.fps:g}; a trained model "
            f"would play at the wrong speed. Set cache.shot.fps to {_one_of(rates)}."
        )
    return notes


def _range(values: Sequence[float]) -> str:
    """Sorted numbers by the first and the last."""
    return " to ".join(f"{value:g}" for value in dict.fromkeys((values[0], values[-1])))


def _one_of(values: Sequence[float]) -> str:
    """The number, or which to choose."""
    return f"{values[0]:g}" if len(values) == 1 else "that of most clips"


def _nothing_encoded(splits: Sequence[str], problems: Sequence[Problem]) -> str:
    first = f" The first of {len(problems)} problems is {problems[0].item}: {problems[0].reason}" if problems else ""
    advice = f" {AFTER_A_REPAIR}" if problems else " The source lists none. Add places, or hold out fewer."
    return f"No clip for {' and '.join(splits) or 'any split'} could be encoded.{first}{advice}"


def _silent(split: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""
