"""Encoded clips as training reads them: shards opened, checked, and given out one clip at a time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import pad

from cinescene_core.checks import FileFormatError, check_choice, check_finite
from cinescene_core.types import SceneTokens

from .fingerprint import Fingerprint
from .footage import SPLITS, ClipItem
from .shards import DamagedShardError, read_record, shard_name, verify_shard

OPEN_SHARDS = 64
"""Shards that a process keeps mapped; there may be more than it can have files open."""


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """One training item. All values are float32."""

    name: str
    place: str
    caption: str
    has_subject: bool
    latents: Tensor
    """[16, t, h/8, w/8] raw VAE latents of the clip."""
    poses: Tensor
    """[t, 3, 4] poses of the latent frames relative to the first."""
    view_latents: Tensor
    """[v, 16, h/8, w/8] raw VAE latents of the place's views, the start view first, each encoded alone."""
    tokens: SceneTokens
    """[v, k, c] and [v, 1, c] of the same views."""
    text: Tensor
    """[l, width] rows of the caption, as the text encoder gives them."""
    clip_features: Tensor | None = None
    """[t, c, rows, columns] fused VGGT features of pixel frames 0, 4, 8, ... where the cache keeps them."""


class EncodedCache:
    """The encoded clips of one split.

    Shards are opened when they are first read from, in each process for itself: the cache can be handed to the
    workers of a loader, and read by several threads.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str, wanted: Fingerprint | None = None) -> None:
        """Check that a split is complete and fits the run, from the headers of its shards.

        Args:
            folder: what `cinescene-train cache` filled.
            split: train, validation or test.
            wanted: the run's fingerprint; None opens any.

        Raises:
            DamagedShardError: a shard is missing, cut short or damaged.
            FileFormatError: no cache, no such split in it, or shards of another fingerprint or format.
        """
        check_choice("split", split, SPLITS)
        self.folder, self.split = Path(folder), split
        first = self.folder / shard_name(split, 0)
        if not first.is_file():
            only = None if wanted is None else wanted.source.only
            if only not in (None, split):
                raise FileFormatError(
                    f"source.only puts every place into {only}, so there are no clips for {split}. Ask for {only}, or "
                    "leave source.only out and run cinescene-train cache into another folder."
                )
            raise FileFormatError(
                f"{self.folder} holds no encoded clips for {split}. Run cinescene-train cache with this configuration."
            )
        count = read_record(first).count
        self.records = tuple(read_record(self.folder / shard_name(split, number)) for number in range(count))
        self._check_records(wanted)
        self._places = tuple(
            (shard, index) for shard, record in enumerate(self.records) for index in range(len(record.clips))
        )
        if not self._places:
            raise FileFormatError(
                f"None of the {split} clips could be encoded; {self.folder / 'problems.txt'} says why."
            )

    def _check_records(self, wanted: Fingerprint | None) -> None:
        for number, record in enumerate(self.records):
            name = shard_name(self.split, number)
            if (record.split, record.number, record.count) != (self.split, number, len(self.records)):
                raise FileFormatError(
                    f"{name} is shard {record.number} of {record.count} for {record.split}; {number} of "
                    f"{len(self.records)} for {self.split} is needed. Run cinescene-train cache again."
                )
            record.fingerprint.check(wanted or self.fingerprint, f"{self.folder.name}/{name}")

    @property
    def fingerprint(self) -> Fingerprint:
        """What decided the content of the shards."""
        return self.records[0].fingerprint

    @cached_property
    def items(self) -> Sequence[ClipItem]:
        """Every clip, in the order of `sample`."""
        return tuple(clip for record in self.records for clip in record.clips)

    @property
    def feature_width(self) -> int:
        """Channels c of the scene encoder's tokens."""
        return max(record.feature_width for record in self.records)

    @property
    def text_width(self) -> int:
        """Channels of a text row."""
        return self.records[0].text_width

    def __len__(self) -> int:
        return len(self._places)

    def verify(self) -> None:
        """Read every shard whole and compare it with its digest.

        Raises:
            DamagedShardError: some are damaged; the sentence names them.
        """
        damaged = []
        for number in range(len(self.records)):
            try:
                verify_shard(self.folder / shard_name(self.split, number))
            except DamagedShardError:
                damaged.append(shard_name(self.split, number))
        if damaged:
            raise DamagedShardError(
                f"{len(damaged)} of {len(self.records)} shards are damaged: {', '.join(damaged)}. "
                "Run cinescene-train cache again; it makes them anew."
            )

    def sample(self, index: int) -> EncodedClip:
        """One clip with its place.

        Raises:
            IndexError: no clip of that number.
            FileFormatError: values that are not finite; the sentence names the clip and the shard.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"The {self.split} clips are numbered 0 to {len(self) - 1}; got {index}.")
        number, j = self._places[index]
        record, clip = self.records[number], self.records[number].clips[j]
        i, m = record.places.index(clip.place), record.captions.index(clip.caption)
        features = None
        if record.fingerprint.clip_features:
            rows, columns = record.grid
            stored = self._read(number, f"clip.{j}.features", clip.name)
            features = rearrange(stored, "t (r s) c -> t c r s", r=rows, s=columns)
        return EncodedClip(
            name=clip.name,
            place=clip.place,
            caption=clip.caption,
            has_subject=clip.has_subject,
            latents=self._read(number, f"clip.{j}.latents", clip.name),
            poses=self._read(number, f"clip.{j}.poses", clip.name),
            view_latents=self._read(number, f"place.{i}.latents", clip.place),
            tokens=SceneTokens(
                self._read(number, f"place.{i}.patch", clip.place),
                self._read(number, f"place.{i}.camera", clip.place),
                record.grid,
            ),
            text=self._text(number, m, clip.name),
            clip_features=features,
        )

    def empty_text(self) -> Tensor:
        """[l, width] rows of the empty prompt, for text dropout."""
        return self._text(0, 0, "the empty prompt")

    def _text(self, number: int, m: int, item: str) -> Tensor:
        """Rows of a caption with the zeros behind them put back."""
        rows = self._read(number, f"text.{m}", item)
        return pad(rows, (0, 0, 0, self.records[number].text_length - len(rows)))

    def _read(self, number: int, name: str, item: str) -> Tensor:
        """A copy of one tensor in float32."""
        shard = shard_name(self.split, number)
        path = self.folder / shard
        file = _open_shard(path, path.stat().st_mtime_ns, os.getpid())
        value = file.get_tensor(name).to(torch.float32, copy=True)
        try:
            check_finite(f"{name} of {item} in {shard}", value)
        except ValueError as error:
            raise FileFormatError(
                f"{str(error).split('. ')[0]}. Delete that shard and run cinescene-train cache."
            ) from error
        return value


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: Path, changed: int, process: int) -> Any:
    """A shard mapped to memory; by its time of change and by process, so that nobody reads what another opened."""
    return safe_open(path, framework="pt")
