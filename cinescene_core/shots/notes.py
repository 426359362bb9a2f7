"""What is worth a word about the shots of a list: each text said once, with the rows that it is about."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator

from ..checks import CineSceneWarning, FileFormatError
from .rows import ShotRow

MAX_NAMED = 5
"""Rows that one note names; of more it says how many."""


class RowNotes:
    """Collects `CineSceneWarning`s about rows, and says each text once."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()
        self._rows: dict[str, list[str]] = {}

    def add(self, row: ShotRow, texts: Iterable[str]) -> None:
        """Keep what was noted of a row, unless it is known of that row."""
        for text in texts:
            if (row.origin, text) not in self._known:
                self._known.add((row.origin, text))
                self._rows.setdefault(text, []).append(row.origin)

    @contextlib.contextmanager
    def noting(self, row: ShotRow) -> Iterator[None]:
        """Keep our warnings for later; those of libraries go on."""
        texts: list[str] = []
        try:
            with recording(texts):
                yield
        finally:
            self.add(row, texts)

    def say(self) -> None:
        """Warn of what was not said yet."""
        for text, origins in self._rows.items():
            warnings.warn(f"{_named(origins)}: {text}", CineSceneWarning, stacklevel=3)
        self._rows.clear()


@contextlib.contextmanager
def recording(texts: list[str]) -> Iterator[None]:
    """Put the texts of our warnings on a list instead; those of libraries go on."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CineSceneWarning)
            yield
    finally:
        for entry in caught:
            if issubclass(entry.category, CineSceneWarning):
                texts.append(str(entry.message))
            else:
                warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)


@contextlib.contextmanager
def naming_row(row: ShotRow) -> Iterator[None]:
    """Name the row in an error about its shot."""
    try:
        yield
    except ValueError as error:
        raise FileFormatError(f"{row.origin}: {error}") from error


def _named(origins: list[str]) -> str:
    """ "shots.csv, row 2 'a', row 3 'b' and 4 more"."""
    first, *others = origins
    head = first.partition(", row ")[0] + ", "
    named = [first, *(other.removeprefix(head) for other in others[: MAX_NAMED - 1])]
    more = len(origins) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
