"""Devices that are there or not, and networks that are there for a stage only."""

import pytest
import torch
from torch import nn

from cinescene_core.devices import available_devices, check_device, default_device, on_device


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_devices_that_are_there_pass(two_cards, name):
    assert check_device(name) == torch.device(name)
    assert check_device(torch.device(name)) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:2", "mps", "gpu", "", "meta", "cuda:x"])
def test_devices_that_are_not_are_refused_with_those_that_are(two_cards, name):
    sentence = rf"There is no device '{name}' here; torch can use cpu, cuda:0, cuda:1\. Name one of them\."
    with pytest.raises(ValueError, match=sentence):
        check_device(name)


def test_without_a_card_there_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert available_devices() == ["cpu"]
    with pytest.raises(ValueError, match=r"no device 'cuda' here; torch can use cpu\. Name"):
        check_device("cuda")


@pytest.mark.parametrize(("there", "name"), [(True, "cuda"), (False, "cpu")])
def test_work_that_names_no_device_runs_on_a_card_where_there_is_one(monkeypatch, there, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert default_device() == name


class Tied(nn.Module):
    """Two layers that share their weight, and a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(3.0))


def test_a_network_comes_home_without_a_copy():
    # Values on the meta device are lost: what is there afterwards was never copied back from it.
    module = Tied()
    before = {name: (tensor, tensor.data_ptr(), tensor.clone()) for name, tensor in module.state_dict().items()}
    parameters = list(module.parameters())
    with on_device(module, "meta"):
        assert all(tensor.is_meta for tensor in module.state_dict().values())
    for name, tensor in module.state_dict().items():
        _, place, values = before[name]
        assert tensor.data_ptr() == place
        assert torch.equal(tensor, values)
    assert all(now is then for now, then in zip(module.parameters(), parameters, strict=True))
    assert module.second.weight is module.first.weight


def test_a_network_comes_home_from_a_stage_that_fails():
    module = Tied()
    with pytest.raises(RuntimeError, match="stop"), on_device(module, "meta"):
        raise RuntimeError("stop")
    assert not any(tensor.is_meta for tensor in module.state_dict().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_computes_and_is_left_empty():
    module = Tied()
    expected = module.first(torch.ones(2, 3))
    place = module.first.weight.data_ptr()
    with on_device(module, "cuda"):
        found = module.first(torch.ones(2, 3, device="cuda")).cpu()
    torch.testing.assert_close(found, expected)
    assert module.first.weight.data_ptr() == place
