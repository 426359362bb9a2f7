"""The stages as one function: a place, a prompt and a camera path in; a video out.

panorama ─► views ─► scene ─► context ─┐
trajectory ────────────────────────────┼─► sampler ─► latents ─► video
prompt ─► text embedding ──────────────┘
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .checks import CineSceneWarning, FileFormatError
from .config import AttentionBackend, SamplingConfig, SpeedConfig, ViewConfig
from .context import build_context, check_request, check_shot, shuffled_order
from .costs import CostMeter, StageCost
from .devices import check_device, on_device
from .latents import latent_frames
from .loading import Models, OnProgress, silent
from .memory import Networks, ShotSize, Stage, explaining_out_of_memory
from .models.attention import attention_backend, check_attention
from .models.compiled import compile_blocks
from .models.text import check_prompt
from .models.wan import CineSceneTransformer
from .panorama import check_panorama
from .parallel import Ranks
from .sampler import check_sharing, sample_latents
from .scene import encode_scene, kept_scene_path, load_scene, save_scene
from .scene_cache import SceneCache, build_scene_cache
from .selection import ViewSelection, check_selectable, select_views
from .step_cache import SkippedForwards, StepCache
from .types import Context, Scene, Trajectory, Views
from .video import decode_video
from .views import slice_panorama


@dataclass(frozen=True, eq=False)
class Shot:
    """One finished video and what it cost."""

    frames: Tensor
    """[f, h, w, 3] float32 in 0..1, sRGB."""
    fps: float
    latents: Tensor
    """[1, 16, t, h/8, w/8] raw VAE latents."""
    scene: Scene
    """The encoded place; pass it on to film it again without encoding."""
    cache: SceneCache | None
    """What the video read of the scene; pass it on with the scene. None in mode joint, which has none."""
    costs: tuple[StageCost, ...]
    selection: ViewSelection | None = None
    """Which views the video read, where they were chosen."""
    skipped: SkippedForwards | None = None
    """What a step cache left out."""


@torch.no_grad()
def encode_place(
    models: Models,
    place: Tensor | Views,
    *,
    view_config: ViewConfig | None = None,
    folder: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    on_progress: OnProgress | None = None,
    meter: CostMeter | None = None,
) -> Scene:
    """Encode a panorama or views once, for many shots.

    Args:
        models, place, view_config, device, on_progress: as in `generate`.
        folder: where scenes are kept; the same views and networks are not encoded twice.
        meter: collects the costs.

    Raises:
        OSError: the folder is missing, or the disk is full.

    Warns:
        CineSceneWarning: the kept scene is damaged; the place is encoded again.
    """
    device = check_device(device)
    tell = on_progress or silent
    meter = meter or CostMeter(device)
    if isinstance(place, Tensor):
        config = view_config or models.view_config()
        with explaining_memory(models, cut_size(models, config), "cpu", "views"), meter.stage("views"):
            place = slice_panorama(place, config, on_view=lambda done, total: tell("views", done, total))
    vggt_size = (models.config.vggt_width, models.config.vggt_height)
    kept = None if folder is None else kept_scene_path(folder, place, models.vggt, models.vae, vggt_size)
    if kept is not None and kept.exists():
        try:
            with meter.stage("scene"):
                return load_scene(kept)
        except FileFormatError as error:
            text = f"The place is encoded again: what was kept of it cannot be used. {error}"
            warnings.warn(text, CineSceneWarning, stacklevel=3)
    explained = explaining_memory(models, shot_size(models, place), device, "VGGT", "VAE encoder")
    with explained, meter.stage("scene"), on_device(models.vggt, device), on_device(models.vae, device):
        scene = encode_scene(
            place,
            models.vggt,
            models.vae,
            vggt_size=vggt_size,
            device=device,
            on_progress=lambda done, total: tell("scene", done, total),
        )
    if kept is not None:
        save_scene(scene, kept)
    return scene


@torch.no_grad()
def cache_scene(
    models: Models,
    scene: Scene,
    num_frames: int,
    *,
    shuffle_seed: int | None = None,
    speed: SpeedConfig | None = None,
    device: torch.device | str = "cpu",
) -> SceneCache:
    """Read a scene once, for all shots of it that have that length and order.

    Args:
        models: with a transformer trained in mode `cached` or `per_view`.
        scene: from `encode_place`.
        num_frames: of the shots, 4n + 1.
        shuffle_seed, speed: of the shots; see `generate`.
        device: where the shots are made.

    Raises:
        CheckpointError: the checkpoint has no such mode, or the scene was made for another.
        ValueError: the number of frames is not 4n + 1.
    """
    context = _slotted(models, scene, num_frames, shuffle_seed)
    speed = speed or SpeedConfig()
    size = shot_size(models, scene.views, num_frames, speed)
    with (
        explaining_memory(models, size, device, "scene cache"),
        on_device(models.transformer, check_device(device)),
        attending(models.transformer, speed.attention),
    ):
        return build_scene_cache(
            models.transformer,
            context,
            models.config.context_attention,
            stored=speed.cache_type,
            place=speed.cache_place,
        )


@torch.no_grad()
def generate(
    models: Models,
    place: Tensor | Views | Scene,
    prompt: str,
    trajectory: Trajectory,
    *,
    negative_prompt: str = "",
    sampling: SamplingConfig | None = None,
    view_config: ViewConfig | None = None,
    shuffle_seed: int | None = None,
    cache: SceneCache | None = None,
    speed: SpeedConfig | None = None,
    ranks: Ranks | None = None,
    device: torch.device | str = "cpu",
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Shot:
    """Film a place; a `CineSceneWarning` says where the shot is not as the checkpoint was trained.

    Args:
        models: from `load_nano` or `load_models`.
        place: a [h, w, 3] panorama, views of the place, or a scene encoded before.
        prompt: what moves in the place, in words.
        trajectory: the camera path; its length is the video's.
        negative_prompt: what to keep out of the video.
        sampling: steps, guidance, shift, solver and seed.
        view_config: how a panorama is cut; by default as the checkpoint was trained.
        shuffle_seed: shuffles the views behind the first (section 4.3); None keeps their order.
        cache: from an earlier shot of that scene, or from `cache_scene`.
        speed: what makes the shot take less time or memory.
        ranks: the processes that film this shot together, from `parallel.joined`; each calls this alike.
        device: where the networks run; each is there only for its own stage.
        on_progress, should_stop: told (stage, done, total); asked between steps, True raises `Interrupted`.

    Returns:
        The video, its latents, scene and cache for further shots, and the cost of each stage.

    Raises:
        ValueError: an input that the message names, before any work.
        OutOfMemory: a stage takes more memory than there is; the message says what to change.
    """
    check_inputs(models, place, prompt, trajectory, view_config)
    speed = speed or SpeedConfig()
    check_speed(models, place, speed, device)
    check_given_cache(cache, speed)
    check_sharing(ranks, speed.step_cache is not None, speed.compiled)
    if speed.compiled:
        compile_blocks(models.transformer.blocks)
    meter, tell = CostMeter(check_device(device)), on_progress or silent
    text, negative = _encode_text(models, (prompt, negative_prompt), meter, tell)
    if not isinstance(place, Scene):
        place = encode_place(models, place, view_config=view_config, device=device, on_progress=tell, meter=meter)
    context = _slotted(models, place, len(trajectory), shuffle_seed)
    if cache is None and models.config.context_attention != "joint":
        with meter.stage("cache"):
            cache = cache_scene(models, place, len(trajectory), shuffle_seed=shuffle_seed, speed=speed, device=device)
    if cache is not None:
        speed = dataclasses.replace(speed, cache_type=cache.identity.stored, cache_place=cache.place)
    size = shot_size(models, place.views, len(trajectory), speed)
    selection = None
    if speed.select_views is not None:
        selection = select_views(
            place, trajectory, context, speed.select_views, models.transformer, models.config, text
        )
    step_cache = None if speed.step_cache is None else StepCache(speed.step_cache)
    with (
        explaining_memory(models, size, device, "sampling"),
        meter.stage("sampling"),
        on_device(models.transformer, meter.device),
        attending(models.transformer, speed.attention),
    ):
        latents = sample_latents(
            models.transformer,
            text,
            negative,
            trajectory,
            context,
            sampling or SamplingConfig(),
            context_timestep=models.config.context_timestep,
            context_attention=models.config.context_attention,
            cache=cache,
            slots=None if selection is None else selection.slots,
            step_cache=step_cache,
            ranks=ranks,
            on_step=lambda done, total, _: tell("sampling", done, total),
            should_stop=should_stop,
        )
    with explaining_memory(models, size, device, "VAE decoder"):
        frames = _decode(models, latents, meter, tell)
    skipped = None if step_cache is None else _skipped(step_cache, ranks)
    return Shot(frames, trajectory.fps, latents.cpu(), place, cache, tuple(meter.costs), selection, skipped)


def check_inputs(
    models: Models,
    place: Tensor | Views | Scene,
    prompt: str,
    trajectory: Trajectory,
    view_config: ViewConfig | None = None,
) -> None:
    """Require a shot that can be made; arguments as in `generate`, which calls this before any work.

    Raises:
        ValueError: an input that the message names.

    Warns:
        CineSceneWarning: the shot is not as the checkpoint was trained.
    """
    check_prompt(prompt)
    if isinstance(place, Scene):
        check_shot(trajectory, place, models.config)
        return
    if isinstance(place, Views):
        num_views, size, fov_degrees = len(place), place.size, place.fov_degrees
    else:
        check_panorama(place)
        config = view_config or models.view_config()
        num_views, size, fov_degrees = config.num_views, (config.width, config.height), config.fov_degrees
    check_request(trajectory, models.config, num_views=num_views, size=size, fov_degrees=fov_degrees)


def check_speed(models: Models, place: Tensor | Views | Scene, speed: SpeedConfig, device: torch.device | str) -> None:
    """Require settings that this checkpoint, place and device allow.

    Raises:
        ValueError: a setting for a scene cache, and there is none; views to choose from without their cameras; an
            attention that is not installed, or cannot compute this.
    """
    stores = speed.cache_type is not None or speed.cache_place != "device"
    if stores and models.config.context_attention == "joint":
        raise ValueError(
            "cache_type and cache_place say how a scene cache is kept, and this checkpoint was trained with "
            "context_attention 'joint', which has none. Leave them out."
        )
    if speed.select_views is not None:
        check_selectable(place)
    check_attention(speed.attention, device, models.transformer.patch_embedding.weight.dtype, compiled=speed.compiled)


def check_given_cache(cache: SceneCache | None, speed: SpeedConfig) -> None:
    """Require a cache that is kept as the settings ask for one, where both are given.

    Raises:
        TypeError: it is no cache.
        ValueError: it is kept in another way.
    """
    if cache is None:
        return
    if not isinstance(cache, SceneCache):
        raise TypeError(f"cache must be a SceneCache; got {type(cache).__name__}. Open a file with load_scene_cache.")
    stored, place = cache.identity.stored, cache.place
    if speed.cache_type not in (None, stored) or (speed.cache_place != "device" and speed.cache_place != place):
        raise ValueError(
            f"The scene cache that was given is {stored} on the {place}, but SpeedConfig asks for "
            f"{speed.cache_type or stored} on the {speed.cache_place}. Leave the settings out, or make such a cache "
            "with cache_scene."
        )


def _slotted(models: Models, scene: Scene, num_frames: int, shuffle_seed: int | None) -> Context:
    """The scene as shots of that length and order read it."""
    order = None if shuffle_seed is None else shuffled_order(len(scene.views), shuffle_seed)
    return build_context(scene, latent_frames(num_frames), models.config, order)


def shot_size(
    models: Models, views: Views, num_frames: int | None = None, speed: SpeedConfig | None = None
) -> ShotSize:
    """What decides how much memory a shot of these views takes; the rest is as the checkpoint was trained."""
    width, height = views.size
    speed = speed or SpeedConfig()
    return dataclasses.replace(
        ShotSize.trained(models.config),
        num_frames=num_frames or models.config.num_frames,
        num_views=len(views),
        width=width,
        height=height,
        stored=speed.cache_type,
        place=speed.cache_place,
    )


def cut_size(models: Models, config: ViewConfig) -> ShotSize:
    """What decides how much memory it takes to cut a panorama."""
    return dataclasses.replace(
        ShotSize.trained(models.config), num_views=config.num_views, width=config.width, height=config.height
    )


def explaining_memory(
    models: Models, size: ShotSize, device: torch.device | str, *stages: Stage
) -> AbstractContextManager[None]:
    """Say in a sentence which of `stages` had too little memory, and what to change."""
    networks = partial(Networks.of, models.transformer, models.vggt, models.vae, models.text)
    return explaining_out_of_memory(networks, lambda: size, device, *stages)


def _skipped(step_cache: StepCache, ranks: Ranks | None) -> SkippedForwards:
    """What a step cache left out, by all processes together."""
    skipped = step_cache.summary()
    return skipped if ranks is None else SkippedForwards(*ranks.sum_over_branches(skipped))


@contextmanager
def attending(transformer: CineSceneTransformer, backend: AttentionBackend) -> Iterator[None]:
    """Let a transformer compute its attention by a backend for some time."""
    own = transformer.attention
    transformer.attention = attention_backend(backend)
    try:
        yield
    finally:
        transformer.attention = own


def _encode_text(models: Models, prompts: Sequence[str], meter: CostMeter, tell: OnProgress) -> list[Tensor]:
    """One embedding per prompt."""
    rows: list[Tensor] = []
    tell("text", 0, len(prompts))
    explained = explaining_memory(models, ShotSize.trained(models.config), meter.device, "text encoder")
    with explained, meter.stage("text"), on_device(models.text, meter.device):
        for prompt in prompts:
            rows.append(models.text.encode(prompt))
            tell("text", len(rows), len(prompts))
    return rows


def _decode(models: Models, latents: Tensor, meter: CostMeter, tell: OnProgress) -> Tensor:
    """Latents to frames."""
    tell("video", 0, 1)  # the decoder is one call: the bar shows that it runs
    with meter.stage("video"), on_device(models.vae, meter.device):
        frames = decode_video(latents, models.vae)
    tell("video", 1, 1)
    return frames
