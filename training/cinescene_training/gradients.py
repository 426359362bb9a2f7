"""The gradient of each step: how long it is, and that it is one."""

import pytorch_lightning as pl
from torch.optim import Optimizer

from .strategies import gradient_norm, not_finite


class GradientNorm(pl.Callback):
    """Logs the length of each step's gradient, before it is clipped, and ends a run whose gradient is not finite.

    One step along such a gradient makes every weight NaN, and the next checkpoint would replace the last good one.
    """

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        """See the class.

        Raises:
            FloatingPointError: the gradient holds NaN or infinity; the weights are still those of the step before.
        """
        norm = gradient_norm(module)
        module.log("train/gradient_norm", norm)
        if not norm.isfinite():
            raise FloatingPointError(not_finite(trainer.global_step + 1))
