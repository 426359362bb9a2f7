"""The transformer's training step, wired to Lightning. The maths is in `loss`, the draws in `samples`."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from .building import build_network
from .checkpoints import RECORD, check_same_run, identity, run_record
from .config import TrainingConfig
from .loss import flow_matching_loss
from .network import SceneNetwork
from .optimiser import optimisation
from .precision import keep_in_float32
from .samples import PADDING, ClipBatch
from .sharding import shard


class ShotModule(pl.LightningModule):
    """Trains a `SceneNetwork` by flow matching (section 5.1).

    Args:
        config: the run.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.network: SceneNetwork | None = None
        self.losses: list[dict[str, Tensor]] = []
        """Of the micro-batches since the last step, by name."""
        self.sums = torch.zeros(0)
        """[levels, 2] of the validation under way: sums of losses, and how many."""

    def configure_model(self) -> None:
        """Build the network once the strategy is there; sharding strategies split it block by block."""
        if self.network is not None:
            return
        self.network, self.base_record = build_network(
            self.config.model, self.config.run.seed, guided=self.config.objective.guide_weight > 0
        )
        self.network.transformer.gradient_checkpointing = self.config.model.gradient_checkpointing
        if self.config.run.precision == "bf16-mixed":
            keep_in_float32(self.network)
        if self.config.run.compiled:
            for block in self.network.transformer.blocks:
                block.compile()
        if self.config.run.strategy == "fsdp":
            assert self.device_mesh is not None
            shard(self.network, self.device_mesh)

    def on_fit_start(self) -> None:
        self.record = run_record(
            self.config, identity(self.config)
        )  # once: the files it reads may move while the run goes on

    def forward(self, batch: ClipBatch) -> Tensor:
        """Velocity [b, 16, t, h, w] of a batch."""
        assert self.network is not None
        return self.network(batch.noisy(), batch.sigma, batch.text, batch.poses, batch.scene)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        loss = flow_matching_loss(self(batch), batch.video, batch.noise).mean()
        losses = {"loss": loss.detach()}
        assert self.network is not None
        for name, guide in self.network.guide_losses(batch.clip_features).items():
            losses[name] = guide.detach()
            loss = loss + self.config.objective.guide_weight * guide
        self.losses.append(losses)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the step's losses, means over its micro-batches and devices."""
        for name in self.losses[0]:
            mean = torch.stack([losses[name] for losses in self.losses]).mean()
            self.log(f"train/{name}", mean, prog_bar=True, sync_dist=True)
        self.losses.clear()

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(len(self.config.validation.sigmas), 2, device=self.device, dtype=torch.float64)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        losses = flow_matching_loss(self(batch), batch.video, batch.noise)
        levels = torch.tensor(self.config.validation.sigmas, device=self.device)
        for name, sigma, loss in zip(batch.names, batch.sigma, losses, strict=True):
            if name != PADDING:
                row = int((levels - sigma).abs().argmin())
                self.sums[row] += torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])

    def on_validation_epoch_end(self) -> None:
        self.log_levels("validation")

    def log_levels(self, split: str) -> None:
        """Log the loss of each noise level, and their mean; the same noise every time."""
        gathered = self.all_gather(self.sums)
        assert isinstance(gathered, Tensor)
        total = gathered.reshape(-1, *self.sums.shape).sum(0)
        means = total[:, 0] / total[:, 1]
        for sigma, mean in zip(self.config.validation.sigmas, means, strict=True):
            self.log(f"{split}/loss_sigma_{sigma:g}", mean.float())
        self.log(f"{split}/loss", means.mean().float(), prog_bar=True)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.log_levels("test")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the trained parameters; vectors (norms, biases, gains) do not decay."""
        return optimisation(self, self.config.optimiser, self.config.run.steps, lambda parameter: parameter.ndim > 1)

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        return batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = self.record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_run(checkpoint, self.config)
