"""Shards: one safetensors file holds the encoded clips of several places, with a JSON record in its metadata.

Letters: v views, t latent frames, k patches, c feature channels, n text rows that are not zero, h w picture size.

    place.<i>.latents   [v, 16, h/8, w/8]  raw VAE latents of the views, each encoded alone
    place.<i>.patch     [v, k, c]          image features F_i
    place.<i>.camera    [v, 1, c]          camera features F_c
    clip.<j>.latents    [16, t, h/8, w/8]  raw VAE latents of the first frames
    clip.<j>.poses      [t, 3, 4]          float32 relative poses of the latent frames
    clip.<j>.features   [t, k, c]          fused features of pixel frames 0, 4, 8, ... (only with `clip_features`)
    text.<m>            [n, width]         rows of a caption without the zeros behind them; text.0 is the empty prompt

The record's digest stands beside it, and the digest of all values inside it: opening a shard proves the record,
`verify_shard` proves the values.
"""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cinescene_core.checks import CheckpointError, FileFormatError, check_positive
from cinescene_core.files import atomic_write
from cinescene_core.latents import latent_shape
from cinescene_core.types import content_digest
from cinescene_core.weights import TensorInfo, read_header
from cinescene_core.weights.files import difference

from ..config import as_record
from ..settings import SettingsError, build
from .fingerprint import CACHE_FORMAT, Fingerprint
from .footage import ClipItem, PlaceItem, Problem

SHARD_KEY = "cinescene_shard"
"""Metadata key of the record and its digest."""
AGAIN = "Run cinescene-train cache again; it makes this shard anew."
_DTYPES = {"float32": "F32", "bfloat16": "BF16"}


