"""What every shot of a list is, found out and checked before any of them is filmed."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import FileFormatError
from ..config import SamplingConfig, SpeedConfig, ViewConfig
from ..context import check_request, check_scene
from ..loading import Models
from ..panorama import check_panorama
from ..pipeline import check_speed
from ..scene_cache import weights_digest
from ..types import Scene, Trajectory, Views, content_digest
from .notes import naming_row, recording
from .records import PathContent, ShotContent
from .rows import ShotRow


@dataclass(frozen=True, kw_only=True)
class FilmSettings:
    """What all shots of a list share."""

    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    """Its seed serves the rows that name none."""
    shuffle_seed: int | None = None
    """Shuffles the views behind the first; None keeps their order."""
    speed: SpeedConfig = dataclasses.field(default_factory=SpeedConfig)
    device: str = "cpu"


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedShot:
    """A row, completed by what the whole list has, and checked."""

    row: ShotRow
    trajectory: Trajectory
    sampling: SamplingConfig
    view_config: ViewConfig | None
    """How the panorama is cut for this shot; None when the place is no panorama."""
    place: str
    """Digest of the place as this shot sees it: shots that share it share a scene."""
    size: tuple[int, int]
    """(width, height) of the video in pixels."""
    content: ShotContent
    notes: tuple[str, ...]
    """Where the shot is not as the checkpoint was trained, in sentences; they are said when it is filmed."""

    @property
    def digest(self) -> str:
        """What tells whether the shot was filmed already."""
        return self.content.digest


@dataclass(frozen=True)
class _Place:
    """What the rows of a list have in common; `num_views`, `size` and `fov_degrees` are those of the views."""

    source: str
    """Digest of what was given."""
    num_views: int
    size: tuple[int, int]
    fov_degrees: float | None
    cut: ViewConfig | None
    """How a panorama is cut where a row says nothing."""

    def seen_by(self, row: ShotRow) -> "_Place":
        """The same with what the row asks for.

        Raises:
            FileFormatError: another size than that of views that are there already.
        """
        if self.cut is None:
            if row.size not in (None, self.size):
                raise FileFormatError(
                    f"{row.origin}, column 'size': the place has views of {self.size[0]} x {self.size[1]} pixels; got "
                    f"{row.size[0]} x {row.size[1]}. Leave the cell empty, or film from a panorama."
                )
            return self
        width, height = row.size or self.size
        lens = self.cut.fov_degrees if row.lens is None else row.lens
        cut = dataclasses.replace(self.cut, width=width, height=height, fov_degrees=lens)
        return dataclasses.replace(self, size=(width, height), fov_degrees=lens, cut=cut)


def plan_shots(
    models: Models,
    place: Tensor | Views | Scene,
    rows: Iterable[ShotRow],
    settings: FilmSettings,
    view_config: ViewConfig | None = None,
) -> tuple[PlannedShot, ...]:
    """Complete and check every row, before any is filmed.

    A panorama is cut at each row's size and lens; views and scenes have their own.

    Args:
        models: what the shots are filmed with.
        place: a panorama, views, or an encoded scene.
        rows: from `read_shots`.
        settings: what the shots share.
        view_config: how a panorama is cut where a row says nothing; by default as the checkpoint was trained.

    Raises:
        FileFormatError: a row that the place or the model cannot serve; the message names it.
        ValueError: what `check_speed` refuses.
        CheckpointError: the scene was made for another checkpoint.
    """
    shared = _place_of(models, place, view_config)
    check_speed(models, place, settings.speed, settings.device)
    networks: list[Any] = [models.transformer, models.vae, models.text]
    made_by = (models.config.to_json(), models.vggt.fingerprint, *(weights_digest(network) for network in networks))
    return tuple(_plan(models, shared.seen_by(row), row, settings, made_by) for row in rows)


def _place_of(models: Models, place: Tensor | Views | Scene, view_config: ViewConfig | None) -> _Place:
    """What was given, with a digest of all of it that a shot reads: values, cameras and lens.

    Raises:
        CheckpointError: the scene was made for another checkpoint.
        ValueError: the panorama cannot be cut.
    """
    if isinstance(place, Tensor):
        cut = view_config or models.view_config()
        source = content_digest(check_panorama(place))
        return _Place(source, cut.num_views, (cut.width, cut.height), cut.fov_degrees, cut)
    if isinstance(place, Scene):
        check_scene(place, models.config)
        views, values = place.views, [place.latents, place.tokens.patch, place.tokens.camera]
    else:
        views, values = place, [place.images]
    if views.world_from_camera is not None:
        values.append(views.world_from_camera)
    lens = torch.tensor([] if views.fov_degrees is None else [views.fov_degrees], dtype=torch.float64)
    return _Place(content_digest(*values, lens), len(views), views.size, views.fov_degrees, None)


def _plan(models: Models, place: _Place, row: ShotRow, settings: FilmSettings, made_by: tuple[str, ...]) -> PlannedShot:
    """One row of `plan_shots`; `place` is as the row sees it, `made_by` digests of the models."""
    config, seen = models.config, place.fov_degrees
    notes: list[str] = []
    with naming_row(row), recording(notes):
        trajectory = row.trajectory(
            num_frames=config.num_frames, fps=config.fps, fov_degrees=config.fov_degrees if seen is None else seen
        )
        check_request(trajectory, config, num_views=place.num_views, size=place.size, fov_degrees=seen)
    seed = settings.sampling.seed if row.seed is None else row.seed
    sampling = dataclasses.replace(settings.sampling, seed=seed)
    return PlannedShot(
        row=row,
        trajectory=trajectory,
        sampling=sampling,
        view_config=place.cut,
        place=json.dumps([place.source, None if place.cut is None else dataclasses.asdict(place.cut)]),
        size=place.size,
        content=ShotContent(
            prompt=row.prompt,
            negative=row.negative,
            path=_path_content(row, trajectory),
            sampling=sampling,
            shuffle=settings.shuffle_seed,
            speed=settings.speed,
            views=place.cut,
            place=place.source,
            models=made_by,
        ),
        notes=tuple(notes),
    )


def _path_content(row: ShotRow, trajectory: Trajectory) -> PathContent:
    amount, poses = None, None
    if isinstance(row.path, Trajectory):
        poses = content_digest(trajectory.relative())
    else:
        amount = row.path.amount
    return PathContent(
        made=trajectory.provenance,
        frames=len(trajectory),
        fps=trajectory.fps,
        lens=float(trajectory.fov_degrees[0]),
        distance=trajectory.subject_distance,
        amount=amount,
        poses=poses,
    )
