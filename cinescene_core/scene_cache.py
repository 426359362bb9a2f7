"""What every video of one scene reads of it: the context's keys and values in each block, computed once.

In the context modes `cached` and `per_view` the context sees neither the video, nor the prompt, nor the noise. One
cache serves every step, both branches of guidance, every prompt, seed and camera path of its scene under its model.
It may be stored in fewer bits than it is computed in, and elsewhere than where it is read.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .checks import CheckpointError, FileFormatError, check_choice
from .config import CACHE_TYPES, CachePlace, CacheType, ContextAttention
from .files import atomic_write
from .models.sequence import KeysValues, SceneContext
from .models.wan import CineSceneTransformer
from .types import Context, content_digest
from .weights.files import load_tensors, read_header

CACHE_KEY = "cinescene_cache"
"""Metadata of a cache file."""
CACHE_FORMAT = 1
SCALE = ".scale"
_PARTS = (("",), ("", SCALE))
"""Suffixes of a stored tensor's names in a file, without and with fp8."""
SAMPLES = 64
"""Values of each parameter that a model's digest reads."""


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """What a cache belongs to: it serves nothing else."""

    model: str
    """`weights_digest` of the transformer."""
    scene: str
    """`scene_digest` of the context."""
    order: str
    """Which view stands in which slot: "0 3 1"."""
    positions: str
    """First and last temporal position of the views' images and features: they stand behind the video's frames."""
    context_attention: ContextAttention
    """The mode it was computed in."""
    stored: CacheType


