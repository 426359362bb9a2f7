"""Captions: what a clip shows, and what is left of it when its subject is not there."""

import json
import re
from pathlib import Path

from cinescene_core.checks import FileFormatError

MAX_FILE_BYTES = 16 * 2**20


def read_texts(path: Path) -> dict[str, str]:
    """Read a JSON object of texts.

    Raises:
        FileFormatError: too large, not JSON, or not an object whose values are all texts.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise FileFormatError(f"{path.name} has more than {MAX_FILE_BYTES // 2**20} MiB; captions are smaller.")
    try:
        record = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path.name} is not valid JSON: {error}. Write it again.") from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{path.name} must hold an object of captions; got {type(record).__name__}.")
    for name, text in record.items():
        if not isinstance(text, str):
            raise FileFormatError(f"{path.name}: '{name}' must be a text; got {str(text)[:40]!r}.")
    return record


def without_action(caption: str, action: str) -> str:
    """The part of a caption that still holds when the subject is taken away.

    A caption that names somebody who is not in the picture teaches a network to ignore its text. So the action is
    cut out where the caption repeats it word by word, with the punctuation that is left over; where it does not,
    nothing is known about the rest and the answer is empty.
    """
    words = action.strip().rstrip(".!").split()
    if not words:
        return ""
    found = re.search(r"\s+".join(map(re.escape, words)), caption, flags=re.IGNORECASE)
    if found is None:
        return ""
    parts = [part.strip(" ,;:.") for part in (caption[: found.start()], caption[found.end() :])]
    rest = ", ".join(part for part in parts if part)
    return rest[:1].upper() + rest[1:] + "." if rest else ""
