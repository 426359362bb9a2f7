"""CineScene films a place: a panorama, a prompt and a camera path in; a video out.

    panorama -> views -> scene -> context -> sampler -> latents -> video

`generate` is that line as one function; every stage is a function of its own below.
"""

__version__ = "0.1.0"

from .animatic import render_animatic
from .config import CineSceneConfig, SamplingConfig, SpeedConfig, ViewConfig, WanConfig
from .context import build_context, shuffled_order
from .loading import Models, load_models, load_nano
from .panorama import load_panorama
from .pipeline import Shot, cache_scene, encode_place, generate
from .sampler import sample_latents
from .scene import encode_scene, load_scene, save_scene
from .scene_cache import SceneCache, load_scene_cache
from .trajectory import PRESETS, load_trajectory, preset_trajectory, save_trajectory
from .types import Context, Scene, SceneTokens, Trajectory, Views
from .video import decode_video, save_video
from .views import load_photos, slice_panorama, views_from_images

__all__ = [
    "PRESETS",
    "CineSceneConfig",
    "Context",
    "Models",
    "SamplingConfig",
    "Scene",
    "SceneCache",
    "SceneTokens",
    "Shot",
    "SpeedConfig",
    "Trajectory",
    "ViewConfig",
    "Views",
    "WanConfig",
    "build_context",
    "cache_scene",
    "decode_video",
    "encode_place",
    "encode_scene",
    "generate",
    "load_models",
    "load_nano",
    "load_panorama",
    "load_photos",
    "load_scene",
    "load_scene_cache",
    "load_trajectory",
    "preset_trajectory",
    "render_animatic",
    "sample_latents",
    "save_scene",
    "save_trajectory",
    "save_video",
    "shuffled_order",
    "slice_panorama",
    "views_from_images",
]
