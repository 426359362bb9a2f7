"""What a run's checkpoint says of itself, and what may go on from it."""

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cinescene_core.checks import CheckpointError

from .config import TrainingConfig, as_record


def run_record(config: TrainingConfig) -> dict[str, Any]:
    """Commit, configuration, seed and machine: what every recorded run names."""
    return {
        "name": config.name,
        "config": as_record(config),
        "digest": config.digest(),
        "seed": config.run.seed,
        "commit": commit(),
        "machine": machine(),
        "torch": str(torch.__version__),
    }


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


def check_same_run(checkpoint: Mapping[str, Any], config: TrainingConfig) -> None:
    """Require that a checkpoint belongs to this configuration.

    Raises:
        CheckpointError: it was made by another program, or by a run with other settings; the first
            that differs is named.
    """
    record = checkpoint.get("cinescene")
    if not isinstance(record, Mapping):
        raise CheckpointError(
            "This checkpoint was not made by cinescene-train. Resume from a .ckpt of the run's folder."
        )
    if record["digest"] == config.digest():
        return
    had, wanted = _flat(record["config"]), _flat(as_record(config))
    names = [name for name in sorted(had.keys() | wanted.keys()) if not name.startswith("run.")]
    names += ["run.steps", "run.batch_size", "run.seed"]
    name = next(name for name in names if had.get(name) != wanted.get(name))
    raise CheckpointError(
        f"This checkpoint was trained with {name} = {had.get(name)!r}, but this run says {wanted.get(name)!r}. "
        "Resume with the same configuration, or start a new run from an export (model.start_from)."
    )


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
