"""Views of a place: cut from a panorama, or photos of it."""

import torch
from torch import Tensor

from ..cinescene_core import types
from ..cinescene_core.checks import check_finite, check_video_size
from ..cinescene_core.config import MAX_VIEWS, ViewConfig
from ..cinescene_core.views import slice_panorama, views_from_images
from .sockets import Views, io, one_picture, problem_of, progress, schema, show_warnings, to_image

DEFAULTS = ViewConfig()
SIZE = {"min": 16, "max": 4096, "step": 16}
"""Limits of a picture's side, in pixels."""


def size_inputs(what: str) -> list[io.Input]:
    """Width and height widgets; `what` is the thing they measure."""
    return [
        io.Int.Input(
            "width",
            default=DEFAULTS.width,
            **SIZE,
            tooltip=f"Width of {what}, in pixels; a multiple of 16. {DEFAULTS.width} for the full model, 160 for nano.",
        ),
        io.Int.Input(
            "height",
            default=DEFAULTS.height,
            **SIZE,
            tooltip=f"Height of {what}, in pixels; a multiple of 16. "
            f"{DEFAULTS.height} for the full model, 96 for nano.",
        ),
    ]


def direction_inputs(what: str) -> list[io.Input]:
    """Where the shot starts in the panorama; `what` is the thing that looks there."""
    return [
        io.Float.Input(
            "yaw_offset_degrees",
            default=DEFAULTS.yaw_offset_degrees,
            min=-360,
            max=360,
            step=1,
            tooltip=f"Where {what} looks, in degrees: 0 is the middle of the panorama, 90 a quarter turn to the right.",
        ),
        io.Float.Input(
            "pitch_degrees",
            default=DEFAULTS.pitch_degrees,
            min=-90,
            max=90,
            step=1,
            tooltip="How far the camera looks above the horizon, in degrees; negative looks down.",
        ),
    ]


class PanoramaViews(io.ComfyNode):
    """CineScenePanoramaViews."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineScenePanoramaViews",
            display_name="Views from Panorama",
            category="place",
            description="Cuts a 360-degree panorama into pictures all around the horizon. "
            "The first is the start of the shot.",
            search_aliases=["panorama", "360", "equirectangular", "vr", "hdri", "slice", "perspective"],
            inputs=[
                io.Image.Input("panorama", tooltip="One 360-degree picture (equirectangular), twice as wide as high."),
                io.Int.Input(
                    "num_views",
                    default=DEFAULTS.num_views,
                    min=1,
                    max=MAX_VIEWS,
                    tooltip="How many views, evenly around the horizon; the model was trained with 20.",
                ),
                io.Float.Input(
                    "fov_degrees",
                    default=DEFAULTS.fov_degrees,
                    min=1,
                    max=179,
                    step=1,
                    tooltip="How wide each view sees, in degrees (horizontal field of view).",
                ),
                *size_inputs("every view and of the video"),
                *direction_inputs("the first view, and so the shot,"),
            ],
            outputs=[
                Views.Output(display_name="views", tooltip="For Encode Scene."),
                io.Image.Output(display_name="images", tooltip="The same views as pictures, to look at."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        num_views: int,
        fov_degrees: float,
        width: int,
        height: int,
        yaw_offset_degrees: float,
        pitch_degrees: float,
    ) -> str | bool:
        return problem_of(
            ViewConfig,
            num_views=num_views,
            fov_degrees=fov_degrees,
            width=width,
            height=height,
            yaw_offset_degrees=yaw_offset_degrees,
            pitch_degrees=pitch_degrees,
        )

    @classmethod
    @show_warnings
    def execute(cls, panorama: Tensor, **settings: float) -> io.NodeOutput:
        views = slice_panorama(one_picture(panorama), ViewConfig(**settings), on_view=progress())
        return io.NodeOutput(views, to_image(views.images))


class PhotoViews(io.ComfyNode):
    """CineScenePhotoViews."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineScenePhotoViews",
            display_name="Views from Photos",
            category="place",
            description="Takes photos of one place as its views. The first photo is the start of the shot.",
            search_aliases=["photos", "images", "batch", "multi-view"],
            inputs=[
                io.Image.Input(
                    "photos", tooltip="1 to 40 photos of the same place, as one batch; the shot starts at the first."
                ),
                *size_inputs("every view and of the video"),
            ],
            outputs=[
                Views.Output(display_name="views", tooltip="For Encode Scene."),
                io.Image.Output(
                    display_name="images", tooltip="The views as they were fitted to the size, to look at."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, width: int, height: int) -> str | bool:
        return problem_of(check_video_size, width=width, height=height)

    @classmethod
    @show_warnings
    def execute(cls, photos: Tensor, width: int, height: int) -> io.NodeOutput:
        check_finite("The photos", photos)
        report = progress()
        fitted = []
        for photo in photos:  # a large one takes a second: the user sees how far it is, and may stop
            fitted.append(views_from_images(photo[None], width, height).images)
            report(len(fitted), len(photos))
        views = types.Views(torch.cat(fitted))
        return io.NodeOutput(views, to_image(views.images))
