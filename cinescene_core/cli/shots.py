"""`cinescene shots`: a list of shots over one place."""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..config import UNTRAINED
from ..costs import CostMeter
from ..devices import check_device
from ..loading import Models, load_models, load_nano
from ..parallel import world_size
from ..scene import load_scene
from ..shots import FilmSettings, PlannedShot, ShotRecord, film_shots, plan_shots, read_shots, shard_of, write_report
from ..shots.film import SCENE_FOLDER
from ..shots.ray import film_on_ray, import_ray
from ..shots.records import remove_leftovers
from ..video import check_video_target
from . import commands
from .report import StageBars


def run_shots(options: argparse.Namespace) -> None:
    """Film every row of a list that is not finished yet.

    Raises:
        ValueError: torchrun started this beside others, which would all film the same.
    """
    check_one_process()
    rows = read_shots(options.list)
    check_shots_target(options.out)
    device = check_device(options.device)
    if options.ray:
        import_ray()
    settings = FilmSettings(
        sampling=commands.read_sampling(options),
        shuffle_seed=options.shuffle,
        speed=commands.read_speed(options),
        device=options.device,
    )
    panorama = commands.read_panorama(options)
    scene = None if options.scene is None else load_scene(options.scene)
    models = commands.load(options)
    config = commands.cut(options, models.view_config())
    place = commands.place_of(options, panorama, config) if scene is None else scene
    planned = plan_shots(models, place, rows, settings, config)
    shots = planned if options.shard is None else shard_of(planned, options.shard)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.shard is None:  # no other machine writes there
        for folder in (options.out, options.out / SCENE_FOLDER):
            remove_leftovers(folder)
    counter = _Counter(len(shots))
    meter = CostMeter(device)
    with StageBars() as bars:
        if options.ray:
            film_on_ray(
                loader(options), models, place, shots, options.out, settings,
                meter=meter, on_progress=bars, on_shot=counter,
            )  # fmt: skip
        else:
            film_shots(models, place, shots, options.out, settings, meter=meter, on_progress=bars, on_shot=counter)
    report = write_report(options.list.name, planned, options.out, meter.costs)
    for cost in meter.costs:
        print(cost)
    print(f"{counter.filmed} of {len(shots)} shots filmed, {len(shots) - counter.filmed} were there; see {report}")
    if not models.config.scene_trained:
        print(UNTRAINED)


def check_one_process() -> None:
    """Require one process.

    Raises:
        ValueError: torchrun started several.
    """
    if world_size() > 1:
        raise ValueError(
            f"torchrun started {world_size()} processes, and each would film the whole list. Start cinescene shots "
            "alone; --ray or --shard spread the list over cards and machines."
        )


def check_shots_target(folder: Path) -> None:
    """Require a folder that can take videos; it need not exist yet, and is not made.

    Raises:
        NotADirectoryError: it is a file, or lies below one.
        ImportError: PyAV is not installed.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"Cannot film into {folder}: {existing} is a file. Name a folder.")
    check_video_target(existing / "shot.mp4")


class _Counter:
    """Counts finished shots, and says of each what it took."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.filmed = total, 0, 0

    def __call__(self, shot: PlannedShot, record: ShotRecord, new: bool) -> None:
        self.done += 1
        self.filmed += new
        tqdm.write(
            f"{self.done}/{self.total} {shot.row.name}: {f'{record.stats.seconds:.2f} s' if new else 'was there'}"
        )


def loader(options: argparse.Namespace) -> Callable[[], Models]:
    """What loads the same networks on another machine, from files under the same paths."""
    if options.model is None:
        return load_nano
    if options.vggt is None:
        return partial(load_nano, options.model.resolve())
    return partial(load_models, options.model.resolve(), options.vggt.resolve(), options.wan.resolve())


def read_shard(text: str) -> tuple[int, int]:
    """`2/4` as (2, 4), for the command line.

    Raises:
        ArgumentTypeError: it is no shard.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = (int(found[1]), int(found[2])) if found else (0, 0)
    try:
        shard_of((), shard)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a shard is i/n with 1 <= i <= n, such as 2/4; got {text!r}") from None
    return shard
