"""The checkpoint of a run: after whole steps, and after the last one."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

LAST = Path("checkpoints") / "last.ckpt"
"""The one checkpoint a run keeps, in its folder; each takes the place of the one before when it is whole."""


class RunCheckpoint(Checkpoint):
    """Saves every so many steps and at the end, never between the micro-batches of a step.

    A checkpoint in the middle of a step would lose what was accumulated, and a resumed run would not
    equal one that never stopped.

    Args:
        folder: of the run.
        every: steps.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path = folder / LAST
        self.every = every
        self.seen = 0
        """Steps done when last looked."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        has_stepped, self.seen = step != self.seen, step
        if has_stepped and (step % self.every == 0 or step == trainer.max_steps):
            trainer.save_checkpoint(self.path, weights_only=False)
