"""The schedule, the solvers against closed forms and diffusers, guidance, and one shot through the network."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from cinescene_core.checks import Interrupted, ShapeError
from cinescene_core.config import LATENT_MEAN, LATENT_STD, SamplingConfig, WanConfig
from cinescene_core.context import temporal_positions
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.sampler import (
    SOLVERS,
    denoise,
    flow_sigmas,
    guided_velocity,
    make_noise,
    sample_latents,
    shot_shape,
)
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Context

# The schedule


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 15.0])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_sigmas_fall_from_one_to_zero(steps, shift):
    sigmas = flow_sigmas(steps, shift)
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (steps + 1, 1, 0)
    assert (sigmas.diff() < 0).all()


def test_shift_one_keeps_equal_steps():
    torch.testing.assert_close(flow_sigmas(4, 1.0), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))


def test_shift_fifteen_spends_the_steps_on_noise():
    # Half way, u = 1/2 gives shift / (shift + 1); 63 % of the noise levels lie above 0.9.
    sigmas = flow_sigmas(1000, 15.0)
    assert sigmas[500] == pytest.approx(15 / 16)
    assert (sigmas > 0.9).double().mean() == pytest.approx(0.625, abs=0.002)


# The solvers

MEAN, SPREAD = 0.7, 0.4


def gaussian_velocity(latents, sigma):
    """The exact velocity when all videos are draws of N(MEAN, SPREAD^2): E[noise - latents | noisy]."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    score = (latents - (1 - sigma) * MEAN) / variance
    return sigma * score - (MEAN + (1 - sigma) * SPREAD**2 * score)


def gaussian_error(solver, steps, shift=3.0):
    """Root mean square distance to the exact end of the flow, which maps noise z to MEAN + SPREAD z."""
    noise = make_noise((500, 1, 1), seed=0).double()
    config = SamplingConfig(steps=steps, shift=shift, solver=solver)
    reached = denoise(gaussian_velocity, noise, config)
    return (reached - (MEAN + SPREAD * noise)).square().mean().sqrt().item()


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_straight_path_is_followed_exactly(solver, steps):
    noise = make_noise((2, 3), seed=1).double()
    clean = make_noise((2, 3), seed=2).double()
    reached = denoise(lambda latents, sigma: noise - clean, noise, SamplingConfig(steps=steps, solver=solver))
    torch.testing.assert_close(reached, clean, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("unipc", 2)])
def test_twice_the_steps_divide_the_error_as_the_order_says(solver, order):
    errors = [gaussian_error(solver, steps, shift=1.0) for steps in (100, 200, 400)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.05)  # the next order adds a few percent


@pytest.mark.parametrize(("steps", "shift", "times"), [(10, 1.0, 10), (20, 3.0, 2.5), (50, 3.0, 15), (50, 8.0, 2)])
def test_unipc_is_nearer_than_euler_at_equal_steps(steps, shift, times):
    assert gaussian_error("unipc", steps, shift) * times < gaussian_error("euler", steps, shift)


def curved_velocity(latents, sigma):
    """Something no solver follows exactly."""
    return torch.sin(3 * latents + sigma) - latents * math.cos(5 * sigma)


