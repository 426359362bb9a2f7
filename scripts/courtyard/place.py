"""Where everything stands. Each function builds one side of the courtyard, in groups that stand together."""

import math

import torch

from .solids import Group, Solid, ball, box, tube, wall


def front() -> list[Group]:
    """The white house: door, windows with green shutters, a balcony, a tiled eave."""
    z = 6.0
    low, high = [(-3.9, -2.7, 1.1, 2.6), (2.7, 3.9, 1.1, 2.6)], [(-3.9, -2.7, 3.7, 5.1), (2.7, 3.9, 3.7, 5.1)]
    door, french = (-0.95, 0.95, 0.0, 2.9), (-0.95, 0.95, 3.65, 5.4)
    groups = [Group(wall("x", z, 0.5, (-5.6, 5.2), 6.1, "white stucco", [*low, *high, door, french]))]
    panes = [box((a, b), (y0, y1), (z + 0.22, z + 0.3), "glass") for a, b, y0, y1 in [*low, *high, french]]
    groups.append(Group([*panes, box((-0.95, 0.95), (0, 2.9), (z + 0.25, z + 0.35), "door")]))
    trim = []
    for a, b, y0, y1 in [*low, *high]:
        trim += [box((a - 0.62, a - 0.06), (y0, y1), (z - 0.07, z), "shutter", tint=(52, 104, 84))]
        trim += [box((b + 0.06, b + 0.62), (y0, y1), (z - 0.07, z), "shutter", tint=(52, 104, 84))]
        trim += [box((a - 0.1, b + 0.1), (y0 - 0.12, y0), (z - 0.14, z + 0.1), "limestone")]
    groups.append(Group(trim))
    frame = [box((s * 1.22 - 0.22, s * 1.22 + 0.22), (0, 3.0), (z - 0.16, z), "limestone") for s in (-1, 1)]
    frame += [
        box((-1.6, 1.6), (3.0, 3.28), (z - 0.26, z), "limestone"),
        box((-1.5, 1.5), (0, 0.14), (5.2, z), "limestone"),
    ]
    frame += [box((-1.2, 1.2), (0.14, 0.28), (5.55, z), "limestone")]
    groups.append(Group(frame))
    rail = [
        box((-1.7, 1.7), (3.42, 3.58), (5.05, z), "limestone"),
        box((-1.66, 1.66), (4.48, 4.54), (5.07, 5.12), "iron"),
    ]
    rail += [tube(x, 5.1, 0.018, (3.58, 4.5), "iron") for x in torch.linspace(-1.62, 1.62, 19).tolist()]
    blooms = (-1.35, 0.0, (214, 60, 92)), (-0.95, -0.08, (226, 84, 120)), (1.05, 0.02, (224, 70, 100))
    for x, h, tint in (*blooms, (1.4, -0.06, (236, 120, 150))):
        rail.append(ball(x, 4.05 + h, 5.0, 0.2, "flowers", cut="leaves", tint=tint))
    groups.append(Group(rail))
    groups.append(Group([Solid("box", (-0.2, 6.32, 5.85), (5.5, 0.09, 0.75), "roof tiles", pitch=14)]))
    pots = []
    for x in (-2.05, 2.05):
        pots += [tube(x, 5.25, 0.30, (0, 0.55), "terracotta"), tube(x, 5.25, 0.35, (0.5, 0.62), "terracotta")]
        pots += [
            tube(x, 5.25, 0.045, (0.6, 1.3), "bark"),
            ball(x, 1.62, 5.25, 0.46, "leaf", cut="leaves", tint=(70, 112, 52)),
        ]
        pots += [ball(x, 2.2, 5.25, 0.27, "leaf", cut="leaves", tint=(82, 124, 58))]
    groups.append(Group(pots))
    groups.append(
        Group([box((s * 1.95 - 0.09, s * 1.95 + 0.09), (2.62, 2.95), (5.72, 5.9), "lantern") for s in (-1, 1)])
    )
    return groups


