"""A list of shots spread over a Ray cluster: workers film, the caller encodes the place and writes every file."""

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..checks import CineSceneWarning
from ..costs import CostMeter, StageCost
from ..devices import check_device
from ..files import atomic_write
from ..pipeline import Models, OnProgress
from ..types import Scene, Views
from ..video import save_video
from .film import SCENE_FOLDER, Camera, FilmSettings, OnShot, PlannedShot, SceneShelf, pending_shots, told_of
from .records import keep_shot

RESTARTS = 3
"""Times a worker that was lost, or its shot, is begun again."""


class RemoteShot(NamedTuple):
    """What a worker sends back."""

    number: int
    video: bytes
    costs: tuple[StageCost, ...]
    warnings: tuple[str, ...]


class RemoteCamera:
    """One worker: loads the networks once, then films what it is given."""

    def __init__(self, load: Callable[[], Models], settings: FilmSettings) -> None:
        self.camera = Camera(load(), settings)

    def film(self, index: int, shot: PlannedShot, scene: Scene) -> RemoteShot:
        """Film a shot into the bytes of its video."""
        with warnings.catch_warnings(record=True) as caught, told_of(shot.row):
            warnings.simplefilter("always", CineSceneWarning)
            filmed = self.camera.film(shot, scene)
        told = tuple(str(entry.message) for entry in caught if issubclass(entry.category, CineSceneWarning))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shot.mp4"
            save_video(filmed.frames, path, filmed.fps)
            return RemoteShot(index, path.read_bytes(), filmed.costs, told)


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
) -> None:
    """`film_shots` on the Ray cluster that RAY_ADDRESS names or that runs here, else on one of this machine alone.

    The cluster's GPUs each get a worker; where it has none, its CPU cores do. Only the caller writes files, so the
    folder need not be shared; model files must stand under the same paths on every machine.

    Args:
        load: loads the networks on a worker; must be picklable.
        models, place: encode the place, here.
        shots, folder, meter, on_progress, on_shot: as in `film_shots`.
        settings: as in `plan_shots`; the device is that of encoding.

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
        for sent in _film_all(ray, load, pending, scenes, settings):
            shot = pending[sent.number]
            for text in sent.warnings:
                warnings.warn(f"{shot.row.origin}: {text}", CineSceneWarning, stacklevel=2)
            write = partial(_write_bytes, sent.video)
            record = keep_shot(folder, shot.row.name, shot.content, sent.costs, write)
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
    ray: Any, load: Callable[[], Models], shots: Sequence[PlannedShot], scenes: SceneShelf, settings: FilmSettings
) -> Iterator[RemoteShot]:
    """The shots, as they become ready."""
    from ray.util import ActorPool

    resources = ray.cluster_resources()
    cards, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    held = {"num_gpus": 1, "num_cpus": 1} if cards else {"num_cpus": 1}
    settings = dataclasses.replace(settings, device="cuda" if cards else "cpu")
    worker = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **held)(RemoteCamera)
    workers = [worker.remote(load, settings) for _ in range(min(len(shots), cards or cores))]
    kept: dict[str, Any] = {}  # one copy of each scene in the cluster
    tasks = []
    for index, shot in enumerate(shots):
        if shot.place not in kept:
            kept[shot.place] = ray.put(scenes.of(shot))
        tasks.append((index, shot, kept[shot.place]))
    shots_done: Iterator[RemoteShot] = ActorPool(workers).map_unordered(
        lambda actor, task: actor.film.remote(*task), tasks
    )
    return shots_done


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
