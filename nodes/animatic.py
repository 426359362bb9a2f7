"""The move before anything is sampled, exact."""

from torch import Tensor

from ..cinescene_core import types
from ..cinescene_core.animatic import render_animatic
from .sockets import Trajectory, io, one_picture, progress, schema, show_warnings, to_image
from .views import direction_inputs, size_inputs


class Animatic(io.ComfyNode):
    """CineSceneAnimatic."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneAnimatic",
            display_name="Animatic",
            category="camera",
            description="Films the panorama itself along the camera path, without the model: "
            "an exact preview in seconds. For moves that turn or zoom; a camera that travels needs the model.",
            search_aliases=["preview", "previz", "animatic", "camera test"],
            inputs=[
                io.Image.Input("panorama", tooltip="The 360-degree picture of the place, twice as wide as high."),
                Trajectory.Input("trajectory", tooltip="The camera path."),
                *size_inputs("the preview"),
                *direction_inputs("the first frame"),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for Create Video."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
            ],
        )

    @classmethod
    @show_warnings
    def execute(cls, panorama: Tensor, trajectory: types.Trajectory, **settings: float) -> io.NodeOutput:
        frames = render_animatic(one_picture(panorama), trajectory, **settings, on_frame=progress())
        return io.NodeOutput(to_image(frames), trajectory.fps)
