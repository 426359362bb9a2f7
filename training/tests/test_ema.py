"""Averaged weights: the formula, and that validation borrows them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cinescene_core.checks import CheckpointError
from cinescene_training.ema import ExponentialAverage


def step(average, module, number, value):
    with torch.no_grad():
        module.weight.fill_(value)
    average.on_train_batch_end(SimpleNamespace(global_step=number), module, None, None, 0)


def test_the_average_is_that_of_the_formula():
    module, average = nn.Linear(1, 1, bias=False), ExponentialAverage(0.5)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average.on_train_start(None, module)
    expected = 1.0
    for number, value in enumerate([3.0, -1.0, 4.0, 0.5], start=1):
        step(average, module, number, value)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    assert float(average.averages["weight"]) == pytest.approx(expected, rel=1e-6)


def test_micro_batches_of_one_step_count_once():
    module, average = nn.Linear(1, 1, bias=False), ExponentialAverage(0.5)
    average.on_train_start(None, module)
    step(average, module, 1, 5.0)
    kept = average.averages["weight"].clone()
    step(average, module, 1, 9.0)
    assert torch.equal(average.averages["weight"], kept)


def test_validation_sees_the_averages_and_training_its_weights():
    module, average = nn.Linear(1, 1, bias=False), ExponentialAverage(0.5)
    average.on_train_start(None, module)
    step(average, module, 1, 5.0)
    averaged = float(average.averages["weight"])
    average.on_validation_start(None, module)
    assert module.weight.item() == averaged != 5.0
    average.on_validation_end(None, module)
    assert (module.weight.item(), float(average.averages["weight"])) == (5.0, averaged)


def test_frozen_weights_have_no_average():
    module, average = nn.Linear(1, 1), ExponentialAverage(0.9)
    module.bias.requires_grad_(False)
    average.on_train_start(None, module)
    assert set(average.averages) == {"weight"}


def test_a_checkpoint_without_averages_is_not_measured_by_its_last_weights():
    average = ExponentialAverage(0.9)
    with pytest.raises(
        CheckpointError, match=r"holds no averaged weights, .*optimiser\.ema_decay 0\.9\)\. Take another"
    ):
        average.on_validation_start(None, nn.Linear(1, 1))


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=r"optimiser.ema_decay must lie between 0 and 1, or be 0 for no average; got"):
        ExponentialAverage(decay)
