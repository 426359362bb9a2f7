"""The stages of a shot on the meta device: what each takes at its peak.

Beside the tensors stand the weights. On a card a stage has only its own networks there; on the CPU all of them
stay in memory throughout.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from ..config import (
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    CachePlace,
    CacheType,
    CineSceneConfig,
    ContextAttention,
    WanConfig,
)
from ..latents import latent_shape
from ..models.autoencoder import WanAutoencoder, new_autoencoder
from ..models.sequence import STREAMS, KeysValues, SceneContext, SceneMemory
from ..models.text import MAX_TOKENS
from ..models.vggt import VGGT, VGGTConfig
from ..models.wan import CineSceneTransformer
from ..scene import PIXELS_AT_ONCE
from ..scene_cache import CacheIdentity, SceneCache, StoredBlock, StoredTensor
from .live import peak_bytes

Stage = Literal["views", "text encoder", "VGGT", "VAE encoder", "scene cache", "sampling", "VAE decoder"]
STAGES: tuple[Stage, ...] = ("text encoder", "VGGT", "VAE encoder", "scene cache", "sampling", "VAE decoder")
"""Those of networks, in the order in which they run."""
PROCESS_BYTES = 480 * 2**20
"""Python with torch for the CPU, diffusers and transformers at work, without any network, on Linux.

A torch for cards takes more.
"""
FULL_WAN, FULL_VGGT = WanConfig(), VGGTConfig(camera_head=False, depth_head=False)
UMT5_XXL_BYTES = 11_361_820_672
"""Weights of Wan2.1's text encoder in bfloat16."""
UMT5_XXL_HEADS = 64
FLOAT = 4
"""Bytes."""
CUTTING = 7
"""Numbers per pixel of one view that cutting it out of a panorama takes for the moment, measured."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Every network of a shot by its sizes; the defaults are what `load_models` makes of the full-size files."""

    wan: WanConfig = FULL_WAN
    projector: bool = False
    dtype: torch.dtype = torch.bfloat16
    vggt: VGGTConfig = FULL_VGGT
    vggt_dtype: torch.dtype = torch.bfloat16
    vae_width: int = 96
    vae_dtype: torch.dtype = torch.float32
    text_bytes: int = UMT5_XXL_BYTES
    text_heads: int = UMT5_XXL_HEADS
    """Attention heads of the text encoder; 0 for one without attention."""

    @classmethod
    def of(cls, transformer: CineSceneTransformer, vggt: VGGT, vae: WanAutoencoder, text: nn.Module) -> Self:
        """The sizes of networks that are loaded."""
        block: Any = transformer.blocks[0]
        vggt_block: Any = vggt.aggregator.frame_blocks[0]
        encoder: Any = getattr(text, "network", None)
        return cls(
            wan=transformer.config,
            projector=not isinstance(block.projector, nn.Identity),
            dtype=transformer.patch_embedding.weight.dtype,
            vggt=vggt.config,
            vggt_dtype=vggt_block.attn.qkv.weight.dtype,
            vae_width=vae.network.config.base_dim,
            vae_dtype=vae.network.dtype,
            text_bytes=_bytes_of(text),
            text_heads=0 if encoder is None else encoder.config.num_heads,
        )


@dataclass(frozen=True, kw_only=True)
class ShotSize:
    """What else decides how much memory a shot takes."""

    num_frames: int
    num_views: int
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    vggt_width: int
    vggt_height: int
    context_attention: ContextAttention
    stored: CacheType | None = None
    """How the scene cache is stored; None is the transformer's own type."""
    place: CachePlace = "device"
    batch: int = 1
    """Videos in one forward. A host that computes both branches of guidance together has two of each."""

    @classmethod
    def trained(cls, config: CineSceneConfig, **changes: Any) -> Self:
        """What a checkpoint was trained for, with some of it changed."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**({name: getattr(config, name) for name in names if hasattr(config, name)} | changes))

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(channels, frames, height, width) of the video's latents."""
        return latent_shape(self.num_frames, self.width, self.height)


class StageMemory(NamedTuple):
    """What one stage takes at its peak, in bytes."""

    stage: Stage
    weights: int
    """Of the networks that are there; on the CPU also the process without them."""
    working: int
    """All the rest: what the stage reads and makes, and what earlier stages keep for later ones."""

    @property
    def peak(self) -> int:
        return self.weights + self.working


