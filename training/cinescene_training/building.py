"""The network a run starts from: a base file or a fresh one, and which of its layers train."""

import warnings
from pathlib import Path

import torch
from torch import nn

from cinescene_core.checks import CheckpointError, CineSceneWarning
from cinescene_core.config import CineSceneConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.weights import load_transformer

from .config import ModelConfig
from .guide import GuidedNetwork
from .initialise import initialise
from .joins import JOINS
from .network import SceneNetwork


def build_network(config: ModelConfig, seed: int, *, guided: bool = False) -> tuple[SceneNetwork, CineSceneConfig]:
    """The network a run starts from, its trained layers marked.

    What the run never shows the network (features, camera) is frozen, so that every layer that is
    marked gets a gradient.

    Args:
        config: a file or sizes, and how the network is shown the scene.
        seed: of the fresh layers.
        guided: it is also supervised by VGGT's features (table 2, loss-guided).

    Raises:
        CheckpointError: the file is no transformer, or one trained in another context mode.
        ValueError: a layer to train that the network has not, or guidance of another join than the frame's.
    """
    if guided and config.join != "frame":
        raise ValueError(
            f"Guidance by VGGT's features needs model.join 'frame'; got '{config.join}'. Choose one of them."
        )
    transformer, record = build_transformer(config, seed)
    kind = JOINS.get(config.join, GuidedNetwork if guided else SceneNetwork)
    network = kind(transformer, config, seed)
    mark_trainable(network.transformer, (*config.trainable, *network.added))
    unused = {"scene_embed": "none" in (config.features, config.join), "cam_encoder": not config.camera}
    for path, parameter in network.transformer.named_parameters():
        if any(unused.get(name) for name in path.split(".")):
            parameter.requires_grad_(False)
    return network, record


def build_transformer(config: ModelConfig, seed: int) -> tuple[CineSceneTransformer, CineSceneConfig]:
    """The transformer a run starts from, in float32, with its projectors.

    Args:
        config: a file, or sizes for a fresh one.
        seed: of the fresh layers.

    Returns:
        The network, and what its file was trained with.

    Raises:
        CheckpointError: the file is no transformer, or one trained in another context mode.
    """
    if config.start_from is None:
        assert config.sizes is not None
        transformer = CineSceneTransformer(config.sizes)
        initialise(transformer, seed)
        record = CineSceneConfig(num_heads=config.sizes.num_heads, base_model=f"fresh, seed {seed}")
        return transformer, record
    with warnings.catch_warnings():
        # A base file has not seen a scene: that is what the run is for, and what comes of it has.
        warnings.filterwarnings("ignore", ".*without CineScene training", CineSceneWarning)
        loaded, record = load_transformer(config.start_from, dtype=torch.float32)
    if record.scene_trained:
        check_same_modes(config, record, config.start_from)
    return with_projectors(loaded), record


def check_same_modes(config: ModelConfig, record: CineSceneConfig, path: Path) -> None:
    """Require that a CineScene checkpoint goes on in the modes it was trained in.

    Raises:
        CheckpointError: it was trained in another; the message names both.
    """
    for name in ("context_attention", "context_timestep", "positions"):
        had, wanted = getattr(record, name), getattr(config, name)
        if had != wanted:
            raise CheckpointError(
                f"{path.name} was trained with {name} '{had}', but this run wants '{wanted}'. "
                f"Set model.{name} to '{had}', or start from a base file."
            )


def with_projectors(model: CineSceneTransformer) -> CineSceneTransformer:
    """The network with a projector in every block, in place; where a file has folded them they start at identity."""
    for block in model.blocks:
        if isinstance(block.projector, nn.Identity):
            block.projector = nn.Linear(model.config.width, model.config.width)
            nn.init.eye_(block.projector.weight)
            nn.init.zeros_(block.projector.bias)
    return model


def mark_trainable(network: nn.Module, names: tuple[str, ...]) -> None:
    """Let the layers whose path holds one of `names` train, and freeze the rest; `all` trains everything.

    Raises:
        ValueError: a name that is in no path.
    """
    paths = [name for name, _ in network.named_parameters()]
    for wanted in names:
        if wanted != "all" and not any(wanted in path.split(".") for path in paths):
            raise ValueError(f"model.trainable names '{wanted}', but no layer of the network is called so.")
    for path, parameter in network.named_parameters():
        parameter.requires_grad_("all" in names or any(wanted in path.split(".") for wanted in names))