@pytest.mark.parametrize("shift", [1.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 50])
def test_unipc_equals_diffusers(steps, shift):
    # diffusers starts at 1 - 1e-6 because its formulas divide by zero at 1; both start there here.
    sigmas = [1 - 1e-6, *flow_sigmas(steps, shift).tolist()[1:]]
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    scheduler.set_timesteps(sigmas=np.array(sigmas[:-1]))
    scheduler.set_begin_index(0)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)  # kept as float32, which rounds 1 - 1e-6 by 1 %
    solver = SOLVERS["unipc"](sigmas)
    ours = theirs = make_noise((3, 4, 5), seed=0).double()
    for step, timestep in enumerate(scheduler.timesteps):
        ours = solver(curved_velocity(ours, sigmas[step]), ours, step)
        theirs = scheduler.step(curved_velocity(theirs, sigmas[step]), timestep, theirs, return_dict=False)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_starting_at_one_is_the_limit_of_starting_below_it():
    noise = make_noise((3, 4, 5), seed=0).double()
    sigmas = flow_sigmas(10, 3.0).tolist()
    ends = []
    # The logarithm makes the limit slow: its ratio goes as 1 / log(start).
    for start in (1.0, 1 - 1e-15, 1 - 1e-6):
        solver, latents = SOLVERS["unipc"]([start, *sigmas[1:]]), noise
        for step, sigma in enumerate(sigmas[:-1]):
            latents = solver(gaussian_velocity(latents, sigma), latents, step)
        ends.append(latents)
    near, far = ((end - ends[0]).abs().max().item() for end in ends[1:])
    assert 0 < near < far < 1e-4


# The loop


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_the_network_sees_each_sigma_once_and_the_callback_each_step(solver):
    seen, told = [], []

    def velocity(latents, sigma):
        seen.append((sigma, latents))
        return latents

    config = SamplingConfig(steps=5, solver=solver)
    end = denoise(velocity, make_noise((2,), 0), config, on_step=lambda *news: told.append(news))
    assert [sigma for sigma, _ in seen] == flow_sigmas(5, config.shift).tolist()[:-1]
    assert [(done, total) for done, total, _ in told] == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    # Step k ends where step k + 1 begins, and the last is the result.
    assert all(torch.equal(told[k][2], seen[k + 1][1]) for k in range(4))
    assert torch.equal(told[-1][2], end)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_stopping_calls_the_network_no_further(after):
    calls = []

    def velocity(latents, sigma):
        calls.append(sigma)
        return latents

    noise = make_noise((2,), 0)
    before = noise.clone()
    with pytest.raises(Interrupted, match=rf"^Sampling was stopped after {after} of 5 steps\.$"):
        denoise(velocity, noise, SamplingConfig(steps=5), should_stop=lambda: len(calls) == after)
    assert len(calls) == after
    assert torch.equal(noise, before)


def test_noise_is_the_seeds_and_standard_normal():
    noise = make_noise((1, 16, 5, 24, 42), seed=3)
    assert torch.equal(noise, make_noise((1, 16, 5, 24, 42), seed=3))
    assert not torch.equal(noise, make_noise((1, 16, 5, 24, 42), seed=4))
    # 80,640 draws: mean and spread within five standard errors.
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.numel())
    # torch's generator on the CPU gives these on every machine.
    expected = torch.tensor([-0.0766, 0.3599, -0.7820])
    torch.testing.assert_close(make_noise((16,), seed=3)[:3], expected, atol=1e-4, rtol=0)


# Guidance


def test_guidance_goes_from_the_unwanted_beyond_the_wanted():
    calls = []

    def predict(prompt):
        calls.append(prompt)
        return prompt * 10

    wanted, unwanted = torch.tensor([3.0]), torch.tensor([1.0])
    assert guided_velocity(predict, wanted, unwanted, 5.0) == 10 + 5 * (30 - 10)
    assert calls == [wanted, unwanted]


def test_guidance_one_computes_one_branch():
    calls = []
    assert guided_velocity(lambda p: calls.append(p) or p * 10, torch.tensor([3.0]), torch.tensor([1.0]), 1.0) == 30
    assert calls == [torch.tensor([3.0])]


def test_guidance_without_a_negative_is_refused():
    with pytest.raises(ValueError, match=r"Guidance 5 needs an embedding of the negative prompt; encode '' for none"):
        guided_velocity(lambda p: p, torch.ones(1), None, 5.0)


# One shot

CONFIG = WanConfig(width=48, num_heads=2, num_layers=2, ffn_width=64, text_width=32, feature_width=12)


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(1)
    model = CineSceneTransformer(CONFIG).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
    return model


def draw(*shape, seed):
    return make_noise(shape, seed)


