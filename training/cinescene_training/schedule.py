"""Learning rate over the steps of a run."""

import math

from .config import OptimiserConfig


def learning_rate_factor(step: int, total: int, config: OptimiserConfig) -> float:
    """Share of the learning rate at a step: a linear warm-up, then constant, or a half cosine down to 1 %."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(total - config.warmup_steps, 1)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
