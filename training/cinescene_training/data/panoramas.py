"""A folder of panoramas alone: pans and tilts cut exactly from each (paper, supplement C.1).

A panorama shows everything a camera sees that only turns, so the clips are the truth and not an estimate of it. They
hold no moving subject.
"""

import dataclasses
import hashlib
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from cinescene_core.cameras import rotation_from_angles
from cinescene_core.checks import FileFormatError, ShapeError, check_num_frames, check_video_size
from cinescene_core.config import ViewConfig
from cinescene_core.panorama import check_equirectangular, load_panorama
from cinescene_core.trajectory.presets import PRESETS, preset_trajectory
from cinescene_core.types import Trajectory, Views
from cinescene_core.views import photograph, slice_panorama

from .captions import read_texts
from .footage import WITHOUT_SUBJECT, ClipItem, PlaceItem, Problem
from .moves import PANS, check_turns

CAPTIONS = "captions.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".npy")
UNREADABLE_SUFFIXES = (".hdr", ".exr")
"""Panoramas too, but of formats that are not read; reported."""
LEAST_TURN_DEGREES = 10.0
"""Shortest turn that is drawn, of pans too: the least of the paper's tilts."""


@dataclass(frozen=True)
class _Turn:
    """One path: what the camera does."""

    move: str
    degrees: float


class PanoramaFootage:
    """Clips that turn on the spot, cut from every panorama of a folder.

    A place is called as its file, without suffix. Each has one start heading, drawn from the seed and the name, and
    `paths` distinct turns from there: the moves in turn, at their largest trained amount (75 degrees for a pan, 45
    for a tilt) in the first round, and at an amount drawn between 10 degrees and that in later ones. Moves that
    name their amount are made once, by that. Adding a panorama to the folder changes nothing for the others. Captions
    come from an optional `captions.json`, name to text; without one they are empty, which is allowed: the paper's
    test has static scenes only.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        paths: int = 3,
        moves: Sequence[str] = PANS,
        num_frames: int = 77,
        width: int = 672,
        height: int = 384,
        fov_degrees: float = 90.0,
        fps: float = 15.0,
        seed: int = 0,
    ) -> None:
        """List the folder.

        Args:
            folder: holds the pictures; sub-folders are not searched.
            paths: clips per panorama.
            moves: pans and tilts, in the order they are taken, with `=degrees` where the amount is fixed.
            num_frames: frames per clip, 4n + 1.
            width, height: size of the clips in pixels.
            fov_degrees: horizontal field of view of the clips.
            fps: frames per second.
            seed: of headings and amounts.

        Raises:
            FileFormatError: no folder, no panorama in it, or `captions.json` cannot be read.
            ValueError: a setting is out of range.
        """
        check_num_frames(num_frames)
        check_video_size(width, height)
        parsed = check_turns(moves, paths)
        self.folder, self.seed = Path(folder), seed
        self._size, self._num_frames, self._fov, self._fps = (width, height), num_frames, fov_degrees, fps
        files, self._problems = _list_folder(self.folder)
        captions = _captions(self.folder, files, self._problems)
        self._files: dict[str, Path] = {}
        self._headings: dict[str, float] = {}
        self._turns: dict[str, _Turn] = {}
        self._clips: dict[str, ClipItem] = {}
        for name, path in files.items():
            self._files[name] = path
            digits = hashlib.sha256(f"{seed} {name}".encode()).digest()
            source = random.Random(int.from_bytes(digits[:8], "big"))
            self._headings[name] = round(source.uniform(-180, 180), 1)
            for number, turn in enumerate(_draw_turns(source, parsed, paths), start=1):
                clip = f"{name}/{WITHOUT_SUBJECT}/{number:02d}_{turn.move}"
                self._turns[clip] = turn
                self._clips[clip] = ClipItem(name=clip, place=name, caption=captions.get(name, ""), has_subject=False)

    @property
    def places(self) -> tuple[PlaceItem, ...]:
        return tuple(PlaceItem(name=name, environment=name) for name in self._files)

    @property
    def clips(self) -> tuple[ClipItem, ...]:
        return tuple(self._clips.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)

    def views(self, place: str, config: ViewConfig) -> Views:
        """A ring of views; the first looks along the start heading. The config's yaw is added to it.

        Raises:
            ValueError: no such place; or what `load_panorama` and `slice_panorama` refuse.
        """
        panorama = self._panorama(place)
        heading = config.yaw_offset_degrees + self._headings[place]
        return slice_panorama(panorama, dataclasses.replace(config, yaw_offset_degrees=heading))

    def heading_degrees(self, place: str) -> float:
        """Longitude where the clips of a place start, 0 at the panorama's centre."""
        self._check(place, self._headings, "place")
        return self._headings[place]

    def trajectory(self, clip: str) -> Trajectory:
        """The turn of a clip, relative to its first frame.

        Raises:
            ValueError: no such clip.
        """
        self._check(clip, self._turns, "clip")
        turn = self._turns[clip]
        return preset_trajectory(
            turn.move, amount=turn.degrees, num_frames=self._num_frames, fov_degrees=self._fov, fps=self._fps
        )

    def frames(self, clip: str, num_frames: int) -> Tensor:
        """The first frames of a clip, cut exactly from the panorama: [num_frames, h, w, 3] float32 in 0..1.

        Raises:
            ValueError: no such clip, more frames than it has, or what `load_panorama` refuses.
        """
        path = self.trajectory(clip)
        if not 1 <= num_frames <= len(path):
            raise ValueError(f"{clip} has {len(path)} frames; got {num_frames}. Ask for 1 to {len(path)}.")
        place = self._clips[clip].place
        rotations = rotation_from_angles(self._headings[place]) @ path.world_from_camera[:num_frames, :3, :3]
        frames = photograph(self._panorama(place), rotations, path.fov_degrees[:num_frames], *self._size)
        return frames.float().clamp(0, 1)

    def _panorama(self, place: str) -> Tensor:
        self._check(place, self._files, "place")
        return load_panorama(self._files[place])

    def _check(self, name: str, known: Mapping[str, object], kind: str) -> None:
        if name not in known:
            raise ValueError(f"{self.folder} has no {kind} {name!r} that can be used. Check the name.")


