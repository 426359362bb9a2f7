"""Surfaces of the scripted set: every one of them a procedural shader, no picture files.

Colours are linear RGB in 0..1. Patterns live in an object's own coordinates: metres, x to the right, y up.
"""

import math
from collections.abc import Sequence
from typing import Any

import bpy

Colour = tuple[float, float, float]


class Shader:
    """Builds one material node by node; sockets go in and come out."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.tree = self.material.node_tree
        self.surface = self.tree.nodes["Principled BSDF"]

    def node(self, kind: str, inputs: dict[str | int, Any] | None = None, **properties: Any) -> Any:
        """Add a `ShaderNode<kind>`; inputs are numbers, colours or other nodes' sockets."""
        node = self.tree.nodes.new(f"ShaderNode{kind}")
        for name, value in properties.items():
            setattr(node, name, value)
        for key, value in (inputs or {}).items():
            self.plug(node.inputs[key], value)
        return node

    def plug(self, socket: Any, value: Any) -> None:
        """Give an input a number, a colour or another node's socket."""
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        elif isinstance(value, tuple) and socket.type == "RGBA":
            socket.default_value = (*value, 1.0)
        else:
            socket.default_value = value

    def set(self, **inputs: Any) -> None:
        """Inputs of the principled surface, blanks written as underscores."""
        for name, value in inputs.items():
            self.plug(self.surface.inputs[name.replace("_", " ")], value)

    def where(self, stretch: Sequence[float] = (1, 1, 1), turn: Sequence[float] = (0, 0, 0)) -> Any:
        """Object coordinates in metres, stretched, then turned by degrees."""
        own = self.node("TexCoord").outputs["Object"]
        angles = tuple(math.radians(angle) for angle in turn)
        return self.node("Mapping", {"Vector": own, "Scale": tuple(stretch), "Rotation": angles}).outputs[0]

    def noise(self, scale: float, detail: float = 5.0, vector: Any = None, distortion: float = 0.0) -> Any:
        """Fractal noise in about 0.3 .. 0.7."""
        inputs: dict[str | int, Any] = {"Scale": scale, "Detail": detail, "Roughness": 0.6, "Distortion": distortion}
        inputs["Vector"] = vector or self.where()
        return self.node("TexNoise", inputs).outputs["Fac"]

    def math(self, operation: str, a: Any, b: Any = 0.0) -> Any:
        return self.node("Math", {0: a, 1: b}, operation=operation).outputs[0]

    def between(self, value: Any, low: float, high: float) -> Any:
        """0 at `low` and below, 1 at `high` and above."""
        return self.node("MapRange", {"Value": value, "From Min": low, "From Max": high}).outputs[0]

    def blend(self, share: Any, a: Any, b: Any, kind: str = "MIX") -> Any:
        """Colour `a` where share is 0, `b` where it is 1."""
        mix = self.node("Mix", data_type="RGBA", blend_type=kind)
        for socket, value in zip((mix.inputs[0], mix.inputs[6], mix.inputs[7]), (share, a, b), strict=True):
            self.plug(socket, value)
        return mix.outputs[2]

    def ramp(self, value: Any, stops: Sequence[tuple[float, Colour]], steps: bool = False) -> Any:
        """Colour from a number by stops."""
        ramp = self.node("ValToRGB", {"Fac": value})
        ramp.color_ramp.interpolation = "CONSTANT" if steps else "LINEAR"
        elements = ramp.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(0.5)
        for element, (position, colour) in zip(elements, stops, strict=True):
            element.position, element.color = position, (*colour, 1.0)
        return ramp.outputs["Color"]

    def rough(self, height: Any, depth: float, strength: float = 1.0) -> None:
        """Relief of the surface: `height` in 0..1, `depth` in metres."""
        bump = self.node("Bump", {"Height": height, "Distance": depth, "Strength": strength})
        self.set(Normal=bump.outputs[0])


def scaled(colour: Colour, factor: float) -> Colour:
    """A colour made darker or lighter."""
    return tuple(min(channel * factor, 1.0) for channel in colour)  # type: ignore[return-value]


