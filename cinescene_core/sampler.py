"""Stage 7: noise to latents, along a flow, guided by the prompt.

    noise ─► (velocity under scene, camera and prompt ─► solver step), repeated ─► raw latents

The flow mixes picture and noise, `(1 - sigma) * latents + sigma * noise`; the network predicts its
velocity `noise - latents`, and sampling follows it from sigma 1 to 0.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .checks import Interrupted, ShapeError, check_shape
from .config import SPATIAL_STRIDE, ContextAttention, ContextTimestep, SamplingConfig
from .context import check_one_lens
from .latents import denormalise_latents, latent_shape
from .models.compiled import is_compiled
from .models.sequence import SceneContext, SceneMemory
from .models.wan import CineSceneTransformer
from .parallel import Ranks
from .scene_cache import SceneCache, build_scene_cache, check_scene_cache, embed_scene
from .selection import keep_slots
from .step_cache import StepCache
from .types import Context, Trajectory

TIMESTEPS = 1000
"""What the network calls the noise level sigma = 1."""

Velocity = Callable[[Tensor, float], Tensor]
"""Noisy latents and their sigma to the velocity `noise - latents`."""
Solver = Callable[[Tensor, Tensor, int], Tensor]
"""Velocity, the latents it belongs to and the step's index to the latents at the next sigma."""
OnStep = Callable[[int, int, Tensor], None]
"""Told (steps done, steps in all, latents) after each step."""


