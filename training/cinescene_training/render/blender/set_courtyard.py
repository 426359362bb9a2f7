"""The scripted set: the courtyard of an old southern house, late in a summer afternoon.

14 metres wide and 13 deep. The start camera stands at eye height behind the middle and looks at the arcade; the
mark, a rose of inlaid stone, is where the subject performs. Each side is a stage of its own (`set_shapes.stage`):
u to the right, v up, w out of the wall into the court.
"""

import math
from typing import Any

import bpy
import numpy as np

from .set_garden import back, beyond, left, lemon_trees
from .set_parts import HALF_DEPTH, HALF_WIDTH, Palette, lantern, pot, tiled_roof, window
from .set_shapes import Workshop, arch, archivolt, rectangle, sagging, stage
from .set_sky import build_sky, expose
from .set_subject import FPS, TAKE_SECONDS, build_subject, draw_costume

EYE = (0.0, -2.2, 1.6)
"""Where the camera stands, in Blender's axes."""
MARK = (0.0, 1.8, 0.0)
"""Where the subject performs, in Blender's axes."""
PLACE_CAPTION = "a sunlit courtyard with an arcade, a stair on a rose-coloured wall and a pergola in bloom"


def front(shop: Workshop, paint: Palette) -> None:
    """The arcade, the lit loggia behind it, and the upper floor under a tiled eave."""
    centres = (-5.2, -2.6, 0.0, 2.6, 5.2)
    spring, width = 2.25, 2.16
    outline = [(-HALF_WIDTH, 3.9), (-HALF_WIDTH, spring)]
    for centre in centres:
        outline += [(centre + dx, dy) for dx, dy in reversed(arch(0.0, width, spring, spring)[2:])]
        shop.panel(archivolt(centre, width, spring, 0.2), paint.limestone, front=0.05, thickness=0.55, bevel=0.012)
    shop.panel([*outline, (HALF_WIDTH, spring), (HALF_WIDTH, 3.9)][::-1], paint.cream, thickness=0.45)
    for u in (-6.5, -3.9, -1.3, 1.3, 3.9, 6.5):
        base = [(0.3, 0), (0.3, 0.1), (0.24, 0.16), (0.27, 0.22), (0.2, 0.3), (0.21, 1.2), (0.18, 1.98)]
        head = [(0.22, 2.0), (0.19, 2.05), (0.3, 2.16), (0.3, 2.17)]
        shop.lathe(base + head, (u, 0, -0.22), paint.limestone)
        shop.box((u - 0.33, 2.15, -0.53), (u + 0.33, 2.27, 0.09), paint.limestone, bevel=0.025)
        shop.box((u - 0.34, 0, -0.56), (u + 0.34, 0.12, 0.12), paint.limestone, bevel=0.02)
    loggia(shop, paint, centres)
    windows = [arch(u, 1.05, 4.55, 5.75, rise=0.45) for u in centres]
    shop.panel(rectangle(-HALF_WIDTH, HALF_WIDTH, 3.9, 6.9), paint.cream, holes=windows, thickness=0.4)
    for u in centres:
        window(shop, paint, u, 4.55, 1.05, 1.5, paint.teal, back=-0.25)
        shop.panel(archivolt(u, 1.05, 5.75, 0.12, rise=0.45), paint.limestone, front=0.06, thickness=0.1)
        if u:
            shop.box((u - 0.55, 4.2, 0.06), (u + 0.55, 4.42, 0.32), paint.terracotta)
            crown = (u, 4.5, 0.22)
            shop.leaves(shop.cloud(crown, (0.6, 0.22, 0.2), 300, shell=0.1), 0.1, paint.green, hang=0.5)
            shop.leaves(shop.cloud(crown, (0.62, 0.24, 0.22), 170, shell=0.8), 0.07, paint.red)
    balcony(shop, paint)
    shop.box((-HALF_WIDTH, 3.78, -0.1), (HALF_WIDTH, 3.96, 0.16), paint.limestone, bevel=0.04)
    shop.box((-HALF_WIDTH, 6.68, -0.1), (HALF_WIDTH, 6.9, 0.26), paint.limestone, bevel=0.06)
    for u in np.arange(-6.8, 6.9, 0.4).tolist():
        shop.box((u - 0.05, 6.9, -0.4), (u + 0.05, 7.02, 0.62), paint.beams)
    tiled_roof(shop, paint, -HALF_WIDTH - 0.2, HALF_WIDTH + 0.2, 7.08, 0.75, 9, 0.36)


