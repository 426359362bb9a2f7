"""Runs of the transformer: Lightning's Trainer from a configuration, with exact resume."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from cinescene_core.devices import default_device

from .callbacks import ValidationVideos
from .checkpoints import check_same_precision
from .config import TrainingConfig
from .data.build import CacheReport, OnProgress, build_cache
from .data.cache import EncodedCache
from .data.fingerprint import fingerprint_of
from .ema import ExponentialAverage
from .gradients import GradientNorm
from .module import ShotModule
from .progress import ProgressLine
from .samples import ClipBatch, RankedNumbers, TrainingSamples, ValidationSamples, shares, stack
from .saving import LAST, CheckpointFiles, RunCheckpoint, read_checkpoint
from .strategies import strategy_of

SPLITS_OF_STAGE = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}


def encode_rooms(config: TrainingConfig, on_progress: OnProgress | None = None) -> CacheReport | None:
    """Encode the rooms of a run where that is not done, on the device that trains.

    Returns:
        What was done; None for a run of other data, which `cinescene-train cache` encodes.

    Raises:
        ValueError, OSError: as `build_cache`.
    """
    if config.cache.source.kind != "rooms":
        return None
    device = "cpu" if config.run.accelerator == "cpu" else default_device()
    return build_cache(config.cache, device=device, on_progress=on_progress)


def open_cache(config: TrainingConfig, split: str) -> EncodedCache:
    """The encoded clips of one split; see `EncodedCache` for what is refused."""
    return EncodedCache(config.cache.folder, split, fingerprint_of(config.cache))


class ClipData(pl.LightningDataModule):
    """Loaders of the encoded samples of a run."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config

    def setup(self, stage: str) -> None:
        self.caches = {split: open_cache(self.config, split) for split in SPLITS_OF_STAGE[stage]}

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """Samples from the step on at which the trainer stands."""
        assert self.trainer is not None
        numbers = RankedNumbers(self.config.run, self.trainer.global_rank, self.trainer.global_step)
        return self._loader(TrainingSamples(self.caches["train"], self.config), batch_sampler=numbers)

    def val_dataloader(self) -> DataLoader[ClipBatch]:
        """This device's share of the validation samples."""
        return self._held_out("validation")

    def test_dataloader(self) -> DataLoader[ClipBatch]:
        """This device's share of as many test samples."""
        return self._held_out("test")

    def _held_out(self, split: str) -> DataLoader[ClipBatch]:
        assert self.trainer is not None
        samples = ValidationSamples(self.caches[split], self.config)
        numbers = shares(len(samples), self.trainer.world_size, self.config.run.micro_batch)
        return self._loader(samples, batch_sampler=numbers[self.trainer.global_rank])

    def _loader(self, samples: TrainingSamples | ValidationSamples, batch_sampler: object) -> DataLoader[ClipBatch]:
        workers = self.config.run.workers
        return DataLoader(
            samples,
            batch_sampler=batch_sampler,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=stack,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )


def fit(config: TrainingConfig, *, resume: Path | None = None, stop_at: int | None = None) -> Path:
    """Train.

    Args:
        config: the run.
        resume: a checkpoint of this run; the result equals that of a run that never stopped.
        stop_at: stop after that step as if interrupted.

    Returns:
        The last checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another run, or the starting file to another mode.
        ValueError: the cache is not what the configuration says.
        FloatingPointError: a gradient is not finite.
        OSError: a checkpoint cannot be written; the one before stays.
    """
    if resume is not None:
        check_same_precision(read_checkpoint(resume), config.run)
    trainer = build_trainer(config, training=True, stop_at=stop_at)
    trainer.fit(ShotModule(config), datamodule=ClipData(config), ckpt_path=resume, weights_only=True)
    return last_checkpoint(config)


def validate(config: TrainingConfig, checkpoint: Path) -> dict[str, float]:
    """Losses of a checkpoint's averaged weights on the validation clips, by noise level.

    Raises:
        CheckpointError: the checkpoint is damaged, belongs to another run, or lacks the averaged weights.
        ValueError: the cache is not what the configuration says.
    """
    return _losses(build_trainer(config).validate, config, checkpoint)


def test(config: TrainingConfig, checkpoint: Path) -> dict[str, float]:
    """Losses of a checkpoint's averaged weights on clips of the test split, by noise level.

    Raises:
        CheckpointError, ValueError: as `validate`.
    """
    return _losses(build_trainer(config).test, config, checkpoint)


def _losses(measure: Any, config: TrainingConfig, checkpoint: Path) -> dict[str, float]:
    """What the Trainer's `validate` or `test` finds."""
    read_checkpoint(checkpoint)
    (losses,) = measure(
        ShotModule(config), datamodule=ClipData(config), ckpt_path=checkpoint, weights_only=True, verbose=False
    )
    return dict(losses)


def last_checkpoint(config: TrainingConfig) -> Path:
    """The checkpoint a run ends with."""
    return config.run.folder / LAST


def build_trainer(config: TrainingConfig, *, training: bool = False, stop_at: int | None = None) -> pl.Trainer:
    """Lightning's Trainer as the run wants it; one that only measures writes nothing into the run's folder."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)  # tips and advertisements
    run = config.run
    return pl.Trainer(
        accelerator="gpu" if run.accelerator == "cuda" else run.accelerator,
        devices=run.devices,
        num_nodes=run.num_nodes,
        strategy=strategy_of(config),
        precision=run.precision,
        max_steps=run.steps if stop_at is None else stop_at,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=config.optimiser.clip_norm,
        val_check_interval=config.validation.every * run.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=run.log_every,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.folder, name="logs", version="") if training else False,
        callbacks=callbacks_of(config, training=training),
        plugins=CheckpointFiles(),
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=training,
    )


def callbacks_of(config: TrainingConfig, *, training: bool) -> list[Callback]:
    """Averaged weights; and in training checkpoints, gradient, learning rate, progress, and videos if wanted."""
    callbacks: list[Callback] = []
    if training:
        callbacks += [
            RunCheckpoint(config.run.folder, config.run.checkpoint_every),
            GradientNorm(),
            LearningRateMonitor("step"),
            ProgressLine(),
        ]
    if config.optimiser.ema_decay:
        callbacks.append(ExponentialAverage(config.optimiser.ema_decay))
    if training and config.validation.videos:
        callbacks.append(ValidationVideos(config))
    return callbacks