def flow_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels of a sampling run: [steps + 1] float64, from 1 to 0, equal steps bent by `shifted`."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Bend noise levels u in 0..1 towards noise by the timestep shift: `shift * u / (1 + (shift - 1) * u)`."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def make_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Float32 noise that is the same for one seed on every machine: it is always drawn on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoise(
    velocity: Velocity,
    noise: Tensor,
    config: SamplingConfig,
    *,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Follow the flow from noise to latents.

    Args:
        velocity: the network with all its conditions; see `Velocity`.
        noise: latents at sigma 1, of any shape.
        config: steps, shift and solver.
        on_step: progress.
        should_stop: asked before each step.

    Returns:
        Latents at sigma 0, shaped as the noise.

    Raises:
        Interrupted: `should_stop` said so.
    """
    sigmas = flow_sigmas(config.steps, config.shift).tolist()
    advance = SOLVERS[config.solver](sigmas)
    latents = noise
    for step, sigma in enumerate(sigmas[:-1]):
        if should_stop is not None and should_stop():
            raise Interrupted(f"Sampling was stopped after {step} of {config.steps} steps.")
        latents = advance(velocity(latents, sigma), latents, step)
        if on_step is not None:
            on_step(step + 1, config.steps, latents)
    return latents


def guided_velocity(
    predict: Callable[[Tensor], Tensor],
    positive: Tensor,
    negative: Tensor | None,
    guidance: float,
    map_branches: Callable[[Callable[[Tensor], Tensor], Sequence[Tensor]], Iterable[Tensor]] = map,
) -> Tensor:
    """Classifier-free guidance on the text alone: scene and camera are part of `predict` in both branches.

    Args:
        predict: a prompt embedding to a velocity, everything else held fixed.
        positive, negative: [b, l, width] prompt embeddings; the negative one may miss at guidance 1.
        guidance: 1 gives the positive branch, which then is the only one computed; more goes
            beyond it, away from the negative branch.
        map_branches: computes the branches: one after the other, or each elsewhere (`Ranks.map_branches`).

    Raises:
        ValueError: guidance without a negative embedding.
    """
    if guidance == 1:
        (velocity,) = map_branches(predict, (positive,))
        return velocity
    if negative is None:
        raise ValueError(
            f"Guidance {guidance:g} needs an embedding of the negative prompt; encode '' for none, or use guidance 1."
        )
    wanted, unwanted = map_branches(predict, (positive, negative))
    return unwanted + guidance * (wanted - unwanted)


@torch.no_grad()
def sample_latents(
    model: CineSceneTransformer,
    text: Tensor,
    negative: Tensor | None,
    trajectory: Trajectory,
    context: Context,
    config: SamplingConfig,
    *,
    context_timestep: ContextTimestep = "zero",
    context_attention: ContextAttention = "joint",
    cache: SceneCache | None = None,
    slots: Sequence[int] | None = None,
    step_cache: StepCache | None = None,
    ranks: Ranks | None = None,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Film one shot, where the model is and in its precision.

    The video has the size of the scene's views and the length of the trajectory. The scene is
    embedded once, before the first step; a context that attends only to itself is read once too.

    Args:
        model: the transformer.
        text, negative: [1, l, text_width] prompt embeddings; the negative one may miss at guidance 1.
        trajectory: the camera path, 4n + 1 frames.
        context: the scene, built for that many latent frames.
        config: steps, guidance, shift, solver and seed.
        context_timestep, context_attention: as the checkpoint was trained, see `CineSceneConfig`.
        cache: of this scene and model, from an earlier shot; None makes one where the mode has it.
        slots: of the context, which the video reads (`selection.seen_slots`); None is all.
        step_cache: leaves out blocks where little changes from step to step.
        ranks: the processes that share the work, each of which calls this with the same arguments.
        on_step, should_stop: as in `denoise`; latents are normalised there.

    Returns:
        [1, 16, t, h/8, w/8] float32 raw VAE latents on the model's device.

    Raises:
        ValueError: the trajectory is not 4n + 1 frames long, its lens changes, guidance lacks its negative, or
            processes share each forward and were given a step cache or compiled blocks.
        ShapeError: trajectory, scene and prompt do not fit each other or the model.
        CheckpointError: the cache is another scene's, model's or mode's.
        Interrupted: `should_stop` said so.
    """
    shape = shot_shape(trajectory, context)
    check_sharing(ranks, step_cache is not None, is_compiled(model.blocks))
    weight = model.patch_embedding.weight
    device, dtype = weight.device, weight.dtype
    for name, rows in (("text", text), ("negative", text if negative is None else negative)):
        check_shape(name, rows, f"1 l {model.config.text_width}")
    text, negative = text.to(device, dtype), None if negative is None else negative.to(device, dtype)
    camera = trajectory.latent_poses()[None].to(device, torch.float32)
    scene: SceneContext | SceneMemory = scene_to_read(model, context, context_attention, cache)
    if slots is not None:
        scene = keep_slots(scene, slots, len(context.order))
    if step_cache is not None:
        step_cache.start()

    def velocity(latents: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((1,), sigma * TIMESTEPS, device=device)
        shared = timestep if context_timestep == "shared" else None
        modes: Any = {"context_timestep": shared, "context_attention": context_attention}
        noisy = latents.to(dtype)

        def predict(prompt: Tensor) -> Tensor:
            branch = "positive" if prompt is text else "negative"
            with contextlib.nullcontext() if step_cache is None else step_cache.following(model, branch):
                return model(noisy, timestep, prompt, camera=camera, context=scene, **modes).float()

        map_branches: Any = map if ranks is None else partial(ranks.map_branches, like=latents)
        return guided_velocity(predict, text, negative, config.guidance_at(sigma), map_branches)

    noise = make_noise(shape, config.seed).to(device)
    with contextlib.nullcontext() if ranks is None else ranks.sharing(model.blocks):
        return denormalise_latents(denoise(velocity, noise, config, on_step=on_step, should_stop=should_stop))


def check_sharing(ranks: Ranks | None, step_cache: bool, compiled: bool) -> None:
    """Require that processes which share the tokens of each forward are not asked for what needs all of them in one.

    Raises:
        ValueError: a step cache, or compiled blocks.
    """
    if ranks is None or not ranks.shares_forwards:
        return
    for is_asked, what in (
        (step_cache, "A step cache decides by the whole video"),
        (compiled, "A compiled block is one graph on one device"),
    ):
        if is_asked:
            raise ValueError(
                f"{what}, and here several processes share the tokens of each forward. "
                "Film without it, or with guidance on two processes, one for each branch."
            )


def scene_to_read(
    model: CineSceneTransformer, context: Context, context_attention: ContextAttention, cache: SceneCache | None
) -> SceneContext | SceneCache:
    """What every step reads of a scene: its tokens in mode `joint`, else what was or is now read of them once.

    Raises:
        CheckpointError: the cache is another scene's, model's or mode's.
    """
    if cache is not None:
        check_scene_cache(cache, model, context, context_attention)
        return cache
    if context_attention != "joint":
        return build_scene_cache(model, context, context_attention)
    return embed_scene(model, context)


def shot_shape(trajectory: Trajectory, context: Context) -> tuple[int, ...]:
    """(1, 16, t, h/8, w/8) of the shot that a path and a scene make.

    Raises:
        ValueError: the path is not 4n + 1 frames long, or its lens changes.
        ShapeError: the scene was put in order for a video of another length.
    """
    check_one_lens(trajectory)
    height, width = context.latents.shape[-2:]
    shape = latent_shape(len(trajectory), width * SPATIAL_STRIDE, height * SPATIAL_STRIDE)
    stands_behind = int(context.view_positions.min())
    if stands_behind != shape[1]:
        raise ShapeError(
            f"The trajectory of {len(trajectory)} frames makes {shape[1]} latent frames, but the context was built for "
            f"{stands_behind}. Build the context for {shape[1]}."
        )
    return (1, *shape)


class Euler:
    """First order: one straight line per step."""

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas

    def __call__(self, velocity: Tensor, latents: Tensor, step: int) -> Tensor:
        return latents + (self.sigmas[step + 1] - self.sigmas[step]) * velocity


class UniPC:
    """Second-order predictor and corrector (UniPC, arXiv 2302.04867, variant B2, on clean estimates).

    Each call first corrects the latents it is given by what the network now says of them, which
    takes no evaluation of its own, and then predicts the next. In the half log signal-to-noise
    ratio the flow is an integral of the estimates: its exponential part is exact, the estimates
    are interpolated. First and last step are of first order. At sigma 1 that ratio is minus
    infinity, and the formulas take their limits there.
    """

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas
        self.order = 1
        self.start = torch.empty(0)
        """Corrected latents at the last step."""
        self.estimates: list[Tensor] = []
        """Clean latents as the last two steps saw them."""

    def __call__(self, velocity: Tensor, latents: Tensor, step: int) -> Tensor:
        estimate = latents - self.sigmas[step] * velocity
        self.start = latents if step == 0 else self._move(step - 1, reached=estimate)
        self.estimates = [*self.estimates[-1:], estimate]
        is_last = step == len(self.sigmas) - 2
        self.order = 1 if is_last else len(self.estimates)
        return self._move(step)

    def _move(self, step: int, reached: Tensor | None = None) -> Tensor:
        """Go from the start of `step` to its end; `reached` is the estimate there, when correcting."""
        sigma, target = self.sigmas[step], self.sigmas[step + 1]
        width = _log_snr(target) - _log_snr(sigma)
        gain = math.expm1(-width)
        *earlier, estimate = self.estimates[-self.order :]
        differences, weights = [], [0.5]
        if earlier:
            ratio = (_log_snr(self.sigmas[step - 1]) - _log_snr(sigma)) / width
            differences.append((earlier[0] - estimate) / ratio)
        if reached is not None:
            differences.append(reached - estimate)
            weights = _corrector_weights(width, ratio) if earlier else [0.5]
        for weight, difference in zip(weights, differences, strict=False):
            estimate = estimate + weight * difference
        return target / sigma * self.start - (1 - target) * gain * estimate


SOLVERS: dict[str, Callable[[list[float]], Solver]] = {"euler": Euler, "unipc": UniPC}


def _log_snr(sigma: float) -> float:
    """Half the log signal-to-noise ratio of a noise level: log((1 - sigma) / sigma)."""
    if sigma in (0, 1):
        return math.inf if sigma == 0 else -math.inf
    return math.log((1 - sigma) / sigma)


def _corrector_weights(width: float, ratio: float) -> list[float]:
    """Weights of the earlier and the reached difference, which make both quadrature conditions hold."""
    gain = math.expm1(-width)
    first = -gain / width - 1
    second = -first / width - 0.5
    earlier = (2 * second - first) / gain / (ratio - 1)
    return [earlier, first / gain - earlier]