def _draw_turns(source: random.Random, moves: Sequence[tuple[str, float | None]], paths: int) -> list[_Turn]:
    """Distinct turns: the moves from a random one on, first at their own amount or largest, then at drawn ones."""
    offset = source.randrange(len(moves))
    turns: list[_Turn] = []
    while len(turns) < paths:
        move, fixed = moves[(offset + len(turns)) % len(moves)]
        largest = PRESETS[move].maximum
        amount = largest if fixed is None else fixed
        if len(turns) >= len(moves):
            amount = round(source.uniform(LEAST_TURN_DEGREES, largest), 1)
        if _Turn(move, amount) not in turns:
            turns.append(_Turn(move, amount))
    return turns


def _list_folder(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """The panoramas of a folder by name, and the pictures that are none."""
    if not folder.is_dir():
        raise FileFormatError(f"There is no folder of panoramas {folder}. Check the path.")
    entries = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in entries:
        suffix = path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            reason = f"{suffix} is not read. Save it as .npy (floating point) or as .jpg, tone-mapped."
        elif suffix not in SUFFIXES:
            continue
        elif path.stem in files:
            reason = f"It has the name of {files[path.stem].name}. Rename one of them."
        else:
            fault = _fault(path)
            if fault is None:
                files[path.stem] = path
                continue
            reason = fault
        problems.append(Problem(item=path.name, reason=reason))
    if not files and not problems:
        found = ", ".join(path.name for path in entries[:8]) or "nothing"
        raise FileFormatError(
            f"{folder} holds no panorama: looked for {', '.join(SUFFIXES)}; found {found}. "
            "Give the folder of the pictures."
        )
    return files, problems


def _fault(path: Path) -> str | None:
    """What is wrong with a panorama by its header, in a sentence."""
    try:
        if path.suffix.lower() == ".npy":
            height, width = np.lib.format.open_memmap(path, mode="r").shape[:2]
        else:
            with Image.open(path) as picture:
                height, width = picture.height, picture.width
        check_equirectangular(height, width)
    except ShapeError as error:
        return str(error)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return f"It cannot be read as a picture ({error}). Save it again."
    return None


def _captions(folder: Path, files: dict[str, Path], problems: list[Problem]) -> dict[str, str]:
    path = folder / CAPTIONS
    captions = read_texts(path) if path.is_file() else {}
    known = {*files, *(Path(problem.item).stem for problem in problems)}
    problems += [
        Problem(item=name, reason=f"{CAPTIONS} has a caption for it, but there is no such panorama. Correct the name.")
        for name in sorted(set(captions) - known)
    ]
    return captions
