"""What a run's checkpoint says of itself, and what may go on from it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from cinescene_core.checks import CheckpointError

from .config import TrainingConfig, as_record
from .data.encoders import encoder_digests
from .data.fingerprint import calibration_digest
from .provenance import commit, file_digest, machine
from .settings import flat


def run_record(config: TrainingConfig) -> dict[str, Any]:
    """Commit, configuration, seed and machine: what every recorded run names.

    Raises:
        CheckpointError, FileNotFoundError: as `identity`.
    """
    return {
        "name": config.name,
        "config": as_record(config),
        "digest": config.digest(),
        "identity": identity(config),
        "seed": config.run.seed,
        "commit": commit(),
        "machine": machine(),
        "torch": str(torch.__version__),
    }


def identity(config: TrainingConfig) -> dict[str, Any]:
    """What decides a run's result, by dotted name: its settings, and the content of the files it reads.

    Encoders, the calibration and the base file are told from others by digests, not by their paths.

    Raises:
        CheckpointError: an encoder's file or the base file is missing or damaged.
        FileNotFoundError: the calibration is missing.
    """
    start = config.model.start_from
    files = {
        "cache.encoders": dataclasses.asdict(encoder_digests(config.cache.encoders)),
        "cache.source.calibration": calibration_digest(config.cache.source),
        "model.start_from": "" if start is None else file_digest(start),
    }
    return config.deciding_settings() | flat(files)


def check_same_run(checkpoint: Mapping[str, Any], config: TrainingConfig) -> None:
    """Require that a checkpoint belongs to this configuration.

    The run may have become longer where no step depends on how many follow it.

    Raises:
        CheckpointError: it was made by another program, or by a run with other settings or files; the first
            that differs is named.
        FileNotFoundError: as `identity`.
    """
    record = checkpoint.get("cinescene")
    if not isinstance(record, Mapping) or "identity" not in record:
        raise CheckpointError(
            "This checkpoint was not made by cinescene-train. Resume from a .ckpt of the run's folder."
        )
    had, wanted = record["identity"], identity(config)
    grown = config.steps_may_grow and had.get("run.steps", 0) <= config.run.steps
    for name in sorted(had.keys() | wanted.keys()):
        if had.get(name) != wanted.get(name) and not (name == "run.steps" and grown):
            raise CheckpointError(
                f"This checkpoint was trained with {name} = {had.get(name)!r}, but this run says "
                f"{wanted.get(name)!r}. Resume with the same configuration, or start a new run from an export "
                "(model.start_from)."
            )
