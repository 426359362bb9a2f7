"""What both encoders' runs share: numbers in place of data, the module's hooks, Lightning's Trainer, the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cinescene_core.files import atomic_write

from ..checkpoints import RECORD, NamedRun, check_same_identity, check_same_precision, run_record
from ..config import OptimiserConfig, deciding_settings
from ..ema import ExponentialAverage, trained_parameters
from ..gradients import GradientNorm
from ..optimiser import optimisation
from ..provenance import file_digest
from ..samples import RankedNumbers, shares
from ..saving import CheckpointFiles, RunCheckpoint, read_checkpoint

BESIDE_THE_RESULT = ("name", "start_from", "run")
"""Sections and fields that do not decide what a run ends with; a file counts by its content."""
RECORD_KEY = "cinescene_training"
"""Metadata key of an encoder's file: the JSON record of the run that made it."""


class EncoderConfig(NamedRun, Protocol):
    """What the configurations of both encoders have."""

    @property
    def optimiser(self) -> OptimiserConfig: ...
    @property
    def validation_every(self) -> int: ...
    @property
    def validation_samples(self) -> int: ...


class Numbers(Dataset[int]):
    """Sample numbers; the module makes the samples, on its own device."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        return number


class NumberData(pl.LightningDataModule):
    """Loaders of sample numbers; training goes on from the step at which the trainer stands."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config

    def train_dataloader(self) -> DataLoader[int]:
        assert self.trainer is not None
        run = self.config.run
        numbers = RankedNumbers(run, self.trainer.global_rank, self.trainer.global_step)
        return DataLoader(Numbers(run.steps * run.batch_size), batch_sampler=numbers, collate_fn=list)

    def val_dataloader(self) -> DataLoader[int]:
        """This device's share; numbers from `validation_samples` on are padding."""
        assert self.trainer is not None
        batches = shares(self.config.validation_samples, self.trainer.world_size, self.config.run.micro_batch)
        share = batches[self.trainer.global_rank]
        return DataLoader(Numbers(self.config.validation_samples), batch_sampler=share, collate_fn=list)


class EncoderModule(pl.LightningModule):
    """What both encoders' modules do alike: optimiser, means over the validation, checkpoints.

    Args:
        config: the run.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sums: dict[str, Tensor] = {}
        """[2] by name, of the validation under way: sum over the samples, and how many they are."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; what is one number per channel (norms, biases, gains) does not decay."""
        return optimisation(
            self,
            self.config.optimiser,
            self.config.run.steps,
            lambda parameter: parameter.numel() > max(parameter.shape),
        )

    def on_validation_epoch_start(self) -> None:
        self.sums = {}

    def counted(self, numbers: list[int]) -> list[int]:
        """A validation batch without its padding; the first sample stands for a batch of padding alone.

        A forward pass may be a meeting of all devices, so a device whose samples are used up still makes one.
        """
        return [number for number in numbers if number < self.config.validation_samples] or [0]

    def add_means(self, numbers: list[int], means: Mapping[str, Tensor]) -> None:
        """Count means over the samples that `counted` left of a batch, by name; padding alone weighs nothing."""
        weight = sum(number < self.config.validation_samples for number in numbers)
        for name, mean in means.items():
            added = torch.stack([weight * mean.double(), mean.new_tensor(weight, dtype=torch.float64)])
            self.sums[name] = self.sums.get(name, 0) + added

    def on_validation_epoch_end(self) -> None:
        """Log means over the samples of all devices."""
        for name, sums in self.sums.items():
            gathered = self.all_gather(sums)
            assert isinstance(gathered, Tensor)
            total, count = gathered.reshape(-1, 2).sum(0)
            self.log(f"validation/{name}", (total / count).float())

    def on_fit_start(self) -> None:
        self.record = run_record(self.config, identity(self.config))  # once: the file it reads may move meanwhile

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = self.record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_identity(checkpoint, identity(self.config))


def identity(config: EncoderConfig) -> dict[str, Any]:
    """What decides a run's result, by dotted name: its settings, and the content of the file it starts from.

    Raises:
        CheckpointError: that file is missing or damaged.
    """
    start: Path | None = getattr(config, "start_from", None)
    return deciding_settings(config, BESIDE_THE_RESULT) | {"start_from": "" if start is None else file_digest(start)}


def fit_encoder(
    module: EncoderModule, config: EncoderConfig, resume: Path | None = None, stop_at: int | None = None
) -> dict[str, Any]:
    """Train; the module ends with its averaged weights, where the run keeps them.

    Args:
        module: with a `network`.
        config: of the run.
        resume: a checkpoint of this run; the result equals that of a run that never stopped.
        stop_at: stop after that step as if interrupted.

    Returns:
        The record of the run: commit, configuration, seed and machine, and what was measured last.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another run.
        ValueError: a strategy that splits a network over devices.
        FloatingPointError: a gradient is not finite.
        OSError: a checkpoint cannot be written; the one before stays.
    """
    run = config.run
    if run.strategy not in ("auto", "ddp"):
        raise ValueError(
            f"The encoders train whole on each device; got run.strategy '{run.strategy}'. Use auto or ddp."
        )
    shared = run.strategy == "ddp" or run.devices * run.num_nodes > 1
    average = ExponentialAverage(config.optimiser.ema_decay) if config.optimiser.ema_decay else None
    callbacks = [RunCheckpoint(run.folder, run.checkpoint_every), GradientNorm(), LearningRateMonitor("step")]
    if resume is not None:
        check_same_precision(read_checkpoint(resume), run)
    trainer = pl.Trainer(
        accelerator="gpu" if run.accelerator == "cuda" else run.accelerator,
        devices=run.devices,
        num_nodes=run.num_nodes,
        # A step of single pictures does not reach the VAE's layers that join frames.
        strategy=DDPStrategy(find_unused_parameters=True) if shared else "auto",
        precision=run.precision,
        max_steps=run.steps if stop_at is None else stop_at,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=config.optimiser.clip_norm,
        val_check_interval=config.validation_every * run.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=run.log_every,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.folder, name="logs", version=""),
        callbacks=[*callbacks, *([average] if average else [])],
        plugins=CheckpointFiles(),
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=NumberData(config), ckpt_path=resume, weights_only=True)
    if average is not None:
        with torch.no_grad():
            for name, parameter in trained_parameters(module):
                parameter.copy_(average.averages[name])
    measured = {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("validation/")
    }
    return module.record | {"measured": measured}


def write_network(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a safetensors file whole or not at all, with JSON records in its metadata.

    Raises:
        OSError: the file cannot be written; no half-made file is left.
    """
    records = {key: json.dumps(record, sort_keys=True) for key, record in metadata.items()}
    with atomic_write(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, records)
    return path