def weather(shader: Shader, colour: Any, dirt: float) -> Any:
    """Patches, streaks of rain and a damp foot over a colour."""
    patches = shader.between(shader.noise(0.9, 8.0, distortion=0.6), 0.38, 0.66)
    colour = shader.blend(shader.math("MULTIPLY", patches, 0.35 * dirt), colour, (0.55, 0.48, 0.4), "MULTIPLY")
    streaks = shader.between(shader.noise(3.0, 4.0, shader.where((1.6, 0.16, 1.6))), 0.5, 0.72)
    colour = shader.blend(shader.math("MULTIPLY", streaks, 0.45 * dirt), colour, (0.42, 0.37, 0.32), "MULTIPLY")
    height = shader.node("SeparateXYZ", {0: shader.node("NewGeometry").outputs["Position"]}).outputs["Z"]
    ragged = shader.math("ADD", height, shader.math("MULTIPLY", shader.noise(1.6, 6.0), -1.1))
    damp = shader.between(ragged, 0.35, -0.45)
    return shader.blend(shader.math("MULTIPLY", damp, 0.7 * dirt), colour, (0.36, 0.32, 0.27), "MULTIPLY")


def plaster(name: str, colour: Colour, dirt: float = 1.0) -> Any:
    """Hand-trowelled plaster."""
    shader = Shader(name)
    shade = shader.between(shader.noise(0.5, 3.0), 0.35, 0.65)
    base = shader.blend(shade, scaled(colour, 0.86), scaled(colour, 1.06))
    shader.set(Base_Color=weather(shader, base, dirt), Roughness=0.85)
    shader.rough(shader.math("ADD", shader.noise(5.0, 8.0), shader.noise(40.0, 2.0)), 0.012)
    return shader.material


def stone(name: str, colour: Colour, dirt: float = 0.6) -> Any:
    """Cut limestone: fine grain, soft veins, small pits."""
    shader = Shader(name)
    veins = shader.between(shader.noise(2.2, 8.0, distortion=1.2), 0.35, 0.65)
    base = shader.blend(veins, scaled(colour, 0.78), colour)
    pits = shader.node("TexVoronoi", {"Scale": 55.0, "Vector": shader.where()}).outputs["Distance"]
    shader.set(Base_Color=weather(shader, base, dirt), Roughness=0.7)
    shader.rough(shader.math("ADD", shader.noise(14.0, 6.0), shader.between(pits, 0.05, 0.3)), 0.008)
    return shader.material


def masonry(
    name: str, colours: tuple[Colour, Colour], joint: Colour, size: tuple[float, float], *, lying: bool = False,
    wild: float = 0.02, dirt: float = 0.6, depth: float = 0.02, roughness: float = 0.85, offset: float = 0.5,
) -> Any:  # fmt: skip
    """Courses of stones or bricks of `size` metres on a wall, or of slabs on the floor when `lying`."""
    shader = Shader(name)
    flat = shader.where(turn=(90, 0, 0) if lying else (0, 0, 0))
    bend = shader.node("TexNoise", {"Scale": 3.0, "Detail": 3.0, "Vector": flat}).outputs["Color"]
    centred = shader.node("VectorMath", {0: bend, 1: (0.5, 0.5, 0.5)}, operation="SUBTRACT").outputs[0]
    crooked = shader.node("VectorMath", {0: centred, "Scale": wild * 4}, operation="SCALE").outputs[0]
    place = shader.node("VectorMath", {0: flat, 1: crooked}, operation="ADD").outputs[0]
    bricks = shader.node(
        "TexBrick",
        {
            "Vector": place, "Color1": colours[0], "Color2": colours[1], "Mortar": joint, "Scale": 1.0,
            "Mortar Size": 0.008 if lying else 0.014, "Mortar Smooth": 0.25,
            "Brick Width": size[0], "Row Height": size[1],
        },
        offset=offset,
    )  # fmt: skip
    tint = shader.between(shader.noise(1.3, 6.0), 0.3, 0.7)
    base = shader.blend(tint, shader.blend(0.35, bricks.outputs["Color"], (0.3, 0.25, 0.2)), bricks.outputs["Color"])
    shader.set(Base_Color=weather(shader, base, dirt), Roughness=roughness)
    face = shader.math("SUBTRACT", 1.0, bricks.outputs["Fac"])
    shader.rough(shader.math("ADD", face, shader.math("MULTIPLY", shader.noise(9.0, 8.0), 0.7)), depth)
    return shader.material


