"""Shot lists: a CSV, JSON or YAML file to one checked row per shot."""

import contextlib
import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..checks import FileFormatError, check_choice
from ..trajectory import preset_trajectory
from ..types import Trajectory
from .cells import CONVERTERS, Move, quoted, read_path

COLUMNS = ("name", "prompt", "negative", "path", "seed", "size", "frames", "lens")
NEEDED = ("name", "prompt", "path")
MAX_FILE_BYTES = 16 * 2**20

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class ShotRow:
    """One shot of a list. What a row leaves out is None, and then as the whole list has it."""

    name: str
    """Names the shot's files; no two of a list differ in capitals alone."""
    prompt: str
    path: Move | Trajectory
    """The camera path: a move, or what its file holds."""
    negative: str = ""
    seed: int | None = None
    size: tuple[int, int] | None = None
    """(width, height) of the video in pixels."""
    frames: int | None = None
    """4n + 1; a path from a file has its own."""
    lens: float | None = None
    """Horizontal field of view in degrees."""
    origin: str
    """Where the row stands, for messages: "shots.csv, row 3 'orbit'"."""

    def trajectory(self, *, num_frames: int, fps: float, fov_degrees: float) -> Trajectory:
        """The camera path; the arguments serve a move where the row says nothing.

        Warns:
            CineSceneWarning: see `preset_trajectory`.
        """
        if isinstance(self.path, Trajectory):
            return self.path
        return preset_trajectory(
            self.path.name,
            amount=self.path.amount,
            num_frames=num_frames if self.frames is None else self.frames,
            fps=fps,
            fov_degrees=fov_degrees if self.lens is None else self.lens,
        )


class _Entry(NamedTuple):
    """A row before its cells are read."""

    origin: str
    """ "shots.csv, row 3"."""
    cells: dict[str, str]


def read_shots(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> tuple[ShotRow, ...]:
    """Read a shot list.

    The columns are `COLUMNS`, of which `NEEDED` must be filled. `path` holds a move with an amount
    behind it where the usual one will not do ("arc_left 40"), or a .json or .npy file, looked for beside the list.
    `size` is written 672x384. A row of a .csv counts as in a spreadsheet, whose first row is the head; an
    entry of a .json or .yaml counts from 1. Capitals in the head do not count, nor do rows and columns of a .csv
    without any text.

    Args:
        path: .csv (UTF-8, commas or semicolons), .json or .yaml (a list of objects), at most 16 MiB.
        root: the folder that the files of paths must lie in; None allows any.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it cannot be read, or a cell says what cannot be filmed; the message names row and column.
        ImportError: a .yaml, and PyYAML is not installed.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise FileFormatError(f"A shot list ends in {', '.join(_READERS)}; got {path.name}. Rename or convert it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no shot list {path}. Check the name and the folder.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise FileFormatError(
            f"{path.name} has {path.stat().st_size / 2**20:.0f} MiB; a shot list has at most "
            f"{MAX_FILE_BYTES // 2**20}. Is it another kind of file?"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "CSV UTF-8" if read is _read_csv else "UTF-8"
        raise FileFormatError(f"{path.name} is not UTF-8 text ({error.reason}). Save it as {kind}.") from error
    limit = None if root is None else Path(root).resolve()
    rows = tuple(_row(entry, path.parent, limit) for entry in read(path.name, text))
    if not rows:
        raise FileFormatError(f"{path.name} holds no shot. Add a row with {', '.join(NEEDED)}.")
    _check_names(rows)
    return rows


def shard_of(items: Sequence[Item], shard: tuple[int, int]) -> Sequence[Item]:
    """The part of a list that machine i of n films: every n-th item, from the i-th on; i counts from 1.

    Raises:
        ValueError: not 1 <= i <= n.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise ValueError(f"A shard i/n needs 1 <= i <= n; got {index}/{count}. Use 1/{max(count, 1)} for the first.")
    return items[index - 1 :: count]


def _row(entry: _Entry, folder: Path, root: Path | None) -> ShotRow:
    """A row from its cells, every one of them checked."""
    for column in entry.cells:
        with _named(entry.origin):
            check_choice("a column", column, COLUMNS)
    cells = {column: text for column, text in entry.cells.items() if text}
    for column in NEEDED:
        if column not in cells:
            raise FileFormatError(f"{entry.origin}, column '{column}': it is empty. Fill it in.")
    values: dict[str, Any] = {}
    for column, text in cells.items():
        with _named(f"{entry.origin}, column '{column}'"):
            values[column] = CONVERTERS[column](text)
    path = values["path"]
    if isinstance(path, Path):
        with _named(f"{entry.origin}, column 'path'"):
            if root is not None and not (folder / path).resolve().is_relative_to(root):
                raise FileFormatError(f"the file {path} lies outside {root}. Put it in there.")
            values["path"] = read_path(folder / path, values.get("lens"))
        count = len(values["path"])
        if values.get("frames", count) != count:
            raise FileFormatError(
                f"{entry.origin}, column 'frames': the path {path} has {count} frames; got {values['frames']}. "
                "Leave the cell empty, or make the path again with that many."
            )
    return ShotRow(**values, origin=f"{entry.origin} '{values['name']}'")


def _check_names(rows: Iterable[ShotRow]) -> None:
    """Refuse two names that would be one file where capitals do not count."""
    seen: dict[str, ShotRow] = {}
    for row in rows:
        key = unicodedata.normalize("NFC", row.name).casefold()
        if key in seen:
            raise FileFormatError(
                f"{row.origin}, column 'name': {seen[key].origin} has that name too, and both would be one file. "
                "Rename one of them."
            )
        seen[key] = row


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Say where a fault was found."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise FileFormatError(f"{place}: {error}") from error


# Files


def _read_csv(name: str, text: str) -> Iterator[_Entry]:
    head_line = text.lstrip().partition("\n")[0]
    delimiter = ";" if head_line.count(";") > head_line.count(",") else ","  # spreadsheets of half of Europe
    head: list[str] = []
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1):
            cells = [cell.strip() for cell in cells]
            if not any(cells):  # a spreadsheet writes an empty row as commas
                continue
            if not head:
                head = _without_empty_end(cells, 0)
                _check_head(f"{name}, row {number}", head)
                continue
            origin = f"{name}, row {number}"
            cells = _without_empty_end(cells, len(head))
            if len(cells) != len(head):
                raise FileFormatError(
                    f"{origin}: it has {len(cells)} cells where the head has {len(head)} columns. "
                    'Put texts that hold a comma in double quotes ("a red, old car").'
                )
            for column, (title, cell) in enumerate(zip(head, cells, strict=True), 1):
                if cell and not title:
                    raise FileFormatError(
                        f"{origin}: it has {quoted(cell)} in column {column}, which the head leaves without a name. "
                        "Name the column, or empty the cell."
                    )
            yield _entry(origin, (pair for pair in zip(head, cells, strict=True) if pair[0]))
    except csv.Error as error:
        raise FileFormatError(f"{name} is not a CSV file that can be read: {error}. Export it again.") from error