def predict_memory(
    networks: Networks, shot: ShotSize, device: torch.device | str, stages: Sequence[Stage] = STAGES
) -> list[StageMemory]:
    """What each stage of a shot takes: of a card, or of the whole process on the CPU.

    Not counted are the panorama that views are cut from, of which a copy is made, and what allocators keep in
    reserve. On the CPU that is little where tensors are larger than 32 MB, as at full size, and as much again where
    they are smaller.

    Args:
        networks: their sizes.
        shot: its size.
        device: `cpu` or a card; it need not be there.
        stages: which to predict; mode `joint` has no scene cache.

    Raises:
        ValueError: a size that cannot be filmed.
        ImportError: diffusers, which has the VAE, is not installed.
    """
    on_cpu = torch.device(device).type == "cpu"
    predicted = []
    for stage in stages:
        if stage != "scene cache" or shot.context_attention != "joint":
            there = USED[stage] if not on_cpu else ("text", *MADE)
            weights = sum(network_bytes(networks, name) for name in there) + (PROCESS_BYTES if on_cpu else 0)
            predicted.append(StageMemory(stage, weights, _working(networks, shot, stage, on_cpu)))
    return predicted


@lru_cache
def network_bytes(networks: Networks, name: str) -> int:
    """Weights of one network: "text", "vggt", "vae" or "transformer"."""
    return networks.text_bytes if name == "text" else _bytes_of(MADE[name](networks))


def scene_cache_bytes(networks: Networks, shot: ShotSize) -> int:
    """What a scene cache takes where it is kept; 0 in mode `joint`."""
    if shot.context_attention == "joint":
        return 0
    return networks.wan.num_layers * sum(tensor.num_bytes for tensor in _stored_block(networks, shot))


def host_bytes(networks: Networks, shot: ShotSize) -> int:
    """What the host of a card holds meanwhile: all networks, the scene, and a cache that is kept there."""
    cache = scene_cache_bytes(networks, shot) if shot.place == "host" else 0
    weights = sum(network_bytes(networks, name) for name in ("text", *MADE))
    return PROCESS_BYTES + weights + _scene_bytes(networks, shot) + cache


def free_bytes(device: torch.device | str, root: Path = Path("/")) -> int | None:
    """What this process can have of a card or of the machine, with what it has already; None where it is not told.

    Args:
        device: the CPU or a card.
        root: where Linux shows its `proc` and `sys`.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type != "cpu" or not (root / "proc/meminfo").exists():
        return None
    left = _entry(root / "proc/meminfo", "MemAvailable:") * 1024
    group = root / "sys/fs/cgroup"
    limit = group / "memory.max"
    if limit.exists() and limit.read_text().strip().isdigit():  # a container's; "max" is none
        # Of what is used, files that were read are dropped when memory is wanted.
        used = int((group / "memory.current").read_text()) - _entry(group / "memory.stat", "inactive_file")
        left = min(left, int(limit.read_text()) - used)
    return left + _entry(root / "proc/self/status", "VmRSS:") * 1024


def _entry(path: Path, name: str) -> int:
    """The number behind a name in a list of the system's."""
    return int(next(line.split()[1] for line in path.read_text().splitlines() if line.split()[:1] == [name]))


def _bytes_of(network: nn.Module) -> int:
    return sum(values.nbytes for values in (*network.parameters(), *network.buffers()))


def _transformer(networks: Networks, num_layers: int | None = None) -> CineSceneTransformer:
    config = dataclasses.replace(networks.wan, num_layers=num_layers or networks.wan.num_layers)
    return CineSceneTransformer(config, projector=networks.projector, device="meta", dtype=networks.dtype)


def _vggt(networks: Networks) -> VGGT:
    return VGGT(networks.vggt, device="meta", dtype=networks.vggt_dtype)


def _vae(networks: Networks) -> WanAutoencoder:
    return WanAutoencoder(nn.Module.to(new_autoencoder(networks.vae_width, "meta"), networks.vae_dtype))


