"""AdamW over what trains, and its schedule."""

from collections.abc import Callable

from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from .config import OptimiserConfig
from .ema import trained_parameters
from .schedule import learning_rate_factor


def optimisation(
    module: nn.Module, settings: OptimiserConfig, steps: int, decays: Callable[[nn.Parameter], bool]
) -> OptimizerLRSchedulerConfig:
    """AdamW over the trained parameters, and its schedule.

    Args:
        module: what trains.
        settings: learning rate, moments, weight decay, warm-up and schedule.
        steps: of the whole run.
        decays: which parameters have weight decay.
    """
    trained = [parameter for _, parameter in trained_parameters(module)]
    groups = [
        {"params": [p for p in trained if decays(p)], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if not decays(p)], "weight_decay": 0.0},
    ]
    optimiser = AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
    schedule = LambdaLR(optimiser, lambda step: learning_rate_factor(step, steps, settings))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
