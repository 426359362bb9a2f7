"""The stages around the transformer, and whole films."""

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cinescene_core.config import ContextAttention, SamplingConfig
from cinescene_core.loading import Models
from cinescene_core.models.autoencoder import WanAutoencoder
from cinescene_core.models.vggt import resize_for_vggt
from cinescene_core.pipeline import generate
from cinescene_core.sampler import make_noise
from cinescene_core.scene import PIXELS_AT_ONCE
from cinescene_core.types import Views

from .measure import Bench, Record, Timing, predicted, timed
from .roofline import counted
from .sizes import Sizes, autoencoder, camera_path, scene_encoder, transformer

NO_VAE = "The VAE is missing: diffusers is not installed here."
PARTS: dict[str, tuple[Any, ...]] = {
    "scene": ("VGGT", "VAE encoder"),
    "cache": ("scene cache",),
    "sampling": ("sampling",),
    "video": ("VAE decoder",),
}
"""A stage of a film, and what the memory planner knows of it."""
FILMS: dict[str, tuple[ContextAttention, SamplingConfig]] = {
    "film: 4 steps, cached": ("cached", SamplingConfig(steps=4, guidance=1.0)),
    "film: 4 steps, joint": ("joint", SamplingConfig(steps=4, guidance=1.0)),
    "film: 50 steps, cached": ("cached", SamplingConfig(steps=50, guidance=5.0)),
    "film: 50 steps, joint": ("joint", SamplingConfig(steps=50, guidance=5.0)),
}
"""Context mode and sampling; a guided step takes two forwards, one of guidance 1 takes one."""


def views_of(sizes: Sizes) -> Views:
    shot = sizes.shot
    pictures = torch.rand((shot.num_views, shot.height, shot.width, 3), generator=torch.Generator().manual_seed(5))
    return Views(pictures, fov_degrees=shot.fov_degrees)


def measure_scene(bench: Bench) -> Record:
    """VGGT and the VAE's encoder over all views. Both networks are there together, as in a shot."""
    sizes, shot = bench.sizes, bench.sizes.shot
    images = views_of(sizes).images
    vggt, vae = scene_encoder(sizes, bench.device), _vae_or_none(bench)
    pictures = resize_for_vggt(images, (shot.vggt_width, shot.vggt_height), sizes.vggt.patch_size)[None]
    pictures = pictures.to(bench.device)
    seen = timed(lambda: vggt.encode(pictures), bench.device, sizes.runs)
    on_meta = scene_encoder(sizes, "meta")
    attention, matmul = counted(lambda: on_meta.encode(pictures.to("meta")))
    stages: Record = {"VGGT": _stage(seen, attention + matmul, predicted(sizes, "VGGT"), seen.result.patch)}
    if vae is None:
        return {"stages": stages, "missing": NO_VAE}
    encoded = timed(lambda: encode_views(vae, images), bench.device, sizes.runs)
    meta_vae = autoencoder(sizes, "meta")
    attention, matmul = counted(lambda: encode_views(meta_vae, images.to("meta")))
    planned = predicted(sizes, "VAE encoder")
    stages["VAE encoder"] = _stage(encoded, attention + matmul, planned, encoded.result)
    return {"stages": stages}


def encode_views(vae: WanAutoencoder, images: Tensor) -> Tensor:
    """Latents of single pictures, as many at once as a shot encodes."""
    at_once = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    return torch.cat([vae.encode(group[:, None]) for group in images.split(at_once)])


def measure_decoder(bench: Bench) -> Record:
    """The VAE's decoder over the whole video, in float32 as in a shot, and in bfloat16."""
    sizes = bench.sizes
    latents = make_noise((1, *sizes.latents), seed=6)
    stages: Record = {}
    try:
        on_meta = autoencoder(sizes, "meta")
    except ImportError:
        return {"stages": stages, "missing": NO_VAE}
    attention, matmul = counted(lambda: on_meta.decode(latents.to("meta")))
    for name, dtype in (("VAE decoder", torch.float32), ("VAE decoder in bfloat16", torch.bfloat16)):
        vae = autoencoder(sizes, bench.device, dtype)
        timing = timed(lambda vae=vae: vae.decode(latents), bench.device, sizes.runs)  # type: ignore[misc]
        planned = predicted(sizes, "VAE decoder") if dtype == torch.float32 else None
        stages[name] = _stage(timing, attention + matmul, planned, timing.result)
        del vae, timing
    return {"stages": stages}


def _stage(timing: Timing, tflop: float, planned: int | None, values: Tensor) -> Record:
    return timing.record() | {"tflop": tflop, "predicted": planned, "finite": bool(values.isfinite().all())}


def _vae_or_none(bench: Bench) -> WanAutoencoder | None:
    try:
        return autoencoder(bench.sizes, bench.device)
    except ImportError:
        return None


class RandomText(nn.Module):
    """In place of UMT5, whose weights are not here: as many rows as it gives, of noise."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.shape = (1, sizes.text_rows, sizes.wan.text_width)

    def encode(self, prompt: str) -> Tensor:
        return make_noise(self.shape, seed=len(prompt))


class NoVae(nn.Module):
    """In place of the VAE where diffusers is missing: latents of noise and black frames, at no cost."""

    def encode(self, frames: Tensor) -> Tensor:
        count, _, height, width, _ = frames.shape
        return make_noise((count, 16, 1, height // 8, width // 8), seed=7)

    def decode(self, latents: Tensor) -> Tensor:
        _, _, frames, height, width = latents.shape
        return torch.zeros(1, 4 * frames - 3, height * 8, width * 8, 3)


def models_of(bench: Bench, mode: ContextAttention) -> tuple[Models, bool]:
    """All networks on the CPU, as a shot finds them, and whether the VAE is among them."""
    sizes = bench.sizes
    vae = _vae_or_none(bench)
    networks: dict[str, Any] = {
        # Drawn on the card, which takes a moment; a processor needs half a minute for as many values.
        "transformer": transformer(sizes, bench.device).cpu(),
        "vggt": scene_encoder(sizes, bench.device).cpu(),
        "vae": NoVae() if vae is None else vae.cpu(),
        "text": RandomText(sizes),
    }

    config = dataclasses.replace(sizes.shot, context_attention=mode)
    return Models(config=config, **networks), vae is not None


def measure_film(bench: Bench, name: str) -> Record:
    """A whole film from views to frames by `pipeline.generate`: every network comes to the card for its stage only."""
    mode, sampling = FILMS[name]
    models, has_vae = models_of(bench, mode)
    shot = generate(
        models, views_of(bench.sizes), "robot", camera_path(bench.sizes), sampling=sampling, device=bench.device
    )
    stages = {
        cost.stage: {
            "seconds": cost.seconds,
            "peak": cost.peak_bytes if bench.device.type == "cuda" else None,
            "predicted": predicted(bench.sizes, *PARTS[cost.stage], context_attention=mode)
            if cost.stage in PARTS
            else None,
        }
        for cost in shot.costs
    }
    found: Record = {"stages": stages, "finite": bool(shot.frames.isfinite().all())}
    found["total_s"] = sum(cost.seconds for cost in shot.costs)
    return found if has_vae else found | {"missing": NO_VAE}


FILM_SECTIONS = {name: partial(measure_film, name=name) for name in FILMS}