class DamagedShardError(FileFormatError):
    """A shard is cut short or changed; building the cache again makes it anew."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What belongs into one shard."""

    split: str
    number: int
    """Counts from 0."""
    count: int
    """Shards of the split."""
    places: tuple[PlaceItem, ...]
    clips: tuple[ClipItem, ...]
    """Of those places, place by place."""

    @property
    def file_name(self) -> str:
        return shard_name(self.split, self.number)

    def digest(self) -> str:
        """16 hex digits that change with any item, caption, or place in the split."""
        return hashlib.sha256(_canonical(as_record(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What one shard holds; everything about it but the values."""

    fingerprint: Fingerprint
    split: str
    number: int
    count: int
    plan: str
    """`ShardPlan.digest` of what was wanted."""
    places: tuple[str, ...]
    """Places held, in the order of `place.<i>`."""
    clips: tuple[ClipItem, ...]
    """Clips held, in the order of `clip.<j>`."""
    captions: tuple[str, ...]
    """Distinct captions, in the order of `text.<m>`; the first is the empty prompt."""
    text_rows: tuple[int, ...]
    """Rows stored per caption."""
    text_length: int
    """Rows of a caption as the text encoder gives it, zeros included."""
    text_width: int
    grid: tuple[int, int] = (0, 0)
    """(rows, columns) of the patches; zeros when no place is held."""
    feature_width: int = 0
    lenses: tuple[float, ...] = ()
    """Fields of view of the clips' paths, each once, in degrees to three decimals."""
    rates: tuple[float, ...] = ()
    """Frames per second of the clips' paths, each once, to three decimals."""
    problems: tuple[Problem, ...] = ()
    """Items that belong here and could not be encoded."""
    values: str = ""
    """SHA-256 over every tensor."""

    def tensors(self) -> dict[str, TensorInfo]:
        """Type and shape of every tensor the shard must hold."""
        made, shot = self.fingerprint, self.fingerprint.shot
        channels, frames, height, width = latent_shape(shot.num_frames, shot.width, shot.height)
        patches, c = self.grid[0] * self.grid[1], self.feature_width
        shapes: dict[str, tuple[int, ...]] = {}
        for i in range(len(self.places)):
            shapes[f"place.{i}.latents"] = (shot.num_views, channels, height, width)
            shapes[f"place.{i}.patch"] = (shot.num_views, patches, c)
            shapes[f"place.{i}.camera"] = (shot.num_views, 1, c)
        for j in range(len(self.clips)):
            shapes[f"clip.{j}.latents"] = (channels, frames, height, width)
            if made.clip_features:
                shapes[f"clip.{j}.features"] = (frames, patches, c)
        for m, rows in enumerate(self.text_rows):
            shapes[f"text.{m}"] = (rows, self.text_width)
        infos = {name: TensorInfo(_DTYPES[made.dtype], shape) for name, shape in shapes.items()}
        return infos | {f"clip.{j}.poses": TensorInfo("F32", (frames, 3, 4)) for j in range(len(self.clips))}


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.safetensors"


def plan_shards(
    split: str, places: Sequence[PlaceItem], clips: Sequence[ClipItem], places_per_shard: int
) -> list[ShardPlan]:
    """Divide places, in alphabetical order, into shards; the order in which they are listed does not count."""
    check_positive("places_per_shard", places_per_shard)
    ordered = sorted(places, key=lambda place: place.name)
    filmed: dict[str, list[ClipItem]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.name):
        filmed[clip.place].append(clip)
    groups = [ordered[start : start + places_per_shard] for start in range(0, len(ordered), places_per_shard)]
    return [
        ShardPlan(
            split=split,
            number=number,
            count=len(groups),
            places=tuple(group),
            clips=tuple(clip for place in group for clip in filmed[place.name]),
        )
        for number, group in enumerate(groups)
    ]


def write_shard(path: Path, tensors: Mapping[str, Tensor], record: ShardRecord) -> None:
    """Write a shard; equal content gives equal bytes.

    Raises:
        ValueError: the tensors are not those of the record.
        OSError: the folder is missing or the disk is full; no half-made file is left.
    """
    wanted = {name: info.shape for name, info in record.tensors().items()}
    fault = difference(wanted, {name: tuple(value.shape) for name, value in tensors.items()})
    if fault:
        raise ValueError(f"{path.name} cannot be written, its tensors are not those of its record: {fault}.")
    record = dataclasses.replace(record, values=_values_digest(tensors))
    fields = as_record(record)
    envelope = {"digest": _text_digest(fields), "record": fields}
    with atomic_write(path) as temporary:
        save_file(dict(tensors), temporary, metadata={SHARD_KEY: _canonical(envelope)})


def read_record(path: Path) -> ShardRecord:
    """Read what a shard holds and check that its tensors are there, from the header alone.

    Raises:
        DamagedShardError: the file is missing, cut short or changed, as far as its header shows.
        FileFormatError: a shard of another format.
    """
    if not path.is_file():
        raise DamagedShardError(f"The shard {path.name} is missing from {path.parent}. {AGAIN}")
    try:
        header = read_header(path)
        envelope = json.loads(header.metadata[SHARD_KEY])
        fields = envelope["record"]
        intact = envelope["digest"] == _text_digest(fields)
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise DamagedShardError(f"The shard {path.name} is cut short or damaged ({_first(error)}). {AGAIN}") from error
    if not intact:
        raise DamagedShardError(f"The shard {path.name} is damaged: its record is not what its digest says. {AGAIN}")
    version = fields["fingerprint"]["format"]
    if version != CACHE_FORMAT:
        raise FileFormatError(
            f"The shard {path.name} is of format {version!r}; this version reads {CACHE_FORMAT}. "
            "Update the training studio, or run cinescene-train cache again into another folder."
        )
    try:
        record = build(ShardRecord, fields)
    except SettingsError as error:
        raise FileFormatError(
            f"The record of the shard {path.name} is of another version of the training studio ({_first(error)}). "
            "Run cinescene-train cache again into another folder."
        ) from error
    _check_tensors(path.name, record, header.tensors)
    return record


def _check_tensors(name: str, record: ShardRecord, found: Mapping[str, TensorInfo]) -> None:
    wanted = record.tensors()
    fault = difference({key: info.shape for key, info in wanted.items()}, {k: info.shape for k, info in found.items()})
    fault = fault or next(
        (f"{key} is {found[key].dtype}" for key in wanted if found[key].dtype != wanted[key].dtype), ""
    )
    if fault:
        raise DamagedShardError(f"The shard {name} does not hold what its record says: {fault}. {AGAIN}")


def verify_shard(path: Path) -> ShardRecord:
    """Read a shard whole and compare every value with its digest.

    Raises:
        DamagedShardError: as `read_record`, or a value has changed.
        FileFormatError: a shard of another format.
    """
    record = read_record(path)
    with safe_open(path, framework="pt") as file:
        found = _values_digest({name: _Stored(file, name) for name in record.tensors()})
    if found != record.values:
        raise DamagedShardError(f"The shard {path.name} is damaged: its values are not what their digest says. {AGAIN}")
    return record


@dataclass(frozen=True)
class _Stored:
    """A tensor that is read when it is needed."""

    file: Any
    name: str


def _values_digest(tensors: Mapping[str, Tensor | _Stored]) -> str:
    """SHA-256 over every tensor by name, one in memory at a time."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        value = tensor.file.get_tensor(name) if isinstance(tensor, _Stored) else tensor
        digest.update(f"{name}\n{content_digest(value)}\n".encode())
    return digest.hexdigest()


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)


def _text_digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()


def _first(error: Exception) -> str:
    """The beginning of another module's sentence, without its advice."""
    return str(error).split(". ")[0]


def stored_dtype(fingerprint: Fingerprint) -> torch.dtype:
    """Type of stored latents, features and text rows."""
    return torch.float32 if fingerprint.dtype == "float32" else torch.bfloat16
