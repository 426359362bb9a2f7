"""The switch between attention kernels; a stand-in shows what each is given, for none can be installed on a CPU."""

import importlib.machinery
import sys
import types

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from cinescene_core.models.attention import attention_backend, check_attention


@pytest.fixture
def heads():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, n, 8, generator=generator) for n in (5, 7, 7))


def install(monkeypatch, name, **functions):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for key, value in functions.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def test_sdpa_is_pytorchs():
    assert attention_backend("sdpa") is scaled_dot_product_attention


def test_sage_is_given_heads_before_tokens(monkeypatch, heads):
    def sageattn(q, k, v, tensor_layout, is_causal):
        assert (tensor_layout, is_causal) == ("HND", False)
        return scaled_dot_product_attention(q, k, v)

    install(monkeypatch, "sageattention", sageattn=sageattn)
    assert torch.equal(attention_backend("sage")(*heads), scaled_dot_product_attention(*heads))


def test_flash_is_given_tokens_before_heads(monkeypatch, heads):
    def flash_attn_func(q, k, v):  # [b, n, heads, c], by its definition
        weights = torch.einsum("bnhc,bmhc->bhnm", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        return torch.einsum("bhnm,bmhc->bnhc", weights, v)

    install(monkeypatch, "flash_attn", flash_attn_func=flash_attn_func)
    torch.testing.assert_close(attention_backend("flash")(*heads), scaled_dot_product_attention(*heads))


@pytest.mark.parametrize(("name", "package"), [("sage", "sageattention"), ("flash", "flash_attn")])
def test_a_package_that_is_not_installed_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("cinescene_core.models.attention.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"'{name}' needs the package {package}, which is not installed\. Use 'sdpa'"):
        attention_backend(name)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"attention must be one of sdpa, sage, flash; got 'xformers'"):
        attention_backend("xformers")


@pytest.mark.parametrize("name", ["sage", "flash"])
def test_kernels_of_cards_are_refused_elsewhere(monkeypatch, name):
    install(monkeypatch, "sageattention", sageattn=None)
    install(monkeypatch, "flash_attn", flash_attn_func=None)
    for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float32)):
        kind = str(dtype).removeprefix("torch.")
        with pytest.raises(ValueError, match=rf"'{name}' computes in 16 bits on CUDA cards; .* {kind} on {device}\."):
            check_attention(name, device, dtype)
    check_attention(name, "cuda:1", torch.float16)
    check_attention("sdpa", "cpu", torch.float32, compiled=True)


def test_sage_is_no_part_of_a_graph(monkeypatch):
    install(monkeypatch, "sageattention", sageattn=None)
    with pytest.raises(ValueError, match=r"SageAttention cannot be part of a compiled graph\. Use 'sdpa', or do not"):
        check_attention("sage", "cuda", torch.bfloat16, compiled=True)
