"""A place, encoded once and filmed many times."""

from typing import Any

from ..cinescene_core import types
from ..cinescene_core.scene import encode_scene, load_scene, save_scene
from .encoders import HostVAE, ManagedVGGT
from .loaders import INPUT, OUTPUT, content_of, listed_scenes, named_file, new_file
from .sockets import Scene, SceneEncoder, Views, io, problem_of, progress, schema, show_warnings

SUFFIXES = (".safetensors",)
PATCH = 14


class EncodeScene(io.ComfyNode):
    """CineSceneEncodeScene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def size(name: str, side: str) -> io.Int.Input:
            return io.Int.Input(
                name,
                default=0,
                min=0,
                max=PATCH * 150,
                step=PATCH,
                advanced=True,
                tooltip=f"{side} of the pictures VGGT sees, in pixels; a multiple of {PATCH}. "
                "As the model was trained; 0 is what the file was made for: 518 x 294, or less for nano.",
            )

        return schema(
            node_id="CineSceneEncodeScene",
            display_name="Encode Scene",
            category="place",
            description="Turns the views into what the model reads: geometry from VGGT, appearance from the VAE. "
            "Done once per place; another prompt, path or seed does not repeat it.",
            search_aliases=["vggt", "scene", "encode", "features", "place"],
            inputs=[
                Views.Input("views", tooltip="The views of the place."),
                SceneEncoder.Input("vggt", tooltip="The scene encoder the model was trained with."),
                io.Vae.Input("vae", tooltip="The Wan2.1 VAE."),
                size("vggt_width", "Width"),
                size("vggt_height", "Height"),
            ],
            outputs=[Scene.Output(display_name="scene", tooltip="The encoded place.")],
        )

    @classmethod
    @show_warnings
    def execute(
        cls, views: types.Views, vggt: ManagedVGGT, vae: Any, vggt_width: int, vggt_height: int
    ) -> io.NodeOutput:
        own_width, own_height = vggt.input_size
        size = (vggt_width or own_width, vggt_height or own_height)
        scene = encode_scene(views, vggt, HostVAE(vae), vggt_size=size, on_progress=progress())
        return io.NodeOutput(scene)


class SaveScene(io.ComfyNode):
    """CineSceneSaveScene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneSaveScene",
            display_name="Save Scene",
            category="place",
            description="Keeps an encoded place as one file in ComfyUI's output folder. Load Scene lists it.",
            search_aliases=["save", "export", "scene", "cache"],
            is_output_node=True,
            inputs=[
                Scene.Input("scene", tooltip="The encoded place."),
                io.String.Input(
                    "filename_prefix",
                    default="cinescene/scene",
                    tooltip="Folder and beginning of the file's name, inside ComfyUI's output folder; "
                    "a number follows.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file was written.")],
        )

    @classmethod
    def execute(cls, scene: types.Scene, filename_prefix: str) -> io.NodeOutput:
        path = new_file(filename_prefix, SUFFIXES[0])
        save_scene(scene, path)
        return io.NodeOutput(str(path), ui={"text": [str(path)]})


class LoadScene(io.ComfyNode):
    """CineSceneLoadScene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneLoadScene",
            display_name="Load Scene",
            category="place",
            description="Reads an encoded place from ComfyUI's output folder, where Save Scene puts it, "
            "or from the input folder.",
            search_aliases=["load", "import", "scene", "cache"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=listed_scenes(),
                    tooltip="A scene in ComfyUI's input folder, or anywhere in its output folder.",
                )
            ],
            outputs=[Scene.Output(display_name="scene", tooltip="The encoded place, with its views.")],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> str | bool:
        return problem_of(named_file, name=file, suffixes=SUFFIXES, places=(INPUT, OUTPUT))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return content_of(file, SUFFIXES)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_scene(named_file(file, SUFFIXES)))
