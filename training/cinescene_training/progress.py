"""One line that says how far a run is."""

from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm


class ProgressLine(pl.Callback):
    """Counts steps, over resumes, and shows the last losses."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        total = trainer.max_steps
        self.line: Any = tqdm(total=total, initial=trainer.global_step, unit="step", disable=not trainer.is_global_zero)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.line.n:
            shown = {name: f"{float(value):.4f}" for name, value in trainer.progress_bar_metrics.items()}
            self.line.set_postfix(shown, refresh=False)
            self.line.update(trainer.global_step - self.line.n)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.line.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "line"):
            self.line.close()
