"""What the card does at best: matrix products, attention, and copies."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .measure import Bench, Record, timed

BACKENDS = {
    "PyTorch's choice": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
ATTENTION_REPEATS = 3


def measure_ceilings(bench: Bench) -> Record:
    """Each as a list of measurements; `Ceilings.of` reads the best of them."""
    sizes, wan = bench.sizes, bench.sizes.wan
    joint = sizes.video_tokens + sizes.context_tokens
    shapes = {
        "square": (sizes.matmul, sizes.matmul, sizes.matmul),
        "q, k, v, o of a joint step": (joint, wan.width, wan.width),
        "feed-forward in": (joint, wan.width, wan.ffn_width),
        "feed-forward out": (joint, wan.ffn_width, wan.width),
    }
    return {
        "products": [_product(bench, name, *shape) for name, shape in shapes.items()],
        "attention": [
            _attention(bench, queries, joint, name)
            for queries in (sizes.video_tokens, joint)
            for name in (BACKENDS if bench.device.type == "cuda" else ["PyTorch's choice"])
        ],
        "copies": [_copy(bench, from_host) for from_host in (False, True)],
    }


def _random(bench: Bench, *shape: int) -> Tensor:
    return torch.randn(*shape, device=bench.device, dtype=torch.bfloat16)


def _product(bench: Bench, name: str, rows: int, inner: int, columns: int) -> Record:
    left, right = _random(bench, rows, inner), _random(bench, inner, columns)
    out = _random(bench, rows, columns)

    def work() -> None:
        for _ in range(bench.sizes.matmul_repeats):
            torch.mm(left, right, out=out)

    timing = timed(work, bench.device, bench.sizes.runs)
    flops = 2 * rows * inner * columns * bench.sizes.matmul_repeats
    found = {"name": name, "shape": [rows, inner, columns], "repeats": bench.sizes.matmul_repeats}
    return found | {"runs_s": list(timing.runs), "tflops": flops / timing.median / 1e12}


def _attention(bench: Bench, queries: int, keys: int, name: str) -> Record:
    wan, backend = bench.sizes.wan, BACKENDS[name]
    q = _random(bench, 1, wan.num_heads, queries, wan.head_width)
    k, v = (_random(bench, 1, wan.num_heads, keys, wan.head_width) for _ in range(2))

    def work() -> None:
        for _ in range(ATTENTION_REPEATS):
            scaled_dot_product_attention(q, k, v)

    found: Record = {"name": name, "queries": queries, "keys": keys, "repeats": ATTENTION_REPEATS}
    try:
        if backend is None:
            timing = timed(work, bench.device, bench.sizes.runs)
        else:
            with sdpa_kernel(backend):
                timing = timed(work, bench.device, bench.sizes.runs)
    except RuntimeError as error:  # a backend that this card or this build of torch does not have
        return found | {"reason": str(error).splitlines()[0]}
    flops = 4 * queries * keys * wan.width * ATTENTION_REPEATS
    return found | {"runs_s": list(timing.runs), "tflops": flops / timing.median / 1e12}


def _copy(bench: Bench, from_host: bool) -> Record:
    """A copy on the card counts what it reads and what it writes; one from the host what it sends."""
    count = bench.sizes.copied_bytes // (4 if from_host else 1)
    target: Any = torch.empty(count, dtype=torch.uint8, device=bench.device)
    if from_host:
        source = torch.ones(count, dtype=torch.uint8, pin_memory=bench.device.type == "cuda")
    else:
        source = torch.ones(count, dtype=torch.uint8, device=bench.device)
    timing = timed(lambda: target.copy_(source, non_blocking=True), bench.device, bench.sizes.runs)
    moved = count if from_host else 2 * count
    name = "pinned host memory to the card" if from_host else "within the card"
    return {"name": name, "runs_s": list(timing.runs), "gigabytes": moved / timing.median / 1e9}
