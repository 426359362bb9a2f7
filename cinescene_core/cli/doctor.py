"""`cinescene doctor`: versions, devices, which model files are recognised, and whether a shot by them fits."""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..checks import CheckpointError
from ..config import CineSceneConfig
from ..devices import default_device
from ..loading import load_nano
from ..memory import (
    STAGES,
    Networks,
    ShotSize,
    StageMemory,
    changes_that_fit,
    free_bytes,
    host_bytes,
    in_gib,
    predict_memory,
)
from ..weights import FileKind, describe, identify, nano_path, read_header, wan_config_from
from ..weights.quantised import without_scales
from ..weights.recognise import original_names
from ..weights.transformer import TRANSFORMER_KINDS, scene_config_from

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
    device = default_device()
    free = free_bytes(device)
    known = "" if free is None else f", where {in_gib(free)} is free"
    print(f"Most memory that each stage of a shot as trained takes on {device}{known}; predicted, in GiB")
    for line in memory_table([nano_path(), *found], device, free):
        print(f"  {line}")


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


def memory_table(paths: list[Path], device: str, free: int | None) -> Iterator[str]:
    """One line per checkpoint among `paths`: what each stage takes; below it what makes a shot fit that does not."""
    on_card = device != "cpu"
    heads = [f"{stage:>13}" for stage in (*STAGES, *(["host memory"] if on_card else []))]
    yield f"{'checkpoint':<28}{''.join(heads)}"
    for path in paths:
        try:
            sized = sizes_of(path)
            if sized is None:
                continue
            networks, shot = sized
            predicted = predict_memory(networks, shot, device)
            peaks = {memory.stage: memory.peak for memory in predicted}
        except (CheckpointError, ImportError) as error:
            yield f"{path.name:<28} {error}"
            continue
        numbers = [*(peaks.get(stage) for stage in STAGES), *([host_bytes(networks, shot)] if on_card else [])]
        cells = [f"{'-' if count is None else f'{count / 2**30:.1f}':>13}" for count in numbers]
        yield f"{path.name:<28}{''.join(cells)}"
        if free is not None and max(peaks.values()) > free:
            yield f"    too much; {what_fits(networks, shot, device, free, predicted)}"


def what_fits(networks: Networks, shot: ShotSize, device: str, free: int, predicted: Sequence[StageMemory]) -> str:
    """What to do where `predicted` is more than `free` bytes: for weights that no smaller shot helps, and for the rest.

    Args:
        networks, shot, device: as in `predict_memory`.
        free: bytes there are.
        predicted: of every stage.
    """
    if device == "cpu" and predicted[0].weights > free:
        return f"the networks alone take {in_gib(predicted[0].weights)}; use a machine with more memory"
    heavy = [memory for memory in predicted if memory.weights > free]
    stages = [memory.stage for memory in predicted if memory not in heavy]
    found = list(changes_that_fit(networks, shot, device, free, stages))
    fitting = ", ".join(f"{change.words} ({in_gib(change.peak)})" for change in found)
    said = [
        f"the weights of stage '{memory.stage}' alone take {in_gib(memory.weights)}, whatever the shot: film with "
        "--device cpu, or in ComfyUI, which keeps in the machine's memory what the card cannot hold"
        for memory in heavy
    ]
    if any(memory.peak > free for memory in predicted if memory not in heavy):
        which = "for the other stages one" if heavy else "one"
        said.append(f"{which} of these fits: {fitting}" if fitting else "no smaller shot fits")
    return "; ".join(said)


def sizes_of(path: Path) -> tuple[Networks, ShotSize] | None:
    """A checkpoint's networks and the shot it was trained for; None for other files.

    Where a file has the transformer alone, the others are taken to be those of full size.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ImportError: diffusers, which has the VAE, is not installed.
    """
    try:
        header = read_header(path)
        kind = identify(header)
    except (CheckpointError, OSError):
        return None
    if kind is FileKind.BUNDLE:
        models = load_nano(path)
        networks = Networks.of(models.transformer, models.vggt, models.vae, models.text)
        return networks, ShotSize.trained(models.config)
    if kind not in TRANSFORMER_KINDS:
        return None
    header = without_scales(original_names(header))
    config: CineSceneConfig = scene_config_from(header, kind)
    projector = any(".projector." in name for name in header.tensors)
    return Networks(wan=wan_config_from(header), projector=projector), ShotSize.trained(config)
