"""The released Scene-Decoupled Video Dataset's layout: read, and written for our own renderers.

The tree is in `listing`. A clip is called `<scene>/<whuman | wohuman>/<NN>_<F>mm`, a place as its scene.
"""

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinescene_core.checks import FileFormatError, ShapeError, check_shape
from cinescene_core.config import ViewConfig
from cinescene_core.files import atomic_write
from cinescene_core.panorama import check_panorama, load_panorama
from cinescene_core.types import Trajectory, Views
from cinescene_core.video import save_image, save_video
from cinescene_core.views import slice_panorama

from .calibration import FULL_FRAME_MM, UNCALIBRATED, Calibration, lens_mm
from .footage import ClipItem, PlaceItem, Problem
from .listing import VARIANTS, WITH_SUBJECT, WITHOUT_SUBJECT, ListedClip, ListedPlace, SceneFiles, list_place
from .unreal import read_camera_file, write_camera_file
from .videos import read_frames

MAX_CLIPS = 99
"""A clip's number has two digits."""
_NAME = re.compile(r"\w{1,120}", re.ASCII)


class SceneDecoupledFootage:
    """A dataset in the layout of the Scene-Decoupled Video Dataset (paper section 3).

    The views of a place are cut from its panorama so that the first looks where the clips start, as the calibration
    says; the field of view of the clips is the calibration's too. Without one it is an assumption, not knowledge:
    panoramas level and centred on the start view, 24 mm meaning 73.7 degrees (a 36 mm filmback).

    A clip with the subject has the file's caption. Its twin without has what `captions.without_action` leaves of it,
    which may be nothing. `Trajectory.subject_distance` is not in the layout and has its default.
    """

    def __init__(self, root: str | os.PathLike[str], calibration: Calibration | None = None) -> None:
        """List the dataset.

        Args:
            root: the folder that holds `camera`, `panorama` and `video`.
            calibration: what `calibrate` measured; None takes the assumption above.

        Raises:
            FileFormatError: `root` is not a folder of this layout.
        """
        self.root = Path(root)
        self.calibration = UNCALIBRATED if calibration is None else calibration
        _check_layout(self.root)
        variants = [v for v in VARIANTS if (self.root / "camera" / v).is_dir() or (self.root / "video" / v).is_dir()]
        self._places: dict[str, ListedPlace] = {}
        self._clips: dict[str, ListedClip] = {}
        problems: list[Problem] = []
        for scene in _scenes(self.root):
            place, clips, bad = list_place(SceneFiles(self.root, scene), variants)
            problems += bad
            if place is not None:
                self._places[scene] = place
                self._clips |= {clip.item.name: clip for clip in clips}
        problems += self._leave_out_other_sizes()
        self._problems = tuple(problems)

    @property
    def places(self) -> tuple[PlaceItem, ...]:
        return tuple(place.item for place in self._places.values())

    @property
    def clips(self) -> tuple[ClipItem, ...]:
        return tuple(clip.item for clip in self._clips.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Broken items: a place, a clip, or `<scene>/<variant>` for all clips of one kind."""
        return self._problems

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of every clip in pixels; None when there is no clip."""
        return next((clip.info.size for clip in self._clips.values()), None)

    def views(self, place: str, config: ViewConfig) -> Views:
        """A ring of views cut from the panorama; the first looks where the clips start.

        The config's own yaw and pitch are added to the calibration's, its lens is the views'. Poses are in the
        panorama's axes.

        Raises:
            ValueError: no such place; or what `load_panorama` and `slice_panorama` refuse.
        """
        listed = self._place(place)
        turned = self.calibration.view_config(config, listed.start_yaw_degrees, listed.start_pitch_degrees)
        return slice_panorama(self.panorama(place), turned)

    def panorama(self, place: str) -> Tensor:
        """[h, w, 3] float32 in 0..1.

        Raises:
            ValueError: no such place; or what `load_panorama` refuses.
        """
        self._place(place)
        return load_panorama(SceneFiles(self.root, place).panorama)

    def start_angles(self, place: str) -> tuple[float, float]:
        """Yaw and pitch, in degrees, of the start view in the world of the camera file."""
        listed = self._place(place)
        return listed.start_yaw_degrees, listed.start_pitch_degrees

    def focal_mm(self, clip: str) -> float:
        """Focal length in the clip's name."""
        return self._clip(clip).focal_mm

    def trajectory(self, clip: str) -> Trajectory:
        """Camera path of a clip relative to its first frame, with the calibration's field of view.

        Raises:
            ValueError: no such clip, or its camera file has changed since the listing.
        """
        listed = self._clip(clip)
        cameras = read_camera_file(SceneFiles(self.root, listed.item.place).camera_file(listed.variant))
        lens = self.calibration.fov_degrees(listed.focal_mm)
        return cameras.trajectory(listed.camera, fov_degrees=lens, fps=listed.info.fps)

    def frames(self, clip: str, num_frames: int) -> Tensor:
        """The first frames of a clip: [num_frames, h, w, 3] float32 in 0..1.

        Raises:
            ValueError: no such clip, fewer frames, or the video is damaged.
        """
        listed = self._clip(clip)
        path = SceneFiles(self.root, listed.item.place).video(listed.variant, listed.camera)
        return read_frames(path, range(num_frames))

    def depth(self, clip: str, num_frames: int) -> Tensor | None:
        """Depth along the optical axis of the place without its subject: [num_frames, h, w] float32 metres.

        None where the dataset has none; the released one has none.
        """
        listed = self._clip(clip)
        return _read_array(SceneFiles(self.root, listed.item.place).depth(listed.camera), "depth", num_frames)

    def subject_mask(self, clip: str, num_frames: int) -> Tensor | None:
        """Where the subject is: [num_frames, h, w] float32 in 0..1, or None where the dataset has no masks."""
        listed = self._clip(clip)
        mask = _read_array(SceneFiles(self.root, listed.item.place).mask(listed.camera), "mask", num_frames)
        return None if mask is None else mask / 255

    def _leave_out_other_sizes(self) -> list[Problem]:
        """Drop the clips that are not of the size most clips have; a place without clips goes with them."""
        sizes = Counter(clip.info.size for clip in self._clips.values())
        if len(sizes) < 2:
            return []
        width, height = max(sizes, key=lambda size: (sizes[size], size))
        problems = []
        for name, clip in list(self._clips.items()):
            if clip.info.size != (width, height):
                found = f"{clip.info.width} x {clip.info.height}"
                reason = f"The video is {found} pixels; those of this dataset are {width} x {height}. Render it again."
                problems.append(Problem(item=name, reason=reason))
                del self._clips[name]
        kept = {clip.item.place for clip in self._clips.values()}
        for name in sorted(set(self._places) - kept):
            problems.append(Problem(item=name, reason="No clip of it can be used; it is left out."))
            del self._places[name]
        return problems

    def _place(self, name: str) -> ListedPlace:
        if name not in self._places:
            raise ValueError(self._absent("place", name))
        return self._places[name]

    def _clip(self, name: str) -> ListedClip:
        if name not in self._clips:
            raise ValueError(self._absent("clip", name))
        return self._clips[name]

    def _absent(self, kind: str, name: str) -> str:
        broken = [problem.reason for problem in self._problems if name == problem.item]
        return f"{self.root} has no {kind} {name!r} that can be used. {' '.join(broken) or 'Check the name.'}"


def _check_layout(root: Path) -> None:
    """Require a folder with `panorama` and at least one of `camera` and `video` (a render may have been cut short)."""
    if not root.is_dir():
        raise FileFormatError(f"There is no dataset folder {root}. Check the path.")
    found = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if "panorama" in found and {"camera", "video"} & set(found):
        return
    listed = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    hint = " It looks like MultiCamVideo, which is read as 'multicam'." if "train" in found else ""
    raise FileFormatError(
        f"{root} is not laid out as the Scene-Decoupled Video Dataset: looked for the folders camera, panorama and "
        f"video; found {listed or 'nothing'}.{hint} Give the folder that holds them."
    )


def _scenes(root: Path) -> list[str]:
    """Every scene that some folder names, in alphabetical order."""
    kinds = [root / "panorama"]
    kinds += [root / top / variant for top in ("camera", "video", "text") for variant in VARIANTS]
    return sorted(
        {path.name for kind in kinds if kind.is_dir() for path in kind.iterdir() if not path.name.startswith(".")}
    )


def _read_array(path: Path, key: str, num_frames: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            array = torch.from_numpy(file[key].astype(np.float32))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path} is not a readable file of '{key}' ({error}). Render it again.") from error
    if array.ndim != 3 or len(array) < num_frames:
        raise FileFormatError(f"{path} must hold at least [{num_frames}, h, w] numbers; got {list(array.shape)}.")
    return array[:num_frames]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceClip:
    """One camera path of a place, filmed with and without the subject."""

    number: int
    """1 to 99, unique in its place."""
    trajectory: Trajectory
    """Path in the place's world, whose y axis points straight down; one lens for all frames."""
    with_subject: Tensor
    """[f, h, w, 3] in 0..1, even sides."""
    without_subject: Tensor
    """[f, h, w, 3] in 0..1: the same frames, nobody in them."""
    depth: Tensor | None = None
    """[f, h, w] metres along the optical axis, without the subject; infinite in the sky."""
    subject_mask: Tensor | None = None
    """[f, h, w] in 0..1, 1 where the subject is."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_CLIPS:
            raise ValueError(f"PlaceClip.number must be 1 to {MAX_CLIPS}; got {self.number}. Count from 1.")
        sizes = check_shape("PlaceClip.without_subject", self.without_subject, f"{len(self.trajectory)} h w 3")
        size = f"{len(self.trajectory)} {sizes['h']} {sizes['w']}"
        check_shape("PlaceClip.with_subject", self.with_subject, f"{size} 3")
        for name in ("depth", "subject_mask"):
            array = getattr(self, name)
            if array is not None:
                check_shape(f"PlaceClip.{name}", array, size)
                if array.isnan().any():
                    raise ValueError(f"PlaceClip.{name} holds NaN. Render it again; sky is infinite, not NaN.")
        lenses = self.trajectory.fov_degrees
        if (lenses - lenses[0]).abs().max() > 1e-9:
            raise ValueError(
                f"A clip of this layout has one lens; got {lenses.min():g} to {lenses.max():g} degrees. Do not zoom."
            )

    @property
    def camera(self) -> str:
        """`<NN>_<F>mm`: the focal length on a 36 mm filmback, whole where it is (90 degrees: 18mm)."""
        focal = lens_mm(float(self.trajectory.fov_degrees[0]), FULL_FRAME_MM)
        return f"{self.number:02d}_{f'{focal:.4f}'.rstrip('0').rstrip('.')}mm"


def check_scene_id(name: str) -> None:
    """Require a name that a place of this layout can have.

    Raises:
        ValueError: not 1 to 120 letters, digits and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"A scene id has 1 to 120 letters, digits and underscores; got {name!r}. "
            "Rename the place, or the .blend that it is called after."
        )


