"""How much memory each stage of a shot takes, before anything is loaded, and what to change when it is too much."""

from .advice import Change, OutOfMemory, changes_that_fit, explaining_out_of_memory, in_gib, is_out_of_memory, shortage
from .live import peak_bytes
from .predict import (
    STAGES,
    Networks,
    ShotSize,
    Stage,
    StageMemory,
    free_bytes,
    host_bytes,
    predict_memory,
    scene_cache_bytes,
)

__all__ = [
    "STAGES",
    "Change",
    "Networks",
    "OutOfMemory",
    "ShotSize",
    "Stage",
    "StageMemory",
    "changes_that_fit",
    "explaining_out_of_memory",
    "free_bytes",
    "host_bytes",
    "in_gib",
    "is_out_of_memory",
    "peak_bytes",
    "predict_memory",
    "scene_cache_bytes",
    "shortage",
]
