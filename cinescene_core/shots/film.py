"""Filming a list: every shot planned and checked before any work, a place encoded once, finished shots left alone."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checks import CineSceneWarning, FileFormatError
from ..config import SamplingConfig, SpeedConfig, ViewConfig
from ..context import check_request, check_scene
from ..costs import CostMeter
from ..devices import check_device
from ..panorama import check_panorama
from ..pipeline import Models, OnProgress, Shot, cache_scene, check_speed, encode_place, generate
from ..scene_cache import SceneCache, weights_digest
from ..types import Scene, Trajectory, Views, content_digest
from ..video import save_video
from .records import ShotRecord, finished_record, keep_shot, shot_digest
from .rows import ShotRow

SCENE_FOLDER = "scenes"
"""Where encoded scenes are kept, beside the videos."""


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
    content: dict[str, Any]
    """Everything that decides the shot, as JSON values."""

    @property
    def digest(self) -> str:
        """What tells whether the shot was filmed already."""
        return shot_digest(self.content)


OnShot = Callable[[PlannedShot, ShotRecord, bool], None]
"""Told of every finished shot; True when it was filmed now, False when it was there."""


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
    if isinstance(place, Scene):
        check_scene(place, models.config)
        source = content_digest(place.latents, place.tokens.patch, place.tokens.camera)
    elif isinstance(place, Views):
        source = content_digest(place.images)
    else:
        source = content_digest(check_panorama(place))
    check_speed(models, place, settings.speed)
    networks: list[Any] = [models.transformer, models.vae, models.text]
    made_by = [models.config.to_json(), models.vggt.fingerprint, *(weights_digest(network) for network in networks)]
    cut = view_config or models.view_config()
    plan = partial(_plan, models, place, source, made_by, settings)
    return tuple(plan(row, cut) for row in rows)


def _plan(
    models: Models,
    place: Tensor | Views | Scene,
    source: str,
    made_by: list[str],
    settings: FilmSettings,
    row: ShotRow,
    cut: ViewConfig,
) -> PlannedShot:
    """One row of `plan_shots`; `source` is the place's digest, `made_by` the models'."""
    config = models.config
    view_config: ViewConfig | None = None
    seen: float | None
    if isinstance(place, Tensor):
        width, height = row.size or (cut.width, cut.height)
        lens = cut.fov_degrees if row.lens is None else row.lens
        view_config = dataclasses.replace(cut, width=width, height=height, fov_degrees=lens)
        count, size, seen = view_config.num_views, (width, height), view_config.fov_degrees
    else:
        views = place.views if isinstance(place, Scene) else place
        count, size, seen = len(views), views.size, views.fov_degrees
        if row.size not in (None, size):
            raise FileFormatError(
                f"{row.origin}, column 'size': the place has views of {size[0]} x {size[1]} pixels; got "
                f"{row.size[0]} x {row.size[1]}. Leave the cell empty, or film from a panorama."
            )
    with told_of(row):
        trajectory = row.trajectory(
            num_frames=config.num_frames, fps=config.fps, fov_degrees=config.fov_degrees if seen is None else seen
        )
        with warnings.catch_warnings():  # they come when the shot is filmed
            warnings.simplefilter("ignore", CineSceneWarning)
            check_request(trajectory, config, num_views=count, size=size, fov_degrees=seen)
    seed = settings.sampling.seed if row.seed is None else row.seed
    sampling = dataclasses.replace(settings.sampling, seed=seed)
    cut_as = None if view_config is None else dataclasses.asdict(view_config)
    content = {
        "prompt": row.prompt,
        "negative": row.negative,
        "path": _path_content(row, trajectory),
        "sampling": dataclasses.asdict(sampling),
        "shuffle": settings.shuffle_seed,
        "speed": settings.speed.changes_video,
        "views": cut_as,
        "place": source,
        "models": made_by,
    }
    return PlannedShot(
        row=row,
        trajectory=trajectory,
        sampling=sampling,
        view_config=view_config,
        place=json.dumps([source, cut_as]),
        size=size,
        content=content,
    )


def _path_content(row: ShotRow, trajectory: Trajectory) -> dict[str, Any]:
    """What decides a camera path: a move by its words, for machines round sines differently; a file by its numbers."""
    lens = float(trajectory.fov_degrees[0])
    shared = {"made": trajectory.provenance, "frames": len(trajectory), "fps": trajectory.fps, "lens": lens}
    if isinstance(row.path, Trajectory):
        return shared | {"poses": content_digest(trajectory.relative())}
    return shared | {"amount": row.path.amount}


def film_shots(
    models: Models,
    place: Tensor | Views | Scene,
    shots: Sequence[PlannedShot],
    folder: Path,
    settings: FilmSettings,
    *,
    meter: CostMeter | None = None,
    on_progress: OnProgress | None = None,
    on_shot: OnShot | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Film what is not finished yet; each video and its record appear whole, one after the other.

    A run that ends at any moment, killed or not, loses the shot it was at and no other. Shots of one scene and
    one length follow each other: of the scenes and of their caches one is held at a time.

    Args:
        models, place, settings: as in `plan_shots`.
        shots: from `plan_shots`, or a part of them.
        folder: where videos and records go, and encoded scenes below `SCENE_FOLDER`.
        meter: collects what the shots share: views, scene, cache.
        on_progress: told (stage, done, total); may raise to interrupt.
        on_shot: told of every finished shot.
        should_stop: asked between steps; True raises `Interrupted`.

    Raises:
        ValueError: a shot that cannot be made, named by its row.
        OutOfMemory: a stage takes more memory than there is.
        FileFormatError: a record or a kept scene is damaged.
        OSError: the disk is full, or the folder cannot be written.
    """
    meter = meter or CostMeter(check_device(settings.device))
    scenes = SceneShelf(models, place, folder / SCENE_FOLDER, meter, on_progress)
    camera = Camera(models, settings, meter)
    for shot in pending_shots(shots, folder, on_shot):
        with told_of(shot.row):
            filmed = camera.film(shot, scenes.of(shot), on_progress, should_stop)
        write = partial(_write_video, filmed)
        record = keep_shot(folder, shot.row.name, shot.content, filmed.costs, write)
        if on_shot is not None:
            on_shot(shot, record, True)


