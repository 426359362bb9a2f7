"""What a folder in the released layout holds, place by place, and what is wrong with it.

    camera/{whuman,wohuman}/<scene>/<scene>_cam.json
    panorama/<scene>/<scene>_pano.jpeg
    video/{whuman,wohuman}/<scene>/<scene>_<NN>_<F>mm.mp4
    text/whuman/<scene>/action.json

and, written only by this project, `depth/wohuman/...`, `mask/whuman/...` and the key `caption_place_only` in
`action.json` (see `layout.write_place`). Listing reads the headers of pictures and videos, the captions and the camera
files; it decodes nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cinescene_core.cameras import inverse_pose
from cinescene_core.checks import FileFormatError, ShapeError
from cinescene_core.panorama import check_equirectangular

from .calibration import look_angles
from .captions import read_texts, without_action
from .footage import WITH_SUBJECT, WITHOUT_SUBJECT, ClipItem, PlaceItem, Problem
from .unreal import read_camera_file
from .videos import VideoInfo, probe_filmed

VARIANTS = (WITH_SUBJECT, WITHOUT_SUBJECT)
START_METRES, START_DEGREES = 0.01, 0.5
"""How far the first frames of one place may be apart; the released ones differ by 0 m and up to 0.08 degrees."""
TWIN_METRES, TWIN_DEGREES = 0.001, 0.01
"""How far the cameras of a clip and its twin may be apart; the released ones are equal to the byte."""

_CAMERA = re.compile(r"\d{2}_(\d{1,4}(?:\.\d{1,6})?)mm")
_SCENE_ID = re.compile(r"scene\d+_.+?_loc\d+_scene_(.+)")


@dataclass(frozen=True)
class SceneFiles:
    """Where the files of one scene are."""

    root: Path
    scene: str

    def camera_file(self, variant: str) -> Path:
        return self.root / "camera" / variant / self.scene / f"{self.scene}_cam.json"

    @property
    def panorama(self) -> Path:
        return self.root / "panorama" / self.scene / f"{self.scene}_pano.jpeg"

    def video(self, variant: str, camera: str) -> Path:
        return self.root / "video" / variant / self.scene / f"{self.scene}_{camera}.mp4"

    @property
    def captions(self) -> Path:
        return self.root / "text" / WITH_SUBJECT / self.scene / "action.json"

    def depth(self, camera: str) -> Path:
        return self.root / "depth" / WITHOUT_SUBJECT / self.scene / f"{self.scene}_{camera}.npz"

    def mask(self, camera: str) -> Path:
        return self.root / "mask" / WITH_SUBJECT / self.scene / f"{self.scene}_{camera}.npz"


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """A clip whose files all fit together."""

    item: ClipItem
    variant: str
    camera: str
    """`<NN>_<F>mm`."""
    focal_mm: float
    info: VideoInfo
    start: Tensor
    """[4, 4] world_from_camera of its first frame, in the world of the camera file."""


@dataclass(frozen=True, kw_only=True)
class ListedPlace:
    """A place with at least one good clip."""

    item: PlaceItem
    start_yaw_degrees: float
    """Where its clips start looking, in the world of the camera file."""
    start_pitch_degrees: float


def environment_of(scene: str) -> str:
    """The environment in a scene id such as `scene1_3x3_loc1_scene_AncientTempleEnv`; of another id, all of it."""
    found = _SCENE_ID.fullmatch(scene)
    return found[1] if found else scene


def focal_of(camera: str) -> float:
    """The focal length in a camera's name, `01_24mm`.

    Raises:
        FileFormatError: the name is not `<NN>_<F>mm`.
    """
    found = _CAMERA.fullmatch(camera)
    if found is None or float(found[1]) == 0:
        raise FileFormatError(f"{camera[:60]!r} is no camera; its name must be <NN>_<F>mm, such as 01_24mm. Rename it.")
    return float(found[1])


def list_place(
    files: SceneFiles, variants: Sequence[str]
) -> tuple[ListedPlace | None, list[ListedClip], list[Problem]]:
    """Examine one scene: the place (None when nothing of it can be used), its good clips, and the rest by name."""
    fault = _panorama_fault(files.panorama)
    if fault is not None:
        return None, [], [Problem(item=files.scene, reason=f"{fault} The place and its clips are left out.")]
    clips: list[ListedClip] = []
    problems: list[Problem] = []
    poses: dict[str, Tensor] = {}
    for variant in variants:
        good, paths, bad = _list_variant(files, variant)
        clips += good
        problems += bad
        poses |= {clip.item.name: paths[clip.camera] for clip in good}
    for faulty in (_twins_apart(clips, poses), _starts_apart(clips)):
        problems += faulty
        names = {problem.item for problem in faulty}
        clips = [clip for clip in clips if clip.item.name not in names]
    if not clips:
        return None, [], [*problems, Problem(item=files.scene, reason="No clip of it can be used; it is left out.")]
    yaw, pitch = look_angles(clips[0].start)
    item = PlaceItem(name=files.scene, environment=environment_of(files.scene))
    return ListedPlace(item=item, start_yaw_degrees=yaw, start_pitch_degrees=pitch), clips, problems


def _panorama_fault(path: Path) -> str | None:
    """What is wrong with a panorama by its header, in a sentence."""
    if not path.is_file():
        return f"There is no panorama {path.name}."
    try:
        with Image.open(path) as picture:
            check_equirectangular(picture.height, picture.width)
    except ShapeError as error:
        return f"{path.name}: {error}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{path.name} cannot be read as a picture ({error}); copy it again."
    return None


def _list_variant(files: SceneFiles, variant: str) -> tuple[list[ListedClip], dict[str, Tensor], list[Problem]]:
    """The good clips of one variant of a scene, their poses by camera, and the bad clips by name."""
    name = f"{files.scene}/{variant}"
    videos, problems = _videos(files, variant)
    path = files.camera_file(variant)
    try:
        cameras = read_camera_file(path)
        captions = read_texts(files.captions) if files.captions.is_file() else {}
        caption = _caption(captions, variant, files)
    except FileNotFoundError:
        held = f"{len(videos)} videos but no" if videos else "neither videos nor a"
        reason = f"It has {held} camera file {path.name}: a place half written or half copied. Complete it."
        return [], {}, [*problems, Problem(item=name, reason=reason)]
    except FileFormatError as error:
        return [], {}, [*problems, Problem(item=name, reason=f"{error} Its {len(videos)} clips are left out.")]
    clips: list[ListedClip] = []
    poses: dict[str, Tensor] = {}
    for camera in sorted({*cameras.cameras, *videos}):
        item = ClipItem(
            name=f"{name}/{camera}", place=files.scene, caption=caption, has_subject=variant == WITH_SUBJECT
        )
        try:
            focal_mm = focal_of(camera)
            path_poses, info = probe_filmed(files.video(variant, camera), cameras, camera)
            listed = ListedClip(
                item=item, variant=variant, camera=camera, focal_mm=focal_mm, info=info, start=path_poses[0]
            )
        except ValueError as error:
            problems.append(Problem(item=item.name, reason=str(error)))
            continue
        clips.append(listed)
        poses[camera] = path_poses
    return clips, poses, problems


def _videos(files: SceneFiles, variant: str) -> tuple[set[str], list[Problem]]:
    """The cameras that a video is named after, and the videos with other names. Hidden files are not looked at."""
    folder = files.video(variant, "").parent
    found = sorted(path.name for path in folder.glob("*.mp4") if not path.name.startswith("."))
    prefix = f"{files.scene}_"
    wrong = [name for name in found if not name.startswith(prefix)]
    cameras = {name.removeprefix(prefix).removesuffix(".mp4") for name in found if name not in wrong}
    wanted = files.video(variant, "<NN>_<F>mm").name
    return cameras, [
        Problem(item=f"{files.scene}/{variant}/{name}", reason=f"The video must be called {wanted}. Rename it.")
        for name in wrong
    ]


def _caption(texts: dict[str, str], variant: str, files: SceneFiles) -> str:
    """The caption of a variant; without the subject, what is left of the other one if it is not stated, or empty."""
    caption = texts.get("caption", "").strip()
    if variant == WITHOUT_SUBJECT:
        if "caption_place_only" in texts:
            return texts["caption_place_only"].strip()
        return without_action(caption, texts.get("caption_action_only", ""))
    if not caption:
        where = files.captions.relative_to(files.root)
        state = "holds no 'caption'" if texts else "is missing or empty"
        raise FileFormatError(f"{where} {state}, and clips with the subject need one.")
    return caption


def _twins_apart(clips: list[ListedClip], poses: dict[str, Tensor]) -> list[Problem]:
    """Clips whose cameras are not those of the same clip without, or with, the subject: both of each pair."""
    names = {(clip.variant, clip.camera): clip.item.name for clip in clips}
    problems = []
    for (variant, camera), name in names.items():
        other = WITHOUT_SUBJECT if variant == WITH_SUBJECT else WITH_SUBJECT
        twin = names.get((other, camera))
        if twin is None:
            continue
        if len(poses[name]) != len(poses[twin]):
            apart = f"{len(poses[name])} poses against {len(poses[twin])}"
        else:
            metres, degrees = _distance(poses[name], poses[twin])
            frame = int(torch.maximum(metres / TWIN_METRES, degrees / TWIN_DEGREES).argmax())
            if metres[frame] <= TWIN_METRES and degrees[frame] <= TWIN_DEGREES:
                continue
            apart = f"frame {frame} is {_short(metres[frame])} m and {_short(degrees[frame])} degrees away"
        reason = f"Its cameras must be those of {twin}, but are not: {apart}. Copy both camera files again."
        problems.append(Problem(item=name, reason=reason))
    return problems


def _starts_apart(clips: list[ListedClip]) -> list[Problem]:
    """Clips that do not start where most clips of their place do."""
    if not clips:
        return []
    starts = torch.stack([clip.start for clip in clips])
    metres, degrees = _distance(starts[:, None], starts[None])
    agree = (metres <= START_METRES) & (degrees <= START_DEGREES)
    common = int(agree.sum(dim=1).argmax())
    return [
        Problem(
            item=clip.item.name,
            reason=f"It starts {_short(metres[common, index])} m and {_short(degrees[common, index])} degrees from "
            f"{clips[common].item.name}; the clips of a place start at one viewpoint. Give it a place of its own.",
        )
        for index, clip in enumerate(clips)
        if not agree[common, index]
    ]


def _distance(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Metres between the centres and degrees between the rotations of [..., 4, 4] poses."""
    apart = inverse_pose(first) @ second
    # The chord |R - 1| / sqrt(2) is 2 sin(angle / 2); unlike the cosine it is exact for small angles.
    chord = (apart[..., :3, :3] - torch.eye(3, dtype=torch.float64)).flatten(-2).norm(dim=-1) / (2 * 2**0.5)
    return apart[..., :3, 3].norm(dim=-1), torch.rad2deg(2 * torch.asin(chord.clamp(max=1)))


def _short(number: Tensor) -> str:
    return f"{round(float(number), 4):g}"
