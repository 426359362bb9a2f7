"""From a run's checkpoint to a file that the pack opens."""

import dataclasses
from pathlib import Path

import torch

from cinescene_core.checks import CheckpointError
from cinescene_core.config import CineSceneConfig
from cinescene_core.models.precision import parameter_dtype
from cinescene_core.weights import (
    BUNDLE_PARTS,
    fold_projector,
    read_bundle_part,
    save_bundle,
    save_transformer,
)
from cinescene_core.weights.metadata import TRANSFORMER_KEY

from .building import build_network
from .checkpoints import check_same_run
from .config import TrainingConfig
from .data.encoders import bundle_path, encoder_digests
from .ema import no_averages
from .network import SceneNetwork
from .provenance import commit
from .saving import read_checkpoint

PREFIX = "network."
"""Where a checkpoint keeps the network."""


def export(
    config: TrainingConfig,
    checkpoint: Path,
    target: Path,
    *,
    bundle: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> CineSceneConfig:
    """Write the trained transformer: one safetensors file in Wan's names, projectors folded.

    The averaged weights are taken where the run keeps them.

    Args:
        config: the run.
        checkpoint: a Lightning checkpoint of it.
        target: the file to write.
        bundle: put the encoders of the run's bundle into the file too, so that it films on its own.
        dtype: type of the stored values; what inference keeps in float32 stays so.

    Returns:
        What the file says of itself.

    Raises:
        CheckpointError: the checkpoint is of another run, damaged, or an ablation that the pack
            cannot read.
        ValueError: a bundle is wanted, but the run's encoders are full-size files.
        OSError: the file cannot be written; no half-made file is left.
    """
    if not config.model.readable_by_the_pack:
        raise CheckpointError(
            f"This run is an ablation (join '{config.model.join}', features '{config.model.features}', camera "
            f"{str(config.model.camera).lower()}) that no CineScene checkpoint can describe. Measure it with "
            "cinescene-train evaluate instead."
        )
    source = config.cache.encoders.bundle
    if bundle and source is None:
        raise ValueError("A bundle is made of small encoders; this run has full-size files. Export without --bundle.")
    network, base = load_trained(config, checkpoint)
    record = export_record(config, network, base)
    state = fold_projector(network.transformer.state_dict())
    if not bundle:
        save_transformer(target, state, record, dtype=dtype)
        return record
    assert source is not None
    path = bundle_path(source)
    parts = {part: read_bundle_part(path, part) for part in ("vae", "vggt", "text")}
    stored = {name: value.to(parameter_dtype(name, dtype)) for name, value in state.items()}
    records = {TRANSFORMER_KEY: dataclasses.asdict(record)}
    records |= {BUNDLE_PARTS[part]: held for part, (_, held) in parts.items() if held}
    save_bundle(target, {"transformer": stored} | {part: tensors for part, (tensors, _) in parts.items()}, records)
    return record


def export_record(config: TrainingConfig, network: SceneNetwork, base: CineSceneConfig) -> CineSceneConfig:
    """What the file of a trained network says of itself."""
    shot, model = config.cache.shot, config.model
    return CineSceneConfig(
        context_attention=model.context_attention,
        positions=model.positions,
        context_timestep=model.context_timestep,
        vggt_id=encoder_digests(config.cache.encoders).vggt,
        vggt_width=shot.vggt_width,
        vggt_height=shot.vggt_height,
        num_views=shot.num_views,
        num_frames=shot.num_frames,
        width=shot.width,
        height=shot.height,
        fps=shot.fps,
        fov_degrees=shot.fov_degrees,
        num_heads=network.transformer.config.num_heads,
        scene_trained=True,
        base_model=base.base_model,
        training_commit=commit(),
        licence="Apache-2.0",
    )


def load_trained(config: TrainingConfig, checkpoint: Path) -> tuple[SceneNetwork, CineSceneConfig]:
    """The network of a run with its averaged weights, and what it started from.

    Raises:
        CheckpointError: the file is no checkpoint of this run, or damaged, or lacks the averaged weights.
    """
    content = read_checkpoint(checkpoint)
    check_same_run(content, config)
    averages = content["callbacks"].get("ExponentialAverage", {}).get("averages", {})
    if config.optimiser.ema_decay and not averages:
        raise CheckpointError(no_averages(checkpoint.name, config.optimiser.ema_decay))
    network, base = build_network(config.model, config.run.seed, guided=config.objective.guide_weight > 0)
    state = {name.removeprefix(PREFIX): value for name, value in content["state_dict"].items()}
    state |= {name.removeprefix(PREFIX): value for name, value in averages.items()}
    network.load_state_dict(state)
    return network.eval(), base
