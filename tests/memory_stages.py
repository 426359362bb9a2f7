"""Films with mid-size random networks and prints what the process and each stage took and what was predicted, as JSON.

    python memory_stages.py cpu|cuda

Run in a process of its own: what it measures is the memory of the process.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import sys
import warnings
from pathlib import Path

import diffusers  # noqa: F401
import torch
import transformers  # noqa: F401
from torch import nn

from cinescene_core.checks import CineSceneWarning, Interrupted
from cinescene_core.config import CineSceneConfig, SamplingConfig, SpeedConfig, WanConfig
from cinescene_core.costs import CostMeter, StageCost
from cinescene_core.loading import Models
from cinescene_core.memory import Networks, ShotSize, predict_memory
from cinescene_core.models.autoencoder import WanAutoencoder, new_autoencoder
from cinescene_core.models.text import VocabularyEncoder
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.pipeline import Shot, cache_scene, generate
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Scene, Views

PARTS = {
    "text": ("text encoder",),
    "scene": ("VGGT", "VAE encoder"),
    "cache": ("scene cache",),
    "sampling": ("sampling",),
    "video": ("VAE decoder",),
}
"""A stage of the pipeline, and what the planner knows of it."""
CONFIG = CineSceneConfig(num_frames=5, num_views=6, width=320, height=224, vggt_width=518, vggt_height=294)
WARM_UP = CineSceneConfig(num_frames=5, num_views=1, width=64, height=64, vggt_width=28, vggt_height=28)


def filled(network: nn.Module) -> nn.Module:
    """Weights that were written to: pages that were only asked for take no memory."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.02, generator=generator)
    return network.eval().requires_grad_(False)


def networks() -> Models:
    sizes = WanConfig(
        width=384, num_layers=3, num_heads=3, ffn_width=4096, text_width=64, frequency_width=32, feature_width=512
    )
    vggt = VGGTConfig(embed_dim=256, num_heads=4, backbone_depth=1, depth=1, camera_head=False, depth_head=False)
    return Models(
        transformer=filled(CineSceneTransformer(sizes, projector=False)),
        config=CONFIG,
        vae=WanAutoencoder(filled(new_autoencoder(16))),
        vggt=filled(VGGT(vggt)),
        text=filled(VocabularyEncoder(["robot"], width=64)),
    )


def place(config: CineSceneConfig) -> Views:
    size = config.num_views, config.height, config.width, 3
    return Views(torch.rand(size, generator=torch.Generator().manual_seed(1)), fov_degrees=90.0)


def mode_of(models: Models, config: CineSceneConfig) -> Models:
    return Models(models.transformer, config, models.vae, models.vggt, models.text)


def film(models: Models, where: Views | Scene, **options) -> Shot:
    path = preset_trajectory("pan_right", num_frames=models.config.num_frames, fov_degrees=90.0)
    return generate(models, where, "robot", path, sampling=SamplingConfig(steps=1, guidance=1.0), **options)


def stop_before_video(stage: str, *_: int) -> None:
    if stage == "video":
        raise Interrupted


def resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def main(device: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", CineSceneWarning)
    film(mode_of(networks(), WARM_UP), place(WARM_UP), device=device)  # libraries take their own when they first work
    gc.collect()
    base = 0
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps of it would be taken for its own
        base = resident_bytes()
    models = networks()
    sizes = Networks.of(models.transformer, models.vggt, models.vae, models.text)
    found = []

    def compare(size: ShotSize, cost: StageCost) -> None:
        predicted = max(memory.peak for memory in predict_memory(sizes, size, device, PARTS[cost.stage]))
        found.append([size.context_attention, size.stored, cost.stage, cost.peak_bytes, predicted])

    shot = film(models, place(CONFIG), device=device)
    for cost in shot.costs:
        compare(ShotSize.trained(CONFIG), cost)
    scene = shot.scene
    del shot
    for mode, stored in (("cached", "float8"), ("per_view", "float32")):
        reading = mode_of(models, dataclasses.replace(CONFIG, context_attention=mode))
        meter = CostMeter(torch.device(device))
        with meter.stage("cache"):
            cache = cache_scene(reading, scene, CONFIG.num_frames, speed=SpeedConfig(cache_type=stored), device=device)
        with meter.stage("sampling"), contextlib.suppress(Interrupted):
            film(reading, scene, cache=cache, device=device, on_progress=stop_before_video)
        del cache
        for cost in meter.costs:
            compare(ShotSize.trained(reading.config, stored=stored), cost)
    print(json.dumps({"process": base, "stages": found}))


if __name__ == "__main__":
    main(sys.argv[1])
