"""What to render: a place, its clips, and how well. Needs no Blender."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cinescene_core.checks import check_choice, check_num_frames, check_positive
from cinescene_core.trajectory import PRESETS, load_trajectory, preset_trajectory
from cinescene_core.types import Trajectory

from ...data.layout import check_scene_id
from ...data.moves import parse_move

SCRIPTED_SETS = ("courtyard",)
"""Sets that the package builds itself."""
DEVICES = ("CPU", "CUDA", "OPTIX", "HIP", "METAL", "ONEAPI")
"""What Cycles can compute on."""
DEFAULT_MOVES = ("pan_left", "pan_right", "tilt_up", "arc_left", "arc_right", "dolly_in", "truck_right")
"""Seven paths a place, as many as the released dataset has."""


@dataclass(frozen=True, kw_only=True)
class CyclesSettings:
    """How Cycles takes a picture."""

    samples: int = 64
    """Light paths per pixel."""
    denoise: bool = True
    """Clean pictures with OpenImageDenoise."""
    seed: int = 0
    """Of the sampling noise; every picture of a job uses it."""
    device: str = "CPU"
    """CPU, or a kind of GPU: one of `DEVICES`."""

    def __post_init__(self) -> None:
        check_positive("CyclesSettings.samples", self.samples)
        check_choice("CyclesSettings.device", self.device, DEVICES)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"CyclesSettings.seed must be 0 to {2**31 - 1}; got {self.seed}. Use a smaller one.")


@dataclass(frozen=True, kw_only=True)
class BlenderJob:
    """One place of the dataset."""

    root: str
    """Folder of the dataset."""
    name: str
    """Scene id: letters, digits and underscores."""
    source: str = "courtyard"
    """A .blend file, or the name of a set in `SCRIPTED_SETS`."""
    seed: int = 0
    """Scripted sets only: who performs, what they do and where the camera starts."""
    moves: tuple[str, ...] = DEFAULT_MOVES
    """Camera paths: preset names, with `=amount` where the preset's default is not wanted, or trajectory files."""
    camera: str = ""
    """Object whose camera is the start view; empty takes the scene's active camera."""
    subject: str = "Subject"
    """Collection that holds the moving subject and nothing else."""
    caption: str = ""
    """What the clips show; empty takes the scene's custom property `caption`."""
    caption_action_only: str = ""
    """What the subject does; empty takes the scene's custom property `caption_action_only`."""
    width: int = 672
    """Pixels of a frame."""
    height: int = 384
    """Pixels of a frame."""
    num_frames: int = 81
    """Frames of a clip, 4n + 1."""
    fps: float = 15.0
    """Frames per second of preset moves."""
    fov_degrees: float = 90.0
    """Horizontal field of view of preset moves."""
    panorama_width: int = 2048
    """Pixels; the panorama is half as high."""
    depth: bool = True
    """Also write depth and subject masks."""
    cycles: CyclesSettings = field(default_factory=CyclesSettings)

    def __post_init__(self) -> None:
        check_scene_id(self.name)
        check_num_frames(self.num_frames)
        for name in ("fps", "width", "height", "panorama_width"):
            check_positive(f"BlenderJob.{name}", getattr(self, name))
        for name in ("width", "height", "panorama_width"):
            if getattr(self, name) % 2:
                raise ValueError(f"BlenderJob.{name} must be even; got {getattr(self, name)}. Add a pixel.")
        if not 0 < self.fov_degrees < 180:
            raise ValueError(
                f"BlenderJob.fov_degrees must lie between 0 and 180; got {self.fov_degrees}. Give the lens in degrees."
            )
        if not self.moves:
            raise ValueError("BlenderJob.moves is empty; a place needs at least one camera path. Name a preset.")
        if self.scripted:
            check_choice("BlenderJob.source", self.source, SCRIPTED_SETS)
        elif not Path(self.source).is_file():
            raise FileNotFoundError(f"There is no file {self.source}. Check the path of the .blend.")

    @property
    def scripted(self) -> bool:
        """Whether the place is one of `SCRIPTED_SETS` rather than a file."""
        return Path(self.source).suffix.lower() != ".blend"


def plan_paths(job: BlenderJob, subject_distance: float) -> list[Trajectory]:
    """The job's camera paths, each relative to the start view.

    Args:
        job: whose moves to plan.
        subject_distance: metres from the start view to the subject along the optical axis.

    Raises:
        ValueError: a move that is neither a preset, nor a preset with an amount, nor a trajectory file; or a file
            with another number of frames.
        FileFormatError, FileNotFoundError: what `load_trajectory` refuses.
    """
    paths = [_path(move, job, subject_distance) for move in job.moves]
    for move, path in zip(job.moves, paths, strict=True):
        if len(path) != job.num_frames:
            raise ValueError(
                f"{move} has {len(path)} frames; the clips of this job have {job.num_frames}. "
                f"Set num_frames to {len(path)}, or give a path of that length."
            )
    return paths


def _path(move: str, job: BlenderJob, subject_distance: float) -> Trajectory:
    if Path(move).suffix.lower() in (".json", ".npy"):
        return load_trajectory(move)
    parsed = parse_move(move)
    if parsed is None:
        raise ValueError(
            f"A move is a preset such as pan_left, a preset with an amount such as pan_left=40, or a trajectory file; "
            f"got {move!r}. Known presets: {', '.join(PRESETS)}."
        )
    return preset_trajectory(
        parsed[0],
        amount=parsed[1],
        num_frames=job.num_frames,
        subject_distance=subject_distance,
        fov_degrees=job.fov_degrees,
        fps=job.fps,
    )


def settle_captions(job: BlenderJob, stated: Sequence[str]) -> tuple[str, str]:
    """Caption and action: the job's own words, or else the (caption, caption_action_only) that the scene states.

    Raises:
        ValueError: neither has a caption.
    """
    caption, action = (
        own.strip() or other.strip() for own, other in zip((job.caption, job.caption_action_only), stated, strict=True)
    )
    if not caption:
        raise ValueError(
            f"{job.source} states no caption. Give one, or add the custom properties 'caption' and "
            "'caption_action_only' to the scene in Blender (Scene properties, Custom Properties)."
        )
    return caption, action