def loggia(shop: Workshop, paint: Palette, centres: tuple[float, ...]) -> None:
    """What stands in the arcade's shade: an ochre wall with a door, windows and lanterns."""
    shop.box((-HALF_WIDTH, 3.6, -3.2), (HALF_WIDTH, 3.8, -0.4), paint.cream)
    for u in np.arange(-6.6, 6.7, 0.66).tolist():
        shop.box((u - 0.07, 3.44, -3.2), (u + 0.07, 3.62, -0.45), paint.beams)
    shop.panel(rectangle(-HALF_WIDTH, HALF_WIDTH, 0, 3.6), paint.ochre, front=-3.0, thickness=0.2)
    for edge in (-HALF_WIDTH - 0.3, HALF_WIDTH):
        shop.box((edge, 0, -3.2), (edge + 0.3, 6.9, 0.0), paint.cream, bevel=0)
    shop.box((-HALF_WIDTH, 0, -3.0), (HALF_WIDTH, 0.9, -2.96), paint.tiles, bevel=0)
    shop.box((-HALF_WIDTH, 0.9, -3.0), (HALF_WIDTH, 0.97, -2.93), paint.limestone)
    shop.panel(arch(0, 1.9, 0, 2.1), paint.limestone, front=-2.9, thickness=0.1, bevel=0.02)
    shop.panel(arch(0, 1.6, 0, 2.1), paint.teal, front=-2.86, thickness=0.1, bevel=0.01)
    for side in (-1, 1):
        for v in (0.25, 1.15):
            a, b = sorted((side * 0.12, side * 0.68))
            shop.box((a, v, -2.9), (b, v + 0.75, -2.83), paint.teal, bevel=0.03)
        shop.lathe([(0.001, -0.05), (0.05, 0.0), (0.001, 0.05)], (side * 0.06, 1.05, -2.8), paint.lamp, segments=12)
    for u in (-5.2, -2.6, 2.6, 5.2):
        shop.box((u - 0.7, 1.2, -2.99), (u + 0.7, 2.7, -2.9), paint.limestone, bevel=0.02)
        shop.box((u - 0.58, 1.32, -2.9), (u + 0.58, 2.58, -2.88), paint.glass, bevel=0)
        for bar in np.linspace(-0.5, 0.5, 7).tolist():
            shop.tube([(u + bar, 1.25, -2.8), (u + bar, 2.65, -2.8)], 0.014, paint.iron, sides=6)
    for u in centres:
        lantern(shop, paint, (u, 2.75, -1.5), 3.5)
    for u in (-3.9, 3.9):
        pot(shop, paint, u, -2.4, 0.62, paint.red)


def balcony(shop: Workshop, paint: Palette) -> None:
    """A small balcony before the middle window."""
    shop.box((-1.15, 4.22, 0), (1.15, 4.36, 0.75), paint.limestone, bevel=0.03)
    shop.tube([(-1.1, 5.3, 0.05), (-1.1, 5.3, 0.7), (1.1, 5.3, 0.7), (1.1, 5.3, 0.05)], 0.025, paint.iron)
    for u in np.linspace(-1.1, 1.1, 15).tolist():
        shop.tube([(u, 4.36, 0.7), (u, 5.3, 0.7)], 0.011, paint.iron, sides=6)
    for w in (0.1, 0.3, 0.5):
        for u in (-1.1, 1.1):
            shop.tube([(u, 4.36, w), (u, 5.3, w)], 0.011, paint.iron, sides=6)


