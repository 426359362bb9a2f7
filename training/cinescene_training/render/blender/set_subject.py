"""The scripted set's subject: a figure of simple bodies on joints that walks, waves or turns, and its caption.

No armature: every part is an object whose origin is its joint and whose parent is the part it hangs on. Parts are in
stage axes (x to the right of the person who looks at the figure, y up, z towards that person); the figure faces +z.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from . import set_materials as make
from .set_shapes import Workshop, stage

TAKE_SECONDS = 6.0
"""Length of the action; 81 frames at 15 fps take 5.4 seconds. Afterwards the figure stands still."""
FPS = 30
"""Frames per second of the scripted file."""
KEY_EVERY = 2
"""Frames between keys."""
WALK_SPEED = 0.6
"""Metres per second, a stroll; half-way through the take the walk passes over the mark."""
SWING = 15.0
"""Degrees that a leg swings to either side, so that feet of that length of leg keep up with the walk."""
HIP_BELOW, THIGH, SHIN = 0.06, 0.42, 0.49
"""Metres from the pelvis' joint down to the hips, to the knees and to the soles."""
LEG = THIGH + SHIN
TOE, HEEL = 0.154, 0.053
"""Metres that a sole reaches before and behind the ankle."""

COLOURS: Mapping[str, make.Colour] = MappingProxyType(
    {
        "red": (0.5, 0.025, 0.02),
        "blue": (0.02, 0.08, 0.4),
        "green": (0.03, 0.2, 0.06),
        "yellow": (0.75, 0.42, 0.03),
        "white": (0.75, 0.72, 0.66),
        "black": (0.015, 0.015, 0.017),
    }
)
HAIR: Mapping[str, make.Colour] = MappingProxyType(
    {"dark": (0.02, 0.012, 0.008), "brown": (0.12, 0.05, 0.02), "grey": (0.35, 0.34, 0.33)}
)
SKIN = ((0.55, 0.3, 0.2), (0.35, 0.17, 0.09), (0.13, 0.06, 0.035))


@dataclass(frozen=True, kw_only=True)
class Costume:
    """Who performs, and what they do."""

    who: str
    """man | woman; a woman wears a long dress, a man a jacket and trousers."""
    colour: str
    """A name in `COLOURS`: dress or jacket."""
    trousers: str
    hair: str
    skin: int
    action: str
    """A name in `ACTIONS`."""

    @property
    def caption(self) -> str:
        """What the subject does, in words."""
        wears = f"a long {self.colour} dress" if self.who == "woman" else f"a {self.colour} jacket"
        return f"a {self.hair}-haired {self.who} in {wears} {ACTIONS[self.action].words}"


def draw_costume(rng: np.random.Generator) -> Costume:
    """Any costume and action, each as likely as the next."""
    colours = list(COLOURS)
    first = int(rng.integers(len(colours)))
    return Costume(
        who=("man", "woman")[rng.integers(2)],
        colour=colours[first],
        trousers=colours[(first + int(rng.integers(1, len(colours)))) % len(colours)],
        hair=list(HAIR)[rng.integers(len(HAIR))],
        skin=int(rng.integers(len(SKIN))),
        action=list(ACTIONS)[rng.integers(len(ACTIONS))],
    )


Pose = dict[str, tuple[float, float, float]]
"""Degrees about x, y and z of each joint that is not at rest."""


def _walk(seconds: float) -> tuple[Pose, float, float]:
    phase = math.tau * seconds * WALK_SPEED / (4 * LEG * math.sin(math.radians(SWING)))
    swing, bend = SWING * math.sin(phase), [max(0.0, math.cos(phase + turn)) for turn in (0.0, math.pi)]
    pose: Pose = {
        "left thigh": (-swing, 0, 0), "right thigh": (swing, 0, 0),
        "left shin": (6 + 38 * bend[0], 0, 0), "right shin": (6 + 38 * bend[1], 0, 0),
        "left arm": (0.9 * swing, 0, 7), "right arm": (-0.9 * swing, 0, -7),
        "left forearm": (-16 - 0.4 * swing, 0, 0), "right forearm": (-16 + 0.4 * swing, 0, 0),
        "chest": (2, 0.35 * swing, 0), "pelvis": (0, -0.3 * swing, 0), "head": (-1, -0.2 * swing, 0),
    }  # fmt: skip
    return pose, WALK_SPEED * (seconds - TAKE_SECONDS / 2), 0.0


