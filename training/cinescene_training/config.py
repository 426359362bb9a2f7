"""Every setting of a run, once, with its unit and its limits. Defaults are the paper's recipe on Wan2.1-1.3B."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cinescene_core.checks import check_num_frames, check_positive, check_video_size
from cinescene_core.config import (
    MAX_VIEWS,
    ContextAttention,
    ContextTimestep,
    PositionScheme,
    WanConfig,
)

from .data.footage import Split
from .settings import SettingsError, build, flat, read_settings

PAPER_TRAINABLE = ("self_attn", "projector", "ffn", "scene_embed", "cam_encoder")
"""Layers that train (supplement B): 3D attention, projector, feed-forward, the feature projection, the camera."""

PATCH = 14
"""Pixels along a side of VGGT's patches."""
BESIDE_THE_RESULT = (
    "name", "cache.folder", "cache.encoders", "cache.source.root", "cache.source.calibration", "cache.source.compiled",
    "model.start_from", "model.gradient_checkpointing", "run", "validation",
)  # fmt: skip
"""Sections and fields that do not decide what a run ends with: what it is called, where it runs, where files lie."""
OF_THE_RUN = ("run.steps", "run.batch_size", "run.seed")
"""Fields of `run` that do; a run also goes on in its precision alone (`checkpoints.check_same_precision`)."""

Join = Literal["frame", "channel", "view", "none"]
Features = Literal["fused", "image", "camera", "none", "separate"]
Order = Literal["shuffled", "ordered", "progressive"]


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """The frozen networks in front of the transformer: one bundle, or the full-size files."""

    bundle: Path | None = None
    """One file with VAE, VGGT and text encoder; `nano` is the embedded one."""
    vggt: Path | None = None
    """VGGT's file, with `wan`."""
    wan: Path | None = None
    """Folder with Wan2.1's vae, text_encoder and tokenizer, with `vggt`."""

    def __post_init__(self) -> None:
        full = (self.vggt is not None, self.wan is not None)
        if full not in ((False, False), (True, True)) or (self.bundle is None) != all(full):
            raise ValueError("give either 'bundle', or both 'vggt' and 'wan'.")


