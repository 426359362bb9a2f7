"""A run in small: a few rendered rooms, encoded by the embedded encoders, and a transformer of two narrow blocks."""

import dataclasses
from pathlib import Path
from typing import Any

from cinescene_core.config import WanConfig
from cinescene_training.config import (
    CacheConfig,
    EncodersConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimiserConfig,
    RunConfig,
    ShotConfig,
    SourceConfig,
    TrainingConfig,
    ValidationConfig,
)
from cinescene_training.data.build import build_cache

SIZES = WanConfig(
    width=32, num_layers=2, num_heads=2, ffn_width=48, text_width=64, feature_width=128, frequency_width=32
)
SHOT = ShotConfig(width=64, height=32, num_frames=5, num_views=3, vggt_width=56, vggt_height=28)


def tiny_config(folder: Path, **changes: Any) -> TrainingConfig:
    """A run under `folder`; `changes` names fields of its sections, as `run={"steps": 4}`."""
    config = TrainingConfig(
        name="tiny",
        cache=CacheConfig(
            folder=folder / "cache",
            source=SourceConfig(kind="rooms", places=3, validation_places=1, clips_per_place=1, supersampling=1),
            shot=SHOT,
            encoders=EncodersConfig(bundle=Path("nano")),
            places_per_shard=2,
        ),
        model=ModelConfig(sizes=SIZES, trainable=("all",), gradient_checkpointing=False),
        objective=ObjectiveConfig(shift=3.0),
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9),
        run=RunConfig(
            folder=folder / "run",
            steps=6,
            batch_size=4,
            micro_batch=2,
            accelerator="cpu",
            precision="32-true",
            workers=0,
            checkpoint_every=3,
            log_every=2,
        ),
        validation=ValidationConfig(every=3, sigmas=(0.3, 0.9), samples=2, videos=0),
    )
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **sections)


def make_cache(folder: Path) -> None:
    """Encode the clips of `tiny_config(folder)`."""
    build_cache(tiny_config(folder).cache)
