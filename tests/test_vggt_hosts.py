"""The scene encoder in low precision, in a host's layers, and what it costs."""

import weakref

import pytest
import torch
from golden_vggt import case_images, error, fill, golden
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.models.vggt import VGGT, VGGTConfig

PARITY = 1e-5  # as in test_vggt.py
BF16 = 0.02  # what pure bf16 costs on the official network; ours keeps the stream in float32


@pytest.mark.parametrize("case", "abcd")
def test_bf16_stays_near_float32(case):
    model = fill(VGGT(VGGTConfig.tiny(), dtype=torch.bfloat16))
    tokens = model.encode(case_images(case))
    assert tokens.patch.dtype == torch.float32
    assert 1e-4 < error(tokens.patch, golden(f"{case}__final")[:, :, 5:]) < BF16
    assert error(tokens.camera, golden(f"{case}__final")[:, :, :1]) < BF16


def test_only_matrices_are_stored_in_bf16():
    state = VGGT(VGGTConfig.tiny(), device="meta", dtype=torch.bfloat16).state_dict()
    for name, value in state.items():
        matrix = name.startswith("aggregator.") and any(f".{layer}." in name for layer in ("qkv", "fc1", "fc2", "proj"))
        assert value.dtype == (torch.bfloat16 if matrix else torch.float32), name


class CastingLayers:
    """A host's namespace: every layer casts its weights to its input, as ComfyUI's manual_cast does."""

    class Linear(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight.to(x), self.bias.to(x))

    class LayerNorm(torch.nn.LayerNorm):
        def forward(self, x):
            return torch.nn.functional.layer_norm(
                x, self.normalized_shape, self.weight.to(x), self.bias.to(x), self.eps
            )

    class Conv2d(torch.nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))

    class ConvTranspose2d(torch.nn.ConvTranspose2d):
        def forward(self, x):
            return torch.nn.functional.conv_transpose2d(x, self.weight.to(x), self.bias.to(x), self.stride)


@pytest.mark.parametrize(
    ("dtype", "compute_dtype", "limit"),
    [
        (torch.float32, torch.float32, PARITY),
        (torch.bfloat16, torch.float32, BF16),
        (torch.float32, torch.bfloat16, BF16),
    ],
)
def test_a_hosts_casting_layers_compute_the_same(dtype, compute_dtype, limit):
    model = VGGT(VGGTConfig.tiny(), operations=CastingLayers, dtype=dtype, compute_dtype=compute_dtype)
    hosts = tuple(vars(CastingLayers)[name] for name in ("Linear", "LayerNorm", "Conv2d", "ConvTranspose2d"))
    assert all(isinstance(layer, hosts) for layer in model.modules() if hasattr(layer, "weight"))
    pictures = case_images("a")
    layers = fill(model).aggregate(pictures, model.config.depth_layers)
    assert layers[-1].dtype == torch.float32
    assert error(layers[-1], golden("a__final")) < limit
    depth, _ = model.depth(layers, model.grid_of(pictures))
    assert error(depth[..., None], golden("a__depth")) < limit


def test_torch_layers_cannot_compute_in_another_precision():
    with pytest.raises(ValueError, match=r"torch\.nn layers compute in the precision of their weights"):
        VGGT(VGGTConfig.tiny(), dtype=torch.float32, compute_dtype=torch.bfloat16)


# ---- cost ----------------------------------------------------------------------------------------


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of live storages, on any device."""

    def __init__(self, model):
        super().__init__()
        self.weights = {value.untyped_storage()._cdata: value for value in model.parameters()}
        self.sizes = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage):
        key = storage._cdata
        if key not in self.sizes and key not in self.weights:
            self.sizes[key] = storage.nbytes()
            self.live += self.sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.free, key)

    def free(self, key):
        self.live -= self.sizes.pop(key)


def full_views():
    return torch.empty(1, 20, 3, 294, 518, device="meta")


def test_twenty_views_cost_the_known_number_of_operations():
    model = VGGT(VGGTConfig(camera_head=False, depth_head=False), device="meta")
    with FlopCounterMode(display=False) as counter:
        model.encode(full_views())
    assert counter.get_total_flops() == pytest.approx(54.8e12, rel=0.01)


def test_twenty_views_fit_the_memory_budget():
    # Attention that, like the fused kernels, needs no more than its output.
    model = VGGT(
        VGGTConfig(camera_head=False, depth_head=False),
        device="meta",
        dtype=torch.bfloat16,
        attention=lambda q, k, v: torch.empty_like(v),
    )
    weights = sum(value.nbytes for value in model.parameters())
    with PeakMemory(model) as memory:
        tokens = model.encode(full_views())
    kept = tokens.patch.untyped_storage().nbytes()
    assert memory.live == kept == 20 * (5 + 777) * 2048 * 4
    # 24 kept layers would be 3.1 GB alone.
    assert kept < memory.peak
    assert weights + memory.peak < 2.5e9
