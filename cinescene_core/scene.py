"""Stage 3: views to a scene: what VGGT and the VAE know of a place, encoded once and filmed many times.

A scene is one safetensors file: the views, the tokens, the latents, and a JSON record in the
metadata. Saving and loading change no value. A loaded scene stays mapped to its file, but on Windows.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import __version__
from .checks import CheckpointError, FileFormatError, check_finite, check_video_size
from .files import atomic_write, check_target
from .models.autoencoder import WanAutoencoder
from .models.vggt import VGGT, resize_for_vggt
from .types import Autoencoder, Scene, SceneEncoder, SceneProvenance, SceneTokens, Views, content_digest
from .weights import FileKind, load_tensors, read_header, require
from .weights.metadata import SCENE_KEY

SCENE_FORMAT = 1
PIXELS_AT_ONCE = 2**20
"""Of views that the VAE encodes together: four of 672 x 384, whose widest layer takes 400 MB in float32."""
TENSORS = ("images", "patch", "camera", "latents")
"""Tensors of every scene file; `world_from_camera` joins them when the poses are known."""


def encode_scene(
    views: Views,
    vggt: SceneEncoder,
    vae: Autoencoder,
    *,
    vggt_size: tuple[int, int] = (518, 294),
    device: torch.device | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scene:
    """Encode a place (paper sections 4.1 and 4.2).

    The scene encoder sees all views together, the first as its reference. The VAE sees each view
    alone: views handed to it as one clip would be taken for moments of a video and mix.

    Args:
        views: pictures of the place; what is brighter than 1 is cut to 1, as on a screen.
        vggt: the scene encoder.
        vae: the video VAE.
        vggt_size: (width, height) in pixels at which the scene encoder sees the views.
        device: where the scene encoder wants its pictures; by default they stay where they are.
        on_progress: told (done, total), the first half by the scene encoder; may raise to interrupt.

    Returns:
        The scene, on the CPU.

    Raises:
        ValueError: the views hold NaN, or their size is not a multiple of 16.
        ShapeError: `vggt_size` does not divide into patches.
    """
    check_finite("The views", views.images)
    check_video_size(*views.size)
    count = len(views)
    tell = on_progress or (lambda done, total: None)

    pictures = resize_for_vggt(views.images, vggt_size, vggt.patch_size).to(device)
    tokens = vggt.encode(pictures[None], lambda done, total: tell(count * done // total, 2 * count))
    latents: list[Tensor] = []
    width, height = views.size
    for group in views.images.clamp(0, 1).split(max(1, PIXELS_AT_ONCE // (width * height))):
        latents.extend(vae.encode(group[:, None])[:, :, 0].float().cpu())
        tell(count + len(latents), 2 * count)
    return Scene(
        views=dataclasses.replace(views, images=views.images.cpu()),
        tokens=SceneTokens(_own_copy(tokens.patch[0]), _own_copy(tokens.camera[0]), tokens.grid),
        latents=torch.stack(latents),
        provenance=SceneProvenance(
            vggt_id=vggt.fingerprint, vggt_size=vggt_size, source=content_digest(views.images), version=__version__
        ),
    )


def _own_copy(tensor: Tensor) -> Tensor:
    """The values on the CPU in memory of their own: a slice would keep all of its source alive."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def check_scene_target(path: str | os.PathLike[str]) -> None:
    """Require a place where `save_scene` can write; called before long work, so that it is not done in vain.

    Raises:
        ValueError: the name does not end in .safetensors.
        OSError: the folder does not exist, or `path` is one.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"A scene is one .safetensors file; got {Path(path).name}. Name it so.")
    check_target(path)


def save_scene(scene: Scene, path: str | os.PathLike[str]) -> None:
    """Write a scene; `load_scene` gives back equal values.

    Raises:
        ValueError: the name does not end in .safetensors.
        OSError: the folder is missing or the disk is full; no half-made file is left.
    """
    check_scene_target(path)
    views, tokens = scene.views, scene.tokens
    tensors = {"images": views.images, "patch": tokens.patch, "camera": tokens.camera, "latents": scene.latents}
    if views.world_from_camera is not None:
        tensors["world_from_camera"] = views.world_from_camera
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    record = {
        "format": SCENE_FORMAT,
        "fov_degrees": views.fov_degrees,
        "grid": list(tokens.grid),
        "provenance": dataclasses.asdict(scene.provenance),
    }
    text = json.dumps(record | {"digest": _file_digest(tensors, record)}, sort_keys=True)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={SCENE_KEY: text})


def kept_scene_path(
    folder: str | os.PathLike[str], views: Views, vggt: VGGT, vae: WanAutoencoder, vggt_size: tuple[int, int]
) -> Path:
    """Where a folder of encoded scenes keeps the one that `encode_scene` makes of these arguments.

    The name is a SHA-256 of all that decides the scene: the views with their poses and lens, the networks' weights
    and types, the size VGGT sees, and the format of scene files.
    """
    poses = () if views.world_from_camera is None else (views.world_from_camera,)
    decisive = [
        content_digest(views.images, *poses),
        content_digest(*vae.state_dict().values()),
        vggt.fingerprint,
        *sorted({str(parameter.dtype) for parameter in vggt.parameters()}),
        str((views.fov_degrees, vggt_size, SCENE_FORMAT)),
    ]
    return Path(folder) / f"{hashlib.sha256(' '.join(decisive).encode()).hexdigest()}.safetensors"


def load_scene(path: str | os.PathLike[str]) -> Scene:
    """Open a scene. A file made elsewhere is checked, not trusted.

    Every value is read, to compare the file's digest and to find NaN. On POSIX the tensors then stay mapped to the
    file: the system may drop them from memory and read them again, the file may be removed or replaced meanwhile, as
    `save_scene` replaces it, and a program that writes into it changes the scene. Windows lets no mapped file be
    replaced, so there the values are copied to memory.

    Raises:
        FileFormatError: no scene, one of a later format, or a damaged one; the sentence says which.
    """
    path = Path(path)
    try:
        header = read_header(path, "Encode it again.")
        require(header, {FileKind.SCENE}, "a shot")
        tensors = load_tensors(path)
    except CheckpointError as error:
        raise FileFormatError(str(error)) from error
    if sys.platform == "win32":
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    record = _read_record(path.name, header.metadata[SCENE_KEY])
    names = {*TENSORS, "world_from_camera"} if "world_from_camera" in tensors else set(TENSORS)
    if set(tensors) != names:
        raise FileFormatError(
            f"{path.name} holds the tensors {sorted(tensors)} where a scene holds {sorted(names)}. Encode it again."
        )
    if record.pop("digest") != _file_digest(tensors, record):
        raise FileFormatError(
            f"{path.name} is damaged or was changed: its content is not what its digest says. Encode it again."
        )
    try:
        return _build_scene(tensors, record)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{path.name} is no scene that can be filmed: {error}") from error


def _read_record(name: str, text: str) -> dict[str, Any]:
    """The JSON record of a scene file, its fields checked by name and type.

    Raises:
        FileFormatError: a later format, or a field that is missing, unknown or of the wrong type.
    """
    try:
        record = json.loads(text)
        version = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{name}: the scene's record cannot be read ({error}). Encode it again.") from error
    if version != SCENE_FORMAT:
        raise FileFormatError(
            f"{name} is a scene of format {version!r}; this version reads {SCENE_FORMAT}. "
            "Update CineScene, or encode the scene again."
        )
    provenance = {field.name for field in dataclasses.fields(SceneProvenance)}
    for place, found, known in (
        ("record", record, {"format", "fov_degrees", "grid", "provenance", "digest"}),
        ("provenance", record.get("provenance"), provenance),
    ):
        if not isinstance(found, dict) or set(found) != known:
            fields = sorted(found) if isinstance(found, dict) else found
            raise FileFormatError(
                f"{name}: the scene's {place} must have the fields {sorted(known)}; got {fields}. "
                "Update CineScene, or encode the scene again."
            )
    return record


def _build_scene(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Scene:
    """Put a file's parts together; the parts check their own shapes and ranges.

    Raises:
        ValueError: parts that do not fit together, or values that are not finite.
    """
    for name, tensor in tensors.items():
        check_finite(name, tensor)
    poses = tensors.get("world_from_camera")
    made = record["provenance"]
    rows, columns = record["grid"]
    return Scene(
        views=Views(tensors["images"], poses, record["fov_degrees"]),
        tokens=SceneTokens(tensors["patch"], tensors["camera"], (rows, columns)),
        latents=tensors["latents"],
        provenance=SceneProvenance(**(made | {"vggt_size": tuple(made["vggt_size"])})),
    )


def _file_digest(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """SHA-256 over every value and every field of a scene file."""
    names = sorted(tensors)
    content = [*names, content_digest(*(tensors[name] for name in names)), json.dumps(record, sort_keys=True)]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()
