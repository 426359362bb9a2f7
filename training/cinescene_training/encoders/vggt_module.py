"""The scene encoder's training, wired to Lightning. The loss is elsewhere; here is what runs when."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from cinescene_core.checks import check_positive
from cinescene_core.models.vggt import VGGT, VGGTConfig, vggt_fingerprint
from cinescene_core.weights.vggt import FILE_FORMAT, METADATA_KEY, load_vggt

from ..config import OptimiserConfig, RunConfig
from ..seeds import generator_for
from .batches import ViewBatch, ViewsConfig, drawn_count, recoloured, rendered_numbers, view_batch
from .fitting import RECORD_KEY, EncoderModule, fit_encoder, write_network
from .vggt_loss import CAMERA_WEIGHT, camera_loss, depth_loss, relative_depth_error, rotation_errors

HEADS = ("camera", "depth")
UNUSED = "aggregator.patch_embed.mask_token"
"""In the official file, read in DINOv2's own training only."""


@dataclass(frozen=True, kw_only=True)
class VGGTTrainingConfig:
    """One run of the scene encoder, whole."""

    name: str
    run: RunConfig
    start_from: Path | None = None
    """An official or converted file with both heads; None starts fresh from `sizes`."""
    sizes: VGGTConfig | None = None
    """Only without `start_from`."""
    layer_scale: float = 0.01
    """First value of the aggregator's and the camera head's gains in a fresh network; 0.01 is VGGT's, for 24 layers."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation_every: int = 250
    """Steps."""
    validation_samples: int = 16
    exported_heads: tuple[Literal["camera", "depth"], ...] = ()
    """Heads the file keeps; CineScene itself reads none."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the exported matrices; the rest stays float32."""
    task: Literal["vggt"] = "vggt"

    def __post_init__(self) -> None:
        if (self.start_from is None) == (self.sizes is None):
            raise ValueError("give either 'start_from' or 'sizes'.")
        if self.sizes is not None and not (self.sizes.camera_head and self.sizes.depth_head):
            raise ValueError(
                "sizes must have camera_head and depth_head: the loss reads both. Leave heads out of the export."
            )
        for name in ("layer_scale", "validation_every", "validation_samples"):
            check_positive(name, getattr(self, name))


