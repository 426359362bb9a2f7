"""Compiled blocks: one graph for all of them, without breaks, and the same video."""

import dataclasses

import pytest
import torch
from tiny_shots import TWO_HEADS, film
from torch._dynamo.utils import counters
from weight_files import filled_model

from cinescene_core.models.compiled import compile_blocks


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
    # The first block's tokens come in the memory order of a convolution, unless the scene is joined to them.
    assert counters["stats"]["unique_graphs"] <= (1 if mode == "joint" else 2)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6 * float(plain.abs().max()))


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
