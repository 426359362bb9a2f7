"""Averaged weights: validated and exported in place of the last step's."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed import get_rank, is_initialized
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from cinescene_core.checks import CheckpointError


class ExponentialAverage(pl.Callback):
    """Keeps `average = decay * average + (1 - decay) * weights` of the trained parameters after every step.

    Early in a run the decay is `(1 + step) / (10 + step)` where that is less, so that the average
    does not remember the start. The average is part of the checkpoint; sharded parameters have
    sharded averages.

    Args:
        decay: between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"optimiser.ema_decay must lie between 0 and 1, or be 0 for no average; got {decay}.")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}
        self.steps = 0

    @torch.no_grad()
    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        restored, self.averages = self.averages, {}
        for name, parameter in trained_parameters(module):
            self.averages[name] = _like(restored[name], parameter) if restored else parameter.detach().clone()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.steps:
            return  # a micro-batch of an unfinished step
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in trained_parameters(module):
            self.averages[name].lerp_(parameter.detach().to(self.averages[name].dtype), 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._swap(module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._swap(module)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._swap(module)

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._swap(module)

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        """Exchange weights and averages, in place.

        Raises:
            CheckpointError: the checkpoint that is measured holds no averages.
        """
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()  # a forward pass leaves the outermost weights gathered
        for name, parameter in trained_parameters(module):
            if name not in self.averages:
                raise CheckpointError(no_averages("The checkpoint", self.decay))
            weight = parameter.detach().clone()
            parameter.copy_(_like(self.averages[name], parameter))
            self.averages[name] = weight

    def state_dict(self) -> dict[str, Any]:
        averages = {}
        for name, value in self.averages.items():
            whole = _whole(value)  # gathering takes every device; one keeps it
            if not is_initialized() or get_rank() == 0:
                averages[name] = whole.cpu()
        return {"steps": self.steps, "averages": averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]
        self.averages = dict(state_dict["averages"])


def no_averages(checkpoint: str, decay: float) -> str:
    """The sentence for a checkpoint that lacks what its run keeps."""
    return (
        f"{checkpoint} holds no averaged weights, but this run keeps them (optimiser.ema_decay {decay:g}). Take "
        "another one of the run's folder."
    )


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that train."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A saved average, placed and sharded as the parameter."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter)
