"""What `cinescene-train render` writes: places ray-cast from seeds, or sets that Blender renders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cinescene_core.checks import check_num_frames, check_positive
from cinescene_core.devices import check_device, default_device

from ..data.footage import Split
from ..settings import SettingsError, build, read_settings
from .blender.job import DEFAULT_MOVES, BlenderJob, CyclesSettings
from .footage import RoomFootage


@dataclass(frozen=True, kw_only=True)
class RoomsConfig:
    """Rooms or courtyards of one split, ray-cast in torch."""

    kind: Literal["room", "courtyard"] = "room"
    split: Split = "train"
    """Whose seeds; those of two splits never meet."""
    places: int = 10
    """The first so many of the split."""
    clips_per_place: int = 7
    """Camera paths per place, each with and without the subject; 7 as released."""
    supersampling: int = 2
    """Samples along a pixel's side."""
    compiled: bool = False
    """Trace through torch.compile; needs a C++ compiler, several times faster."""
    device: str | None = None
    """Where to trace; None takes a card where there is one."""

    def __post_init__(self) -> None:
        for name in ("places", "supersampling"):
            check_positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class BlenderConfig:
    """A .blend file or a set of ours, rendered by Cycles."""

    source: str = "courtyard"
    """A .blend file, or the name of a scripted set."""
    seeds: tuple[int, ...] = (0,)
    """Of a scripted set, a place each: who performs, what they do and where the camera starts."""
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
    depth: bool = True
    """Also write depth and subject masks."""
    cycles: CyclesSettings = field(default_factory=CyclesSettings)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers, 0 or more; got {list(self.seeds)}.")
        if Path(self.source).suffix.lower() == ".blend" and self.seeds != (0,):
            raise ValueError(f"seeds vary scripted sets only, and {self.source} is one place. Leave seeds out.")


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """A dataset in the released layout, or more places for one. Of `rooms` and `blender` one is given."""

    task: Literal["render"] = "render"
    out: Path
    """Folder of the dataset; places that stand there are kept."""
    rooms: RoomsConfig | None = None
    blender: BlenderConfig | None = None
    width: int = 672
    """Pixels of a frame."""
    height: int = 384
    num_frames: int = 81
    """Frames of a clip, 4n + 1."""
    fps: float = 15.0
    fov_degrees: float = 90.0
    """Horizontal field of view of the clips."""
    panorama_width: int = 2048
    """Pixels; the panorama is half as high."""

    def __post_init__(self) -> None:
        if (self.rooms is None) == (self.blender is None):
            raise ValueError("give either 'rooms' or 'blender', the section that says what is rendered.")
        check_num_frames(self.num_frames)
        check_positive("fps", self.fps)
        for name in ("width", "height", "panorama_width"):
            size = getattr(self, name)
            check_positive(name, size)
            if size % 2:
                raise ValueError(f"{name} must be even, as videos are; got {size}. Use {size + 1}.")
        if not 0 < self.fov_degrees < 180:
            raise ValueError(f"fov_degrees must lie between 0 and 180; got {self.fov_degrees}. The paper has 90.")


def load_render_config(path: Path, overrides: Sequence[str] = ()) -> RenderConfig:
    """Read what to render from YAML.

    Raises:
        SettingsError: a field that is unknown, missing or wrong; the message names it.
    """
    record = read_settings(path, overrides)
    task = record.get("task", "shot")
    if task != "render":
        raise SettingsError(f"{path.name} is a configuration of task '{task}', not of 'render'.")
    return build(RenderConfig, record)


def rooms_of(config: RenderConfig) -> RoomFootage:
    """The places of the section `rooms`.

    Raises:
        ValueError: more places than the split has, more clips than there are moves, or no such device.
    """
    rooms = config.rooms
    assert rooms is not None
    return RoomFootage(
        rooms.split,
        rooms.places,
        kind=rooms.kind,
        clips_per_place=rooms.clips_per_place,
        num_frames=config.num_frames,
        width=config.width,
        height=config.height,
        fov_degrees=config.fov_degrees,
        fps=config.fps,
        panorama_width=config.panorama_width,
        samples=rooms.supersampling,
        compiled=rooms.compiled,
        device=check_device(rooms.device or default_device()),
    )


def jobs_of(config: RenderConfig) -> list[BlenderJob]:
    """The places of the section `blender`, called as in the released dataset, so that a hold-out keeps a set together.

    Raises:
        FileNotFoundError: there is no such .blend.
        ValueError: no such set, or no moves.
    """
    blender = config.blender
    assert blender is not None
    return [
        BlenderJob(
            root=str(config.out),
            name=f"scene0_1x1_loc{seed}_scene_{Path(blender.source).stem}",
            source=blender.source,
            seed=seed,
            moves=blender.moves,
            camera=blender.camera,
            subject=blender.subject,
            caption=blender.caption,
            caption_action_only=blender.caption_action_only,
            width=config.width,
            height=config.height,
            num_frames=config.num_frames,
            fps=config.fps,
            fov_degrees=config.fov_degrees,
            panorama_width=config.panorama_width,
            depth=blender.depth,
            cycles=blender.cycles,
        )
        for seed in blender.seeds
    ]
