"""A place and a camera path as conditions of the host's own sampling."""

import warnings
from typing import Any

import torch

from ..cinescene_core import types
from ..cinescene_core.checks import CineSceneWarning
from ..cinescene_core.config import CineSceneConfig
from ..cinescene_core.context import build_context, check_shot
from ..cinescene_core.latents import latent_frames, latent_shape
from .conditions import ShotConditions
from .host import cinescene_config
from .sockets import Scene, Trajectory, io, on_host_device, schema, show_warnings

LONG = 2
"""Times the usual number of tokens from which a shot is worth a word."""


class Conditioning(io.ComfyNode):
    """CineSceneConditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneConditioning",
            display_name="CineScene Conditioning",
            category="shot",
            description="Joins the prompt, the place and the camera path. "
            "The video has the size of the views and the length of the path. "
            "Works with CineScene Sampler, KSampler and SamplerCustomAdvanced.",
            search_aliases=["condition", "camera control", "scene", "wan", "video"],
            inputs=[
                io.Model.Input("model", tooltip="The CineScene model; the place must have been encoded for it."),
                io.Conditioning.Input("positive", tooltip="What moves in the place, from CLIP Text Encode."),
                io.Conditioning.Input("negative", tooltip="What to keep out of the video, from CLIP Text Encode."),
                Scene.Input("scene", tooltip="The encoded place."),
                Trajectory.Input("trajectory", tooltip="The camera path, 4n + 1 frames."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Prompt, place and camera."),
                io.Conditioning.Output(display_name="negative", tooltip="Negative prompt, place and camera."),
                io.Latent.Output(display_name="latent", tooltip="An empty video of the right size and length."),
            ],
        )

    @classmethod
    @show_warnings
    def execute(
        cls, model: Any, positive: list[Any], negative: list[Any], scene: types.Scene, trajectory: types.Trajectory
    ) -> io.NodeOutput:
        config = cinescene_config(model)
        check_shot(trajectory, scene, config)
        warn_if_long(trajectory, scene, config)
        context = build_context(scene, latent_frames(len(trajectory)), config)
        shot = ShotConditions.of(context, trajectory.latent_poses())
        empty = torch.zeros(1, *latent_shape(len(trajectory), *scene.views.size))
        return io.NodeOutput(with_shot(positive, shot), with_shot(negative, shot), {"samples": on_host_device(empty)})


def with_shot(conditioning: list[Any], shot: ShotConditions) -> list[Any]:
    """A CONDITIONING whose every entry also carries the shot."""
    return [[text, {**extra, **shot._asdict()}] for text, extra in conditioning]


def warn_if_long(trajectory: types.Trajectory, scene: types.Scene, config: CineSceneConfig) -> None:
    """Warn of a shot that takes far longer than those the checkpoint was made for."""
    tokens = sequence_length(len(trajectory), len(scene.views), *scene.views.size)
    usual = sequence_length(config.num_frames, config.num_views, config.width, config.height)
    if tokens > LONG * usual:
        warnings.warn(
            f"This shot is {tokens:,} tokens long, {tokens / usual:.0f} times the checkpoint's usual {usual:,}. "
            "Every step takes at least as many times longer: use smaller or fewer views, or fewer frames.",
            CineSceneWarning,
            stacklevel=2,
        )


def sequence_length(num_frames: int, num_views: int, width: int, height: int) -> int:
    """Tokens the transformer reads: one per 16 x 16 pixels of latent frames and of views, which count twice."""
    return (latent_frames(num_frames) + 2 * num_views) * (width // 16) * (height // 16)
