"""Moves of a camera as configurations name them: a preset, with `=amount` where its own amount is not wanted."""

import re
from collections.abc import Sequence

from cinescene_core.checks import check_choice
from cinescene_core.trajectory import PRESETS

PANS = ("pan_left", "pan_right")
"""The moves of the paper's out-of-domain test (supplement C.1)."""
TURNS = (*PANS, "tilt_up", "tilt_down")
"""Moves on the spot: all that a single panorama shows exactly."""
MAX_PATHS = 99
"""A clip's number has two digits."""
LARGEST_PAN_DEGREES, LARGEST_TILT_DEGREES = 360.0, 90.0
"""Once around, and up to the zenith; further, a picture stands on its head."""
_MOVE = re.compile(r"([a-z_]+)(?:=(\d+(?:\.\d+)?))?", re.ASCII)


def parse_move(text: str) -> tuple[str, float | None] | None:
    """Name and amount of a move such as `pan_left` or `pan_left=40`; None for a text of another form."""
    found = _MOVE.fullmatch(text)
    return None if found is None else (found[1], None if found[2] is None else float(found[2]))


def check_turns(moves: Sequence[str], paths: int) -> list[tuple[str, float | None]]:
    """Require that a panorama can be filmed along `paths` different turns of these moves; return the moves parsed.

    Raises:
        ValueError: a move that is no pan or tilt, an amount out of range, one turn named twice, or a number of paths
            that the moves do not give.
    """
    parsed = [_parse_turn(move) for move in moves]
    if not 1 <= paths <= MAX_PATHS or not parsed:
        raise ValueError(
            f"Each panorama has 1 to {MAX_PATHS} paths, of one move at least; got {paths} paths of {len(parsed)} "
            "moves. Use 3 pans, as the paper does."
        )
    turns = [(name, PRESETS[name].maximum if amount is None else amount) for name, amount in parsed]
    twice = next((turn for turn in turns if turns.count(turn) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{twice[0]} by {twice[1]:g} degrees is among the moves twice: {', '.join(moves)}. Leave one out, or give "
            "it another amount."
        )
    if paths > len(parsed) and any(amount is not None for _, amount in parsed):
        raise ValueError(
            f"A panorama has {paths} paths and its camera {len(parsed)} moves; a move with an amount is made once. "
            f"Ask for {len(parsed)} paths, or leave the amounts out and further ones are drawn."
        )
    return parsed


def _parse_turn(move: str) -> tuple[str, float | None]:
    parsed = parse_move(move)
    if parsed is None:
        raise ValueError(
            f"A move of a panorama's camera is one of {', '.join(TURNS)}, or one with its degrees, as pan_left=40; got "
            f"{move!r}. Correct it."
        )
    name, amount = parsed
    check_choice("A move of a panorama's camera", name, TURNS)
    largest = LARGEST_PAN_DEGREES if name in PANS else LARGEST_TILT_DEGREES
    if amount is not None and not 0 < amount <= largest:
        raise ValueError(
            f"{name} must turn by more than 0 and at most {largest:g} degrees; got {amount:g}. Correct it."
        )
    return parsed
