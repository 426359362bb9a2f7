"""A list of shots spread over a Ray cluster: workers film, the caller encodes the place and writes every file."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..checks import Interrupted
from ..costs import CostMeter
from ..devices import check_device
from ..files import atomic_write
from ..loading import Models, OnProgress
from ..types import Scene, Views
from ..video import save_video
from .film import SCENE_FOLDER, OnShot, SceneShelf, ShotFilmer, pending_shots, planned_notes, stats_of
from .notes import RowNotes, naming_row, recording
from .plan import FilmSettings, PlannedShot
from .records import ShotStats, keep_shot

RESTARTS = 3
"""Times a worker that was lost, or its shot, is begun again."""
ASK_SECONDS = 1.0
"""How often it is asked whether to stop."""


class RemoteShot(NamedTuple):
    """What a worker sends back."""

    number: int
    video: bytes
    stats: ShotStats
    notes: tuple[str, ...]
    """What was worth a warning."""


class RemoteFilmer:
    """One worker: loads the networks once, then films what it is given."""

    def __init__(self, load: Callable[[], Models], settings: FilmSettings) -> None:
        self.filmer = ShotFilmer(load(), settings)

    def film(self, number: int, shot: PlannedShot, scene: Scene) -> RemoteShot:
        """Film a shot into the bytes of its video."""
        notes: list[str] = []
        with naming_row(shot.row), recording(notes):
            filmed = self.filmer.film(shot, scene)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shot.mp4"
            save_video(filmed.frames, path, filmed.fps)
            return RemoteShot(number, path.read_bytes(), stats_of(filmed), tuple(notes))


def film_on_ray(
    load: Callable[[], Models],
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
    """`film_shots` on the Ray cluster that RAY_ADDRESS names or that runs here, else on one of this machine alone.

    The cluster's GPUs each get a worker; where it has none, its CPU cores do. Only the caller writes files, so the
    folder need not be shared; model files must stand under the same paths on every machine.

    Args:
        load: loads the networks on a worker; must be picklable.
        models, place: encode the place, here.
        shots, folder, meter, on_progress, on_shot: as in `film_shots`.
        settings: as in `plan_shots`; the device is that of encoding.
        should_stop: asked every `ASK_SECONDS`; True ends the workers and raises `Interrupted`.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: a worker was lost, more than `RESTARTS` times.
        ValueError, OSError: as in `film_shots`.
    """
    ray = import_ray()
    pending = pending_shots(shots, folder, on_shot)
    if not pending:
        return
    meter = meter or CostMeter(check_device(settings.device))
    scenes = SceneShelf(models, place, folder / SCENE_FOLDER, meter, on_progress)
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        with (
            planned_notes(pending) as notes,
            contextlib.closing(_film_all(ray, load, pending, scenes, settings, notes, should_stop)) as arriving,
        ):
            for sent in arriving:
                shot = pending[sent.number]
                notes.add(shot.row, sent.notes)
                write = partial(_write_bytes, sent.video)
                record = keep_shot(folder, shot.row.name, shot.content, sent.stats, write)
                if on_shot is not None:
                    on_shot(shot, record, True)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise ConnectionError(
            f"A Ray worker was lost ({cause}). Finished shots are kept: give the command again."
        ) from error
    finally:
        if started:
            ray.shutdown()


def _film_all(
    ray: Any,
    load: Callable[[], Models],
    shots: Sequence[PlannedShot],
    scenes: SceneShelf,
    settings: FilmSettings,
    notes: RowNotes,
    should_stop: Callable[[], bool] | None,
) -> Generator[RemoteShot, None, None]:
    """The shots, as they become ready; a scene is encoded when the first shot of it is due, while others are filmed."""
    from ray.util import ActorPool

    resources = ray.cluster_resources()
    cards, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    held = {"num_gpus": 1, "num_cpus": 1} if cards else {"num_cpus": 1}
    settings = dataclasses.replace(settings, device="cuda" if cards else "cpu")
    worker = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **held)(RemoteFilmer)
    workers = [worker.remote(load, settings) for _ in range(min(len(shots), cards or cores))]
    pool = ActorPool(workers)
    try:
        place, kept = "", None
        for number, shot in enumerate(shots):
            if shot.place != place:  # the cluster forgets a scene when no shot of it is left
                with naming_row(shot.row), notes.noting(shot.row):
                    place, kept = shot.place, ray.put(scenes.of(shot))
            while not pool.has_free():
                yield _next_of(pool, should_stop)
            pool.submit(lambda actor, task: actor.film.remote(*task), (number, shot, kept))
        while pool.has_next():
            yield _next_of(pool, should_stop)
    finally:
        for actor in workers:
            ray.kill(actor)


def _next_of(pool: Any, should_stop: Callable[[], bool] | None) -> RemoteShot:
    """The shot that is ready next.

    Raises:
        Interrupted: `should_stop` said so.
    """
    while True:
        if should_stop is not None and should_stop():
            raise Interrupted("The list was stopped; finished shots are kept.")
        try:
            shot: RemoteShot = pool.get_next_unordered(timeout=ASK_SECONDS)
            return shot
        except TimeoutError:
            continue


def import_ray() -> Any:
    """Ray, which only `--ray` needs.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            'Spreading shots over a cluster needs Ray. Install it with: pip install "cinescene[ray]", '
            "or leave --ray out."
        ) from error
    return ray


def _write_bytes(content: bytes, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
