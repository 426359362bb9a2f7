"""What a clip really looks like, and, where it was rendered, which pixels are its subject and where each point goes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cinescene_core.types import Trajectory

from ..config import ShotConfig
from ..data.encode import read_clip
from ..data.footage import ClipItem, Footage
from ..render.flow import optical_flow
from ..render.footage import RoomFootage
from ..render.places import sample_places

PAIRS_AT_ONCE = 8
"""Pairs of frames whose flow is computed together: 0.6 GiB at 672 x 384."""


@dataclass(frozen=True, eq=False)
class Truth:
    """A clip of the source. Frames are f, h and w as the run has them."""

    item: ClipItem
    path: Trajectory
    frames: Tensor
    """[f, h, w, 3] float32 in 0..1."""
    subject: Tensor | None
    """[f, h, w] bool, the pixels of the subject; None where a clip has one that nobody has outlined."""
    flow: Tensor | None
    """[f - 1, h, w, 2] exact flow to the next frame, in pixels; None where it is not known."""
    followed: Tensor | None
    """[f - 1, h, w] bool: pixels of the place, not of the subject, that the next frame shows too."""


def read_truth(footage: Footage, item: ClipItem, shot: ShotConfig) -> Truth:
    """Read or render one clip; rooms also give masks and flow.

    Raises:
        ValueError, OSError: the clip cannot be read; see `read_clip`.
    """
    clip = read_clip(footage, item.name, shot)
    subject = None if item.has_subject else torch.zeros(clip.frames.shape[:3], dtype=torch.bool)
    flow = followed = None
    if isinstance(footage, RoomFootage):
        if item.has_subject:
            subject = footage.subject_mask(item.name, shot.num_frames)
        flow, followed = room_flow(footage, item, clip.path)
        followed = followed if subject is None else followed & ~subject[:-1]
    return Truth(item, clip.path, clip.frames, subject, flow, followed)


def room_flow(footage: RoomFootage, item: ClipItem, path: Trajectory) -> tuple[Tensor, Tensor]:
    """Exact flow [f - 1, h, w, 2] of a rendered clip, and where it can be followed [f - 1, h, w]."""
    plan = footage.plan(item.name)
    places = sample_places([plan.place_seed], plan.kind).to(footage.device)
    time = torch.arange(len(path), dtype=torch.float64)[None] / footage.fps
    flows, visible = [], []
    for start in range(0, len(path) - 1, PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE + 1)
        found = optical_flow(
            places,
            path.world_from_camera[None, some],
            footage.fov_degrees,
            footage.width,
            footage.height,
            time=time[:, some] if item.has_subject else None,
            compiled=footage.compiled,
        )
        flows.append(found.flow[0].cpu())
        visible.append(found.visible[0].cpu())
    return torch.cat(flows), torch.cat(visible)