def right() -> list[Group]:
    """The brick wall: two windows with blue shutters and striped awnings, a bench, barrels and crates."""
    x = 5.2
    openings = [(-2.6, -1.2, 1.0, 2.5), (1.2, 2.6, 1.0, 2.5)]
    groups = [Group(wall("z", x, 0.5, (-7.8, 6.5), 4.5, "brick", openings))]
    groups.append(Group([box((x - 0.12, x + 0.6), (4.5, 4.66), (-7.8, 6.5), "limestone")]))
    parts = []
    for (a, b, y0, y1), tint in zip(openings, ((232, 176, 52), (200, 52, 48)), strict=True):
        parts += [box((x + 0.2, x + 0.28), (y0, y1), (a, b), "glass")]
        parts += [box((x - 0.06, x), (y0, y1), (a - 0.7, a - 0.06), "shutter", tint=(58, 96, 158))]
        parts += [box((x - 0.06, x), (y0, y1), (b + 0.06, b + 0.7), "shutter", tint=(58, 96, 158))]
        parts += [box((x - 0.16, x), (y0 - 0.1, y0), (a - 0.1, b + 0.1), "limestone")]
        parts += [Solid("box", (x - 0.5, 2.82, (a + b) / 2), (1.0, 0.02, 0.62), "awning", yaw=90, pitch=28, tint=tint)]
    groups.append(Group(parts))
    bench = [box((4.55, 5.0), (0.42, 0.48), (-2.9, -0.9), "wood"), box((4.96, 5.02), (0.6, 0.95), (-2.9, -0.9), "wood")]
    bench += [box((4.6, 4.95), (0, 0.42), (z, z + 0.1), "iron") for z in (-2.75, -1.15)]
    groups.append(Group(bench))
    stack = [tube(4.45, 3.6, 0.36, (0, 0.95), "barrel"), tube(4.6, 4.5, 0.36, (0, 0.95), "barrel")]
    stack += [Solid("box", (3.75, 0.33, 4.7), (0.33, 0.33, 0.33), "crate", yaw=18)]
    stack += [Solid("box", (3.8, 0.9, 4.72), (0.25, 0.25, 0.25), "crate", yaw=-12)]
    groups.append(Group(stack))
    ivy = [
        (4.98, 4.2, 5.6, 0.7),
        (4.95, 3.6, 5.75, 0.5),
        (5.0, 4.4, 4.8, 0.5),
        (4.98, 4.3, -4.0, 0.5),
        (5.0, 4.5, -3.4, 0.35),
    ]
    groups.append(Group([ball(a, b, c, (0.3, r, r), "leaf", cut="leaves", tint=(74, 116, 50)) for a, b, c, r in ivy]))
    return groups


def back() -> list[Group]:
    """The arcade: columns, a tiled roof, and a rose wall with paintings in its shade."""
    z = -4.6
    columns = []
    for x in (-4.2, -2.1, 0.0, 2.1, 4.2):
        columns += [
            tube(x, z, 0.19, (0.3, 2.75), "limestone"),
            box((x - 0.3, x + 0.3), (0, 0.3), (z - 0.3, z + 0.3), "limestone"),
        ]
        columns += [box((x - 0.27, x + 0.27), (2.75, 2.92), (z - 0.27, z + 0.27), "limestone")]
    groups = [Group(columns), Group([box((-5.6, 5.2), (2.92, 3.5), (z - 0.28, z + 0.28), "white stucco")])]
    groups.append(Group([Solid("box", (-0.2, 3.98, z - 1.1), (5.45, 0.08, 1.75), "roof tiles", yaw=180, pitch=14)]))
    groups.append(
        Group(
            [box((-5.6, 5.2), (0, 4.9), (-7.7, -7.2), "rose stucco"), box((-5.6, 5.2), (0, 0.9), (-7.2, -7.16), "dado")]
        )
    )
    art = []
    for index, x in enumerate((-3.2, -0.05, 3.1)):
        w, h = ((0.75, 0.55), (0.5, 0.7), (0.8, 0.5))[index]
        art += [box((x - w - 0.08, x + w + 0.08), (1.85 - h - 0.08, 1.85 + h + 0.08), (-7.2, -7.12), "gilt")]
        art += [box((x - w, x + w), (1.85 - h, 1.85 + h), (-7.12, -7.1), f"painting {index}")]
    groups.append(Group(art))
    lamps = []
    for x in (-3.15, -1.05, 1.05, 3.15):
        lamps += [tube(x, z, 0.012, (2.55, 2.95), "iron"), ball(x, 2.45, z, (0.13, 0.16, 0.13), "lantern")]
    groups.append(Group(lamps))
    jars = [ball(-4.6, 0.45, -3.7, (0.36, 0.45, 0.36), "terracotta"), tube(-4.6, -3.7, 0.2, (0.8, 0.98), "terracotta")]
    jars += [
        ball(-3.85, 0.3, -3.45, (0.26, 0.32, 0.26), "blue glaze"),
        tube(-3.85, -3.45, 0.13, (0.56, 0.72), "blue glaze"),
    ]
    jars += [ball(-4.6, 1.4, -3.7, (0.4, 0.5, 0.4), "flowers", cut="leaves", tint=(150, 110, 196))]
    groups.append(Group(jars))
    return groups