def _wave(seconds: float) -> tuple[Pose, float, float]:
    up = _ease(seconds / 0.9) * (1 - _ease((seconds - TAKE_SECONDS + 0.9) / 0.9))
    beat, sway = math.sin(math.tau * 1.25 * seconds), math.sin(math.tau * 0.3 * seconds)
    pose: Pose = {
        "right arm": (-20 * up, 0, -8 - 112 * up), "right forearm": (-14 * (1 - up), 0, -(52 + 26 * beat) * up),
        "left arm": (-3, 0, 8 + 2 * sway), "left forearm": (-18, 0, 0),
        "chest": (0, 4 * sway, 3 * up + 1.5 * sway), "head": (0, 6 * sway, -5 * up), "pelvis": (0, 0, -1.5 * sway),
    }  # fmt: skip
    return pose, 0.0, 0.0


def _turn(seconds: float) -> tuple[Pose, float, float]:
    share = _ease(seconds / TAKE_SECONDS)
    out = math.sin(math.pi * min(max(seconds / TAKE_SECONDS, 0), 1))
    step = math.sin(math.tau * 0.9 * seconds) * out
    pose: Pose = {
        "left arm": (-12 * out, 0, 8 + 66 * out), "right arm": (-12 * out, 0, -8 - 66 * out),
        "left forearm": (-12 - 22 * out, 0, 0), "right forearm": (-12 - 22 * out, 0, 0),
        "left thigh": (-9 * max(step, 0), 0, 3), "right thigh": (-9 * max(-step, 0), 0, -3),
        "left shin": (22 * max(step, 0), 0, 0), "right shin": (22 * max(-step, 0), 0, 0),
        "chest": (-4 * out, 0, 3 * step), "head": (-6 * out, 12 * out, 0),
    }  # fmt: skip
    return pose, 0.0, 360.0 * share


def _ease(share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


@dataclass(frozen=True)
class Action:
    """A motion: words for the caption, and seconds to (joints, metres forward, degrees turned)."""

    words: str
    motion: Callable[[float], tuple[Pose, float, float]]


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        "walk": Action("walks forward", _walk),
        "wave": Action("waves a hand", _wave),
        "turn": Action("turns around once with open arms", _turn),
    }
)


def build_subject(collection: Any, costume: Costume, mark: tuple[float, float, float], facing_degrees: float) -> None:
    """Make the figure at the mark and give it its keys.

    Args:
        collection: where its objects go.
        costume: who it is and what it does.
        mark: Blender's axes, metres.
        facing_degrees: 0 faces Blender's -y; positive turns to the left as seen from above.
    """
    root = bpy.data.objects.new("subject", None)
    root.location, root.rotation_euler = mark, (0, 0, math.radians(facing_degrees))
    collection.objects.link(root)
    stand = bpy.data.objects.new("stand", None)
    stand.parent, stand.matrix_local = root, stage(0, 0)
    collection.objects.link(stand)
    parts = {"stand": stand}
    shop = Workshop(collection, Matrix.Identity(4), np.random.default_rng(0))
    for name, parent, joint, bodies in _figure(costume):
        meshes = [shop.lathe(profile, at, material, segments=24) for profile, at, material, _ in bodies]
        for thing, (*_, squash) in zip(meshes, bodies, strict=True):
            thing.data.transform(Matrix.Diagonal((1, 1, squash, 1)))
        part = meshes[0]
        part.name = name
        for extra in meshes[1:]:
            extra.parent, extra.matrix_world = part, Matrix.Identity(4)
        part.parent, part.location = parts[parent], joint
        parts[name] = part
    _animate(root, parts, ACTIONS[costume.action].motion, mark, math.radians(facing_degrees))


def _limb(length: float, top: float, middle: float, end: float) -> list[tuple[float, float]]:
    """A rounded limb that hangs from its joint."""
    return [
        (end * 0.5, -length - end * 0.5), (end, -length), (middle, -length * 0.5), (top, -length * 0.1),
        (top * 0.95, top * 0.2), (top * 0.5, top * 0.75),
    ]  # fmt: skip


def _ball(radius: float, height: float = 0.0, stretch: float = 1.0) -> list[tuple[float, float]]:
    angles = np.linspace(-math.pi / 2 + 0.05, math.pi / 2 - 0.05, 14).tolist()
    return [(radius * math.cos(a), height + stretch * radius * math.sin(a)) for a in angles]


