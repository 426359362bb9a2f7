"""What a run's checkpoint says of itself, and what may go on from it; of the transformer and of the encoders alike."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from cinescene_core.checks import CheckpointError

from .config import BESIDE_THE_RESULT, RunConfig, TrainingConfig, as_record, deciding_settings
from .data.encoders import encoder_digests
from .data.fingerprint import calibration_digest
from .provenance import commit, file_digest, machine
from .settings import flat

RECORD = "cinescene"
"""Where a checkpoint keeps `run_record`."""


class NamedRun(Protocol):
    """What the configurations of all runs have."""

    @property
    def name(self) -> str: ...
    @property
    def run(self) -> RunConfig: ...


def run_record(config: NamedRun, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Commit, configuration, seed and machine: what every recorded run names.

    Args:
        config: the run.
        identity: what decides its result, by dotted name.
    """
    return {
        "name": config.name,
        "config": as_record(config),
        "identity": dict(identity),
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
    return deciding_settings(config, BESIDE_THE_RESULT) | flat(files)


def check_same_run(checkpoint: Mapping[str, Any], config: TrainingConfig) -> None:
    """Require that a checkpoint belongs to this configuration.

    The run may have become longer where no step depends on how many follow it. A source of one side can only be
    measured on (`SourceConfig.only`), so the run may have been trained on another.

    Raises:
        CheckpointError: it was made by another program, or by a run with other settings or files; the first
            that differs is named.
        FileNotFoundError: as `identity`.
    """
    beside = () if config.cache.source.only is None else ("cache.source.",)
    check_same_identity(checkpoint, identity(config), beside, steps_may_grow=config.steps_may_grow)


def check_same_identity(
    checkpoint: Mapping[str, Any],
    wanted: Mapping[str, Any],
    beside: tuple[str, ...] = (),
    *,
    steps_may_grow: bool = False,
) -> None:
    """Require that what decided a checkpoint's run decides this one.

    Args:
        checkpoint: its content.
        wanted: identity of this run.
        beside: how the names begin that may differ.
        steps_may_grow: this run may be longer.

    Raises:
        CheckpointError: as `check_same_run`.
    """
    had = record_of(checkpoint)["identity"]
    grown = steps_may_grow and had.get("run.steps", 0) <= wanted["run.steps"]
    for name in sorted(had.keys() | wanted.keys()):
        if name.startswith(beside) or (name == "run.steps" and grown):
            continue
        if had.get(name) != wanted.get(name):
            raise CheckpointError(differs(name, had.get(name), wanted.get(name)))


def check_same_precision(checkpoint: Mapping[str, Any], run: RunConfig) -> None:
    """Require that a run goes on in its precision; in another it would not equal one that never stopped.

    Measuring and exporting a checkpoint need no such thing.

    Raises:
        CheckpointError: it was made by another program, or in another precision.
    """
    had = record_of(checkpoint)["config"]["run"]["precision"]
    if had != run.precision:
        raise CheckpointError(differs("run.precision", had, run.precision))


def record_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `run_record` of a checkpoint.

    Raises:
        CheckpointError: it was made by another program.
    """
    record = checkpoint.get(RECORD)
    if not isinstance(record, Mapping) or "identity" not in record:
        raise CheckpointError(
            "This checkpoint was not made by cinescene-train. Resume from a .ckpt of the run's folder."
        )
    return record


def differs(name: str, had: object, wanted: object) -> str:
    """The sentence for a checkpoint of another run."""
    return (
        f"This checkpoint was trained with {name} = {had!r}, but this run says {wanted!r}. Resume with the same "
        "configuration (run.steps may grow under optimiser.schedule constant alone), or start a new run (start_from, "
        "where its task has it, takes an export)."
    )
