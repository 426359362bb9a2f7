"""Filming a list: a place encoded once, each video whole or not at all, finished shots left alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from ..costs import CostMeter
from ..devices import check_device
from ..loading import Models, OnProgress
from ..pipeline import Shot, cache_scene, encode_place, generate
from ..scene_cache import SceneCache
from ..types import Scene, Views
from ..video import save_video
from .notes import RowNotes, naming_row
from .plan import FilmSettings, PlannedShot
from .records import ShotRecord, ShotStats, finished_record, keep_shot

SCENE_FOLDER = "scenes"
"""Where encoded scenes are kept, beside the videos."""

OnShot = Callable[[PlannedShot, ShotRecord, bool], None]
"""Told of every finished shot; True when it was filmed now, False when it was there."""


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
        FileFormatError: a record is damaged.
        OSError: the disk is full, or the folder cannot be written.

    Warns:
        CineSceneWarning: shots that are not as the checkpoint was trained; each sentence comes once, with its rows.
    """
    meter = meter or CostMeter(check_device(settings.device))
    scenes = SceneShelf(models, place, folder / SCENE_FOLDER, meter, on_progress)
    filmer = ShotFilmer(models, settings, meter)
    pending = pending_shots(shots, folder, on_shot)
    with planned_notes(pending) as notes:
        for shot in pending:
            with naming_row(shot.row), notes.noting(shot.row):
                filmed = filmer.film(shot, scenes.of(shot), on_progress, should_stop)
            record = keep_shot(folder, shot.row.name, shot.content, stats_of(filmed), partial(_write_video, filmed))
            if on_shot is not None:
                on_shot(shot, record, True)


@contextlib.contextmanager
def planned_notes(shots: Sequence[PlannedShot]) -> Iterator[RowNotes]:
    """Say what was noted when the shots were planned; in the end, however it comes, what filming them added."""
    notes = RowNotes()
    for shot in shots:
        notes.add(shot.row, shot.notes)
    notes.say()
    try:
        yield notes
    finally:
        notes.say()


def stats_of(filmed: Shot) -> ShotStats:
    """What a record keeps of a shot beside its video."""
    return ShotStats(costs=filmed.costs, selection=filmed.selection, skipped=filmed.skipped)


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


class ShotFilmer:
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
                    speed=self.settings.speed,
                    device=self.settings.device,
                )
            self._cache = key, cache
        return self._cache[1]


def _write_video(filmed: Shot, path: Path) -> None:
    save_video(filmed.frames, path, filmed.fps)
