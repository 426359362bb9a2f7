"""One input of a clip taken from another: a model that reads the input then films something else."""

import dataclasses
from collections.abc import Callable

import torch

from ..data.cache import EncodedCache
from ..samples import ClipBatch
from .options import Intervention


def with_other_scene(clip: ClipBatch, other: ClipBatch) -> ClipBatch:
    """The clip with the place of the other; prompt, camera path and noise stay."""
    return dataclasses.replace(clip, scene=other.scene)


def with_other_camera(clip: ClipBatch, other: ClipBatch) -> ClipBatch:
    """The clip with the camera path of the other; prompt, place and noise stay."""
    return dataclasses.replace(clip, poses=other.poses)


INTERVENTIONS: dict[Intervention, Callable[[ClipBatch, ClipBatch], ClipBatch]] = {
    "other_scene": with_other_scene,
    "other_camera": with_other_camera,
}


def partner_of(cache: EncodedCache, index: int, intervention: Intervention) -> int:
    """The next clip of the split, from `index` on and round, whose place or path is another one.

    Raises:
        ValueError: the split has one place, or one path.
    """
    following = [(index + step) % len(cache) for step in range(1, len(cache))]
    if intervention == "other_scene":
        place = cache.items[index].place
        found = (other for other in following if cache.items[other].place != place)
    else:
        poses = cache.sample(index).poses
        found = (other for other in following if not torch.equal(cache.sample(other).poses, poses))
    partner = next(found, None)
    if partner is None:
        lacking = "place" if intervention == "other_scene" else "camera path"
        raise ValueError(
            f"The intervention {intervention} needs clips of a second {lacking}; the {cache.split} split has one. "
            "Evaluate another split, or leave the intervention out."
        )
    return partner