def _check_head(origin: str, head: list[str]) -> None:
    """Require a head of columns that are known, so that no row is blamed for it.

    Raises:
        FileFormatError: it is none; the message says what it looks like.
    """
    if len(head) == 1 and "\t" in head[0]:
        raise FileFormatError(f"{origin}: the columns are separated by tabs. Save it with commas or semicolons.")
    if len(head) == 1 and head[0].startswith("sep="):
        raise FileFormatError(f"{origin}: {quoted(head[0])} is a note for a spreadsheet program. Remove that line.")
    for title in filter(None, head):
        with _named(origin):
            check_choice("a column", title.casefold(), COLUMNS)


def _without_empty_end(cells: list[str], length: int) -> list[str]:
    """Leave out empty cells at the end, down to a number of cells."""
    while len(cells) > length and not cells[-1]:
        cells = cells[:-1]
    return cells


def _read_json(name: str, text: str) -> Iterator[_Entry]:
    try:
        entries = json.loads(text, object_pairs_hook=_Pairs, parse_int=str)  # a cell is what is written
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"{name} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}. Export it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name} is not valid JSON: {error}. Export it again.") from error
    if not isinstance(entries, list) or isinstance(entries, _Pairs):
        raise _no_list(name)
    for number, pairs in enumerate(entries, 1):
        origin = f"{name}, row {number}"
        if not isinstance(pairs, _Pairs):
            raise _no_row(origin)
        yield _entry(origin, ((column, _json_cell(origin, column, value)) for column, value in pairs))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with every key it has, those that stand twice included."""


def _json_cell(origin: str, column: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _no_cell(origin, column)
    return str(value)


def _read_yaml(name: str, text: str) -> Iterator[_Entry]:
    """Every cell as it is written: the name `no` and the seed `010` are what they look like."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            'A shot list in YAML needs PyYAML. Install it with: pip install "cinescene[cli]", or write CSV or JSON.'
        ) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        fault = " ".join(str(error).split())
        raise FileFormatError(f"{name} is not valid YAML: {fault}. Export it again.") from error
    if not isinstance(root, yaml.SequenceNode):
        raise _no_list(name)
    for number, node in enumerate(root.value, 1):
        origin = f"{name}, row {number}"
        if not isinstance(node, yaml.MappingNode):
            raise _no_row(origin)
        cells: list[tuple[str, str]] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FileFormatError(
                    f"{origin}: a column's name is one word, and one here is a list or an object. Write it so."
                )
            if not isinstance(value, yaml.ScalarNode):
                raise _no_cell(origin, key.value)
            cells.append((key.value, "" if value.tag.endswith(":null") else value.value))
        yield _entry(origin, cells)


def _entry(origin: str, pairs: Iterable[tuple[str, str]]) -> _Entry:
    cells: dict[str, str] = {}
    for title, text in pairs:
        column = title.strip().casefold()
        if column in cells:
            raise FileFormatError(f"{origin}: the column '{column}' stands twice. Remove one of them.")
        with _named(f"{origin}, column '{column}'"):
            _check_unicode(text)
        cells[column] = text.strip()
    return _Entry(origin, cells)


def _check_unicode(text: str) -> None:
    """Require a text that a file can hold: an escape may write one half of a character alone."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"character {error.start + 1} is {half!r}, half of a character, which no file can hold. Write it whole."
        ) from None


def _no_list(name: str) -> FileFormatError:
    return FileFormatError(f"{name} must hold a list of shots, each with {', '.join(NEEDED)}. Put them in one list.")


def _no_row(origin: str) -> FileFormatError:
    return FileFormatError(f"{origin}: a shot is an object with {', '.join(NEEDED)}. Write it so.")


def _no_cell(origin: str, column: str) -> FileFormatError:
    return FileFormatError(f"{origin}, column '{column}': it must hold one text or number. Write it so.")


_READERS: dict[str, Callable[[str, str], Iterator[_Entry]]] = {
    ".csv": _read_csv,
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
LIST_SUFFIXES = tuple(_READERS)
"""What a shot list's name ends in."""
