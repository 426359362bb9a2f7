"""What a dataset is to the rest of the studio: places, clips filmed in them, and what was wrong with the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from torch import Tensor

from cinescene_core.config import ViewConfig
from cinescene_core.types import Trajectory, Views

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""Sides of a dataset. Rendered places belong to one by their seed (`render.splits`), others by `split.hold_out`."""
WITH_SUBJECT, WITHOUT_SUBJECT = "whuman", "wohuman"
"""The released dataset's folders; every clip's name says which it would stand in."""


@dataclass(frozen=True, kw_only=True)
class PlaceItem:
    """A static place with pictures of its own; all its clips start at one viewpoint."""

    name: str
    """Unique in the dataset."""
    environment: str
    """What a hold-out keeps together: places of one environment share their looks."""


@dataclass(frozen=True, kw_only=True)
class ClipItem:
    """One video with its camera path."""

    name: str
    """Unique in the dataset, `<place>/<whuman | wohuman>/<camera>` in the released layout."""
    place: str
    """Name of the place it was filmed in."""
    caption: str
    has_subject: bool
    """False for the twin without the moving subject."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A bad item: reported by name and counted, never silently skipped."""

    item: str
    """Name of the place or clip."""
    reason: str
    """One sentence: what came, what is needed."""


class Footage(Protocol):
    """A dataset. Making one lists files and reads small ones; pictures and videos are read on demand."""

    @property
    def places(self) -> Sequence[PlaceItem]: ...

    @property
    def clips(self) -> Sequence[ClipItem]: ...

    @property
    def problems(self) -> Sequence[Problem]:
        """Items that were found broken; they are in neither list."""
        ...

    def views(self, place: str, config: ViewConfig) -> Views:
        """Context views of a place; the first is the start view of its clips."""
        ...

    def trajectory(self, clip: str) -> Trajectory:
        """Camera path of a clip, all its frames."""
        ...

    def frames(self, clip: str, num_frames: int) -> Tensor:
        """The first frames of a clip: [num_frames, h, w, 3] float32 in 0..1."""
        ...
