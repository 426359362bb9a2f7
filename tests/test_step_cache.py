"""The first-block cache: exact where it should be, and what it skips."""

import pytest
import torch
from tiny_shots import film, tiny_model

from cinescene_core.step_cache import StepCache, is_near


@pytest.fixture
def model():
    return tiny_model()


def count_blocks(model):
    """Indices of the blocks as they run."""
    run = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: run.append(index))
    return run


@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_a_threshold_that_nothing_meets_changes_nothing(model, mode):
    plain = film(model, mode, steps=4)
    cache = StepCache(1e-12)
    assert torch.equal(film(model, mode, steps=4, step_cache=cache), plain)
    assert (cache.forwards, cache.skipped) == (8, 0)


@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_a_threshold_that_everything_meets_computes_each_branch_once(model, mode):
    run, cache = count_blocks(model), StepCache(1e9)
    film(model, mode, steps=4, step_cache=cache)
    assert (cache.forwards, cache.skipped) == (8, 6)
    assert run == [0, 1] * 2 + [0] * 6


def test_what_is_left_out_is_added_as_it_was_last(model):
    """Block by block by hand: the first on the new tokens, then what the second added to the old."""
    cache = StepCache(1e9)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 16, 2, 4, 6, generator=generator) for _ in range(2))
    timestep, text = torch.tensor([500.0]), torch.randn(1, 5, model.config.text_width, generator=generator)
    seen = {}

    def keep(index):
        return lambda _, inputs, output: seen.setdefault(index, []).append((inputs[0], output))

    for index, block in enumerate(model.blocks):
        block.register_forward_hook(keep(index))
    reached = []
    model.head.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    with torch.no_grad():
        for video in (first, second):
            with cache.following(model, "positive"):
                model(video, timestep, text)
    assert cache.skipped == 1
    start, end = seen[1][0]
    assert torch.equal(reached[1], seen[0][1][1] + (end - start))


def test_branches_are_followed_apart(model):
    """With one memory for both, the second branch would meet its threshold at once."""
    cache = StepCache(1e9)
    film(model, steps=1, step_cache=cache)
    assert (cache.forwards, cache.skipped) == (2, 0)


def test_a_shot_starts_anew_and_leaves_the_model_as_it_was(model):
    cache = StepCache(0.3)
    first = film(model, steps=6, step_cache=cache)
    counts = cache.forwards, cache.skipped
    assert torch.equal(film(model, steps=6, step_cache=cache), first)
    assert (cache.forwards, cache.skipped) == counts
    assert "run_block" not in vars(model)


def test_a_failing_forward_leaves_the_model_as_it_was(model):
    with pytest.raises(RuntimeError, match="stop"), StepCache(1.0).following(model, "positive"):
        raise RuntimeError("stop")
    assert "run_block" not in vars(model)


def test_near_is_relative_to_what_was():
    old = torch.full((2, 3), 2.0)
    assert is_near(old + 0.1, old, 0.051)
    assert not is_near(old + 0.1, old, 0.049)
    assert not is_near(old, None, 1.0)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_is_above_zero(threshold):
    with pytest.raises(ValueError, match=r"StepCache\.threshold must be a positive number; got"):
        StepCache(threshold)
