"""Every setting and default, once, with its unit and its limits."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from .checks import CheckpointError, check_choice, check_num_frames, check_positive, check_video_size

TEMPORAL_STRIDE = 4
"""Pixel frames per latent frame, after the first."""
SPATIAL_STRIDE = 8
"""Pixels per latent pixel."""
LATENT_CHANNELS = 16
MAX_VIEWS = 40
"""Most views a scene may have; the paper uses 20."""
UNTRAINED = (
    "These weights are untrained: they show that every stage runs and what it costs. "
    "The picture they make is noise, not film, and follows neither prompt nor camera."
)
"""What users read wherever the weights were never trained to read a scene."""

# Per-channel statistics of Wan2.1's VAE latents, published with its configuration: the
# transformer reads (latent - mean) / std.
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How a panorama is cut into views (section 4.1: 20 views, 18 degrees apart, 90 degrees wide)."""

    num_views: int = 20
    """Views, evenly spaced around the horizon; the first looks along the yaw offset."""
    fov_degrees: float = 90.0
    """Horizontal field of view of each view."""
    width: int = 672
    """Pixels."""
    height: int = 384
    """Pixels."""
    yaw_offset_degrees: float = 0.0
    """Where the first view looks; 0 is the panorama's centre, positive is to the right."""
    pitch_degrees: float = 0.0
    """How far every view looks above the horizon."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_views <= MAX_VIEWS:
            raise ValueError(
                f"ViewConfig.num_views must be 1 to {MAX_VIEWS}; got {self.num_views}. Use 20, as the paper does."
            )
        if not 0 < self.fov_degrees < 180:
            raise ValueError(
                f"ViewConfig.fov_degrees must lie between 0 and 180; got {self.fov_degrees}. "
                "To see wider, use more views."
            )
        if not -90 <= self.pitch_degrees <= 90:
            raise ValueError(
                f"ViewConfig.pitch_degrees must be -90 to 90; got {self.pitch_degrees}. Use 0 for level views."
            )
        if not math.isfinite(self.yaw_offset_degrees):
            raise ValueError(
                f"ViewConfig.yaw_offset_degrees must be a finite number; got {self.yaw_offset_degrees}. "
                "Use 0 for the panorama's centre."
            )
        check_video_size(self.width, self.height)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a shot is denoised (section 5.1: 50 steps)."""

    steps: int = 50
    guidance: float = 5.0
    """Weight of the prompt; 1 switches the unguided branch off."""
    guidance_low: float = 0.0
    """Noise level sigma below which the unguided branch is off (guidance interval, arXiv 2404.07724)."""
    guidance_high: float = 1.0
    """Noise level above which it is off."""
    shift: float = 8.0
    """Timestep shift of the flow; larger spends more steps on noise. Wan's habit for 1.3B."""
    solver: Literal["unipc", "euler"] = "unipc"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"SamplingConfig.steps must be at least 1; got {self.steps}. Use 50, as the paper does.")
        if not 1 <= self.guidance < math.inf:
            raise ValueError(
                f"SamplingConfig.guidance must be at least 1 (no guidance); got {self.guidance}. Use about 5."
            )
        if not 0 <= self.guidance_low <= self.guidance_high <= 1:
            raise ValueError(
                "SamplingConfig.guidance_low and guidance_high must be noise levels in order, 0 <= low <= high <= 1; "
                f"got {self.guidance_low} and {self.guidance_high}. Use 0 and 1 for guidance at every step."
            )
        check_positive("SamplingConfig.shift", self.shift)
        if self.solver not in ("unipc", "euler"):
            raise ValueError(f"SamplingConfig.solver must be 'unipc' or 'euler'; got {self.solver!r}.")

    def guidance_at(self, sigma: float) -> float:
        """Weight of the prompt at a noise level: 1, without the unguided branch, outside the interval."""
        return self.guidance if self.guidance_low <= sigma <= self.guidance_high else 1.0


AttentionBackend = Literal["sdpa", "sage", "flash"]
ATTENTION_BACKENDS: tuple[AttentionBackend, ...] = ("sdpa", "sage", "flash")
CacheType = Literal["float32", "bfloat16", "float16", "float8"]
"""How a scene cache is stored; `float8` is e4m3 with one scale per head."""
CACHE_TYPES: tuple[CacheType, ...] = ("float32", "bfloat16", "float16", "float8")
CachePlace = Literal["device", "host"]
"""Where it is kept: beside the model, or in the host's memory, from where each block's part is sent ahead."""
CACHE_PLACES: tuple[CachePlace, ...] = ("device", "host")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """What makes a shot take less time or memory. The defaults leave nothing out."""

    attention: AttentionBackend = "sdpa"
    """Who computes the transformer's attention: PyTorch, SageAttention or FlashAttention."""
    compiled: bool = False
    """Compile the transformer's blocks in place; it pays from the second shot on. The values stay, but for rounding."""
    select_views: float | None = None
    """Leave out views of whose picture the path sees no more than this share; 0 leaves out what it never sees. None
    reads all of them, as the checkpoint was trained."""
    step_cache: float | None = None
    """Leave out all blocks but the first where what it adds changes less than this share from step to step."""
    cache_type: CacheType | None = None
    """How the scene cache is stored; None is the transformer's own type. Mode `joint` has no cache."""
    cache_place: CachePlace = "device"

    def __post_init__(self) -> None:
        check_choice("SpeedConfig.attention", self.attention, ATTENTION_BACKENDS)
        if self.select_views is not None and not 0 <= self.select_views < 1:
            raise ValueError(
                "SpeedConfig.select_views is the share of a view that a path must see, from 0 to below 1; got "
                f"{self.select_views:g}. Use 0 to leave out only what is never seen."
            )
        if self.step_cache is not None:
            check_positive("SpeedConfig.step_cache", self.step_cache)
        if self.cache_type is not None:
            check_choice("SpeedConfig.cache_type", self.cache_type, CACHE_TYPES)
        check_choice("SpeedConfig.cache_place", self.cache_place, CACHE_PLACES)

    @property
    def changes_video(self) -> dict[str, Any]:
        """The settings that decide the video, as JSON values."""
        names = ("attention", "select_views", "step_cache", "cache_type")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """Sizes of the transformer; the defaults are Wan2.1 T2V 1.3B."""

    width: int = 1536
    """Hidden width d."""
    num_layers: int = 30
    num_heads: int = 12
    ffn_width: int = 8960
    text_width: int = 4096
    frequency_width: int = 256
    """Channels of the sinusoidal timestep embedding."""
    feature_width: int = 2048
    """Channels of the scene encoder's tokens, read by `scene_embed`."""
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_positive(f"WanConfig.{field.name}", getattr(self, field.name))
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ValueError(f"WanConfig.width {self.width} must divide into {self.num_heads} heads of an even width.")

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads


