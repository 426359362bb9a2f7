"""The stages as one function: a place, a prompt and a camera path in; a video out.

panorama ─► views ─► scene ─► context ─┐
trajectory ────────────────────────────┼─► sampler ─► latents ─► video
prompt ─► text embedding ──────────────┘
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checks import CheckpointError
from .config import CachePlace, CacheType, CineSceneConfig, SamplingConfig, SpeedConfig, ViewConfig
from .context import build_context, check_request, check_shot, shuffled_order
from .costs import CostMeter, StageCost
from .devices import check_device, on_device
from .latents import latent_frames
from .memory import Networks, ShotSize, Stage, memory_told
from .models.attention import attention_backend
from .models.autoencoder import WanAutoencoder
from .models.compiled import compile_blocks
from .models.text import UMT5Encoder, VocabularyEncoder, check_prompt
from .models.vggt import VGGT
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
from .weights import load_transformer, nano_path, read_bundle_part
from .weights.autoencoder import autoencoder_from_state_dict, load_autoencoder
from .weights.vggt import load_vggt

OnProgress = Callable[[str, int, int], None]
"""Told (stage, done, total) as the work goes on; may raise to interrupt it."""


@dataclass(frozen=True)
class Models:
    """Every network one shot needs, loaded, on the CPU."""

    transformer: CineSceneTransformer
    config: CineSceneConfig
    """What the transformer was trained with; also the default size, length and lens of a shot."""
    vae: WanAutoencoder
    vggt: VGGT
    text: UMT5Encoder | VocabularyEncoder

    def view_config(self, **changes: float) -> ViewConfig:
        """How a panorama is cut for this checkpoint, with some settings changed."""
        config = self.config
        defaults = {
            "num_views": config.num_views,
            "width": config.width,
            "height": config.height,
            "fov_degrees": config.fov_degrees,
        }
        return ViewConfig(**(defaults | changes))  # type: ignore[arg-type]


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


def load_nano(path: str | os.PathLike[str] | None = None) -> Models:
    """Load every network from one bundle; by default the embedded one.

    Raises:
        CheckpointError: the file is damaged, lacks a part or needs a later version.
    """
    path = nano_path() if path is None else Path(path)
    transformer, config = load_transformer(path, prefix="transformer.", dtype=torch.float32)
    vae_state, _ = read_bundle_part(path, "vae")
    text_state, text_record = read_bundle_part(path, "text")
    return Models(
        transformer=transformer,
        config=config,
        vae=autoencoder_from_state_dict(vae_state, dtype=torch.float32),
        vggt=load_vggt(path, prefix="vggt.", dtype=torch.float32),
        text=VocabularyEncoder.from_state_dict(text_state, text_record),
    )


def load_models(
    transformer: str | os.PathLike[str],
    vggt: str | os.PathLike[str],
    wan: str | os.PathLike[str],
    dtype: torch.dtype = torch.bfloat16,
    on_progress: OnProgress | None = None,
) -> Models:
    """Load full-size networks from local files; nothing is downloaded.

    Args:
        transformer: a CineScene checkpoint (safetensors).
        vggt: `facebook/VGGT-1B` or its conversion by `cinescene convert-vggt`.
        wan: a folder with Wan2.1's `vae/`, `text_encoder/` and `tokenizer/`, as diffusers lays it out.
        dtype: precision of the networks; the VAE stays in float32.
        on_progress: told ("load", networks done, 4).

    Raises:
        CheckpointError: a file is another model, damaged or missing, needs a later version, or the
            VGGT is not the one the checkpoint was trained with.
    """
    tell = on_progress or _silent
    tell("load", 0, 4)
    network, config = load_transformer(transformer, dtype=dtype)
    tell("load", 1, 4)
    scene_encoder = load_vggt(vggt, dtype=dtype)
    if config.vggt_id and scene_encoder.fingerprint != config.vggt_id:
        raise CheckpointError(
            f"{Path(vggt).name} is VGGT {scene_encoder.fingerprint}, but {Path(transformer).name} was trained with "
            f"{config.vggt_id}. Use the VGGT file the checkpoint was trained with."
        )
    tell("load", 2, 4)
    autoencoder = load_autoencoder(Path(wan) / "vae", dtype=torch.float32)
    tell("load", 3, 4)
    text = UMT5Encoder.from_folder(wan, dtype=dtype)
    tell("load", 4, 4)
    return Models(network, config, autoencoder, scene_encoder, text)


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
        FileFormatError: the kept scene is damaged.
        OSError: the folder is missing, or the disk is full.
    """
    device = check_device(device)
    tell = on_progress or _silent
    meter = meter or CostMeter(device)
    if isinstance(place, Tensor):
        with meter.stage("views"):
            config = view_config or models.view_config()
            place = slice_panorama(place, config, on_view=lambda done, total: tell("views", done, total))
    vggt_size = (models.config.vggt_width, models.config.vggt_height)
    kept = None if folder is None else kept_scene_path(folder, place, models.vggt, models.vae, vggt_size)
    if kept is not None and kept.exists():
        with meter.stage("scene"):
            return load_scene(kept)
    told = _told(models, device, "VGGT", "VAE encoder", views=place)
    with told, meter.stage("scene"), on_device(models.vggt, device), on_device(models.vae, device):
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
    stored: CacheType | None = None,
    place: CachePlace = "device",
    device: torch.device | str = "cpu",
) -> SceneCache:
    """Read a scene once, for all shots of it that have that length and order.

    Args:
        models: with a transformer trained in mode `cached` or `per_view`.
        scene: from `encode_place`.
        num_frames: of the shots, 4n + 1.
        shuffle_seed: of the shots; see `generate`.
        stored, place: see `build_scene_cache`.
        device: where the shots are made.

    Raises:
        CheckpointError: the checkpoint has no such mode, or the scene was made for another.
        ValueError: the number of frames is not 4n + 1.
    """
    context = _slotted(models, scene, num_frames, shuffle_seed)
    size: dict[str, Any] = {"num_frames": num_frames, "stored": stored, "place": place}
    told = _told(models, device, "scene cache", views=scene.views, **size)
    with told, on_device(models.transformer, check_device(device)):
        return build_scene_cache(
            models.transformer, context, models.config.context_attention, stored=stored, place=place
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
    check_speed(models, place, speed)
    check_sharing(ranks, speed.step_cache is not None, speed.compiled)
    _set_up(models.transformer, speed)
    meter, tell = CostMeter(check_device(device)), on_progress or _silent
    text, negative = _encode_text(models, (prompt, negative_prompt), meter, tell)
    if not isinstance(place, Scene):
        place = encode_place(models, place, view_config=view_config, device=device, on_progress=tell, meter=meter)
    context = _slotted(models, place, len(trajectory), shuffle_seed)
    if cache is None and models.config.context_attention != "joint":
        with meter.stage("cache"):
            cache = cache_scene(
                models,
                place,
                len(trajectory),
                shuffle_seed=shuffle_seed,
                stored=speed.cache_type,
                place=speed.cache_place,
                device=device,
            )
    selection = None
    if speed.select_views is not None:
        selection = select_views(
            place, trajectory, context, speed.select_views, models.transformer, models.config, text
        )
    step_cache = None if speed.step_cache is None else StepCache(speed.step_cache)
    kept: dict[str, Any] = {} if cache is None else {"stored": cache.identity.stored, "place": cache.place}
    told = _told(models, device, "sampling", views=place.views, num_frames=len(trajectory), **kept)
    with told, meter.stage("sampling"), on_device(models.transformer, meter.device):
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
    told = _told(models, device, "VAE decoder", views=place.views, num_frames=len(trajectory), **kept)
    with told:
        frames = _decode(models, latents, meter, tell)
    skipped = None if step_cache is None else step_cache.told()
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


def check_speed(models: Models, place: Tensor | Views | Scene, speed: SpeedConfig) -> None:
    """Require settings that this checkpoint and this place allow.

    Raises:
        ValueError: a setting for a scene cache, and there is none; views to choose from without their cameras; an
            attention that is not installed.
    """
    stores = speed.cache_type is not None or speed.cache_place != "device"
    if stores and models.config.context_attention == "joint":
        raise ValueError(
            "cache_type and cache_place say how a scene cache is kept, and this checkpoint was trained with "
            "context_attention 'joint', which has none. Leave them out."
        )
    if speed.select_views is not None:
        check_selectable(place)
    if speed.attention is not None:
        attention_backend(speed.attention)


def _slotted(models: Models, scene: Scene, num_frames: int, shuffle_seed: int | None) -> Context:
    """The scene as shots of that length and order read it."""
    order = None if shuffle_seed is None else shuffled_order(len(scene.views), shuffle_seed)
    return build_context(scene, latent_frames(num_frames), models.config, order)


def _told(
    models: Models, device: torch.device | str, *stages: Stage, views: Views | None = None, **size: Any
) -> AbstractContextManager[None]:
    """Say in a sentence which of `stages` had too little memory; `views` and `size` are where the shot is its own."""
    if views is not None:
        size |= {"num_views": len(views), "width": views.size[0], "height": views.size[1]}
    return memory_told(
        lambda: Networks.of(models.transformer, models.vggt, models.vae, models.text),
        lambda: ShotSize.trained(models.config, **size),
        device,
        *stages,
    )


def _set_up(transformer: CineSceneTransformer, speed: SpeedConfig) -> None:
    """Let a transformer compute as a shot wants it."""
    if speed.attention is not None:
        transformer.attention = attention_backend(speed.attention)
    if speed.compiled:
        compile_blocks(transformer.blocks)


def _encode_text(models: Models, prompts: Sequence[str], meter: CostMeter, tell: OnProgress) -> list[Tensor]:
    """One embedding per prompt."""
    rows: list[Tensor] = []
    tell("text", 0, len(prompts))
    told = _told(models, meter.device, "text encoder")
    with told, meter.stage("text"), on_device(models.text, meter.device):
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


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""
