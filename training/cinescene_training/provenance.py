"""Where a result comes from: the code, the machine, and the files it started from."""

import json
import platform
import subprocess
from pathlib import Path

import torch

from cinescene_core.types import content_digest
from cinescene_core.weights import load_tensors, read_header

LEADING = 4096
"""Values of each tensor that a file's digest reads: of a 14B file, megabytes in place of gigabytes."""


def commit() -> str:
    """Commit of the checkout the package runs from, with `+` when files differ from it; empty outside one."""
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}{'+' if changed else ''}"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def machine() -> str:
    """Processor and accelerator in words."""
    cores = f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else cores


def file_digest(path: Path) -> str:
    """16 hex digits that tell a model file from others by its content, wherever it lies.

    They count every name, type and shape, the metadata, and the first `LEADING` values of each tensor.

    Raises:
        CheckpointError: the file is missing or damaged, or no model.
    """
    header, tensors = read_header(path), load_tensors(path)
    said = json.dumps([dict(header.metadata), dict(header.tensors)], sort_keys=True).encode()
    leading = (tensors[name].reshape(-1)[:LEADING] for name in sorted(tensors))
    return content_digest(torch.frombuffer(bytearray(said), dtype=torch.uint8), *leading)[:16]