@pytest.fixture
def context():
    views, features = temporal_positions("sequential", 2, 3)
    return Context(
        order=(0, 1, 2),
        latents=draw(3, 16, 4, 6, seed=10),
        features=draw(3, 12, 3, 4, seed=11),
        view_positions=views,
        feature_positions=features,
    )


TEXT, NEGATIVE = draw(1, 7, 32, seed=12), draw(1, 7, 32, seed=13)
PAN = preset_trajectory("pan_right", num_frames=5)
EULER = SamplingConfig(steps=3, guidance=4.0, shift=2.0, solver="euler", seed=5)


@pytest.mark.parametrize(
    ("context_timestep", "context_attention"), [("zero", "joint"), ("shared", "joint"), ("zero", "cached")]
)
def test_a_shot_is_the_guided_flow_of_the_network_in_raw_units(model, context, context_timestep, context_attention):
    # The definition, written out for Euler; sigmas of shift 2 in three steps are 1, 4/5, 1/2, 0.
    camera = PAN.relative()[::4][None].float()
    x = make_noise((1, 16, 2, 4, 6), seed=5)
    sigmas = [1, 4 / 5, 1 / 2, 0]
    with torch.no_grad():
        positions = torch.tensor([2, 3, 4, 5, 6, 7])
        scene = model.embed_context(context.latents[None], context.features[None], positions)
        for sigma, target in itertools.pairwise(sigmas):
            t = torch.tensor([sigma * 1000])
            clean = t if context_timestep == "shared" else torch.zeros(1)
            given = {"camera": camera, "context": scene, "context_timestep": clean}
            given["context_attention"] = context_attention
            wanted, unwanted = (model(x, t, text, **given) for text in (TEXT, NEGATIVE))
            x = x + (target - sigma) * (unwanted + 4 * (wanted - unwanted))
    raw = x * torch.tensor(LATENT_STD).view(1, 16, 1, 1, 1) + torch.tensor(LATENT_MEAN).view(1, 16, 1, 1, 1)
    modes = {"context_timestep": context_timestep, "context_attention": context_attention}
    latents = sample_latents(model, TEXT, NEGATIVE, PAN, context, EULER, **modes)
    # Sigmas in float64 here and there, sums in another order.
    torch.testing.assert_close(latents, raw, atol=1e-4, rtol=0)


def test_everything_a_shot_is_given_matters(model, context):
    def sample(text=TEXT, negative=NEGATIVE, path=PAN, scene=context, seed=0, mode="zero"):
        config = SamplingConfig(steps=2, seed=seed)
        return sample_latents(model, text, negative, path, scene, config, context_timestep=mode)

    base = sample()
    assert torch.equal(sample(), base)
    others = [
        sample(text=NEGATIVE),
        sample(negative=TEXT),
        sample(path=preset_trajectory("pan_left", num_frames=5)),
        sample(scene=dataclasses.replace(context, latents=context.latents.flip(1))),
        sample(scene=dataclasses.replace(context, features=context.features.flip(1))),
        sample(seed=1),
        sample(mode="shared"),
    ]
    assert all((other - base).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize(("guidance", "branches"), [(1.0, 1), (5.0, 2)])
def test_the_scene_is_embedded_once_and_each_step_runs_its_branches(monkeypatch, model, context, guidance, branches):
    calls = {"forward": 0, "embed_context": 0}

    def counted(name, call):
        def wrapper(*args, **kwargs):
            calls[name] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(model, name, wrapper)

    counted("forward", model.forward)
    counted("embed_context", model.embed_context)
    config = SamplingConfig(steps=3, guidance=guidance)
    sample_latents(model, TEXT, NEGATIVE, PAN, context, config)
    assert calls == {"forward": 3 * branches, "embed_context": 1}

    calls["forward"] = 0
    with pytest.raises(Interrupted):
        sample_latents(model, TEXT, NEGATIVE, PAN, context, config, should_stop=lambda: calls["forward"] == branches)
    assert calls["forward"] == branches


def test_outside_the_interval_one_branch_is_computed(monkeypatch, model, context):
    forwards = []
    call = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *args, **kwargs: forwards.append(float(args[1])) or call(*args, **kwargs)
    )
    # Sigmas of shift 2 in three steps: 1, 4/5, 1/2.
    config = dataclasses.replace(EULER, guidance_low=0.6, guidance_high=0.9)
    narrow = sample_latents(model, TEXT, NEGATIVE, PAN, context, config)
    assert forwards == pytest.approx([1000, 800, 800, 500])
    plain = sample_latents(model, TEXT, NEGATIVE, PAN, context, dataclasses.replace(EULER, guidance=1.0))
    nowhere = dataclasses.replace(EULER, guidance_low=0.9, guidance_high=0.95)
    assert torch.equal(sample_latents(model, TEXT, NEGATIVE, PAN, context, nowhere), plain)
    assert not torch.equal(narrow, plain)