MADE: dict[str, Callable[[Networks], nn.Module]] = {"vggt": _vggt, "vae": _vae, "transformer": _transformer}
"""How the networks are made without values."""
USED: dict[Stage, tuple[str, ...]] = {
    "views": (),
    "text encoder": ("text",),
    "VGGT": ("vggt", "vae"),
    "VAE encoder": ("vggt", "vae"),
    "scene cache": ("transformer",),
    "sampling": ("transformer",),
    "VAE decoder": ("vae",),
}
"""Which networks are on the card in a stage; the two that encode a scene are there together."""


def _working(networks: Networks, shot: ShotSize, stage: Stage, on_cpu: bool) -> int:
    """Bytes beside the weights: what the stage makes, and what others keep on the same device meanwhile."""
    images = shot.num_views * shot.height * shot.width * 3 * FLOAT if on_cpu else 0
    # The scene, and its context as the transformer reads it.
    scene = _scene_bytes(networks, shot) + images + _tokens_bytes(networks, shot) if on_cpu else 0
    cache = scene_cache_bytes(networks, shot) if on_cpu or shot.place == "device" else 0
    if stage == "views":
        return images + CUTTING * shot.height * shot.width * FLOAT
    if stage == "text encoder":
        # Scores of attention three times: raw, with positions, and as weights.
        return images + 3 * networks.text_heads * MAX_TOKENS**2 * 2
    if stage == "VGGT":
        size = shot.vggt_width, shot.vggt_height
        return images + _vggt_peak(networks.vggt, networks.vggt_dtype, shot.num_views, *size, on_cpu)
    if stage == "VAE encoder":
        seen = shot.num_views * 3 * shot.vggt_width * shot.vggt_height * FLOAT
        at_once = min(shot.num_views, max(1, PIXELS_AT_ONCE // (shot.width * shot.height)))
        made = _encoder_peak(networks.vae_width, networks.vae_dtype, at_once, shot.width, shot.height, on_cpu)
        return 2 * images + seen + _tokens_bytes(networks, shot) + made
    if stage == "VAE decoder":
        return scene + cache + _decoder_peak(networks, shot, on_cpu)
    # The blocks of a transformer come and go one by one; only their parts of the cache add up.
    few = min(2, networks.wan.num_layers)
    unseen = cache // networks.wan.num_layers * (networks.wan.num_layers - few)
    return scene + unseen + _transformer_peak(networks, shot, stage == "sampling", few, on_cpu)


def _tokens_bytes(networks: Networks, shot: ShotSize) -> int:
    """VGGT's tokens of all views, in float32."""
    rows, columns = _grid(networks, shot)
    return shot.num_views * (rows * columns + networks.vggt.token_offset) * networks.vggt.width * FLOAT


def _scene_bytes(networks: Networks, shot: ShotSize) -> int:
    """A scene without its pictures, in float32."""
    channels, _, height, width = shot.latent_shape
    return _tokens_bytes(networks, shot) + shot.num_views * channels * height * width * FLOAT


def _grid(networks: Networks, shot: ShotSize) -> tuple[int, int]:
    """Rows and columns of VGGT's patches."""
    return shot.vggt_height // networks.vggt.patch_size, shot.vggt_width // networks.vggt.patch_size


@lru_cache
def _vggt_peak(config: VGGTConfig, dtype: torch.dtype, views: int, width: int, height: int, on_cpu: bool) -> int:
    # Its blocks come and go one by one too.
    network = VGGT(dataclasses.replace(config, backbone_depth=1, depth=1), device="meta", dtype=dtype)
    return peak_bytes(lambda: network.encode(torch.empty(1, views, 3, height, width)), on_cpu)


@lru_cache
def _encoder_peak(vae_width: int, dtype: torch.dtype, views: int, width: int, height: int, on_cpu: bool) -> int:
    network = _vae(Networks(vae_width=vae_width, vae_dtype=dtype))
    return peak_bytes(lambda: network.encode(torch.empty(views, 1, height, width, 3)), on_cpu)


def _decoder_peak(networks: Networks, shot: ShotSize, on_cpu: bool) -> int:
    """The decoder goes from one latent frame to the next; from the third on each adds but its own pictures."""
    channels, frames, height, width = shot.latent_shape
    few = min(frames, 3)
    decoding = _decoding_peak(networks.vae_width, networks.vae_dtype, (channels, few, height, width), on_cpu)
    picture = 3 * SPATIAL_STRIDE**2 * height * width
    latent = channels * height * width
    # Latents are there as they came and as the decoder reads them.
    added = TEMPORAL_STRIDE * picture * networks.vae_dtype.itemsize + 2 * latent * FLOAT
    # At the end the video is there three times: as decoded, and twice as its range becomes 0..1.
    finished = 3 * shot.num_frames * picture * FLOAT + frames * latent * FLOAT
    return max(decoding + (frames - few) * added, finished)


@lru_cache
def _decoding_peak(vae_width: int, dtype: torch.dtype, shape: tuple[int, ...], on_cpu: bool) -> int:
    network = _vae(Networks(vae_width=vae_width, vae_dtype=dtype))
    return peak_bytes(lambda: network.decode(torch.empty(1, *shape)), on_cpu)


@lru_cache
def _transformer_peak(networks: Networks, shot: ShotSize, samples: bool, num_layers: int, on_cpu: bool) -> int:
    """Reading a scene into its cache, or one step of sampling, with the first blocks."""
    model, mode = _transformer(networks, num_layers), shot.context_attention
    kept_here = on_cpu or shot.place == "device"
    elsewhere = [_stored_block(networks, shot) for _ in range(num_layers)]
    channels, frames, height, width = shot.latent_shape

    def read() -> object:
        blocks = []
        for memory in model.read_context(_embedded(model, networks, shot), mode):
            block = StoredBlock(*(_stored(tensor, shot) for tensor in memory))
            blocks.append(block if kept_here else None)
        return blocks

    def sample() -> Tensor:
        scene: SceneContext | SceneMemory
        if mode == "joint":
            scene = _embedded(model, networks, shot)
        elif kept_here:
            identity = CacheIdentity(
                model="", scene="", order="", positions="", context_attention=mode, stored=shot.stored or "bfloat16"
            )
            scene = SceneCache(identity, tuple(_stored_block(networks, shot) for _ in range(num_layers)))
        else:
            scene = _HostCache(elsewhere)
        batch = shot.batch
        noise, camera = torch.empty(batch, channels, frames, height, width), torch.empty(batch, frames, 3, 4)
        prompts = torch.empty(max(2, batch), MAX_TOKENS, networks.wan.text_width, dtype=networks.dtype)
        noisy, text = noise.to(networks.dtype), prompts[:batch]
        return model(noisy, torch.empty(batch), text, camera=camera, context=scene, context_attention=mode).float()

    return peak_bytes(sample if samples else read, on_cpu)


def _embedded(model: CineSceneTransformer, networks: Networks, shot: ShotSize) -> SceneContext:
    views, (channels, frames, height, width) = shot.num_views, shot.latent_shape
    return model.embed_context(
        torch.empty(1, views, channels, height, width, dtype=networks.dtype),
        torch.empty(1, views, networks.wan.feature_width, *_grid(networks, shot), dtype=networks.dtype),
        torch.arange(frames, frames + STREAMS * views, device="cpu"),
    )


def _stored_block(networks: Networks, shot: ShotSize) -> StoredBlock:
    """One block's part of the scene cache."""
    wan, (_, _, height, width) = networks.wan, shot.latent_shape
    shape = 1, wan.num_heads, STREAMS * shot.num_views * (height // 2) * (width // 2), wan.head_width
    keys, values = (_stored(torch.empty(shape, device="meta", dtype=networks.dtype), shot) for _ in range(2))
    return StoredBlock(keys, values)


def _stored(tensor: Tensor, shot: ShotSize) -> StoredTensor:
    own: Any = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor.of(tensor, shot.stored or own)


class _HostCache(NamedTuple):
    """A cache in the host's memory: a block is sent while the one before it is read."""

    blocks: list[StoredBlock]

    def layers(self, device: torch.device, dtype: torch.dtype) -> Iterator[KeysValues]:
        def sent(block: StoredBlock) -> KeysValues:
            return StoredBlock(*(tensor.moved(torch.clone) for tensor in block)).restored(device, dtype)

        coming = sent(self.blocks[0])
        for following in (*self.blocks[1:], None):
            arrived = coming
            if following is not None:
                coming = sent(following)
            yield arrived
