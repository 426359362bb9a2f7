"""The words of a caption: a closed vocabulary."""

from collections.abc import Mapping
from types import MappingProxyType

from .materials import COLOURS, TEXTURES

SHAPES = ("person", "robot", "dog", "snowman", "ball", "cube", "cone")
"""What the subject is."""
SUBJECT_COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
KINDS = ("room", "courtyard")
"""What the place is: with a ceiling, or open to the sky."""
MOST_BOXES = 5

_FIGURES = ("person", "robot", "dog")
_LIMBED = ("person", "robot", "snowman")
_TRAVEL = {
    **dict.fromkeys(_FIGURES, "walks"),
    **dict.fromkeys(("snowman", "cube", "cone"), "slides"),
    "ball": "rolls",
}
DIRECTIONS = ("left", "right", "forward", "backward")
"""Left and right are the start camera's; forward is the way the subject faces."""

ACTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        shape: (
            *(f"{_TRAVEL[shape]} {direction}" for direction in DIRECTIONS),
            "jumps",
            "spins",
            *(("waves", "cheers") if shape in _LIMBED else ()),
            *(("dances",) if shape in _FIGURES else ()),
            *(("nods",) if shape in (*_FIGURES, "snowman") else ()),
            *(("bounces",) if shape == "ball" else ()),
            *(("wobbles",) if shape in ("snowman", "ball", "cube", "cone") else ()),
        )
        for shape in SHAPES
    }
)
"""What each shape can do, as a caption says it."""

_COUNTS = ("no boxes", "one box", "two boxes", "three boxes", "four boxes", "five boxes")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def place_caption(colour: str, texture: str, kind: str, boxes: int) -> str:
    """The place without its subject: colour and texture are those of the wall the start camera looks at."""
    return f"{_article(colour)} {colour} {texture} {kind} with {_COUNTS[boxes]}"


def action_caption(colour: str, shape: str, action: str) -> str:
    """The subject and what it does, without the place."""
    return f"{_article(colour)} {colour} {shape} {action}"


def caption(action: str, place: str) -> str:
    """Both, from `action_caption` and `place_caption`."""
    return f"{action} in {place}"


def _vocabulary() -> tuple[str, ...]:
    words = {"a", "an", "in", "with", *COLOURS, *TEXTURES, *KINDS, *SHAPES, *SUBJECT_COLOURS}
    for phrase in (*_COUNTS, *(action for actions in ACTIONS.values() for action in actions)):
        words.update(phrase.split())
    return tuple(sorted(words))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word any caption can use."""
