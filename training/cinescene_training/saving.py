"""The checkpoint of a run: after whole steps, and after the last one."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from cinescene_core.checks import CheckpointError
from cinescene_core.files import atomic_write

LAST = Path("checkpoints") / "last.ckpt"
"""The one checkpoint a run keeps, in its folder; each takes the place of the one before when it is whole."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Open a checkpoint; its tensors are read from the disk when they are used.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or no checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch names a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path.name} cannot be read as a checkpoint ({str(error).partition('. ')[0]}). It is damaged or something "
            "else. Take another one, or start the run again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__} and no checkpoint. Take another one.")
    return content


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, straight into their folder.

    Lightning's own way makes the file in memory first, and then in the system's folder for temporary files.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: the disk is full or the folder cannot be written; the checkpoint before stays as it was.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # after a write that failed, torch says that its archive has no end
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


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
        if trainer.is_global_zero:
            for half in self.path.parent.glob(f".{self.path.stem}-*{self.path.suffix}"):
                half.unlink()  # a run was killed while it wrote one

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        has_stepped, self.seen = step != self.seen, step
        if has_stepped and (step % self.every == 0 or step == trainer.max_steps):
            trainer.save_checkpoint(self.path, weights_only=False)