def write_place(
    root: str | os.PathLike[str],
    name: str,
    panorama: Tensor,
    clips: Iterable[PlaceClip],
    *,
    caption: str,
    caption_action_only: str,
    caption_place_only: str | None = None,
) -> None:
    """Write one place in the released layout.

    Videos are H.264 at a quality where most people see no loss, the panorama is a JPEG of quality 95. This project's
    own are `depth/wohuman/<scene>/<scene>_<NN>_<F>mm.npz` (array `depth`, float16),
    `mask/whuman/<scene>/<scene>_<NN>_<F>mm.npz` (array `mask`, 8 bits) and `caption_place_only` beside the released
    captions. The camera files come last, the one with the subject at the very end: a place without it was cut short,
    the listing says so, and writing it again completes it.

    Args:
        root: the dataset's folder; made when missing.
        name: the scene id, of letters, digits and underscores.
        panorama: [h, w, 3], w = 2h, in 0..1, from the point where the clips start: level, its centre at the heading
            of their first frames.
        clips: the clips, taken one by one, so that a generator need not hold them all.
        caption: what the clips with the subject show.
        caption_action_only: what the subject does.
        caption_place_only: what the clips without the subject show. Where it is not given, it is what `caption` says
            beside `caption_action_only`, if that stands in it word by word.

    Raises:
        FileExistsError: the place is there, whole.
        ValueError: a name with other signs, no caption, no clip, a number given twice, or clips that differ in length
            or size or do not start at one viewpoint.
        ShapeError: the panorama is not 2:1, or a video has odd sides.
        OSError: the folder cannot be written or the disk is full.
    """
    check_scene_id(name)
    if not caption.strip():
        raise ValueError(f"{name} needs a caption; its clips with the subject would have none. Say what they show.")
    files = SceneFiles(Path(root), name)
    last = files.camera_file(WITH_SUBJECT)
    if last.exists():
        raise FileExistsError(f"{files.root} already has the place {name}. Remove it first, or choose another name.")
    pixels = check_panorama(panorama)
    save_image(pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels, _made(files.panorama))
    paths: dict[str, Trajectory] = {}
    first: PlaceClip | None = None
    for clip in clips:
        first = clip if first is None else first
        _check_same_start(first, clip, paths)
        _write_clip(files, clip)
        paths[clip.camera] = clip.trajectory
    if not paths:
        raise ValueError(f"{name} has no clips. A place needs at least one.")
    place_only = {} if caption_place_only is None else {"caption_place_only": caption_place_only}
    captions = {"caption": caption, "caption_action_only": caption_action_only} | place_only
    with atomic_write(_made(files.captions)) as temporary:
        temporary.write_text(json.dumps(captions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    for variant in (WITHOUT_SUBJECT, WITH_SUBJECT):
        write_camera_file(_made(files.camera_file(variant)), paths)


def _check_same_start(first: PlaceClip, clip: PlaceClip, written: Iterable[str]) -> None:
    """Require that a clip may stand beside the first one of its place."""
    if any(name.startswith(f"{clip.number:02d}_") for name in written):
        raise ValueError(f"Two clips have the number {clip.number}. Number the clips of a place from 1.")
    if clip.without_subject.shape != first.without_subject.shape:
        sizes = [list(item.without_subject.shape) for item in (first, clip)]
        raise ShapeError(f"The clips of a place have one length and size; got {sizes[0]}, then {sizes[1]}.")
    apart = (clip.trajectory.world_from_camera[0] - first.trajectory.world_from_camera[0]).abs().max()
    if apart > 1e-6:
        raise ValueError(
            f"Clip {clip.number} does not start where clip {first.number} does (their first poses differ by "
            f"{apart:.3g}). The clips of a place share their start view; make another place."
        )


def _write_clip(files: SceneFiles, clip: PlaceClip) -> None:
    for variant, frames in ((WITHOUT_SUBJECT, clip.without_subject), (WITH_SUBJECT, clip.with_subject)):
        save_video(frames, _made(files.video(variant, clip.camera)), clip.trajectory.fps)
    if clip.depth is not None:
        _write_array(files.depth(clip.camera), "depth", clip.depth.to(torch.float16))
    if clip.subject_mask is not None:
        bytes_ = (clip.subject_mask.float().clamp(0, 1) * 255).round().to(torch.uint8)
        _write_array(files.mask(clip.camera), "mask", bytes_)


def _write_array(path: Path, key: str, array: Tensor) -> None:
    with atomic_write(_made(path)) as temporary:
        arrays: dict[str, Any] = {key: array.detach().cpu().numpy()}
        np.savez_compressed(temporary, **arrays)


def _made(path: Path) -> Path:
    """`path`, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