class StoredTensor(NamedTuple):
    """Keys or values as they are kept."""

    values: Tensor
    """[1, heads, n, c]."""
    scale: Tensor | None = None
    """[1, heads, 1, 1] float32, in fp8: the tensor is values * scale."""

    @classmethod
    def of(cls, tensor: Tensor, stored: CacheType) -> Self:
        if stored != "float8":
            return cls(tensor.to(getattr(torch, stored)))
        largest = tensor.float().abs().amax(dim=(2, 3), keepdim=True)
        scale = largest.clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
        return cls((tensor.float() / scale).to(torch.float8_e4m3fn), scale)

    def restored(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The tensor as attention reads it; sent without waiting for the device."""
        values = self.values.to(device, non_blocking=True)
        if self.scale is None:
            return values.to(dtype)
        return (values.float() * self.scale.to(device, non_blocking=True)).to(dtype)

    def moved(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.values), None if self.scale is None else change(self.scale))

    @property
    def num_bytes(self) -> int:
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


class StoredBlock(NamedTuple):
    """One block's part of a cache."""

    keys: StoredTensor
    values: StoredTensor

    def restored(self, device: torch.device, dtype: torch.dtype) -> KeysValues:
        return KeysValues(self.keys.restored(device, dtype), self.values.restored(device, dtype))


@dataclass(frozen=True, eq=False)
class SceneCache:
    """Keys and values of a scene for one model; give it to the transformer in place of the scene."""

    identity: CacheIdentity
    blocks: tuple[StoredBlock, ...]
    place: CachePlace = "device"

    @property
    def num_bytes(self) -> int:
        """What it takes where it is kept."""
        return sum(tensor.num_bytes for block in self.blocks for tensor in block)

    def layers(self, device: torch.device, dtype: torch.dtype) -> Iterator[KeysValues]:
        """What a video reads in each block, on `device`; from the host the next block is sent while one is read."""
        if self.place == "device":
            yield from (block.restored(device, dtype) for block in self.blocks)
            return
        with ThreadPoolExecutor(1) as sender:
            send = _sender(device, dtype)
            coming = sender.submit(send, self.blocks[0])
            for following in (*self.blocks[1:], None):
                arrived = coming.result()
                if following is not None:
                    coming = sender.submit(send, following)
                yield arrived.ready()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache as one safetensors file.

        Raises:
            OSError: the folder is missing or the disk is full; no half-made file is left.
        """
        tensors = {
            f"blocks.{index}.{name}{part}": value.cpu().contiguous()
            for index, block in enumerate(self.blocks)
            for name, stored in block._asdict().items()
            for part, value in (("", stored.values), (SCALE, stored.scale))
            if value is not None
        }
        record = {"format": CACHE_FORMAT, "blocks": len(self.blocks)} | dataclasses.asdict(self.identity)
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={CACHE_KEY: json.dumps(record, sort_keys=True)})


@dataclass(frozen=True, eq=False)
class _Sent:
    """Keys and values on their way."""

    content: KeysValues
    stream: torch.cuda.Stream | None

    def ready(self) -> KeysValues:
        """Let the device's current work wait for them."""
        if self.stream is not None:
            current = torch.cuda.current_stream(self.content.keys.device)
            current.wait_stream(self.stream)
            for tensor in self.content:
                tensor.record_stream(current)
        return self.content


def _sender(device: torch.device, dtype: torch.dtype) -> Callable[[StoredBlock], _Sent]:
    """What sends one block to the device beside the work that goes on there."""
    if device.type != "cuda":
        return lambda block: _Sent(block.restored(device, dtype), None)

    stream = _sending_stream(device)

    def send(block: StoredBlock) -> _Sent:
        with torch.cuda.stream(stream):
            return _Sent(block.restored(device, dtype), stream)

    return send


@functools.cache
def _sending_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all blocks: a card keeps freed memory for the stream that it was used on."""
    return torch.cuda.Stream(device)


def embed_scene(model: CineSceneTransformer, context: Context) -> SceneContext:
    """A scene in slot order as the tokens of a model, where it is and in its precision."""
    weight = model.patch_embedding.weight
    return model.embed_context(
        context.latents[None].to(weight),
        context.features[None].to(weight),
        torch.cat([context.view_positions, context.feature_positions]),
    )


@torch.no_grad()
def build_scene_cache(
    model: CineSceneTransformer,
    context: Context,
    context_attention: ContextAttention,
    *,
    stored: CacheType | None = None,
    place: CachePlace = "device",
) -> SceneCache:
    """Read a scene once, for every video of it.

    Args:
        model: the transformer, where it is to compute.
        context: the scene in slot order, built for the videos' number of latent frames.
        context_attention: `cached` or `per_view`, as the checkpoint was trained.
        stored: type of the stored values; None is the model's own.
        place: `device`: where the model is; `host`: in host memory, pinned where there is a GPU.

    Raises:
        CheckpointError: the checkpoint was trained in mode `joint`, where a scene cannot be read alone.
        ShapeError: scene and model do not fit.
    """
    if context_attention == "joint":
        raise CheckpointError(
            "This checkpoint was trained with context_attention 'joint', where the scene reads the video at every "
            "step; a scene cache needs 'cached' or 'per_view'. Film without a cache, or use such a checkpoint."
        )
    stored = _type_name(model.patch_embedding.weight.dtype) if stored is None else stored
    blocks = []
    for memory in model.read_context(embed_scene(model, context), context_attention):
        block = StoredBlock(*(StoredTensor.of(tensor, stored) for tensor in memory))
        blocks.append(block if place == "device" else StoredBlock(*(tensor.moved(_to_host) for tensor in block)))
    identity = CacheIdentity(
        model=weights_digest(model),
        scene=scene_digest(context),
        order=order_words(context),
        positions=position_words(context),
        context_attention=context_attention,
        stored=stored,
    )
    return SceneCache(identity, tuple(blocks), place)


def check_scene_cache(
    cache: SceneCache, model: CineSceneTransformer, context: Context, context_attention: ContextAttention
) -> None:
    """Require that a cache was made of this scene by this model.

    Raises:
        CheckpointError: another model, scene, order, number of frames or mode; the sentence says which.
    """
    made = cache.identity
    for what, found, wanted in (
        ("in the context mode", made.context_attention, context_attention),
        ("by the model", made.model, weights_digest(model)),
        ("of the scene", made.scene, scene_digest(context)),
        ("of its views in the order", made.order, order_words(context)),
        ("for another number of frames: with the scene at", made.positions, position_words(context)),
    ):
        if found != wanted:
            raise CheckpointError(
                f"This scene cache was made {what} {found}, but the shot needs {wanted}. Make the cache again."
            )


def load_scene_cache(
    path: str | os.PathLike[str], *, place: CachePlace = "host", device: torch.device | str = "cpu"
) -> SceneCache:
    """Open a cache file. As `host` it is mapped: a block is read from the disk while the one before it is used.

    Raises:
        FileFormatError: no cache, one of a later format, or a truncated one.
    """
    path = Path(path)
    try:
        header = read_header(path, "Make the cache again.")
        count, identity = _read_record(path.name, header.metadata.get(CACHE_KEY, ""))
        tensors = load_tensors(path, device=device if place == "device" else "cpu")
    except CheckpointError as error:
        raise FileFormatError(str(error)) from error
    parts = _PARTS[identity.stored == "float8"]
    expected = count * len(StoredBlock._fields) * len(parts)
    # The record is not trusted: it is compared before it says how long a list becomes.
    names = [[f"blocks.{index}.{name}" for name in StoredBlock._fields] for index in range(min(count, len(tensors)))]
    if len(tensors) != expected or set(tensors) != {name + part for pair in names for name in pair for part in parts}:
        raise FileFormatError(
            f"{path.name} holds {len(tensors)} tensors where a scene cache of {count} blocks holds {expected}. "
            "Make the cache again."
        )
    _check_tensors(path.name, tensors, identity.stored)
    blocks = [StoredBlock(*(StoredTensor(tensors[name], tensors.get(name + SCALE)) for name in pair)) for pair in names]
    return SceneCache(identity, tuple(blocks), place)


def _read_record(name: str, text: str) -> tuple[int, CacheIdentity]:
    """Number of blocks and identity from a file's metadata.

    Raises:
        FileFormatError: no cache, a later format, or fields that are missing or unknown.
    """
    if not text:
        raise FileFormatError(f"{name} is no scene cache. Name a file that was saved as one.")
    try:
        record = json.loads(text)
        version, count = record.pop("format"), record.pop("blocks")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{name}: the scene cache's record cannot be read ({error}). Make it again.") from error
    if version != CACHE_FORMAT:
        raise FileFormatError(
            f"{name} is a scene cache of format {version!r}; this version reads {CACHE_FORMAT}. "
            "Update CineScene, or make the cache again."
        )
    try:
        identity = CacheIdentity(**record)
        check_choice("stored", identity.stored, CACHE_TYPES)
        return int(count), identity
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{name}: the scene cache's record does not fit ({error}). Make it again.") from error


def _check_tensors(name: str, tensors: Mapping[str, Tensor], stored: CacheType) -> None:
    """Require [1, heads, n, c] keys and values, all alike, of the type that the record names, and a scale per head.

    Raises:
        FileFormatError: one is not so; the message names it.
    """
    first = next(tensor for key, tensor in tensors.items() if not key.endswith(SCALE))
    values = (tuple(first.shape), torch.float8_e4m3fn if stored == "float8" else getattr(torch, stored))
    scale = ((*first.shape[:2], 1, 1), torch.float32)
    for key, tensor in tensors.items():
        found, wanted = (tuple(tensor.shape), tensor.dtype), scale if key.endswith(SCALE) else values
        if found != wanted or tensor.ndim != 4 or tensor.shape[0] != 1:
            raise FileFormatError(
                f"{name}: {key} is {found[1]} of {found[0]}, where this scene cache holds {wanted[1]} of {wanted[0]}, "
                "[1, heads, tokens, channels]. Make the cache again."
            )


def weights_digest(model: nn.Module) -> str:
    """16 hex digits that tell a model's weights from others: of every parameter's shape, type and 64 of its values.

    A fine-tuning or a LoRA changes nearly every value of what it touches.
    """
    samples = []
    for parameter in model.parameters():
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat)), device=flat.device).long()
        samples.append(flat[places].float())
    shapes = str([(tuple(parameter.shape), parameter.dtype) for parameter in model.parameters()])
    return content_digest(torch.cat(samples).cpu(), torch.tensor(list(shapes.encode()), dtype=torch.uint8))[:16]


def scene_digest(context: Context) -> str:
    """16 hex digits over a scene's latents and features, whatever their order."""
    places = torch.tensor(context.order).argsort()
    return content_digest(context.latents[places], context.features[places])[:16]


def order_words(context: Context) -> str:
    """Which view stands in which slot of a context: "0 3 1"."""
    return " ".join(str(view) for view in context.order)


def position_words(context: Context) -> str:
    """The temporal positions of a context's slots: "20 to 39 and 40 to 59"."""
    ends = [(int(slots.min()), int(slots.max())) for slots in (context.view_positions, context.feature_positions)]
    return " and ".join(f"{first} to {last}" for first, last in ends)


def _type_name(dtype: torch.dtype) -> CacheType:
    name: Any = str(dtype).removeprefix("torch.")
    return name if name in CACHE_TYPES else "bfloat16"


def _to_host(tensor: Tensor) -> Tensor:
    host = tensor.cpu()
    return host.pin_memory() if tensor.is_cuda else host
