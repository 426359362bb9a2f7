"""The configured source as footage, divided into training, validation and test."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config import CacheConfig
from ..render.footage import RoomFootage
from .calibration import load_calibration
from .footage import SPLITS, ClipItem, Footage, PlaceItem, Problem, Split
from .layout import SceneDecoupledFootage
from .moves import PANS
from .multicam import MultiCamFootage
from .panoramas import PanoramaFootage
from .split import hold_out


@dataclass(frozen=True, eq=False)
class Side:
    """One split of a source."""

    split: Split
    footage: Footage
    places: tuple[PlaceItem, ...]
    """Of the footage, those on this side."""

    @property
    def clips(self) -> list[ClipItem]:
        """Clips of this side's places."""
        names = {place.name for place in self.places}
        return [clip for clip in self.footage.clips if clip.place in names]


@dataclass(frozen=True, eq=False)
class Source:
    """The sides of a source, and what was wrong with it before any was encoded."""

    sides: tuple[Side, ...]
    """Those that have places."""
    problems: tuple[Problem, ...]


def open_source(config: CacheConfig, device: torch.device | str = "cpu") -> Source:
    """List a source; rooms are rendered on `device`.

    Rooms are rendered from seeds that no two splits share; test has as many as validation. Of a dataset,
    `validation_places` are held out for validation and as many for test, by whole environments; or all places stand
    on the one side that `only` names.

    Raises:
        FileFormatError: the folder is not of the layout, or the calibration cannot be read.
        ValueError: too few environments to hold some out.
    """
    source = config.source
    if source.kind == "rooms":
        return _rooms(config, device)
    footage = _dataset(config)
    if not footage.places:
        first = [f" The first problem is {problem.item}: {problem.reason}" for problem in footage.problems[:1]]
        raise ValueError(f"{source.root} has no place that can be read.{''.join(first)}")
    problems = (*footage.problems, *_homeless(footage))
    if source.only is not None:
        return Source((Side(source.only, footage, tuple(footage.places)),), problems)
    share = source.validation_places / len(footage.places)
    if share >= 0.5:
        first = [
            f" Items that cannot be read: {len(problems)}, the first {problem.item}: {problem.reason}"
            for problem in problems[:1]
        ]
        raise ValueError(
            f"{source.root} has {len(footage.places)} places that can be read; holding out "
            f"{source.validation_places} for validation and as many for test leaves none to train on. "
            f"Lower source.validation_places, or put all on one side with source.only.{''.join(first)}"
        )
    split = hold_out(footage.places, validation=share, test=share, seed=source.split_seed)
    sides = tuple(_side(name, footage, getattr(split, name)) for name in SPLITS)
    return Source(sides, problems)


def _dataset(config: CacheConfig) -> Footage:
    source, shot = config.source, config.shot
    if source.root is None:
        raise ValueError(f"source '{source.kind}' needs its folder as root.")
    if source.kind == "scene_decoupled":
        calibration = None if source.calibration is None else load_calibration(source.calibration)
        return SceneDecoupledFootage(source.root, calibration)
    if source.kind == "multicam":
        return MultiCamFootage(source.root, width=shot.width, height=shot.height)
    return PanoramaFootage(
        source.root,
        paths=source.clips_per_place,
        moves=PANS if source.moves is None else source.moves,
        num_frames=shot.num_frames,
        width=shot.width,
        height=shot.height,
        fov_degrees=shot.fov_degrees,
        fps=shot.fps,
        seed=source.split_seed,
    )


def _rooms(config: CacheConfig, device: torch.device | str) -> Source:
    """Rooms of every split; `split_seed` does not move them."""
    source = config.source
    counts = {"train": source.places, "validation": source.validation_places, "test": source.validation_places}
    footage = {split: _room_footage(split, counts[split], config, device) for split in SPLITS}
    sides = tuple(Side(split, rooms, tuple(rooms.places)) for split, rooms in footage.items())
    return Source(sides, tuple(problem for side in sides for problem in side.footage.problems))


def _room_footage(split: Split, count: int, config: CacheConfig, device: torch.device | str) -> RoomFootage:
    source, shot = config.source, config.shot
    return RoomFootage(
        split,
        count,
        kind=source.place_kind,
        clips_per_place=source.clips_per_place,
        num_frames=shot.num_frames,
        width=shot.width,
        height=shot.height,
        fov_degrees=shot.fov_degrees,
        fps=shot.fps,
        samples=source.supersampling,
        compiled=source.compiled,
        device=device,
    )


def _side(split: Split, footage: Footage, names: Sequence[str]) -> Side:
    places = {place.name: place for place in footage.places}
    return Side(split, footage, tuple(places[name] for name in names))


def _homeless(footage: Footage) -> list[Problem]:
    """Clips of places that the dataset does not list."""
    names = {place.name for place in footage.places}
    return [
        Problem(item=clip.name, reason=f"Its place {clip.place} is not among the dataset's places.")
        for clip in footage.clips
        if clip.place not in names
    ]
