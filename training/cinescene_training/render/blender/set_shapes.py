"""Simple bodies for the scripted set.

Everything is given in the coordinates of a stage: u to the right, v up, w towards the person who looks at it,
in metres. A `Workshop` stands somewhere in Blender's world and builds there.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix, Vector
from mathutils.geometry import tessellate_polygon

Point = tuple[float, float, float]
Outline = list[tuple[float, float]]


def stage(x: float, y: float, facing_degrees: float = 0.0) -> Matrix:
    """Where a stage stands in Blender's world.

    At 0 degrees a person who looks along Blender's +y sees it from the front; positive angles turn the stage to
    the left as seen from above, so that 90 is for the wall on that person's left.
    """
    return (
        Matrix.Translation((x, y, 0)) @ Matrix.Rotation(math.radians(facing_degrees), 4, "Z")
        @ Matrix.Rotation(math.pi / 2, 4, "X")
    )  # fmt: skip


class Workshop:
    """Builds meshes into one collection, on one stage."""

    def __init__(self, collection: Any, frame: Matrix, rng: np.random.Generator) -> None:
        self.collection = collection
        self.frame = frame
        self.rng = rng

    def mesh(
        self, name: str, vertices: Any, faces: Iterable[Sequence[int]], material: Any, *, smooth: bool = False,
        bevel: float = 0.0,
    ) -> Any:  # fmt: skip
        """An object from vertices [n, 3] and faces."""
        data = bpy.data.meshes.new(name)
        data.from_pydata([tuple(map(float, vertex)) for vertex in vertices], [], [list(face) for face in faces])
        data.materials.append(material)
        if smooth:
            data.shade_smooth()
        data.update()
        thing = bpy.data.objects.new(name, data)
        thing.matrix_world = self.frame
        self.collection.objects.link(thing)
        if bevel:
            edge = thing.modifiers.new("edges", "BEVEL")
            edge.width, edge.segments, edge.limit_method = bevel, 2, "ANGLE"
        return thing

    def box(self, low: Point, high: Point, material: Any, *, bevel: float = 0.012, turn: float = 0.0) -> Any:
        """A box between two corners, turned about its upright axis by degrees."""
        (a, b, c), (d, e, f) = low, high
        corners = np.array([(x, y, z) for x in (a, d) for y in (b, e) for z in (c, f)])
        faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        if turn:
            middle = corners.mean(0)
            sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
            about = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
            corners = (corners - middle) @ about.T + middle
        return self.mesh("box", corners, faces, material, bevel=bevel)

    def lathe(self, profile: Outline, foot: Point, material: Any, *, segments: int = 40, smooth: bool = True) -> Any:
        """A body of revolution about the upright axis: (radius, height) pairs from the bottom up."""
        angles = np.arange(segments) / segments * math.tau
        rings = [
            np.stack([radius * np.cos(angles), np.full(segments, height), radius * np.sin(angles)], 1) + foot
            for radius, height in profile
        ]
        faces: list[Sequence[int]] = []
        for ring in range(len(profile) - 1):
            for k in range(segments):
                a, b = ring * segments + k, ring * segments + (k + 1) % segments
                faces.append((a, a + segments, b + segments, b))
        faces += [range(segments), range(len(profile) * segments - 1, (len(profile) - 1) * segments - 1, -1)]
        thing = self.mesh("turned", np.concatenate(rings), faces, material, smooth=smooth)
        if smooth:
            thing.data.set_sharp_from_angle(angle=math.radians(40))
        return thing

    def panel(
        self, outline: Outline, material: Any, *, holes: Sequence[Outline] = (), front: float = 0.0,
        thickness: float = 0.1, bevel: float = 0.0,
    ) -> Any:  # fmt: skip
        """A flat body with holes: `outline` in (u, v), its face at w = `front`, its back `thickness` behind."""
        loops = [outline, *holes]
        flat = [point for loop in loops for point in loop]
        triangles = tessellate_polygon([[Vector((u, v, 0)) for u, v in loop] for loop in loops])
        count = len(flat)
        vertices = [(u, v, front) for u, v in flat] + [(u, v, front - thickness) for u, v in flat]
        faces: list[Sequence[int]] = []
        for a, b, c in triangles:
            (ax, ay), (bx, by), (cx, cy) = flat[a], flat[b], flat[c]
            turn = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            near = (a, b, c) if turn > 0 else (a, c, b)
            faces += [near, tuple(index + count for index in reversed(near))]
        first = 0
        for number, loop in enumerate(loops):
            area = sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(loop, loop[1:] + loop[:1], strict=True))
            for k in range(len(loop)):
                a, b = first + k, first + (k + 1) % len(loop)
                side = (a, a + count, b + count, b)
                faces.append(side if (area > 0) == (number == 0) else side[::-1])
            first += len(loop)
        return self.mesh("panel", vertices, faces, material, bevel=bevel)

    def tube(self, path: Sequence[Point], radius: float | Sequence[float], material: Any, *, sides: int = 10) -> Any:
        """A round bar along a path, of one radius or one for each point."""
        points = np.array(path, dtype=float)
        radii = np.broadcast_to(np.asarray(radius, dtype=float), len(points))
        tangents = np.gradient(points, axis=0)
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        helper = np.array([0.0, 0.0, 1.0]) if abs(tangents[:, 2]).max() < 0.9 else np.array([1.0, 0.0, 0.0])
        across = np.cross(tangents, helper)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        upward = np.cross(across, tangents)
        angles = np.arange(sides) / sides * math.tau
        ring = across[:, None] * np.cos(angles)[:, None] + upward[:, None] * np.sin(angles)[:, None]
        vertices = (points[:, None] + ring * radii[:, None, None]).reshape(-1, 3)
        faces: list[Sequence[int]] = [
            (p * sides + k, p * sides + (k + 1) % sides, (p + 1) * sides + (k + 1) % sides, (p + 1) * sides + k)
            for p in range(len(points) - 1)
            for k in range(sides)
        ]
        faces += [range(sides), range(len(vertices) - 1, len(vertices) - sides - 1, -1)]
        return self.mesh("tube", vertices, faces, material, smooth=True)

    def leaves(self, centres: Any, size: float, material: Any, *, hang: float = 0.0) -> Any:
        """Folded leaves at [n, 3] centres, turned at random; `hang` (0..1) pulls their tips down."""
        centres = np.asarray(centres, dtype=float)
        count = len(centres)
        along = self.rng.normal(size=(count, 3)) + np.array([0.0, -3.0 * hang, 0.0])
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        across = np.cross(along, self.rng.normal(size=(count, 3)))
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        above = np.cross(across, along)
        length = size * self.rng.uniform(0.7, 1.3, (count, 1))
        corners = np.stack(
            [
                centres - along * length / 2,
                centres + across * length * 0.3 + above * length * 0.12,
                centres + along * length / 2,
                centres - across * length * 0.3 + above * length * 0.12,
            ],
            axis=1,
        )
        first = np.arange(count)[:, None] * 4
        faces = np.concatenate([first + np.array(corner) for corner in ((0, 1, 2), (0, 2, 3))]).tolist()
        return self.mesh("leaves", corners.reshape(-1, 3), faces, material)

    def cloud(self, centre: Point, radii: Point, count: int, *, shell: float = 0.5) -> Any:
        """Points [count, 3] in an ellipsoid, none nearer to its middle than `shell` of its radius."""
        ways = self.rng.normal(size=(count, 3))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        out = self.rng.uniform(shell**3, 1.0, (count, 1)) ** (1 / 3)
        return np.array(centre) + ways * out * np.array(radii)


def rectangle(left: float, right: float, bottom: float, top: float) -> Outline:
    """Corners of a rectangle, counter-clockwise."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def arch(middle: float, width: float, bottom: float, spring: float, *, rise: float = 1.0, steps: int = 28) -> Outline:
    """An opening with a round head: upright up to `spring`, then an arc `rise` times as high as a half circle."""
    half = width / 2
    head = [
        (middle + half * math.cos(angle), spring + rise * half * math.sin(angle))
        for angle in np.linspace(0, math.pi, steps).tolist()
    ]
    return [(middle - half, bottom), (middle + half, bottom), *head]


def archivolt(
    middle: float, width: float, spring: float, ring: float, *, rise: float = 1.0, steps: int = 28
) -> Outline:
    """The band around an arch's head, `ring` metres wide."""
    angles = np.linspace(0, math.pi, steps).tolist()
    inner, outer = width / 2, width / 2 + ring
    over = [(middle + outer * math.cos(a), spring + (rise * inner + ring) * math.sin(a)) for a in angles]
    under = [(middle + inner * math.cos(a), spring + rise * inner * math.sin(a)) for a in reversed(angles)]
    return over + under


def sagging(start: Point, end: Point, sag: float, count: int = 24) -> list[Point]:
    """Points of a rope between two hooks, `sag` metres lower in its middle."""
    return [
        (
            start[0] + (end[0] - start[0]) * s,
            start[1] + (end[1] - start[1]) * s - 4 * sag * s * (1 - s),
            start[2] + (end[2] - start[2]) * s,
        )
        for s in np.linspace(0, 1, count).tolist()
    ]