@dataclass(frozen=True, kw_only=True)
class ShotConfig:
    """Size of a training sample (section 5.1: 384 x 672, 77 frames, 20 views)."""

    width: int = 672
    """Pixels of video and views."""
    height: int = 384
    num_frames: int = 77
    num_views: int = 20
    """Views encoded per place."""
    fov_degrees: float = 90.0
    """Horizontal field of view of views and video."""
    fps: float = 15.0
    vggt_width: int = 518
    """Pixels at which VGGT sees the views."""
    vggt_height: int = 294

    def __post_init__(self) -> None:
        check_num_frames(self.num_frames)
        check_video_size(self.width, self.height)
        check_positive("fps", self.fps)
        if not 1 <= self.num_views <= MAX_VIEWS:
            raise ValueError(f"num_views must be 1 to {MAX_VIEWS}; got {self.num_views}. The paper has 20.")
        if not 0 < self.fov_degrees < 180:
            raise ValueError(f"fov_degrees must lie between 0 and 180; got {self.fov_degrees}. The paper has 90.")
        for name in ("vggt_width", "vggt_height"):
            size = getattr(self, name)
            if size < PATCH or size % PATCH:
                near = max(PATCH, round(size / PATCH) * PATCH)
                raise ValueError(f"{name} must be a multiple of VGGT's patch, {PATCH}; got {size}. Use {near}.")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where clips come from before they are encoded."""

    kind: Literal["rooms", "scene_decoupled", "multicam", "panoramas"]
    root: Path | None = None
    """Folder of the dataset; rooms need none."""
    calibration: Path | None = None
    """What `cinescene-train calibrate` wrote, for scene_decoupled."""
    places: int = 1000
    """Rooms to render for training."""
    validation_places: int = 50
    """Rooms to render for validation, or places held out of a dataset; as many again for test."""
    only: Split | None = None
    """Put every place of a dataset on this side and hold none out: a set that is all for testing."""
    clips_per_place: int = 7
    """Camera paths per room, each with and without the subject, or per panorama; 7 as released."""
    moves: tuple[str, ...] | None = None
    """Of a panorama's camera: pans and tilts, with `=degrees` where the amount is fixed; None takes the two pans."""
    place_kind: Literal["room", "courtyard"] = "room"
    supersampling: int = 2
    """Samples along a pixel's side, for rooms."""
    compiled: bool = False
    """Render rooms through torch.compile; needs a C++ compiler, several times faster."""
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("places", "validation_places", "clips_per_place", "supersampling"):
            check_positive(name, getattr(self, name))
        if (self.root is None) != (self.kind == "rooms"):
            raise ValueError(f"source '{self.kind}' {'takes no root' if self.root else 'needs its folder as root'}.")
        for name, kind in (("calibration", "scene_decoupled"), ("moves", "panoramas")):
            if getattr(self, name) is not None and self.kind != kind:
                raise ValueError(f"{name} is read for {kind} only; leave it out.")
        if self.only is not None and self.kind == "rooms":
            raise ValueError("only is read for datasets; rooms are on a side by their seeds. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Encoded samples on disk."""

    folder: Path
    source: SourceConfig
    shot: ShotConfig = field(default_factory=ShotConfig)
    encoders: EncodersConfig
    places_per_shard: int = 16
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of stored latents, features and text rows."""
    clip_features: bool = False
    """Also keep VGGT's features of the clips themselves; the loss-guided ablation reads them."""

    def __post_init__(self) -> None:
        check_positive("places_per_shard", self.places_per_shard)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The transformer, what it starts from, and how it is shown the scene."""

    start_from: Path | None = None
    """A base Wan2.1, ReCamMaster or CineScene file; None starts fresh from `sizes`."""
    sizes: WanConfig | None = None
    """Only without `start_from`."""
    trainable: tuple[str, ...] = PAPER_TRAINABLE
    """Names in a parameter's path; `all` trains everything."""
    context_attention: ContextAttention = "joint"
    context_timestep: ContextTimestep = "zero"
    positions: PositionScheme = "sequential"
    join: Join = "frame"
    """Axis on which the scene joins the video (table 8): frame, channel or view; `none` leaves it out."""
    features: Features = "fused"
    """Implicit 3D features (tables 2 and 8): F_i + F_c, one of them, none, or both as separate tokens."""
    camera: bool = True
    """Whether the camera path is an input (table 6)."""
    gradient_checkpointing: bool = True

    def __post_init__(self) -> None:
        if (self.start_from is None) == (self.sizes is None):
            raise ValueError("give either 'start_from' or 'sizes'.")
        if self.context_attention != "joint" and self.context_timestep == "shared":
            raise ValueError(
                f"context_attention {self.context_attention!r} computes the context once, at timestep zero; got "
                "context_timestep 'shared'. Set context_timestep zero, or context_attention joint."
            )
        if self.join in ("channel", "view") and (self.context_attention != "joint" or self.features == "separate"):
            raise ValueError(
                f"join '{self.join}' has no cached mode and no separate tokens; set context_attention joint and "
                "features fused."
            )

    @property
    def readable_by_the_pack(self) -> bool:
        """Whether an export is a CineScene checkpoint, or an ablation that only the studio can run."""
        return self.join == "frame" and self.features == "fused" and self.camera


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned, and from which draws."""

    shift: float = 15.0
    """Timestep shift of the training noise levels (section 5.1)."""
    text_dropout: float = 0.1
    """Share of samples whose prompt is empty, for guidance on the text."""
    order: Order = "shuffled"
    """Slots of the views (section 4.3); `progressive` starts with features alone, images join later."""
    progressive_share: float = 0.3
    """Share of the steps without images, in `progressive`."""
    guide_weight: float = 0.0
    """Weight of the loss that pulls hidden states towards VGGT's features of the clip (table 2, loss-guided)."""

    def __post_init__(self) -> None:
        check_positive("shift", self.shift)
        for name in ("text_dropout", "progressive_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1; got {getattr(self, name)}.")
        check_not_negative("guide_weight", self.guide_weight)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW (section 5.1: learning rate 5e-5)."""

    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    """Decay of the averaged weights that are validated and exported; 0 keeps none."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            check_positive(name, getattr(self, name))
        for name in ("weight_decay", "warmup_steps"):
            check_not_negative(name, getattr(self, name))
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("ema_decay", self.ema_decay)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be 0 or more and below 1; got {value}. Use the default if in doubt.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how long (section 5.1: 10K steps, batch 16)."""

    folder: Path
    """Checkpoints, logs and exports of this run."""
    steps: int = 10_000
    batch_size: int = 16
    """Samples per step over all devices and accumulated micro-batches."""
    micro_batch: int = 1
    """Samples at once on one device."""
    seed: int = 0
    devices: int = 1
    num_nodes: int = 1
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    compiled: bool = False
    """Run the blocks through torch.compile."""
    workers: int = 2
    """Processes that read samples."""
    checkpoint_every: int = 500
    """Steps."""
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch", "devices", "num_nodes", "checkpoint_every", "log_every"):
            check_positive(name, getattr(self, name))
        check_not_negative("workers", self.workers)
        at_once = self.micro_batch * self.devices * self.num_nodes
        if self.batch_size % at_once:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch x devices x num_nodes = {at_once}."
            )

    @property
    def accumulate(self) -> int:
        """Micro-batches per step."""
        return self.batch_size // (self.micro_batch * self.devices * self.num_nodes)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What is measured while training, always from the same noise."""

    every: int = 500
    """Steps."""
    sigmas: tuple[float, ...] = (0.3, 0.6, 0.8, 0.9, 0.95, 0.99)
    """Noise levels of the validation loss."""
    samples: int = 32
    videos: int = 2
    """Clips sampled to videos and contact sheets; 0 for none."""
    video_steps: int = 20
    guidance: float = 5.0
    shift: float = 8.0
    """Timestep shift of sampling."""

    def __post_init__(self) -> None:
        for name in ("every", "samples", "video_steps", "shift"):
            check_positive(name, getattr(self, name))
        check_not_negative("videos", self.videos)
        if not self.sigmas or len(set(self.sigmas)) < len(self.sigmas) or not all(0 < s <= 1 for s in self.sigmas):
            raise ValueError(
                f"sigmas must be one or more different noise levels above 0 and up to 1; got {list(self.sigmas)}."
            )
        if not 1 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be at least 1 (none); got {self.guidance}. Use about 5.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run of the transformer, whole."""

    name: str
    cache: CacheConfig
    model: ModelConfig
    run: RunConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    task: Literal["shot"] = "shot"

    def __post_init__(self) -> None:
        shot, model = self.cache.shot, self.model
        if self.objective.guide_weight and not self.cache.clip_features:
            raise ValueError("objective.guide_weight needs cache.clip_features: true.")
        if self.objective.guide_weight and model.features != "none":
            raise ValueError("objective.guide_weight replaces the features as an input; set model.features: none.")
        if self.objective.order == "progressive" and model.features == "none":
            raise ValueError("objective.order 'progressive' starts with features alone; model.features is none.")
        devices, strategy = self.run.devices * self.run.num_nodes, self.run.strategy
        hides_layers = model.join == "channel" and self.objective.order == "progressive"
        if hides_layers and (devices > 1 or strategy != "auto"):
            raise ValueError(
                "model.join 'channel' has layers without a gradient while objective.order 'progressive' hides the "
                f"images, and strategies that share work cannot step so; got {devices} devices and run.strategy "
                f"'{strategy}'. Train on one device with run.strategy auto, or set another order."
            )
        if model.join in ("channel", "view") and shot.num_views != 1 + (shot.num_frames - 1) // 4:
            raise ValueError(
                f"model.join '{model.join}' lays one view on each latent frame: {shot.num_frames} frames make "
                f"{1 + (shot.num_frames - 1) // 4}, but there are {shot.num_views} views. Make them equal."
            )

    def digest(self) -> str:
        """16 hex digits that tell the settings which decide the result from others."""
        settings = deciding_settings(self, BESIDE_THE_RESULT)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def steps_may_grow(self) -> bool:
        """Whether a step does not depend on how many follow it, so that a finished run can be made longer."""
        return self.optimiser.schedule == "constant" and self.objective.order != "progressive"


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a run of the transformer from YAML.

    Raises:
        SettingsError: a field that is unknown, missing or wrong; the message names it.
    """
    record = read_settings(path, overrides)
    if record.get("task", "shot") != "shot":
        raise SettingsError(f"{path.name} is a configuration of task '{record['task']}', not of the transformer.")
    return build(TrainingConfig, record)


def deciding_settings(config: Any, beside: Sequence[str]) -> dict[str, Any]:
    """What decides a run's result, by dotted name: all but what is `beside` it, and `OF_THE_RUN`.

    Files are left out: they count by their content, wherever they lie (`checkpoints.identity`).
    """
    names = tuple(f"{name}." for name in beside)
    settings = flat(as_record(config))
    return {n: value for n, value in settings.items() if n in OF_THE_RUN or not f"{n}.".startswith(names)}


def check_not_negative(name: str, value: float) -> None:
    """Require a finite number, zero or more.

    Raises:
        ValueError: negative, NaN or infinite.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more; got {value}.")


def as_record(config: Any) -> dict[str, Any]:
    """A configuration as plain values, as YAML and JSON hold them."""
    text = json.dumps(dataclasses.asdict(config), default=str)
    record: dict[str, Any] = json.loads(text)
    return record
