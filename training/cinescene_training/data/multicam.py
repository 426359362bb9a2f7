"""MultiCamVideo: scenes filmed by ten cameras at once, without panoramas and without a twin free of people.

    train/f{18,24,35,50}_aperture*/sceneN/videos/camNN.mp4
    train/f{18,24,35,50}_aperture*/sceneN/cameras/camera_extrinsics.json

Each camera of a scene is a target once, with a place of its own: the first view is frame 0 of the target, the others
are frames of the other cameras. It can train camera and context, not the separation of place and subject: the views
hold people at other moments than the target.
"""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from cinescene_core.cameras import relative_poses
from cinescene_core.checks import FileFormatError, check_video_size
from cinescene_core.config import ViewConfig
from cinescene_core.types import Trajectory, Views

from .calibration import lens_degrees
from .captions import read_texts
from .footage import WITH_SUBJECT, ClipItem, PlaceItem, Problem
from .unreal import read_camera_file
from .videos import VideoInfo, probe_filmed, read_frames

SENSOR_MM = 23.76
"""Width and height of the dataset's sensor: f18 is 66.9 degrees, f50 is 26.7."""
CAPTIONS = "captions.json"

_FOCAL = re.compile(r"f(\d{1,4}(?:\.\d{1,6})?)_aperture.*")


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """One camera of one scene."""

    clip: ClipItem
    folder: Path
    """The scene's."""
    camera: str
    focal_mm: float
    info: VideoInfo

    @property
    def video(self) -> Path:
        return self.folder / "videos" / f"{self.camera}.mp4"


class MultiCamFootage:
    """A dataset in MultiCamVideo's layout.

    A place is called `<lens folder>/<scene>/<camera>`, its clip `<lens folder>/<scene>/whuman/<camera>`; the
    environment is the scene, as the files do not name the sets. Captions come from an optional `captions.json` at the
    root, scene (`<lens folder>/<scene>`) to text; without it they are empty.
    """

    def __init__(self, root: str | os.PathLike[str], *, width: int = 672, height: int = 384) -> None:
        """List the dataset.

        Args:
            root: the folder that holds `train`.
            width, height: the size clips are fitted to, in pixels: scaled to cover it and cut equally on both sides
                (the files are square).

        Raises:
            FileFormatError: `root` is not a folder of this layout, or `captions.json` cannot be read.
            ValueError: a size that is not a multiple of 16.
        """
        check_video_size(width, height)
        self.root, self._size = Path(root), (width, height)
        scenes = _scenes(self.root)
        captions = read_texts(self.root / CAPTIONS) if (self.root / CAPTIONS).is_file() else {}
        self._cameras: dict[str, _Camera] = {}
        self._problems = [
            Problem(item=name, reason=f"{CAPTIONS} has a caption for it, but there is no such scene. Correct the name.")
            for name in sorted(set(captions) - {_name(folder) for folder in scenes})
        ]
        for folder in scenes:
            for camera in self._list_scene(folder, captions.get(_name(folder), "")):
                self._cameras[camera.clip.place] = camera
        self._leave_out_the_lonely()
        self._by_clip = {camera.clip.name: camera for camera in self._cameras.values()}

    @property
    def places(self) -> tuple[PlaceItem, ...]:
        return tuple(PlaceItem(name=name, environment=_name(item.folder)) for name, item in self._cameras.items())

    @property
    def clips(self) -> tuple[ClipItem, ...]:
        return tuple(item.clip for item in self._cameras.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)

    def views(self, place: str, config: ViewConfig) -> Views:
        """Frame 0 of the target camera, then frames of the other cameras, spread evenly over time.

        View k takes the k-th of the other cameras, round and round, at the share `k / (num_views - 1)` of the shot.
        Frame 0 of the others is never among them: all cameras start together. Poses are in the target's first-camera
        frame. The config's lens, yaw and pitch are not used: these pictures were filmed with a lens of their own,
        which `Views.fov_degrees` states.

        Raises:
            ValueError: no such place; or a file has changed since the listing.
        """
        target = _found(self._cameras, "place", place, self.root)
        others = [item for item in self._cameras.values() if item.folder == target.folder and item is not target]
        cameras = read_camera_file(_camera_file(target.folder))
        picks = [(target, 0)]
        for view in range(1, config.num_views):
            other = others[(view - 1) % len(others)]
            moment = math.ceil(Fraction(view, config.num_views - 1) * (other.info.num_frames - 1))
            picks.append((other, moment))
        images = torch.empty(len(picks), config.height, config.width, 3)
        poses = torch.empty(len(picks), 4, 4, dtype=torch.float64)
        for item in {id(item): item for item, _ in picks}.values():
            slots = [slot for slot, (picked, _) in enumerate(picks) if picked is item]
            frames = [picks[slot][1] for slot in slots]
            images[slots] = read_frames(item.video, frames, (config.width, config.height))
            poses[slots] = cameras.poses(item.camera)[frames]
        return Views(images, relative_poses(poses), _lens(target, config.width, config.height))

    def trajectory(self, clip: str) -> Trajectory:
        """Camera path of a clip relative to its first frame, with the lens as it is after the cut.

        Raises:
            ValueError: no such clip, or its camera file has changed since the listing.
        """
        item = _found(self._by_clip, "clip", clip, self.root)
        cameras = read_camera_file(_camera_file(item.folder))
        return cameras.trajectory(item.camera, fov_degrees=_lens(item, *self._size), fps=item.info.fps)

    def frames(self, clip: str, num_frames: int) -> Tensor:
        """The first frames of a clip, fitted to the dataset's size: [num_frames, h, w, 3] float32 in 0..1.

        Raises:
            ValueError: no such clip, fewer frames, or the video is damaged.
        """
        return read_frames(_found(self._by_clip, "clip", clip, self.root).video, range(num_frames), self._size)

    def _list_scene(self, folder: Path, caption: str) -> list[_Camera]:
        """The good cameras of a scene; the others become problems."""
        name = _name(folder)
        videos = {path.stem for path in (folder / "videos").glob("*.mp4") if not path.name.startswith(".")}
        try:
            cameras = read_camera_file(_camera_file(folder))
            focal = _focal(folder)
        except (FileNotFoundError, FileFormatError) as error:
            reason = f"{error} The scene and its {len(videos)} clips are left out."
            self._problems.append(Problem(item=name, reason=reason))
            return []
        good = []
        for camera in sorted({*videos, *cameras.cameras}):
            clip = ClipItem(
                name=f"{name}/{WITH_SUBJECT}/{camera}", place=f"{name}/{camera}", caption=caption, has_subject=True
            )
            try:
                _, info = probe_filmed(folder / "videos" / f"{camera}.mp4", cameras, camera)
            except ValueError as error:
                self._problems.append(Problem(item=clip.name, reason=str(error)))
                continue
            good.append(_Camera(clip=clip, folder=folder, camera=camera, focal_mm=focal, info=info))
        sizes = Counter(item.info.size for item in good)
        for item in list(good):
            if item.info.size != sizes.most_common(1)[0][0]:
                reason = f"The video is {item.info.width} x {item.info.height} pixels; the other cameras' are not."
                self._problems.append(Problem(item=item.clip.name, reason=f"{reason} Render it again."))
                good.remove(item)
        return good

    def _leave_out_the_lonely(self) -> None:
        """A target whose scene has no other camera has no views."""
        count = Counter(item.folder for item in self._cameras.values())
        for name, item in list(self._cameras.items()):
            if count[item.folder] < 2:
                reason = "It is the only camera of its scene that can be used, so there is nothing to take views from."
                self._problems.append(Problem(item=item.clip.name, reason=f"{reason} Copy the scene again."))
                del self._cameras[name]


