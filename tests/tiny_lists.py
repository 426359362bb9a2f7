"""Shot lists over the embedded model and two small views, for the tests of filming lists."""

import dataclasses
import functools
from pathlib import Path

import torch

import cinescene_core.shots.film as film_module
from cinescene_core.config import SamplingConfig
from cinescene_core.costs import StageCost
from cinescene_core.loading import Models, load_nano
from cinescene_core.pipeline import Shot, encode_place
from cinescene_core.shots import FilmSettings, PlannedShot, ShotRow, film_shots, plan_shots, read_shots
from cinescene_core.types import Scene, Views

SETTINGS = FilmSettings(sampling=SamplingConfig(steps=1, guidance=1.0))
LIST = """name,prompt,path,seed,frames
long,a red robot,dolly_in,1,9
short,a dog,pan_left 20,2,5
again,a cat,static,3,9
"""


@functools.cache
def cached_nano() -> Models:
    """The embedded model, as one that was trained with a context of its own."""
    nano = load_nano()
    return dataclasses.replace(nano, config=dataclasses.replace(nano.config, context_attention="cached"))


def two_views() -> Views:
    return Views(torch.rand(2, 32, 64, 3, generator=torch.Generator().manual_seed(0)), None, 90.0)


@functools.cache
def small_scene() -> Scene:
    return encode_place(cached_nano(), two_views())


def rows_of(folder: Path, text: str = LIST) -> tuple[ShotRow, ...]:
    path = folder / "shots.csv"
    path.write_text(text, encoding="utf-8")
    return read_shots(path)


def names(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def film(models: Models, place, rows, out: Path, settings: FilmSettings = SETTINGS) -> tuple[PlannedShot, ...]:
    planned = plan_shots(models, place, rows, settings)
    film_shots(models, place, planned, out, settings)
    return planned


def flat(seed: int, size: tuple[int, int] = (64, 32), frames: int = 5) -> torch.Tensor:
    """A video of one colour."""
    colour = torch.tensor([0.2, 0.4, 0.6]).roll(seed)
    return colour.expand(frames, size[1], size[0], 3).clone()


def stand_in_for_filming(monkeypatch, **extras) -> list[str]:
    """Filming that takes no time: a video is a flat colour of its seed. Returns where prompts filmed are put."""
    filmed: list[str] = []

    def instead(_, scene, prompt, trajectory, *, sampling, **__):
        filmed.append(prompt)
        frames = flat(sampling.seed, scene.views.size, len(trajectory))
        costs = (StageCost("sampling", 1.25, None),)
        return Shot(frames, trajectory.fps, torch.zeros(1), scene, None, costs, **extras)

    monkeypatch.setattr(film_module, "generate", instead)
    monkeypatch.setattr(film_module, "cache_scene", lambda *a, **k: None)
    return filmed
