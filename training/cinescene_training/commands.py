"""What each command does: read the configuration, call the studio, print what came of it."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cinescene_core.files import check_target

from .ablate import ABLATIONS, run_ablations
from .bundle import make_bundle
from .config import RunConfig, TrainingConfig, load_config
from .data.build import build_cache
from .data.cache import EncodedCache
from .data.calibrate import run_calibration
from .data.footage import SPLITS, Split
from .data.shards import DamagedShardError
from .encoders.vae_module import VAETrainingConfig, fit_vae
from .encoders.vggt_module import VGGTTrainingConfig, fit_vggt
from .evaluate import EvaluationOptions
from .evaluate import run_evaluate as evaluate_into
from .export import export
from .render.options import jobs_of, load_render_config, rooms_of
from .render.writing import OnProgress, write_rooms, write_sets
from .saving import LAST
from .settings import SettingsError, build, read_settings
from .train import encode_rooms, fit, last_checkpoint, test, validate

PROCESS_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""What a launcher sets for each process of a run on several devices."""


def run_render(options: argparse.Namespace) -> None:
    """Write rendered places; those that stand are kept."""
    config = load_render_config(options.config, options.set)
    if config.rooms is not None:
        footage = rooms_of(config)
        written, places = write_rooms(config.out, footage, progress_of("places")), len(footage.places)
    else:
        jobs = jobs_of(config)
        written, places = write_sets(jobs, progress_of("pictures")), len(jobs)
    print(f"{config.out}: {places} places, {written} of them new")


def run_calibrate(options: argparse.Namespace) -> None:
    """Fit the panoramas and the lens of a run's dataset into its calibration file, and print how well.

    Raises:
        SettingsError: the run reads data of another kind, or names no calibration file.
    """
    source = load_config(options.config, options.set).cache.source
    if source.kind != "scene_decoupled" or source.root is None:
        raise SettingsError(
            f"{options.config.name} reads {source.kind}, which need no calibration. Give a configuration whose "
            "cache.source.kind is scene_decoupled."
        )
    if source.calibration is None:
        raise SettingsError(
            f"{options.config.name} does not say where the calibration goes. Set cache.source.calibration to a .json "
            "file, which cache and fit then read."
        )
    source.calibration.parent.mkdir(parents=True, exist_ok=True)
    print(run_calibration(source.root, source.calibration, options.max_places))


def run_cache(options: argparse.Namespace) -> None:
    """Encode, and print what there is and what is missing."""
    config = load_config(options.config, options.set)
    if options.verify:
        only = config.cache.source.only
        verify_cache(config.cache.folder, SPLITS if only is None else (only,))
        return
    report = build_cache(config.cache, device=options.device, workers=options.workers, on_progress=show_progress)
    print(report)


def verify_cache(folder: Path, splits: Sequence[Split]) -> None:
    """Read every shard of a cache and print how each split stands.

    Raises:
        DamagedShardError: some are damaged; the sentence names them all.
    """
    damaged = []
    for split in splits:
        cache = EncodedCache(folder, split)
        try:
            cache.verify()
            print(f"{split}: {len(cache)} clips, every shard as its digest says")
        except DamagedShardError as error:
            damaged.append(f"{split}: {error}")
    if damaged:
        raise DamagedShardError(" ".join(damaged))


def run_fit(options: argparse.Namespace) -> None:
    """Train what the configuration's task is."""
    record = read_settings(options.config, options.set)
    task = record.get("task", "shot")
    if task == "shot":
        fit_shot(load_config(options.config, options.set), options.resume)
        return
    if task not in ("vggt", "vae"):
        raise SettingsError(f"{options.config.name}: task must be one of shot, vggt, vae; got {task!r}.")
    if task == "vggt":
        vggt = build(VGGTTrainingConfig, record)
        print(fit_vggt(vggt, resume=resume_from(vggt.run, options.resume)))
    else:
        vae = build(VAETrainingConfig, record)
        print(fit_vae(vae, resume=resume_from(vae.run, options.resume)))


def resume_from(run: RunConfig, given: Path | None) -> Path | None:
    """The checkpoint that --resume names, or the run's last where it names none; None without --resume.

    Raises:
        FileNotFoundError: there is no checkpoint to resume from.
        FileExistsError: without --resume, the folder holds a run, whose checkpoint a new one would replace.
    """
    last = run.folder / LAST
    if given is None and last.exists():
        raise FileExistsError(
            f"{run.folder} holds a run already. Go on with it by --resume, or set run.folder to another folder."
        )
    resume = last if given == Path("last") else given
    if resume is not None and not resume.is_file():
        raise FileNotFoundError(f"There is no checkpoint {resume}. Leave --resume out to start the run.")
    return resume


def fit_shot(config: TrainingConfig, given: Path | None) -> None:
    """Train the transformer, encoding rooms first where that is not done.

    Raises:
        FileNotFoundError, FileExistsError: as `resume_from`.
    """
    resume = resume_from(config.run, given)
    # Of several processes none but the first, which starts the others, may encode.
    if not any(name in os.environ for name in PROCESS_VARIABLES):
        report = encode_rooms(config, show_progress)
        if report is not None:
            print(report)
    print(fit(config, resume=resume))


def run_bundle(options: argparse.Namespace) -> None:
    """Join encoders in one file."""
    check_target(options.out)
    make_bundle(options.vae, options.vggt, options.out, text_width=options.text_width)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")


def run_export(options: argparse.Namespace) -> None:
    """Write the transformer, and print its size."""
    config = load_config(options.config, options.set)
    check_target(options.out)
    record = export(config, checkpoint_of(config, options), options.out, bundle=options.bundle)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB, {record.context_attention} context")


def run_validate(options: argparse.Namespace) -> None:
    """Print the losses of a checkpoint on the validation clips."""
    config = load_config(options.config, options.set)
    print_losses(validate(config, checkpoint_of(config, options)))


def run_test(options: argparse.Namespace) -> None:
    """Print the losses of a checkpoint on the test clips."""
    config = load_config(options.config, options.set)
    print_losses(test(config, checkpoint_of(config, options)))


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure a checkpoint on videos; print the table."""
    config = load_config(options.config, options.set)
    checkpoint = checkpoint_of(config, options)
    print(evaluate_into(config, checkpoint, evaluation_options(options), options.out, progress_of("videos")))


def run_ablate(options: argparse.Namespace) -> None:
    """Train and measure ablations; print the comparison."""
    base = load_config(options.config, options.set)
    names = list(ABLATIONS) if "all" in options.names else options.names
    print(run_ablations(names, base, evaluation_options(options)).read_text(encoding="utf-8"))


def evaluation_options(options: argparse.Namespace) -> EvaluationOptions:
    """The options of `add_evaluation`."""
    names = [field.name for field in dataclasses.fields(EvaluationOptions)]
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return EvaluationOptions(**(given | {"seeds": tuple(options.seeds), "interventions": tuple(options.interventions)}))


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


def show_progress(what: str, done: int, total: int) -> None:
    """One line that counts."""
    print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def progress_of(what: str) -> OnProgress:
    """`show_progress` of one thing."""
    return partial(show_progress, what)
