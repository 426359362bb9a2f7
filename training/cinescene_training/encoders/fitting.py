"""What both encoders' runs share: numbers in place of data, the optimiser, Lightning's Trainer, the file at the end."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from cinescene_core.checks import CheckpointError
from cinescene_core.files import atomic_write

from ..config import OptimiserConfig, RunConfig, as_record
from ..ema import ExponentialAverage, trained_parameters
from ..provenance import commit, machine
from ..samples import RankedNumbers
from ..schedule import learning_rate_factor

RECORD_KEY = "cinescene_training"
"""Metadata key of an encoder's file: the JSON record of the run that made it."""


class EncoderConfig(Protocol):
    """What the configurations of both encoders have."""

    @property
    def name(self) -> str: ...
    @property
    def run(self) -> RunConfig: ...
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
        """This device's share."""
        assert self.trainer is not None
        size = self.config.run.micro_batch
        share = range(self.trainer.global_rank, self.config.validation_samples, self.trainer.world_size)
        batches = [list(share[i : i + size]) for i in range(0, len(share), size)]
        return DataLoader(Numbers(self.config.validation_samples), batch_sampler=batches, collate_fn=list)


def optimisation(module: nn.Module, settings: OptimiserConfig, steps: int) -> dict[str, Any]:
    """AdamW and its schedule; what is one number per channel (norms, biases, gains) does not decay."""
    trained = [parameter for _, parameter in trained_parameters(module)]
    vectors = [parameter for parameter in trained if parameter.numel() == max(parameter.shape)]
    matrices = [parameter for parameter in trained if parameter.numel() > max(parameter.shape)]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
    schedule = LambdaLR(optimiser, lambda step: learning_rate_factor(step, steps, settings))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit_encoder(
    module: pl.LightningModule, config: EncoderConfig, resume: Path | None = None, stop_at: int | None = None
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
        CheckpointError: the checkpoint belongs to another run.
        ValueError: a strategy that splits a network over devices.
    """
    run = config.run
    if run.strategy not in ("auto", "ddp"):
        raise ValueError(
            f"The encoders train whole on each device; got run.strategy '{run.strategy}'. Use auto or ddp."
        )
    average = ExponentialAverage(config.optimiser.ema_decay) if config.optimiser.ema_decay else None
    checkpoints = ModelCheckpoint(
        run.folder / "checkpoints", filename="{step}", every_n_train_steps=run.checkpoint_every,
        save_last=True, save_top_k=1, monitor="step", mode="max",
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="gpu" if run.accelerator == "cuda" else run.accelerator,
        devices=run.devices,
        num_nodes=run.num_nodes,
        strategy=run.strategy,
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
        callbacks=[checkpoints, LearningRateMonitor("step"), *([average] if average else [])],
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=NumberData(config), ckpt_path=resume, weights_only=False)
    if average is not None:
        with torch.no_grad():
            for name, parameter in trained_parameters(module):
                parameter.copy_(average.averages[name])
    measured = {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("validation/")
    }
    return run_record(config) | {"measured": measured}


def run_record(config: EncoderConfig) -> dict[str, Any]:
    """Commit, configuration, seed and machine: what every recorded run names."""
    return {
        "name": config.name,
        "config": as_record(config),
        "seed": config.run.seed,
        "commit": commit(),
        "machine": machine(),
        "torch": torch.__version__,
    }


def check_same_run(checkpoint: Mapping[str, Any], config: EncoderConfig) -> None:
    """Require that a checkpoint belongs to this run: the same configuration, wherever it runs.

    Raises:
        CheckpointError: it was made by another program or configuration; the section that differs is named.
    """
    record = checkpoint.get(RECORD_KEY)
    if not isinstance(record, Mapping):
        raise CheckpointError("This checkpoint was not made by this training. Resume from a .ckpt of the run's folder.")
    had, wanted = (dict(_fixed(settings)) for settings in (record["config"], as_record(config)))
    for name in sorted(had.keys() | wanted.keys()):
        if had.get(name) != wanted.get(name):
            raise CheckpointError(
                f"This checkpoint was trained with {name} = {had.get(name)!r}, but this run says {wanted.get(name)!r}. "
                "Resume with the same configuration, or start a new run."
            )


def _fixed(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What decides a run's result: everything but where it runs."""
    for name, value in record.items():
        if name != "run":
            yield name, value
    for name in ("steps", "batch_size", "seed", "precision"):
        yield f"run.{name}", record["run"][name]


def write_network(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a safetensors file whole or not at all, with JSON records in its metadata.

    Raises:
        OSError: the file cannot be written; no half-made file is left.
    """
    records = {key: json.dumps(record, sort_keys=True) for key, record in metadata.items()}
    with atomic_write(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, records)
    return path