def _figure(costume: Costume) -> list[tuple[str, str, tuple[float, float, float], list[Any]]]:
    """(name, parent, joint in the parent, [(profile, foot, material, depth as a share of the width)])."""
    skin = make.plain("skin", SKIN[costume.skin], roughness=0.55)
    hair = make.plain("hair", HAIR[costume.hair], roughness=0.5)
    cloth = make.plain("cloth", COLOURS[costume.colour], roughness=0.85, grain=0.002)
    below = make.plain("trousers", COLOURS[costume.trousers], roughness=0.9, grain=0.002)
    shoe = make.plain("shoes", (0.03, 0.018, 0.012), roughness=0.35)
    eye = make.plain("eyes", (0.01, 0.01, 0.01), roughness=0.1)
    woman = costume.who == "woman"
    here = (0.0, 0.0, 0.0)
    waist, ribs, shoulders = (0.14, 0.175, 0.19) if woman else (0.165, 0.2, 0.19)
    chest = [(0.15, -0.02), (waist, 0.1), (ribs, 0.3), (shoulders, 0.41), (0.1, 0.5), (0.06, 0.53)]
    head = [
        (_ball(0.105, 0.14, 1.22), here, skin, 1.08), (_ball(0.113, 0.175, 1.0), (0, 0, -0.018), hair, 1.08),
        (_ball(0.018, 0.125, 1.5), (0, 0, 0.112), skin, 1.0), ([(0.05, -0.06), (0.05, 0.06)], here, skin, 1.0),
        *(( _ball(0.013, 0.155), (s * 0.038, 0, 0.098), eye, 1.0) for s in (-1, 1)),
    ]  # fmt: skip
    if woman:
        head.append((_ball(0.062, 0.2), (0, 0, -0.11), hair, 1.0))
    skirt = [(0.36, -0.72), (0.3, -0.45), (0.21, -0.08), (0.165, 0.06), (0.14, 0.12)]
    hips = skirt if woman else [(0.1, -0.14), (0.165, -0.06), (0.17, 0.05), (0.15, 0.12)]
    parts: list[tuple[str, str, tuple[float, float, float], list[Any]]] = [
        ("pelvis", "stand", (0, HIP_BELOW + LEG, 0), [(hips, here, cloth if woman else below, 0.8 if woman else 0.68)]),
        ("chest", "pelvis", (0, 0.07, 0), [(chest, here, cloth, 0.62)]),
        ("head", "chest", (0, 0.56, 0), head),
    ]
    for side, s in (("left", 1), ("right", -1)):
        leg = skin if woman else below
        sleeve = skin if woman else cloth
        foot = [([(0.045, -0.06), (0.055, -0.03), (0.045, 0.01)], (0, 0.06 - SHIN, 0.022), shoe, 2.3)]
        parts += [
            (f"{side} arm", "chest", (s * 0.2, 0.42, 0), [(_limb(0.28, 0.062, 0.052, 0.044), here, cloth, 1.0)]),
            (f"{side} forearm", f"{side} arm", (0, -0.28, 0),
             [(_limb(0.23, 0.045, 0.042, 0.033), here, sleeve, 1.0), (_ball(0.045, -0.3, 1.6), here, skin, 0.6)]),
            (f"{side} thigh", "pelvis", (s * 0.095, -HIP_BELOW, 0),
             [(_limb(THIGH, 0.095, 0.08, 0.06), here, leg, 1.0)]),
            (f"{side} shin", f"{side} thigh", (0, -THIGH, 0),
             [(_limb(0.4, 0.062, 0.058, 0.042), here, leg, 1.0), *foot]),
        ]  # fmt: skip
    return parts


def _stands(pose: Pose) -> float:
    """Height of the pelvis' joint that puts the lower sole on the floor."""
    reach = []
    for side in ("left", "right"):
        thigh, shin = (math.radians(pose.get(f"{side} {part}", (0, 0, 0))[0]) for part in ("thigh", "shin"))
        sole = max(TOE * math.sin(thigh + shin), -HEEL * math.sin(thigh + shin))
        reach.append(THIGH * math.cos(thigh) + SHIN * math.cos(thigh + shin) + sole)
    return HIP_BELOW + max(reach)


def _animate(root: Any, parts: Mapping[str, Any], motion: Callable, mark: tuple, facing: float) -> None:
    """Keys for every joint over the take; joints that a motion leaves out stay at rest."""
    for frame in range(0, round(TAKE_SECONDS * FPS) + 1, KEY_EVERY):
        pose, ahead, turned = motion(frame / FPS)
        # The figure faces -y of its root, turned about the vertical.
        root.location = (mark[0] + ahead * math.sin(facing), mark[1] - ahead * math.cos(facing), mark[2])
        root.rotation_euler = (0, 0, facing + math.radians(turned))
        for path in ("location", "rotation_euler"):
            root.keyframe_insert(path, frame=1 + frame)
        parts["pelvis"].location = (0, _stands(pose), 0)
        parts["pelvis"].keyframe_insert("location", frame=1 + frame)
        for name, angles in pose.items():
            parts[name].rotation_euler = tuple(math.radians(angle) for angle in angles)
            parts[name].keyframe_insert("rotation_euler", frame=1 + frame)
