"""What a model file holds, from its header: nothing large is read before the file is known to be right.

Two containers are opened: safetensors, and PyTorch's zip files without code. Names lose the
prefixes that tools wrap around a whole state dict.
"""

import json
import os
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from ..checks import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""Longest safetensors header that is read; real ones take about 100 bytes a tensor."""
WRAPPERS = ("model.diffusion_model.", "diffusion_model.", "module.", "model.")
"""Prefixes that are dropped when every name carries them."""
STATE_DICT_KEYS = ("state_dict", "model", "module")
"""Keys under which PyTorch trainers keep the state dict."""

DOWNLOAD = "Download it again."
"""What to do about a damaged file that came from elsewhere."""

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Value = TypeVar("Value")


class TensorInfo(NamedTuple):
    """A tensor as a header describes it."""

    dtype: str
    """As safetensors writes it: F32, BF16, F8_E4M3, ..."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Everything about a model file but its values."""

    path: Path
    metadata: Mapping[str, str]
    """safetensors' own key-value pairs; empty for PyTorch files."""
    tensors: Mapping[str, TensorInfo]
    """Name to type and shape, in the file's order, without `WRAPPERS`."""
    container: Literal["safetensors", "torch", "gguf"] = "safetensors"
    """GGUF is only recognised: `tensors` is empty."""

    def part(self, prefix: str) -> "Header":
        """The tensors whose names start with `prefix`, named without it.

        Raises:
            CheckpointError: there are none.
        """
        return replace(self, tensors=_part(self.path, self.tensors, prefix))

    def renamed(self, rename: Callable[[str], str]) -> "Header":
        """The same tensors under other names."""
        return replace(self, tensors={rename(name): info for name, info in self.tensors.items()})

    def without(self, names: Collection[str]) -> "Header":
        """All tensors but those in `names`."""
        return replace(self, tensors={name: info for name, info in self.tensors.items() if name not in names})


def read_header(path: str | os.PathLike[str], remedy: str = DOWNLOAD) -> Header:
    """Read what a model file holds, without its values.

    A safetensors header is checked against the file's size, so a broken download is found here.

    Args:
        path: a .safetensors file, or a PyTorch file (.pt, .pth, .ckpt). The content decides, not the suffix.
        remedy: what a sentence about a damaged file ends with.

    Raises:
        CheckpointError: no such file, not a model file, damaged, or one that needs code to be
            run; the sentence says which.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist. Check the name and the folder.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Name the model file inside it.")
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{":
        return _read_safetensors_header(path, remedy)
    if start.startswith(b"GGUF"):
        return Header(path, {}, {}, "gguf")
    if start.startswith(b"PK\x03\x04"):
        found = _open_torch_file(path)
        infos = {name: TensorInfo(_dtype_name(value), tuple(value.shape)) for name, value in found.items()}
        return Header(path, {}, _unwrapped(infos), "torch")
    raise CheckpointError(f"{path.name} {_foreign_content(start, path, remedy)}")


def load_tensors(
    path: str | os.PathLike[str], *, prefix: str = "", device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Read tensors; on the CPU they stay mapped to the file until they are used.

    Args:
        path: a file that `read_header` accepts.
        prefix: read only names that start with this, and drop it ("vae." of a bundle).
        device: where the tensors go.

    Raises:
        CheckpointError: as `read_header`, or the file holds nothing under `prefix`.
    """
    header = read_header(path)
    if header.container == "gguf":
        raise CheckpointError(f"{header.path.name} is a GGUF file. Use the .safetensors file of the same model.")
    if header.container == "torch":
        tensors = _part(header.path, _unwrapped(_open_torch_file(header.path)), prefix)
        return {name: value.to(device) for name, value in tensors.items()}
    with safe_open(header.path, framework="pt", device=str(device)) as file:
        names = _unwrapped({name: name for name in file.keys()})  # noqa: SIM118 (not a dict)
        return {name: file.get_tensor(source) for name, source in _part(header.path, names, prefix).items()}


def difference(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Say how two sets of named shapes differ: counts, and the first few of each; "" when they do not.

    Args:
        expected: what a model needs.
        found: what a file holds.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name])} where {list(expected[name])} is needed"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    kinds = {"missing": missing, "not known": unknown, "of another shape": misshapen}
    return "; ".join(f"{len(names)} {kind}: {_first_few(names)}" for kind, names in kinds.items() if names)


