"""Places and clips to the tensors of one shard. What cannot be encoded becomes a `Problem`, never an empty item."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from cinescene_core.checks import ShapeError, check_finite, check_shape
from cinescene_core.config import TEMPORAL_STRIDE, ViewConfig
from cinescene_core.context import check_one_lens
from cinescene_core.models.vggt import resize_for_vggt
from cinescene_core.scene import encode_scene
from cinescene_core.types import Trajectory, Views

from ..config import ShotConfig
from .encoders import Encoders
from .fingerprint import Fingerprint
from .footage import ClipItem, Footage, Problem
from .shards import ShardPlan, ShardRecord, stored_dtype

BadItem = (ValueError, OSError)
"""What reading or encoding a bad item raises; anything else is a fault of the program and ends it."""


@dataclass(frozen=True, eq=False)
class ReadClip:
    """A clip as it goes into the encoders."""

    frames: Tensor
    """[num_frames, h, w, 3] in 0..1."""
    path: Trajectory
    """Of those frames."""


Wanted = TypeVar("Wanted", Views, ReadClip)
Read = Views | ReadClip | Exception
"""What was read, or why it could not be."""


@torch.no_grad()
def encode_shard(
    plan: ShardPlan,
    footage: Footage,
    encoders: Encoders,
    fingerprint: Fingerprint,
    *,
    device: torch.device | str = "cpu",
    workers: int = 1,
    on_clip: Callable[[], None] | None = None,
) -> tuple[dict[str, Tensor], ShardRecord]:
    """Encode the places of one shard, which is held in memory until it is whole.

    Args:
        plan: the places and clips.
        footage: where they are read.
        encoders: on `device`.
        fingerprint: sizes, types, and whether features of the clips are kept.
        device: where the encoders are.
        workers: threads that read pictures and videos ahead; with one, the footage need not be safe for threads.
        on_clip: called after each clip, good or bad; may raise to interrupt.

    Returns:
        The tensors and the record, its `values` still empty.
    """
    shard = _Shard(encoders, fingerprint, device)
    reads = _read_ahead(_jobs(plan, footage, fingerprint.shot), workers)
    for place in plan.places:
        clips = [clip for clip in plan.clips if clip.place == place.name]
        good = shard.open_place(place.name, next(reads), len(clips))
        for clip, read in zip(clips, reads, strict=False):  # takes from `reads` only what is this place's
            if good:
                shard.add_clip(clip, read)
            if on_clip is not None:
                on_clip()
        if good:
            shard.close_place(place.name, len(clips))
    return shard.tensors, shard.record(plan)


class _Shard:
    """The content of a shard while it grows."""

    def __init__(self, encoders: Encoders, fingerprint: Fingerprint, device: torch.device | str) -> None:
        self.encoders, self.fingerprint, self.device = encoders, fingerprint, device
        self.dtype = stored_dtype(fingerprint)
        self.tensors: dict[str, Tensor] = {}
        self.places: list[str] = []
        self.clips: list[ClipItem] = []
        self.captions: dict[str, int] = {}
        self.lenses: set[float] = set()
        self.rates: set[float] = set()
        self.text_size = (0, 0)
        self.grid, self.feature_width = (0, 0), 0
        self.problems: list[Problem] = []
        self._pending: dict[str, Tensor] = {}
        self._clips_before = 0
        self._add_caption("")

    def open_place(self, name: str, read: Read, num_clips: int) -> bool:
        """Encode the views of a place; they join the shard when a clip of it does. False for a bad place."""
        shot = self.fingerprint.shot
        try:
            views = _check_views(_good(read, Views), shot)
            scene = encode_scene(
                views,
                self.encoders.vggt,
                self.encoders.vae,
                vggt_size=(shot.vggt_width, shot.vggt_height),
                device=self.device,
            )
            found = {"latents": scene.latents, "patch": scene.tokens.patch, "camera": scene.tokens.camera}
            for part, value in found.items():
                check_finite(f"The {part} of its views", value)
        except BadItem as error:
            self.problems.append(Problem(item=name, reason=f"{error} Its {num_clips} clips are left out."))
            return False
        self.grid, self.feature_width = scene.tokens.grid, scene.tokens.patch.shape[-1]
        prefix = f"place.{len(self.places)}."
        self._pending = {prefix + part: value.to(self.dtype) for part, value in found.items()}
        self._clips_before = len(self.clips)
        return True

    def add_clip(self, clip: ClipItem, read: Read) -> None:
        """Encode a clip, or note why not."""
        try:
            shot = _good(read, ReadClip)
            found = self._encode_clip(shot)
            self._add_caption(clip.caption)
        except BadItem as error:
            self.problems.append(Problem(item=clip.name, reason=str(error)))
            return
        self.tensors |= {f"clip.{len(self.clips)}.{part}": value for part, value in found.items()}
        self.clips.append(clip)
        self.lenses.add(round(float(shot.path.fov_degrees[0]), 3))
        self.rates.add(round(shot.path.fps, 3))

    def close_place(self, name: str, num_clips: int) -> None:
        """Keep the views of a place that has a good clip."""
        if len(self.clips) == self._clips_before:
            reason = f"None of its {num_clips} clips can be used; it is left out."
            self.problems.append(Problem(item=name, reason=reason if num_clips else "It has no clips; it is left out."))
            return
        self.tensors |= self._pending
        self.places.append(name)

    def record(self, plan: ShardPlan) -> ShardRecord:
        """What the shard holds now."""
        return ShardRecord(
            fingerprint=self.fingerprint,
            split=plan.split,
            number=plan.number,
            count=plan.count,
            plan=plan.digest(),
            places=tuple(self.places),
            clips=tuple(self.clips),
            captions=tuple(self.captions),
            text_rows=tuple(len(self.tensors[f"text.{index}"]) for index in self.captions.values()),
            text_length=self.text_size[0],
            text_width=self.text_size[1],
            grid=self.grid if self.places else (0, 0),
            feature_width=self.feature_width if self.places else 0,
            lenses=tuple(sorted(self.lenses)),
            rates=tuple(sorted(self.rates)),
            problems=tuple(self.problems),
        )

    def _encode_clip(self, clip: ReadClip) -> dict[str, Tensor]:
        shot = self.fingerprint.shot
        latents = self.encoders.vae.encode(clip.frames[None])[0].float()
        check_finite("The latents of the clip", latents)
        found = {"latents": latents.to("cpu", self.dtype), "poses": clip.path.latent_poses().float()}
        if self.fingerprint.clip_features:
            size = (shot.vggt_width, shot.vggt_height)
            pictures = resize_for_vggt(clip.frames[::TEMPORAL_STRIDE], size, self.encoders.vggt.patch_size)
            features = self.encoders.vggt.encode(pictures.to(self.device)[None]).fused()[0]
            check_finite("The features of the clip", features)
            found["features"] = features.to("cpu", self.dtype)
        return {part: value.contiguous() for part, value in found.items()}

    def _add_caption(self, caption: str) -> None:
        """Encode a caption that the shard does not hold yet; ValueError when the text encoder refuses it."""
        if caption in self.captions:
            return
        rows = self.encoders.caption_rows(caption).float().cpu()
        sizes = check_shape("The rows of its caption", rows, "length width")
        check_finite("The rows of its caption", rows)
        self.text_size = (sizes["length"], sizes["width"])
        used = rows.any(dim=1).nonzero()
        count = int(used[-1]) + 1 if len(used) else 0
        self.tensors[f"text.{len(self.captions)}"] = rows[:count].to(self.dtype, copy=True)
        self.captions[caption] = len(self.captions)


def _good(read: Read, kind: type[Wanted]) -> Wanted:
    """What was read; raises what reading raised."""
    if isinstance(read, Exception):
        raise read
    assert isinstance(read, kind)
    return read


def _check_views(views: Views, shot: ShotConfig) -> Views:
    """Require as many views, of the size, as every sample of the run has."""
    width, height = views.size
    found, needed = (len(views), width, height), (shot.num_views, shot.width, shot.height)
    if found != needed:
        raise ShapeError(
            "It has {} views of {} x {} pixels where {} of {} x {} are needed. "
            "Give it other pictures, or change the configured shot.".format(*found, *needed)
        )
    return views


def _jobs(plan: ShardPlan, footage: Footage, shot: ShotConfig) -> Iterator[Callable[[], Views | ReadClip]]:
    """Everything to read for a shard, in the order in which it is encoded."""
    config = ViewConfig(num_views=shot.num_views, width=shot.width, height=shot.height, fov_degrees=shot.fov_degrees)
    for place in plan.places:
        yield partial(footage.views, place.name, config)
        for clip in plan.clips:
            if clip.place == place.name:
                yield partial(read_clip, footage, clip.name, shot)


def read_clip(footage: Footage, name: str, shot: ShotConfig) -> ReadClip:
    """Read the first frames of a clip and their path.

    Raises:
        ValueError: fewer poses than frames, another size, a zoom, values that are not finite, or an unreadable file.
        OSError: a file cannot be read.
    """
    path = footage.trajectory(name)
    if len(path) < shot.num_frames:
        raise ShapeError(
            f"Its camera path has {len(path)} poses; {shot.num_frames} frames need one each. "
            "Film it longer, or configure fewer frames."
        )
    path = dataclasses.replace(
        path,
        world_from_camera=path.world_from_camera[: shot.num_frames],
        fov_degrees=path.fov_degrees[: shot.num_frames],
    )
    check_one_lens(path)
    frames = footage.frames(name, shot.num_frames)
    sizes = check_shape("Its frames", frames, "f h w 3")
    if tuple(frames.shape[:3]) != (shot.num_frames, shot.height, shot.width):
        raise ShapeError(
            f"Its video has {sizes['f']} frames of {sizes['w']} x {sizes['h']} pixels where {shot.num_frames} of "
            f"{shot.width} x {shot.height} are needed. Convert it, or change the configured shot."
        )
    check_finite("Its frames", frames)
    return ReadClip(frames, path)


def _read_ahead(jobs: Iterator[Callable[[], Views | ReadClip]], workers: int) -> Iterator[Read]:
    """Results of the jobs in order; `workers` threads stay that many jobs ahead."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Read]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_outcome, job))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@torch.no_grad()
def _outcome(job: Callable[[], Views | ReadClip]) -> Read:
    """What a job reads, or the error that makes its item a bad one."""
    try:
        return job()
    except BadItem as error:
        return error
