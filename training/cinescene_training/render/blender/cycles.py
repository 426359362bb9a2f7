"""Pictures and depth by Cycles, as tensors."""

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import torch
from mathutils import Matrix
from PIL import Image
from torch import Tensor

from .axes import pose_to_blender
from .job import CyclesSettings

NOTHING = 1e9
"""Blender writes 1e10 where a ray meets nothing."""


class Cycles:
    """A camera of its own in an open scene. The scene's look (world, exposure, view transform) is left as it is."""

    def __init__(self, scene: Any, settings: CyclesSettings, metres_per_unit: float) -> None:
        """Prepare the scene: exact pinhole pictures, one view layer, no compositing and no motion blur.

        Raises:
            ValueError: there is no device of the kind asked for.
        """
        self.scene, self.settings, self.metres_per_unit = scene, settings, metres_per_unit
        render = scene.render
        render.engine = "CYCLES"
        render.resolution_percentage = 100
        render.pixel_aspect_x = render.pixel_aspect_y = 1.0
        for switch in (
            "use_border", "use_compositing", "use_sequencer", "use_motion_blur", "use_multiview", "use_freestyle",
            "use_stamp", "film_transparent", "use_single_layer",
        ):  # fmt: skip
            setattr(render, switch, False)
        render.use_persistent_data = True
        render.dither_intensity = 0.0
        for layer in scene.view_layers:
            layer.use = layer == bpy.context.view_layer
        data = bpy.data.cameras.new("cinescene camera")
        data.sensor_fit = "HORIZONTAL"
        data.clip_start, data.clip_end = 0.001 / metres_per_unit, 1e6 / metres_per_unit
        self.camera = bpy.data.objects.new("cinescene camera", data)
        scene.collection.objects.link(self.camera)
        scene.camera = self.camera
        _choose_device(scene, settings.device)
        scene.cycles.seed, scene.cycles.use_animated_seed = settings.seed, False
        self._depth_graph = _depth_graph()

    def picture(self, world_from_camera: Tensor, fov_degrees: float, width: int, height: int) -> Tensor:
        """[height, width, 3] float32 sRGB in 0..1, in 256 steps, from a pose [4, 4]."""
        self._aim(world_from_camera, width, height, fov_degrees)
        return self._colours()

    def panorama(self, world_from_camera: Tensor, width: int) -> Tensor:
        """[width / 2, width, 3] float32 sRGB in 0..1: equirectangular, its centre along the pose's optical axis."""
        self._aim(world_from_camera, width, width // 2, None)
        return self._colours()

    def depth(self, world_from_camera: Tensor, fov_degrees: float, width: int, height: int) -> Tensor:
        """[height, width] float32 metres along the optical axis through the pixel centres; infinite in the sky."""
        self._aim(world_from_camera, width, height, fov_degrees)
        cycles, layer = self.scene.cycles, bpy.context.view_layer
        # Cycles sends the first path of a pixel through its centre, and takes depth from it.
        cycles.samples, cycles.use_denoising, cycles.use_adaptive_sampling = 1, False, False
        layer.use_pass_z = True
        self.scene.compositing_node_group, self.scene.render.use_compositing = self._depth_graph, True
        # A perspective camera's Z is the distance along the axis, not along the ray.
        units = torch.from_numpy(self._shoot("OPEN_EXR", _read_exr))
        return torch.where(units < NOTHING, units * self.metres_per_unit, torch.inf)

    def _colours(self) -> Tensor:
        cycles = self.scene.cycles
        cycles.samples, cycles.use_denoising = self.settings.samples, self.settings.denoise
        cycles.denoiser, cycles.denoising_use_gpu = "OPENIMAGEDENOISE", False
        cycles.use_adaptive_sampling = True
        self.scene.render.use_compositing = False
        return torch.from_numpy(self._shoot("PNG", _read_png)).float() / 255

    def _aim(self, world_from_camera: Tensor, width: int, height: int, fov_degrees: float | None) -> None:
        """Place the camera; no field of view makes it a panorama."""
        data = self.camera.data
        self.camera.matrix_world = Matrix(pose_to_blender(world_from_camera, self.metres_per_unit).tolist())
        self.scene.render.resolution_x, self.scene.render.resolution_y = width, height
        if fov_degrees is None:
            data.type, data.panorama_type = "PANO", "EQUIRECTANGULAR"
        else:
            data.type, data.angle = "PERSP", math.radians(fov_degrees)

    def _shoot(self, file_format: str, read: Any) -> np.ndarray:
        output = self.scene.render.image_settings
        output.media_type, output.file_format = "IMAGE", file_format
        output.color_mode = "RGB"
        output.color_depth = "32" if file_format == "OPEN_EXR" else "8"
        output.color_management = "FOLLOW_SCENE"
        with tempfile.TemporaryDirectory() as folder:
            stem = Path(folder) / "picture"
            self.scene.render.filepath, self.scene.render.use_file_extension = str(stem), True
            with _quiet():
                bpy.ops.render.render(write_still=True, use_viewport=False)
            return read(next(Path(folder).iterdir()))


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file.convert("RGB"))


def _read_exr(path: Path) -> np.ndarray:
    """[h, w] first channel, top row first."""
    image = bpy.data.images.load(str(path))
    try:
        image.colorspace_settings.name = "Non-Color"
        width, height = image.size
        pixels = np.empty(width * height * image.channels, dtype=np.float32)
        image.pixels.foreach_get(pixels)
        return np.ascontiguousarray(pixels.reshape(height, width, image.channels)[::-1, :, 0])
    finally:
        bpy.data.images.remove(image)


def _depth_graph() -> Any:
    """A compositing graph that hands on depth as if it were the picture."""
    tree = bpy.data.node_groups.new("cinescene depth", "CompositorNodeTree")
    tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    layers = tree.nodes.new("CompositorNodeRLayers")
    bpy.context.view_layer.use_pass_z = True
    layers.layer = bpy.context.view_layer.name
    end = tree.nodes.new("NodeGroupOutput")
    tree.links.new(layers.outputs["Depth"], end.inputs[0])
    return tree


def _choose_device(scene: Any, kind: str) -> None:
    if kind == "CPU":
        scene.cycles.device = "CPU"
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    kinds = [entry[0] for entry in preferences.get_device_types(bpy.context)]
    found = []
    if kind in kinds:
        preferences.compute_device_type = kind
        preferences.refresh_devices()
        found = [device for device in preferences.devices if device.type == kind]
    if not found:
        raise ValueError(f"Cycles finds no {kind} device on this machine. Use device CPU, or install its driver.")
    for device in preferences.devices:
        device.use = device.type == kind
    scene.cycles.device = "GPU"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Blender writes a line per tile to the process's own output; send those nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
