"""What a shot takes of the card, said before the work and where it is too much."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.model_management
import torch

from ..cinescene_core.checks import CineSceneWarning
from ..cinescene_core.config import SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..cinescene_core.memory import (
    Networks,
    ShotSize,
    Stage,
    changes_that_fit,
    explaining_out_of_memory,
    in_gib,
    predict_memory,
)
from .host import cinescene_config

SHOT_STAGES: tuple[Stage, ...] = ("scene cache", "sampling")
"""What a sampler runs; the host knows the memory of its other networks itself."""


def sizes_of(model: Any) -> Networks:
    """A MODEL by its sizes, in the precision the host computes in."""
    made = model.model
    return Networks(wan=made.diffusion_model.config, projector=made.projector, dtype=made.get_dtype_inference())


def memory_note(model: Any, device: torch.device, total: int) -> str:
    """What to change where a shot as trained is too large for a card of `total` bytes; "" where it is not.

    Weights do not count: the host keeps what does not fit of them in its own memory.
    """
    networks, shot = sizes_of(model), ShotSize.trained(cinescene_config(model))
    needed = max(predict_memory(networks, shot, device, SHOT_STAGES), key=lambda memory: memory.working)
    if needed.working <= total:
        return ""
    room = total + needed.weights
    change = next(changes_that_fit(networks, shot, device, room, SHOT_STAGES, cache_moves=False), None)
    advice = f"Use {change.words} or less" if change else "Use a card with more memory"
    return (
        f"A shot as this checkpoint was trained, {shot.num_frames} frames of {shot.width} x {shot.height} pixels with "
        f"{shot.num_views} views, takes {in_gib(needed.working)} beside the weights; {device} has {in_gib(total)}. "
        f"{advice}."
    )


def warn_of_memory(model: Any) -> None:
    """Warn of a shot that is too large for the card here."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        note = memory_note(model, device, comfy.model_management.get_total_memory(device))
        if note:
            warnings.warn(note, CineSceneWarning, stacklevel=2)


def explaining_shot_memory(
    model: Any, positive: list[Any], latent: dict[str, Any], device: torch.device, *, guided: bool
) -> AbstractContextManager[None]:
    """Say in one sentence what a shot needs when the card has too little; the host's CPU is not planned for.

    Args:
        model, positive, latent: as in the host's samplers.
        device: where the host samples.
        guided: whether the negative prompt counts; the host computes both branches together while it has room.
    """
    views = next((extras["cinescene_latents"] for _, extras in positive if "cinescene_latents" in extras), None)
    if device.type == "cpu" or views is None:
        return nullcontext()

    def shot() -> ShotSize:
        videos, _, frames, height, width = latent["samples"].shape
        return ShotSize.trained(
            cinescene_config(model),
            num_frames=1 + TEMPORAL_STRIDE * (frames - 1),
            num_views=views.shape[1],
            width=width * SPATIAL_STRIDE,
            height=height * SPATIAL_STRIDE,
            batch=2 * videos if guided else videos,
        )

    return explaining_out_of_memory(lambda: sizes_of(model), shot, device, *SHOT_STAGES, cache_moves=False)