def _scenes(root: Path) -> list[Path]:
    folders = sorted(path for path in root.glob("train/f*_aperture*/scene*") if path.is_dir())
    if not folders:
        found = sorted(path.name for path in root.iterdir() if path.name[0] != ".") if root.is_dir() else []
        listed = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        raise FileFormatError(
            f"{root} is not laid out as MultiCamVideo: looked for train/f<F>_aperture<A>/scene<N>; found "
            f"{listed or 'nothing'}. Give the folder that holds 'train'."
        )
    return folders


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _camera_file(folder: Path) -> Path:
    return folder / "cameras" / "camera_extrinsics.json"


def _focal(folder: Path) -> float:
    found = _FOCAL.fullmatch(folder.parent.name)
    if found is None or float(found[1]) == 0:
        raise FileFormatError(f"{folder.parent.name} must be called f<focal length in mm>_aperture<A>. Rename it.")
    return float(found[1])


def _lens(item: _Camera, width: int, height: int) -> float:
    """Horizontal field of view after `fit_frame`: a picture narrower than the file loses some of it."""
    native_width, native_height = item.info.size
    kept = min(1.0, width / height * native_height / native_width)
    native = math.radians(lens_degrees(item.focal_mm, SENSOR_MM))
    return math.degrees(2 * math.atan(kept * math.tan(native / 2)))


def _found(items: dict[str, _Camera], kind: str, name: str, root: Path) -> _Camera:
    if name not in items:
        raise ValueError(f"{root} has no {kind} {name!r} that can be used. Check the name and the problems.")
    return items[name]