def pending_shots(shots: Sequence[PlannedShot], folder: Path, on_shot: OnShot | None = None) -> list[PlannedShot]:
    """The shots that are not finished, those of one scene and one length together; `on_shot` hears of the others."""
    found = [(shot, finished_record(folder, shot.row.name, shot.digest)) for shot in shots]
    for shot, record in found:
        if record is not None and on_shot is not None:
            on_shot(shot, record, False)
    places = list(dict.fromkeys(shot.place for shot in shots))
    missing = [shot for shot, record in found if record is None]
    return sorted(missing, key=lambda shot: (places.index(shot.place), len(shot.trajectory)))


class SceneShelf:
    """Encoded scenes of one place: made when a shot needs one, kept in a folder, the last one held."""

    def __init__(
        self,
        models: Models,
        place: Tensor | Views | Scene,
        folder: Path,
        meter: CostMeter,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.models = models
        self.place = place
        self.folder = folder
        self.meter = meter
        self.on_progress = on_progress
        self._held: tuple[str, Scene] | None = None

    def of(self, shot: PlannedShot) -> Scene:
        """The place as a shot sees it."""
        if isinstance(self.place, Scene):
            return self.place
        if self._held is None or self._held[0] != shot.place:
            self._held = None
            self.folder.mkdir(exist_ok=True)
            scene = encode_place(
                self.models,
                self.place,
                view_config=shot.view_config,
                folder=self.folder,
                device=self.meter.device,
                on_progress=self.on_progress,
                meter=self.meter,
            )
            self._held = shot.place, scene
        return self._held[1]


class Camera:
    """Films shots one after the other; what they share of a scene is read once where the model's mode allows it."""

    def __init__(self, models: Models, settings: FilmSettings, meter: CostMeter | None = None) -> None:
        self.models = models
        self.settings = settings
        self.meter = meter or CostMeter(check_device(settings.device))
        self._cache: tuple[tuple[str, int], SceneCache] | None = None

    def film(
        self,
        shot: PlannedShot,
        scene: Scene,
        on_progress: OnProgress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Shot:
        """One shot of a scene; errors and arguments as in `generate`."""
        settings = self.settings
        return generate(
            self.models,
            scene,
            shot.row.prompt,
            shot.trajectory,
            negative_prompt=shot.row.negative,
            sampling=shot.sampling,
            shuffle_seed=settings.shuffle_seed,
            cache=self._cache_for(shot, scene),
            speed=settings.speed,
            device=settings.device,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def _cache_for(self, shot: PlannedShot, scene: Scene) -> SceneCache | None:
        if self.models.config.context_attention == "joint":
            return None
        key = shot.place, len(shot.trajectory)
        if self._cache is None or self._cache[0] != key:
            self._cache = None  # its memory is needed
            with self.meter.stage("cache"):
                cache = cache_scene(
                    self.models,
                    scene,
                    len(shot.trajectory),
                    shuffle_seed=self.settings.shuffle_seed,
                    stored=self.settings.speed.cache_type,
                    place=self.settings.speed.cache_place,
                    device=self.settings.device,
                )
            self._cache = key, cache
        return self._cache[1]


def _write_video(filmed: Shot, path: Path) -> None:
    save_video(filmed.frames, path, filmed.fps)


@contextlib.contextmanager
def told_of(row: ShotRow) -> Iterator[None]:
    """Name the row in an error about its shot."""
    try:
        yield
    except ValueError as error:
        raise FileFormatError(f"{row.origin}: {error}") from error
