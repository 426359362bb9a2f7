"""One safetensors file that holds every network a shot needs: the embedded checkpoint.

Each part stands under its own prefix, so the loaders of full-size files read it with
`prefix="transformer."` and the like. The metadata holds one JSON object per part.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..checks import CheckpointError
from ..files import atomic_write
from .files import load_tensors, read_header
from .metadata import TRANSFORMER_KEY

BUNDLE_PARTS = {"transformer": TRANSFORMER_KEY, "vae": "vae", "vggt": "vggt", "text": "text"}
"""Part to the metadata key of its JSON record; a part's tensors are named `<part>.<name>`."""


def nano_path() -> Path:
    """The embedded checkpoint: every network of a shot in one small file."""
    return Path(__file__).parents[1] / "assets" / "nano.safetensors"


def save_bundle(
    path: str | os.PathLike[str],
    parts: Mapping[str, Mapping[str, Tensor]],
    metadata: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a bundle.

    Args:
        path: the file to write.
        parts: state dict by part; the names of `BUNDLE_PARTS`, each at most once.
        metadata: JSON record by metadata key (`cinescene`, `vae`, `vggt`, `text`).

    Raises:
        ValueError: an unknown part or metadata key, or an empty part.
        OSError: the file cannot be written; no half-made file is left.
    """
    unknown = sorted(set(parts) - set(BUNDLE_PARTS)) + sorted(set(metadata) - set(BUNDLE_PARTS.values()))
    empty = [part for part, tensors in parts.items() if not tensors]
    if unknown or empty:
        raise ValueError(
            f"A bundle holds the parts {list(BUNDLE_PARTS)}, none of them empty; "
            f"got unknown {unknown} and empty {empty}."
        )
    tensors = {f"{part}.{name}": value.contiguous() for part in parts for name, value in parts[part].items()}
    records = {key: json.dumps(record, sort_keys=True) for key, record in metadata.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=records)


def read_bundle_part(path: str | os.PathLike[str], part: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one part of a bundle: its state dict, and its JSON record ({} when it has none).

    Raises:
        CheckpointError: the file is damaged or does not hold the part.
    """
    if part not in BUNDLE_PARTS:
        raise CheckpointError(f"A bundle has the parts {list(BUNDLE_PARTS)}; there is no '{part}'.")
    header = read_header(path)
    key = BUNDLE_PARTS[part]
    try:
        record = json.loads(header.metadata.get(key, "{}"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{header.path.name}: metadata key '{key}' is not JSON ({error}).") from error
    return load_tensors(path, prefix=f"{part}."), record