def glazed_tiles(name: str, side: float) -> Any:
    """Painted wall tiles, blue and ochre on white, `side` metres square."""
    shader = Shader(name)
    place = shader.where((1 / side, 1 / side, 0))
    cell = shader.node("VectorMath", {0: place}, operation="FRACTION").outputs[0]
    centred = shader.node("VectorMath", {0: cell, 1: (0.5, 0.5, 0)}, operation="SUBTRACT").outputs[0]
    parts = shader.node("SeparateXYZ", {0: centred})
    x, y = (shader.math("ABSOLUTE", parts.outputs[axis]) for axis in (0, 1))
    star = shader.math("ADD", shader.math("MAXIMUM", x, y), shader.math("MULTIPLY", shader.math("MINIMUM", x, y), -0.7))
    ring = shader.math("SQRT", shader.math("ADD", shader.math("MULTIPLY", x, x), shader.math("MULTIPLY", y, y)))
    white, blue, ochre = (0.78, 0.77, 0.7), (0.02, 0.07, 0.3), (0.62, 0.3, 0.05)
    stops = [(0.0, ochre), (0.075, white), (0.11, blue), (0.25, white), (0.3, blue), (0.33, white)]
    petals = shader.ramp(star, stops, steps=True)
    corners = shader.ramp(ring, [(0.0, (1, 1, 1)), (0.52, (0.04, 0.13, 0.5)), (0.62, (0.9, 0.5, 0.1))], steps=True)
    base = shader.blend(1.0, petals, corners, "MULTIPLY")
    edge = shader.between(shader.math("MAXIMUM", x, y), 0.475, 0.495)
    shader.set(Base_Color=shader.blend(edge, base, (0.35, 0.32, 0.27)), Roughness=0.22)
    shader.rough(shader.math("SUBTRACT", shader.noise(2.5, 2.0), edge), 0.004)
    return shader.material


def wood(name: str, colour: Colour, *, upright: bool = True, roughness: float = 0.6) -> Any:
    """Planks or painted joinery: grain along the height, or along the width when not `upright`."""
    shader = Shader(name)
    place = shader.where((14, 0.7, 14) if upright else (0.7, 14, 14))
    grain = shader.between(shader.noise(1.6, 8.0, place, 0.4), 0.3, 0.7)
    island = shader.node("NewGeometry").outputs["Random Per Island"]
    base = shader.blend(grain, scaled(colour, 0.55), scaled(colour, 1.15))
    base = shader.blend(shader.math("MULTIPLY", island, 0.5), base, scaled(colour, 0.6))
    shader.set(Base_Color=base, Roughness=roughness)
    shader.rough(grain, 0.004)
    return shader.material


def clay(name: str, colours: Sequence[Colour]) -> Any:
    """Fired clay: every tile or pot of a mesh has a shade of its own."""
    shader = Shader(name)
    stops = [(index / max(len(colours) - 1, 1), colour) for index, colour in enumerate(colours)]
    base = shader.ramp(shader.node("NewGeometry").outputs["Random Per Island"], stops)
    spots = shader.between(shader.noise(7.0, 8.0), 0.42, 0.7)
    shader.set(Base_Color=shader.blend(spots, base, (0.3, 0.22, 0.16)), Roughness=0.8)
    shader.rough(shader.noise(30.0, 6.0), 0.004)
    return shader.material


def leaf(name: str, colours: Sequence[Colour]) -> Any:
    """Leaves and petals: each has a shade of its own and lets light through."""
    shader = Shader(name)
    stops = [(index / max(len(colours) - 1, 1), colour) for index, colour in enumerate(colours)]
    base = shader.ramp(shader.node("NewGeometry").outputs["Random Per Island"], stops)
    shader.set(Base_Color=base, Roughness=0.5)
    through = shader.node("BsdfTranslucent", {"Color": base})
    mix = shader.node("MixShader", {0: 0.35, 1: shader.surface.outputs[0], 2: through.outputs[0]})
    shader.plug(shader.tree.nodes["Material Output"].inputs["Surface"], mix.outputs[0])
    return shader.material


def plain(
    name: str, colour: Colour, *, roughness: float = 0.6, metallic: float = 0.0, glow: float = 0.0, grain: float = 0.0
) -> Any:
    """One colour: metal, glass, cloth, skin, lamps (`glow` in units of the sky's brightness)."""
    shader = Shader(name)
    shader.set(Base_Color=colour, Roughness=roughness, Metallic=metallic)
    if glow:
        shader.set(Emission_Color=colour, Emission_Strength=glow)
    if grain:
        shader.rough(shader.noise(90.0, 3.0), grain)
    return shader.material