class VGGTModule(EncoderModule):
    """Trains a VGGT on exact depth and cameras of rendered rooms.

    Args:
        config: the run.
    """

    config: VGGTTrainingConfig

    def __init__(self, config: VGGTTrainingConfig) -> None:
        super().__init__(config)
        if config.start_from is not None:
            self.network = load_vggt(config.start_from, heads=HEADS, dtype=torch.float32)
        else:
            assert config.sizes is not None
            self.network = VGGT(config.sizes)
            initialise_vggt(self.network, config.run.seed, config.layer_scale)
        self.kept: tuple[list[int], ViewBatch] | None = None
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name != UNUSED)
        if config.run.compiled:
            self.network.aggregator.compile()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [b, s, 3, h, w] to cameras [i, b, s, 9], depth and confidence [b, s, h, w]; heads in float32."""
        network, config = self.network, self.network.config
        b, grid, last = len(images), network.grid_of(images), config.depth - 1
        kept = network.aggregator(images, grid, frozenset({*config.depth_layers, last}), None)
        with torch.autocast(images.device.type, enabled=False):
            cameras = network.camera_head(kept[last][:, :, 0].float())
            patches = [
                rearrange(kept[layer][:, :, config.token_offset :], "b s k c -> (b s) k c").float()
                for layer in config.depth_layers
            ]
            depth, confidence = network.depth_head(patches, grid)
        return cameras, *(rearrange(x, "(b s) h w -> b s h w", b=b) for x in (depth, confidence))

    def scenes(self, numbers: list[int], split: str, count: int) -> ViewBatch:
        """Rendered scenes of `count` views."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return view_batch(self.config.views, split, self.config.run.seed, numbers, count, self.device)

    def training_scenes(self, numbers: list[int]) -> ViewBatch:
        """Scenes of training samples; the last rendered ones are kept for their echoes."""
        config, run = self.config.views, self.config.run
        rendered = rendered_numbers(numbers, run.batch_size, config.echoes)
        if self.kept is None or rendered != self.kept[0]:
            count = drawn_count(config.view_counts, run.seed, rendered[0] // run.batch_size)
            self.kept = (rendered, self.scenes(rendered, "train", count))
        batch = self.kept[1]
        if config.echoes == 1:
            return batch
        return dataclasses.replace(batch, images=recoloured(batch.images, 2, run.seed, numbers))

    def training_step(self, numbers: list[int], batch_idx: int) -> Tensor:
        batch = self.training_scenes(numbers)
        cameras, depth, confidence = self(batch.images)
        losses = {
            "camera": camera_loss(cameras, batch.truth.encoding),
            "depth": depth_loss(depth, confidence, batch.truth),
        }
        for name, loss in losses.items():
            self.log(f"train/{name}", loss, prog_bar=True, batch_size=len(numbers))
        return CAMERA_WEIGHT * losses["camera"] + losses["depth"]

    def validation_step(self, numbers: list[int], batch_idx: int) -> None:
        """Errors on rings of unseen places, beside those of answers that do not look at the pictures.

        The blind camera never turns; the blind depth is the batch's own median, the best constant there is.
        """
        batch = self.scenes(self.counted(numbers), "validation", max(self.config.views.view_counts))
        cameras, depth, _ = self(batch.images)
        truth = batch.truth
        still = truth.encoding[:, :1].expand_as(truth.encoding)
        median = truth.depth[truth.valid].median().expand_as(truth.depth)
        rotation, blind_rotation = (rotation_errors(poses, truth.encoding) for poses in (cameras[-1], still))
        errors = {
            "rotation_degrees": rotation,
            "rotation_degrees_median": rotation.median(),
            "rotation_degrees_blind": blind_rotation,
            "depth": relative_depth_error(depth, truth),
            "depth_blind": relative_depth_error(median, truth),
        }
        self.add_means(numbers, {name: error.float().mean() for name, error in errors.items()})


@torch.no_grad()
def initialise_vggt(network: VGGT, seed: int, layer_scale: float) -> None:
    """Give a VGGT fresh weights, in place.

    Linear layers are Xavier uniform, convolutions keep the variance of what they read, tokens and positions have
    deviation 0.02, norms are one, biases zero; the backbone's gains are one, all others `layer_scale`. The last
    layer of the depth head starts small: depth 1, the mean by definition.
    """
    generator = generator_for(seed, "initialise vggt")
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(1.0 if ".patch_embed." in name else layer_scale)
        elif name.endswith(("token", "tokens", "pos_embed")):
            parameter.normal_(std=0.0 if "mask" in name or "pose" in name else 0.02, generator=generator)
        elif parameter.ndim == 1:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            small = 0.1 if "output_conv2.2" in name else 1.0
            parameter.normal_(std=small * parameter[0].numel() ** -0.5, generator=generator)


def vggt_tensors(network: VGGT, heads: tuple[str, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """The aggregator and the wanted heads under the official names, matrices in `dtype`, the rest in float32."""
    parts = ("aggregator.", *(f"{head}_head." for head in heads))
    kept = VGGT(network.config, device="meta", dtype=dtype).state_dict()
    state = network.state_dict()
    return {name: state[name].detach().to(like.dtype) for name, like in kept.items() if name.startswith(parts)}


def fit_vggt(config: VGGTTrainingConfig, *, resume: Path | None = None, stop_at: int | None = None) -> Path:
    """Train the scene encoder and write it.

    Args:
        config: the run.
        resume: a checkpoint of this run; the result equals that of a run that never stopped.
        stop_at: stop after that step as if interrupted; the file is written all the same.

    Returns:
        `vggt.safetensors` in the run's folder, for the pack's VGGT loader or a bundle.

    Raises:
        CheckpointError: the checkpoint belongs to another run, or `start_from` is no VGGT with both heads.
        OSError: the file cannot be written; no half-made file is left.
    """
    config.run.folder.mkdir(parents=True, exist_ok=True)
    module = VGGTModule(config)
    run = fit_encoder(module, config, resume, stop_at)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    tensors = vggt_tensors(module.network, config.exported_heads, dtype)
    record = {
        "format": FILE_FORMAT,
        "licence": "Apache-2.0" if config.start_from is None else "that of the file it was trained from",
        "source": config.name,
        "fingerprint": vggt_fingerprint(tensors),
    }
    path = config.run.folder / "vggt.safetensors"
    return write_network(path, tensors, {METADATA_KEY: record, RECORD_KEY: run})
