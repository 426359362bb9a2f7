"""Cells of a shot list: a text to a value that can be filmed, or a sentence that says why not."""

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..checks import CineSceneWarning, check_choice, check_num_frames, check_video_size
from ..context import check_one_lens
from ..models.text import check_prompt
from ..trajectory import PRESETS, load_trajectory, preset_trajectory
from ..types import Trajectory

MAX_NAME = 40
"""Characters of a name; temporary files keep as many, so that each can be told from another shot's."""
MAX_SEED = 2**64 - 1
MAX_FRAMES = 10_001
"""Of a shot; ten minutes at 16 frames a second."""
MAX_SIDE = 8192
"""Pixels of a video's side."""
MAX_SHOWN = 60
"""Characters of a cell that a message repeats."""
PATH_SUFFIXES = (".json", ".npy")
_NAME = re.compile(rf'(?!\.)[^<>:"/\\|?*\x00-\x1f]{{1,{MAX_NAME}}}(?<!\.)')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, whatever ending follows."""
_SIZE = re.compile(r"(\d{1,6}) ?[x\u00d7] ?(\d{1,6})")


class Move(NamedTuple):
    """A camera path in film words."""

    name: str
    """A name in `trajectory.PRESETS`."""
    amount: float | None = None
    """Degrees for turns and arcs, metres for moves; None is the preset's own."""


def read_path(path: Path, lens: float | None) -> Trajectory:
    """A path from its file that the model can follow.

    Raises:
        ValueError, OSError: it cannot be read, zooms, or has a length that no shot has.
    """
    trajectory = load_trajectory(path, fov_degrees=lens)
    check_num_frames(len(trajectory))
    if len(trajectory) > MAX_FRAMES:
        raise ValueError(f"a shot has at most {MAX_FRAMES:,} frames; {path.name} has {len(trajectory):,}. Split it.")
    check_one_lens(trajectory)
    return trajectory


def quoted(text: str) -> str:
    """A cell for a message, which shows the start of a long one."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}... ({len(text):,} characters)"


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f'a name is 1 to {MAX_NAME} characters, none of < > : " / \\ | ? * and no . at either end; got '
            f"{quoted(text)}. It names the shot's files: write it so."
        )
    if _DEVICE.fullmatch(text):
        raise ValueError(f"Windows keeps the name {text!r} for a device, whatever ending follows. Choose another.")
    return text


def _prompt(text: str) -> str:
    check_prompt(text)
    return text


def _path(text: str) -> Move | Path:
    """A move that can be made, or the file to read."""
    if Path(text).suffix.lower() in PATH_SUFFIXES:
        return Path(text)
    name, *amounts = text.split()
    if Path(name).suffix.lower() in PATH_SUFFIXES:
        raise ValueError(f"a path file has its own amount; got {quoted(text)}. Leave out what stands behind {name}.")
    check_choice("a path that is no .json or .npy file", name, PRESETS)
    try:
        (amount,) = map(float, amounts) if amounts else (None,)
    except ValueError:
        raise ValueError(
            f"a move is a word and at most one number, such as '{name} 40' or '{name} 12.5'; got {quoted(text)}. "
            "Write it so, with a decimal point."
        ) from None
    with warnings.catch_warnings():  # they come when the path is made
        warnings.simplefilter("ignore", CineSceneWarning)
        preset_trajectory(name, amount=amount, num_frames=1)
    return Move(name, amount)


def _whole(text: str, largest: int) -> int | None:
    """A whole number from 0 to `largest`, or None; no long row of digits is converted."""
    digits = text.lstrip("0") or "0"
    if not text.isdecimal() or len(digits) > len(str(largest)) or int(digits) > largest:
        return None
    return int(digits)


def _seed(text: str) -> int:
    seed = _whole(text, MAX_SEED)
    if seed is None:
        raise ValueError(f"a seed is a whole number from 0 to {MAX_SEED}; got {quoted(text)}. Write one.")
    return seed


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not found or max(width, height) > MAX_SIDE:
        raise ValueError(
            f"a size is width x height in pixels, such as 672x384, and neither is above {MAX_SIDE:,}; got "
            f"{quoted(text)}. Write it so."
        )
    check_video_size(width, height)
    return width, height


def _frames(text: str) -> int:
    frames = _whole(text, MAX_FRAMES)
    if frames is None:
        raise ValueError(f"frames is a whole number, 4n + 1, up to {MAX_FRAMES:,}; got {quoted(text)}. Write one.")
    check_num_frames(frames)
    return frames


def _lens(text: str) -> float:
    try:
        degrees = float(text)
    except ValueError:
        degrees = math.nan
    if not 0 < degrees < 180:
        raise ValueError(f"a lens is degrees across, between 0 and 180; got {quoted(text)}. Write it so.")
    return degrees


CONVERTERS: dict[str, Callable[[str], Any]] = {
    "name": _name,
    "prompt": _prompt,
    "negative": str,
    "path": _path,
    "seed": _seed,
    "size": _size,
    "frames": _frames,
    "lens": _lens,
}
"""What reads a column's cells; ValueError where one cannot be filmed."""