def left() -> list[Group]:
    """The tiled wall: blue tiles below, yellow plaster above, a barred window and a fountain."""
    x = -5.6
    openings = [(-3.0, -1.7, 2.6, 4.0)]
    groups = [Group(wall("z", x, -0.5, (-7.8, 6.5), 5.2, "tiles and plaster", openings))]
    bars = [tube(x + 0.05, z, 0.02, (2.6, 4.0), "iron") for z in torch.linspace(-2.9, -1.8, 6).tolist()]
    bars += [
        box((x - 0.4, x - 0.3), (2.6, 4.0), (-3.0, -1.7), "glass"),
        box((x, x + 0.16), (2.48, 2.6), (-3.1, -1.6), "limestone"),
    ]
    groups.append(Group(bars))
    groups.append(
        Group(
            [
                box((x, x + 0.07), (2.2, 2.32), (-7.8, 6.5), "cobalt"),
                box((x - 0.6, x + 0.12), (5.2, 5.36), (-7.8, 6.5), "limestone"),
            ]
        )
    )
    fountain = [tube(x + 0.2, 0.9, 1.35, (0, 0.5), "limestone"), tube(x + 0.2, 0.9, 1.42, (0.42, 0.52), "limestone")]
    fountain += [tube(x + 0.2, 0.9, 1.2, (0.4, 0.528), "water"), box((x, x + 0.22), (0, 2.55), (0.1, 1.7), "limestone")]
    fountain += [ball(x + 0.2, 2.55, 0.9, (0.14, 0.62, 0.8), "limestone"), ball(x + 0.26, 1.55, 0.9, 0.22, "bronze")]
    fountain += [tube(x + 0.35, 0.9, 0.5, (0.95, 1.05), "limestone"), tube(x + 0.35, 0.9, 0.43, (1.0, 1.056), "water")]
    fountain += [tube(x + 0.52, 0.9, 0.022, (0.5, 1.5), "spray")]
    groups.append(Group(fountain))
    pots = [
        tube(-5.1, 3.0, 0.26, (0, 0.42), "blue glaze"),
        ball(-5.1, 0.75, 3.0, (0.42, 0.45, 0.42), "flowers", cut="leaves", tint=(240, 150, 60)),
    ]
    pots += [
        tube(-5.1, -1.4, 0.26, (0, 0.42), "terracotta"),
        ball(-5.1, 0.8, -1.4, (0.4, 0.5, 0.4), "flowers", cut="leaves", tint=(216, 60, 70)),
    ]
    groups.append(Group(pots))
    return groups


def tree() -> list[Group]:
    """The floor and an olive tree in a round bed."""
    groups = [Group([box((-6.5, 6.2), (-0.4, 0.0), (-8.0, 7.0), "paving")])]
    tree = [tube(-3.3, 3.7, 0.85, (0, 0.38), "limestone"), tube(-3.3, 3.7, 0.75, (0.3, 0.4), "soil")]
    tree += [Solid("tube", (-3.25, 1.35, 3.7), (0.15, 1.05, 0.15), "bark", yaw=30, pitch=7)]
    tree += [Solid("tube", (-3.0, 2.7, 3.5), (0.08, 0.6, 0.08), "bark", yaw=120, pitch=25)]
    tree += [Solid("tube", (-3.6, 2.7, 3.85), (0.08, 0.6, 0.08), "bark", yaw=290, pitch=28)]
    groups.append(Group(tree))
    generator = torch.Generator().manual_seed(11)
    crown = []
    for _ in range(15):
        a, b, c, r = torch.rand(4, generator=generator).tolist()
        angle, out = a * math.tau, 1.05 * math.sqrt(b)
        centre = (-3.3 + out * math.cos(angle), 3.35 + 0.9 * c, 3.7 + out * math.sin(angle))
        shade = (104 + int(24 * a), 128 + int(22 * b), 74 + int(20 * c))
        crown.append(ball(*centre, 0.42 + 0.22 * r, "leaf", cut="leaves", tint=shade))
    groups.append(Group(crown))
    return groups