def right(shop: Workshop, paint: Palette) -> None:
    """The rose wall: a stair that climbs to a door, a dark store below its landing, a window, flowers."""
    store = arch(-4.4, 1.7, 0, 1.35, rise=0.8)
    openings = [rectangle(2.4, 3.5, 3.1, 4.5), rectangle(-4.9, -3.9, 3.06, 5.1)]
    shop.panel(rectangle(-HALF_DEPTH, HALF_DEPTH, 0, 5.9), paint.rose, holes=openings, thickness=0.5)
    window(shop, paint, 2.95, 3.1, 1.1, 1.4, paint.blue, back=-0.3)
    shop.box((-4.9, 3.06, -0.3), (-3.9, 5.1, -0.22), paint.oak)
    shop.box((-5.05, 3.06, -0.05), (-4.9, 5.25, 0.07), paint.limestone)
    shop.box((-3.9, 3.06, -0.05), (-3.75, 5.25, 0.07), paint.limestone)
    shop.box((-5.05, 5.1, -0.05), (-3.75, 5.25, 0.09), paint.limestone)
    shop.box((-HALF_DEPTH, 5.85, -0.55), (HALF_DEPTH, 6.0, 0.14), paint.limestone, bevel=0.03)
    steps, first, run, rise, deep = 17, 3.0, 0.34, 0.18, 1.35
    side = [(first, 0.0)]
    for step in range(steps):
        a, v = first - step * run, (step + 1) * rise
        shop.box((a - run - 0.02, v - 0.05, 0), (a + 0.03, v, deep + 0.05), paint.pale, bevel=0.012)
        side += [(a, v - 0.05), (a - run, v - 0.05)]
    landing = first - steps * run  # -2.78
    top = steps * rise
    side += [(landing, top - 0.05), (-5.9, top - 0.05), (-5.9, 0)]
    shop.panel(side[::-1], paint.white, holes=[store], front=deep, thickness=0.25)
    shop.box((-5.9, 0, 0), (-5.7, top - 0.05, deep - 0.25), paint.white)
    shop.box((-5.95, top - 0.08, 0), (landing + 0.02, top, deep + 0.06), paint.pale)
    shop.panel(archivolt(-4.4, 1.7, 1.35, 0.14, rise=0.8), paint.limestone, front=deep + 0.03, thickness=0.1)
    for u in (-4.75, -4.05):
        barrel = [(0.24, 0), (0.31, 0.25), (0.32, 0.42), (0.31, 0.6), (0.24, 0.86), (0.22, 0.85)]
        shop.lathe(barrel, (u, 0, 0.75), paint.oak)
    rail(shop, paint, first, landing, steps * rise, deep - 0.08)
    for step in (2, 6, 10, 14):
        u, v = first - (step + 0.5) * run, (step + 1) * rise
        pot(shop, paint, u, 0.28, 0.36, (paint.red, paint.pink, None, paint.red)[step // 4], v)
    pot(shop, paint, 3.6, 0.6, 0.75, paint.pink)
    pot(shop, paint, 4.6, 0.7, 0.9)
    shop.box((4.9, 0.42, 0.5), (6.3, 0.48, 0.95), paint.beams)
    for u in (5.05, 6.1):
        shop.box((u, 0, 0.55), (u + 0.1, 0.42, 0.9), paint.limestone)
    for u, v, radius in ((6.0, 5.4, 0.9), (5.3, 5.7, 0.7), (6.2, 4.4, 0.7), (1.4, 5.9, 0.5), (0.6, 5.9, 0.6)):
        shop.leaves(shop.cloud((u, v, 0.1), (radius, radius, 0.22), 1300, shell=0.0), 0.13, paint.green, hang=0.7)
        shop.leaves(shop.cloud((u, v, 0.16), (radius, radius, 0.24), 500, shell=0.3), 0.08, paint.pink, hang=0.5)
    shop.box((-0.3, 3.5, 0), (-0.22, 3.58, 0.4), paint.iron)
    lantern(shop, paint, (-0.26, 3.15, 0.36), 3.55)


def rail(shop: Workshop, paint: Palette, first: float, landing: float, top: float, w: float) -> None:
    """The stair's iron rail."""
    shop.tube([(first - 0.1, 0.95, w), (landing, top + 0.95, w), (-5.85, top + 0.95, w)], 0.024, paint.iron)
    for s in np.linspace(0, 1, 24).tolist():
        u, v = first - 0.1 + (landing - first + 0.1) * s, top * s
        shop.tube([(u, v + 0.05, w), (u, v + 0.95, w)], 0.011, paint.iron, sides=6)
    for u in np.linspace(landing - 0.2, -5.85, 13).tolist():
        shop.tube([(u, top, w), (u, top + 0.95, w)], 0.011, paint.iron, sides=6)


def floor_and_rose(shop: Workshop, paint: Palette) -> None:
    """Slabs, and an eight-pointed rose of inlaid stone around the mark."""
    shop.box((-9, -0.3, -11), (9, 0, 9), paint.floor, bevel=0)
    u, w = MARK[0], -MARK[1]
    for radius, material, height in (
        (2.45, paint.limestone, 0.003), (2.28, paint.slate, 0.005), (2.0, paint.pale, 0.007), (0.42, paint.slate, 0.018)
    ):  # fmt: skip
        shop.lathe([(radius, 0.0), (radius, height)], (u, 0, w), material, segments=96, smooth=False)
    for points, reach, material, height in (
        (8, 1.35, paint.slate, 0.010), (4, 1.9, paint.red_stone, 0.013)
    ):  # fmt: skip
        star = []
        for k in range(2 * points):
            angle = k * math.pi / points + (math.pi / 8 if points == 8 else 0)
            radius = reach if k % 2 == 0 else reach * (0.55 if points == 8 else 0.28)
            star.append((u + radius * math.sin(angle), height, w + radius * math.cos(angle)))
        shop.mesh("star", star, [range(2 * points)], material)


def lights_above(shop: Workshop, paint: Palette) -> None:
    """Strings of bulbs across the court."""
    for start, end in (((-5.5, 6.6, -6.2), (6.8, 5.7, 4.2)), ((5.5, 6.6, -6.2), (-6.9, 4.3, 3.4))):
        rope = sagging(start, end, 0.9, 40)
        shop.tube(rope, 0.011, paint.iron, sides=5)
        for u, v, w in rope[2:-1:3]:
            shop.lathe([(0.012, 0.0), (0.018, -0.07), (0.02, -0.07)], (u, v, w), paint.iron, segments=8)
            bulb = [(0.005, -0.2), (0.04, -0.17), (0.05, -0.13), (0.02, -0.07)]
            shop.lathe(bulb, (u, v, w), paint.lamp, segments=12)


def build_place(collection: Any, rng: np.random.Generator) -> None:
    """Everything that stands still, into a collection of the current file."""
    paint = Palette()
    front(Workshop(collection, stage(0, HALF_DEPTH), rng), paint)
    right(Workshop(collection, stage(HALF_WIDTH, 0, -90), rng), paint)
    left(Workshop(collection, stage(-HALF_WIDTH, 0, 90), rng), paint)
    back(Workshop(collection, stage(0, -HALF_DEPTH, 180), rng), paint)
    middle = Workshop(collection, stage(0, 0), rng)
    floor_and_rose(middle, paint)
    lights_above(middle, paint)
    lemon_trees(middle, paint)
    beyond(middle, paint)
    bpy.context.view_layer.update()


def build_courtyard(seed: int, angle_degrees: float | None = None) -> None:
    """Build the set, its subject, its light and its camera into an empty file.

    The place is always the same. The seed decides who performs, what they do, and from where they are seen: the camera
    stands 4 metres before the mark, within 45 degrees of the way the subject faces (paper, supplement A).

    Args:
        seed: any number from 0.
        angle_degrees: the camera's angle instead of the seed's own; 0 looks straight at the arcade.
    """
    rng = np.random.default_rng(seed)
    costume = draw_costume(rng)
    drawn = float(rng.uniform(-45, 45))
    angle = math.radians(drawn if angle_degrees is None else angle_degrees)
    scene = bpy.context.scene
    place, subject = (bpy.data.collections.new(name) for name in ("Set", "Subject"))
    for collection in (place, subject):
        scene.collection.children.link(collection)
    build_place(place, np.random.default_rng(1))
    build_sky(place)
    expose()
    build_subject(subject, costume, MARK, 0.0)
    distance = MARK[1] - EYE[1]
    eye = (MARK[0] - distance * math.sin(angle), MARK[1] - distance * math.cos(angle), EYE[2])
    empties = {"subject_start": MARK, "camera_start": eye}
    for name, where in empties.items():
        empty = bpy.data.objects.new(name, None)
        empty.location = where
        place.objects.link(empty)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.parent = bpy.data.objects["camera_start"]
    camera.rotation_euler = (math.pi / 2, 0, -angle)
    camera.data.angle = math.pi / 2
    place.objects.link(camera)
    scene.camera = camera
    scene.render.fps, scene.render.fps_base = FPS, 1.0
    scene.frame_start, scene.frame_end = 1, 1 + round(TAKE_SECONDS * FPS)
    scene["caption_action_only"] = costume.caption
    scene["caption"] = f"{costume.caption} in {PLACE_CAPTION}"
    bpy.context.view_layer.update()
