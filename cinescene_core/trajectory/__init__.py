"""Film words and files to camera paths: one pose and one lens per frame."""

from .easing import EASINGS
from .files import load_trajectory, save_trajectory
from .presets import PRESETS, Preset, preset_trajectory

__all__ = ["EASINGS", "PRESETS", "Preset", "load_trajectory", "preset_trajectory", "save_trajectory"]
