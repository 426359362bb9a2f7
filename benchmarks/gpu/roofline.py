"""How fast the card could do a piece of work by its measured ceilings, and where the rest of the time goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch.utils.flop_counter import FlopCounterMode

KINDS = ("attention", "matrix products", "elementwise and norms", "copies", "idle")
_NAMES = {
    "elementwise and norms": ("triton_poi", "triton_red", "triton_per"),
    "attention": ("attention", "sdpa", "flash", "fmha", "::bmm"),
    "copies": ("memcpy", "memset"),
    "matrix products": (
        *("gemm", "gemv", "nvjet", "cutlass", "cublas", "splitk", "xmma", "cudnn", "convol", "_conv2d", "_conv3d"),
        *("::mm", "::addmm"),
    ),
}
"""Parts of names of kernels, and of operations on a processor; looked for in this order, all else is elementwise."""


@dataclass(frozen=True)
class Ceilings:
    """The best that was measured, per second."""

    matmul_tflops: float
    card_gigabytes: float
    """Read and written within the card."""
    host_gigabytes: float
    """Sent to the card."""

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Self:
        """From the section `ceilings`."""
        card, host = measured["copies"]
        best = max(product["tflops"] for product in measured["products"])
        return cls(best, card["gigabytes"], host["gigabytes"])


@dataclass(frozen=True)
class Work:
    """What a piece of work takes in all."""

    attention_tflop: float
    matmul_tflop: float
    """Linear layers and convolutions."""
    gigabytes: float
    """Moved within the card, where nothing is fused."""
    sent_gigabytes: float = 0.0
    """Sent from the host."""

    @property
    def tflop(self) -> float:
        return self.attention_tflop + self.matmul_tflop


class Bound(NamedTuple):
    """The least time a piece of work takes."""

    seconds: float
    by: str


def bound(work: Work, ceilings: Ceilings) -> Bound:
    """The roofline: the longest of arithmetic, memory and the way from the host, each at its ceiling."""
    return max(
        Bound(work.tflop / ceilings.matmul_tflops, "arithmetic"),
        Bound(work.gigabytes / ceilings.card_gigabytes, "memory"),
        Bound(work.sent_gigabytes / ceilings.host_gigabytes, "the host's link"),
    )


def counted(work: Callable[[], object]) -> tuple[float, float]:
    """TFLOP of attention and of matrix products, 2 FLOP per multiply-add; on the meta device nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        work()
    attention = other = 0
    for operation, flops in counter.get_flop_counts()["Global"].items():
        if kind_of(str(operation).replace(".", "::")) == "attention":
            attention += flops
        else:
            other += flops
    return attention / 1e12, other / 1e12


def kind_of(name: str) -> str:
    """What a kernel or an operation does, by its name."""
    lowered = name.lower()
    for kind, parts in _NAMES.items():
        if any(part in lowered for part in parts):
            return kind
    return "elementwise and norms"


class Gap(NamedTuple):
    """One kind of work within a step."""

    kind: str
    seconds: float
    least: float
    """Seconds of its FLOPs at the ceiling of matrix products."""

    @property
    def lost(self) -> float:
        return self.seconds - self.least


def gaps(seconds: Mapping[str, float], work: Work, ceilings: Ceilings) -> list[Gap]:
    """Split the time of a step above its FLOPs at the ceiling by kinds.

    Only attention and matrix products have FLOPs to speak of; behind a perfect kernel all the rest disappears.
    """
    flops = {"attention": work.attention_tflop, "matrix products": work.matmul_tflop}
    return [Gap(kind, seconds.get(kind, 0.0), flops.get(kind, 0.0) / ceilings.matmul_tflops) for kind in KINDS]