def test_one_branch_needs_no_negative(model, context):
    config = SamplingConfig(steps=2, guidance=1.0)
    without = sample_latents(model, TEXT, None, PAN, context, config)
    assert torch.equal(without, sample_latents(model, TEXT, NEGATIVE, PAN, context, config))


def test_half_precision_networks_sample_in_float32(model, context):
    half = CineSceneTransformer(CONFIG, dtype=torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    config = SamplingConfig(steps=2, guidance=1.0)
    latents = sample_latents(half, TEXT, None, PAN, context, config)
    assert latents.dtype == torch.float32
    full = sample_latents(model, TEXT, None, PAN, context, config)
    # bfloat16 keeps 8 bits: each of two layers and three embeddings loses about half a percent.
    assert (latents - full).norm() / full.norm() < 0.05


def test_the_papers_setting_is_twenty_latent_frames():
    # 77 frames at 672 x 384, 8 pixels and 4 frames to a latent.
    views, features = temporal_positions("sequential", 20, 1)
    context = Context((0,), torch.zeros(1, 16, 48, 84), torch.zeros(1, 12, 3, 4), views, features)
    assert shot_shape(preset_trajectory("static", num_frames=77), context) == (1, 16, 20, 48, 84)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"trajectory": preset_trajectory("pan_right", num_frames=9)},
            ShapeError,
            r"The trajectory of 9 frames makes 3 latent frames, but the context was built for 2\. Build",
        ),
        ({"text": torch.zeros(1, 7, 16)}, ShapeError, r"text must have shape \[1, l, 32\]; got \[1, 7, 16\]"),
        ({"negative": torch.zeros(2, 7, 32)}, ShapeError, r"negative must have shape \[1, l, 32\]; got \[2, 7, 32\]"),
        ({"negative": None}, ValueError, r"Guidance 4 needs an embedding of the negative prompt"),
    ],
)
def test_parts_that_do_not_fit_are_refused(model, context, change, error, sentence):
    given = {"text": TEXT, "negative": NEGATIVE, "trajectory": PAN, "context": context, "config": EULER} | change
    with pytest.raises(error, match=sentence):
        sample_latents(model, **given)


def test_a_path_of_another_length_than_4n_plus_1_is_refused(model, context):
    path = dataclasses.replace(PAN, world_from_camera=PAN.world_from_camera[:4], fov_degrees=PAN.fov_degrees[:4])
    with pytest.raises(ValueError, match=r"num_frames must be 4n \+ 1 .* got 4\. Use 1 or 5"):
        sample_latents(model, TEXT, NEGATIVE, path, context, EULER)


def test_a_zoom_is_refused(model, context):
    path = dataclasses.replace(PAN, fov_degrees=torch.linspace(90, 60, len(PAN), dtype=torch.float64))
    with pytest.raises(ValueError, match=r"lens of this path changes, from 90 to 60 degrees.*animatic can show"):
        sample_latents(model, TEXT, NEGATIVE, path, context, EULER)
