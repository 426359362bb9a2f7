"""Small files for the tests of `weights`: names and layouts of the real ones, sizes of a toy."""

import json
import struct
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from cinescene_core.checks import CineSceneWarning
from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.models.precision import parameter_dtype
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.weights import load_transformer

ONE_HEAD = WanConfig(
    width=128, num_layers=2, num_heads=1, ffn_width=32, text_width=16, frequency_width=16, feature_width=2048
)
"""Head width 128, as in every Wan release, so that a base file needs no metadata."""
TWO_HEADS = WanConfig(
    width=48, num_layers=2, num_heads=2, ffn_width=40, text_width=24, frequency_width=16, feature_width=32
)
TWO_HEADS_RECORD = CineSceneConfig(num_heads=2, width=64, height=32, num_frames=5, base_model="tiny")


def filled_model(config, *, projector=True, seed=0):
    """A transformer whose every parameter is random and different."""
    generator = torch.Generator().manual_seed(seed)
    model = CineSceneTransformer(config, projector=projector)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def state(config=ONE_HEAD, kind="cinescene"):
    """A state dict as a base Wan, ReCamMaster or CineScene file holds it."""
    added = {"wan": ("cam_encoder", "projector", "scene_embed"), "recammaster": ("scene_embed",), "cinescene": ()}[kind]
    tensors = filled_model(config).state_dict()
    return {n: v.clone() for n, v in tensors.items() if not any(layer in n.split(".") for layer in added)}


def write(path, tensors, **metadata):
    """Save a state dict as safetensors and return the path."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata=metadata or None)
    return path


def empties(names, shape=(2, 2)):
    """Zero tensors under given names; a dict gives shapes of their own."""
    shapes = names if isinstance(names, dict) else dict.fromkeys(names, shape)
    return {name: torch.zeros(size) for name, size in shapes.items()}


def write_header_only(path: Path, shapes, dtype="BF16", bytes_each=2, missing=0):
    """A safetensors file whose data part is a hole of the right size, `missing` bytes short."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = int(torch.Size(shape).numel()) * bytes_each
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # values start at a multiple of 8, as safetensors writes them
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end - missing)
    return path


def load_base(path, **options):
    """Load a file that was never trained for scenes, without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CineSceneWarning)
        return load_transformer(path, **options)


def assert_holds(model, tensors, dtype=None):
    """The model's values are exactly these, or these in another type."""
    held = model.state_dict()
    for name, value in tensors.items():
        expected = value if dtype is None else value.to(parameter_dtype(name, dtype))
        assert torch.equal(held[name].double(), expected.double()), name


def assert_types(model, dtype):
    """Every parameter has the type it should have in a model of precision `dtype`."""
    for name, value in model.state_dict().items():
        assert value.dtype == parameter_dtype(name, dtype), name
