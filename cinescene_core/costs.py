"""What each stage of a shot costs: seconds and peak memory, measured while it runs."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

if sys.platform != "win32":
    import resource


@dataclass(frozen=True)
class StageCost:
    """One stage, once."""

    stage: str
    seconds: float
    peak_bytes: int | None
    """Peak memory of the card (GPU) or of the process (CPU) in this stage.

    The card's is what torch's allocator held. The process's is resident memory; macOS keeps its peak
    since the start of the process, so there no stage is below an earlier one. None where the
    system does not tell (Windows).
    """

    def __str__(self) -> str:
        memory = "" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:9,.0f} MiB"
        return f"{self.stage:<10}{self.seconds:9.2f} s {memory}"


@dataclass
class CostMeter:
    """Collects the stages of one run; `device` says whose memory counts."""

    device: torch.device
    costs: list[StageCost] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside; a stage that fails is not recorded."""
        self._forget_peak()
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.costs.append(StageCost(name, time.perf_counter() - start, self._peak_bytes()))

    def _forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.init()  # there are no peaks to forget before
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):  # Linux starts the peak of resident memory anew; others cannot
                Path("/proc/self/clear_refs").write_text("5")

    def _peak_bytes(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        if status.exists():
            peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return int(peak.split()[1]) * 1024
        if sys.platform == "darwin":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None
