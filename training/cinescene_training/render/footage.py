"""Rendered places as a dataset: nothing is stored, every picture is made when it is asked for."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.checks import check_choice
from cinescene_core.config import ViewConfig
from cinescene_core.types import Trajectory, Views

from ..data.footage import WITH_SUBJECT, WITHOUT_SUBJECT, ClipItem, PlaceItem, Problem
from .captions import KINDS
from .layout import MOVES
from .places import Places, sample_places
from .rendering import Rendering, photographs, render, render_panorama
from .shots import ShotPlan, sample_shots
from .splits import place_seed

_shots = functools.lru_cache(maxsize=512)(sample_shots)
_one_place = functools.lru_cache(maxsize=64)(lambda seed, kind: sample_places([seed], kind))
# Frames, masks and depth of one clip ask for the same plan and place one after the other.


class RoomFootage:
    """Places of one split with their clips, each with and without the subject along the same path.

    Places are named `room_train_000017`, clips `<place>/whuman/01` and `<place>/wohuman/01`.
    """

    def __init__(
        self,
        split: str,
        count: int,
        *,
        kind: str = "room",
        clips_per_place: int = 7,
        num_frames: int = 81,
        width: int = 672,
        height: int = 384,
        fov_degrees: float = 90.0,
        fps: float = 15.0,
        panorama_width: int = 2048,
        samples: int = 2,
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """List the first `count` places of a split.

        Args:
            split: train, validation or test.
            count: places.
            kind: room or courtyard.
            clips_per_place: moves filmed in each place, each with and without the subject.
            num_frames: frames of a clip, 4n + 1.
            width, height: size of the clips in pixels.
            fov_degrees: horizontal field of view of the clips.
            fps: frames per second.
            panorama_width: size of `panorama`, twice its height.
            samples: rays along a pixel's side.
            compiled: compile the tracer once per process (needs a C++ compiler, on a GPU triton).
            device: where to render; pictures come back on the CPU.

        Raises:
            ValueError: an unknown split or kind, a count the split does not have, or more clips than moves.
        """
        check_choice("kind of place", kind, KINDS)
        place_seed(split, count - 1)
        if not 1 <= clips_per_place <= len(MOVES):
            raise ValueError(
                f"clips_per_place must be 1 to {len(MOVES)}, one per move; got {clips_per_place}. "
                "Use 7, as the paper's data do."
            )
        self.split, self.kind, self.num_frames = split, kind, num_frames
        self.width, self.height, self.fov_degrees, self.fps = width, height, fov_degrees, fps
        self.panorama_width, self.samples, self.compiled, self.device = panorama_width, samples, compiled, device
        self.clips_per_place = clips_per_place
        self._indices = {f"{kind}_{split}_{index:06d}": index for index in range(count)}
        self._places = tuple(PlaceItem(name=name, environment=name) for name in self._indices)

    @property
    def places(self) -> tuple[PlaceItem, ...]:
        """Every place is an environment of its own."""
        return self._places

    @functools.cached_property
    def clips(self) -> tuple[ClipItem, ...]:
        """Twins stand next to each other, the one with the subject first."""
        found = []
        for place in self._indices:
            for number, plan in enumerate(self._plans(place), start=1):
                for folder, words in ((WITH_SUBJECT, plan.caption), (WITHOUT_SUBJECT, plan.place_caption)):
                    name = f"{place}/{folder}/{number:02d}"
                    found.append(ClipItem(name=name, place=place, caption=words, has_subject=folder == WITH_SUBJECT))
        return tuple(found)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """None: nothing is read from files."""
        return ()

    def plan(self, clip: str) -> ShotPlan:
        """The plan of a clip: its move, its distances and all its captions.

        Raises:
            ValueError: there is no such clip.
        """
        return self._find(clip)[0]

    def views(self, place: str, config: ViewConfig) -> Views:
        """Context views of a place, rendered directly from its viewpoint; the first is the start view of its clips."""
        steps = torch.arange(config.num_views, dtype=torch.float64) * (360 / config.num_views)
        rotations = rotation_from_angles(config.yaw_offset_degrees + steps, config.pitch_degrees)
        poses = pose_from(rotations, torch.zeros(config.num_views, 3, dtype=torch.float64))
        images = photographs(
            self._place(place), poses[None], config.fov_degrees, config.width, config.height,
            samples=self.samples, compiled=self.compiled,
        )  # fmt: skip
        return Views(images[0].cpu(), poses, config.fov_degrees)

    def panorama(self, place: str) -> Tensor:
        """[panorama_width / 2, panorama_width, 3] float32 from the start camera; its centre is the start view's."""
        start = torch.eye(4, dtype=torch.float64)[None]
        width = self.panorama_width
        rendering = render_panorama(
            self._place(place), start, width, width // 2, self.samples, compiled=self.compiled
        )  # fmt: skip
        return rendering.rgb[0, 0].cpu()

    def trajectory(self, clip: str) -> Trajectory:
        """Camera path of a clip, all its frames."""
        return self._find(clip)[0].trajectory

    def frames(self, clip: str, num_frames: int) -> Tensor:
        """The first frames of a clip: [num_frames, h, w, 3] float32 in 0..1."""
        places, poses, time = self._shot(clip, num_frames)
        pictures = photographs(
            places, poses, self.fov_degrees, self.width, self.height,
            time=time, samples=self.samples, compiled=self.compiled,
        )  # fmt: skip
        return pictures[0].cpu()

    def subject_mask(self, clip: str, num_frames: int) -> Tensor:
        """Where the first frames of a clip show the subject: [num_frames, h, w] bool; nowhere in a clip without."""
        return torch.cat([frame.subject[0].cpu() for frame in self._geometry(clip, num_frames)])

    def depth(self, clip: str, num_frames: int) -> Tensor:
        """Metres along the camera's axis in a clip's first frames: [num_frames, h, w] float32, infinite in the sky."""
        found = (frame.depth.masked_fill(frame.sky, torch.inf) for frame in self._geometry(clip, num_frames))
        return torch.cat([depth[0].cpu() for depth in found])

    def _geometry(self, clip: str, num_frames: int) -> Iterator[Rendering]:
        """Frame by frame: what is not asked for is not kept."""
        places, poses, time = self._shot(clip, num_frames)
        for index in range(num_frames):
            frame = slice(index, index + 1)
            moment = None if time is None else time[:, frame]
            yield render(
                places, poses[:, frame], self.fov_degrees, self.width, self.height, time=moment, compiled=self.compiled
            )

    def _shot(self, clip: str, num_frames: int) -> tuple[Places, Tensor, Tensor | None]:
        """The place of a clip, the poses of its first frames, and their times if the subject is there."""
        plan, has_subject = self._find(clip)
        if not 1 <= num_frames <= self.num_frames:
            raise ValueError(
                f"{clip} has {self.num_frames} frames; got a request for {num_frames}. "
                "Ask for fewer, or make the footage with a larger num_frames."
            )
        poses = plan.trajectory.world_from_camera[None, :num_frames]
        time = torch.arange(num_frames, dtype=torch.float64)[None] / self.fps
        return self._place(clip.split("/")[0]), poses, time if has_subject else None

    def _find(self, clip: str) -> tuple[ShotPlan, bool]:
        """The plan of a clip, and whether it shows the subject."""
        parts = clip.split("/")
        place, folder, number = parts if len(parts) == 3 else ("", "", "")
        known = [f"{index:02d}" for index in range(1, self.clips_per_place + 1)]
        if place not in self._indices or folder not in (WITH_SUBJECT, WITHOUT_SUBJECT) or number not in known:
            example = f"{self._places[0].name}/{WITH_SUBJECT}/01"
            raise ValueError(
                f"There is no clip '{clip}' in this footage; clips are named like '{example}'. See `clips`."
            )
        return self._plans(place)[int(number) - 1], folder == WITH_SUBJECT

    def _seed(self, place: str) -> int:
        if place not in self._indices:
            raise ValueError(
                f"There is no place '{place}' in this footage; places are named like '{self._places[0].name}'. "
                "See `places`."
            )
        return place_seed(self.split, self._indices[place])

    def _place(self, place: str) -> Places:
        return _one_place(self._seed(place), self.kind).to(self.device)

    def _plans(self, place: str) -> tuple[ShotPlan, ...]:
        return _shots(
            self._seed(place), self.clips_per_place, num_frames=self.num_frames,
            fov_degrees=self.fov_degrees, fps=self.fps, kind=self.kind,
        )  # fmt: skip