ContextAttention = Literal["joint", "cached", "per_view"]
PositionScheme = Literal["sequential", "paired", "single"]
ContextTimestep = Literal["zero", "shared"]


@dataclass(frozen=True, kw_only=True)
class CineSceneConfig:
    """What a CineScene checkpoint was trained with: the JSON under its metadata key `cinescene`."""

    format: int = 1
    """Version of this record."""
    context_attention: ContextAttention = "joint"
    """Who attends to whom; `joint` is the paper: every token attends to every token."""
    positions: PositionScheme = "sequential"
    """Temporal slots of the context; see `context.temporal_positions`."""
    context_timestep: ContextTimestep = "zero"
    """Timestep that modulates context tokens: `zero` (they are clean) or the video's own."""
    vggt_id: str = ""
    """Fingerprint of the scene encoder; empty means any."""
    vggt_width: int = 518
    """Width of the pictures the scene encoder sees, in pixels."""
    vggt_height: int = 294
    """Height of the pictures the scene encoder sees, in pixels."""
    num_views: int = 20
    num_frames: int = 77
    width: int = 672
    """Video width in pixels."""
    height: int = 384
    """Video height in pixels."""
    fps: float = 15.0
    fov_degrees: float = 90.0
    """Horizontal field of view of the video."""
    num_heads: int = 12
    """Attention heads; the one size a state dict does not show."""
    scene_trained: bool = True
    """False for weights that were never trained to read a scene (base files, fresh initialisations)."""
    base_model: str = "Wan2.1-T2V-1.3B"
    training_commit: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "format": (1,),
            "context_attention": ("joint", "cached", "per_view"),
            "positions": ("sequential", "paired", "single"),
            "context_timestep": ("zero", "shared"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise CheckpointError(
                    f"Checkpoint metadata: field '{name}' is {getattr(self, name)!r}; "
                    f"this version knows {list(allowed)}. Update CineScene, or export the checkpoint again."
                )
        if self.context_attention != "joint" and self.context_timestep != "zero":
            raise CheckpointError(
                "Checkpoint metadata: fields 'context_attention' and 'context_timestep' contradict each other: "
                f"{self.context_attention!r} context needs timestep 'zero'."
            )
        try:
            check_num_frames(self.num_frames)
            check_video_size(self.width, self.height)
            for name in ("fps", "num_heads", "vggt_width", "vggt_height"):
                check_positive(name, getattr(self, name))
        except ValueError as error:
            raise CheckpointError(f"Checkpoint metadata: {error}") from error
        for name, fits, needed in (
            ("fov_degrees", 0 < self.fov_degrees < 180, "must lie between 0 and 180"),
            ("vggt_width", self.vggt_width % 14 == 0, "must be a multiple of VGGT's patch, 14"),
            ("vggt_height", self.vggt_height % 14 == 0, "must be a multiple of VGGT's patch, 14"),
            ("num_views", 1 <= self.num_views <= MAX_VIEWS, f"must be 1 to {MAX_VIEWS}"),
        ):
            if not fits:
                raise CheckpointError(f"Checkpoint metadata: {name} {needed}; got {getattr(self, name)}.")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the record.

        Raises:
            CheckpointError: not JSON, an unknown field, or a value of the wrong type; the
                message names the field.
        """
        try:
            record: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"Checkpoint metadata: key 'cinescene' is not JSON ({error}).") from error
        if not isinstance(record, dict):
            raise CheckpointError("Checkpoint metadata: key 'cinescene' must hold a JSON object.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in record.items():
            if name not in fields:
                raise CheckpointError(
                    f"Checkpoint metadata: unknown field '{name}'. Update CineScene, or export the checkpoint again."
                )
            wanted = type(fields[name].default)
            numeric = wanted is float and type(value) is int
            if type(value) is not wanted and not numeric:
                raise CheckpointError(
                    f"Checkpoint metadata: field '{name}' must be {wanted.__name__}; got {value!r}. "
                    "Export the checkpoint again."
                )
        return cls(**record)
