"""The flow's loss against its definition."""

import pytest
import torch

from cinescene_core.checks import ShapeError
from cinescene_training.config import OptimiserConfig
from cinescene_training.loss import flow_matching_loss
from cinescene_training.schedule import learning_rate_factor


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_squared_distance_to_noise_minus_video():
    video, noise, velocity = (randn(seed, 2, 16, 3, 4, 6) for seed in range(3))
    for i, found in enumerate(flow_matching_loss(velocity, video, noise)):
        total = sum(
            (float(v) - (float(n) - float(x))) ** 2
            for v, n, x in zip(velocity[i].flatten(), noise[i].flatten(), video[i].flatten(), strict=True)
        )
        assert float(found) == pytest.approx(total / video[i].numel(), rel=1e-5)
    assert torch.equal(flow_matching_loss(noise - video, video, noise), torch.zeros(2))


def test_a_perfect_velocity_leads_from_noise_to_video():
    video, noise = randn(0, 1, 16, 2, 4, 4), randn(1, 1, 16, 2, 4, 4)
    x = noise
    for sigma, target in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        x = x + (target - sigma) * (noise - video)
    torch.testing.assert_close(x, video, rtol=0, atol=1e-6)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match="noise"):
        flow_matching_loss(randn(0, 1, 16, 2, 4, 4), randn(0, 1, 16, 2, 4, 4), randn(0, 1, 16, 3, 4, 4))


def test_the_learning_rate_warms_up_and_falls_as_said():
    cosine = OptimiserConfig(warmup_steps=10, schedule="cosine")
    factors = [learning_rate_factor(step, 110, cosine) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.01 + 0.99 / 2)
    assert factors[110] == pytest.approx(0.01)
    constant = OptimiserConfig(warmup_steps=5)
    assert [learning_rate_factor(step, 50, constant) for step in (4, 5, 49)] == [1.0, 1.0, 1.0]