def _first_few(names: list[str], count: int = 3) -> str:
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _part(path: Path, named: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """What `prefix` selects, named without it."""
    part = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    if prefix and not part:
        raise CheckpointError(f"{path.name} holds no part '{prefix}'. Use a file that does.")
    return part


def _unwrapped(named: Mapping[str, Value]) -> dict[str, Value]:
    """Drop the wrappers that every name carries."""
    names = list(named)
    prefix = ""
    while step := next((w for w in WRAPPERS if names and all(n.startswith(prefix + w) for n in names)), ""):
        prefix += step
    return {name.removeprefix(prefix): value for name, value in named.items()}


def _read_safetensors_header(path: Path, remedy: str) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path.name} is not a safetensors file, or a damaged one: its header claims {length:,} bytes. {remedy}"
            )
        _check_complete(path, size, 8 + length, remedy)
        text = file.read(length)
    try:
        entries: dict[str, Any] = json.loads(text)
        metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
        tensors = {name: TensorInfo(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        end = _end_of_data(entry["data_offsets"] + [tensors[name]] for name, entry in entries.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} has a damaged safetensors header ({error}). {remedy}") from error
    _check_complete(path, size, 8 + length + end, remedy)
    if size > 8 + length + end:
        raise CheckpointError(
            f"{path.name} is damaged: {size - 8 - length - end:,} bytes follow the last tensor. {remedy}"
        )
    return Header(path, metadata, _unwrapped(tensors))


def _check_complete(path: Path, size: int, needed: int, remedy: str) -> None:
    if size < needed:
        raise CheckpointError(
            f"{path.name} is truncated: {needed - size:,} of its {needed:,} bytes are missing. {remedy}"
        )


def _end_of_data(entries: Iterable[list[Any]]) -> int:
    """Where the last tensor ends; ValueError when one does not follow another or misses its size."""
    end = 0
    for start, stop, (dtype, shape) in sorted(entries, key=lambda entry: entry[:2]):
        count = 1
        for side in shape:
            count *= side
        if start != end or (dtype in _BITS and stop - start != (count * _BITS[dtype] + 7) // 8):
            raise ValueError(f"a tensor of {list(shape)} {dtype} stands at bytes {start} to {stop}")
        end = stop
    return end


def _open_torch_file(path: Path) -> dict[str, Tensor]:
    """The state dict of a PyTorch zip file, mapped to the file; only tensors are unpickled."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        code = f" ({found[1]})" if found else ""
        raise CheckpointError(
            f"{path.name} holds Python code{code} beside tensors and was not opened. "
            "Use a .safetensors file, or export only the tensors with torch.save."
        ) from error
    except Exception as error:  # a damaged archive can fail in any way
        raise CheckpointError(
            f"{path.name} is a zip archive, but not a complete PyTorch file: truncated, damaged, or something else. "
            f"{DOWNLOAD}"
        ) from error
    while isinstance(loaded, dict) and (
        inner := [loaded[k] for k in STATE_DICT_KEYS if isinstance(loaded.get(k), dict)]
    ):
        loaded = inner[0]
    tensors = {n: v for n, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise CheckpointError(
            f"{path.name} is a PyTorch file without a state dict of tensors. Use the model's weights."
        )
    return tensors


def _dtype_name(tensor: Tensor) -> str:
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))


def _foreign_content(start: bytes, path: Path, remedy: str) -> str:
    """What a file that is no model seems to be, and what to do."""
    text = start.lstrip().lower()
    if not start:
        return f"is empty. {remedy}"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a model: the site sent its login or licence page. Download the file itself."
    if text.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", start)
        real = f" of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer to a file{real}, not the file. Run 'git lfs pull', or download the file."
    if not start.strip(b"\0"):
        return f"starts with zeros only: an unfinished file. {remedy}"
    if start[0] == 0x80 and start[1] in range(2, 6):
        return "is a pickle in PyTorch's old format, which can run code and was not opened. Use a .safetensors file."
    return f"is neither safetensors nor PyTorch ({path.stat().st_size:,} bytes). Use a .safetensors file."
