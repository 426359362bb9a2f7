"""The scripted set's light: a low warm sun, a clear sky with a few clouds, and how the camera exposes for it."""

import math
from typing import Any

import bpy

SUN_ELEVATION = 40.0
"""Degrees above the horizon."""
SUN_AZIMUTH = -145.0
"""Degrees from Blender's +y, positive to the right: the sun stands behind the start camera, to its left."""
SUN_STRENGTH = 7.5
SKY_STRENGTH = 0.13
EXPOSURE = 0.3
"""Stops."""


def build_sky(collection: Any) -> None:
    """Sun lamp, sky and clouds."""
    lamp = bpy.data.lights.new("sun", "SUN")
    lamp.energy, lamp.color, lamp.angle = SUN_STRENGTH, (1.0, 0.8, 0.54), math.radians(0.9)
    sun = bpy.data.objects.new("sun", lamp)
    # A lamp shines along its own -z.
    sun.rotation_euler = (math.radians(90 - SUN_ELEVATION), 0, math.radians(180 - SUN_AZIMUTH))
    collection.objects.link(sun)

    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    tree = world.node_tree
    background = tree.nodes["Background"]
    sky = tree.nodes.new("ShaderNodeTexSky")
    sky.sky_type, sky.sun_disc = "MULTIPLE_SCATTERING", False
    sky.sun_elevation, sky.sun_rotation = math.radians(SUN_ELEVATION), math.radians(SUN_AZIMUTH)
    mix = tree.nodes.new("ShaderNodeMix")
    mix.data_type = "RGBA"
    mix.inputs[7].default_value = (11.0, 10.2, 9.2, 1.0)
    tree.links.new(_clouds(tree), mix.inputs[0])
    tree.links.new(sky.outputs[0], mix.inputs[6])
    tree.links.new(mix.outputs[2], background.inputs["Color"])
    background.inputs["Strength"].default_value = SKY_STRENGTH


def _clouds(tree: Any) -> Any:
    """Where clouds are: noise on a flat layer high above, thinned towards the horizon."""

    def node(kind: str, inputs: dict[Any, Any], **properties: Any) -> Any:
        new = tree.nodes.new(f"ShaderNode{kind}")
        for name, value in properties.items():
            setattr(new, name, value)
        for key, value in inputs.items():
            if isinstance(value, bpy.types.NodeSocket):
                tree.links.new(value, new.inputs[key])
            else:
                new.inputs[key].default_value = value
        return new

    parts = node("SeparateXYZ", {0: node("TexCoord", {}).outputs["Generated"]})
    up = node("Math", {0: parts.outputs[2], 1: 0.08}, operation="MAXIMUM").outputs[0]
    flat = [node("Math", {0: parts.outputs[axis], 1: up}, operation="DIVIDE").outputs[0] for axis in (0, 1)]
    place = node("CombineXYZ", {0: flat[0], 1: flat[1], 2: 0.35}).outputs[0]
    stretched = node("Mapping", {"Vector": place, "Scale": (0.55, 0.9, 1.0)}).outputs[0]
    puffs = node(
        "TexNoise", {"Vector": stretched, "Scale": 1.25, "Detail": 9.0, "Roughness": 0.56, "Distortion": 0.35}
    ).outputs["Fac"]
    cover = node("MapRange", {"Value": puffs, "From Min": 0.49, "From Max": 0.70}).outputs[0]
    haze = node("MapRange", {"Value": parts.outputs[2], "From Min": 0.02, "From Max": 0.22}).outputs[0]
    return node("Math", {0: cover, 1: haze}, operation="MULTIPLY").outputs[0]


def expose() -> None:
    """The picture's look, a film-like curve; and how often light may bounce, which decides how long a picture takes."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    cycles, view = scene.cycles, scene.view_settings
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 5, 3, 2
    cycles.caustics_reflective = cycles.caustics_refractive = False
    view.view_transform = "AgX"
    view.look = "AgX - Medium High Contrast"
    view.exposure = EXPOSURE
