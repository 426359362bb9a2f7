"""`cinescene doctor`: versions, devices, and which model files are recognised."""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from ..checks import CheckpointError
from ..weights import describe, nano_path, read_header

PACKAGES = ("cinescene", "torch", "numpy", "einops", "safetensors", "pillow", "diffusers", "transformers", "av", "tqdm")
MODEL_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt"}


def run_doctor(options: argparse.Namespace) -> None:
    """Print what is installed, what there is to run on, and what each file is."""
    print(f"Python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        print(f"  {name:<14}{version_of(name)}")
    print("Devices")
    for line in devices():
        print(f"  {line}")
    found = list(files_below(options.files or model_folders()))
    print("Model files")
    print(f"  {nano_path()}: {what_is(nano_path())}")
    for path in found:
        print(f"  {path}: {what_is(path)}")
    if not options.files:
        print("  for other files or folders: cinescene doctor PATH ...")


def version_of(package: str) -> str:
    """The installed version, or what its absence means."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def devices() -> Iterator[str]:
    """One line per device."""
    yield f"cpu: {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {card.name}, {card.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps: Apple GPU, untested"


def model_folders() -> list[Path]:
    """Where models usually stand: ./models, and the models of the ComfyUI that COMFYUI_PATH names."""
    host = os.environ.get("COMFYUI_PATH")
    folders = [Path("models"), *([Path(host) / "models"] if host else [])]
    return [folder for folder in folders if folder.is_dir()]


def files_below(paths: list[Path]) -> Iterator[Path]:
    """The files named, and the model files in the folders named.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist. Name a model file, or a folder of them.")
        if path.is_dir():
            yield from (found for found in sorted(path.rglob("*")) if found.suffix in MODEL_SUFFIXES)
        else:
            yield path


def what_is(path: Path) -> str:
    """What a model file is, from its header, or why it is none."""
    try:
        return describe(read_header(path))
    except (CheckpointError, OSError) as error:
        return f"unusable: {error}"
