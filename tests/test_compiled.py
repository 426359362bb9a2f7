"""Compiled blocks: one graph for all of them, without breaks, and the same video."""

import dataclasses
import functools

import pytest
import torch
from tiny_shots import TWO_HEADS, film, random_values
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention
from weight_files import filled_model

from cinescene_core.models.compiled import compile_blocks
from cinescene_core.models.sequence import KeysValues


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def model_of(num_blocks):
    return filled_model(dataclasses.replace(TWO_HEADS, num_layers=num_blocks), seed=1)


def graphs_only(blocks):
    """`compile_blocks` with the graphs run as they were captured, which takes no time; what breaks them is the same."""
    for block in blocks:
        block.compile(fullgraph=True, backend="eager")


@pytest.mark.parametrize("mode", ["joint", "cached", "per_view"])
def test_the_blocks_share_their_graphs_over_all_steps_and_branches(mode):
    model = model_of(5)
    plain = film(model, mode)
    graphs_only(model.blocks)
    found = film(model, mode)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6 * float(plain.abs().max()))


class Memory:
    """What was read of a scene of some tokens, for a model of `num_blocks`."""

    def __init__(self, num_blocks, tokens):
        keys, values = (random_values(1, 2, tokens, TWO_HEADS.head_width, seed=seed) for seed in (1, 2))
        self.blocks = [KeysValues(keys, values)] * num_blocks

    def layers(self, device, dtype):
        return iter(self.blocks)


@pytest.fixture
def captured(monkeypatch):
    """Blocks that are compiled run their graphs as they were captured."""
    compiling = functools.partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compiling)


@torch.no_grad()
def test_lengths_sizes_and_views_share_a_few_graphs(captured):
    text, model = random_values(1, 5, TWO_HEADS.text_width), model_of(3)
    shots = [
        (random_values(1, 16, frames, *size), Memory(3, views * size[0] * size[1] // 2))
        for size in ((4, 6), (6, 4), (4, 4), (6, 6))
        for frames in (1, 2, 3)
        for views in (1, 2, 3)
    ]
    plain = [model(video, torch.tensor([500.0]), text, context=memory) for video, memory in shots]
    compile_blocks(model.blocks)
    for (video, memory), wanted in zip(shots, plain, strict=True):
        found = model(video, torch.tensor([500.0]), text, context=memory)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    assert counters["stats"]["unique_graphs"] <= 6


@torch.no_grad()
def test_more_kinds_of_shots_compile_than_torch_allows(captured):
    """Ten attention functions make ten graphs; eight is torch's limit."""
    model = model_of(1)
    compile_blocks(model.blocks)
    inputs = random_values(1, 16, 1, 4, 4), torch.tensor([500.0]), random_values(1, 5, TWO_HEADS.text_width)
    for scale in range(1, 11):
        model(*inputs, attention=functools.partial(scaled_dot_product_attention, scale=scale / 10))
    assert counters["stats"]["unique_graphs"] == 10


needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("mode", "device"),
    # A processor takes twenty seconds for each.
    [
        ("cached", "cpu"),
        pytest.param("joint", "cuda", marks=needs_card),
        pytest.param("cached", "cuda", marks=needs_card),
    ],
)
def test_compiled_blocks_give_the_same_video(mode, device):
    model = model_of(2).to(device)
    plain = film(model, mode)
    names = list(model.state_dict())
    compile_blocks(model.blocks)
    found = film(model, mode)
    assert list(model.state_dict()) == names
    assert not counters["graph_break"]
    assert counters["inductor"] or counters["aot_autograd"]["ok"]
    # Fused kernels round in other places; two guided steps amplify that tenfold.
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-5 * float(plain.abs().max()))
