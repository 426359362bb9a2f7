"""Renderers that make training data: rooms and courtyards ray-cast in torch."""

from .captions import VOCABULARY
from .flow import Flow, optical_flow
from .footage import RoomFootage
from .places import Places, sample_places
from .rendering import Rendering, photographs, render, render_panorama
from .shots import ShotPlan, sample_shot, sample_shots
from .splits import SPLIT_SEEDS, place_seed
from .tracing import SKY_DISTANCE

__all__ = [
    "SKY_DISTANCE",
    "SPLIT_SEEDS",
    "VOCABULARY",
    "Flow",
    "Places",
    "Rendering",
    "RoomFootage",
    "ShotPlan",
    "optical_flow",
    "photographs",
    "place_seed",
    "render",
    "render_panorama",
    "sample_places",
    "sample_shot",
    "sample_shots",
]
