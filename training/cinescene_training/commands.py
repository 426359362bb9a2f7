"""What each command does: read the configuration, call the studio, print what came of it."""

import argparse
import os
import sys
from pathlib import Path

from cinescene_core.files import check_target

from .config import TrainingConfig, load_config
from .data.build import run_cache as build_cache_report
from .export import export
from .train import fit, last_checkpoint, test, validate


def run_fit(options: argparse.Namespace) -> None:
    """Train, encoding rooms first where that is not done."""
    config = load_config(options.config, options.set)
    resume = options.resume
    if resume == Path("last"):
        resume = last_checkpoint(config)
    if resume is not None and not resume.is_file():
        raise FileNotFoundError(f"There is no checkpoint {resume}. Leave --resume out to start the run.")
    alone = not any(name in os.environ for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if config.cache.source.kind == "rooms" and alone:  # the other processes of a run find the cache made
        print(build_cache_report(config.cache, on_progress=show_progress))
    print(f"{fit(config, resume=resume)}")


def run_validate(options: argparse.Namespace) -> None:
    """Print the losses of a checkpoint on the validation clips."""
    config = load_config(options.config, options.set)
    print_losses(validate(config, checkpoint_of(config, options)))


def run_test(options: argparse.Namespace) -> None:
    """Print the losses of a checkpoint on the test clips."""
    config = load_config(options.config, options.set)
    print_losses(test(config, checkpoint_of(config, options)))


def run_cache(options: argparse.Namespace) -> None:
    """Encode, and print what there is and what is missing."""
    config = load_config(options.config, options.set)
    report = build_cache_report(config.cache, device=options.device, workers=options.workers, on_progress=show_progress)
    print(report)


def run_export(options: argparse.Namespace) -> None:
    """Write the transformer, and print its size."""
    config = load_config(options.config, options.set)
    check_target(options.out)
    record = export(config, checkpoint_of(config, options), options.out, bundle=options.bundle)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB, {record.context_attention} context")


def checkpoint_of(config: TrainingConfig, options: argparse.Namespace) -> Path:
    """The checkpoint named, or the run's last.

    Raises:
        FileNotFoundError: there is none.
    """
    checkpoint: Path = options.checkpoint or last_checkpoint(config)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint}. Run cinescene-train fit first, or name one.")
    return checkpoint


def print_losses(losses: dict[str, float]) -> None:
    """One line for each noise level."""
    for name, loss in sorted(losses.items()):
        print(f"{name:<32}{loss:.4f}")


def show_progress(split: str, done: int, total: int) -> None:
    """One line that counts."""
    print(f"\r{split}: {done} of {total} clips", end="\n" if done == total else "", file=sys.stderr, flush=True)