def table() -> Group:
    """A round table with oranges and a bottle, and two stools."""
    tables = [
        tube(2.7, -1.9, 0.62, (0.72, 0.77), "wood"),
        tube(2.7, -1.9, 0.06, (0, 0.72), "iron"),
        tube(2.7, -1.9, 0.3, (0, 0.03), "iron"),
    ]
    tables += [tube(2.7 + a, -1.9 + b, 0.2, (0.44, 0.49), "wood") for a, b in ((-0.85, 0.35), (0.1, -0.95))]
    tables += [tube(2.7 + a, -1.9 + b, 0.035, (0, 0.44), "iron") for a, b in ((-0.85, 0.35), (0.1, -0.95))]
    tables += [
        ball(2.62, 0.8, -1.85, (0.2, 0.09, 0.2), "blue glaze"),
        tube(2.95, -2.05, 0.05, (0.77, 1.0), "bottle"),
        tube(2.95, -2.05, 0.02, (1.0, 1.12), "bottle"),
    ]
    tables += [ball(2.62 + a, 0.9, -1.85 + b, 0.06, "orange") for a, b in ((0.0, 0.06), (0.08, -0.03), (-0.08, -0.03))]
    tables += [ball(2.62, 0.98, -1.85, 0.06, "orange")]
    return Group(tables)


def overhead() -> list[Group]:
    """Strings of flags, and a tower and cypresses that look over the walls."""
    groups = [pennants((-5.6, 5.1, 0.5), (5.2, 4.4, -3.6)), pennants((-3.9, 5.9, 6.0), (5.2, 4.4, -0.6))]
    groups.append(
        Group(
            [
                box((-4.4, -1.6), (0, 18.5), (-18, -15.2), "tower"),
                ball(-3.0, 18.5, -16.6, (1.5, 1.9, 1.5), "terracotta"),
                box((-4.7, -1.3), (17.9, 18.3), (-18.3, -14.9), "limestone"),
            ]
        )
    )
    for x, z, h in (
        (11, 3.5, 12.0),
        (12.4, 1.2, 10.6),
        (10.6, -4.5, 10.8),
        (-12, -3.0, 13.2),
        (-12.5, -5.2, 11.6),
        (5.2, -15, 16.5),
    ):
        groups.append(Group([ball(x, h / 2, z, (0.95, h / 2, 0.95), "leaf", cut="leaves", tint=(58, 84, 48))]))
    return groups


def pennants(a: tuple[float, float, float], b: tuple[float, float, float]) -> Group:
    """A sagging string of coloured flags from a to b."""
    start, end = torch.tensor(a), torch.tensor(b)
    tints = ((214, 64, 58), (240, 188, 64), (60, 124, 176), (240, 236, 224), (88, 150, 92))
    yaw = math.degrees(math.atan2(-(end - start)[2], (end - start)[0]))
    solids = []
    for index in range(22):
        s = (index + 0.5) / 22
        x, y, z = (start + (end - start) * s - torch.tensor([0.0, 2.4 * s * (1 - s), 0.0])).tolist()
        solids.append(
            Solid("box", (x, y, z), (0.16, 0.2, 0.006), "cloth", yaw=yaw, cut="pennant", tint=tints[index % 5])
        )
    return Group(solids)


COURTYARD = [*front(), *right(), *back(), *left(), *tree(), table(), *overhead()]
SOLIDS = [solid for group in COURTYARD for solid in group.solids]
for _number, _solid in enumerate(SOLIDS):
    _solid.number = _number
